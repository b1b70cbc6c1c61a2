"""The one table of streams, consumers, subjects and permissions.

Provisioning, the server's configuration with its users, and the documentation are all made from here. Only `jobs`
creates anything on the server: whoever may create a consumer can make the server publish anywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anime_common.messages import subject_matches

if TYPE_CHECKING:
    from collections.abc import Mapping

DAY = 86_400.0

COMMANDS = "ANIME_COMMANDS"
LEDGER = "ANIME_LEDGER"
FACTS = "ANIME_FACTS"
DISPATCH = "ANIME_DISPATCH"
DEAD = "ANIME_DEAD"

LIVE_PREFIX = "anime.live."
"""Stored events are republished here as they are stored, with `Nats-Stream` and `Nats-Sequence` headers."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A JetStream stream. `max_age` in seconds, `dedupe` window in seconds, sizes in bytes."""

    name: str
    subjects: tuple[str, ...]
    purpose: str
    work_queue: bool = False
    discard_new: bool = False
    max_age: float = 30 * DAY
    max_bytes: int = 1 << 30
    max_msg_size: int = 512 << 10
    dedupe: float = 120.0
    republish: bool = False


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer with explicit acks, `max_deliver: -1` and no backoff: the bus layer decides.

    `letters` names its dead letters where the consumer's own name is not known to the permissions.
    """

    stream: str
    name: str
    service: str
    filters: tuple[str, ...]
    ack_wait: float = 10.0
    max_ack_pending: int = 1000
    letters: str = ""

    @property
    def dead_subject(self) -> str:
        """Where its dead letters go."""
        return f"anime.dead.{self.letters or self.name}"


STREAMS: tuple[Stream, ...] = (
    Stream(
        COMMANDS,
        ("anime.cmd.>",),
        "what somebody asks for; exactly one service consumes each",
        work_queue=True,
        discard_new=True,
    ),
    Stream(LEDGER, ("anime.evt.jobs.>",), "what has become true", max_bytes=4 << 30, republish=True),
    Stream(
        FACTS,
        ("anime.evt.generator.>", "anime.evt.files.>", "anime.evt.echo.>"),
        "what a service reports of its own domain",
        max_bytes=4 << 30,
        republish=True,
    ),
    Stream(DISPATCH, ("anime.dispatch.*",), "offers of jobs to workers", max_age=3600.0),
    # A dead letter is its message and the reason: it must fit whatever the others let in.
    Stream(DEAD, ("anime.dead.*",), "what could not be handled", max_age=90 * DAY, max_msg_size=1 << 20),
)

JOBS_COMMANDS = Consumer(COMMANDS, "jobs-commands", "jobs", ("anime.cmd.jobs.>",))
JOBS_FACTS = Consumer(FACTS, "jobs-facts", "jobs", ("anime.evt.generator.>", "anime.evt.files.>", "anime.evt.echo.>"))
FILES_LEDGER = Consumer(
    LEDGER,
    "files-ledger",
    "files",
    (
        "anime.evt.jobs.filing.*",
        "anime.evt.jobs.completed.*",
        "anime.evt.jobs.failed.*",
        "anime.evt.jobs.cancelled.*",
        "anime.evt.jobs.project_changed.*",
        "anime.evt.jobs.batch_ended.*",
    ),
    ack_wait=15.0,
)
ECHO_COMMANDS = Consumer(COMMANDS, "echo-commands", "echo", ("anime.cmd.echo.>",))

CONSUMERS: tuple[Consumer, ...] = (JOBS_COMMANDS, JOBS_FACTS, FILES_LEDGER, ECHO_COMMANDS)


def worker_consumer(worker: str) -> Consumer:
    """The dispatch consumer of one worker; `jobs` makes it at the worker's first heartbeat."""
    return Consumer(DISPATCH, f"worker-{worker}", "generator", (f"anime.dispatch.{worker}",), letters="generator")


def stream_of(subject: str) -> str:
    """The stream that stores a subject; raises KeyError for subjects of core NATS."""
    for stream in STREAMS:
        if any(subject_matches(pattern, subject) for pattern in stream.subjects):
            return stream.name
    raise KeyError(subject)


@dataclass(frozen=True, slots=True)
class User:
    """A user of the bus: what it may publish and subscribe to. Everything else is denied.

    `answers` names the micro service whose questions it answers. Of the streams that it `watches` it may see the
    state; those that it `reads` it may also read.
    """

    name: str
    purpose: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    answers: str = ""
    reads: tuple[str, ...] = field(default=())
    watches: tuple[str, ...] = field(default=())

    @property
    def inbox(self) -> str:
        """The inbox prefix of its own, so that nobody reads another's answers."""
        return f"_INBOX_{self.name.replace('-', '_')}"

    def may_publish(self) -> tuple[str, ...]:
        """All subjects it may publish, the JetStream API of its own consumers included."""
        granted = list(self.publish)
        for consumer in self.consumers:
            granted += [
                f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}",
                f"$JS.ACK.{consumer.stream}.{consumer.name}.>",
                f"$JS.ACK.*.*.{consumer.stream}.{consumer.name}.>",
            ]
        granted += [f"$JS.API.STREAM.INFO.{stream}" for stream in (*self.watches, *self.reads)]
        granted += [f"$JS.API.DIRECT.GET.{stream}" for stream in self.reads]
        return tuple(granted)

    def may_subscribe(self) -> tuple[str, ...]:
        """All subjects it may subscribe to, its inbox included."""
        granted = [f"{self.inbox}.>", *self.subscribe]
        if self.answers:
            # How a micro service is found: by everybody, by its name, by its instance. Verbs are written out, since
            # the server takes a subscription to `a.>` where `a.*` is granted.
            for verb in ("PING", "INFO", "STATS"):
                granted += [f"$SRV.{verb}{tail}" for tail in ("", f".{self.answers}", f".{self.answers}.*")]
        return tuple(granted)


def _provisioning() -> tuple[str, ...]:
    """The API of the one who applies this table: nothing that empties or deletes a stream, and no consumer that does
    not stand here, but those of workers, which come and go.
    """
    streams = [f"$JS.API.STREAM.{verb}.{stream.name}" for stream in STREAMS for verb in ("CREATE", "UPDATE")]
    named = [
        f"$JS.API.CONSUMER.{verb}.{consumer.stream}.{consumer.name}"
        for consumer in CONSUMERS
        for verb in ("INFO", "DURABLE.CREATE")
    ]
    workers = [f"$JS.API.CONSUMER.{verb}.{DISPATCH}.*" for verb in ("INFO", "DURABLE.CREATE", "DELETE")]
    return (*streams, *named, *workers)


def _questions(owner: str, *names: str) -> tuple[str, ...]:
    return tuple(f"anime.rpc.{owner}.{name}" for name in names)


_ANY_WORKER = Consumer(DISPATCH, "*", "generator", ("anime.dispatch.*",))

JOBS = User(
    "jobs",
    "the ledger: owns truth and topology",
    publish=(
        "anime.evt.jobs.>",
        "anime.cmd.echo.optimize",
        "anime.dispatch.*",
        "anime.tel.queue",
        "anime.ctl.generator.*",
        "anime.dead.jobs-commands",
        "anime.dead.jobs-facts",
        *_questions("files", "stats"),
        *_questions("generator", "tokens.*"),
        *_provisioning(),
    ),
    subscribe=("anime.tel.generator.*", "anime.rpc.jobs.*"),
    consumers=(JOBS_COMMANDS, JOBS_FACTS),
    answers="anime-jobs",
    watches=tuple(stream.name for stream in STREAMS),
)
GENERATOR = User(
    "generator",
    "a worker: runs offers, reports facts and telemetry",
    publish=(
        "anime.evt.generator.>",
        "anime.tel.job.>",
        "anime.tel.preview.>",
        "anime.tel.generator.*",
        "anime.dead.generator",
        *_questions("files", "get"),
    ),
    subscribe=("anime.ctl.generator.*", "anime.rpc.generator.tokens.*"),
    consumers=(_ANY_WORKER,),
    answers="anime-generator",
    watches=(FACTS,),
)
FILES = User(
    "files",
    "the library of finished files",
    publish=("anime.evt.files.>", "anime.dead.files-ledger", *_questions("jobs", "get")),
    subscribe=("anime.rpc.files.*",),
    consumers=(FILES_LEDGER,),
    answers="anime-files",
)
ECHO = User(
    "echo",
    "the bridge to language models",
    publish=("anime.evt.echo.>", "anime.dead.echo-commands"),
    subscribe=("anime.rpc.echo.*",),
    consumers=(ECHO_COMMANDS,),
    answers="anime-echo",
)
GATEWAY = User(
    "gateway",
    "the door for people",
    publish=(
        "anime.cmd.jobs.submit.gateway",
        "anime.cmd.jobs.cancel.gateway",
        "anime.cmd.jobs.retry.gateway",
        "anime.cmd.jobs.prioritize.gateway",
        *_questions("jobs", "get", "list", "queue", "generators", "models", "stats", "history", "profile", "attempts"),
        *_questions("jobs", *(f"{verb}_project" for verb in ("create", "get", "update", "delete")), "list_projects"),
        *_questions("jobs", *(f"{verb}_character" for verb in ("create", "get", "update", "delete"))),
        *_questions(
            "jobs", *(f"{verb}_batch" for verb in ("create", "get", "update", "cancel", "retry")), "list_batches"
        ),
        *_questions("jobs", "hold_queue", "retry_jobs", "list_characters", "list_character_versions", "preview_prompt"),
        *_questions(
            "jobs", *(f"{verb}_character_version{s}" for verb, s in (("get", ""), ("use", ""), ("compare", "s")))
        ),
        *_questions("files", "get", "list", "update", "delete", "restore", "stats", "use", "register_upload"),
        *_questions("echo", "optimize"),
    ),
    subscribe=("anime.live.>", "anime.tel.>"),
    reads=(LEDGER, FACTS),
)
ADMIN = User(
    "admin",
    "the owner's command line: dead letters, doctor, orders to generators",
    publish=("anime.cmd.>", "anime.evt.>", "anime.ctl.generator.*", "anime.rpc.*.*", "$JS.API.>", "$SRV.>"),
    subscribe=("anime.>",),
)

CLIENT_RIGHTS = ("submit", "cancel", "retry", "prioritize")


def client_user(name: str) -> User:
    """The user of another service of this server: publishes its own commands and reads what everybody may read."""
    return User(
        name,
        "another service of this server",
        publish=tuple(f"anime.cmd.jobs.{verb}.{name}" for verb in CLIENT_RIGHTS),
        subscribe=("anime.evt.>", "anime.live.>", "anime.tel.>"),
    )


TOWER = client_user("tower")

USERS: dict[str, User] = {user.name: user for user in (JOBS, GENERATOR, FILES, ECHO, GATEWAY, ADMIN, TOWER)}


def server_config(
    *, host: str, port: int, monitor_port: int, server_name: str, store_dir: str, passwords: Mapping[str, str]
) -> str:
    """A nats-server configuration with JetStream and one user a service, with the permissions of this table.

    `passwords` by user name; a user without one is left out, so it cannot connect.
    """
    users = "\n".join(_user_block(USERS[name], password) for name, password in passwords.items())
    return f"""# Generated from anime_common.topology: do not edit.
server_name: {json.dumps(server_name)}
listen: {json.dumps(f"{host}:{port}")}
http: {json.dumps(f"{host}:{monitor_port}")}
max_payload: 1MB
max_connections: 1024
write_deadline: "10s"
feature_flags {{ js_ack_fc_v2: false }}
jetstream {{
  store_dir: {json.dumps(store_dir)}
  sync_interval: always
}}
authorization {{
  users: [
{users}
  ]
}}
"""


def _user_block(user: User, password: str) -> str:
    publish = ", ".join(json.dumps(subject) for subject in user.may_publish())
    subscribe = ", ".join(json.dumps(subject) for subject in user.may_subscribe())
    answers = '\n      allow_responses: { max: 4, expires: "60s" }' if user.answers else ""
    return (
        f"    {{ user: {json.dumps(user.name)}, password: {json.dumps(password)}, permissions: {{\n"
        f"      publish: {{ allow: [{publish}] }}\n"
        f"      subscribe: {{ allow: [{subscribe}] }}{answers}\n"
        "    } }"
    )
