"""The registry of models: `models.toml` as shipped, with the owner's file laid over it.

Every mistake of a file is reported at once, by the key of its line (`models.counterfeit.defaults.steps: …`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from anime_common.contracts.vocabulary import ModelInfo, ModelKey, PromptText, Sampler, Settings, SizeLimits
from anime_common.messages import Model, Request

SHIPPED = Path(__file__).with_name("models.toml")
BUILT_IN = Path(__file__).with_name("models")

FIELDS = ("prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "seed", "count")
"""The fields of a request that every model of this generator honours."""

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Option = str | int | float | bool


class RegistryError(Exception):
    """The registry cannot be used; `problems` are lines of the form `key: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Defaults(Request):
    """What a request that leaves a setting out gets."""

    width: Annotated[int, Field(ge=64, le=4096)]
    height: Annotated[int, Field(ge=64, le=4096)]
    steps: Annotated[int, Field(ge=1, le=150)]
    guidance: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] = 7.0
    sampler: Sampler = Sampler.DPMPP_2M_KARRAS
    negative_prompt: PromptText = ""


class Sizes(Request):
    """Sizes in pixels that the model draws well: each side within the limits and a multiple of `multiple`."""

    minimum: Annotated[int, Field(ge=8, le=4096)] = 64
    maximum: Annotated[int, Field(ge=64, le=4096)] = 2048
    multiple: Annotated[int, Field(ge=1, le=256)] = 8


class Entry(Request):
    """One `[models.<key>]` table."""

    title: str = ""
    engine: str
    source: str | None = None
    config: str | None = None
    family: str = ""
    precision: Precision = "auto"
    defaults: Defaults
    sizes: Sizes = Sizes()
    max_steps: Annotated[int, Field(ge=1, le=150)] = 150
    samplers: tuple[Sampler, ...] = ()
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    batch_limit: Annotated[int, Field(ge=1, le=64)] = 4
    memory_mb: Annotated[int, Field(ge=0)] = 0
    fallback: ModelKey | None = None
    preload: bool = False
    enabled: bool = True
    options: dict[str, Option] = Field(default_factory=dict)


class ModelSpec(Model):
    """A model as an engine gets it: paths resolved, defaults checked. `memory` is the owner's estimate in bytes."""

    key: str
    title: str
    engine: str
    source: Path | None
    config: Path | None
    family: str
    precision: Precision
    defaults: Defaults
    sizes: SizeLimits
    max_steps: int
    samplers: tuple[Sampler, ...]
    guidance_rescale: float
    batch_limit: int
    memory: int
    fallback: str | None
    preload: bool
    default: bool
    options: dict[str, Option]

    def info(self, samplers: tuple[Sampler, ...]) -> ModelInfo:
        """What a worker announces of the model. `samplers` are the engine's; the registry's own list narrows them."""
        allowed = tuple(sampler for sampler in samplers if not self.samplers or sampler in self.samplers)
        return ModelInfo(
            key=self.key,
            title=self.title or self.key,
            engine=self.engine,
            family=self.family,
            default=self.default,
            width=self.defaults.width,
            height=self.defaults.height,
            steps=self.defaults.steps,
            guidance=self.defaults.guidance,
            sampler=self.defaults.sampler,
            negative_prompt=self.defaults.negative_prompt,
            sizes=self.sizes,
            max_steps=self.max_steps,
            samplers=allowed,
            fields=FIELDS,
        )


@dataclass(frozen=True, slots=True)
class Registry:
    """All models this worker may run, by key."""

    models: dict[str, ModelSpec]
    default: str

    def preloaded(self) -> tuple[ModelSpec, ...]:
        """Models to load before the first job, the default last, so that it is the most recently used."""
        wanted = [spec for spec in self.models.values() if spec.preload]
        return tuple(sorted(wanted, key=lambda spec: spec.default))

    def batch_limit(self) -> int:
        """The largest number of pictures that any model draws in one forward pass."""
        return max(spec.batch_limit for spec in self.models.values())


def load_registry(overlay: Path | None, engines: frozenset[str]) -> Registry:
    """The shipped registry with `overlay` laid over it; raises RegistryError with every mistake at once.

    `engines` are the names that `engine = ` may take.
    """
    tables = _read(SHIPPED)
    bases = dict.fromkeys(_model_tables(tables), SHIPPED.parent)
    if overlay is not None:
        above = _read(overlay)
        bases |= dict.fromkeys(_model_tables(above), overlay.parent)
        tables = _merge(tables, above)
    problems = [f"{key}: unknown key; default and models are allowed" for key in tables.keys() - {"default", "models"}]
    default = str(tables.get("default", ""))
    if not isinstance(tables.get("models", {}), dict):
        problems.append("models: must be tables of the form [models.<key>]")
    models: dict[str, ModelSpec] = {}
    named: set[str] = set()
    for key, table in _model_tables(tables).items():
        spec, wrong = _spec(key, table, bases[key], default, engines)
        problems += wrong
        if spec is not None:
            models[key] = spec
        if spec is not None or wrong:
            named.add(key)
    problems += _cross_check(models, named, default)
    if problems:
        raise RegistryError([f"{overlay or SHIPPED}: {problem}" for problem in problems])
    return Registry(models, default)


def settings_problem(info: ModelInfo, settings: Settings) -> str | None:
    """What this model cannot do of `settings`, naming the field; None when all is well."""
    sizes = info.sizes
    for name, value in (("width", settings.width), ("height", settings.height)):
        if not sizes.minimum <= value <= sizes.maximum:
            return f"{name}: {info.key} draws {sizes.minimum} to {sizes.maximum} pixels, not {value}"
        if value % sizes.multiple:
            return f"{name}: {info.key} needs a multiple of {sizes.multiple} pixels, not {value}"
    if not 1 <= settings.steps <= info.max_steps:
        return f"steps: {info.key} takes 1 to {info.max_steps}, not {settings.steps}"
    if settings.sampler not in info.samplers:
        return f"sampler: {info.key} has {', '.join(info.samplers)}, not {settings.sampler}"
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegistryError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RegistryError([f"{path}: not a TOML file: {error}"]) from error


def _model_tables(tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    models = tables.get("models", {})
    return models if isinstance(models, dict) else {}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _spec(
    key: str, table: object, base: Path, default: str, engines: frozenset[str]
) -> tuple[ModelSpec | None, list[str]]:
    where = f"models.{key}"
    try:
        entry = Entry.model_validate(table)
    except ValidationError as error:
        lines = error.errors(include_url=False, include_context=False, include_input=False)
        return None, [".".join([where, *map(str, line["loc"])]) + f": {line['msg']}" for line in lines]
    if not entry.enabled:
        return None, []
    problems: list[str] = []
    if entry.engine not in engines:
        problems.append(f"{where}.engine: there is no engine {entry.engine!r}; known: {', '.join(sorted(engines))}")
    source = _path(entry.source, base, f"{where}.source", problems)
    if source is not None and source.is_file() and source.suffix != ".safetensors":
        problems.append(f"{where}.source: {source.name} is refused: only diffusers folders and .safetensors files load")
    config = _path(entry.config, base, f"{where}.config", problems)
    shared = entry.model_dump(exclude={"source", "config", "memory_mb", "enabled", "sizes", "defaults"})
    spec = ModelSpec(
        key=key,
        source=source,
        config=config,
        memory=entry.memory_mb << 20,
        default=key == default,
        sizes=SizeLimits(**entry.sizes.model_dump()),
        defaults=entry.defaults,
        **shared,
    )
    info = spec.info(entry.samplers or tuple(Sampler))
    chosen = Settings(prompt="", model=key, seed=0, **entry.defaults.model_dump(exclude={"negative_prompt"}))
    if problem := settings_problem(info, chosen):
        problems.append(f"{where}.defaults.{problem}")
    return spec, problems


def _path(value: str | None, base: Path, where: str, problems: list[str]) -> Path | None:
    """`value` relative to the file it stands in; `builtin:<name>` is a model that comes with the generator."""
    if value is None:
        return None
    name = value.removeprefix("builtin:")
    path = BUILT_IN / name if name != value else base / Path(value).expanduser()
    if not path.exists():
        problems.append(f"{where}: {path} does not exist")
    return path.absolute()


def _cross_check(models: dict[str, ModelSpec], named: set[str], default: str) -> list[str]:
    """Mistakes between tables; `named` are the enabled models, those with mistakes of their own included."""
    problems = [
        f"models.{spec.key}.fallback: there is no model {spec.fallback!r}"
        for spec in models.values()
        if spec.fallback is not None and spec.fallback not in named
    ]
    if default not in named:
        problems.append(f"default: there is no enabled model {default!r}; known: {', '.join(sorted(named)) or 'none'}")
    return problems
