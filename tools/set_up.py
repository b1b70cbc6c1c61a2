"""Makes the virtual environment: tools, the chosen build of torch, and every package of this repository, editable.

Runs on the bare interpreter (standard library only). Versions come from `constraints.txt`. A second run installs
only what has changed.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

TOOLS = (
    "asyncpg-stubs",
    "editables",
    "hatchling",
    "hypothesis",
    "jsonschema",
    "mypy",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pyyaml",
    "ruff",
    "schemathesis",
    "types-jsonschema",
    "types-pyyaml",
)
DATA = ("open_clip_torch",)
"""Installed for the data they carry (CLIP's vocabulary), never imported: without what they say they need."""
PACKAGES = (
    "libs/common",
    "libs/cli",
    "services/jobs",
    "services/generator[diffusers,upscale]",
    "services/files",
    "services/echo-bridge",
    "services/gateway",
)


class Pip:
    """The pip of one virtual environment."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def install(self, *arguments: str) -> None:
        """Install under our constraints; raises CalledProcessError."""
        self._run("install", "-qq", "-c", str(CONSTRAINTS), *arguments)

    def offers(self, requirement: str) -> bool:
        """Whether pip, as configured on this machine, could install this; downloads nothing big."""
        return self._try("install", "-qq", "--dry-run", "--no-deps", "--ignore-installed", requirement)

    def try_install(self, *arguments: str) -> bool:
        """Like `install`, but says False where it fails."""
        return self._try("install", "-qq", "-c", str(CONSTRAINTS), *arguments)

    def installed(self, name: str) -> str | None:
        """The installed version of a distribution."""
        code = f"from importlib.metadata import version; print(version({name!r}))"
        answer = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    def _command(self, *arguments: str) -> list[str]:
        return [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]

    def _run(self, *arguments: str) -> None:
        subprocess.run(self._command(*arguments), check=True, stdin=subprocess.DEVNULL)

    def _try(self, *arguments: str) -> bool:
        command = self._command(*arguments)
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def main() -> None:
    """Make or refresh the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--torch-index", default="", help="index to take torch from")
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - says so instead of failing later, somewhere in pip
        sys.exit(f"Python 3.11 or newer is needed, this is {platform.python_version()}: try make PYTHON=python3.12")
    pip = Pip(make_venv(options.venv))
    say("tools")
    pip.install(*TOOLS)
    install_torch(pip, options.torch, options.torch_index)
    pip.install("--no-deps", *DATA)
    say("packages and what they need")
    editable = [argument for package in PACKAGES for argument in ("-e", str(ROOT / package))]
    # All of it is resolved in this one call; pip would only complain of what DATA lacks, on purpose.
    pip.install("--no-build-isolation", "--no-warn-conflicts", *editable)
    say("done")


def make_venv(folder: Path) -> Path:
    """The Python of the virtual environment, made anew where it is missing or its interpreter is gone."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    if not works or works.returncode != 0:
        say(f"virtual environment {folder}")
        venv.create(folder, clear=True, with_pip=True, symlinks=sys.platform != "win32")
    return python


def install_torch(pip: Pip, build: str, index: str) -> None:
    """Install the pinned torch in the wanted build: `cpu`, `cuda`, or `auto` (what is there, else what fits)."""
    version = pinned("torch")
    present = pip.installed("torch")
    matches = present is not None and present.partition("+")[0] == version
    if build == "auto":
        if matches:
            return
        build = "cuda" if shutil.which("nvidia-smi") else "cpu"
    # Only Linux has separate CPU builds, and they carry the local version +cpu; PyPI's plain build is the CUDA one.
    wants_cpu = build == "cpu" and sys.platform == "linux"
    if matches and not index and present is not None and present.endswith("+cpu") == wants_cpu:
        return
    say(f"torch {version} ({build})")
    if index:
        pip.install("--force-reinstall", "--no-deps", "--index-url", index, f"torch=={version}")
    elif wants_cpu:
        install_cpu_torch(pip, version)
    else:
        # === refuses local versions such as +cpu, which a plain == would prefer where pip knows of one.
        pip.install("--force-reinstall", "--no-deps", f"torch==={version}")


def install_cpu_torch(pip: Pip, version: str) -> None:
    """The CPU build: from where pip is configured to look, else from PyTorch's own index, else whatever PyPI has."""
    wanted = f"torch=={version}+cpu"
    if pip.offers(wanted):
        pip.install("--no-deps", wanted)
    elif not pip.try_install("--no-deps", "--retries", "1", "--timeout", "10", "--index-url", CPU_INDEX, wanted):
        say(f"{CPU_INDEX} does not answer: taking torch from the default index, which also runs without a GPU")
        pip.install("--no-deps", f"torch=={version}")


def pinned(name: str) -> str:
    """The version of a distribution in constraints.txt."""
    for line in CONSTRAINTS.read_text().splitlines():
        distribution, _, version = line.partition("==")
        if distribution == name:
            return version
    raise LookupError(f"constraints.txt does not pin {name}")


def say(text: str) -> None:
    """One line of progress."""
    print(f"set-up: {text}", flush=True)


if __name__ == "__main__":
    main()
