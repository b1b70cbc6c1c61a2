"""What a picture tells of its making: the `parameters` text that other tools read, and our own full record.

`parameters` follows the habit of AUTOMATIC1111's web UI (prompt, `Negative prompt: …`, then one line of
`Name: value` pairs), which many galleries and editors parse. Ours is JSON under `tower-anime`.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from anime_common.contracts.generation import PICTURE_RECORD
from anime_common.contracts.vocabulary import Sampler
from anime_common.media_layout import png_chunks
from anime_generator import __version__
from anime_generator.wire import named

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob
    from anime_common.media_layout import Chunk
    from anime_generator.engines.protocol import Picture

RECORD_VERSION = 1
PARAMETERS = "parameters"
NO_INPUTS: Mapping[UUID, str] = MappingProxyType({})
COMPRESSION = 4
"""zlib level of the PNG: a quarter larger than the best takes a fifth of the time."""

SAMPLER_NAMES: dict[Sampler, tuple[str, str]] = {
    Sampler.DPMPP_2M: ("DPM++ 2M", "Automatic"),
    Sampler.DPMPP_2M_KARRAS: ("DPM++ 2M", "Karras"),
    Sampler.DPMPP_2M_SDE: ("DPM++ 2M SDE", "Automatic"),
    Sampler.DPMPP_2M_SDE_KARRAS: ("DPM++ 2M SDE", "Karras"),
    Sampler.DPMPP_3M_SDE_KARRAS: ("DPM++ 3M SDE", "Karras"),
    Sampler.DPMPP_SDE: ("DPM++ SDE", "Automatic"),
    Sampler.DPMPP_SDE_KARRAS: ("DPM++ SDE", "Karras"),
    Sampler.EULER: ("Euler", "Automatic"),
    Sampler.EULER_KARRAS: ("Euler", "Karras"),
    Sampler.EULER_TRAILING: ("Euler", "SGM Uniform"),
    Sampler.EULER_A: ("Euler a", "Automatic"),
    Sampler.DDIM: ("DDIM", "Automatic"),
    Sampler.UNIPC: ("UniPC", "Automatic"),
    Sampler.UNIPC_KARRAS: ("UniPC", "Karras"),
    Sampler.LCM: ("LCM", "Automatic"),
    Sampler.TCD: ("TCD", "Automatic"),
}
"""The web UI's names of sampler and schedule."""


def parameters(job: OfferedJob, picture: Picture, size: tuple[int, int]) -> str:
    """The text that other tools read; `size` is width and height of the picture as drawn."""
    settings = job.settings
    sampler, schedule = SAMPLER_NAMES[settings.sampler]
    width, height = _size_before_enlarging(settings, size)
    pairs = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{settings.guidance:g}",
        "Seed": picture.seed,
        "Size": f"{width}x{height}",
        "Model": settings.model,
        **_extras(settings),
        "Version": f"tower-anime {__version__}",
    }
    loras = "".join(f" <lora:{use.key}:{use.weight:g}>" for use in settings.loras)
    lines = [settings.prompt + loras]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in pairs.items()))
    return "\n".join(lines)


def _size_before_enlarging(settings: Settings, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the first pass: whoever reads them enlarges as the other entries say."""
    if settings.hires is not None:
        return settings.width, settings.height
    if settings.upscale is not None:
        return round(size[0] / settings.upscale.factor), round(size[1] / settings.upscale.factor)
    return size


def _extras(settings: Settings) -> dict[str, object]:
    """What only some pictures are made with."""
    hires, upscale = settings.hires, settings.upscale
    strength = hires.strength if hires is not None else settings.strength
    pairs: dict[str, object] = {}
    if strength is not None:
        pairs["Denoising strength"] = f"{strength:g}"
    if settings.clip_skip > 1:
        pairs["Clip skip"] = settings.clip_skip
    if hires is not None:
        scale = f"{round(hires.width / settings.width, 2):g}"
        pairs |= {"Hires upscale": scale, "Hires steps": hires.steps, "Hires upscaler": hires.upscaler}
    if upscale is not None:
        pairs |= {"Postprocess upscale by": f"{upscale.factor:g}", "Postprocess upscaler": upscale.upscaler}
    return pairs


def record(
    job: OfferedJob, picture: Picture, *, engine: str, warnings: tuple[str, ...], inputs: Mapping[UUID, str]
) -> dict[str, Any]:
    """Everything needed to make the picture again and to find its job; `inputs` are SHA-256 by file id."""
    return {
        "version": RECORD_VERSION,
        "generator": __version__,
        "engine": engine,
        "job_id": str(job.job_id),
        "attempt_id": str(job.attempt_id),
        "code": job.code,
        "project": job.project,
        "index": picture.index,
        "seed": picture.seed,
        "settings": job.settings.model_dump(mode="json"),
        "inputs": {str(file_id): inputs[file_id] for file_id in named(job.settings).values()},
        "warnings": list(warnings),
    }


def encode_png(
    image: Image.Image,
    job: OfferedJob,
    picture: Picture,
    *,
    engine: str,
    warnings: tuple[str, ...] = (),
    inputs: Mapping[UUID, str] = NO_INPUTS,
) -> bytes:
    """The picture as a PNG that carries both texts; `inputs` are the SHA-256 of what it began with, by file id."""
    info = PngInfo()
    info.add_text(PARAMETERS, parameters(job, picture, image.size))
    info.add_itxt(PICTURE_RECORD, _as_json(record(job, picture, engine=engine, warnings=warnings, inputs=inputs)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, compress_level=COMPRESSION)
    return buffer.getvalue()


def annotate_png(
    data: bytes,
    job: OfferedJob,
    picture: Picture,
    size: tuple[int, int],
    *,
    engine: str,
    warnings: tuple[str, ...] = (),
    inputs: Mapping[UUID, str] = NO_INPUTS,
) -> bytes:
    """A PNG of another program's with both texts put in behind its head; every chunk of its own stays as it is.

    `parameters` that it carries already are those of its maker, and stay alone; a record under our name is not ours,
    and goes. Raises Damaged when it has no end.
    """
    head, *rest = png_chunks(data)
    kept = [chunk for chunk in rest if _keyword(data, chunk) != PICTURE_RECORD]
    info = PngInfo()
    if all(_keyword(data, chunk) != PARAMETERS for chunk in kept):
        info.add_text(PARAMETERS, parameters(job, picture, size))
    info.add_itxt(PICTURE_RECORD, _as_json(record(job, picture, engine=engine, warnings=warnings, inputs=inputs)))
    ours = (_chunk(name, body) for name, body, *_ in info.chunks)
    theirs = (data[chunk.start : chunk.end] for chunk in kept)
    return b"".join((data[: head.end], *ours, *theirs, data[rest[-1].end :]))


def _keyword(data: bytes, chunk: Chunk) -> str | None:
    """Under which name a chunk holds a text, if it does."""
    if chunk.name not in {b"tEXt", b"iTXt", b"zTXt"}:
        return None
    return data[chunk.body].partition(b"\0")[0].decode("latin-1")


def _chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG (third edition, §5.3)."""
    return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)


def _as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False)


def read_png(data: bytes) -> dict[str, Any] | None:
    """Our record in a PNG; None when it has none. Raises ValueError when the bytes are no PNG or the record is torn."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            text = image.text.get(PICTURE_RECORD)
    except OSError as error:
        raise ValueError(f"not a PNG: {error}") from error
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    return found
