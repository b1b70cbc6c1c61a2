"""The AsyncAPI 3.1 document of the bus, made from contracts and topology.

https://www.asyncapi.com/docs/reference/specification/v3.1.0
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from typing import Any

from anime_common import schemas, traffic
from anime_common.contracts.generator import PREVIEWS
from anime_common.messages import JSON, REGISTRY, Message
from anime_common.rpc_contract import ProblemBody, Rpc
from anime_common.topology import LIVE_PREFIX, User, stream_of

Document = dict[str, Any]

PARAMETERS = {
    "client": "The user on the bus who sends the command.",
    "job_id": "The job (UUID).",
    "attempt_id": "The attempt (UUID).",
    "command_id": "The ce-id of the command that is answered.",
    "project_id": "The project (UUID).",
    "batch_id": "The batch (UUID).",
    "character_id": "The character (UUID).",
    "file_id": "The file (UUID).",
    "worker": "The name of the worker.",
    "consumer": "The consumer that could not handle the message.",
}

OVERVIEW = f"""\
Commands, events and facts are stored in JetStream and carry CloudEvents 1.0 attributes as `ce-*` headers (binary
mode) over a JSON body. Telemetry, control and questions travel over core NATS with the body alone.

Stored events are republished live under `{LIVE_PREFIX}>` with the headers `Nats-Stream` and `Nats-Sequence`.
Readers ignore properties they do not know; commands with unknown properties are refused.
"""


def document() -> Document:
    """The whole document; its keys are in the order in which people read it."""
    messages = [REGISTRY[name] for name in sorted(REGISTRY)]
    rpcs = sorted(traffic.rpcs(), key=lambda rpc: rpc.subject)
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Tower Anime Production: the bus",
            "version": version("tower-anime-common"),
            "description": OVERVIEW,
        },
        "defaultContentType": JSON,
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "nats-server ≥ 2.12 with JetStream; a user and an inbox prefix for each service.",
                "security": [{"$ref": "#/components/securitySchemes/user"}],
            }
        },
        "channels": _message_channels(messages) | _preview_channel() | _rpc_channels(rpcs),
        "operations": _message_operations(messages) | _rpc_operations(rpcs),
        "components": {
            "securitySchemes": {
                "user": {"type": "userPassword", "description": "See docs/topology.md for what each user may do."}
            },
            "messageTraits": {"cloudevent": {"headers": CLOUDEVENT}},
            "messages": _messages(messages) | {"preview": _preview()} | _rpc_messages(rpcs),
            "schemas": schemas.rpc_schemas(rpcs) | {"ProblemBody": ProblemBody.model_json_schema()},
        },
    }


CLOUDEVENT: Document = {
    "type": "object",
    "required": ["ce-specversion", "ce-id", "ce-type", "ce-source", "Nats-Msg-Id"],
    "properties": {
        "ce-specversion": {"type": "string", "const": "1.0", "description": "Version of CloudEvents:"},
        "ce-id": {"type": "string", "description": "Unique per message, stable per meaning: readers do each id once."},
        "ce-type": {"type": "string", "description": "Wire name and version."},
        "ce-source": {"type": "string", "description": "Who sent it.", "examples": ["/anime/jobs"]},
        "ce-time": {"type": "string", "format": "date-time", "description": "When it was made."},
        "content-type": {"type": "string", "const": JSON, "description": "Of the body:"},
        "Nats-Msg-Id": {
            "type": "string",
            "description": "Equal to ce-id: the stream drops a repeat within two minutes.",
        },
        "traceparent": {"type": "string", "description": "W3C trace context."},
    },
}


def _message_channels(messages: list[type[Message]]) -> Document:
    return {
        message.wire: {
            "address": message.subject,
            "description": _carrier(message),
            "messages": {message.ce_type(): {"$ref": f"#/components/messages/{message.ce_type()}"}},
            **_parameters(message.subject),
        }
        for message in messages
    }


def _carrier(message: type[Message]) -> str:
    if not message.kind.stored:
        return "Core NATS: the last value matters, history does not."
    stream = stream_of(re.sub(r"{\w+}", "x", message.subject))
    live = traffic.live_subject(message.subject)
    return f"Stored in {stream}." + (f" Live copies on {live}." if live else "")


def _parameters(subject: str) -> Document:
    names = re.findall(r"{(\w+)}", subject)
    return {"parameters": {name: {"description": PARAMETERS[name]} for name in names}} if names else {}


def _messages(messages: list[type[Message]]) -> Document:
    return {
        message.ce_type(): {
            "name": message.ce_type(),
            "title": message.__name__,
            "summary": inspect.cleandoc(message.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
            "contentType": JSON,
            **({"traits": [{"$ref": "#/components/messageTraits/cloudevent"}]} if message.kind.stored else {}),
            "payload": {"$ref": f"./schemas/{message.ce_type()}.json"},
        }
        for message in messages
    }


def _message_operations(messages: list[type[Message]]) -> Document:
    operations: Document = {}
    for message in messages:
        for action, users in (("send", traffic.senders(message)), ("receive", traffic.readers(message))):
            for user in users:
                operations[f"{user.name}.{action}.{message.wire}"] = _operation(action, message.wire, user) | {
                    "messages": [{"$ref": f"#/channels/{message.wire}/messages/{message.ce_type()}"}],
                }
    return operations


def _operation(action: str, channel: str, user: User) -> Document:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "tags": [{"name": user.name}]}


def _preview_channel() -> Document:
    return {
        "tel.preview": {
            "address": PREVIEWS,
            "description": "Core NATS: a small picture of the attempt in work, every few steps.",
            "messages": {"preview": {"$ref": "#/components/messages/preview"}},
            **_parameters(PREVIEWS),
        }
    }


def _preview() -> Document:
    return {"name": "preview", "title": "Preview", "contentType": "image/jpeg", "payload": {"type": "string"}}


def _rpc_channels(rpcs: list[Rpc[Any, Any]]) -> Document:
    asked: Document = {}
    for rpc in rpcs:
        name = _rpc_name(rpc)
        asked[name] = {
            "address": rpc.subject,
            "messages": {"question": {"$ref": f"#/components/messages/{name}.question"}},
            **_parameters(rpc.subject),
        }
        asked[f"{name}.reply"] = {
            "address": None,
            "description": "The inbox that the question names.",
            "messages": {
                "answer": {"$ref": f"#/components/messages/{name}.answer"},
                "problem": {"$ref": "#/components/messages/problem"},
            },
        }
    return asked


def _rpc_operations(rpcs: list[Rpc[Any, Any]]) -> Document:
    operations: Document = {}
    for rpc in rpcs:
        name = _rpc_name(rpc)
        reply = {"reply": {"channel": {"$ref": f"#/channels/{name}.reply"}}}
        for action, users in (("send", traffic.askers(rpc)), ("receive", traffic.answerers(rpc))):
            for user in users:
                operations[f"{user.name}.{action}.{name}"] = _operation(action, name, user) | reply
    return operations


def _rpc_messages(rpcs: list[Rpc[Any, Any]]) -> Document:
    found: Document = {}
    for rpc in rpcs:
        for part, model in (("question", rpc.question), ("answer", rpc.answer)):
            found[f"{_rpc_name(rpc)}.{part}"] = {
                "name": f"{_rpc_name(rpc)}.{part}",
                "contentType": JSON,
                "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
            }
    problem = {"type": "object", "properties": {"Nats-Service-Error-Code": {"type": "string", "examples": ["404"]}}}
    found["problem"] = {
        "name": "problem",
        "summary": "The question is refused.",
        "contentType": JSON,
        "headers": problem,
        "payload": {"$ref": "#/components/schemas/ProblemBody"},
    }
    return found


def _rpc_name(rpc: Rpc[Any, Any]) -> str:
    return f"rpc.{rpc.owner}.{rpc.name}"
