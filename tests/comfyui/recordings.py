"""Recorded traffic of a real ComfyUI server (0.3.64, on a CPU, random weights), and what it says of each prompt.

A file has one JSON object a line: `meta`, `note`, `proc` (signals, restarts), `http` (`out` and `in`, paired by id) and
`ws` (`conn` names the connection). Only paths of the server were rewritten, to /opt/ComfyUI.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "comfyui"
CASES = tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl")))

Line = dict[str, Any]
Frame = str | bytes


@dataclass(frozen=True)
class Script:
    """One recorded prompt: how `/prompt` answered, the frames that followed with seconds since, how it ended."""

    prompt_id: str
    body: dict[str, Any]
    status: int
    answer: dict[str, Any] | None
    frames: tuple[tuple[float, Frame], ...] = ()
    history: dict[str, Any] | None = None
    note: str = ""

    @property
    def graph(self) -> dict[str, Any]:
        """The workflow that was sent."""
        found: dict[str, Any] = self.body.get("prompt", {})
        return found

    @property
    def refused(self) -> bool:
        """Whether the server found fault with it, though it may have taken it."""
        return self.status != 200 or bool((self.answer or {}).get("node_errors"))

    @property
    def ends(self) -> bool:
        """Whether its end was heard."""
        return any(self.says(f"execution_{end}") for end in ("success", "error", "interrupted"))

    def says(self, kind: str) -> bool:
        """Whether a message of this type was heard."""
        return any(isinstance(frame, str) and json.loads(frame)["type"] == kind for _, frame in self.frames)


@cache
def lines(case: str) -> tuple[Line, ...]:
    """Everything that was recorded of a case."""
    with (FOLDER / f"{case}.jsonl").open(encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)


def frames(case: str) -> list[Frame]:
    """Every WebSocket frame that clients got."""
    return [frame_of(line) for line in lines(case) if _is_frame(line)]


@cache
def classes() -> dict[str, Any]:
    """What the server said of some of its node classes."""
    told = [
        line["json"] for line in lines("j_endpoints") if line["ch"] == "http" and isinstance(line.get("json"), dict)
    ]
    found = (item for each in told for item in each.items())
    return {name: value for name, value in found if isinstance(value, dict) and "input" in value}


@cache
def scripts(case: str) -> tuple[Script, ...]:
    """Every prompt that was sent to `/prompt` as JSON, in order."""
    sent = {line["id"]: line for line in lines(case) if line["ch"] == "http" and line["dir"] == "out"}
    found, note = [], ""
    for line in lines(case):
        note = line["text"] if line["ch"] == "note" else note
        if line["ch"] != "http" or line["dir"] != "in":
            continue
        asked = sent[line["id"]]
        if asked["method"] == "POST" and asked["path"] == "/prompt" and isinstance(asked.get("json"), dict):
            found.append(_script(case, asked, line, note))
    return tuple(found)


def frame_of(line: Line) -> Frame:
    """The frame as it came."""
    return base64.b64decode(line["b64"]) if line.get("binary") else json.dumps(line["json"])


def file(case: str) -> bytes:
    """A picture that `/view` answered with."""
    return next(
        base64.b64decode(line["b64"])
        for line in lines(case)
        if line["ch"] == "http" and line["dir"] == "in" and line.get("b64") and line["status"] == 200
    )


def _script(case: str, asked: Line, answered: Line, note: str) -> Script:
    answer = answered.get("json")
    prompt_id = str((answer or {}).get("prompt_id", ""))
    connections = {
        line["conn"]
        for line in lines(case)
        if line["ch"] == "ws" and line.get("event") == "connect"
        if line["path"].endswith(f"={asked['json'].get('client_id')}")
    }
    following = []
    for line in lines(case):
        if line["t"] < answered["t"] or not _is_frame(line) or line["conn"] not in connections:
            continue
        data = line["json"].get("data", {}) if "json" in line else {}
        if data.get("prompt_id", prompt_id) == prompt_id:
            following.append((line["t"] - answered["t"], frame_of(line)))
        if data.get("prompt_id") == prompt_id and "node" in data and data["node"] is None:
            break
    body = asked["json"]
    history = _history(case, prompt_id)
    return Script(prompt_id, body, answered["status"], answer, tuple(following), history, note)


def _history(case: str, prompt_id: str) -> dict[str, Any] | None:
    for line in lines(case):
        if line["ch"] == "http" and line["dir"] == "in" and isinstance(line.get("json"), dict):
            entry = line["json"].get(prompt_id)
            if isinstance(entry, dict) and "status" in entry:
                return entry
    return None


def _is_frame(line: Line) -> bool:
    return line["ch"] == "ws" and line.get("dir") == "in" and ("json" in line or bool(line.get("binary")))
