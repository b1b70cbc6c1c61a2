"""What is known of the words of anime prompts: spellings, and where a tag belongs.

Canonical tags are those of Danbooru, which anime models are trained on (https://danbooru.donmai.us/wiki_pages/tag_groups).
The tables change spellings, never meanings: "crimson eyes" stays, though a tag for "red eyes" exists.
"""

from __future__ import annotations

from enum import IntEnum


class Place(IntEnum):
    """Where a tag stands in a prompt, first to last: what comes early weighs more."""

    SCORE = 0
    COUNT = 1
    CHARACTER = 2
    HAIR = 3
    EYES = 4
    BODY = 5
    CLOTHES = 6
    ACCESSORY = 7
    EXPRESSION = 8
    POSE = 9
    SCENE = 10
    CAMERA = 11
    STYLE = 12
    QUALITY = 13
    NETWORK = 14


WHOLE_TAGS = {
    "girl": "1girl",
    "a girl": "1girl",
    "one girl": "1girl",
    "two girls": "2girls",
    "three girls": "3girls",
    "boy": "1boy",
    "a boy": "1boy",
    "one boy": "1boy",
    "two boys": "2boys",
    "three boys": "3boys",
    "smiling": "smile",
    "blushing": "blush",
    "eyes closed": "closed eyes",
    "mouth open": "open mouth",
    "cat ear": "cat ears",
    "nekomimi": "cat ears",
    "spectacles": "glasses",
    "flower in hair": "hair flower",
    "bob haircut": "bob cut",
    "bobbed hair": "bob cut",
    "spiked hair": "spiky hair",
    "tanned skin": "tan skin",
    "sailor uniform": "serafuku",
    "business suit": "suit",
    "looking at camera": "looking at viewer",
    "looking at the camera": "looking at viewer",
    "looking at the viewer": "looking at viewer",
    "closeup": "close-up",
    "close up": "close-up",
    "full-body": "full body",
    "upper-body": "upper body",
    "night-sky": "night sky",
    "no human": "no humans",
    "high res": "highres",
    "hi-res": "highres",
    "masterpeice": "masterpiece",
}
"""Other ways to write a tag, when they are the whole tag."""

PHRASES = {
    "twin tails": "twintails",
    "twin tail": "twintails",
    "twin-tails": "twintails",
    "twintail": "twintails",
    "pony tail": "ponytail",
    "pony-tail": "ponytail",
    "blond": "blonde",
    "gray": "grey",
    "armour": "armor",
    "cherry blossom": "cherry blossoms",
    "head phones": "headphones",
}
"""Other ways to write a part of a tag."""

LAST_WORDS: dict[Place, str] = {
    Place.HAIR: "hair bangs twintails ponytail braid braids ahoge bun buns sidelocks pigtails drills hairstyle cut",
    Place.EYES: "eyes eye pupils heterochromia eyelashes",
    Place.BODY: "skin ears tail wings horns fang fangs freckles mole scar tattoo breasts muscular",
    Place.CLOTHES: (
        "dress uniform serafuku shirt skirt hoodie kimono yukata armor suit sweater turtleneck jacket coat cape cloak"
        " robe pants shorts jeans swimsuit bikini leotard apron vest blouse cardigan pajamas gloves boots shoes socks"
        " thighhighs pantyhose sleeves collar necktie bowtie scarf clothes outfit"
    ),
    Place.ACCESSORY: (
        "glasses ribbon bow hat cap crown tiara headband hairband hairclip ornament flower headphones headset mask"
        " earrings necklace choker bracelet ring sword katana staff gun umbrella bag backpack book"
    ),
    Place.EXPRESSION: (
        "smile grin blush frown expressionless expression pout crying tears laughing happy sad angry surprised shocked"
        " embarrassed serious wink mouth closed smirk"
    ),
    Place.POSE: "viewer pose back hip hips v salute up sitting standing",
    Place.SCENE: (
        "sky background clouds sunset sunrise dusk evening night day classroom school forest trees ocean sea beach city"
        " street tree room bedroom kitchen library park garden mountain river snow rain indoors outdoors blossoms"
        " petals moon stars window field scenery"
    ),
    Place.CAMERA: "shot close-up portrait body angle view above below behind focus profile",
    Place.STYLE: (
        "style lighting light shading lineart sketch anime realistic monochrome watercolor painting illustration"
    ),
    Place.QUALITY: "quality masterpiece highres absurdres detailed 4k 8k hd resolution",
}
"""The last word of a tag tells most often where it belongs: a "hair ribbon" is a ribbon."""

FIRST_WORDS: dict[Place, str] = {
    Place.POSE: (
        "looking holding standing sitting lying walking running jumping leaning kneeling crouching reaching waving"
        " arms arm hand hands facing eating drinking sleeping reading playing fighting dancing flying"
    ),
    Place.CAMERA: "from",
}
"""The first word of a tag, where the last one says nothing."""

COUNTS = frozenset({"solo", "no humans", "multiple girls", "multiple boys", "couple", "group", "duo", "trio"})

KEPT_PREFIXES = ("score_", "rating_", "source_")
"""Tags of the Pony family, which are written with their underscores."""
