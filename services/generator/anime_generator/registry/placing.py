"""Where the files of models and adapters lie, and whether they are what the registry says of them."""

from __future__ import annotations

from pathlib import Path

from anime_common.contracts.vocabulary import Sampler, SizeLimits
from anime_generator.registry.entries import EmbeddingEntry, LoraEntry, ModelEntry
from anime_generator.registry.family import FAMILIES, WHOLE_MULTIPLE, Kind
from anime_generator.registry.files import Look, configured, contradiction, refusal
from anime_generator.registry.reading import CONFIGURATIONS, Reading, Table

WITH_FILES = frozenset({"diffusers", "auto"})
"""Engines whose models are files that lie here."""
_KNOWN = ", ".join(FAMILIES)


def place_adapter(
    reading: Reading, section: str, key: str, entry: LoraEntry | EmbeddingEntry, kind: Kind
) -> Table | None:
    """`source`, `family`, `size` and `stamp` of a LoRA or embedding; None when it cannot be used."""
    where = f"{section}.{key}"
    path = reading.path(section, key, "source", entry.source)
    if path is None:
        return None
    if path.is_dir():
        reading.wrong(f"{where}.source", f"{path} is a folder: a .safetensors file is needed")
        return None
    seen = reading.look(path)
    if not _is(reading, f"{where}.source", path, seen, kind):
        return None
    family = _family(reading, where, entry.family, seen)
    if not family:
        reading.wrong(f"{where}.family", f"is needed: the file does not tell; known: {_KNOWN}")
    return {"source": path, "family": family, "size": seen.size, "stamp": seen.stamp}


def place_model(reading: Reading, key: str, entry: ModelEntry) -> Table:
    """Where the files of a model lie, and what they say of themselves."""
    where = f"models.{key}"
    source = reading.path("models", key, "source", entry.source)
    placed: Table = {
        "source": source,
        "config": reading.path("models", key, "config", entry.config),
        "vae": reading.path("models", key, "vae", entry.vae),
        "family": entry.family,
        "prediction": entry.prediction,
        "zero_terminal_snr": entry.zero_terminal_snr,
    }
    looks = _looks(reading, where, placed)
    placed["size"] = sum(each.size for each in looks)
    placed["stamp"] = " ".join(each.stamp for each in looks)
    if entry.source is None and entry.engine in WITH_FILES:
        reading.wrong(f"{where}.source", "is missing: a diffusers folder or a .safetensors file")
    if source is None or not _is(reading, f"{where}.source", source, reading.look(source), Kind.CHECKPOINT):
        return placed
    seen = reading.look(source)
    meant = _family_of_config(reading, where, placed["config"], seen) if source.is_file() else ""
    placed["family"] = family = _family(reading, where, entry.family, seen) or meant
    placed["tags"] = seen.tags
    if seen.found.sampler:
        _run_as_a_whole(reading, where, entry, placed, seen.found.sampler)
    elif entry.engine == "auto":
        reading.wrong(f"{where}.engine", f"is for models that are run as a whole; those of family {family} are not")
    if source.is_file():
        _check_parts(reading, where, entry, source, seen)
        # What a folder was trained for stands in it; a file may say it by markers.
        placed["prediction"] = entry.prediction or seen.found.prediction
        if entry.zero_terminal_snr is None:
            placed["zero_terminal_snr"] = seen.found.zero_terminal_snr
        if entry.config is None and family in FAMILIES:
            placed["config"] = _configuration(reading, where, family)
    return placed


def _run_as_a_whole(reading: Reading, where: str, entry: ModelEntry, placed: Table, sampler: str) -> None:
    """Engine, sampler and sizes of a pipeline that is run as a whole; settings that it would not heed are mistakes."""
    placed["engine"] = "auto"
    placed["samplers"] = (Sampler(sampler),)
    placed["defaults"] = entry.defaults.model_copy(update={"sampler": Sampler(sampler)})
    sizes = entry.sizes
    if "multiple" not in sizes.model_fields_set:
        sizes = sizes.model_copy(update={"multiple": WHOLE_MULTIPLE})
    elif sizes.multiple % WHOLE_MULTIPLE:
        wanted = f"models of the family {placed['family']} draw multiples of {WHOLE_MULTIPLE} pixels"
        reading.wrong(f"{where}.sizes.multiple", f"{wanted}, not of {sizes.multiple}")
    placed["sizes"] = SizeLimits(**sizes.model_dump())
    for name in ("config", "vae", "prediction", "zero_terminal_snr", "options"):
        if getattr(entry, name):
            reading.wrong(f"{where}.{name}", f"models of the family {placed['family']} do not take it")
    if "sampler" in entry.defaults.model_fields_set and entry.defaults.sampler != sampler:
        reading.wrong(f"{where}.defaults.sampler", f"the model comes with {sampler}, and takes no other")


def _looks(reading: Reading, where: str, placed: Table) -> list[Look]:
    """What lies at the source and at the autoencoder of a model."""
    looks = [reading.look(placed["source"])] if placed["source"] is not None else []
    vae = placed["vae"]
    if vae is not None and _is(reading, f"{where}.vae", vae, reading.look(vae), Kind.VAE):
        looks.append(reading.look(vae))
    return looks


def _is(reading: Reading, where: str, path: Path, seen: Look, kind: Kind) -> bool:
    """Whether what lies at a path can be used, and is of this kind."""
    for problem in seen.problems:
        reading.wrong(where, problem)
    if not seen.problems and seen.found.kind is not kind:
        reading.wrong(where, f"{path.name} is not of the kind {kind}, but of the kind {seen.found.kind}")
        return False
    return not seen.problems


def _family(reading: Reading, where: str, said: str, seen: Look) -> str:
    """The family that a file is of: what stands in the registry must not contradict the file."""
    if (problem := refusal(seen.found)) is not None:
        reading.wrong(f"{where}.source", problem)
    elif (problem := contradiction(said, seen.found.family)) is not None:
        reading.wrong(f"{where}.family", problem)
    return seen.found.family or said


def _family_of_config(reading: Reading, where: str, config: Path | None, seen: Look) -> str:
    """The family that the owner's configuration is of, which must not contradict the file; empty without one."""
    if config is None:
        return ""
    family, problem = configured(config)
    told = seen.found.family
    if problem is None and family and told and (family == "sdxl") != (told == "sdxl"):
        problem = f"is of the family {family}, the file is of the family {told}"
    if problem is not None:
        reading.wrong(f"{where}.config", problem)
    return family


def _check_parts(reading: Reading, where: str, entry: ModelEntry, source: Path, seen: Look) -> None:
    """Whether a single file has all that a picture needs."""
    if "text encoder" in seen.found.lacks:
        reading.wrong(f"{where}.source", f"{source.name} has no text encoder: a whole checkpoint is needed")
    if "autoencoder" in seen.found.lacks and entry.vae is None:
        reading.wrong(f"{where}.vae", f"is needed: {source.name} has no autoencoder")
    if not seen.found.family and not entry.family and entry.config is None:
        reading.wrong(f"{where}.family", f"is needed: {source.name} does not tell; known: {_KNOWN}")


def _configuration(reading: Reading, where: str, family: str) -> Path | None:
    """The configuration that is shipped for a family."""
    folder = CONFIGURATIONS / family
    if folder.is_dir():
        return folder
    shipped = ", ".join(sorted(each.name for each in CONFIGURATIONS.iterdir() if each.is_dir()))
    text = f"is needed for the family {family}: a diffusers folder of that architecture; there are {shipped} already"
    reading.wrong(f"{where}.config", text)
    return None
