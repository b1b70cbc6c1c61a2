"""What a ComfyUI server has, as the registry of the worker that drives it. Pure.

Every checkpoint is a model, every workflow that draws with none in particular one more. A server tells of its files by
name alone, so what a model is stands in the owner's file, in the texts that the file itself carries, or in its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anime_common.contracts.vocabulary import Sampler, SizeLimits
from anime_common.keys import key_for
from anime_generator.comfyui.binding import SAMPLERS, UPSCALERS
from anime_generator.comfyui.checking import check, choices_of
from anime_generator.comfyui.choosing import ROLES, fields_of
from anime_generator.comfyui.graph import nodes_of
from anime_generator.comfyui.inline import NAME as INLINE
from anime_generator.comfyui.manifest import Workflow
from anime_generator.comfyui.servers import CheckpointEntry, LoraFileEntry, Servers
from anime_generator.registry.entries import Defaults, Sizes
from anime_generator.registry.family import family_of_metadata
from anime_generator.registry.specs import LoraSpec, ModelSpec, Registry

ENGINE = "comfyui"
CHECKPOINTS, LORAS, UPSCALE_MODELS = "checkpoints", "loras", "upscale_models"

_NAMES = (
    (re.compile(r"xl|pony|illustrious|noob|animagine", re.IGNORECASE), "sdxl"),
    (re.compile(r"flux", re.IGNORECASE), "flux"),
    (re.compile(r"sd-?_?3", re.IGNORECASE), "sd3"),
    (re.compile(r"sd-?_?2|v2-1", re.IGNORECASE), "sd2"),
    (re.compile(r"sd-?_?1|v1-5|1\.5", re.IGNORECASE), "sd15"),
)
"""What the names of files usually have in them, by family."""

_DEFAULTS = {
    "sdxl": Defaults(width=1024, height=1024, steps=28, guidance=6.0, sampler=Sampler.EULER_A),
    "flux": Defaults(width=1024, height=1024, steps=20, guidance=1.0, sampler=Sampler.EULER),
    "sd3": Defaults(width=1024, height=1024, steps=28, guidance=4.5, sampler=Sampler.EULER_TRAILING),
    "sd2": Defaults(width=768, height=768, steps=28),
}
_USUAL = Defaults(width=512, height=512, steps=28)
"""For Stable Diffusion 1, and for whatever nothing is known of."""
_LARGEST = 2048


@dataclass(frozen=True, slots=True)
class Found:
    """What the server was found to have: names of its files, their texts by (folder, name), and its node classes."""

    checkpoints: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    upscalers: tuple[str, ...] = ()
    texts: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    classes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stock:
    """The registry, and what somebody should mend."""

    registry: Registry
    warnings: tuple[str, ...]


_NONE = Workflow(INLINE, "Whatever the job brings: a workflow of its own", {}, {}, frozenset())
NOTHING = Stock(Registry({}, ""), ())


def keys_for(names: Iterable[str], given: Mapping[str, str | None]) -> dict[str, str]:
    """What files are called here, by their names on the server; `given` are keys that the owner chose.

    Files of one name in several folders are told apart by their folders.
    """
    chosen = {name: key for name in names if (key := given.get(name)) is not None}
    taken, keys = set(chosen.values()), dict(chosen)
    for name in sorted(set(names) - chosen.keys(), key=lambda each: (len(re.split(r"[\\/]", each)), each)):
        parts = re.split(r"[\\/]", name)
        candidates = [key_for("-".join(parts[-depth:])) for depth in range(1, len(parts) + 1)]
        plain = candidates[-1][:60]
        candidates += [f"{plain}-{number}" for number in range(2, len(taken) + 3)]
        keys[name] = next(each for each in candidates if each not in taken)
        taken.add(keys[name])
    return keys


def upscalers_for(names: Iterable[str]) -> dict[str, str]:
    """The files of upscalers by our key, those for drawings first."""
    found = {key: name for name, key in keys_for(names, {}).items() if key not in UPSCALERS}
    return dict(sorted(found.items(), key=lambda each: ("anime" not in each[0], each[0])))


def stock(servers: Servers, found: Found, workflows: Mapping[str, Workflow], *, inline: bool = False) -> Stock:
    """The registry of a server; `inline` is whether it takes workflows that come with a job."""
    problems = {name: check(workflow, found.classes) for name, workflow in workflows.items()}
    usable = {name: workflow for name, workflow in workflows.items() if not problems[name]}
    warnings = [
        f"the workflow {name} is left out: {problem}"
        for name, workflow in workflows.items()
        if workflow.own
        for problem in problems[name][:3]
    ]
    families: dict[str, list[str]] = {}
    loras = dict(_loras(servers.loras, found, families))
    models = dict(_checkpoints(servers.checkpoints, found, usable, tuple(loras.values()), families))
    for name, workflow in usable.items():
        if name not in ROLES and (problem := _clash(name, models)) is None:
            models[name] = _of_workflow(workflow, found.classes)
        elif name not in ROLES:
            warnings.append(problem or "")
    if inline and found.classes:
        models[INLINE] = _of_workflow(_NONE, found.classes, fields=("prompt", "workflow"))
    warnings += [f"{_some(names)}: {text}" for text, names in families.items()]
    for section, entries, there in (
        (CHECKPOINTS, servers.checkpoints, found.checkpoints),
        (LORAS, servers.loras, found.loras),
    ):
        missing = sorted(name for name, entry in entries.items() if name not in there and entry.enabled)
        if missing:
            warnings.append(f"{section}: the server has no {_some(missing)}")
    default = next((key for key, spec in models.items() if spec.default), "")
    return Stock(Registry(models, default, loras), tuple(warnings))


def _clash(name: str, models: Mapping[str, ModelSpec]) -> str | None:
    if name in models:
        return f"the workflow {name} is left out: a checkpoint has this name"
    if name == INLINE:
        return f"the workflow {name} is left out: jobs that bring their own ask for this name"
    if key_for(name) != name:
        return f"the workflow {name} is left out: call it {key_for(name)}, as models are called"
    return None


def _checkpoints(
    entries: Mapping[str, CheckpointEntry],
    found: Found,
    usable: Mapping[str, Workflow],
    loras: tuple[LoraSpec, ...],
    unknown: dict[str, list[str]],
) -> Iterator[tuple[str, ModelSpec]]:
    honours = fields_of(usable.values())
    if not honours:
        return
    samplers, upscalers = _samplers(found.classes), _upscalers(found)
    shown = [name for name in found.checkpoints if entries.get(name, CheckpointEntry()).enabled]
    keys = keys_for(shown, {name: entry.key for name, entry in entries.items()})
    for name in shown:
        entry = entries.get(name, CheckpointEntry())
        family = entry.family or _family(CHECKPOINTS, name, found)
        if not family and entry.defaults is None:
            text = "their kind cannot be told: drawn at 512 x 512 unless asked otherwise; say their family or defaults"
            unknown.setdefault(text, []).append(name)
        defaults = entry.defaults or _DEFAULTS.get(family, _USUAL)
        allowed = tuple(each for each in samplers if not entry.samplers or each in entry.samplers)
        if defaults.sampler not in allowed:
            defaults = defaults.model_copy(update={"sampler": next(iter(allowed), defaults.sampler)})
        key = keys[name]
        yield (
            key,
            ModelSpec(
                key=key,
                title=entry.title or name,
                engine=ENGINE,
                source=Path(name),
                config=None,
                family=family,
                precision="auto",
                defaults=defaults,
                sizes=SizeLimits(**entry.sizes.model_dump()),
                max_steps=entry.max_steps,
                samplers=allowed,
                guidance_rescale=0.0,
                clip_skip=entry.clip_skip,
                batch_limit=1,
                memory=0,
                fallback=None,
                preload=False,
                default=entry.default,
                options={},
                licence=entry.licence,
                presets=tuple(preset.info(each) for each, preset in entry.presets.items()),
                loras=tuple(lora for lora in loras if lora.info().fits(family, key)),
                honours=tuple(sorted(honours)),
                upscalers=upscalers,
            ),
        )


def _of_workflow(workflow: Workflow, classes: Mapping[str, Any], fields: tuple[str, ...] = ()) -> ModelSpec:
    """A workflow that is a model of its own: what a request leaves out stays as the workflow has it.

    `fields` are those of a request that it honours, where that is not the workflow's to say.
    """
    sampler = _sampler_of(workflow)
    width, height = (_whole(workflow.value(side)) or 512 for side in ("width", "height"))
    defaults = Defaults(
        width=min(max(width, 64), 4096),
        height=min(max(height, 64), 4096),
        steps=min(max(_whole(workflow.value("steps")) or _steps(workflow), 1), 150),
        guidance=min(max(float(workflow.value("guidance") or 1.0), 0.0), 30.0),
        sampler=sampler,
        negative_prompt=str(workflow.value("negative_prompt") or "")[:4000],
    )
    return ModelSpec(
        key=workflow.name,
        title=workflow.title if workflow.tested else f"{workflow.title} (not yet run on a card)",
        engine=ENGINE,
        source=None,
        config=None,
        family="",
        precision="auto",
        defaults=defaults,
        sizes=_sizes(workflow, classes),
        max_steps=150,
        samplers=tuple(_samplers(classes)) if "sampler" in workflow.fields else (sampler,),
        guidance_rescale=0.0,
        batch_limit=1,
        memory=0,
        fallback=None,
        preload=False,
        default=False,
        options={},
        honours=fields or tuple(sorted((workflow.honours | {"count"}) - {"model", "loras"})),
        upscalers=tuple(UPSCALERS) if "upscale" in workflow.honours else (),
        workflow=workflow.name,
    )


def _loras(
    entries: Mapping[str, LoraFileEntry], found: Found, unknown: dict[str, list[str]]
) -> Iterator[tuple[str, LoraSpec]]:
    shown = [name for name in found.loras if entries.get(name, LoraFileEntry()).enabled]
    keys = keys_for(shown, {name: entry.key for name, entry in entries.items()})
    for name in shown:
        entry = entries.get(name, LoraFileEntry())
        family = entry.family or _family(LORAS, name, found)
        if not family:
            text = "left out, since it cannot be told which models these LoRAs are for: say their family"
            unknown.setdefault(text, []).append(name)
            continue
        key = keys[name]
        yield (
            key,
            LoraSpec(
                key=key,
                source=Path(name),
                family=family,
                models=entry.models,
                title=entry.title or name,
                licence=entry.licence,
                trigger_words=entry.trigger_words,
                weight=entry.weight,
            ),
        )


def _family(folder: str, name: str, found: Found) -> str:
    """What a file is, by its own texts or its name; empty when neither tells."""
    told = family_of_metadata(found.texts.get((folder, name), {}))
    return told or next((family for pattern, family in _NAMES if pattern.search(name)), "")


def _samplers(classes: Mapping[str, Any]) -> tuple[Sampler, ...]:
    """Our samplers that the server's usual sampler knows."""
    names, schedules = (_choices(classes, "KSampler", each) for each in ("sampler_name", "scheduler"))
    return tuple(ours for ours, (name, schedule) in SAMPLERS.items() if name in names and schedule in schedules)


def _upscalers(found: Found) -> tuple[str, ...]:
    models = upscalers_for(found.upscalers) if "ImageUpscaleWithModel" in found.classes else {}
    return (*models, *UPSCALERS)


def _choices(classes: Mapping[str, Any], name: str, field_name: str) -> list[Any]:
    said = _said(classes, name, field_name)
    if not said:
        return []
    return choices_of(said) or []


def _said(classes: Mapping[str, Any], name: str, field_name: str) -> list[Any]:
    """What a class says of an input: its type, and options."""
    told = (classes.get(name) or {}).get("input") or {}
    for part in ("required", "optional"):
        if isinstance(said := (told.get(part) or {}).get(field_name), list):
            return said
    return []


def _sizes(workflow: Workflow, classes: Mapping[str, Any]) -> SizeLimits:
    """What the nodes that width and height go into allow."""
    least, most, multiple = 64, _LARGEST, 8
    for side in ("width", "height"):
        for place in workflow.fields.get(side, ()):
            said = _said(classes, str(workflow.graph[place.node]["class_type"]), place.input)
            options = said[1] if len(said) > 1 and isinstance(said[1], Mapping) else {}
            least = max(least, _whole(options.get("min")) or least)
            most = min(most, _whole(options.get("max")) or most)
            multiple = max(multiple, _whole(options.get("step")) or multiple)
    return SizeLimits(
        **Sizes(minimum=min(least, 4096), maximum=max(most, 64), multiple=min(multiple, 256)).model_dump()
    )


def _sampler_of(workflow: Workflow) -> Sampler:
    """Ours for what the workflow has; by its name alone when the schedule is none of ours."""
    said = (workflow.value("sampler"), workflow.value("scheduler"))
    if said[0] is None:
        every = (node.get("inputs", {}) for node in workflow.graph.values())
        inputs: Mapping[str, Any] = next((each for each in every if "sampler_name" in each), {})
        said = (inputs.get("sampler_name"), inputs.get("scheduler"))
    exact = (each for each, names in SAMPLERS.items() if names == said)
    alike = (each for each, names in SAMPLERS.items() if names[0] == said[0])
    return (*exact, *alike, Sampler.EULER)[0]


def _steps(workflow: Workflow) -> int:
    """What its samplers make in all, as far as they say."""
    return sum(node.steps or 0 for node in nodes_of(workflow.graph).values())


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
