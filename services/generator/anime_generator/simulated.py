"""A card that exists in tests only: as much memory as it was given, and every fault of a real one on request.

A fault file, named in the device's spec and read at every look, makes it a card that other programs use as well:

    {"others_mb": 3000, "activation_bytes": 40, "faults": [{"phase": "sampling", "step": 3, "times": 2}]}

`activation_bytes` are taken per pixel and picture while a pass runs, a quarter of that where work is done in slices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from anime_common.contracts.vocabulary import Phase
from anime_generator.memory import Demand, DeviceFaultError, Memory, OutOfMemoryError

if TYPE_CHECKING:
    from pathlib import Path

ECONOMY = 4
"""How much less work in slices and tiles takes."""


@dataclass(slots=True)
class Fault:
    """Say no to demands like this one, `times` times (0: always), after letting `skip` of them pass.

    `over` spares passes of so many pictures or fewer, `frugal=False` work in slices and tiles. `kind` is what a real
    card would do: run out of memory, or fail for good.
    """

    phase: Phase
    step: int = 0
    model: str = ""
    over: int = 0
    frugal: bool = True
    times: int = 1
    skip: int = 0
    kind: Literal["memory", "context"] = "memory"
    struck: int = 0

    def meets(self, demand: Demand) -> bool:
        """Whether it strikes now."""
        same = demand.phase is self.phase and self.step in {0, demand.step} and self.model in {"", demand.model}
        spared = demand.pictures <= self.over or (demand.economical and not self.frugal)
        if not same or spared or (self.times and self.struck >= self.skip + self.times):
            return False
        self.struck += 1
        return self.struck > self.skip


@dataclass(slots=True)
class Simulated:
    """See the module's text. Host memory is simulated as well; `script` is the fault file."""

    id: str
    total: int
    name: str = "simulated card"
    kind: Literal["simulated"] = "simulated"
    torch_name: str = "cpu"
    taken: dict[str, int] = field(default_factory=dict)
    others: int = 0
    activation: int = 0
    faults: list[Fault] = field(default_factory=list)
    host: Memory | None = None
    script: Path | None = None
    _read: str = ""

    def memory(self) -> Memory:
        """What neither we nor others have taken is free."""
        self._look()
        return Memory(self.total, max(self.total - self.held() - self.others, 0))

    def held(self) -> int:
        """What this process has taken."""
        return sum(self.taken.values())

    def host_memory(self) -> Memory:
        """As given; else twice the card's, all of it free."""
        return self.host or Memory(2 * self.total, 2 * self.total)

    def release(self) -> None:
        """Nothing is kept in reserve."""

    def take(self, owner: str, size: int) -> None:
        """Note that `owner` uses `size` bytes; raises OutOfMemoryError."""
        if size > self.memory().free:
            raise OutOfMemoryError(f"{owner} needs {size} bytes, {self.memory().free} are free")
        self.taken[owner] = self.taken.get(owner, 0) + size

    def give_back(self, owner: str) -> None:
        """What `owner` took is free again."""
        self.taken.pop(owner, None)

    def demand(self, demand: Demand) -> None:
        """Say no as a fault says, or because a pass of that size does not fit."""
        self._look()
        for fault in self.faults:
            if fault.meets(demand):
                where = f"{demand.phase} {demand.model}, step {demand.step}, {demand.pictures} pictures"
                if fault.kind == "context":
                    raise DeviceFaultError(f"simulated: the context is lost at {where}")
                raise OutOfMemoryError(f"simulated: no room at {where}")
        per_pixel = self.activation // ECONOMY if demand.economical else self.activation
        needed = per_pixel * demand.pixels * demand.pictures
        if needed > self.memory().free:
            raise OutOfMemoryError(f"a pass needs {needed} bytes, {self.memory().free} are free")

    def _look(self) -> None:
        """Take in the fault file when it has changed; one that is half written is looked at again."""
        if self.script is None:
            return
        try:
            text = self.script.read_text(encoding="utf-8")
            if text == self._read:
                return
            said: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return
        self._read = text
        self.others = int(said.get("others_mb", 0)) << 20
        self.activation = int(said.get("activation_bytes", 0))
        self.faults = [Fault(**{**fault, "phase": Phase(fault["phase"])}) for fault in said.get("faults", [])]
