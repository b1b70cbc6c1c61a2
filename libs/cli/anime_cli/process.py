"""Child processes of the embedded stack: each in a session of its own, logging to a file, gone when we are gone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL = 0.01
"""How often a child is asked whether it has ended, in seconds."""


class StackError(RuntimeError):
    """The embedded stack, or a part of it, could not be started; the text says what to do."""


@dataclass(slots=True)
class Child:
    """One child process, which may be started again after it ended.

    `prefix` is put before the command (`unshare …`). It starts in a session of its own, so that Ctrl-C in a terminal
    reaches us alone and we decide the order. Its output is appended to `log`: no pipe can stall it or break.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    prefix: Sequence[str] = ()
    user: int | None = None
    group: int | None = None
    reap_group: bool = False
    cwd: str | None = None
    started_at: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    def start(self) -> None:
        """Start the process; raises OSError, and RuntimeError while it runs already."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self.prefix, *_dies_with_us(self.stop_signal), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
                user=self.user,
                group=self.group,
                extra_groups=[] if self.user is not None else None,
            )
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.pid is not None

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self._process is None:
            return "was never started"
        code = self._process.poll()
        if code is None:
            return "still runs"
        return f"exited with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def signal(self, number: int) -> None:
        """Send a signal to the process, not to its children; nothing happens when it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until it has ended; returns the exit status."""
        while (code := self.returncode) is None:
            await _end_of(self._process)
        self._reap()
        return code

    async def stop(self) -> None:
        """Ask it to stop, and kill it after the grace."""
        if self._process is None:
            return
        self.signal(self.stop_signal)
        self.signal(signal.SIGCONT)  # a frozen process would not hear the request
        try:
            await asyncio.wait_for(self.wait(), self.grace)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()

    def kill_now(self) -> None:
        """Kill it and what it started, at once: for the way out of an error."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._reap()

    def output(self, lines: int | None = None) -> str:
        """What it has written since its last start, or the last lines of that."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    def _reap(self) -> None:
        """End what it left behind: a killed generator must not leave its engine on the GPU."""
        if self.reap_group and self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


async def _end_of(process: subprocess.Popen[bytes] | None) -> None:
    """Return when the process may have ended: told by the kernel where it can, else after a moment."""
    if process is None or not hasattr(os, "pidfd_open"):
        await asyncio.sleep(5 * POLL)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@functools.cache
def _setpriv() -> str | None:
    program = shutil.which("setpriv")
    if program is None or sys.platform != "linux":
        return None
    works = subprocess.run([program, "--pdeathsig", "TERM", "true"], capture_output=True, check=False)
    return program if works.returncode == 0 else None


def _dies_with_us(number: signal.Signals) -> list[str]:
    """A prefix that makes the kernel send the signal when our process dies, however it dies.

    A program rather than a `preexec_fn`, which is unsafe beside threads, and whose setting `unshare` would undo.
    """
    program = _setpriv()
    return [program, "--pdeathsig", number.name.removeprefix("SIG")] if program else []


def command_line(pid: int) -> str:
    """The command line of a process; empty when there is none, or only a zombie."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    answer = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return answer.stdout.strip()


async def end_orphan(pid_file: Path, marker: str, stop_signal: signal.Signals, grace: float = 10.0) -> None:
    """End a server that an earlier stack left running on our files, and drop a stale pid file.

    `marker` must be part of its command line: pids are reused. Raises StackError when it will not go.
    """
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    for number, patience in ((None, 1.0), (stop_signal, grace), (signal.SIGKILL, 5.0)):
        if number is not None and marker in command_line(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while marker in command_line(pid) and time.monotonic() < deadline:
            await asyncio.sleep(POLL)
        if marker not in command_line(pid):
            pid_file.unlink(missing_ok=True)
            return
    raise StackError(f"process {pid} of an earlier run still uses {pid_file.parent} and does not end: kill {pid}")


def free_port(wanted: int, host: str = "127.0.0.1", taken: Sequence[int] = ()) -> int:
    """The wanted port, or the next one that is free; 0 takes any. `taken` are promised to others."""
    for port in [*range(wanted, min(wanted + 100, 65536)), 0] if wanted else [0] * 10:
        if port and port in taken:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            if found not in taken:
                return found
    raise StackError(f"no free port on {host} near {wanted}")


def rotate(log: Path) -> None:
    """Move the log of the last run aside, keeping one."""
    if log.exists():
        log.replace(log.with_suffix(log.suffix + ".1"))
