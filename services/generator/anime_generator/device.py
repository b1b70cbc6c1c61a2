"""The device a worker computes on: the one seam for memory figures and simulated faults.

Memory is in bytes. `Cuda` imports torch, so only the engine's process may open it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from anime_common.contracts.generator import DeviceInfo

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CARD_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""One of them exists wherever torch could find a card: NVIDIA, the same under WSL, AMD."""


class DeviceError(Exception):
    """The device named cannot be opened."""


class OutOfMemoryError(Exception):
    """The device has no room for what was asked of it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in all, and bytes free for us now."""

    total: int
    free: int


class Device(Protocol):
    """What engines and the residency rules see of a card."""

    @property
    def id(self) -> str:
        """The same for every worker on the same card."""

    @property
    def kind(self) -> Literal["cuda", "cpu", "simulated"]:
        """Which implementation it is."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def torch_name(self) -> str:
        """What torch calls it: `cpu` or `cuda:<index>`."""

    def memory(self) -> Memory:
        """Total and free memory now."""

    def take(self, owner: str, size: int) -> None:
        """Account for memory that real devices account for themselves; raises OutOfMemoryError."""

    def give_back(self, owner: str) -> None:
        """Undo `take`."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The machine's own memory, within the limit of its control group."""

    id: str
    name: str = "CPU"
    kind: Literal["cpu"] = "cpu"
    torch_name: str = "cpu"

    def memory(self) -> Memory:
        """Physical memory, or the limit of the control group when that is smaller."""
        machine = _machine_memory()
        limit = _cgroup_value("memory.max")
        if limit is None or limit >= machine.total:
            return machine
        used = _cgroup_value("memory.current") or 0
        return Memory(limit, max(min(limit - used, machine.free), 0))

    def take(self, owner: str, size: int) -> None:
        """Nothing: the operating system accounts for it."""

    def give_back(self, owner: str) -> None:
        """Nothing: the operating system accounts for it."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """One NVIDIA card."""

    id: str
    name: str
    index: int
    kind: Literal["cuda"] = "cuda"

    @property
    def torch_name(self) -> str:
        """As torch calls it."""
        return f"cuda:{self.index}"

    def memory(self) -> Memory:
        """What the driver says, other programs' use included."""
        import torch

        free, total = torch.cuda.mem_get_info(self.index)
        return Memory(total, free)

    def take(self, owner: str, size: int) -> None:
        """Nothing: the driver accounts for it."""

    def give_back(self, owner: str) -> None:
        """Nothing: the driver accounts for it."""


@dataclass(slots=True)
class Simulated:
    """A card that exists in tests only: it has as much memory as it was given, and says no when that is gone."""

    id: str
    total: int
    name: str = "simulated card"
    kind: Literal["simulated"] = "simulated"
    torch_name: str = "cpu"
    taken: dict[str, int] = field(default_factory=dict)

    def memory(self) -> Memory:
        """What is not taken is free."""
        return Memory(self.total, self.total - sum(self.taken.values()))

    def take(self, owner: str, size: int) -> None:
        """Note that `owner` uses `size` bytes; raises OutOfMemoryError."""
        if size > self.memory().free:
            raise OutOfMemoryError(f"{owner} needs {size} bytes, {self.memory().free} are free")
        self.taken[owner] = self.taken.get(owner, 0) + size

    def give_back(self, owner: str) -> None:
        """What `owner` took is free again."""
        self.taken.pop(owner, None)


def open_device(spec: str, device_id: str | None = None) -> Device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:<index>` or `simulated[:<MiB>]`; raises DeviceError.

    `auto` takes the first card that torch can use, else the CPU. `device_id` overrides the id.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|simulated(:\d+)?", spec):
        raise DeviceError(f"there is no device {spec!r}: auto, cpu, cuda, cuda:<index> or simulated:<MiB> are known")
    kind, _, number = spec.partition(":")
    if kind == "simulated":
        return Simulated(device_id or f"simulated-{socket.gethostname()}", int(number or 12288) << 20)
    if kind == "cpu" or (kind == "auto" and not _cuda_usable()):
        return Cpu(device_id or f"cpu-{socket.gethostname()}", name=f"CPU, {os.cpu_count() or 1} cores")
    return _open_cuda(int(number or 0), device_id)


def device_info(device: Device) -> DeviceInfo:
    """The device as heartbeats tell it."""
    memory = device.memory()
    return DeviceInfo(
        id=device.id, kind=device.kind, name=device.name, memory_total=memory.total, memory_free=memory.free
    )


def _cuda_usable() -> bool:
    if not any(path.exists() for path in CARD_FILES):
        return False  # spares workers without a card the seconds that importing torch takes
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _open_cuda(index: int, device_id: str | None) -> Cuda:
    if not _cuda_usable():
        raise DeviceError("cuda was asked for, but torch finds no usable card: is its CUDA build installed?")
    import torch

    if index >= torch.cuda.device_count():
        raise DeviceError(f"there is no cuda:{index}: torch finds {torch.cuda.device_count()} cards")
    properties = torch.cuda.get_device_properties(index)
    return Cuda(device_id or f"cuda-{properties.uuid}", properties.name, index)


def _machine_memory() -> Memory:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    if not MEMINFO.exists():
        return Memory(total, total // 2)
    figures = dict(re.findall(r"^(\w+):\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE))
    return Memory(total, int(figures["MemAvailable"]) << 10)


def _cgroup_value(name: str) -> int | None:
    """A figure of our control group (v2), None when there is none or no limit."""
    try:
        text = (CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
