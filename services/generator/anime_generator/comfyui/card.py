"""The card that a ComfyUI server draws on, as far as the server tells of it (`/system_stats`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from anime_generator.comfyui.server import Refused, Server, TooLarge, Unreachable
from anime_generator.comfyui.servers import Remote
from anime_generator.memory import NO_MEMORY, Demand, Memory

FRESH = 1.0
"""Seconds for which figures are not asked for again."""
ANSWERS_WITHIN = 3.0
KINDS: Mapping[str, Literal["cuda", "cpu"]] = {"cuda": "cuda", "cpu": "cpu"}


class RemoteCard:
    """The memory of somebody else's card. The figures are those of the last answer while the server is away."""

    torch_name = ""

    def __init__(self, remote: Remote, device_id: str | None) -> None:
        self.id = remote.device or device_id or f"comfyui-{remote.name}"
        self._server = Server(remote.url, remote.headers, ANSWERS_WITHIN)
        self._told: Mapping[str, Any] = {}
        self._asked = float("-inf")

    def close(self) -> None:
        """Let go of the connections."""
        self._server.close()

    @property
    def kind(self) -> Literal["cuda", "cpu", "other"]:
        """What the server computes on."""
        return KINDS.get(str(self._told.get("type", "")), "other")

    @property
    def name(self) -> str:
        """What the server calls it; before its first answer nobody knows."""
        name = str(self._told.get("name", "")).removeprefix("cuda:0 ").split(" : ")[0].strip()
        return f"ComfyUI: {name}" if name else "ComfyUI"

    def memory(self) -> Memory:
        """Bytes in all and free, of the first device that the server draws with."""
        self._ask()
        return Memory(_bytes(self._told, "vram_total"), _bytes(self._told, "vram_free"))

    def held(self) -> int:
        """Bytes that the server itself holds."""
        self._ask()
        return max(_bytes(self._told, "torch_vram_total"), 0)

    def host_memory(self) -> Memory:
        """None of ours: the server keeps models where it likes."""
        return NO_MEMORY

    def release(self) -> None:
        """Nothing: the server's allocator is its own."""

    def take(self, owner: str, size: int) -> None:
        """Nothing: the server accounts for it."""

    def give_back(self, owner: str) -> None:
        """Nothing: the server accounts for it."""

    def demand(self, demand: Demand) -> None:
        """Nothing: it fails when it fails."""

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked < FRESH:
            return
        try:
            devices = self._server.stats().get("devices")
        except (Unreachable, Refused, TooLarge):
            return  # that it is away is told elsewhere
        finally:
            self._asked = time.monotonic()
        if isinstance(devices, list) and devices and isinstance(devices[0], Mapping):
            self._told = devices[0]


def _bytes(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
