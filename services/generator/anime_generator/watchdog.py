"""When silence of the engine process means that it hangs. Pure: time is an argument, in seconds.

A step that is slow on this machine is told from one that never ends by what steps of the same model have taken: the
unit of work is one pixel of one picture through one denoising step.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for a sign of life: to start, to load a model, for a step whose length is not known yet.

    A step whose length is known may take `factor` times as long, but never less than `floor`.
    """

    start: float = 180.0
    load: float = 600.0
    step: float = 300.0
    floor: float = 20.0
    factor: float = 20.0


@dataclass(slots=True)
class Watchdog:
    """Knows until when the next sign of life must come; `deadline` is None while nothing is expected."""

    patience: Patience
    deadline: float | None = None
    _rates: dict[str, float] = field(default_factory=dict)
    _model: str = ""
    _work: float = 1.0
    _last_step: float | None = None

    def starting(self, now: float) -> None:
        """The process was started."""
        self.deadline = now + self.patience.start

    def loading(self, now: float) -> None:
        """A model is being loaded."""
        self.deadline = now + self.patience.load

    def running(self, model: str, work: float, now: float) -> None:
        """A run was ordered; `work` is the pixels of one forward pass."""
        self._model, self._work, self._last_step = model, max(work, 1.0), None
        self.deadline = now + self.patience.step

    def sampling(self, now: float) -> None:
        """The first step is due."""
        self._last_step = now
        self.deadline = now + self._allowance()

    def stepped(self, now: float) -> None:
        """A step is done: learn its length."""
        if self._last_step is not None:
            rate = (now - self._last_step) / self._work
            known = self._rates.get(self._model)
            # The slowest counts, fading slowly: contention comes in bursts.
            self._rates[self._model] = rate if known is None else max(rate, 0.98 * known)
        self.sampling(now)

    def other_sign(self, now: float) -> None:
        """Some other sign of life within a run: encoding, decoding and saving have no measure."""
        self.deadline = now + self.patience.step

    def idle(self) -> None:
        """Nothing is expected."""
        self.deadline = None

    def _allowance(self) -> float:
        known = self._rates.get(self._model)
        if known is None:
            return self.patience.step
        return max(self.patience.floor, self.patience.factor * known * self._work)
