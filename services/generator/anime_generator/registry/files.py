"""What lies where a registry points: checkpoints, autoencoders, adapters. Headers are read, weights never."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anime_generator.registry.family import FAMILIES, FOREIGN, WHOLE, Found, Kind, Prediction, family_of_unet, recognise
from anime_generator.registry.header import HeaderError, read_header

SUFFIX = ".safetensors"
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
"""Files that may run code when they are opened."""
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
"""Where the parts of a diffusers folder may come from; the last one is a module of diffusers, the home of a part that
is never loaded."""
CONVERT = "pickles can run code when they are opened: convert it to .safetensors as docs/models.md shows"
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer")
"""Parts of a diffusers folder that have weights."""
TAGS = "tags.json"
"""Lists the tags that a model knows, in a diffusers folder; most models know any words and have none."""
PIPELINES = {"StableDiffusionPipeline": False, "StableDiffusionXLPipeline": True}
"""The pipelines that can be drawn with, and whether each is of the XL architecture."""

_SOLVERS = {
    "FlowMatchEulerDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpm++ 2m",
    "UniPCMultistepScheduler": "unipc",
}
"""Our names for the solvers that pipelines which are run as a whole come with."""


@dataclass(frozen=True, slots=True)
class Look:
    """What lies at a path, and what is wrong with it. `size` in bytes; `stamp` changes with the files."""

    found: Found = field(default_factory=lambda: Found(Kind.UNKNOWN))
    dtype: str = ""
    size: int = 0
    tensors: int = 0
    parameters: int = 0
    stamp: str = ""
    title: str = ""
    licence: str = ""
    trigger_words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def look(path: Path) -> Look:
    """Look at a checkpoint, an adapter or an autoencoder: a `.safetensors` file or a diffusers folder."""
    if path.is_dir():
        return look_at_folder(path)
    if not path.exists():
        return Look(problems=(f"{path} does not exist",))
    if path.suffix.lower() in PICKLES:
        return Look(problems=(f"{path.name} is refused: {CONVERT}",))
    if path.suffix.lower() != SUFFIX:
        return Look(problems=(f"{path.name} is refused: only diffusers folders and {SUFFIX} files load",))
    try:
        header = read_header(path)
    except HeaderError as error:
        return Look(problems=(f"{path.name} {error}",), stamp=stamp(path))
    said = header.metadata
    words = tuple(word.strip() for word in said.get("modelspec.trigger_phrase", "").split(",") if word.strip())
    return Look(
        found=recognise(header),
        dtype=header.dtype,
        size=header.size,
        tensors=len(header.tensors),
        parameters=header.parameters,
        stamp=stamp(path),
        title=said.get("modelspec.title") or said.get("ss_output_name") or "",
        licence=said.get("modelspec.license", ""),
        trigger_words=words,
    )


def look_at_folder(folder: Path) -> Look:
    """Look at a diffusers folder: a whole pipeline, or an autoencoder by itself."""
    index = _json(folder / "model_index.json")
    if index is None:
        config = _json(folder / "config.json")
        if config is not None and str(config.get("_class_name", "")).startswith("Autoencoder"):
            looks = [_look_at_part(folder, "the autoencoder")]
            return _summed(folder, Found(Kind.VAE), looks)
        return Look(problems=(f"{folder} is no diffusers folder: it has no model_index.json that can be read",))
    parts = [name for name, value in index.items() if name in WEIGHTED and _present(value)]
    looks = [_look_at_part(folder / name, name) for name in parts]
    found = _summed(folder, _family_of_folder(folder, index), looks)
    tags, problem = _tags(folder / TAGS)
    problems = [*found.problems, problem, foreign_code(index), _unknown_solver(folder, found.found)]
    return replace(found, tags=tags, problems=tuple(each for each in problems if each))


def foreign_code(index: dict[str, Any]) -> str | None:
    """Which parts of a folder would run code that lies beside them; `index` is its model_index.json."""
    parts = [name for name, value in index.items() if _present(value) and value[0] not in LIBRARIES]
    return f"{', '.join(parts)} would run code that came with the checkpoint: refused" if parts else None


def configured(folder: Path) -> tuple[str, str | None]:
    """The family that a configuration (a diffusers folder, weights or not) is of, and what is wrong with it."""
    index = _json(folder / "model_index.json")
    if index is None:
        return "", f"{folder} is no diffusers folder: it has no model_index.json that can be read"
    name = str(index.get("_class_name"))
    if name not in PIPELINES:
        return "", f"{folder} is for a {name}, which cannot be drawn with; known: {', '.join(PIPELINES)}"
    return _family_of_folder(folder, index).family, None


def stamp(path: Path) -> str:
    """Changes whenever the file, or a file of the folder, does; empty when there is none."""
    newest, size = 0, 0
    for each in _files(path):
        try:
            state = each.stat()
        except OSError:
            continue
        newest, size = max(newest, state.st_mtime_ns), size + state.st_size
    return f"{newest}-{size}" if newest else ""


def refusal(found: Found) -> str | None:
    """Why nothing can be drawn with this; None when it can, or when its family cannot be told."""
    if found.sampler or found.family not in FOREIGN:
        return None
    if found.kind is Kind.CHECKPOINT and found.family in WHOLE.values():
        return f"the file is of {FOREIGN[found.family]}, which can be drawn with as a diffusers folder only"
    return f"the file is of {FOREIGN[found.family]}, which cannot be drawn with; known: {', '.join(FAMILIES)}"


def contradiction(said: str, told: str) -> str | None:
    """What is wrong with the family that somebody says, given the one that the file tells (empty: it does not)."""
    if said and said not in {*FAMILIES, told}:
        return f"there is no family {said!r}; known: {', '.join(FAMILIES)}"
    if said and told and said != told and not (said == "sd" and told in {"sd15", "sd2"}):
        return f"the file is of the family {told}, not {said}"
    return None


def _summed(folder: Path, found: Found, looks: list[Look]) -> Look:
    dtypes = sorted({each.dtype for each in looks if each.dtype})
    return Look(
        found=found,
        dtype=", ".join(dtypes),
        size=sum(each.size for each in looks),
        tensors=sum(each.tensors for each in looks),
        parameters=sum(each.parameters for each in looks),
        stamp=stamp(folder),
        problems=tuple(problem for each in looks for problem in each.problems),
    )


def _look_at_part(folder: Path, name: str) -> Look:
    """The weights of one part of a folder, which may be cut into several files."""
    weights = sorted(folder.glob(f"*{SUFFIX}"))
    if not weights:
        pickled = next((each.name for each in _files(folder) if each.suffix in PICKLES), None)
        problem = f"has pickled weights only ({pickled}): {CONVERT}" if pickled else f"has no {SUFFIX} weights"
        return Look(problems=(f"{name} {problem}",))
    size, tensors, parameters, problems, dtypes = 0, 0, 0, [], set()
    for each in weights:
        try:
            header = read_header(each)
        except HeaderError as error:
            problems.append(f"{name}/{each.name} {error}")
            continue
        size, tensors = size + header.size, tensors + len(header.tensors)
        parameters += header.parameters
        dtypes.add(header.dtype)
    joined = ", ".join(sorted(dtypes))
    return Look(dtype=joined, size=size, tensors=tensors, parameters=parameters, problems=tuple(problems))


def _family_of_folder(folder: Path, index: dict[str, Any]) -> Found:
    name = str(index.get("_class_name"))
    if name in WHOLE:
        return Found(Kind.CHECKPOINT, WHOLE[name], sampler=_solver(folder))
    xl = PIPELINES.get(name)
    if xl is None:
        return Found(Kind.CHECKPOINT)
    unet = _json(folder / "unet" / "config.json") or {}
    context, blocks = unet.get("cross_attention_dim"), unet.get("block_out_channels")
    if not isinstance(context, int) or not isinstance(blocks, list):
        return Found(Kind.CHECKPOINT, "sdxl" if xl else "sd")
    family = family_of_unet(context, tuple(blocks), xl=xl)
    trained = _json(folder / "scheduler" / "scheduler_config.json") or {}
    said = trained.get("prediction_type")
    prediction: Prediction | None = "v_prediction" if said == "v_prediction" else "epsilon" if said else None
    return Found(Kind.CHECKPOINT, family, prediction, bool(trained.get("rescale_betas_zero_snr")))


def _solver(folder: Path) -> str:
    """Our name for the solver that a folder comes with; empty when it has none."""
    config = _json(folder / "scheduler" / "scheduler_config.json") or {}
    name = _SOLVERS.get(str(config.get("_class_name")), "")
    if config.get("algorithm_type", "dpmsolver++") != "dpmsolver++" or config.get("solver_order", 2) != 2:
        return ""
    return f"{name} karras" if name and config.get("use_karras_sigmas") else name


def _unknown_solver(folder: Path, found: Found) -> str | None:
    if found.family not in WHOLE.values() or found.sampler:
        return None
    file = folder / "scheduler" / "scheduler_config.json"
    return f"{file} names no solver that is known, or sets it up in another way; known: {', '.join(_SOLVERS)}"


def _tags(path: Path) -> tuple[tuple[str, ...], str | None]:
    """The only tags that a model knows, if its folder lists them, and what is wrong with the list."""
    if not path.exists():
        return (), None
    tags = (_json(path) or {}).get("tags")
    if isinstance(tags, list) and all(isinstance(tag, str) and tag and tag == tag.lower() for tag in tags):
        return tuple(tags), None
    return (), f'{path.name} must be {{"tags": [...]}}, each tag a text in small letters'


def _present(value: object) -> bool:
    return isinstance(value, list) and bool(value) and value[0] is not None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (each for each in path.rglob("*") if each.is_file())
