"""The table of errors against the sources that use its codes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common import errors_page
from anime_common.contracts.errors import ERRORS, retryable

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("jobs/anime_jobs", "generator/anime_generator", "files/anime_files")
    for path in (ROOT / "services" / folder).rglob("*.py")
)
MAKERS = {"EngineError": 0, "Failure": 0, "JobError": 0, "failed": 0}
"""What makes an error of a job: the place of the code among its arguments."""

LATE_REFUSALS = {"invalid", "not_supported", "unknown_lora"}
"""Refusals of admission that a job meets later, when its model is announced after it was accepted."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def constants() -> dict[str, str]:
    """Texts that modules name in capitals."""
    found = {}
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.isupper() and isinstance(node.value.value, str):
                        found[target.id] = node.value.value
    return found


def codes_of(argument: ast.expr) -> set[str]:
    """The codes that an argument can stand for; one that is handed on has been looked at where it was made."""
    match argument:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=one, orelse=other):
            return codes_of(one) | codes_of(other)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name.isupper():
            return {constants()[name]}
        case ast.Name(id="code") | ast.Attribute(attr="code") | ast.Subscript():
            return set()
    raise AssertionError(f"line {argument.lineno}: what code is {ast.unparse(argument)}?")


def calls(path: Path) -> Iterator[ast.expr]:
    """The code arguments of everything in a module that makes an error of a job."""
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if name in MAKERS and (named or node.args) and "faults" not in ast.unparse(node.func):
            yield named[0] if named else node.args[MAKERS[name]]
        elif name == "fail" and len(node.args) == 2 and all(isinstance(each, str) for each in _texts(node.args[:1])):
            yield node.args[0]


def _texts(arguments: list[ast.expr]) -> list[object]:
    """The constants of an argument, be it a choice of two."""
    return [
        each.value if isinstance(each, ast.Constant) else None
        for argument in arguments
        for each in ([argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument])
    ]


def used() -> set[str]:
    """Every code that a source gives an error of a job."""
    return {code for path in SOURCES for argument in calls(path) for code in codes_of(argument)}


def test_every_code_that_sources_use_stands_in_the_table() -> None:
    assert len(used()) > 30
    assert used() - ERRORS.keys() == set()


def test_every_code_of_the_table_is_used() -> None:
    texts = {
        node.value
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert ERRORS.keys() - texts == set()
    assert ERRORS.keys() >= LATE_REFUSALS


def test_nobody_says_in_a_place_of_its_own_what_is_retryable() -> None:
    said = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.keyword) and node.arg == "retryable" and isinstance(node.value, ast.Constant)
    ]
    assert said == []


@pytest.mark.parametrize("code", ERRORS)
def test_a_known_code_is_what_the_table_says_whatever_was_told(code: str) -> None:
    assert retryable(code, told=True) is retryable(code, told=False) is ERRORS[code].retryable


@given(code=st.text(min_size=1).filter(lambda text: text not in ERRORS), told=st.booleans())
def test_an_unknown_code_keeps_what_was_told(code: str, told: bool) -> None:
    assert retryable(code, told=told) is told


def test_the_page_tells_of_every_code_once() -> None:
    lines = errors_page.page().splitlines()
    for code, trouble in ERRORS.items():
        (line,) = [each for each in lines if each.startswith(f"| `{code}` |")]
        assert f"| {'yes' if trouble.retryable else 'no'} |" in line
        assert trouble.meaning in line
