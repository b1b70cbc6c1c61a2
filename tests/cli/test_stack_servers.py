"""The embedded servers as real processes: ports, crashes, identities, orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import httpx
import pytest

from anime_cli.nats_server import NatsServer
from anime_cli.postgres import Identity, PostgresServer, identity, other_user
from anime_cli.process import Child, StackError, command_line, end_orphan, free_port
from tests.waiting import eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def nats(home: Path, port: int = 0, monitor_port: int = 0) -> NatsServer:
    return NatsServer(home, wanted_port=port, wanted_monitor_port=monitor_port)


def postgres(home: Path, port: int = 0, who: Identity | None = None) -> PostgresServer:
    return PostgresServer(home, wanted_port=port, durable=False, identity=who or identity())


async def select_one(server: PostgresServer) -> int:
    connection = await asyncpg.connect(server.dsn, password=server.password)
    try:
        value: int = await connection.fetchval("SELECT 1")
    finally:
        await connection.close()
    return value


async def server_name(server: NatsServer) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        name: str = (await client.get(f"{server.monitor_url}/varz")).json()["server_name"]
    return name


async def test_taken_ports_are_moved(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        bus, database = nats(tmp_path, taken, taken), postgres(tmp_path, taken)
        await bus.start()
        try:
            await database.start()
            assert taken < bus.port < taken + 100
            assert bus.monitor_port not in {taken, bus.port}
            assert database.port not in {taken, bus.port, bus.monitor_port}
            assert await select_one(database) == 1
        finally:
            await database.stop()
            await bus.stop()


async def test_another_nats_server_on_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    first, second = nats(tmp_path / "a"), nats(tmp_path / "b")
    await first.start()
    try:
        second.port, second.monitor_port = first.port, first.monitor_port  # as if it had owned them before
        with pytest.raises(StackError, match="address already in use"):
            await second.start()
        assert not second.child.alive
        assert await server_name(first) == first.name
    finally:
        await first.stop()


async def test_another_postgres_on_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    first, second = postgres(tmp_path / "a"), postgres(tmp_path / "b")
    await first.start()
    try:
        second.port = first.port
        with pytest.raises(StackError):
            await second.start()
        assert not second.child.alive
        assert await select_one(first) == 1
    finally:
        await first.stop()


async def test_nats_restarts_on_its_port_after_a_kill(nats_home: Path) -> None:
    server = nats(nats_home)
    await server.start()
    try:
        port, pid = server.port, server.child.pid
        server.child.signal(signal.SIGKILL)
        await server.child.wait()
        assert server.child.ended == "was killed by SIGKILL"
        await server.start()
        assert server.port == port
        assert server.child.pid != pid
        assert await server_name(server) == server.name
    finally:
        await server.stop()
    assert server.child.returncode == 0


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(None, id="the usual identity"),
        pytest.param("other", id="another user", marks=as_root),
    ],
)
async def test_postgres_keeps_data_and_port_over_a_kill_and_a_stop(open_home: Path, who: str | None) -> None:
    server = postgres(open_home, who=other_user() if who else None)
    await server.start()
    try:
        port = server.port
        connection = await asyncpg.connect(server.dsn, password=server.password)
        await connection.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
        busy = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        server.child.signal(signal.SIGKILL)
        await server.child.wait()
        await server.start()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await busy
        assert server.port == port
        await server.stop()
        assert server.child.returncode == 0
        await server.start()
        connection = await asyncpg.connect(server.dsn, password=server.password)
        assert await connection.fetchval("SELECT id FROM kept") == 7
        await connection.close()
    finally:
        await server.stop()


@as_root
async def test_a_cluster_moves_between_the_two_identities_of_root(open_home: Path) -> None:
    for who in (identity(), other_user(), identity()):
        server = postgres(open_home, who=who)
        await server.start()
        try:
            assert await select_one(server) == 1
        finally:
            await server.stop()


@as_root
async def test_a_home_that_the_other_user_cannot_enter_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(StackError, match="choose an ANIME_HOME that others may pass"):
        await postgres(tmp_path / "home", who=other_user()).start()


async def test_postgres_asks_for_its_password(tmp_path: Path) -> None:
    server = postgres(tmp_path)
    await server.start()
    try:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn, password="wrong")
        assert server.password_file.stat().st_mode & 0o777 == 0o600
        assert server.password_file.parent.stat().st_mode & 0o777 == 0o700
    finally:
        await server.stop()


async def test_an_interrupted_initdb_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = postgres(tmp_path)
    await server.start()
    await server.stop()
    assert (server.data / "global" / "pg_control").exists()


async def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    server = postgres(tmp_path)
    server.data.mkdir(parents=True)
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="is of PostgreSQL 9"):
        await server.start()


async def test_a_stale_pid_file_of_an_unrelated_process_is_dropped(tmp_path: Path) -> None:
    server = postgres(tmp_path)
    await server.start()
    await server.stop()
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n")
    await server.start()
    await server.stop()


async def test_servers_end_with_the_process_that_started_them_and_are_taken_over(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, pathlib
from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer

async def main():
    home = pathlib.Path({str(tmp_path)!r})
    bus = NatsServer(home, wanted_port=0, wanted_monitor_port=0)
    database = PostgresServer(home, wanted_port=0, durable=False)
    await bus.start()
    await database.start()
    print(bus.child.pid, database.child.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    output, _ = await starter.communicate()
    pids = [int(pid) for pid in output.split()]
    assert len(pids) == 2
    bus, database = nats(tmp_path), postgres(tmp_path)
    await bus.start()
    try:
        await database.start()
        assert all(str(tmp_path) not in command_line(pid) for pid in pids)
        assert await select_one(database) == 1
    finally:
        await database.stop()
        await bus.stop()


async def test_an_orphan_on_our_files_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "orphan.pid"
    # Deaf to the polite signal.
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    orphan = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=subprocess.PIPE, start_new_session=True
    )
    assert orphan.stdout is not None
    await orphan.stdout.readline()
    pid_file.write_text(f"{orphan.pid}\n")
    await end_orphan(pid_file, str(tmp_path), signal.SIGTERM, grace=0.2)
    assert await orphan.wait() == -signal.SIGKILL
    assert not pid_file.exists()


async def test_a_frozen_child_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = Child("stubborn", (sys.executable, "-c", IGNORES), tmp_path / "log", env=dict(os.environ), grace=0.2)
    child.start()
    await eventually(lambda: child.output() != "")
    await child.stop()
    assert child.ended == "was killed by SIGKILL"


IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


async def test_what_a_killed_child_started_goes_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    child = Child("parent", (sys.executable, "-c", code), tmp_path / "log", env=dict(os.environ), reap_group=True)
    child.start()
    await eventually(lambda: child.output().endswith("\n"))
    grandchild = int(child.output())
    await eventually(lambda: "sleep" in command_line(grandchild))
    child.signal(signal.SIGKILL)
    await child.wait()
    await eventually(lambda: "sleep" not in command_line(grandchild))


def test_free_port_skips_what_is_taken_or_promised() -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        taken = squatter.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(0) > 0
    wanted = free_port(0)
    assert free_port(wanted, taken=[wanted]) != wanted


@pytest.fixture
def nats_home(tmp_path: Path) -> Path:
    return tmp_path / "with space and 'quotes'"


@pytest.fixture
def open_home(tmp_path: Path) -> Path:
    """A home that other users may pass: pytest closes the folders it makes."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    return tmp_path
