"""The event reference says everything of everything: each message, question and dead letter, each field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anime_common import events_page, field_words, schemas, traffic
from anime_common.examples import example
from anime_common.messages import REGISTRY, Message
from anime_common.topology import CONSUMERS, worker_consumer
from tests.docs.markdown import Document, read
from tests.stacks import ROOT

MESSAGES = [pytest.param(cls, id=name) for name, cls in sorted(REGISTRY.items())]
STORED = [pytest.param(cls, id=name) for name, cls in sorted(REGISTRY.items()) if cls.kind.stored]


@pytest.fixture(scope="module")
def page() -> Document:
    return read(ROOT / "docs" / "events.md")


def section(page: Document, title: str) -> str:
    """What stands under one heading."""
    _, _, rest = page.prose.partition(f"### `{title}`\n")
    return rest.partition("\n### ")[0].partition("\n## ")[0]


@pytest.mark.parametrize("cls", MESSAGES)
def test_a_message_is_in_one_group_with_all_that_is_known_of_it(page: Document, cls: type[Message]) -> None:
    assert sum(cls.subject.startswith(prefix) for _, prefix, _ in events_page.GROUPS) == 1
    said = section(page, cls.ce_type())
    assert f"- subject: `{cls.subject}`" in said
    for name in cls.model_fields:
        assert f"| `{name}` |" in said
    for user in (*traffic.senders(cls), *traffic.readers(cls)):
        assert user.name in said


@pytest.mark.parametrize("cls", MESSAGES)
def test_its_example_is_the_golden_one(page: Document, cls: type[Message]) -> None:
    golden = json.loads((ROOT / "tests/contracts/golden" / f"{cls.ce_type()}.json").read_text())
    assert golden in [json.loads(block.text) for block in page.blocks if block.language == "json"]


def test_every_question_and_every_place_for_dead_letters_is_there(page: Document) -> None:
    for rpc in traffic.rpcs():
        assert section(page, rpc.subject)
    for consumer in (*CONSUMERS, worker_consumer("x")):
        assert f"| `{consumer.dead_subject}` |" in page.prose


def test_a_heading_is_there_once_so_that_links_lead_to_it(page: Document) -> None:
    titles = [line for line in page.prose.splitlines() if line.startswith("#")]
    assert len(titles) == len(page.anchors())


def test_every_field_says_what_it_means(page: Document) -> None:
    tables = [line for line in page.prose.splitlines() if line.startswith("| `")]
    silent = [line for line in tables if line.count("|") >= 6 and line.endswith("|  |")]
    assert not silent


@pytest.mark.parametrize("cls", STORED)
def test_a_stored_message_has_an_identity_that_its_fields_fill(cls: type[Message]) -> None:
    message = example(cls)
    known = {"command_id": "c0mmand", "epoch": 7, "version": 3}
    missing = {name: value for name, value in known.items() if name not in cls.model_fields}
    ident = message.ident(**missing)
    assert "{" not in ident
    assert "[" not in ident
    if "repeat" in cls.model_fields:
        again = message.model_copy(update={"repeat": 2})
        assert again.ident(**missing) == f"{ident}:2"


@pytest.mark.parametrize(
    ("schema", "kind", "allowed"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 16}, "integer", "1 to 16"),
        ({"type": "integer", "minimum": 0, "maximum": 2**32 - 1}, "integer", "0 to 4294967295"),
        ({"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]}, "text", "at most 5 characters"),
        ({"type": "array", "items": {"type": "string", "minLength": 1}}, "list of text", "at least 1 characters"),
        ({"$ref": "#/$defs/Job"}, "[Job](#job)", "–"),
        ({"type": "string", "enum": ["a", "b"]}, "text", "`a`, `b`"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "integer for each text", "–"),
        (
            {"type": "object", "additionalProperties": {"type": "number"}, "propertyNames": {"$ref": "#/$defs/Phase"}},
            "number for each [Phase](#phase)",
            "–",
        ),
    ],
)
def test_schemas_in_words(schema: dict[str, Any], kind: str, allowed: str) -> None:
    table = field_words.fields({"properties": {"x": schema}, "required": ["x"]})
    assert table.splitlines()[-1] == f"| `x` | {kind} | required | {allowed} |  |"


def test_an_object_without_fields_says_so() -> None:
    assert field_words.fields(schemas.message_schema(REGISTRY["anime.jobs.cancel.v1"]) | {"properties": {}}) == (
        "No fields."
    )
