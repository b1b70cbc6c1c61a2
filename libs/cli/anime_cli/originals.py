"""The pictures that a job begins with: files of this machine are uploaded, files of the library are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID

from anime_cli.api import Api, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.upload import send
from anime_common.contracts.files import FileView
from anime_common.contracts.jobs import Catalogue, JobView
from anime_common.contracts.vocabulary import ModelInfo, SizeLimits

_PICTURE_OF_A_JOB = re.compile(r"([0-9a-z]{8})(?:_([0-9]{1,3}))?")
"""A job's code, and the number of the picture as in the name of its file."""


async def find(api: Api, name: str, project: str | None) -> FileView:
    """The file that somebody means: an id, a file of this machine (which is uploaded), or a job's code with or without
    the number of its picture (`k3v9x2mq`, `k3v9x2mq_01`). Raises CliError when it is none of these.
    """
    if (file_id := _as_id(name)) is not None:
        return await api.get(f"/files/{file_id}", FileView)
    path = Path(name)
    if path.exists():
        return await send(api, path, project)
    if (found := _PICTURE_OF_A_JOB.fullmatch(name)) is not None:
        return await _picture_of(api, found[1], int(found[2] or 0))
    text = f"there is no file {name}; give a picture of this machine, or the id of a file (see `anime files list`)"
    raise CliError(ExitStatus.NOT_FOUND, text)


async def size_for(api: Api, file: FileView, body: dict[str, Any]) -> dict[str, int]:
    """Width and height that are not in the body of a job yet: those of the picture, within the limits of its model.

    Nothing when no worker has announced the model: what it draws by default is what the job gets then.
    """
    missing = [side for side in ("width", "height") if side not in body]
    if not missing:
        return {}
    model = _model(await api.get("/models", Catalogue), body.get("model"))
    if model is None:
        return {}
    if len(missing) == 2:
        width, height = fitted(file.width, file.height, model.sizes)
        return {"width": width, "height": height}
    if missing == ["width"]:
        return {"width": _side(body["height"] * file.width / file.height, model.sizes)}
    return {"height": _side(body["width"] * file.height / file.width, model.sizes)}


def fitted(width: int, height: int, limits: SizeLimits) -> tuple[int, int]:
    """The size nearest to a picture's that a model draws, of its shape as far as the limits let it."""
    scale = min(1.0, limits.maximum / max(width, height))
    scale = max(scale, limits.minimum / min(width, height))
    return _side(width * scale, limits), _side(height * scale, limits)


def _side(wanted: float, limits: SizeLimits) -> int:
    """The side in pixels nearest to the one wanted that a model draws."""
    step = limits.multiple
    least, most = -(-limits.minimum // step) * step, limits.maximum // step * step
    return min(max(round(wanted / step) * step, least), most)


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


async def _picture_of(api: Api, code: str, index: int) -> FileView:
    job = await api.get(f"/jobs/{segment('job', code)}", JobView)
    for output in job.outputs:
        if output.index == index:
            return await api.get(f"/files/{output.file_id}", FileView)
    raise CliError(ExitStatus.NOT_FOUND, f"job {code} is {job.state.value} and has no picture {index}")


def _model(catalogue: Catalogue, key: str | None) -> ModelInfo | None:
    models = [entry.model for entry in catalogue.items]
    return next((each for each in models if (each.default if key is None else each.key == key)), None)
