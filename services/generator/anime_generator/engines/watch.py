"""What a forward pass tells while it runs: steps and previews; and how it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anime_generator.engines.protocol import Cancelled, Previewed, Stepped, wanted

if TYPE_CHECKING:
    from anime_generator.device import Device
    from anime_generator.engines.beginnings import Beginning
    from anime_generator.engines.previews import PreviewMap
    from anime_generator.engines.protocol import Cancel, EngineOptions, OnProgress, Picture
    from anime_generator.memory import Demand

PREVIEW_SHARE = 0.02
"""Of the sampling time, what previews may take all in all; the first one is made whatever it costs."""
FIRST_PREVIEW = 3


class PreviewBudget:
    """Decides after which steps a preview is affordable. Times in seconds."""

    def __init__(self, every: int, began: float) -> None:
        self._every = every
        self._began = began
        self._spent = 0.0
        self._latest: float | None = None

    def due(self, step: int, now: float) -> bool:
        """Whether to make one after this step: the first one early, later ones only within their share."""
        if self._latest is None:
            return step >= min(FIRST_PREVIEW, self._every)
        affordable = self._spent + self._latest <= PREVIEW_SHARE * (now - self._began)
        return affordable and step % self._every == 0

    def paid(self, seconds: float) -> None:
        """One was made; the first counts against those after it."""
        self._spent += seconds
        self._latest = seconds


class Watch:
    """Looks over a forward pass: tells of steps and previews, and stops it once every picture is cancelled."""

    def __init__(
        self,
        device: Device,
        demand: Demand,
        preview: PreviewMap,
        pictures: tuple[Picture, ...],
        beginning: Beginning,
        options: EngineOptions,
        on_progress: OnProgress,
        cancel: Cancel,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device = device
        self._demand = demand
        self._map = preview
        self._pictures = pictures
        self._steps, self._before, self._total = beginning.made, beginning.before, beginning.total
        self._size = options.preview_size
        self._tell = on_progress
        self._cancel = cancel
        self._clock = clock
        self._estimate: Any = None
        self._budget = PreviewBudget(options.preview_every, clock())

    def begin(self) -> None:
        """The first step is next."""
        self._device.demand(replace(self._demand, step=1))

    def estimated(self, x0: Any) -> None:
        """Remember the sampler's latest estimate of the finished latents."""
        self._estimate = x0

    def stepped(self, _pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback after step `index` (from 0); raises Cancelled."""
        left = wanted(self._pictures, self._cancel)
        if not left:
            raise Cancelled
        step = index + 1
        self._tell(Stepped(left, self._before + step, self._total))
        if step < self._steps:
            if self._budget.due(step, self._clock()):
                began = self._clock()
                self._preview(left)
                self._budget.paid(self._clock() - began)
            self._device.demand(replace(self._demand, step=step + 1))
        return tensors

    def _preview(self, left: tuple[Picture, ...]) -> None:
        for picture, latent in zip(self._pictures, self._estimate, strict=True):
            if picture in left:
                self._tell(Previewed(picture, self._map.jpeg(latent, self._size)))
