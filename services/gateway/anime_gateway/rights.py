"""What scope each request needs: the one table. A test keeps it complete."""

from __future__ import annotations

from starlette.routing import compile_path

from anime_common.tokens import Scope
from anime_gateway.public import BASE

PUBLIC = frozenset({f"{BASE}/session", f"{BASE}/openapi.json"})
"""Paths of the API that need no token: signing in, and how the API works. So does all that is not of the API."""

WRITES: dict[tuple[str, str], Scope] = {
    ("POST", "/jobs"): Scope.SUBMIT,
    ("PATCH", "/jobs/{job}"): Scope.SUBMIT,
    ("POST", "/jobs/{job}/cancel"): Scope.SUBMIT,
    ("POST", "/jobs/{job}/retry"): Scope.SUBMIT,
    ("POST", "/retries"): Scope.SUBMIT,
    ("POST", "/prompts/optimize"): Scope.SUBMIT,
    ("POST", "/prompts/preview"): Scope.SUBMIT,
    ("POST", "/batches"): Scope.SUBMIT,
    ("PATCH", "/batches/{batch}"): Scope.SUBMIT,
    ("POST", "/batches/{batch}/cancel"): Scope.SUBMIT,
    ("POST", "/batches/{batch}/retry"): Scope.SUBMIT,
    ("POST", "/characters"): Scope.SUBMIT,
    ("PATCH", "/characters/{character}"): Scope.SUBMIT,
    ("PUT", "/characters/{character}"): Scope.SUBMIT,
    ("DELETE", "/characters/{character}"): Scope.ADMIN,
    ("POST", "/characters/{character}/versions/{version}/use"): Scope.SUBMIT,
    ("POST", "/queue/pause"): Scope.ADMIN,
    ("POST", "/queue/resume"): Scope.ADMIN,
    ("POST", "/projects"): Scope.SUBMIT,
    ("PATCH", "/projects/{project}"): Scope.SUBMIT,
    ("PUT", "/projects/{project}"): Scope.SUBMIT,
    ("DELETE", "/projects/{project}"): Scope.ADMIN,
    ("POST", "/uploads"): Scope.SUBMIT,
    ("PATCH", "/files/{file}"): Scope.SUBMIT,
    ("POST", "/files/{file}/restore"): Scope.SUBMIT,
    ("DELETE", "/files/{file}"): Scope.ADMIN,
}
"""By method and path below the base. Deleting takes away what others made."""

READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PATTERNS = [(method, compile_path(BASE + path)[0], scope) for (method, path), scope in WRITES.items()]


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None: anybody may. What is in no table needs the highest."""
    if path in PUBLIC or not path.startswith(f"{BASE}/"):
        return None
    if method in READS:
        return Scope.READ
    found = (scope for known, pattern, scope in _PATTERNS if known == method and pattern.match(path))
    return next(found, Scope.ADMIN)
