"""The table of scopes is complete, and says what people expect."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute

from anime_common.tokens import Scope
from anime_gateway.app import API, openapi
from anime_gateway.public import BASE
from anime_gateway.rights import PUBLIC, READS, WRITES, needed

ROUTES = [
    (method, route.path)
    for module in API
    for route in module.router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
]


def test_every_write_has_its_scope_and_no_scope_is_for_nothing() -> None:
    assert {(method, path) for method, path in ROUTES if method not in READS and BASE + path not in PUBLIC} == set(
        WRITES
    )


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/", None),
        ("GET", "/studio.js", None),
        ("GET", "/docs", None),
        ("GET", f"{BASE}/openapi.json", None),
        ("POST", f"{BASE}/session", None),
        ("GET", f"{BASE}/jobs", Scope.READ),
        ("HEAD", f"{BASE}/files/x/content", Scope.READ),
        ("GET", f"{BASE}/ws", Scope.READ),
        ("GET", f"{BASE}/events", Scope.READ),
        ("POST", f"{BASE}/jobs", Scope.SUBMIT),
        ("POST", f"{BASE}/jobs/abcd2345/cancel", Scope.SUBMIT),
        ("DELETE", f"{BASE}/projects/x", Scope.ADMIN),
        ("DELETE", f"{BASE}/files/x", Scope.ADMIN),
        ("PURGE", f"{BASE}/jobs", Scope.ADMIN),
        ("POST", f"{BASE}/session/x", Scope.ADMIN),
        ("POST", f"{BASE}/jobs/a/b/cancel", Scope.ADMIN),
    ],
)
def test_what_a_request_needs(method: str, path: str, scope: Scope | None) -> None:
    assert needed(method, path) is scope


def test_the_document_names_the_scope_of_each_operation() -> None:
    found: dict[str, Any] = openapi()
    assert set(found["components"]["securitySchemes"]) == {"bearer", "cookie"}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            scope = needed(method.upper(), path)
            assert operation["security"] == ([{"bearer": [scope]}, {"cookie": [scope]}] if scope else []), path
            assert {"401", "403", "429"} <= set(operation["responses"]), path
