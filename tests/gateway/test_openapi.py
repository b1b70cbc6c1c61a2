"""The OpenAPI document: complete, and what it says of errors and bodies is true."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from anime_gateway.app import openapi

DOCUMENT = openapi()
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_every_path_of_the_design_is_there() -> None:
    paths = {path.removeprefix("/api/anime") for path in DOCUMENT["paths"]}
    assert paths == {
        *("/health", "/stats", "/queue", "/generators", "/models", "/prompts/optimize", "/events", "/session"),
        *(
            "/jobs",
            "/jobs/{job}",
            "/jobs/{job}/cancel",
            "/jobs/{job}/retry",
            "/jobs/{job}/attempts",
            "/jobs/{job}/preview",
            "/jobs/{job}/events",
        ),
        *("/projects", "/projects/{project}", "/profile", "/prompts/preview"),
        *("/queue/pause", "/queue/resume", "/retries"),
        *("/batches", "/batches/{batch}", "/batches/{batch}/cancel", "/batches/{batch}/retry"),
        *("/characters", "/characters/{character}", "/characters/{character}/versions"),
        *("/characters/{character}/versions/compare", "/characters/{character}/versions/{version}"),
        "/characters/{character}/versions/{version}/use",
        *(
            "/files",
            "/files/{file}",
            "/files/{file}/content",
            "/files/{file}/thumbnail",
            "/files/{file}/restore",
            "/uploads",
        ),
    }


def test_every_reference_leads_somewhere() -> None:
    referred = set(re.findall(r"#/components/schemas/([A-Za-z0-9_]+)", str(DOCUMENT)))
    assert referred == set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_every_operation_says_what_it_does_and_how_it_fails(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    for status, answer in operation["responses"].items():
        assert answer["description"], status
        if status.isdecimal() and int(status) >= 400 and not (name.endswith("/health") and status == "503"):
            assert list(answer["content"]) == ["application/problem+json"], status


JSON_BODIES = [
    pytest.param(each["requestBody"]["content"]["application/json"], id=name)
    for name, each in OPERATIONS
    if "application/json" in each.get("requestBody", {}).get("content", {})
]


def test_all_bodies_but_pictures_are_json() -> None:
    others = [name for name, each in OPERATIONS if "requestBody" in each and len(each["requestBody"]["content"]) > 1]
    assert others == ["POST /api/anime/uploads"]
    assert len(JSON_BODIES) + len(others) == sum("requestBody" in each for _, each in OPERATIONS)


@pytest.mark.parametrize("content", JSON_BODIES)
def test_every_example_of_a_body_fits_its_schema(content: dict[str, Any]) -> None:
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    assert content["examples"]
    for example in content["examples"].values():
        Draft202012Validator(schema).validate(example["value"])


def test_every_example_of_an_error_fits_the_problem() -> None:
    schema = {"$ref": "#/components/schemas/Problem", "components": DOCUMENT["components"]}
    examples = [
        answer["content"]["application/problem+json"]["example"]
        for _, operation in OPERATIONS
        for answer in operation["responses"].values()
        if "example" in answer.get("content", {}).get("application/problem+json", {})
    ]
    assert examples
    for example in examples:
        Draft202012Validator(schema).validate(example)
