"""JSON Schemas (2020-12) of messages, questions and answers, as another service reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from anime_common.contracts.batches import NewBatch
from anime_common.messages import Kind, Message
from anime_common.rpc_contract import Rpc

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Plain(GenerateJsonSchema):
    """Without the titles that pydantic makes of field names: they repeat what stands beside them."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the signature is pydantic's
        """Never."""
        return False


def message_schema(cls: type[Message]) -> JsonSchemaValue:
    """The schema of a message's body.

    Only commands are closed to unknown properties (where their types are): what we send may grow, and whoever checks
    it against this schema must not stumble over that.
    """
    schema = cls.model_json_schema(schema_generator=_Plain)
    if cls.kind is not Kind.COMMAND:
        schema = _opened(schema)
    return {
        "$schema": DIALECT,
        "$id": f"urn:tower-anime:{cls.ce_type()}",
        "title": cls.__name__,
        "x-kind": cls.kind.name.lower(),
        "x-subject": cls.subject,
        **{name: value for name, value in schema.items() if name != "title"},
    }


def rpc_schemas(rpcs: Iterable[Rpc[Any, Any]]) -> dict[str, JsonSchemaValue]:
    """The schemas of all questions and answers by class name; they refer to each other in `#/components/schemas`."""
    known = list(rpcs)
    answers = _definitions({rpc.answer for rpc in known})
    questions = _definitions({rpc.question for rpc in known})
    opened: dict[str, JsonSchemaValue] = _opened(answers)
    return dict(sorted((opened | questions).items()))


def _definitions(models: set[type[BaseModel]]) -> dict[str, JsonSchemaValue]:
    ordered = sorted(models, key=lambda model: model.__name__)
    _, found = models_json_schema(
        [(model, "validation") for model in ordered],
        schema_generator=_Plain,
        ref_template="#/components/schemas/{model}",
    )
    defined: dict[str, JsonSchemaValue] = found["$defs"]
    return defined


def _opened(schema: Any) -> Any:
    """A schema that lets unknown properties pass at every depth."""
    if isinstance(schema, dict):
        return {
            name: _opened(value)
            for name, value in schema.items()
            if not (name == "additionalProperties" and value is False)
        }
    return [_opened(item) for item in schema] if isinstance(schema, list) else schema


def batch_file_schema() -> dict[str, Any]:
    """The JSON Schema of a file that `anime batch` reads, for editors: it may name its schema itself."""
    found = NewBatch.model_json_schema(schema_generator=_Plain)
    found["properties"] = {"$schema": {"type": "string"}, **found["properties"]}
    return {"$schema": DIALECT, **found, "title": "A batch of Tower Anime Production"}
