"""What JSON lets pass and we do not, each with the field at fault."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.generator import AttemptFailed, Heartbeat
from anime_common.contracts.jobs import SubmitJob
from anime_common.examples import example
from anime_common.messages import first_error, uuid7
from anime_common.strict_json import mended, read
from tests.builders import heartbeat, held

JOB = str(uuid7())

FLAWS: list[tuple[str, bytes, str, str]] = [
    ("a name twice", b'{"prompt": "a", "prompt": "b"}', "prompt", "is given twice"),
    ("a name twice, escaped once", b'{"prompt": "a", "\\u0070rompt": "b"}', "prompt", "is given twice"),
    ("an unknown name twice", b'{"prompt": "a", "x": 1, "x": 2}', "x", "Extra inputs are not permitted"),
    ("half a character", b'{"prompt": "a\\ud800b"}', "prompt", "no Unicode character"),
    ("the other half", b'{"prompt": "\\udc00"}', "prompt", "no Unicode character"),
    ("halves in the wrong order", b'{"prompt": "\\udc00\\ud800"}', "prompt", "no Unicode character"),
    (
        "bytes that are no UTF-8",
        b'{"prompt": "x", "negative_prompt": "\xff"}',
        "negative_prompt",
        "no Unicode character",
    ),
    ("an overlong form", b'{"prompt": "\xc0\xaf"}', "prompt", "no Unicode character"),
    ("a surrogate in UTF-8", b'{"prompt": "\xed\xa0\x80"}', "prompt", "no Unicode character"),
    ("NUL", b'{"prompt": "a\\u0000b"}', "prompt", "U+0000 is not allowed"),
    ("no number", b'{"prompt": "x", "guidance": NaN}', "guidance", "finite number"),
    ("infinity", b'{"prompt": "x", "guidance": -Infinity}', "guidance", "finite number"),
    ("a number too large for a double", b'{"prompt": "x", "guidance": 1e999}', "guidance", "finite number"),
    ("no integer", b'{"prompt": "x", "steps": NaN}', "steps", "integer"),
    ("nesting in a field", b'{"prompt": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}", "prompt", "string"),
]


@pytest.mark.parametrize(("what", "body", "field", "text"), FLAWS, ids=[case[0] for case in FLAWS])
def test_a_flaw_is_refused_with_its_field(what: str, body: bytes, field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(GenerationRequest, body)
    found, said = first_error(caught.value)
    assert found == field
    assert text in said


@pytest.mark.parametrize(("what", "body", "field", "text"), FLAWS, ids=[case[0] for case in FLAWS])
def test_and_so_inside_of_a_command(what: str, body: bytes, field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SubmitJob.parse(b'{"job_id": "%s", "request": %s}' % (JOB.encode(), body))
    assert first_error(caught.value)[0] == f"request.{field}"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800', b'{"prompt": "\\ud800"', b"nul"]
)
def test_what_is_no_json_at_all_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        read(GenerationRequest, body)
    assert caught.value.errors()[0]["type"] == "json_invalid"


@pytest.mark.parametrize("text", ["a\\u0000b", "\\\\u0000", "back\\slash", "\U0001f338", "\\ud83c\\udf38 in escapes"])
def test_what_only_looks_like_a_flaw_is_taken(text: str) -> None:
    """Backslashes before `u0000` are a text about NUL; two halves that fit are a character."""
    assert read(GenerationRequest, json.dumps({"prompt": text}).encode()).prompt == text
    assert read(GenerationRequest, json.dumps({"prompt": text}, ensure_ascii=False).encode()).prompt == text


def test_equal_names_in_different_objects_are_no_repetition() -> None:
    body = {"job_id": JOB, "request": {"prompt": "x", "project": "y"}}
    assert SubmitJob.parse(json.dumps(body).encode()).request.project == "y"


class TestOfServices:
    """What services say is read tolerantly; what cannot be stored is refused all the same."""

    BEAT = heartbeat(attempts=(held(eta_seconds=1.5),))

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.BEAT.body())
        return found

    def test_nul_in_a_heartbeat_is_refused_with_its_field(self) -> None:
        body = self.body()
        body["models"][0]["title"] = "a\0b"
        with pytest.raises(ValidationError) as caught:
            Heartbeat.parse(json.dumps(body).encode())
        assert first_error(caught.value) == ("models.0.title", "the control character U+0000 is not allowed")

    def test_a_name_given_twice_may_be_of_a_newer_version(self) -> None:
        body = json.dumps(self.body())[:-1] + ', "later": 1, "later": 2}'
        assert Heartbeat.parse(body.encode()) == self.BEAT

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_a_number_that_is_not_finite_is_refused_with_its_field(self, number: str) -> None:
        body = self.body()
        body["attempts"][0]["eta_seconds"] = float(number)
        with pytest.raises(ValidationError) as caught:
            Heartbeat.parse(json.dumps(body).encode())
        assert first_error(caught.value)[0] == "attempts.0.eta_seconds"

    def test_the_text_of_an_exception_is_made_fit_to_be_sent(self) -> None:
        fact = example(AttemptFailed).model_copy()
        made = AttemptFailed.model_validate(
            dict(fact) | {"message": "no file '\udcff\0'", "failed_at": datetime(2026, 1, 1, tzinfo=UTC)}
        )
        assert made.message == "no file '\ufffd\ufffd'"
        assert AttemptFailed.parse(made.body()) == made


@given(st.text(alphabet=st.characters(categories=None) | st.sampled_from("\0\ud800\udfff")))
def test_a_mended_text_can_always_be_sent_and_stored(text: str) -> None:
    found = mended(text)
    assert isinstance(found, str)
    assert "\0" not in found
    found.encode()
    if not any("\ud800" <= char <= "\udfff" or char == "\0" for char in text):
        assert found == text
