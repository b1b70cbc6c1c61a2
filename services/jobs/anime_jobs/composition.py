"""What a prompt is composed of: pure, the same for the same input, always.

    prompt   = the project's prefix, its characters, the user's own words, the project's suffix
    negative = the user's own (without any: the model's), the project's, the characters', what they never have

The user's words are never changed, moved or dropped: what a project or a character says besides gives way where it
says the same, or the opposite, and a warning tells so. The words of the request count before those of a character,
and these before those of the project. A model that knows tags gets tags; one that reads prose gets sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal
from uuid import UUID

from anime_common.contracts.casting import Composition, Manner, Piece, Source, UsedCharacter
from anime_common.contracts.characters import Canon, CharacterLora, Figure, SeedPolicy
from anime_common.contracts.projects import ProjectStyle
from anime_common.messages import Model
from anime_common.prompts import tags
from anime_common.prompts.tags import Tag
from anime_common.prompts.vocabulary import Place
from anime_jobs import traits

BREAK = " BREAK "
TELLING = ("hair", "eyes", "skin", "outfit", "accessories", "traits")
"""The traits of a canon in the order in which they are told."""
MOST = 5
"""Of so many girls or boys there is a tag of its own."""


class Target(Model):
    """What a prompt is composed for. `breaks`: BREAK begins a new window of the encoder; `negative`: it takes one."""

    manner: Manner = Manner.TAGS
    breaks: bool = False
    negative: bool = True
    default_negative: str = ""


class Member(Model):
    """A character of the cast as of one version, with what the request asks of it."""

    id: UUID
    slug: str
    name: str
    version: int
    canon: Canon
    design_prompt: str = ""
    negative_prompt: str = ""
    lora: CharacterLora | None = None
    seed: SeedPolicy = SeedPolicy()
    words: str = ""
    outfit: tuple[str, ...] | None = None


class Production(Model):
    """What a job was accepted with: later changes of project and characters do not reach it."""

    style: ProjectStyle = ProjectStyle()
    project_version: int = 1
    cast: tuple[Member, ...] = ()
    target: Target | None = None


@dataclass(slots=True)
class _Page:
    """A composition in the making. `words` are drawn, `own` of them the user wrote; `spoken` are the tags of them.

    `told` is who has which trait.
    """

    words: str
    own: str
    negative: str
    production: Production
    target: Target
    parts: list[Piece] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)
    spoken: frozenset[str] = frozenset()
    told: dict[str, str] = field(default_factory=dict)

    def warn(self, field: str, text: str) -> None:
        self.warnings[f"{field}: {text}"] = None

    def add(
        self,
        source: Source,
        text: str,
        side: Literal["positive", "negative"] = "positive",
        character: str | None = None,
    ) -> str:
        """Note a part, if there is anything in it; returns its text."""
        text = text.strip().strip(",").strip()
        if text:
            self.parts.append(Piece(source=source, text=text, side=side, character=character))
        return text


@dataclass(frozen=True, slots=True)
class Composed:
    """A composition, and what became otherwise than said, for people."""

    composition: Composition
    warnings: tuple[str, ...] = ()


def compose(
    words: str, negative: str | None, production: Production, target: Target, *, own: str | None = None
) -> Composed:
    """The prompts that a model gets for a user's own words. `negative` None: the user said nothing of it.

    Where Echo has improved the words, `own` are those that the user wrote: only these push anything aside.
    """
    page = _Page(
        words.strip(), (own if own is not None else words).strip(), (negative or "").strip(), production, target
    )
    page.spoken = frozenset(chain(_plain(page.words), *(_plain(member.words) for member in production.cast)))
    prompt = _prose(page) if target.manner is Manner.PROSE else _tags(page)
    _promise(page)
    unwanted = _negative(page, said=negative is not None)
    used = [UsedCharacter(id=each.id, slug=each.slug, name=each.name, version=each.version) for each in production.cast]
    composition = Composition(
        prompt=prompt,
        negative_prompt=unwanted,
        manner=target.manner,
        parts=tuple(page.parts),
        project_version=production.project_version,
        characters=tuple(used),
    )
    return Composed(composition, tuple(page.warnings))


def _plain(text: str) -> list[str]:
    """The tags of a text that may be compared, in their usual spelling; none of prose."""
    parsed = tags.parse(text)
    if parsed is None:
        return []
    blocks = (block for section in parsed.sections for block in section if isinstance(block, tuple))
    return [tags.canonical(tag).text for block in blocks for tag in block if tag.plain]


def _tags_of(text: str) -> list[Tag] | None:
    """The tags of a text; None of one with sentences in it, or that cannot be taken apart."""
    parsed = tags.parse(text)
    if parsed is None or len(parsed.sections) > 1:
        return None
    found: list[Tag] = []
    for block in parsed.sections[0]:
        if not isinstance(block, tuple):
            return None
        found += block
    return found


def _tags(page: _Page) -> str:
    cast = page.production.cast
    prefix = _styled(page, "prompt_prefix")
    counted = _counted(page)
    members = [_join(_told(page, member)) for member in cast]
    told = [page.add(Source.CHARACTER, text, character=each.slug) for text, each in zip(members, cast, strict=True)]
    own = page.add(Source.REQUEST, page.words)
    suffix = _styled(page, "prompt_suffix")
    if len(cast) > 1 and page.target.breaks:
        sections = [_join([prefix, counted]), *told, _join([own, suffix])]
        return BREAK.join(section for section in sections if section)
    return _join([prefix, counted, *told, own, suffix])


def _join(texts: Iterable[str]) -> str:
    return ", ".join(text for text in texts if text)


def _styled(page: _Page, name: Literal["prompt_prefix", "prompt_suffix"]) -> str:
    """What the project says before or after, but for what the request or its one character says, or says otherwise."""
    text = getattr(page.production.style, name)
    found = _tags_of(text)
    if found is None:
        return page.add(Source.PROJECT, text)
    cast = page.production.cast
    said = traits.claims(", ".join([page.own, *(member.words for member in cast)]))
    if len(cast) == 1:
        said |= _claimed(said, cast[0])
    kept: list[str] = []
    for tag in found:
        if tag.plain and tags.canonical(tag).text in page.spoken:
            page.warn(f"project.style.{name}", f"{tag.text} is in your own words already")
        elif (claim := traits.contradicted(tag.text, said)) is not None:
            page.warn(f"project.style.{name}", f"{tag.text} gives way: {claim.attribute} is {claim.value}")
        else:
            kept.append(tag.text)
    return page.add(Source.PROJECT, _join(kept))


def _claimed(said: frozenset[traits.Claim], member: Member) -> frozenset[traits.Claim]:
    """What a character's canon claims of what the request leaves open."""
    taken = {claim.attribute for claim in said}
    own = traits.claims(", ".join(chain.from_iterable(getattr(member.canon, name) for name in TELLING)))
    return frozenset(claim for claim in own if claim.attribute not in taken)


def _counted(page: _Page) -> str:
    """How many girls and boys there are, as a tag; the user's own count stays alone."""
    figures = Counter(member.canon.figure for member in page.production.cast if member.canon.figure)
    text = _join(_count(figures[figure], figure) for figure in Figure if figures[figure])
    if not text:
        return ""
    own = [tag for tag in page.spoken if tags.place(Tag(tag, plain=True)) is Place.COUNT and tag != "solo"]
    if not own:
        return page.add(Source.CHARACTER, text)
    if not set(text.split(", ")) <= set(own):
        page.warn("prompt", f"your words say {_join(sorted(own))}, the characters are {text}: your words are kept")
    return ""


def _count(number: int, figure: Figure) -> str:
    if number == 1:
        return f"1{figure}"
    return f"{number}{figure}s" if number <= MOST else f"{MOST + 1}+{figure}s"


def _told(page: _Page, member: Member) -> list[str]:
    """What is told of a character, what the request asks of it last."""
    field = f"characters.{member.slug}"
    alone = len(page.production.cast) == 1
    explicit = ", ".join(filter(None, (member.words, page.own if alone else "")))
    asked, denials = traits.claims(explicit), traits.denied(explicit)
    spoken = {*_plain(member.words), *(_plain(page.words) if alone else ())}
    unwanted = set(_plain(page.negative))
    told: dict[str, str] = {}
    for trait in _traits(page, member, asked):
        key = tags.canonical(Tag(trait, plain=True)).text
        if key in spoken:
            page.warn(field, f"{trait} is in your own words already")
        elif (claim := traits.contradicted(trait, asked)) is not None:
            page.warn(field, f"{trait} gives way to your words: {claim.attribute} is {claim.value}")
        elif traits.is_denied(trait, denials) or key in unwanted:
            page.warn(field, f"{trait} gives way to your words, which do not want it")
        else:
            told.setdefault(key, trait)
    page.told |= dict.fromkeys(told, member.name)
    if not alone:
        _mind_shared(page, member)
    return [*told.values(), member.words.strip().strip(",").strip()]


def _traits(page: _Page, member: Member, asked: frozenset[traits.Claim]) -> Iterable[str]:
    """Everything that is true of a character, in order; what it wears gives way as a whole."""
    canon = member.canon
    if member.lora is not None:
        yield from (part for each in member.lora.trigger.split(",") if (part := each.strip()))
    if canon.species:
        yield canon.species
    for name in TELLING:
        if name != "outfit":
            yield from getattr(canon, name)
            continue
        yield from _worn(page, member, asked)
    yield from (f"{each.name} {each.part}" for each in canon.key_colours)
    yield from _designed(member.design_prompt)


def _designed(text: str) -> Iterable[str]:
    """A design prompt, taken apart where it is tags; of anything else as it is."""
    found = _tags_of(text)
    if found is None:
        return [text.strip()] if text.strip() else []
    return [tag.text for tag in found]


def _worn(page: _Page, member: Member, asked: frozenset[traits.Claim]) -> tuple[str, ...]:
    if member.outfit is not None:
        return member.outfit
    canon = member.canon.outfit
    wanted = {claim.value for claim in asked if claim.attribute == "outfit"}
    own = {claim.value for trait in canon for claim in traits.claims(trait) if claim.attribute == "outfit"}
    if not (wanted and own) or wanted & own:
        return canon
    text = f"{_join(canon)} gives way to your words: outfit is {min(wanted)}"
    page.warn(f"characters.{member.slug}", text)
    return ()


def _mind_shared(page: _Page, member: Member) -> None:
    """Words for the whole picture that speak of looks: whose they are, nobody can tell."""
    said = traits.claims(page.own)
    for name in TELLING:
        for trait in getattr(member.canon, name):
            claim = traits.contradicted(trait, said)
            if claim is not None:
                text = f"your words say {claim.attribute} {claim.value} of nobody by name; {member.name} keeps {trait}"
                page.warn("prompt", f"{text}: say it in the words of a character")


def _promise(page: _Page) -> None:
    """Say what several characters in one picture can not be promised."""
    cast = page.production.cast
    if len(cast) < 2:
        return
    number = len(cast)
    if page.target.manner is Manner.PROSE:
        text = f"{number} characters are told one after another: their traits may still mix"
    elif page.target.breaks:
        text = f"{number} characters have a window of the encoder each, which keeps their words apart, not their places"
    else:
        text = f"{number} characters are read by this model as one text: their traits may mix"
    page.warn("characters", text)
    if sum(member.lora is not None for member in cast) > 1:
        page.warn("characters", "the LoRA of each acts on the whole picture")


def _prose(page: _Page) -> str:
    style, cast = page.production.style, page.production.cast
    texts = [page.add(Source.PROJECT, style.prompt_prefix)]
    texts += [page.add(Source.CHARACTER, _sentence(page, each), character=each.slug) for each in cast]
    texts += [page.add(Source.REQUEST, page.words), page.add(Source.PROJECT, style.prompt_suffix)]
    return " ".join(text if text[-1] in ".!?。" else f"{text}." for text in texts if text)


def _sentence(page: _Page, member: Member) -> str:
    """Who somebody is and what they look like, in sentences."""
    told = _told(page, member)
    words, left = told[-1], told[:-1]
    worn = [each for each in left if each in {*member.canon.outfit, *(member.outfit or ())}]
    canon = member.canon
    trigger = list(filter(None, (each.strip() for each in (member.lora.trigger if member.lora else "").split(","))))
    looks = [each for each in left if each not in worn and each != canon.species and each not in trigger]
    who = " ".join(filter(None, (canon.species, "" if canon.figure in {None, Figure.OTHER} else canon.figure)))
    text = _join([*trigger, member.name])
    if who:
        text += f" is {'an' if who[0].lower() in 'aeiou' else 'a'} {who}"
    if looks:
        text += f" with {_and(looks)}" if who else f" has {_and(looks)}"
    if worn:
        text += f", wearing {_and(worn)}" if who or looks else f" wears {_and(worn)}"
    return f"{text}, {words}" if words else text


def _and(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _negative(page: _Page, *, said: bool) -> str:
    style, cast = page.production.style, page.production.cast
    if said:
        own = page.add(Source.REQUEST, page.negative, "negative")
    elif style.negative_prompt is None:
        own = page.add(Source.MODEL, page.target.default_negative, "negative")
    else:
        own = ""
    more: list[tuple[Source, str | None, str]] = [(Source.PROJECT, None, style.negative_prompt or "")]
    for member in cast:
        more += [
            (Source.CHARACTER, member.slug, member.negative_prompt),
            (Source.CHARACTER, member.slug, _join(member.canon.never)),
        ]
    if not page.target.negative:
        if any(text for _, _, text in more):
            page.warn("negative_prompt", "the model takes none: what must not appear cannot be promised")
        return own
    positive = _join([page.own, *(member.words for member in cast)])
    taken = set(_plain(own))
    texts = [own]
    for source, who, text in more:
        kept = [each for each in _designed(text) if _wanted_gone(page, each, who, positive, taken)]
        texts.append(page.add(source, _join(kept), "negative", who))
    return _join(texts)


def _wanted_gone(page: _Page, text: str, who: str | None, positive: str, taken: set[str]) -> bool:
    """Whether something is to go into the negative prompt: not there yet, and nobody has it."""
    key = tags.canonical(Tag(text, plain=True)).text
    if key in taken:
        return False
    field = f"characters.{who}" if who else "project"
    if traits.says(positive, text) and not traits.is_denied(text, traits.denied(positive)):
        page.warn(field, f"{text} must not appear, but your words ask for it: it is kept")
        return False
    if key in page.told:
        page.warn(field, f"{text} must not appear, but {page.told[key]} has it: that cannot be promised")
        return False
    taken.add(key)
    return True
