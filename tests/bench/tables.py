"""Results as tables: for people in Markdown, for programs as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; `None` is a value that there is not."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def markdown(self) -> str:
        """The table in Markdown, aligned so that it reads well in a terminal too; numbers stand to the right."""
        cells = [[shown(cell) for cell in row] for row in self.rows]
        widths = [max(len(line[at]) for line in (self.columns, *cells)) for at in range(len(self.columns))]
        numeric = [all(not isinstance(row[at], str) for row in self.rows) for at in range(len(self.columns))]
        lines = [
            _line(self.columns, widths, numeric),
            "|"
            + "|".join(
                "-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)
            )
            + "|",
            *(_line(row, widths, numeric) for row in cells),
        ]
        return "\n".join([f"**{self.title}**", "", *lines] if self.title else lines)

    def records(self) -> list[dict[str, Cell]]:
        """The rows by name of column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def shown(cell: Cell) -> str:
    """A value as people read it: three digits that count, thousands apart."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"


@dataclass(slots=True)
class Result:
    """What one part of the benchmark found. One that failed has a `problem` and no numbers: no rate without audit."""

    name: str
    title: str
    settings: Mapping[str, Cell] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    problem: str | None = None

    def markdown(self) -> str:
        """The section of this part."""
        parts = [f"## {self.title}"]
        if self.problem is not None:
            parts.append(f"**Not measured:** {self.problem}")
        parts += [table.markdown() for table in self.tables]
        parts += self.remarks
        if self.settings:
            parts.append(
                "Settings: " + ", ".join(f"{name} {shown(value)}" for name, value in self.settings.items()) + "."
            )
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "title": self.title,
            "settings": dict(self.settings),
            "numbers": self.numbers,
            "tables": [{"title": table.title, "rows": table.records()} for table in self.tables],
            "remarks": self.remarks,
            "problem": self.problem,
        }
