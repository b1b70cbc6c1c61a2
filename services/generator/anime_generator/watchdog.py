"""When silence of the engine process means that it hangs. Pure: time is an argument, in seconds.

Work that is slow on this machine is told from work that never ends by what the same model's work has taken. Each kind
of work has a measure of its own: a step by the pixels of its pass, the first step of a run (which may compile, or warm
up a card) likewise but apart, a decoded picture by its pixels, encoding by itself; loading by the model's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from anime_common.contracts.vocabulary import Phase

FADING = 0.98
"""The slowest counts, fading slowly: contention comes in bursts."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for a sign of life: to start, to load a model, for work whose length is not known yet.

    Loading may take what its bytes take at `load_rate` bytes a second besides. Work whose length is known may take
    `factor` times as long, but never less than `floor`. `compile` is for models that are compiled: while they load, and
    at every first step, since another size or LoRA compiles anew whatever first steps took before.
    """

    start: float = 180.0
    load: float = 120.0
    load_rate: float = 10.0 * (1 << 20)
    compile: float = 1800.0
    step: float = 300.0
    floor: float = 20.0
    factor: float = 20.0


class Work(StrEnum):
    """What a sign of life is due of."""

    ENCODING = "encoding"
    FIRST_STEP = "first step"
    STEP = "step"
    DECODING = "decoding"
    OTHER = "other"


@dataclass(slots=True)
class Watchdog:
    """Knows until when the next sign of life must come; `deadline` is None while nothing is expected."""

    patience: Patience
    deadline: float | None = None
    _rates: dict[tuple[str, Work], float] = field(default_factory=dict)
    _compiled: set[str] = field(default_factory=set)
    _model: str = ""
    _pixels: float = 1.0
    _width: float = 1.0
    _doing: Work = Work.OTHER
    _since: float | None = None

    def starting(self, now: float) -> None:
        """The process was started."""
        self.deadline = now + self.patience.start

    def loading(self, model: str, size: int, now: float, *, compiled: bool = False) -> None:
        """A model of so many bytes is being loaded; in a run it is the one that draws from now on."""
        self._model, self._doing, self._since = model, Work.OTHER, None
        self.deadline = now + self.patience.load + size / self.patience.load_rate
        self._compiled.discard(model)
        if compiled:
            self._compiled.add(model)
            self.deadline += self.patience.compile

    def running(self, model: str, pixels: float, width: int, now: float) -> None:
        """A run was ordered of pictures with so many pixels, at most `width` in one forward pass."""
        self._model, self._pixels, self._width = model, max(pixels, 1.0), max(width, 1)
        self._expect(Work.OTHER, now)

    def began(self, phase: Phase, now: float) -> None:
        """A phase of the run begins; the one before it is over."""
        if self._doing is Work.ENCODING:
            self._learn(now)
        work = {Phase.ENCODING: Work.ENCODING, Phase.SAMPLING: Work.FIRST_STEP, Phase.DECODING: Work.DECODING}
        self._expect(work.get(phase, Work.OTHER), now)

    def stepped(self, now: float) -> None:
        """A step is done: learn its length."""
        self._learn(now)
        self._expect(Work.STEP, now)

    def painted(self, now: float) -> None:
        """A picture is decoded and saved."""
        self._learn(now)
        self._expect(Work.DECODING, now)

    def other_sign(self, now: float) -> None:
        """Some other sign of life within a run, which ends nothing that has a measure."""
        if self.deadline is not None and self._doing is Work.OTHER:
            self._expect(Work.OTHER, now)

    def waited(self, now: float) -> None:
        """What draws elsewhere has been asked: how long it may take is not ours to watch over."""
        if self.deadline is not None:
            self.deadline, self._since = now + self.patience.step, None

    def idle(self) -> None:
        """Nothing is expected."""
        self.deadline, self._since = None, None

    def _expect(self, work: Work, now: float) -> None:
        self._doing, self._since = work, now
        known = self._rates.get((self._model, work))
        if work is Work.OTHER or known is None:
            self.deadline = now + self.patience.step
        else:
            self.deadline = now + max(self.patience.floor, self.patience.factor * known * self._measure(work))
        if work is Work.FIRST_STEP and self._model in self._compiled:
            self.deadline = max(self.deadline, now + self.patience.compile)

    def _learn(self, now: float) -> None:
        """What was in hand has taken until now."""
        if self._since is None or self._doing is Work.OTHER:
            return
        key = (self._model, self._doing)
        rate = (now - self._since) / self._measure(self._doing)
        self._rates[key] = max(rate, FADING * self._rates.get(key, 0.0))

    def _measure(self, work: Work) -> float:
        if work is Work.ENCODING:
            return 1.0
        return self._pixels * (1.0 if work is Work.DECODING else self._width)
