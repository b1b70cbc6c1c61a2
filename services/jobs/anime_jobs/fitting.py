"""What a model can have of a project's style and of its characters: pure.

A request is refused when the model cannot do what it asks. What a project or a character brings along was chosen for
another picture, perhaps for another model: where it does not fit, it is left out, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from anime_common.contracts.vocabulary import LoraInfo, LoraUse, ModelInfo, SizeLimits
from anime_common.prompts.manners import manner_of
from anime_jobs.composition import Member, Production, Target

if TYPE_CHECKING:
    from anime_common.contracts.projects import ProjectStyle

STYLE = "project.style"


def honours(model: ModelInfo, field: str) -> bool:
    """Whether a model takes a field of a request; a worker that names no fields is taken at its word."""
    return not model.fields or field in model.fields


def fitted(production: Production, model: ModelInfo, warnings: list[str]) -> Production:
    """A production as one model can have it; what is left out is told in `warnings`."""
    known = {lora.key: lora for lora in model.loras if honours(model, "loras")}
    return production.model_copy(
        update={
            "style": _style(production.style, model, known, warnings),
            "cast": tuple(_member(member, model, known, warnings) for member in production.cast),
            "target": target_of(model),
        }
    )


def target_of(model: ModelInfo) -> Target:
    """What prompts are composed for with a model."""
    return Target(
        manner=manner_of(model.family),
        breaks=model.breaks,
        negative=honours(model, "negative_prompt"),
        default_negative=model.negative_prompt,
    )


def _style(style: ProjectStyle, model: ModelInfo, known: dict[str, LoraInfo], warnings: list[str]) -> ProjectStyle:
    left: dict[str, object] = {}
    if style.preset is not None and all(preset.name != style.preset for preset in model.presets):
        left["preset"] = None
        warnings.append(f"{STYLE}.preset: left out, since the model {model.key} has no preset {style.preset}")
    strange = (lora.key for lora in style.loras if lora.key not in known)
    warnings += [f"{STYLE}.loras.{key}: left out, since it does not fit the model {model.key}" for key in strange]
    left["loras"] = tuple(lora for lora in style.loras if lora.key in known)
    if style.width is not None and style.height is not None:
        sides = (style.width, style.height)
        takes = honours(model, "width") and honours(model, "height")
        if not takes or not all(_drawable(side, model.sizes) for side in sides):
            left |= {"width": None, "height": None}
            warnings.append(f"{STYLE}.width: left out, since the model {model.key} draws sides of {model.sizes}")
    return style.model_copy(update=left)


def _drawable(side: int, limits: SizeLimits) -> bool:
    rounded = (side + limits.multiple // 2) // limits.multiple * limits.multiple
    return limits.minimum <= rounded <= limits.maximum


def _member(member: Member, model: ModelInfo, known: dict[str, LoraInfo], warnings: list[str]) -> Member:
    if member.lora is None:
        return member
    info = known.get(member.lora.key)
    if info is None:
        text = f"the LoRA {member.lora.key} is left out, since it does not fit the model {model.key}"
        warnings.append(f"characters.{member.slug}: {text}")
        return member.model_copy(update={"lora": None})
    lora = member.lora.model_copy(
        update={
            "weight": info.weight if member.lora.weight is None else member.lora.weight,
            "trigger": member.lora.trigger or ", ".join(info.trigger_words),
        }
    )
    return member.model_copy(update={"lora": lora})


def loras_of(production: Production, model: ModelInfo) -> Iterable[LoraUse]:
    """The LoRAs that a fitted production brings along, those of characters last: the later weight counts."""
    weights = {lora.key: lora.weight for lora in model.loras}
    for asked in (*production.style.loras, *(member.lora for member in production.cast)):
        if asked is not None:
            yield LoraUse(key=asked.key, weight=weights[asked.key] if asked.weight is None else asked.weight)
