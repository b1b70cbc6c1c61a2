"""The gateway's HTTP API, as the commands use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from anime_cli.errors import CliError, ExitStatus
from anime_cli.settings import ClientSettings
from anime_common.settings import load

BASE = "/api/anime"
TIMEOUT = httpx.Timeout(10.0, read=40.0)
TRIES = 4
PAUSE = 0.5
TOO_MANY = 429
LONGEST_WAIT = 30
"""Seconds that a command waits when it is told to come back later."""

M = TypeVar("M", bound=BaseModel)

_STATUSES = {
    404: ExitStatus.NOT_FOUND,
    410: ExitStatus.NOT_FOUND,
    401: ExitStatus.DENIED,
    403: ExitStatus.DENIED,
    409: ExitStatus.CONFLICT,
    412: ExitStatus.CONFLICT,
    500: ExitStatus.FAILED,
}


class Problem(CliError):
    """The gateway refused: its problem details (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.http_status = status
        self.code = str(problem.get("code", ""))
        fallback = ExitStatus.UNREACHABLE if status >= 500 else ExitStatus.USAGE
        super().__init__(_STATUSES.get(status, fallback), *_lines(problem), problem=problem)


def _lines(problem: Mapping[str, Any]) -> list[str]:
    """One line a mistake, `field: what is wrong`."""
    mistakes = problem.get("errors") or [problem]
    lines = []
    for mistake in mistakes:
        field, detail = mistake.get("field"), str(mistake.get("detail", ""))
        named = not field or detail.startswith(f"{field}:")
        lines.append(detail if named else f"{field}: {detail}")
    return lines


class Api:
    """An open client of one gateway; made by `connect`."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.client = client
        self.url = url

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask, and again when told to come back later; raises Problem when refused, CliError when nobody answers."""
        for left in reversed(range(TRIES)):
            try:
                answer = await self.client.request(method, BASE + path, **request)
            except httpx.TransportError as error:
                raise unreachable(self.url, error) from error
            if answer.status_code == TOO_MANY and left and (wait := retry_after(answer)) is not None:
                await asyncio.sleep(wait)
            elif answer.is_error:
                raise await problem_of(answer)
            else:
                return answer
        raise AssertionError("unreachable")

    async def get(self, path: str, model: type[M], /, **params: Any) -> M:
        """Read something; parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return read(await self.send("GET", path, params=given), model)

    async def create(
        self, path: str, body: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Create something, of JSON or of the `content` among `more`.

        Repeated under one idempotency key when it is not known whether it was created.
        """
        request = {"headers": {**(headers or {}), "Idempotency-Key": uuid4().hex}, "json": body, **more}
        for attempt in range(TRIES):
            try:
                return await self.send("POST", path, **request)
            except CliError as error:
                unsure = isinstance(error, Problem) and error.code == "outcome_unknown"
                lost = isinstance(error.__cause__, httpx.ReadError | httpx.ReadTimeout | httpx.RemoteProtocolError)
                if attempt + 1 == TRIES or not (unsure or lost):
                    raise
            await asyncio.sleep(PAUSE)
        raise AssertionError("unreachable")


def retry_after(answer: httpx.Response) -> float | None:
    """The seconds of `Retry-After`, if a person would wait so long."""
    seconds = answer.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() and int(seconds) <= LONGEST_WAIT else None


def read(answer: httpx.Response, model: type[M]) -> M:
    """The body of an answer; fields that only a newer gateway knows are ignored."""
    try:
        return model.model_validate_json(answer.content, extra="ignore")
    except ValidationError as error:
        text = f"{answer.request.url} answered something that this version of anime does not understand"
        raise CliError(ExitStatus.FAILED, text, str(error)) from error


def segment(what: str, name: str) -> str:
    """A name that somebody typed, as one segment of a path; raises CliError when nothing can be named so."""
    if not name.strip("."):
        raise CliError(ExitStatus.NOT_FOUND, f"there is no {what} {name!r}")
    return quote(name, safe="")


async def problem_of(answer: httpx.Response) -> Problem:
    """The problem in an error response; something else than our gateway may have answered."""
    await answer.aread()
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or "detail" not in found:
        found = {
            "status": answer.status_code,
            "detail": f"{answer.url} answered {answer.status_code}: not our gateway?",
        }
    return Problem(answer.status_code, found)


def unreachable(url: str, error: Exception) -> CliError:
    """Nobody answers at the gateway's address."""
    return CliError(
        ExitStatus.UNREACHABLE,
        f"the gateway does not answer at {url} ({type(error).__name__}: {error})",
        "start it with `anime up` or `make run`, or name another with --url or ANIME_URL",
        problem={"code": "unreachable", "detail": f"{type(error).__name__}: {error}", "url": url},
    )


@asynccontextmanager
async def connect(url: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[Api]:
    """A client of the gateway at `url`, else of the one that the settings find. Loopback needs no proxy."""
    settings = load(ClientSettings)
    base = (url or settings.gateway_url()).rstrip("/")
    headers = {"User-Agent": "anime-cli"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    local = httpx.URL(base).host in {"127.0.0.1", "localhost", "::1"}
    async with httpx.AsyncClient(
        base_url=base, headers=headers, timeout=TIMEOUT, transport=transport, trust_env=not local
    ) as client:
        yield Api(client, base)
