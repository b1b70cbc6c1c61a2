"""JSON Schemas in words: the fields of an object as the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anime_common.markdown import code, link, table

Schema = Mapping[str, Any]

HEAD = ("field", "type", "needed", "allowed", "meaning")
_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
_FORMATS = {"uuid": "UUID", "date-time": "time (RFC 3339)", "date": "day (YYYY-MM-DD)"}


def fields(schema: Schema) -> str:
    """The fields of an object as a table."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if not properties:
        return "No fields."
    needed = schema.get("required", ())
    return table(HEAD, (_row(name, each, needed=name in needed) for name, each in properties.items()))


def _row(name: str, schema: Schema, *, needed: bool) -> Sequence[str]:
    return (
        code(name),
        kind(schema),
        "required" if needed else _default(schema),
        "; ".join(_allowed(schema)) or "–",
        schema.get("description", ""),
    )


def kind(schema: Schema) -> str:
    """The type of a value; objects and enumerations as links to where they are described."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return link(name, name)
    if "anyOf" in schema or "oneOf" in schema:
        options = [kind(option) for option in _options(schema)]
        return " or ".join(dict.fromkeys(options))
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return (
            f"{kind(schema['additionalProperties'])} for each {kind(schema.get('propertyNames', {'type': 'string'}))}"
        )
    return _FORMATS.get(schema.get("format", ""), _TYPES.get(schema.get("type", ""), "any"))


def _options(schema: Schema) -> Iterator[Schema]:
    for option in schema.get("anyOf", schema.get("oneOf", ())):
        if option.get("type") != "null":
            yield option


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "optional; default: empty"
    if schema["default"] is None:
        return "optional"
    return f"optional; default {code(json.dumps(schema['default'], ensure_ascii=False))}"


def _allowed(schema: Schema) -> Iterator[str]:
    for option in (schema, *_options(schema)):
        if "const" in option:
            yield code(json.dumps(option["const"]))
        if "enum" in option:
            yield ", ".join(code(str(value)) for value in option["enum"])
        yield from _range(option, "minimum", "maximum", "")
        yield from _range(option, "minLength", "maxLength", " characters")
        yield from _range(option, "minItems", "maxItems", " items")
        if "pattern" in option:
            yield code(option["pattern"])
        if option.get("type") == "array":
            yield from _allowed(option["items"])


def _range(schema: Schema, low: str, high: str, unit: str) -> Iterator[str]:
    least, most = schema.get(low), schema.get(high)
    if least is not None and most is not None:
        yield f"{least:g} to {most:g}{unit}" if most < 1e6 else f"{least} to {most}{unit}"
    elif least is not None:
        yield f"at least {least}{unit}"
    elif most is not None:
        yield f"at most {most}{unit}"
