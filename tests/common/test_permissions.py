"""Every subject and every verb of the JetStream API, tried as every user: what the table does not grant is denied.

What is expected is written down here a second time, in other words than the table's: by what each user is for. A
grant that grows in the table alone fails here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.client import Client

from anime_cli.nats_server import NatsServer
from anime_common import contracts
from anime_common.messages import REGISTRY, subject_matches
from anime_common.topology import ADMIN, CONSUMERS, FACTS, LEDGER, STREAMS, USERS, User, worker_consumer
from anime_common.traffic import rpcs

assert contracts.__all__, "all messages are declared on import"

WORKER = worker_consumer("w0")
STREAM_VERBS = (
    *("CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "SNAPSHOT", "RESTORE", "MSG.GET", "MSG.DELETE"),
    *("PEER.REMOVE", "LEADER.STEPDOWN", "TEMPLATE.CREATE", "TEMPLATE.DELETE", "TEMPLATE.INFO"),
)
CONSUMER_VERBS = (
    *("CREATE", "DURABLE.CREATE", "DELETE", "INFO", "MSG.NEXT", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN"),
)
PLAIN_VERBS = (
    *("INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.TEMPLATE.NAMES", "META.LEADER.STEPDOWN", "SERVER.REMOVE"),
    *("ACCOUNT.PURGE.A", "ACCOUNT.STREAM.MOVE.A.S", "ACCOUNT.STREAM.CANCEL_MOVE.A.S"),
)
SYSTEM = (
    *("$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.PING.anime-jobs", "$SRV.INFO.anime-files.x", "$SRV.STATS.other"),
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.A.CONNZ", "$SYS.REQ.USER.INFO", "$SYS.ACCOUNT.A.CONNECT"),
    *("$KV.bucket.key", "$O.bucket.C.x", "$JS.EVENT.ADVISORY.API", "$JS.FC.S.C.x", "$JSC.CI.A.S.C", "$NRG.AE.x"),
    *(
        "$GR.x",
        "$LDS.x",
        "_R_.x",
        "_INBOX.x",
        "nothing.of.ours",
        "anime",
        "anime.other",
        "animes.cmd.jobs.submit.gateway",
    ),
)
WIDE = (
    *(">", "*", "*.>", "anime.>", "anime.*.>", "anime.cmd.>", "anime.evt.>", "anime.live.>", "anime.tel.>"),
    *("anime.rpc.>", "anime.ctl.>", "anime.dispatch.>", "anime.dead.>", "_INBOX.>", "$JS.>", "$JS.API.>", "$JS.ACK.>"),
    *("$JS.EVENT.ADVISORY.>", "$SRV.>", "$SYS.>", "anime.evt.jobs.*", "anime.rpc.*.*", "_R_.>"),
)
SENDERS = ("gateway", "tower", "jobs", "somebody")


def concrete(template: str, value: str = "x") -> str:
    """A subject that fits a template."""
    return re.sub(r"\{[^}]*\}|\*|>", value, template)


def messages() -> set[str]:
    """Every subject that carries a message, with its live copy, its sender and a letter for whoever may die of it."""
    found = {concrete(message.subject) for message in REGISTRY.values() if "{client}" not in message.subject}
    for message in REGISTRY.values():
        found |= {message.subject.replace("{client}", sender) for sender in SENDERS if "{client}" in message.subject}
    found |= {subject.replace("anime.evt.", "anime.live.") for subject in found if subject.startswith("anime.evt.")}
    found |= {consumer.dead_subject for consumer in (*CONSUMERS, WORKER)} | {"anime.dead.other"}
    found |= {rpc.subject for rpc in rpcs()} | {f"anime.rpc.{owner}.unheard_of" for owner in contracts.__all__}
    found |= {f"anime.cmd.jobs.unheard_of.{sender}" for sender in SENDERS}
    return found | {"anime.dispatch.w0", "anime.ctl.generator.w0", "anime.tel.generator.w0", "anime.tel.preview.x.y"}


def api() -> set[str]:
    """Every verb of JetStream on every stream and consumer, ours and others, and every way to settle a message."""
    streams = [*(stream.name for stream in STREAMS), "OTHER"]
    found = {f"$JS.API.{verb}" for verb in PLAIN_VERBS}
    found |= {f"$JS.API.STREAM.{verb}.{stream}" for verb in STREAM_VERBS for stream in streams}
    for stream in streams:
        found |= {f"$JS.API.CONSUMER.{verb}.{stream}" for verb in ("LIST", "NAMES", "CREATE")}
        found |= {f"$JS.API.DIRECT.GET.{stream}{tail}" for tail in ("", ".anime.evt.jobs.queued.x")}
        for name in (*(consumer.name for consumer in CONSUMERS), WORKER.name, "other"):
            found |= {f"$JS.API.CONSUMER.{verb}.{stream}.{name}" for verb in CONSUMER_VERBS}
            found.add(f"$JS.API.CONSUMER.CREATE.{stream}.{name}.anime.evt.>".replace(">", "x"))
            found |= {f"$JS.ACK.{stream}.{name}.1.1.1.1.0", f"$JS.ACK._.HASH.{stream}.{name}.1.1.1.1.0.t"}
    return found


def inboxes() -> set[str]:
    """Where answers to each user go."""
    return {f"{user.inbox}.x.y" for user in USERS.values()}


SUBJECTS = sorted(messages() | api() | inboxes() | set(SYSTEM))
PATTERNS = sorted({*SUBJECTS, *WIDE, *(f"{user.inbox}.>" for user in USERS.values())})


@asynccontextmanager
async def violations(server: NatsServer, user: User) -> AsyncIterator[tuple[Client, set[tuple[str, str]]]]:
    """A connection, and what the server has denied it so far: ("publish" or "subscription", subject).

    The client library gives the server's words in small letters.
    """
    denied: set[tuple[str, str]] = set()

    async def heard(error: Exception) -> None:
        found = re.search(r'permissions violation for (publish|subscription) to "([^"]+)"', str(error), re.IGNORECASE)
        assert found is not None, error
        denied.add((found[1].lower(), found[2].lower()))

    client = await nats.connect(
        server.url,
        user=user.name,
        password=server.password_file(user.name).read_text().strip(),
        inbox_prefix=user.inbox.encode(),
        error_cb=heard,
        allow_reconnect=False,
    )
    try:
        yield client, denied
    finally:
        await client.close()


async def settled(client: Client) -> None:
    """Return when the server has read everything; the first ping can overtake what is buffered."""
    await client.flush(10)
    await client.flush(10)


def granted(patterns: Iterable[str], subject: str) -> bool:
    """Whether one of the granted patterns holds all of a subject, which may itself have wildcards."""
    return any(subject_matches(pattern, subject) and _holds(pattern, subject) for pattern in patterns)


def _holds(pattern: str, subject: str) -> bool:
    for ours, theirs in zip(pattern.split("."), subject.split("."), strict=False):
        if ours == ">":
            return True
        if theirs == ">" or (theirs == "*" and ours != "*"):
            return False
    return True


@pytest.mark.parametrize("name", USERS)
async def test_a_user_publishes_what_it_was_granted_and_nothing_else(nats_server: NatsServer, name: str) -> None:
    user = USERS[name]
    allowed = {subject for subject in SUBJECTS if granted(user.may_publish(), subject)}
    async with violations(nats_server, user) as (client, denied):
        for subject in SUBJECTS:
            # Harmless where it is granted: this server has no streams, and a body that is no JSON makes none.
            await client.publish(subject, b"\x00")
        await settled(client)
        refused = {subject for kind, subject in denied if kind == "publish"}
    assert refused == {subject.lower() for subject in SUBJECTS if subject not in allowed}


@pytest.mark.parametrize("name", USERS)
async def test_a_user_hears_what_it_was_granted_and_nothing_else(nats_server: NatsServer, name: str) -> None:
    user = USERS[name]
    allowed = {pattern for pattern in PATTERNS if granted(user.may_subscribe(), pattern)}
    async with violations(nats_server, user) as (client, denied):
        for pattern in PATTERNS:
            await client.subscribe(pattern)
        await settled(client)
        refused = {pattern for kind, pattern in denied if kind == "subscription"}
    assert refused == {pattern.lower() for pattern in PATTERNS if pattern not in allowed}


SERVICES = [user for user in USERS.values() if user is not ADMIN]
"""Everybody but the owner of the server, whose tool may repair anything."""


def publishes(user: User, *patterns: str) -> set[str]:
    """Of all subjects that fit a pattern, those that the table lets a user publish."""
    return {
        subject
        for subject in SUBJECTS
        if granted(user.may_publish(), subject) and any(subject_matches(pattern, subject) for pattern in patterns)
    }


class TestLeastPrivilege:
    """What no service may do, whatever the table says."""

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_nobody_empties_deletes_copies_or_lists(self, user: User) -> None:
        verbs = {verb for verb in STREAM_VERBS if verb not in {"INFO", "CREATE", "UPDATE"}}
        assert not publishes(user, *(f"$JS.API.STREAM.{verb}.*" for verb in verbs))
        assert not publishes(user, *(f"$JS.API.{verb}" for verb in PLAIN_VERBS))
        assert not publishes(user, "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.NAMES.*")

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_nobody_reaches_what_is_not_ours(self, user: User) -> None:
        assert not publishes(user, *SYSTEM)
        assert not publishes(user, "$JS.API.*.*.OTHER", "$JS.API.*.*.OTHER.>", "$JS.API.*.*.*.OTHER.>")
        assert not publishes(user, "_INBOX_jobs.>", "_INBOX_gateway.>", "_INBOX_admin.>", "_INBOX_tower.>")

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_only_the_ledger_creates_and_only_what_the_table_names(self, user: User) -> None:
        made = publishes(user, "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.CONSUMER.DURABLE.>")
        made |= publishes(user, "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>")
        wanted: set[str] = set()
        if user.name == "jobs":
            wanted |= {f"$JS.API.STREAM.{verb}.{each.name}" for verb in ("CREATE", "UPDATE") for each in STREAMS}
            wanted |= {f"$JS.API.CONSUMER.DURABLE.CREATE.{each.stream}.{each.name}" for each in CONSUMERS}
            every = (*(each.name for each in CONSUMERS), WORKER.name, "other")
            wanted |= {
                f"$JS.API.CONSUMER.{verb}.{WORKER.stream}.{name}"
                for verb in ("DURABLE.CREATE", "DELETE")
                for name in every
            }
        assert made == wanted

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_only_the_gateway_reads_streams_and_only_what_people_may_see(self, user: User) -> None:
        wanted = {f"$JS.API.DIRECT.GET.{name}" for name in (LEDGER, FACTS)} if user.name == "gateway" else set()
        assert publishes(user, "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.*") == wanted

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_whoever_settles_a_message_owns_its_consumer(self, user: User) -> None:
        own = {(each.stream, each.name) for each in CONSUMERS if each.service == user.name}
        for subject in publishes(user, "$JS.API.CONSUMER.MSG.NEXT.*.*"):
            stream, name = subject.split(".")[-2:]
            assert (stream, name) in own or (user.name == "generator" and stream == WORKER.stream)

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_facts_and_events_come_from_their_owner_alone(self, user: User) -> None:
        said = publishes(user, "anime.evt.>", "anime.live.>")
        assert all(subject.startswith(f"anime.evt.{user.name}.") for subject in said)

    @pytest.mark.parametrize("user", SERVICES, ids=lambda user: user.name)
    def test_commands_are_sent_under_the_senders_own_name(self, user: User) -> None:
        sent = publishes(user, "anime.cmd.jobs.>")
        assert all(subject.endswith(f".{user.name}") for subject in sent)
        assert not any("unheard_of" in subject for subject in sent)

    def test_who_asks_asks_only_what_it_needs(self) -> None:
        asked = {user.name: publishes(user, "anime.rpc.>") for user in SERVICES}
        assert {name for name, subjects in asked.items() if subjects} == {"gateway", "jobs", "files", "generator"}
        assert asked["gateway"] == {rpc.subject for rpc in rpcs() if not rpc.instance}
        assert asked["jobs"] == {"anime.rpc.files.stats", "anime.rpc.generator.tokens.{worker}"}
        assert asked["files"] == {"anime.rpc.jobs.get"}
        assert asked["generator"] == {"anime.rpc.files.get"}
