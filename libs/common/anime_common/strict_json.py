"""What JSON lets pass and we do not: names given twice, halves of characters, bytes that are no text, NUL in texts.

pydantic's parser bounds nesting and numbers and refuses broken Unicode. But of two equal names it silently takes the
last, it cannot say in which field broken Unicode stands, and it lets U+0000 pass, which PostgreSQL cannot store. What
is found here is a pydantic.ValidationError like any other, with the field at fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

M = TypeVar("M", bound=BaseModel)

NUL = b"\\u0000"

Path = tuple[str | int, ...]


def read(model: type[M], body: bytes) -> M:
    """What people send, as `model`; raises pydantic.ValidationError."""
    try:
        found = model.model_validate_json(body)
    except ValidationError as error:
        if any(each["type"] == "json_invalid" for each in error.errors(include_url=False, include_input=False)):
            refuse_flaws(model, body)
        raise
    refuse_flaws(model, body)
    return found


def read_tolerantly(model: type[M], body: bytes) -> M:
    """What a service sends, perhaps of a newer version, as `model`: unknown fields are ignored at any depth."""
    found = model.model_validate_json(body, extra="ignore")
    if NUL in body:
        refuse_flaws(model, body)
    return found


def refuse_flaws(model: type[BaseModel], body: bytes) -> None:
    """Raise pydantic.ValidationError for the first flaw of a body; what is no JSON at all has none."""
    try:
        # Bytes that are no UTF-8 become halves of characters, so that they are found in their field.
        value = json.loads(
            body.decode("utf-8", "surrogateescape"),
            object_pairs_hook=_Object,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
        )
    except (ValueError, RecursionError):
        return
    for path, kind, text in _flaws(value, ()):
        details: InitErrorDetails = {"type": PydanticCustomError(kind, text), "loc": path, "input": None}
        raise ValidationError.from_exception_data(model.__name__, [details], input_type="json")


class _Object:
    """An object with all of its pairs."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _flaws(value: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(value, _Object):
        seen: set[str] = set()
        for name, each in value.pairs:
            yield from _flaws_of_text(name, path)
            if name in seen:
                yield (*path, name), "duplicate_name", "is given twice"
            seen.add(name)
            yield from _flaws(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _flaws(each, (*path, index))
    elif isinstance(value, str):
        yield from _flaws_of_text(value, path)


def _flaws_of_text(text: str, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if any("\ud800" <= char <= "\udfff" for char in text):
        yield path, "broken_unicode", "holds bytes or escapes that make no Unicode character"
    if "\0" in text:
        yield path, "control_character", "the control character U+0000 is not allowed"


def mended(text: object) -> object:
    """A text made so that it can be sent and stored: what would be refused above becomes U+FFFD."""
    if not isinstance(text, str):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
