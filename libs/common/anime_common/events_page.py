"""The page `docs/events.md`: every message with its fields, who sends it, who reads it, and an example."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from anime_common import field_words, schemas, traffic
from anime_common.asyncapi import CLOUDEVENT
from anime_common.contracts import echo, files, generator, jobs, projects
from anime_common.examples import example
from anime_common.markdown import code, codes, link, prose, summary, table
from anime_common.messages import REGISTRY, Kind, Message
from anime_common.rpc_contract import ProblemBody, Rpc
from anime_common.topology import (
    ADMIN,
    CONSUMERS,
    DEAD,
    STREAMS,
    Consumer,
    User,
    stream_of,
    worker_consumer,
)
from anime_common.topology_page import duration, size

INTRODUCTION = """\
# Event reference

Made from the contracts and `anime_common.topology` by `make generated`: do not edit.

How to connect, with a program that runs: [publish-from-another-service.md](publish-from-another-service.md). Streams,
users and permissions: [topology.md](topology.md). For machines: [asyncapi.yaml](asyncapi.yaml), [schemas/](schemas/).
"""

TELLS: tuple[tuple[str, type[Message], str], ...] = (
    ("a picture is finished and lies in the library", jobs.JobCompleted, "`job.outputs` names the files"),
    ("a job has ended without its pictures", jobs.JobFailed, "`job.error` says why"),
    ("a job was stopped", jobs.JobCancelled, "`job.outputs` are the pictures kept"),
    ("a job was taken", jobs.JobAccepted, "also jobs of other clients"),
    ("my command was carried out", jobs.CommandDone, "the last token is the id of the command"),
    ("my command was refused, and why", jobs.CommandRefused, "the last token is the id of the command"),
    ("a job has begun to run", jobs.JobStarted, ""),
    ("a job waits again, and why", jobs.JobQueued, "`job.message`"),
    ("how far a running job is", generator.JobProgress, "at most ten a second for each job"),
    ("the place of a job in the queue", jobs.QueueState, "at most two a second"),
    ("priority, pause or outputs of a job have changed", jobs.JobUpdated, ""),
    ("somebody has uploaded a picture", files.FileUploaded, ""),
    ("a file was rated, tagged or marked", files.FileUpdated, ""),
    ("a file was deleted", files.FileDeleted, ""),
    ("a project was made, changed or removed", projects.ProjectChanged, ""),
    ("what Echo made of a prompt", echo.PromptOptimized, "or `failed`: then the original is used"),
    ("which workers there are, and what they do", generator.Heartbeat, "every few seconds"),
)
"""What people want to know, and the message that tells it; written by hand."""

RULES = """\
- `*` as the last token hears of all jobs, an id of one. Every event of one job: `anime.evt.jobs.*.<job_id>`.
  Everything: `anime.evt.>`.
- A core subscription misses what is said while you are away: ask when you come back. Each stored event is also
  republished under `anime.live.…` with the headers `Nats-Stream` and `Nats-Sequence`, by which a gap is seen.
- The same message may come twice: do each `ce-id` once. Of two events of a job, newer is what is greater in
  (`job.epoch`, `job.version`).
- Fields that are absent have no value. Unknown fields of events are to be ignored; those of commands and questions are
  refused. Texts of commands hold no control characters but line breaks and tabs.
- A message of a stream may have {largest}, headers included.
"""

GROUPS: tuple[tuple[str, str, str], ...] = (
    (
        "Commands",
        "anime.cmd.",
        "Ask for something. Each is stored, carried out once, and answered by exactly one event.",
    ),
    ("Job events", "anime.evt.jobs.", "What has become true, by the ledger. This is what other services follow."),
    ("File facts", "anime.evt.files.", "What the library reports; the ledger makes job events of it."),
    (
        "Generator facts",
        "anime.evt.generator.",
        "What workers report of their attempts; the ledger makes job events of it.",
    ),
    ("Echo facts", "anime.evt.echo.", "Answers to the ledger about prompts of jobs that prepare."),
    ("Offers", "anime.dispatch.", "Work for one worker. Nobody else reads them."),
    ("Telemetry", "anime.tel.", "The last value of something, over core NATS: losing one is harmless."),
    ("Orders to workers", "anime.ctl.", "Over core NATS, repeated until obeyed."),
)
"""Title, prefix of the subjects, and what the group is; every message is in the first that fits."""

DEAD_HEADERS: Mapping[str, str] = {
    "anime-reason": "Why it could not be handled.",
    "anime-subject": "The subject it came on.",
    "anime-deliveries": "How many times it was delivered.",
    "Nats-Msg-Id": "`dead:<consumer>:<when it was stored>:<its sequence>`.",
}
"""What a dead letter's headers say beside those of the message itself."""

DEAD_TEXT = """\
What a consumer could not read, or could not handle however often it tried: the body as it came, in the stream {stream},
for {kept}. {admin} alone may read it (`anime dead`). A command that dies is refused as well, by {refusal}."""


def page(examples: Mapping[str, Any]) -> str:
    """The whole page; `examples` are the golden ones by type."""
    return "\n".join((INTRODUCTION, *_which(), *_headers(), *_groups(examples), *_questions(), *_dead(), *_values()))


def _which() -> Iterator[str]:
    largest = size(min(stream.max_msg_size for stream in STREAMS))
    rows = [
        (question, code(_sample(message)), link(message.ce_type(), message.ce_type()), hint)
        for question, message, hint in TELLS
    ]
    yield f"## Which event tells me…\n\n{table(TELLS_HEAD, rows)}\n"
    yield RULES.format(largest=largest)


TELLS_HEAD = ("what", "subscribe to", "message", "note")


def _sample(message: type[Message]) -> str:
    return re.sub(r"{\w+}", "*", message.subject)


def _headers() -> Iterator[str]:
    needed = CLOUDEVENT["required"]
    rows = [
        (code(name), "always" if name in needed else "optional", _header(each))
        for name, each in CLOUDEVENT["properties"].items()
    ]
    yield f"## Headers\n\nOf everything that is stored; telemetry and orders have none.\n\n{table(HEADERS, rows)}\n"


HEADERS = ("header", "there", "meaning")


def _header(schema: Mapping[str, Any]) -> str:
    text = schema.get("description", "")
    return f"{text} {code(schema['const'])}".strip() if "const" in schema else text


def _groups(examples: Mapping[str, Any]) -> Iterator[str]:
    for title, prefix, meaning in GROUPS:
        messages = [message for message in REGISTRY.values() if message.subject.startswith(prefix)]
        rows = [(link(code(each.ce_type()), each.ce_type()), code(each.subject), summary(each)) for each in messages]
        if prefix == "anime.tel.":
            rows.append(("(JPEG bytes)", code(generator.PREVIEWS), "A small picture of the attempt in work."))
        yield f"## {title}\n\n{meaning}\n\n{table(('message', 'subject', 'when'), rows)}\n"
        for message in messages:
            yield _message(message, examples[message.ce_type()])


def _message(message: type[Message], golden: Any) -> str:
    name = message.ce_type()
    facts = [
        ("subject", code(message.subject)),
        ("carried by", _carrier(message)),
        ("sent by", ", ".join(user.name for user in traffic.senders(message))),
        ("read by", "; ".join(_reader(user, message) for user in traffic.readers(message))),
    ]
    if message.kind.stored:
        facts.append(("`ce-id`", code(_identity(message))))
    facts.append(("version", f"{message.schema_version} ([schema](schemas/{name}.json))"))
    described = _object(schemas.message_schema(message))
    return f"### `{name}`\n\n{prose(message)}\n\n{_facts(facts)}\n\n{described}\n{_example(golden)}"


def _object(schema: Mapping[str, Any]) -> str:
    closed = schema.get("additionalProperties") is False
    return field_words.fields(schema) + ("\n\nUnknown fields are refused.\n" if closed else "\n")


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in facts)


def _carrier(message: type[Message]) -> str:
    if not message.kind.stored:
        return "core NATS"
    stream = next(each for each in STREAMS if each.name == stream_of(_sample(message).replace("*", "x")))
    kept = "until handled" if stream.work_queue else f"for {duration(stream.max_age)}"
    live = traffic.live_subject(message.subject)
    return f"stream {code(stream.name)}, {kept}" + (f"; live copies on {code(live)}" if live else "")


def _reader(user: User, message: type[Message]) -> str:
    through = [
        f"consumer {code(consumer.name.replace('*', 'worker-<worker>'))}"
        for consumer in user.consumers
        if any(traffic.overlap(wanted, message.subject) for wanted in consumer.filters)
    ]
    live = traffic.live_subject(message.subject)
    if not through and not any(traffic.overlap(granted, message.subject) for granted in user.subscribe):
        through = [f"live copies on {code(live)}"] if live else through
    return f"{user.name} ({', '.join(through)})" if through else user.name


def _identity(message: type[Message]) -> str:
    form = message.identity.replace("{type}", message.wire.replace(".", ":"))
    return re.sub(r"{([\w.]+)}", r"<\1>", form)


def _example(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return f"<details><summary>example</summary>\n\n```json\n{text}\n```\n\n</details>\n"


def _questions() -> Iterator[str]:
    rpcs = sorted(traffic.rpcs(), key=lambda rpc: rpc.subject)
    problem = link("ProblemBody", "ProblemBody")
    yield f"## Questions\n\n{ASKING.format(problem=problem)}\n\n{table(QUESTION, map(_question_row, rpcs))}\n"
    known = schemas.rpc_schemas(rpcs)
    for rpc in rpcs:
        asked = {"question": _json(rpc.question), "answer": _json(rpc.answer)}
        answer = f"Answer: {link(rpc.answer.__name__, rpc.answer.__name__)}."
        described = _object(known[rpc.question.__name__])
        yield f"### `{rpc.subject}`\n\n{prose(rpc.question)} {answer}\n\n{described}\n{_example(asked)}"


ASKING = """\
Requests over core NATS (NATS micro services). An error has the header `Nats-Service-Error-Code` and a {problem}; when
nobody is there, NATS says that there are no responders."""
QUESTION = ("subject", "question", "answer", "asked by", "answered by")


def _question_row(rpc: Rpc[Any, Any]) -> Sequence[str]:
    people = (traffic.askers(rpc), traffic.answerers(rpc))
    names = [", ".join(user.name for user in users) for users in people]
    models = [link(model.__name__, model.__name__) for model in (rpc.question, rpc.answer)]
    return link(code(rpc.subject), rpc.subject), *models, *names


def _json(model: Any) -> Any:
    return json.loads(example(model).model_dump_json(exclude_none=True))


def _dead() -> Iterator[str]:
    every: tuple[Consumer, ...] = (*CONSUMERS, worker_consumer("<worker>"))
    rows = [(code(each.dead_subject), code(each.name), each.service, codes(each.filters)) for each in every]
    headers = table(("header", "meaning"), ((code(name), text) for name, text in DEAD_HEADERS.items()))
    kept = next(duration(stream.max_age) for stream in STREAMS if stream.name == DEAD)
    refusal = link("anime.jobs.command_refused.v1", "anime.jobs.command_refused.v1")
    text = DEAD_TEXT.format(stream=code(DEAD), kept=kept, admin=code(ADMIN.name), refusal=refusal)
    yield f"## Dead letters\n\n{text}\n\n{table(('subject', 'consumer', 'sent by', 'of'), rows)}\n"
    yield f"Its headers are those of the message, and:\n\n{headers}\n"


def _values() -> Iterator[str]:
    yield "## Values\n\nObjects and enumerations within the messages above.\n"
    for name, schema in sorted(_definitions().items()):
        text = schema.get("description", "").replace("\n", " ")
        if "enum" in schema:
            body = f"One of {', '.join(code(value) for value in schema['enum'])}.\n"
        else:
            body = _object(schema)
        yield f"### {name}\n\n{text}\n\n{body}"


def _definitions() -> dict[str, Any]:
    """Everything that a message or question holds, by name; what commands and questions hold is closed to others."""
    found: dict[str, Any] = {"ProblemBody": ProblemBody.model_json_schema()}
    for message in sorted(REGISTRY.values(), key=lambda each: each.kind is Kind.COMMAND):
        found |= schemas.message_schema(message).get("$defs", {})
    return found | schemas.rpc_schemas(traffic.rpcs())
