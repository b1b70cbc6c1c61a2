"""What a picture can show, and the words for it: attributes, tags with synonyms, captions."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Sequence

#: attribute → value → its tags; the first tag is the canonical one.
TAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {"girl": ("1girl", "girl", "a girl", "woman"), "boy": ("1boy", "boy", "a boy", "man")},
    "hair": {
        "black": ("black hair", "dark hair"),
        "brown": ("brown hair", "brunette"),
        "blonde": ("blonde hair", "blond hair", "golden hair", "yellow hair"),
        "red": ("red hair", "redhead", "crimson hair"),
        "pink": ("pink hair",),
        "blue": ("blue hair", "azure hair"),
        "green": ("green hair",),
        "purple": ("purple hair", "violet hair"),
        "silver": ("silver hair", "white hair", "grey hair"),
        "orange": ("orange hair", "ginger hair"),
    },
    "style": {
        "bob": ("bob cut", "short hair", "bobbed hair"),
        "long": ("long hair", "straight hair", "very long hair"),
        "twintails": ("twintails", "twin tails", "pigtails"),
        "ponytail": ("ponytail", "high ponytail"),
        "spiky": ("spiky hair", "spiked hair", "messy hair"),
        "wavy": ("wavy hair", "curly hair"),
        "buns": ("double bun", "hair bun", "hair buns"),
    },
    "bangs": {"blunt": ("blunt bangs",), "parted": ("parted bangs",)},
    "eyes": {
        "blue": ("blue eyes", "azure eyes"),
        "green": ("green eyes", "emerald eyes"),
        "red": ("red eyes", "crimson eyes"),
        "brown": ("brown eyes",),
        "purple": ("purple eyes", "violet eyes"),
        "yellow": ("yellow eyes", "golden eyes", "amber eyes"),
        "pink": ("pink eyes",),
    },
    "expression": {
        "smile": ("smile", "smiling", "light smile"),
        "open": ("open mouth", "laughing", "happy"),
        "neutral": ("expressionless", "neutral expression", "serious"),
        "closed": ("closed eyes", "eyes closed"),
        "angry": ("angry", "frown"),
        "surprised": ("surprised", "shocked"),
        "sad": ("sad", "crying", "tears"),
        "wink": ("one eye closed", "wink"),
    },
    "skin": {
        "fair": ("fair skin", "pale skin"),
        "tan": ("tan", "tanned skin", "tan skin"),
        "dark": ("dark skin", "dark-skinned"),
    },
    "outfit": {
        "uniform": ("school uniform", "serafuku", "sailor uniform"),
        "hoodie": ("hoodie",),
        "kimono": ("kimono", "yukata"),
        "armor": ("armor", "knight", "armour"),
        "dress": ("dress",),
        "suit": ("suit", "business suit"),
        "sweater": ("sweater", "turtleneck"),
    },
    "cloth": {name: (name,) for name in ("red", "blue", "green", "yellow", "pink", "purple", "black", "white")},
    "scene": {
        "blue sky": ("blue sky", "day sky", "clouds"),
        "night sky": ("night sky", "starry sky", "night"),
        "sunset": ("sunset", "dusk", "evening"),
        "cherry blossoms": ("cherry blossoms", "sakura"),
        "classroom": ("classroom", "school"),
        "forest": ("forest", "trees"),
        "ocean": ("ocean", "beach", "sea"),
        "white background": ("white background", "simple background"),
        "pink background": ("pink background",),
        "blue background": ("blue background",),
        "yellow background": ("yellow background",),
        "grey background": ("grey background", "gray background"),
    },
}

#: what may be worn on the head → its tags. Colours are the renderer's choice, one for each.
ACCESSORIES: dict[str, tuple[str, ...]] = {
    "glasses": ("glasses", "spectacles"),
    "cat ears": ("cat ears", "animal ears", "nekomimi"),
    "ribbon": ("hair ribbon", "ribbon", "hair bow"),
    "hat": ("hat",),
    "headphones": ("headphones", "headset"),
    "flower": ("hair flower", "flower in hair"),
}

GOOD = ("masterpiece", "best quality", "anime", "highly detailed", "anime style", "portrait")
BAD = ("low quality", "blurry", "worst quality", "bad quality")
FRAMING = ("solo", "looking at viewer", "upper body")

#: What a hat leaves no room for.
UNDER_A_HAT = frozenset({"cat ears", "headphones", "ribbon"})
#: One in this many combinations is never trained on.
HOLD_OUT = 20

_GIRL_STYLES = (1.1, 1.3, 1.2, 1.1, 0.35, 1.1, 0.8)
_BOY_STYLES = (1.3, 0.5, 0.05, 0.5, 2.2, 0.35, 0.05)
_GIRL_OUTFITS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_BOY_OUTFITS = (0.7, 1.0, 0.8, 1.1, 0.1, 1.3, 1.0)
_SKINS = (0.7, 0.15, 0.15)
_SCENES = (1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.6, 0.7, 0.7, 0.7, 0.7)


@dataclasses.dataclass(frozen=True)
class Character:
    """One picture's attributes: keys of `TAGS`, and of `ACCESSORIES`."""

    gender: str = "girl"
    hair: str = "blue"
    style: str = "long"
    bangs: str = "blunt"
    eyes: str = "blue"
    expression: str = "smile"
    skin: str = "fair"
    outfit: str = "uniform"
    cloth: str = "blue"
    scene: str = "white background"
    accessories: tuple[str, ...] = ()
    blush: bool = False
    degraded: bool = False

    @property
    def eyes_show(self) -> bool:
        """Whether the colour of the eyes can be seen."""
        return self.expression != "closed"


@dataclasses.dataclass(frozen=True)
class CaptionStyle:
    """How captions vary; the default is a caption as people would write it, `FULL` says everything."""

    drop: float = 0.05
    empty: float = 0.08
    synonyms: float = 0.35
    extras: float = 0.3
    shuffle: bool = True


FULL = CaptionStyle(drop=0.0, empty=0.0, synonyms=0.0, extras=0.0, shuffle=False)


def held_out(character: Character) -> bool:
    """Whether this combination is kept for evaluation."""
    one = character
    key = f"{one.hair}|{one.style}|{one.eyes}|{one.expression}|{one.outfit}|{one.scene}"
    return zlib.crc32(key.encode()) % HOLD_OUT == 0


def sample(rng: random.Random, *, hold_out: bool = False, degraded: float = 0.0) -> Character:
    """A random character, from the held-out combinations or from all others."""
    while True:
        character = _draw(rng, degraded)
        if held_out(character) == hold_out:
            return character


def _draw(rng: random.Random, degraded: float) -> Character:
    girl = rng.random() < 0.65

    def choose(attribute: str, weights: Sequence[float] | None = None) -> str:
        return rng.choices(tuple(TAGS[attribute]), weights)[0]

    return Character(
        gender="girl" if girl else "boy",
        hair=choose("hair"),
        style=choose("style", _GIRL_STYLES if girl else _BOY_STYLES),
        bangs=choose("bangs"),
        eyes=choose("eyes"),
        expression=choose("expression"),
        skin=choose("skin", _SKINS),
        outfit=choose("outfit", _GIRL_OUTFITS if girl else _BOY_OUTFITS),
        cloth=choose("cloth"),
        scene=choose("scene", _SCENES),
        accessories=_draw_accessories(rng),
        blush=rng.random() < 0.2,
        degraded=rng.random() < degraded,
    )


def _draw_accessories(rng: random.Random) -> tuple[str, ...]:
    chosen = set(rng.sample(tuple(ACCESSORIES), rng.choices((0, 1, 2), (0.25, 0.5, 0.25))[0]))
    if "hat" in chosen:
        chosen -= UNDER_A_HAT
    if "ribbon" in chosen:
        chosen.discard("headphones")
    return tuple(name for name in ACCESSORIES if name in chosen)


def _word(rng: random.Random, tags: tuple[str, ...], style: CaptionStyle) -> str:
    return rng.choice(tags) if rng.random() < style.synonyms else tags[0]


def _attribute_tags(character: Character, rng: random.Random, style: CaptionStyle) -> list[str]:
    """The tags of all attributes, those that are left out excepted; who it is comes first."""
    tags: list[str] = []

    def add(attribute: str, drop: float = style.drop) -> None:
        if rng.random() >= drop:
            tags.append(_word(rng, TAGS[attribute][getattr(character, attribute)], style))

    for attribute in ("gender", "hair", "style"):
        add(attribute)
    if character.eyes_show:
        add("eyes")
    add("expression")
    if rng.random() >= style.drop:
        worn = _word(rng, TAGS["outfit"][character.outfit], style)
        tags.append(worn if rng.random() < style.drop else f"{character.cloth} {worn}")
    tags += [_word(rng, ACCESSORIES[name], style) for name in character.accessories if rng.random() >= style.drop]
    add("scene")
    add("skin", style.drop if character.skin != "fair" else 0.7 if style.shuffle else 0.0)
    add("bangs", 0.4 if style.shuffle else 0.0)
    if character.blush and rng.random() >= style.drop:
        tags.append("blush")
    return tags


def caption(character: Character, rng: random.Random, style: CaptionStyle = CaptionStyle()) -> str:
    """A caption: tags between commas; now and then none at all, which guidance needs."""
    if rng.random() < style.empty:
        return ""
    tags = _attribute_tags(character, rng, style)
    if character.degraded:
        tags += rng.sample(BAD, rng.randint(1, 3))
    elif rng.random() < style.extras:
        tags += rng.sample(GOOD, rng.randint(1, 2))
    if rng.random() < style.extras:
        tags.append(rng.choice(FRAMING))
    if style.shuffle:
        first = tags[:1] if rng.random() < 0.5 else []
        rest = tags[len(first) :]
        rng.shuffle(rest)
        tags = first + rest
    return ", ".join(tags)


def prompt(character: Character) -> str:
    """The one caption that says everything in canonical words."""
    return caption(character, random.Random(0), FULL)


def all_tags() -> list[str]:
    """Every tag that a prompt may use, canonical ones first; the colours of clothes stand by themselves."""
    groups = [list(values.values()) for values in (*TAGS.values(), ACCESSORIES)]
    first = [words[0] for group in groups for words in group]
    synonyms = [word for group in groups for words in group for word in words[1:]]
    return list(dict.fromkeys([*first, "blush", *synonyms, *GOOD, *BAD, *FRAMING]))


def phrases() -> list[str]:
    """Every tag of more than one word or with anything but letters: what the tokenizer keeps whole.

    The colour of clothes stays a word of its own: "red hoodie" is two tokens, so a colour is learnt on every outfit.
    """
    tags = {tag for values in (*TAGS.values(), ACCESSORIES) for words in values.values() for tag in words}
    tags |= {*GOOD, *BAD, *FRAMING, "blush"}
    return sorted(tag for tag in tags if not tag.isalpha())
