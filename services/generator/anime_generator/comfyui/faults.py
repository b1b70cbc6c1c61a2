"""What goes wrong on a ComfyUI server, as coded job errors. Pure.

Texts name node, field and value. Tracebacks and the inputs of nodes are left out: they hold tensors and paths of the
server. What may pass by itself, or go well on another server, says the table of `anime_common.contracts.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from anime_generator.comfyui.graph import Node
from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError

MODEL_MISSING = "model_missing"
NODE_MISSING = "node_missing"
NODE_NOT_ALLOWED = "node_not_allowed"
BAD_VALUE = "bad_value"
WORKFLOW_INVALID = "workflow_invalid"
NODE_FAILED = "node_failed"
SERVER_ERROR = "comfyui_error"
UPLOAD_REFUSED = "upload_refused"
UNREACHABLE = "comfyui_unreachable"
LOCKED_OUT = "comfyui_locked_out"
LOST = "comfyui_lost"
STALLED = "comfyui_stalled"
INTERRUPTED = "comfyui_interrupted"
OUTPUT_MISSING = "output_missing"
OUTPUT_TOO_LARGE = "output_too_large"
NO_OUTPUT = "no_output"
FOREIGN_OUTPUT = "foreign_output"

LONGEST = 400
"""Characters of a text of the server's that people see."""

_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][\w.+ -]+){2,}[\\/]?")
_MODEL_FILES = re.compile(r"\.(safetensors|ckpt|pth?|bin|gguf|sft)$", re.IGNORECASE)
_NO_MEMORY = ("out of memory", "outofmemory", "allocation on device", "can't allocate memory", "cannot allocate memory")
_VALUES = frozenset(
    {"value_not_in_list", "value_smaller_than_min", "value_bigger_than_max", "invalid_input_type"}
    | {"custom_validation_failed", "required_input_missing"}
)


def refused(answer: Mapping[str, Any] | None, status: int, nodes: Mapping[str, Node]) -> EngineError:
    """Why `/prompt` did not take a workflow; `answer` is its JSON, none when it sent none."""
    if answer is None:
        text = f"the ComfyUI server failed on the workflow (HTTP {status}): is it in the API format?"
        return EngineError(WORKFLOW_INVALID if status < 500 else SERVER_ERROR, text)
    found = list(_reasons(answer.get("node_errors"), nodes))
    if found:
        code = next((code for wanted in (MODEL_MISSING, BAD_VALUE) for code, _ in found if code == wanted), found[0][0])
        return EngineError(code, "; ".join(dict.fromkeys(text for _, text in found)))
    error = answer.get("error")
    told = error if isinstance(error, Mapping) else {"message": error}
    text = clean(" ".join(str(told[name]) for name in ("message", "details") if told.get(name)))
    kind = told.get("type")
    if kind == "missing_node_type" or (kind == "invalid_prompt" and "does not exist" in text):
        class_type = (told.get("extra_info") or {}).get("class_type")  # newer servers name it here alone
        text = text if class_type is None or str(class_type) in text else f"{text} ({class_type})"
        return EngineError(NODE_MISSING, text)
    return EngineError(WORKFLOW_INVALID, text or f"HTTP {status}")


def locked_out(status: int) -> EngineError:
    """The server wants to know who we are, or does not want us. Another worker's server may."""
    text = f"the ComfyUI server lets us in no further (HTTP {status}): are the headers in comfyui.toml right?"
    return EngineError(LOCKED_OUT, text)


def dropped(answer: Mapping[str, Any], nodes: Mapping[str, Node]) -> EngineError | None:
    """Why a prompt that was taken will not have all its outputs; None when it will."""
    return refused(answer, 200, nodes) if answer.get("node_errors") else None


def failed(error: Mapping[str, Any], nodes: Mapping[str, Node]) -> EngineError:
    """Why a prompt failed while it ran; `error` is the server's message about it."""
    kind, text = str(error.get("exception_type") or ""), clean(str(error.get("exception_message") or ""))
    where = _where(str(error.get("node_id") or ""), str(error.get("node_type") or ""), nodes)
    if any(sign in f"{kind} {text}".lower() for sign in _NO_MEMORY):
        return EngineError(OUT_OF_MEMORY, f"{where}: the card has too little memory: {text}")
    return EngineError(NODE_FAILED, f"{where} failed: {text or kind or 'no reason was given'}")


def clean(text: str) -> str:
    """A text of the server's without its paths and line ends, shortened."""
    found = " ".join(_PATH.sub("…", text).split())
    return found if len(found) <= LONGEST else f"{found[: LONGEST - 1]}…"


def _reasons(node_errors: object, nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    for name, told in node_errors.items() if isinstance(node_errors, Mapping) else ():
        where = _where(str(name), str(told.get("class_type") or ""), nodes)
        for error in told.get("errors") or ():
            yield _reason(error, where)


def _reason(error: Mapping[str, Any], where: str) -> tuple[str, str]:
    kind, extra = str(error.get("type")), error.get("extra_info") or {}
    field, value = str(extra.get("input_name") or ""), extra.get("received_value")
    if kind == "value_not_in_list" and isinstance(value, str):
        code = MODEL_MISSING if _MODEL_FILES.search(value) else BAD_VALUE
        return code, clean(f"{where}: {field}: the server has no {value!r}{_known(extra.get('input_config'))}")
    text = " ".join(str(error[name]) for name in ("message", "details") if error.get(name))
    return (BAD_VALUE if kind in _VALUES else WORKFLOW_INVALID), clean(f"{where}: {text}")


def _known(config: object) -> str:
    choices = config[0] if isinstance(config, list) and config and isinstance(config[0], list) else []
    some = ", ".join(str(each) for each in choices[:8])
    return f"; it has {some}{', …' if len(choices) > 8 else ''}" if choices else ""


def _where(name: str, class_type: str, nodes: Mapping[str, Node]) -> str:
    node = nodes.get(name)
    title, kind = (node.title, node.class_type) if node is not None else (class_type, class_type)
    kind = "" if title == kind or not kind else f" ({kind})"
    return f"node {name} {title!r}{kind}"
