"""Whether a request can be taken, and what it becomes: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from anime_common.contracts.casting import Composition
from anime_common.contracts.characters import SeedMode
from anime_common.contracts.generation import (
    MAX_SIDE,
    GenerationRequest,
    Hires,
    HiresPass,
    Settings,
    Upscaling,
    workflow_text,
)
from anime_common.contracts.vocabulary import LoraUse, ModelInfo, Preset, Priority
from anime_common.outcomes import Refused
from anime_jobs.composition import Production, compose
from anime_jobs.fitting import fitted, loras_of
from anime_jobs.words import notice, unknown_words

TRUSTED_CLIENTS = frozenset({"gateway", "admin"})
"""People, who may use every priority; other services of the server may not jump the queue."""

SETTABLE = (
    *("negative_prompt", "preset", "width", "height", "steps", "guidance", "guidance_rescale", "clip_skip", "sampler"),
    *("seed", "count", "loras", "init_image", "mask", "strength", "hires", "upscale"),
    "workflow",
)
"""The fields that a model may honour or not."""

STRENGTH = 0.6
"""How much of a picture is drawn anew, unless the request says it."""

PLAIN_UPSCALER = "lanczos"
"""Known to every worker that enlarges at all."""


def request_hash(client: str, request: GenerationRequest) -> str:
    """Tells whether two submits under one id ask for the same."""
    return hashlib.sha256(f"{client}\n{request.model_dump_json(exclude_defaults=True)}".encode()).hexdigest()


def check_client(client: str, request: GenerationRequest) -> None:
    """Refuse what this client may not ask for."""
    if client not in TRUSTED_CLIENTS and request.priority is Priority.INTERACTIVE:
        raise Refused(403, "priority_not_allowed", "this client may use the priorities normal and batch", "priority")


def seed_for(request: GenerationRequest, production: Production, project_id: UUID, drawn: int) -> int:
    """The seed of the first picture: the request's, else as the first character with a policy wants it, else `drawn`.

    Throughout one `scene` of a project such a character keeps one seed; without a scene it is free.
    """
    if request.seed is not None:
        return request.seed
    for member in production.cast:
        if member.seed.mode is SeedMode.FIXED and member.seed.seed is not None:
            return member.seed.seed
        if member.seed.mode is SeedMode.SCENE and request.scene is not None:
            digest = hashlib.sha256(f"{project_id}\n{member.id}\n{request.scene}".encode()).digest()
            return int.from_bytes(digest[:4], "big")
    return drawn


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in a batch."""

    batch_id: UUID
    index: int
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the pictures are made with, and what became otherwise than asked, for people."""

    settings: Settings
    composition: Composition
    production: Production
    warnings: tuple[str, ...] = ()


def resolve(
    request: GenerationRequest,
    model: ModelInfo,
    production: Production,
    words: str,
    negative_prompt: str | None,
    seed: int,
) -> Resolved:
    """What the picture will be made with: the request over its characters, its project, its preset, the model.

    `words` and `negative_prompt` are the user's own, perhaps improved. Raises Refused (422) naming the field that the
    model cannot honour and what it allows; what a project or a character cannot have of it gives way with a warning.
    """
    _check_fields(request, model)
    warnings: list[str] = []
    production = fitted(production, model, warnings)
    style, target = production.style, production.target
    assert target is not None
    preset = _preset(request.preset or style.preset, model)
    chosen = {
        name: next(
            value for value in (getattr(each, name) for each in (request, preset, model) if each) if value is not None
        )
        for name in ("steps", "guidance", "guidance_rescale", "clip_skip", "sampler")
    }
    if chosen["steps"] > model.max_steps:
        raise _refused(f"the model {model.key} takes at most {model.max_steps} steps", "steps")
    if model.samplers and chosen["sampler"] not in model.samplers:
        raise _refused(f"the model {model.key} has the samplers {', '.join(model.samplers)}", "sampler")
    composed = compose(words, negative_prompt, production, target)
    warnings += composed.warnings
    prompt = composed.composition.prompt
    width, height = (
        _side(name, next(filter(None, (getattr(each, name) for each in (request, style, model)))), model, warnings)
        for name in ("width", "height")
    )
    loras = _loras(request, (*(preset.loras if preset else ()), *loras_of(production, model)), model, prompt, warnings)
    strength = _strength(request)
    if model.tags and strength != 0:
        own = {word for lora in model.loras for use in loras if lora.key == use.key for word in lora.trigger_words}
        if unknown := unknown_words(prompt, {*model.tags, *own}):
            warnings.append(notice(model.key, unknown, model.tags))
    hires = _hires(request.hires, model, (width, height), chosen["steps"])
    settings = Settings(
        prompt=prompt,
        negative_prompt=composed.composition.negative_prompt,
        model=model.key,
        width=width,
        height=height,
        seed=seed,
        count=request.count,
        preset=preset.name if preset else None,
        loras=loras,
        init_image=request.init_image,
        mask=request.mask,
        strength=strength,
        hires=hires,
        upscale=_upscale(request, model, (hires.width, hires.height) if hires else (width, height)),
        workflow=None if request.workflow is None else workflow_text(request.workflow),
        **chosen,
    )
    return Resolved(settings, composed.composition, production, tuple(warnings))


def _refused(text: str, field: str) -> Refused:
    return Refused(422, "invalid", text, field)


def _check_fields(request: GenerationRequest, model: ModelInfo) -> None:
    for name in SETTABLE:
        asked = getattr(request, name) != type(request).model_fields[name].default
        if model.fields and asked and name not in model.fields:
            raise Refused(422, "not_supported", f"the model {model.key} does not take this field", name)
    if request.workflow is None and "workflow" in model.fields:
        raise _refused(f"the model {model.key} draws nothing but what a workflow says: it is needed", "workflow")


def _preset(name: str | None, model: ModelInfo) -> Preset | None:
    if name is None:
        return None
    for preset in model.presets:
        if preset.name == name:
            return preset
    known = ", ".join(preset.name for preset in model.presets) or "none"
    raise _refused(f"the model {model.key} has no preset {name!r}; it has: {known}", "preset")


def _side(name: str, asked: int, model: ModelInfo, warnings: list[str]) -> int:
    """The side that the model draws nearest to what was asked for."""
    limits = model.sizes
    side = (asked + limits.multiple // 2) // limits.multiple * limits.multiple
    if not limits.minimum <= side <= limits.maximum:
        raise _refused(f"the model {model.key} draws sides of {limits}, not {asked}", name)
    if side != asked:
        warnings.append(f"{name}: {asked} became {side}, since {model.key} draws multiples of {limits.multiple} pixels")
    return side


def _loras(
    request: GenerationRequest, brought: Iterable[LoraUse], model: ModelInfo, prompt: str, warnings: list[str]
) -> tuple[LoraUse, ...]:
    """The LoRAs that come along and those of the request, by key: the order in which they are named changes nothing."""
    known = {lora.key: lora for lora in model.loras}
    uses = {use.key: use for use in brought}
    for index, asked in enumerate(request.loras):
        lora = known.get(asked.key)
        if lora is None:
            fitting = ", ".join(sorted(known)) or "none"
            text = f"there is no LoRA {asked.key!r} that fits the model {model.key}; there is: {fitting}"
            raise Refused(422, "unknown_lora", text, f"loras.{index}.key")
        uses[asked.key] = LoraUse(key=asked.key, weight=lora.weight if asked.weight is None else asked.weight)
        words = [word for word in lora.trigger_words if word.lower() in prompt.lower()]
        if lora.trigger_words and not words:
            warnings.append(f"loras.{asked.key}: the prompt has none of its words: {', '.join(lora.trigger_words)}")
    return tuple(uses[key] for key in sorted(uses))


def _strength(request: GenerationRequest) -> float | None:
    if request.init_image is None:
        return None
    strength = STRENGTH if request.strength is None else request.strength
    if strength == 0 and (request.upscale is None or request.mask is not None):
        raise _refused("0 draws nothing anew: allowed only to upscale init_image as it is, without a mask", "strength")
    return strength


def _upscaler(asked: str | None, default: str, model: ModelInfo, field: str) -> str:
    known = model.upscalers or (PLAIN_UPSCALER,)
    if asked is not None and asked not in known:
        raise _refused(f"there is no upscaler {asked!r} for {model.key}; there is: {', '.join(known)}", field)
    return asked or default


def _hires(asked: Hires | None, model: ModelInfo, size: tuple[int, int], steps: int) -> HiresPass | None:
    if asked is None:
        return None
    multiple = model.sizes.multiple
    width, height = (round(side * asked.scale / multiple) * multiple for side in size)
    _check_side(max(width, height), "hires.scale")
    steps = steps if asked.steps is None else asked.steps
    if steps > model.max_steps:
        raise _refused(f"the model {model.key} takes at most {model.max_steps} steps", "hires.steps")
    upscaler = _upscaler(asked.upscaler, PLAIN_UPSCALER, model, "hires.upscaler")
    return HiresPass(width=width, height=height, steps=steps, strength=asked.strength, upscaler=upscaler)


def _upscale(request: GenerationRequest, model: ModelInfo, size: tuple[int, int]) -> Upscaling | None:
    asked = request.upscale
    if asked is None:
        return None
    _check_side(round(max(size) * asked.factor), "upscale.factor")
    best = (model.upscalers or (PLAIN_UPSCALER,))[0]
    return Upscaling(factor=asked.factor, upscaler=_upscaler(asked.upscaler, best, model, "upscale.upscaler"))


def _check_side(side: int, field: str) -> None:
    if side > MAX_SIDE:
        raise _refused(f"pictures of at most {MAX_SIDE} pixels a side are made, not {side}", field)
