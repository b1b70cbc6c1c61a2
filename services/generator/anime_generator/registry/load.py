"""Reads the registry: `models.toml` as shipped, with the owner's file laid over it, table by table.

Every mistake of a file is reported at once, by the key of its line (`models.counterfeit.defaults.steps: …`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anime_common.contracts.generation import Settings
from anime_common.contracts.vocabulary import Preset, Sampler, SizeLimits
from anime_generator.registry.entries import OPTIONS, EmbeddingEntry, LoraEntry, ModelEntry
from anime_generator.registry.family import Kind
from anime_generator.registry.placing import place_adapter, place_model
from anime_generator.registry.reading import SECTIONS, SHIPPED, Reading, RegistryError, Table, read_tables, section_of
from anime_generator.registry.specs import EmbeddingSpec, LoraSpec, ModelSpec, Registry, settings_problem

_NOT_SHARED = {"source", "family", "enabled"}
_SHARED = {
    *("title", "licence", "engine", "precision", "clip_skip", "guidance_rescale", "max_steps", "samplers"),
    *("batch_limit", "fallback", "preload", "pin", "options"),
}
"""What a model's table and its spec have in common."""


def load_registry(overlay: Path | None, engines: frozenset[str]) -> Registry:
    """The shipped registry with `overlay` laid over it; raises RegistryError with every mistake at once.

    `engines` are the names that `engine = ` may take.
    """
    registry, problems = examine(overlay, engines)
    if problems:
        raise RegistryError([f"{overlay or SHIPPED}: {problem}" for problem in problems])
    return registry


def examine(overlay: Path | None, engines: frozenset[str]) -> tuple[Registry, list[str]]:
    """What can be read of a registry, and all that is wrong with it; raises RegistryError when it is no TOML file."""
    tables = read_tables(SHIPPED)
    bases = dict.fromkeys(_keys(tables), SHIPPED.parent)
    if overlay is not None:
        above = read_tables(overlay)
        bases |= dict.fromkeys(_keys(above), overlay.parent)
        tables = _merge(tables, above)
    reading = Reading(engines, str(tables.get("default", "")), bases)
    for key in sorted(tables.keys() - {"default", *SECTIONS}):
        reading.wrong(key, "unknown key; default, models, loras and embeddings are allowed")
    for section in SECTIONS:
        if not isinstance(tables.get(section, {}), dict):
            reading.wrong(section, f"must be tables of the form [{section}.<key>]")
    adapters = _Adapters(_loras(reading, tables), _embeddings(reading, tables))
    models = _models(reading, tables, adapters)
    _cross_check(reading, models, adapters.loras)
    return Registry(models, reading.default, adapters.loras, adapters.embeddings), reading.problems


@dataclass(frozen=True, slots=True)
class _Adapters:
    loras: Mapping[str, LoraSpec]
    embeddings: Mapping[str, EmbeddingSpec]


def _keys(tables: Table) -> list[tuple[str, str]]:
    return [(section, key) for section in SECTIONS for key in section_of(tables, section)]


def _merge(below: Table, above: Table) -> Table:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _loras(reading: Reading, tables: Table) -> dict[str, LoraSpec]:
    found = {}
    for key, table in section_of(tables, "loras").items():
        entry = reading.entry("loras", key, table, LoraEntry)
        placed = place_adapter(reading, "loras", key, entry, Kind.LORA) if entry is not None else None
        if entry is not None and placed is not None:
            found[key] = LoraSpec(key=key, **entry.model_dump(exclude=_NOT_SHARED), **placed)
    return found


def _embeddings(reading: Reading, tables: Table) -> dict[str, EmbeddingSpec]:
    found = {}
    for key, table in section_of(tables, "embeddings").items():
        entry = reading.entry("embeddings", key, table, EmbeddingEntry)
        placed = place_adapter(reading, "embeddings", key, entry, Kind.EMBEDDING) if entry is not None else None
        if entry is not None and placed is not None:
            found[key] = EmbeddingSpec(key=key, **entry.model_dump(exclude=_NOT_SHARED), **placed)
    return found


def _models(reading: Reading, tables: Table, adapters: _Adapters) -> dict[str, ModelSpec]:
    found = {}
    for key, table in section_of(tables, "models").items():
        entry = reading.entry("models", key, table, ModelEntry)
        if entry is not None:
            found[key] = _model(reading, key, entry, adapters)
    return found


def _model(reading: Reading, key: str, entry: ModelEntry, adapters: _Adapters) -> ModelSpec:
    where = f"models.{key}"
    if entry.engine not in reading.engines:
        known = ", ".join(sorted(reading.engines))
        reading.wrong(f"{where}.engine", f"there is no engine {entry.engine!r}; known: {known}")
    elif entry.engine in OPTIONS:
        reading.checked(f"{where}.options", entry.options, OPTIONS[entry.engine])
    placed = place_model(reading, key, entry)
    shared = entry.model_dump(include=_SHARED)
    shared |= {"defaults": entry.defaults, "sizes": SizeLimits(**entry.sizes.model_dump())}
    spec = ModelSpec(
        key=key,
        memory=entry.memory_mb << 20,
        default=key == reading.default,
        presets=tuple(preset.info(name) for name, preset in entry.presets.items()),
        loras=tuple(each for each in adapters.loras.values() if each.info().fits(placed["family"], key)),
        embeddings=tuple(each for each in adapters.embeddings.values() if each.family == placed["family"]),
        **shared | placed,
    )
    info = spec.info(spec.samplers or tuple(Sampler))
    chosen = Settings(prompt="", model=key, seed=0, **spec.defaults.model_dump(exclude={"negative_prompt"}))
    if problem := settings_problem(info, chosen):
        reading.problems.append(f"{where}.defaults.{problem}")
    return spec


def _cross_check(reading: Reading, models: Mapping[str, ModelSpec], loras: Mapping[str, LoraSpec]) -> None:
    """Mistakes between tables."""
    named = reading.named["models"]
    for spec in models.values():
        if spec.fallback is not None and spec.fallback not in named:
            reading.wrong(f"models.{spec.key}.fallback", f"there is no model {spec.fallback!r}")
        for preset in spec.presets:
            _check_preset(reading, spec, preset, loras)
    if reading.default not in named:
        known = ", ".join(sorted(named)) or "none"
        reading.wrong("default", f"there is no enabled model {reading.default!r}; known: {known}")


def _check_preset(reading: Reading, spec: ModelSpec, preset: Preset, loras: Mapping[str, LoraSpec]) -> None:
    where = f"models.{spec.key}.presets.{preset.name}"
    if preset.steps is not None and preset.steps > spec.max_steps:
        reading.wrong(f"{where}.steps", f"{spec.key} takes 1 to {spec.max_steps}, not {preset.steps}")
    if preset.sampler is not None and spec.samplers and preset.sampler not in spec.samplers:
        reading.wrong(f"{where}.sampler", f"{spec.key} has {', '.join(spec.samplers)}, not {preset.sampler}")
    named, fitting = reading.named["loras"], {lora.key for lora in spec.loras}
    for use in preset.loras:
        if use.key not in named:
            known = ", ".join(sorted(named)) or "none"
            reading.wrong(f"{where}.loras.{use.key}", f"there is no LoRA {use.key!r}; known: {known}")
        elif use.key not in fitting and not reading.is_wrong("loras", use.key):
            reading.wrong(f"{where}.loras.{use.key}", _misfit(spec, loras[use.key]))


def _misfit(spec: ModelSpec, lora: LoraSpec) -> str:
    if lora.family == spec.family:
        return f"it is for {', '.join(lora.models)} only"
    return f"it does not fit {spec.key}, which is of the family {spec.family or 'unknown'}"
