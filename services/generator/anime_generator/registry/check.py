"""What a registry names, file by file: for people who want to know before the service tells them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anime_generator.registry.family import FAMILIES, WHOLE_MULTIPLE, Kind
from anime_generator.registry.files import Look, contradiction, look, refusal
from anime_generator.registry.load import examine
from anime_generator.registry.reading import SHIPPED, RegistryError
from anime_generator.registry.specs import Registry

Report = dict[str, Any]

ARCHITECTURES: dict[str, Report] = {
    "sd15": {"width": 512, "height": 512, "steps": 25, "guidance": 7.0, "minimum": 256, "maximum": 1024},
    "sd2": {"width": 768, "height": 768, "steps": 25, "guidance": 7.0, "minimum": 256, "maximum": 1280},
    "sdxl": {"width": 1024, "height": 1024, "steps": 28, "guidance": 6.0, "minimum": 512, "maximum": 2048},
    "sd": {"width": 512, "height": 512, "steps": 25, "guidance": 7.0, "minimum": 64, "maximum": 1024},
}
"""Settings that suit a family, for a new entry."""
WHOLE_SUITS: Report = {"width": 1024, "height": 1024, "steps": 28, "guidance": 4.5, "minimum": 512, "maximum": 2048}
"""Settings for a pipeline that is run as a whole: its card says what suits it best."""


def check(overlay: Path | None, engines: frozenset[str]) -> Report:
    """Everything that a registry names, each with what is wrong with it, and all that is wrong."""
    try:
        registry, problems = examine(overlay, engines)
    except RegistryError as error:
        return {"file": str(overlay or SHIPPED), "items": [], "problems": error.problems}
    items = [*_items(registry)]
    for item in items:
        start = f"{item['section']}.{item['key']}"
        item["problems"] = [each for each in problems if each.startswith((f"{start}.", f"{start}:"))]
    return {"file": str(overlay or SHIPPED), "items": items, "problems": problems}


def inspect(path: Path, family: str = "") -> Report:
    """What a file holds and what a registry's entry for it would say. `family` is for files that do not tell theirs."""
    seen = look(path)
    found = seen.found
    problems = list(seen.problems)
    if not problems and (problem := refusal(found)) is not None:
        problems.append(problem)
    chosen = found.family or family
    if (problem := contradiction(family, found.family)) is not None:
        problems.append(problem)
    told = _told(path, seen)
    if not problems and not chosen and found.kind in {Kind.CHECKPOINT, Kind.LORA, Kind.EMBEDDING}:
        problems.append(f"{path.name} does not tell its family: say which of {', '.join(FAMILIES)}")
    entry = _entry(seen, chosen, alone=path.is_file()) if not problems and found.kind is Kind.CHECKPOINT else {}
    words = list(seen.trigger_words)
    return {
        **told,
        "family": chosen,
        "title": seen.title,
        "licence": seen.licence,
        "trigger_words": words,
        "entry": entry,
        "problems": problems,
    }


def _entry(seen: Look, family: str, *, alone: bool) -> Report:
    """The part of a model's table that follows from its file; a folder says itself what it was trained for."""
    suits = ARCHITECTURES.get(family, WHOLE_SUITS)
    entry: Report = {"engine": "auto" if seen.found.sampler else "diffusers"}
    if alone and seen.found.prediction == "v_prediction":
        entry["prediction"] = "v_prediction"
    if alone and seen.found.zero_terminal_snr:
        entry["zero_terminal_snr"] = True
    if seen.found.zero_terminal_snr:
        entry["guidance_rescale"] = 0.7  # without signal at the start, plain guidance burns colours out
    if seen.parameters:
        entry["memory_mb"] = -(-seen.parameters * 2 >> 20)
    entry["defaults"] = {name: suits[name] for name in ("width", "height", "steps", "guidance")}
    entry["defaults"]["sampler"] = seen.found.sampler or "dpm++ 2m karras"
    entry["sizes"] = {"minimum": suits["minimum"], "maximum": suits["maximum"]}
    entry["sizes"]["multiple"] = WHOLE_MULTIPLE if seen.found.sampler else 8
    return entry


def _items(registry: Registry) -> Iterator[Report]:
    for spec in registry.models.values():
        for name, path in (("", spec.source), ("vae", spec.vae)):
            if path is not None:
                yield {"section": "models", "key": spec.key, "part": name, **_told(path, look(path))}
    for lora in registry.loras.values():
        yield {"section": "loras", "key": lora.key, "part": "", **_told(lora.source, look(lora.source))}
    for each in registry.embeddings.values():
        yield {"section": "embeddings", "key": each.key, "part": "", **_told(each.source, look(each.source))}


def _told(path: Path, seen: Look) -> Report:
    return {
        "path": str(path),
        "kind": seen.found.kind.value,
        "family": seen.found.family,
        "dtype": seen.dtype,
        "size": seen.size,
        "tensors": seen.tensors,
        "prediction": seen.found.prediction,
    }
