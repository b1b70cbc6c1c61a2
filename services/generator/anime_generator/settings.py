"""Settings of the generator: times in seconds, sizes in megabytes."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from anime_common.settings import ServiceSettings
from anime_generator.comfyui.servers import ServersError, read_server
from anime_generator.device import SPEC
from anime_generator.engines import LOCAL
from anime_generator.registry import RegistryError, load_registry
from anime_generator.watchdog import Patience
from anime_generator.wire import MemoryRules


def default_worker() -> str:
    """The machine's name as a token: right for one generator a machine, and for the pods of a StatefulSet."""
    return re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower())[:32].strip("-") or "generator"


def _cache() -> Path:
    """The user's cache of this product; below the folder for temporary files where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tower-anime"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "tower-anime"


class GeneratorSettings(ServiceSettings):
    """Read from `ANIME_*`; see also `anime_common.settings`."""

    worker: str = Field(
        default_factory=default_worker, pattern=r"^[a-z0-9_-]{1,32}$", description="This worker's name; unique."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:<index> or simulated:<MiB>[:<fault file>].")
    device_id: str | None = Field(
        None, description="Id of the card, the same for all workers on it; default: its UUID."
    )
    models: Path | None = Field(None, description="The owner's models.toml, laid over the one that is shipped.")
    comfyui: Path | None = Field(
        None,
        description="File of ComfyUI servers: this worker drives the one of its own name, and draws nothing itself.",
    )
    models_poll: float = Field(
        3.0, gt=0, description="How often the registry's files, or the ComfyUI server, are looked at for changes."
    )
    cpu_threads: int | None = Field(
        None, ge=1, le=256, description="Threads of torch on the CPU; default: OMP_NUM_THREADS, else half of the cores."
    )
    heartbeat: float = Field(5.0, gt=0, le=10, description="Time between two heartbeats.")
    heartbeat_gap: float = Field(0.05, ge=0, le=1, description="Shortest time between two heartbeats.")
    generator_finish_grace: float = Field(5.0, ge=0, description="When stopping, how long a running attempt may go on.")
    generator_input_patience: float = Field(
        20.0, ge=0, description="How long to try to get the pictures that a job begins with before its attempt fails."
    )
    generator_staging_patience: float = Field(
        300.0, gt=0, description="How long to try to store a picture before its attempt fails."
    )
    generator_embedding_cache: int = Field(64, ge=0, description="Prompt embeddings to keep, in MB.")
    generator_preview_every: int = Field(3, ge=1, le=50, description="A preview every so many steps.")
    generator_preview_size: int = Field(256, ge=32, le=1024, description="Longer side of previews in pixels.")
    generator_host_cache: int | None = Field(
        None, ge=0, description="Models that leave the card wait in so many MB of memory; default: a quarter of it."
    )
    generator_yield_below: float = Field(
        5.0, ge=0, lt=100, description="Percent of the card free below which idle models are given up; 0: never."
    )
    generator_yield_until: float = Field(10.0, ge=0, lt=100, description="Percent of the card to make free then.")
    generator_yield_calm: float = Field(
        60.0, ge=0, description="Time with room on the card before preloaded models that were given up come back."
    )
    generator_look_every: float = Field(2.0, gt=0, description="Time between two looks at the card while idle.")
    generator_engine_delay: float = Field(0.2, gt=0, description="Wait before a lost engine process is replaced.")
    watchdog_start: float = Field(180.0, gt=0, description="Longest start of the engine process.")
    watchdog_load: float = Field(120.0, gt=0, description="Longest load of a model, beside what its bytes take.")
    watchdog_load_rate: float = Field(10.0, gt=0, description="MB a second at which the slowest disk loads a model.")
    watchdog_compile: float = Field(
        1800.0, gt=0, description="Longest compilation of a model whose options ask for it."
    )
    watchdog_step: float = Field(300.0, gt=0, description="Longest step, before steps of the model were measured.")
    watchdog_floor: float = Field(20.0, gt=0, description="A measured step may take this long at least.")
    watchdog_factor: float = Field(20.0, ge=2, description="A measured step may take so many times as long.")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(SPEC, value):
            raise ValueError("must be auto, cpu, cuda, cuda:<index> or simulated:<MiB>")
        return value

    @field_validator("models")
    @classmethod
    def _readable_registry(cls, value: Path | None) -> Path | None:
        try:
            load_registry(value, LOCAL)
        except RegistryError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("comfyui")
    @classmethod
    def _readable_servers(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        try:
            if value is not None and "worker" in info.data:
                read_server(value, info.data["worker"])
        except ServersError as error:
            raise ValueError(str(error)) from error
        return value

    def memory_rules(self) -> MemoryRules:
        """What the engine process needs to share the card with other programs."""
        return MemoryRules(
            host_cache=None if self.generator_host_cache is None else self.generator_host_cache << 20,
            low=self.generator_yield_below / 100,
            high=max(self.generator_yield_until, self.generator_yield_below) / 100,
            calm=self.generator_yield_calm,
            look_every=self.generator_look_every,
        )

    def patience(self) -> Patience:
        """What the watchdog of the engine process needs."""
        return Patience(
            start=self.watchdog_start,
            load=self.watchdog_load,
            load_rate=self.watchdog_load_rate * (1 << 20),
            compile=self.watchdog_compile,
            step=self.watchdog_step,
            floor=self.watchdog_floor,
            factor=self.watchdog_factor,
        )

    def engine_environment(self) -> dict[str, str]:
        """The environment of the engine process: ours without secrets, no hub, and only as many threads as help."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIME_")}
        cores = os.cpu_count() or 1
        threads = str(self.cpu_threads or inherited.get("OMP_NUM_THREADS") or max(cores // 2, 1))
        return {
            # Threads that spin while they wait starve the other services of a small machine.
            "OMP_WAIT_POLICY": "PASSIVE",
            # What was compiled is found again at the next start.
            "TORCHINDUCTOR_CACHE_DIR": str(_cache() / "compiled"),
            **inherited,
            "OMP_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
