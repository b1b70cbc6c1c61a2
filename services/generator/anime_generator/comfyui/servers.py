"""The file of ComfyUI servers, `comfyui.toml`: where they are, and what their files are called here.

    [servers.tower]                          # the name of the worker that drives it
    url = "http://127.0.0.1:8188"
    device = "cuda-GPU-5f3c…"                # the card's id, when other workers draw on it too
    workflows = "flows"                      # a folder of own workflows; default: "workflows" beside this file
    headers = { Authorization = "file:secrets/comfyui" }  # or the value itself
    inline = true                            # jobs may bring whole workflows; default: false
    inline_nodes = ["FaceDetailer"]          # of these node classes too, beside the usual ones

    [checkpoints."sdxl/animagine-xl-4.0.safetensors"]  # as the server calls it; needed only for what differs
    key = "animagine"
    family = "sdxl"

Every mistake of a file is reported at once, by the key of its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from anime_common.contracts.vocabulary import ModelKey, Name, Sampler
from anime_common.messages import Model, Request
from anime_generator.registry.entries import ClipSkip, Defaults, Note, PresetEntry, PresetName, Sizes, Steps, Weight

WORKER = r"^[a-z0-9_-]{1,32}$"
"""What a worker may be called."""
WORKFLOWS = "workflows"
"""The folder of own workflows, beside the file of servers, unless that says otherwise; it need not be there."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header may be called (RFC 9110 §5.6.2)."""

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]


class ServersError(Exception):
    """The file cannot be used; `problems` are lines of the form `key: what is wrong`."""

    def __init__(self, file: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))
        self.problems = problems


class ServerEntry(Request):
    """One `[servers.<name>]` table. `unreachable` and `stalled` are how long a job waits for a server that does not
    answer, or answers without getting on.
    """

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
    device: Name | None = None
    workflows: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    unreachable: Seconds = 120.0
    stalled: Seconds = 900.0
    inline: bool = False
    inline_nodes: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()


class CheckpointEntry(Request):
    """One `[checkpoints."<file>"]` table."""

    key: Key | None = None
    title: Note = ""
    licence: Note = ""
    family: Annotated[str, Field(max_length=64)] = ""
    clip_skip: ClipSkip = 1
    defaults: Defaults | None = None
    sizes: Sizes = Sizes()
    max_steps: Steps = 150
    samplers: tuple[Sampler, ...] = ()
    presets: dict[PresetName, PresetEntry] = Field(default_factory=dict)
    default: bool = False
    enabled: bool = True


class LoraFileEntry(Request):
    """One `[loras."<file>"]` table."""

    key: Key | None = None
    title: Note = ""
    licence: Note = ""
    family: Annotated[str, Field(max_length=64)] = ""
    models: tuple[ModelKey, ...] = ()
    trigger_words: tuple[Annotated[Name, Field(max_length=200)], ...] = ()
    weight: Weight = 1.0
    enabled: bool = True


class _File(Request):
    servers: dict[Annotated[str, StringConstraints(pattern=WORKER)], ServerEntry]
    checkpoints: dict[str, CheckpointEntry] = Field(default_factory=dict)
    loras: dict[str, LoraFileEntry] = Field(default_factory=dict)


class Remote(Model):
    """A server as the engine process is told of it; seconds."""

    name: str
    url: str
    device: str | None = None
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    workflows: Path | None = None
    unreachable: float = 120.0
    stalled: float = 900.0
    inline: bool = False
    inline_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Servers:
    """What the file says: servers by name, and entries for files by what a server calls them."""

    servers: Mapping[str, Remote]
    checkpoints: Mapping[str, CheckpointEntry]
    loras: Mapping[str, LoraFileEntry]


def load_servers(file: Path) -> Servers:
    """Read the file; raises ServersError with every mistake at once."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        found = _File.model_validate(tables)
    except OSError as error:
        raise ServersError(file, [f"cannot be read: {error.strerror}"]) from error
    except ValidationError as error:
        lines = error.errors(include_url=False, include_context=False, include_input=False)
        raise ServersError(file, [f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in lines]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ServersError(file, [f"not a TOML file: {error}"]) from error
    problems: list[str] = []
    servers = {name: _remote(name, entry, file.absolute().parent, problems) for name, entry in found.servers.items()}
    if not servers:
        problems.append("servers: at least one server is needed")
    for section, keys in (("checkpoints", found.checkpoints), ("loras", found.loras)):
        problems += _twice(section, [entry.key for entry in keys.values() if entry.key is not None])
    if problems:
        raise ServersError(file, problems)
    return Servers(servers, found.checkpoints, found.loras)


def read_server(file: Path, name: str) -> tuple[Servers, Remote]:
    """The file, and the server of a name in it; raises ServersError."""
    servers = load_servers(file)
    if (remote := servers.servers.get(name)) is None:
        known = ", ".join(servers.servers)
        text = f"servers.{name}: is missing: a worker drives the server of its own name; known: {known}"
        raise ServersError(file, [text])
    return servers, remote


def _remote(name: str, entry: ServerEntry, folder: Path, problems: list[str]) -> Remote:
    where = f"servers.{name}"
    headers = {
        header: _secret(f"{where}.headers.{header}", value, folder, problems) for header, value in entry.headers.items()
    }
    problems += [
        f"{where}.headers: {header!r} is no header's name" for header in headers if not _HEADER.fullmatch(header)
    ]
    workflows = folder / Path(entry.workflows or WORKFLOWS).expanduser()
    if entry.workflows is not None and not workflows.is_dir():
        problems.append(f"{where}.workflows: {workflows} is no folder")
    return Remote(
        name=name,
        url=entry.url.rstrip("/"),
        device=entry.device,
        headers=headers,
        workflows=workflows,
        unreachable=entry.unreachable,
        stalled=entry.stalled,
        inline=entry.inline,
        inline_nodes=entry.inline_nodes,
    )


def _secret(where: str, value: str, folder: Path, problems: list[str]) -> str:
    """A header's value: as it stands, or what is in a file (`file:PATH`)."""
    kind, _, rest = value.partition(":")
    if kind == "file":
        try:
            value = (folder / Path(rest).expanduser()).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{where}: {rest} cannot be read: {error}")
    if not value.isprintable() or not value.isascii():
        problems.append(f"{where}: only printable ASCII characters may stand in a header")
    return value


def _twice(section: str, keys: list[str]) -> list[str]:
    return [f"{section}: the key {key} is given to two files" for key in sorted({k for k in keys if keys.count(k) > 1})]
