"""A gateway that says what a test wants, at the HTTP level: the real one is met in the end-to-end tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState
from anime_common.examples import CODE, JOB, example

URL = "http://gateway.test"
Answer = httpx.Response | Callable[[httpx.Request], httpx.Response] | Exception


def view(state: JobState = JobState.QUEUED, **progress: Any) -> dict[str, Any]:
    """A job in a state, as JSON."""
    nothing = dict.fromkeys(("phase", "step", "steps", "eta_seconds", "position", "attempt_id", "preview_url"))
    job = {"state": state, "progress": {**nothing, "percent": 0.0, "state": state, **progress}}
    found: dict[str, Any] = json.loads(example(JobView, **job).model_dump_json())
    return found


def problem(status: int, code: str, detail: str, **more: Any) -> httpx.Response:
    """Problem details."""
    body = {"type": "about:blank", "title": "", "status": status, "code": code, "detail": detail, **more}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def sse(*events: tuple[str, Any, str | None], breaks: bool = False) -> httpx.Response:
    """A stream of (event, data, id); `breaks` cuts it off at the end."""
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_stream(events, breaks=breaks))


async def _stream(events: Iterable[tuple[str, Any, str | None]], *, breaks: bool) -> AsyncIterator[bytes]:
    yield b":\nretry: 1200\n\n"
    for event, data, ident in events:
        head = f"id: {ident}\n" if ident else ""
        yield f"{head}event: {event}\ndata: {json.dumps(data)}\n\n".encode()
    if breaks:
        raise httpx.ReadError("connection lost")


@dataclass
class FakeGateway:
    """Answers by `METHOD /path` in turn, the last answer for ever; keeps what it was asked."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)

    def on(self, what: str, *answers: Answer) -> FakeGateway:
        self.answers[what] = list(answers)
        return self

    def bodies(self, what: str) -> list[Any]:
        """The JSON bodies of the requests of a kind."""
        return [json.loads(request.content) for request in self.asked if self._name(request) == what]

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _name(self, request: httpx.Request) -> str:
        return f"{request.method} {request.url.path.removeprefix('/api/anime')}"

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answers = self.answers.get(self._name(request))
        if not answers:
            return problem(404, "not_found", f"the test has no answer to {self._name(request)}")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)


__all__ = ["CODE", "JOB", "URL", "FakeGateway", "problem", "sse", "view"]
