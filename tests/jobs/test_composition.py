"""What prompts are composed of: the order, who gives way to whom, and what is told of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.casting import Manner, Source
from anime_common.contracts.characters import Canon, CharacterLora
from anime_common.contracts.projects import ProjectStyle
from anime_jobs.composition import Composed, Member, Production, Target, compose

TAGS = Target()
WINDOWS = Target(breaks=True)
PROSE = Target(manner=Manner.PROSE)


def member(name: str = "Yuki", *, words: str = "", **fields: Any) -> Member:
    canon = {key: fields.pop(key) for key in list(fields) if key in Canon.model_fields}
    return Member(
        id=UUID(int=sum(name.encode())),
        slug=name.lower(),
        name=name,
        version=1,
        canon=Canon.model_validate(canon),
        words=words,
        **fields,
    )


def composed(words: str, *cast: Member, negative: str | None = None, target: Target = TAGS, **style: Any) -> Composed:
    return compose(words, negative, Production(style=ProjectStyle(**style), cast=cast), target)


def prompt(words: str, *cast: Member, target: Target = TAGS, **style: Any) -> str:
    return composed(words, *cast, target=target, **style).composition.prompt


YUKI = member(figure="girl", hair="long hair, silver hair", eyes="red eyes", outfit="school uniform")
MIO = member("Mio", figure="girl", species="elf", hair="short hair, blonde hair", outfit="green dress")


class TestOrder:
    def test_the_words_of_a_request_alone_stay_as_they_are(self) -> None:
        for words in ("1girl, blue hair", "A girl, by the sea.", "(a:1.3), [b], <lora:x:1>, c BREAK d", "unclosed ("):
            found = composed(words)
            assert (found.composition.prompt, found.warnings) == (words, ())

    def test_prefix_characters_words_suffix(self) -> None:
        found = composed("smile, classroom", YUKI, prompt_prefix="anime screencap", prompt_suffix="soft lighting")
        assert found.composition.prompt == (
            "anime screencap, 1girl, long hair, silver hair, red eyes, school uniform, smile, classroom, soft lighting"
        )
        assert found.warnings == ()
        assert [(part.source, part.character) for part in found.composition.parts] == [
            (Source.PROJECT, None),
            (Source.CHARACTER, None),
            (Source.CHARACTER, "yuki"),
            (Source.REQUEST, None),
            (Source.PROJECT, None),
        ]

    def test_a_character_is_told_in_one_order(self) -> None:
        everything = member(
            species="elf",
            hair="a hair",
            eyes="b eyes",
            skin="c skin",
            outfit="d coat",
            accessories="e hat",
            traits="f",
            key_colours=[{"part": "scarf", "name": "teal", "hex": "#008080"}],
            design_prompt="g, (h:1.2)",
            lora=CharacterLora(key="l", trigger="t1, t2"),
            words="pointing",
        )
        told = "t1, t2, elf, a hair, b eyes, c skin, d coat, e hat, f, teal scarf, g, (h:1.2), pointing, smile"
        assert prompt("smile", everything) == told

    def test_a_design_prompt_in_sentences_stays_whole(self) -> None:
        design = "She has a long silver braid, and walks with a limp."
        assert prompt("smile", member(design_prompt=design)) == f"{design}, smile"


class TestTheUsersWordsWin:
    @pytest.mark.parametrize(
        ("words", "gone", "why"),
        [
            ("blue hair, smile", "silver hair", "hair colour is blue"),
            ("(blue hair:1.3)", "silver hair", "hair colour is blue"),
            ("her hair is black", "silver hair", "hair colour is black"),
            ("short hair", "long hair", "hair length is short"),
            ("green eyes", "red eyes", "eye colour is green"),
            ("wearing a red kimono", "school uniform", "outfit is kimono"),
            ("no school uniform", "school uniform", "do not want it"),
            ("red eyes", "red eyes", "already"),
        ],
    )
    def test_over_a_character(self, words: str, gone: str, why: str) -> None:
        found = composed(words, YUKI)
        told = next(part.text for part in found.composition.parts if part.character == "yuki")
        assert gone not in told.split(", ")
        (warning,) = found.warnings
        assert warning.startswith("characters.yuki: ")
        assert why in warning
        assert words in found.composition.prompt

    @pytest.mark.parametrize(
        "words",
        ["silver hair ribbon", "blue dress", "blue sky", "red lips", "hair blowing in the wind", "dark hair"],
    )
    def test_where_nothing_is_contradicted_nothing_gives_way(self, words: str) -> None:
        found = composed(words, member(hair="silver hair, long hair", eyes="red eyes", accessories="red hair ribbon"))
        told = next(part.text for part in found.composition.parts if part.character == "yuki")
        assert {"silver hair", "long hair", "red eyes"} <= set(told.split(", "))

    def test_over_a_project(self) -> None:
        found = composed("red dress, classroom", prompt_prefix="blue dress, anime", prompt_suffix="classroom, night")
        assert found.composition.prompt == "anime, red dress, classroom, night"
        assert [warning.partition(":")[0] for warning in found.warnings] == [
            "project.style.prompt_prefix",
            "project.style.prompt_suffix",
        ]

    def test_a_character_over_its_project(self) -> None:
        assert prompt("smile", YUKI, prompt_prefix="blonde hair, anime").startswith("anime, 1girl, long hair")

    def test_a_prefix_in_sentences_is_never_taken_apart(self) -> None:
        said = "A still of a film, in which she wears a blue dress."
        assert prompt("red dress", prompt_prefix=said) == f"{said}, red dress"

    def test_what_a_negative_prompt_names_is_not_told(self) -> None:
        found = composed("smile", YUKI, negative="red eyes")
        assert "red eyes" not in found.composition.prompt
        assert found.composition.negative_prompt == "red eyes"

    def test_an_outfit_for_this_picture_replaces_that_of_the_canon(self) -> None:
        found = composed("smile", YUKI.model_copy(update={"outfit": ("white dress", "straw hat")}))
        assert found.composition.prompt.endswith("red eyes, white dress, straw hat, smile")
        assert found.warnings == ()

    def test_a_count_of_the_user_stays_alone(self) -> None:
        assert prompt("1girl, smile", YUKI).count("1girl") == 1
        found = composed("solo, 1girl", YUKI, MIO)
        assert "2girls" not in found.composition.prompt
        assert "1girl, the characters are 2girls" in found.warnings[0]


class TestSeveralCharacters:
    def test_each_has_a_window_where_the_model_reads_so(self) -> None:
        found = composed(
            "park", YUKI, MIO.model_copy(update={"words": "waving"}), target=WINDOWS, prompt_prefix="anime"
        )
        assert found.composition.prompt == (
            "anime, 2girls BREAK long hair, silver hair, red eyes, school uniform"
            " BREAK elf, short hair, blonde hair, green dress, waving BREAK park"
        )
        assert len(found.warnings) == 1
        assert "a window of the encoder each, which keeps their words apart, not their places" in found.warnings[0]

    def test_elsewhere_it_says_that_traits_may_mix(self) -> None:
        found = composed("park", YUKI, MIO)
        assert "BREAK" not in found.composition.prompt
        assert "may mix" in found.warnings[-1]

    def test_words_about_one_change_nobody_else(self) -> None:
        mio = MIO.model_copy(update={"words": "red hair"})
        told = {part.character: part.text for part in composed("park", YUKI, mio).composition.parts}
        assert "silver hair" in told["yuki"]
        assert told["mio"] == "elf, short hair, green dress, red hair"

    def test_words_about_nobody_by_name_change_nobody_and_are_told(self) -> None:
        found = composed("red hair", YUKI, MIO)
        assert "silver hair" in found.composition.prompt
        assert "blonde hair" in found.composition.prompt
        assert sum("of nobody by name" in warning for warning in found.warnings) == 2

    def test_they_are_counted(self) -> None:
        boy = member("Ren", figure="boy")
        assert prompt("park", YUKI, MIO, boy).startswith("2girls, 1boy, ")
        assert prompt("park", *(member(f"G{number}", figure="girl") for number in range(7))) == "6+girls, park"

    def test_two_loras_are_no_safe_thing(self) -> None:
        cast = [each.model_copy(update={"lora": CharacterLora(key="k")}) for each in (YUKI, MIO)]
        assert "characters: the LoRA of each acts on the whole picture" in composed("park", *cast).warnings


class TestProse:
    def test_characters_are_told_in_sentences(self) -> None:
        found = prompt("They walk home.", YUKI, MIO, target=PROSE, prompt_prefix="An anime still")
        assert found == (
            "An anime still. Yuki is a girl with long hair, silver hair and red eyes, wearing school uniform."
            " Mio is an elf girl with short hair and blonde hair, wearing green dress. They walk home."
        )

    def test_without_a_figure_and_with_words_of_its_own(self) -> None:
        ren = member("Ren", hair="black hair", words="holding a book", lora=CharacterLora(key="l", trigger="ren-v2"))
        assert prompt("Night.", ren, target=PROSE) == "ren-v2, Ren has black hair, holding a book. Night."
        assert prompt("Night.", member("Ren"), target=PROSE) == "Ren. Night."


class TestNegative:
    def test_the_models_own_stands_in_where_nobody_says_anything(self) -> None:
        target = Target(default_negative="lowres")
        assert composed("x", target=target).composition.negative_prompt == "lowres"
        assert composed("x", target=target, negative="").composition.negative_prompt == ""
        assert composed("x", target=target, negative_prompt="blurry").composition.negative_prompt == "blurry"

    def test_the_users_the_projects_the_characters_and_what_never_appears(self) -> None:
        yuki = member(negative_prompt="extra fingers, blurry", never="hat, glasses")
        found = composed("smile", yuki, negative="lowres", negative_prompt="blurry, text").composition
        assert found.negative_prompt == "lowres, blurry, text, extra fingers, hat, glasses"

    def test_what_the_user_asks_for_may_appear(self) -> None:
        yuki = member(never="hat, glasses")
        found = composed("smile, straw hat", yuki)
        assert found.composition.negative_prompt == "glasses"
        assert found.warnings == ("characters.yuki: hat must not appear, but your words ask for it: it is kept",)
        assert composed("no hat", yuki).composition.negative_prompt == "hat, glasses"

    def test_what_one_never_has_and_another_has_cannot_be_promised(self) -> None:
        found = composed("park", member(never="glasses"), member("Mio", accessories="glasses"))
        assert found.composition.negative_prompt == ""
        assert "characters.yuki: glasses must not appear, but Mio has it: that cannot be promised" in found.warnings

    def test_a_model_that_takes_none_gets_none(self) -> None:
        found = composed("x", member(never="hat"), target=Target(negative=False))
        assert found.composition.negative_prompt == ""
        assert found.warnings == ("negative_prompt: the model takes none: what must not appear cannot be promised",)


WORDS = st.lists(
    st.sampled_from(
        [
            *("1girl", "2girls", "blue hair", "red eyes", "(smile:1.2)", "no hat", "kimono", "hat", "classroom"),
            *("BREAK", "A girl by the sea.", "[x|y]", "unclosed (", "、", "夜空", "score_9", '"quoted'),
        ]
    ),
    max_size=6,
).map(", ".join)
TRAITS = st.lists(
    st.sampled_from(["blue hair", "silver hair", "long hair", "red eyes", "hat", "school uniform", "glasses"]),
    max_size=4,
    unique=True,
)
MEMBERS = st.builds(
    lambda name, traits, never, words: member(name, figure="girl", traits=traits, never=never, words=words),
    *(st.sampled_from(["Yuki", "Mio", "Ren"]), TRAITS, TRAITS, WORDS.filter(lambda text: len(text) < 200)),
)
TARGETS = st.builds(Target, manner=st.sampled_from(Manner), breaks=st.booleans(), negative=st.booleans())


@given(words=WORDS, negative=st.none() | WORDS, cast=st.lists(MEMBERS, max_size=3), prefix=WORDS, target=TARGETS)
def test_whatever_is_composed(
    words: str, negative: str | None, cast: list[Member], prefix: str, target: Target
) -> None:
    production = Production(style=ProjectStyle(prompt_prefix=prefix), cast=tuple(cast))
    found = compose(words, negative, production, target)
    made = found.composition
    assert words.strip().strip(",").strip() in made.prompt, "the user's words are never changed"
    if negative:
        assert made.negative_prompt.startswith(negative.strip().strip(",").strip())
    assert found == compose(words, negative, production, target), "the same for the same input"
    for part in made.parts:
        assert part.text in (made.prompt if part.side == "positive" else made.negative_prompt)
    assert [used.slug for used in made.characters] == [each.slug for each in cast]
