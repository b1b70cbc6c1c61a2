"""Which workflow draws a request. Pure.

Workflows of these names draw with any checkpoint, each another kind of request; a folder of the owner's may hold others
of the same names in their place. Every other workflow is a model of its own, under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from anime_generator.comfyui import faults, inline
from anime_generator.engines.protocol import EngineError

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_generator.comfyui.manifest import Workflow
    from anime_generator.comfyui.servers import Remote

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
INPAINT = "inpaint"
HIRES = "hires"
UPSCALE = "upscale"
ROLES: Mapping[str, frozenset[str]] = {
    TEXT_TO_IMAGE: frozenset(),
    IMAGE_TO_IMAGE: frozenset({"init_image", "strength"}),
    INPAINT: frozenset({"init_image", "mask", "strength"}),
    HIRES: frozenset({"hires"}),
    UPSCALE: frozenset({"init_image", "upscale"}),
}
"""The workflows for checkpoints, and the fields of a request that each is there for."""


def role_of(settings: Settings) -> str:
    """The workflow for a request to a checkpoint."""
    if not settings.sampled():
        return UPSCALE
    if settings.init_image is not None:
        return IMAGE_TO_IMAGE if settings.mask is None else INPAINT
    return TEXT_TO_IMAGE if settings.hires is None else HIRES


def fields_of(workflows: Iterable[Workflow]) -> frozenset[str]:
    """The fields of a request that checkpoints honour, when these of the workflows can run."""
    there = {workflow.name: workflow for workflow in workflows if workflow.name in ROLES}
    if (usual := there.get(TEXT_TO_IMAGE)) is None:
        return frozenset()
    more = (ROLES[name] & workflow.honours for name, workflow in there.items())
    return usual.honours.union(*more, {"count", "preset"}) - {"model"}


def choose(workflows: Mapping[str, Workflow], own: str, settings: Settings, remote: Remote) -> Workflow:
    """The workflow that draws a request; `own` is that of a model that is one, else empty. Raises EngineError."""
    if own == inline.NAME:
        if settings.workflow is None or not remote.inline:
            text = f"workflow: {'is missing' if remote.inline else 'the owner of the server has not switched that on'}"
            raise EngineError("bad_settings", text)
        return inline.inline(settings.workflow, remote.inline_nodes)
    name = own or role_of(settings)
    try:
        return workflows[name]
    except KeyError:
        text = f"there is no workflow {name!r} any more"
        raise EngineError(faults.WORKFLOW_INVALID, text) from None
