"""How many pictures fit into one forward pass of a model, as memory has shown. Pure.

The registry says how many at most. Running out of memory halves that for pictures of this size and larger ones; a row
of full passes that went well adds one again. Each time that was too much, the next row must be twice as long. When
even one picture did not fit, it is drawn in slices and tiles, and after a row of those without once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from anime_generator.sizes import size_class

FIRST_ROW = 8
LONGEST_ROW = 1024


@dataclass(slots=True)
class _Fit:
    """What one model can do at one size class; `risky` since it was allowed more than had been shown to fit."""

    limit: int | None = None
    economical: bool = False
    row: int = FIRST_ROW
    good: int = 0
    risky: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """How to draw: pictures at once, and whether in slices and tiles."""

    pictures: int
    economical: bool = False


@dataclass(slots=True)
class BatchLimits:
    """The measured limits of all models of a worker."""

    _fits: dict[tuple[str, int], _Fit] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)

    def plan(self, model: str, pixels: int, configured: int) -> Pass:
        """How to draw pictures of so many pixels; no better than what was learned of smaller ones."""
        at = size_class(pixels)
        self._latest[model] = at
        return self._plan(model, at, configured)

    def overflowed(self, model: str, pixels: int, tried: Pass, *, halve: bool) -> None:
        """A pass ran out of memory: half as many pictures next time, or (`halve` false) in slices and tiles."""
        fit = self._fits.setdefault((model, size_class(pixels)), _Fit())
        if fit.risky:
            fit.row = min(2 * fit.row, LONGEST_ROW)
        fit.good, fit.risky = 0, False
        if halve:
            fit.limit = max(tried.pictures // 2, 1)
        else:
            fit.economical = True

    def fitted(self, model: str, pixels: int, tried: Pass, *, full: bool) -> None:
        """A run went well, which says as much of smaller sizes. `full` when as many pictures as allowed were drawn."""
        at = size_class(pixels)
        for (name, size), fit in self._fits.items():
            if name == model and size <= at and full and (fit.economical or fit.limit is not None):
                fit.good += 1
                if fit.good >= fit.row:
                    _dare(fit, tried)

    def announced(self, configured: dict[str, int]) -> dict[str, int]:
        """By model, what differs from `configured` for pictures of the size drawn last."""
        limits = {
            model: self._plan(model, at, configured[model]).pictures
            for model, at in self._latest.items()
            if model in configured
        }
        return {model: limit for model, limit in limits.items() if limit != configured[model]}

    def _plan(self, model: str, at: int, configured: int) -> Pass:
        known = [fit for (name, size), fit in self._fits.items() if name == model and size <= at]
        limit = min([configured, *(fit.limit for fit in known if fit.limit is not None)])
        return Pass(limit, any(fit.economical for fit in known))


def _dare(fit: _Fit, tried: Pass) -> None:
    """Allow a little more after a row without trouble."""
    fit.good, fit.risky = 0, True
    if fit.economical:
        fit.economical = False
    else:
        fit.limit = max(fit.limit or 1, tried.pictures) + 1
