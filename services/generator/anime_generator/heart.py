"""Heartbeats: the whole state of the worker every few seconds, and at once when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anime_common.contracts.generator import Heartbeat
from anime_generator import __version__, metrics
from anime_generator.model import Stage
from anime_generator.residency import Tier

if TYPE_CHECKING:
    from collections.abc import Callable

    from anime_common.bus import Bus
    from anime_common.contracts.generator import FactPosition
    from anime_generator.engine_host import EngineHost
    from anime_generator.model import Worker
    from anime_generator.registry.live import Catalogue

SLOTS = 1
"""One engine process, one run at a time."""


class Heart:
    """Beats while the engine process is known, at once when `news` is set; news close together share a beat."""

    def __init__(
        self,
        bus: Bus,
        host: EngineHost,
        news: asyncio.Event,
        *,
        worker: Callable[[], Worker],
        last_fact: Callable[[], FactPosition | None],
        registry: Catalogue,
        interval: float,
        gap: float,
    ) -> None:
        self._bus = bus
        self._host = host
        self._worker = worker
        self._last_fact = last_fact
        self._registry = registry
        self._told: tuple[object, float] = ((), -math.inf)
        self._interval = interval
        self._gap = gap
        self._news = news
        bus.on_reconnect(news.set)

    async def beat(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            self._news.clear()
            await self.send()
            await asyncio.sleep(self._gap)
            # Not wait_for: before Python 3.12 it swallows a cancel that coincides with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._interval - self._gap, 0.0)):
                    await self._news.wait()

    async def send(self, *, goodbye: bool = False) -> None:
        """Send one now; before the engine process has told of its device there is nothing to say."""
        found = self.heartbeat(goodbye=goodbye)
        if found is not None:
            await self._bus.tell(found)

    def heartbeat(self, *, goodbye: bool = False) -> Heartbeat | None:
        """The worker as it is now. Without a usable engine process it has no models, so it is offered nothing."""
        worker, host = self._worker(), self._host
        self._measure(worker)
        if host.device is None:
            return None
        free = SLOTS - worker.busy() if host.usable and not worker.draining else 0
        loras, embeddings = self._registry.current.announced()
        brief = self._brief((loras, embeddings)) and not goodbye
        return Heartbeat(
            worker=worker.name,
            incarnation=worker.incarnation,
            started_at=worker.started_at,
            sent_at=datetime.now(UTC),
            version=__version__,
            device=host.device,
            engines=tuple(sorted({model.engine for model in host.models})),
            models=host.models if host.usable else (),
            resident=host.resident,
            residency=host.residency,
            slots=SLOTS,
            free_slots=max(free, 0),
            loras=() if brief else loras,
            embeddings=() if brief else embeddings,
            brief=brief,
            warnings=self._registry.warnings(),
            batch_limit=self._registry.current.batch_limit(),
            batch_limits=host.batch_limits,
            backlog=self._registry.backlog,
            draining=worker.draining,
            goodbye=goodbye,
            attempts=() if goodbye else tuple(attempt.held() for attempt in worker.attempts.values()),
            last_fact=self._last_fact(),
        )

    def _brief(self, adapters: tuple[tuple[object, ...], ...]) -> bool:
        """Whether LoRAs and embeddings, of which there may be many, were told lately enough to be left out.

        Beats at once on change are frequent; what gets lost of one is told again within the interval.
        """
        told, at = self._told
        now = time.monotonic()
        if not any(adapters) or (told == adapters and now - at < self._interval / 2):
            return any(adapters)
        self._told = (adapters, now)
        return False

    def _measure(self, worker: Worker) -> None:
        for stage in Stage:
            metrics.HELD.labels(stage=stage).set(len(worker.in_stage(stage)))
        metrics.ENGINE_USABLE.set(self._host.usable)
        metrics.RESIDENT.set(len(self._host.resident))
        for tier in Tier:
            size = sum(model.bytes for model in self._host.residency if model.tier == tier)
            metrics.RESIDENT_BYTES.labels(tier=tier).set(size)
        if self._host.device is not None:
            metrics.MEMORY_FREE.set(self._host.device.memory_free)
