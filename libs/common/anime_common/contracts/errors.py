"""Why jobs fail: the one table of stable codes, and which of them another try may mend.

Engines, `files` and the ledger take their codes from here. A code is never renamed and never changes its meaning; a
newer service may send one that stands in no table yet, and says with it whether to try again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Origin = Literal["request", "ledger", "worker", "comfyui", "files"]
"""Whose: what was asked for, the ledger, a worker and its engine, a ComfyUI server, or the filing of pictures."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One code: whether trying the same again may help, what it means, and what a person can do."""

    code: str
    retryable: bool
    origin: Origin
    meaning: str
    remedy: str


def _table(*rows: Trouble) -> Mapping[str, Trouble]:
    found = {row.code: row for row in rows}
    if len(found) != len(rows):
        raise ValueError("a code stands twice in the table of errors")
    return MappingProxyType(found)


# fmt: off
ERRORS: Mapping[str, Trouble] = _table(
    # What was asked for.
    Trouble("invalid", False, "request", "a field holds what the model does not take",
            "the text names the field: submit the job anew"),
    Trouble("not_supported", False, "request", "the model does not take a field that was given",
            "leave the field out, or choose another model"),
    Trouble("unknown_model", False, "request", "no worker knows the model", "`anime models` lists those there are"),
    Trouble("bad_settings", False, "request", "the engine does not take a setting, or several of them together",
            "the text names the field"),
    Trouble("input_missing", False, "request", "the library has no file of that id",
            "upload it again, then submit the job anew"),
    Trouble("input_unusable", False, "request", "a picture to begin with is damaged, too large or no picture",
            "upload a PNG, JPEG or WebP picture"),
    Trouble("invalid_image", False, "request", "a picture of this kind cannot be enlarged",
            "begin with an RGB or RGBA picture"),
    Trouble("unknown_lora", True, "request", "the worker does not have the LoRA (any more); another one may",
            "`anime models` lists LoRAs; put the file back"),
    # The ledger.
    Trouble("worker_lost", True, "ledger", "the worker fell silent, or came back without the attempt",
            "`anime generators` and the worker's log"),
    # Workers and their engines.
    Trouble("engine_error", True, "worker", "the engine failed in a way that nobody foresaw",
            "the worker's log has the traceback"),
    Trouble("engine_crashed", True, "worker", "the engine's process ended in the middle of work",
            "the worker's log; `dmesg` when memory ran out"),
    Trouble("engine_hung", True, "worker", "the engine got no further for too long and was ended",
            "the worker's log, which tells the last step"),
    Trouble("engine_unavailable", True, "worker", "the engine's process does not start", "the worker's log says why"),
    Trouble("device_error", True, "worker", "the card failed; the engine is started anew",
            "`nvidia-smi`, the driver, the card's temperature"),
    Trouble("out_of_memory", False, "worker", "it does not fit into memory, in slices and alone too",
            "a smaller picture, another model, fewer programs on the card"),
    Trouble("model_unusable", False, "worker", "the files of a model, a LoRA or an embedding cannot be used",
            "the text names the entry of `models.toml`"),
    Trouble("model_unavailable", True, "worker", "the worker cannot run the model any more; another one may",
            "`anime models` tells who can"),
    Trouble("not_a_number", False, "worker", "the model came to pictures of no numbers",
            '`precision = "float32"` for the model, or another VAE'),
    Trouble("upscaler_missing", False, "worker", "the worker has no such upscaler",
            "install what the text names, or choose another"),
    Trouble("input_unavailable", True, "worker", "the file to begin with could not be fetched in time",
            "are `files` and the artifact store there?"),
    Trouble("staging_failed", True, "worker", "the picture could not be stored for too long",
            "is the artifact store there, and has it room?"),
    Trouble("output_damaged", True, "worker", "the file that was made is damaged",
            "the disk of the server that made it"),
    Trouble("output_unusable", False, "worker", "the file that was made is of a kind that the library does not take",
            "let the workflow save PNG, WebP, MP4 or what else docs/library.md lists"),
    # ComfyUI servers.
    Trouble("model_missing", False, "comfyui", "the server has no checkpoint, LoRA or upscaler of that name",
            "`anime workflows check`; put the file into ComfyUI's `models/`"),
    Trouble("node_missing", False, "comfyui", "the server has no such node class",
            "install the extension, restart ComfyUI"),
    Trouble("node_not_allowed", False, "comfyui", "a workflow of a job has a node class that is not on the list",
            "`inline_nodes` in `comfyui.toml`"),
    Trouble("bad_value", False, "comfyui", "a node does not take a value", "the text names node and field"),
    Trouble("workflow_invalid", False, "comfyui", "the server refused the workflow as a whole",
            "open it in ComfyUI; export it again in the API format"),
    Trouble("node_failed", False, "comfyui", "a node raised an exception", "ComfyUI's console has the traceback"),
    Trouble("upload_refused", True, "comfyui", "the server does not take the picture to begin with",
            "ComfyUI's console; has its input folder room?"),
    Trouble("comfyui_error", False, "comfyui", "the server failed on the workflow without saying why (HTTP 500)",
            "ComfyUI's console; is the workflow in the API format?"),
    Trouble("comfyui_unreachable", True, "comfyui", "the server did not answer for too long", "is ComfyUI running?"),
    Trouble("comfyui_locked_out", True, "comfyui", "HTTP 401 or 403; another worker's server may let us in",
            "`headers` in `comfyui.toml`"),
    Trouble("comfyui_lost", True, "comfyui", "the server was started anew, or its queue cleared", "nothing"),
    Trouble("comfyui_stalled", True, "comfyui", "the server answers, but the prompt gets no further",
            "restart ComfyUI"),
    Trouble("comfyui_interrupted", False, "comfyui", "somebody pressed Cancel in ComfyUI", "`anime retry CODE`"),
    Trouble("output_missing", True, "comfyui", "the server does not hand out a file that it says it wrote",
            "ComfyUI's output folder"),
    Trouble("output_too_large", False, "comfyui", "the file is larger than is taken",
            "fewer frames, a smaller picture"),
    Trouble("no_output", False, "comfyui", "the nodes under `outputs` wrote nothing", "`outputs` of the manifest"),
    Trouble("foreign_output", False, "comfyui", "the nodes under `outputs` wrote under another prefix than ours",
            "`file_prefix` of the manifest"),
    # The filing of pictures.
    Trouble("staging_missing", True, "files", "a staged file is gone", "it is drawn again"),
    Trouble("staging_corrupt", True, "files", "a staged file is not what the worker wrote", "it is drawn again"),
    Trouble("not_a_picture", False, "files", "a staged file cannot be read as what it says it is",
            "the text says why; the engine that made it"),
    Trouble("bad_listing", False, "files", "the worker listed its files wrongly", "a bug of the worker: report it"),
    Trouble("bad_key", False, "files", "no valid place in the library comes of the template",
            "`ANIME_FILES_KEY_TEMPLATE`"),
)
# fmt: on


def retryable(code: str, *, told: bool = False) -> bool:
    """Whether another try may mend an error; of a code that is not in the table, what its sender `told`."""
    known = ERRORS.get(code)
    return told if known is None else known.retryable
