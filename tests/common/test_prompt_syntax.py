"""Weights, brackets, BREAK, and how long prompts fill the windows of an encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.prompts.syntax import HIGHEST, NEAR, Chunk, Words, chunked, not_understood, parse, plain

COMMA = ord(",")
PIECES = st.sampled_from(["a", "b,", " ", "(", ")", "[", "]", ":1.2)", ":", "\\(", "\\]", "\\", "BREAK", "0.5", "é"])
PROMPTS = st.lists(PIECES, max_size=30).map("".join)


def codes(text: str) -> list[int]:
    """A tokenizer that has one token a character."""
    return [ord(char) for char in text]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a girl", [("a girl", 1.0)]),
        ("a (red) hat", [("a ", 1.0), ("red", 1.1), (" hat", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("(red:1.5)", [("red", 1.5)]),
        ("(red: 0.5 )", [("red", 0.5)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3.0), (" c", 1.5)]),
        ("([a])", [("a", 1.0)]),
        (r"a \(film\)", [("a (film)", 1.0)]),
        (r"a \\ b", [("a \\ b", 1.0)]),
        ("a (b", [("a ", 1.0), ("b", 1.1)]),
        ("a [b (c", [("a ", 1.0), ("b ", 1 / 1.1), ("c", 1.0)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("a:1.2)", [("a:1.2)", 1.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(smile:)", [("smile:", 1.1)]),
        ("(a:99)", [("a", HIGHEST)]),
        ("(a:-1)", [("a", 0.0)]),
        (":)", [(":)", 1.0)]),
        ("", []),
    ],
)
def test_emphasis(prompt: str, pieces: list[tuple[str, float]]) -> None:
    (section,) = parse(prompt)
    assert [words.text for words in section] == [text for text, _ in pieces]
    assert [words.weight for words in section] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a BREAK b", ["a", "b"]),
        ("aBREAK b", ["aBREAK b"]),
        ("a break b", ["a break b"]),
        ("BREAK a", ["", "a"]),
        ("a, BREAK, b", ["a,", ", b"]),
        ("a\nBREAK\nb", ["a", "b"]),
    ],
)
def test_break_begins_a_section(prompt: str, texts: list[str]) -> None:
    assert ["".join(words.text for words in section) for section in parse(prompt)] == texts


def test_a_break_inside_of_brackets_keeps_the_weight() -> None:
    assert parse("(a BREAK b:2)") == ((Words("a", 2.0),), (Words("b", 2.0),))


def test_the_words_alone() -> None:
    assert plain(r"(red:1.2) [hat], \(film\) BREAK sky") == "red hat, (film) sky"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a [cat:dog:0.5] b", ("[cat:dog:0.5]",)),
        ("[cat|dog]", ("[cat|dog]",)),
        ("[dog:10]", ("[dog:10]",)),
        ("[red], (blue:1.2)", ()),
    ],
)
def test_what_is_not_understood_is_told(prompt: str, found: tuple[str, ...]) -> None:
    assert not_understood(prompt) == found


@given(PROMPTS)
def test_no_text_is_lost_and_weights_are_bounded(prompt: str) -> None:
    sections = parse(prompt)
    assert sections
    kept = "".join(words.text for section in sections for words in section)
    assert [char for char in kept if char in "abé"] == [char for char in prompt if char in "abé"]
    assert all(0.0 <= words.weight <= HIGHEST for section in sections for words in section)


@given(st.text(alphabet="ab ,.", max_size=60))
def test_a_prompt_without_syntax_is_one_piece(prompt: str) -> None:
    assert parse(prompt) == ((Words(prompt),) if prompt else (),)


class TestChunks:
    """Windows of an encoder."""

    def test_an_empty_prompt_has_an_empty_window(self) -> None:
        assert chunked(parse(""), codes, 5, COMMA) == (Chunk(),)

    def test_a_break_leaves_its_window_unfilled(self) -> None:
        chunks = chunked(parse("ab BREAK c"), codes, 5, COMMA)
        assert [bytes(chunk.tokens) for chunk in chunks] == [b"ab", b"c"]

    def test_a_full_window_ends_at_a_near_comma(self) -> None:
        chunks = chunked(parse("abc,defgh"), codes, 6, COMMA)
        assert [bytes(chunk.tokens) for chunk in chunks] == [b"abc,", b"defgh"]

    def test_a_comma_far_back_does_not_count(self) -> None:
        text = "a," + "b" * (NEAR + 5)
        (first, _) = chunked(parse(text), codes, NEAR + 4, COMMA)
        assert len(first.tokens) == NEAR + 4

    def test_a_prompt_that_just_fits_is_not_cut(self) -> None:
        assert len(chunked(parse("a,bcd"), codes, 5, COMMA)) == 1

    def test_weights_go_with_their_tokens(self) -> None:
        (chunk,) = chunked(parse("a(bc:2)"), codes, 5, COMMA)
        assert chunk == Chunk((97, 98, 99), (1.0, 2.0, 2.0))

    @given(PROMPTS, st.integers(1, 40))
    def test_every_token_is_in_one_window_in_order(self, prompt: str, window: int) -> None:
        sections = parse(prompt)
        chunks = chunked(sections, codes, window, COMMA)
        assert all(len(chunk.tokens) == len(chunk.weights) <= window for chunk in chunks)
        told = [token for chunk in chunks for token in chunk.tokens]
        assert told == [token for section in sections for words in section for token in codes(words.text)]
