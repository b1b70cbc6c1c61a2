"""Every message against its committed example and schema, and the rules by which contracts may grow."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import BaseModel, ValidationError

from anime_common import traffic
from anime_common.examples import example
from anime_common.messages import REGISTRY, TOKEN, Kind, Message, Model, Request, decode, read_envelope, subject_matches

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "contracts" / "golden"
SCHEMAS = ROOT / "docs" / "schemas"
MESSAGES = [pytest.param(cls, id=name) for name, cls in sorted(REGISTRY.items())]
SENT_BY_US = [pytest.param(cls, id=name) for name, cls in sorted(REGISTRY.items()) if cls.kind is not Kind.COMMAND]
REQUESTS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in REGISTRY.values()
    if cls.kind is Kind.COMMAND
    for name, field in cls.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Request)
]
_ASKED_OR_ANSWERED = {each.__name__: each for rpc in traffic.rpcs() for each in (rpc.question, rpc.answer)}
MODELS = [pytest.param(model, id=name) for name, model in sorted(_ASKED_OR_ANSWERED.items())]


@cache
def golden(cls: type[Message]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{cls.ce_type()}.json").read_text())
    return found


@cache
def schema(cls: type[Message]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{cls.ce_type()}.json").read_text())
    return found


@pytest.mark.parametrize("cls", MESSAGES)
class TestEveryMessage:
    def test_its_example_is_read_and_written_back_alike(self, cls: type[Message]) -> None:
        body = golden(cls)["body"]
        assert json.loads(cls.parse(json.dumps(body).encode()).body()) == body

    def test_its_example_has_its_subject(self, cls: type[Message]) -> None:
        subject = golden(cls)["subject"]
        assert subject_matches(cls.subject, subject)
        assert all(TOKEN.fullmatch(token) for token in subject.split("."))

    def test_its_example_has_an_envelope_exactly_when_it_is_stored(self, cls: type[Message]) -> None:
        found = golden(cls)
        assert ("headers" in found) == cls.kind.stored
        if cls.kind.stored:
            envelope = read_envelope(found["subject"], found["headers"])
            assert decode(envelope, json.dumps(found["body"]).encode()) == cls.model_validate(found["body"])
            assert found["headers"]["Nats-Msg-Id"] == envelope.id

    def test_its_schema_is_one_and_takes_the_example(self, cls: type[Message]) -> None:
        Draft202012Validator.check_schema(schema(cls))
        Draft202012Validator(schema(cls), format_checker=FormatChecker()).validate(golden(cls)["body"])

    def test_its_schema_and_its_class_ask_for_the_same_fields(self, cls: type[Message]) -> None:
        required = schema(cls).get("required", [])
        assert required == [name for name, field in cls.model_fields.items() if field.is_required()]
        body = golden(cls)["body"]
        for name in required:
            poorer = {key: value for key, value in body.items() if key != name}
            assert not Draft202012Validator(schema(cls)).is_valid(poorer)
            with pytest.raises(ValidationError):
                cls.model_validate(poorer)

    def test_unknown_fields_are_ignored_but_in_what_people_ask_for(self, cls: type[Message]) -> None:
        body = golden(cls)["body"]
        grown = json.dumps(body | {"from_the_future": {"deep": 1}}).encode()
        if "{client}" in cls.subject:
            with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
                cls.parse(grown)
        else:
            assert cls.parse(grown) == cls.model_validate(body)

    def test_it_and_its_fields_are_named_in_our_way(self, cls: type[Message]) -> None:
        assert cls.__doc__
        owner, _, name = cls.wire.partition(".")
        assert owner
        assert name
        for field in cls.model_fields:
            assert TOKEN.fullmatch(field), field


@pytest.mark.parametrize("cls", SENT_BY_US)
def test_what_we_send_may_grow_at_every_depth(cls: type[Message]) -> None:
    body = golden(cls)["body"]
    grown = _grown(body)
    assert grown != body
    assert cls.parse(json.dumps(grown).encode()) == cls.model_validate(body)
    Draft202012Validator(schema(cls)).validate(grown)


@pytest.mark.parametrize(("cls", "name"), REQUESTS)
def test_a_command_with_an_unknown_field_in_its_request_is_refused(cls: type[Message], name: str) -> None:
    body = golden(cls)["body"]
    body = body | {name: body[name] | {"from_the_future": 1}}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.parse(json.dumps(body).encode())
    assert not Draft202012Validator(schema(cls)).is_valid(body)


@pytest.mark.parametrize("model", MODELS)
class TestEveryQuestionAndAnswer:
    def test_has_an_example_that_reads_back_alike(self, model: type[BaseModel]) -> None:
        found = example(model)
        assert model.model_validate_json(found.model_dump_json(exclude_none=True)) == found

    def test_questions_refuse_and_answers_ignore_what_they_do_not_know(self, model: type[BaseModel]) -> None:
        grown = json.loads(example(model).model_dump_json(exclude_none=True)) | {"from_the_future": 1}
        if issubclass(model, Request):
            with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
                model.model_validate(grown)
        else:
            assert issubclass(model, Model)
            assert model.model_validate(grown, extra="ignore") == example(model)

    def test_is_documented(self, model: type[BaseModel]) -> None:
        assert model.__doc__


def test_examples_are_the_same_every_time_and_take_what_is_given() -> None:
    for cls in REGISTRY.values():
        assert example(cls) == example(cls)
    cls = REGISTRY["anime.jobs.queued.v1"]
    changed = example(cls, job={"code": "zzzzzzzz", "message": "waits for a worker"})
    assert json.loads(changed.body())["job"]["code"] == "zzzzzzzz"
    with pytest.raises(ValidationError):
        example(cls, job={"state": "sleeping"})


def test_no_golden_example_of_a_message_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(REGISTRY)


MAPS = frozenset({"labels", "codes", "batch_limits", "counts", "timings"})
"""Fields whose names are values (a state, a phase, a model), so that one more is not an unknown property."""


def _grown(value: Any, name: str = "") -> Any:
    """A JSON value with an unknown property in every object but maps."""
    if isinstance(value, dict):
        grown = {each: _grown(child, each) for each, child in value.items()}
        return grown if name in MAPS else grown | {"from_the_future": [1, {"deep": 2}]}
    return [_grown(child) for child in value] if isinstance(value, list) else value
