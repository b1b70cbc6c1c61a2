"""The device a worker computes on: the one seam for memory figures and simulated faults.

Memory is in bytes. `Cuda` imports torch, so only the engine's process may open it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from anime_common.contracts.generator import DeviceInfo
from anime_generator.comfyui.card import RemoteCard
from anime_generator.memory import NO_MEMORY, Demand, Memory
from anime_generator.simulated import Simulated

if TYPE_CHECKING:
    from anime_generator.comfyui.servers import Remote

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
CGROUP = Path("/sys/fs/cgroup")
CARD_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""One of them exists wherever torch could find a card: NVIDIA, the same under WSL, AMD."""


SPEC = r"auto|cpu|cuda(:\d+)?|simulated(:\d+(:/.+)?)?"
"""What names a device. The file of a simulated one is described in `simulated.py`."""


class DeviceError(Exception):
    """The device named cannot be opened."""


class Device(Protocol):
    """What engines and the residency rules see of a card."""

    @property
    def id(self) -> str:
        """The same for every worker on the same card."""

    @property
    def kind(self) -> Literal["cuda", "cpu", "simulated", "other"]:
        """What computes there."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def torch_name(self) -> str:
        """What torch calls it: `cpu` or `cuda:<index>`."""

    def memory(self) -> Memory:
        """Total and free memory now."""

    def held(self) -> int:
        """Bytes of it that this process holds."""

    def host_memory(self) -> Memory:
        """The machine's own memory, where weights can wait; none where it is the same as the device's."""

    def release(self) -> None:
        """Give back what the allocator keeps in reserve."""

    def take(self, owner: str, size: int) -> None:
        """Account for memory that real devices account for themselves; raises OutOfMemoryError."""

    def give_back(self, owner: str) -> None:
        """Undo `take`."""

    def demand(self, demand: Demand) -> None:
        """Told before work that takes memory. Real devices find out by themselves; a simulated one may say no."""


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

    def held(self) -> int:
        """Physical memory of this process."""
        try:
            return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def host_memory(self) -> Memory:
        """None: weights that wait in this very memory would take as much room as weights in use."""
        return NO_MEMORY

    def release(self) -> None:
        """Nothing: the C library decides."""

    def take(self, owner: str, size: int) -> None:
        """Nothing: the operating system accounts for it."""

    def give_back(self, owner: str) -> None:
        """Nothing: the operating system accounts for it."""

    def demand(self, demand: Demand) -> None:
        """Nothing: it fails when it fails."""


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

    def held(self) -> int:
        """What torch's allocator has reserved; the driver's own context is not known to it."""
        import torch

        return int(torch.cuda.memory_reserved(self.index))

    def host_memory(self) -> Memory:
        """The machine's, within its control group."""
        return Cpu("host").memory()

    def release(self) -> None:
        """Hand the allocator's empty blocks back to the driver, where other programs see them."""
        import torch

        torch.cuda.empty_cache()

    def take(self, owner: str, size: int) -> None:
        """Nothing: the driver accounts for it."""

    def give_back(self, owner: str) -> None:
        """Nothing: the driver accounts for it."""

    def demand(self, demand: Demand) -> None:
        """Nothing: it fails when it fails."""


def open_device(spec: str, device_id: str | None = None, remote: Remote | None = None) -> Device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:<index>` or `simulated[:<MiB>[:<file>]]`; raises DeviceError.

    `auto` takes the first card that torch can use, else the CPU. `device_id` overrides the id.
    With a `remote` server that draws for us, it is that one's, whatever `spec` says.
    """
    if remote is not None:
        return RemoteCard(remote, device_id)
    found = re.fullmatch(SPEC, spec)
    if found is None:
        raise DeviceError(f"there is no device {spec!r}: auto, cpu, cuda, cuda:<index> or simulated:<MiB> are known")
    kind, _, rest = spec.partition(":")
    if kind == "simulated":
        size, _, script = rest.partition(":")
        name = device_id or f"simulated-{socket.gethostname()}"
        return Simulated(name, int(size or 12288) << 20, script=Path(script) if script else None)
    if kind == "cpu" or (kind == "auto" and not _cuda_usable()):
        return Cpu(device_id or f"cpu-{socket.gethostname()}", name=f"CPU, {os.cpu_count() or 1} cores")
    return _open_cuda(int(rest or 0), device_id)


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
