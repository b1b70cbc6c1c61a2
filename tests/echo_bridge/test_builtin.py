"""The builtin optimiser: what it does, and that it never drops a word, whatever the prompt."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import printable
from anime_common.prompts import tags
from anime_common.prompts.tags import Prompt, Tag, canonical
from anime_common.prompts.vocabulary import FIRST_WORDS, LAST_WORDS, PHRASES, WHOLE_TAGS
from anime_echo_bridge.builtin import MAX_LENGTH, optimize
from anime_echo_bridge.families import ANIME, FAMILIES
from anime_echo_bridge.validation import validate


def plain(prompt: str) -> str:
    """The prompt of a family that gets no additions."""
    return optimize(prompt, "", "flux").prompt


class TestTags:
    @pytest.mark.parametrize(
        ("prompt", "wanted"),
        [
            ("Blue_Hair", "blue hair"),
            ("1girl,blue   hair ,, smile,", "1girl, blue hair, smile"),
            ("a girl, twin tails, blond hair", "1girl, twintails, blonde hair"),
            ("2 girls, 1 boy", "2girls, 1boy"),
            ("6+girls", "6+girls"),
            ("o_o, score_9, rating_safe", "score_9, rating_safe, o_o"),
            ("gray_background", "grey background"),
            ("smile、blue hair，1girl", "1girl, blue hair, smile"),  # noqa: RUF001 - as typed
            ("hatsune miku", "hatsune miku"),
        ],
    )
    def test_spelling(self, prompt: str, wanted: str) -> None:
        assert plain(prompt) == wanted

    def test_order(self) -> None:
        prompt = "masterpiece, night sky, smile, hair ribbon, red dress, green eyes, long hair, asuka, 1girl, standing"
        assert plain(prompt) == (
            "1girl, asuka, long hair, green eyes, red dress, hair ribbon, smile, standing, night sky, masterpiece"
        )

    def test_repeats_are_merged_in_their_usual_spelling(self) -> None:
        found = optimize("girl, 1girl, smile, Smile, smiling", "", "flux")
        assert found.prompt == "1girl, smile"
        assert [change.kind for change in found.changes].count("deduplicated") == 3

    @pytest.mark.parametrize(
        "prompt",
        [
            "(Blue_Hair:1.2)",
            "[Night_Sky]",
            "<lora:My_Style:0.8>",
            'sign with "Hello, World"',
            "fate \\(Series\\)",
            "re:Zero",
            "青い髪",
            "{a|b}",
            "(blue hair, Red_Eyes:1.3)",
        ],
    )
    def test_what_is_written_with_care_stays_as_it_is(self, prompt: str) -> None:
        assert plain(prompt) == prompt

    def test_weighted_tags_take_their_place(self) -> None:
        assert plain("smile, (blue hair:1.2), <lora:x:1>, 1girl") == "1girl, (blue hair:1.2), smile, <lora:x:1>"

    def test_sections_are_ordered_each_for_itself(self) -> None:
        assert plain("smile, 1girl BREAK sky, 1boy") == "1girl, smile BREAK 1boy, sky"

    def test_prose_is_kept_where_it_is(self) -> None:
        prose = "A girl stands in the rain, holding Her_Umbrella. She smiles."
        assert plain(f"Smile, 1girl\n{prose}\nsky, Blue_Hair") == f"1girl, smile\n{prose}\nblue hair, sky"

    def test_a_phrase_among_tags_is_kept_as_a_tag(self) -> None:
        assert plain("Smile, 1girl, Hair blowing in the Wind") == "1girl, Hair blowing in the Wind, smile"

    @pytest.mark.parametrize(
        "prompt", ["(blue hair, Smile", "Smile)", "6'2\" tall, Smile", "<lora:x, Smile", "Smile\\"]
    )
    def test_what_is_not_closed_is_left_alone(self, prompt: str) -> None:
        found = optimize(prompt)
        assert found.prompt == prompt
        assert [change.kind for change in found.changes][:1] == ["kept"]


class TestAdditions:
    def test_quality_tags_of_the_family(self) -> None:
        assert optimize("1girl").prompt == "1girl, masterpiece, best quality"
        assert optimize("1girl", "", "sprite").prompt == "1girl, masterpiece, best quality"
        assert optimize("1girl", "", "Pony-XL").prompt == "score_9, score_8_up, score_7_up, 1girl"

    def test_what_is_there_is_not_added(self) -> None:
        assert optimize("(masterpiece:1.1), 1girl").prompt == "1girl, (masterpiece:1.1), best quality"

    def test_nothing_is_added_against_the_wish(self) -> None:
        assert optimize("sketch, 1girl").prompt == "1girl, sketch"

    def test_a_long_prompt_gets_no_more(self) -> None:
        prompt = ", ".join(f"thing{number}" for number in range(36))
        assert optimize(prompt, "", "sprite").prompt == prompt

    def test_prose_gets_a_line_of_its_own(self) -> None:
        assert optimize("A girl is in the rain.").prompt == "A girl is in the rain.\nmasterpiece, best quality"

    def test_the_negative_prompt_is_completed(self) -> None:
        assert optimize("1girl", "Hat, blurry,", "sprite").negative_prompt == (
            "Hat, blurry, low quality, worst quality, bad quality"
        )

    def test_the_negative_prompt_never_contradicts(self) -> None:
        found = optimize("1girl, blurry background, watermark, hands on hips").negative_prompt
        assert found == "worst quality, low quality, bad anatomy, jpeg artifacts, signature"

    def test_a_negative_prompt_that_is_not_closed_is_left_alone(self) -> None:
        assert optimize("1girl", "(hat").negative_prompt == "(hat"

    def test_no_longer_than_a_prompt_may_be(self) -> None:
        prompt = ",".join("x" for _ in range(MAX_LENGTH // 2))
        assert len(optimize(prompt).prompt) <= MAX_LENGTH
        crowded = ",".join(f"{number:x}" for number in range(900))
        assert len(optimize(crowded).prompt) <= MAX_LENGTH


class TestTables:
    @pytest.mark.parametrize("target", sorted({*WHOLE_TAGS.values(), *PHRASES.values()}))
    def test_what_a_spelling_leads_to_leads_nowhere_else(self, target: str) -> None:
        assert canonical(Tag(target, plain=True)).text == target

    @pytest.mark.parametrize("family", [ANIME, *FAMILIES.values()])
    def test_what_is_added_is_in_its_usual_spelling_and_does_not_contradict_itself(self, family: object) -> None:
        assert isinstance(family, type(ANIME))
        for tag in family.quality:
            assert canonical(Tag(tag, plain=True)).text == tag
        found = optimize(", ".join(family.quality) or "1girl")
        assert set(ANIME.negative) == set(found.negative_prompt.split(", "))

    def test_a_word_has_one_place(self) -> None:
        for table in (LAST_WORDS, FIRST_WORDS):
            found = [word for words in table.values() for word in words.split()]
            assert len(found) == len(set(found))


KNOWN = sorted({*WHOLE_TAGS, *PHRASES, *(word for words in LAST_WORDS.values() for word in words.split())})
ODD = [
    *(
        "(blue hair:1.2)",
        "<lora:x:0.8>",
        "<lora:x",
        "BREAK",
        "AND",
        '"Hello, you"',
        '"',
        "(",
        ")",
        "[",
        "]",
        "\\(",
        "\\",
    ),
    *(
        "\n",
        "A girl is here.",
        "She walks, slowly, in the rain!",
        "a girl with the blue hair",
        "hair_in_the_wind_of_it",
    ),
    *(
        "o_o",
        "score_9",
        "Blue_Hair",
        "2 girls",
        "1 girl",
        "best quality",
        "low quality",
        "、",
        "“",
        "”",
        "髪",
        "_",
        "-",
    ),
    *("...", ":(", ">_<"),
]
pieces = st.one_of(
    st.sampled_from(KNOWN),
    st.sampled_from(ODD),
    st.from_regex(r"[A-Za-z_ 0-9-]{1,12}", fullmatch=True),
    st.text(max_size=8),
)
prompts = st.lists(st.tuples(pieces, st.sampled_from([", ", ",", " ", "\n", " BREAK ", ",, "]))).map(
    lambda found: "".join(piece + separator for piece, separator in found)
)
families = st.sampled_from(["", "sprite", "pony", "flux", "sd3"])


@given(prompts, prompts, families)
@example("hair_in_the_wind_of_it, 1girl", "", "")
@example("sky>, <lora:x:1", "", "")
@example("a\\", "b\\", "")
def test_twice_is_as_once(prompt: str, negative: str, family: str) -> None:
    once = optimize(prompt, negative, family)
    twice = optimize(once.prompt, once.negative_prompt, family)
    assert (twice.prompt, twice.negative_prompt) == (once.prompt, once.negative_prompt)


@given(prompts, families)
def test_no_word_is_lost(prompt: str, family: str) -> None:
    found = set(tags.words(optimize(prompt, "", family).prompt))
    respelled = {word for source in (*WHOLE_TAGS, *PHRASES) for word in tags.words(source)}
    kept = {word for word in tags.words(prompt) if word not in respelled and not word.isdecimal()}
    assert kept <= found
    assert tags.kept_words(prompt) <= found


@given(prompts, families)
def test_its_own_answer_passes_the_judge(prompt: str, family: str) -> None:
    try:
        printable(prompt)
    except ValueError:
        return
    assert validate(prompt, optimize(prompt, "", family)) is None


@given(prompts, prompts, families)
@example("", " (", "")
def test_a_negative_prompt_keeps_its_text(prompt: str, negative: str, family: str) -> None:
    assert optimize(prompt, negative, family).negative_prompt.startswith(negative.strip().rstrip(",").rstrip())


@given(prompts)
def test_taking_apart_keeps_every_tag(prompt: str) -> None:
    parsed = tags.parse(prompt)
    if parsed is not None:
        assert isinstance(parsed, Prompt)
        assert len(parsed.sections) == len(parsed.separators) + 1
        assert tags.words(tags.render(parsed)) == tags.words(prompt)
