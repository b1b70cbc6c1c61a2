"""Whether a request can be taken, and what it becomes: pure."""

from __future__ import annotations

import hashlib

from anime_common.contracts.vocabulary import GenerationRequest, ModelInfo, Priority, Settings
from anime_common.outcomes import Refused

TRUSTED_CLIENTS = frozenset({"gateway", "admin"})
"""People, who may use every priority; other services of the server may not jump the queue."""

SETTABLE = ("negative_prompt", "width", "height", "steps", "guidance", "sampler", "seed", "count")


def request_hash(client: str, request: GenerationRequest) -> str:
    """Tells whether two submits under one id ask for the same."""
    return hashlib.sha256(f"{client}\n{request.model_dump_json()}".encode()).hexdigest()


def check_client(client: str, request: GenerationRequest) -> None:
    """Refuse what this client may not ask for."""
    if client not in TRUSTED_CLIENTS and request.priority is Priority.INTERACTIVE:
        raise Refused(403, "priority_not_allowed", "this client may use the priorities normal and batch", "priority")


def resolve(
    request: GenerationRequest, model: ModelInfo, prompt: str, negative_prompt: str | None, seed: int
) -> Settings:
    """What the picture will be made with: the request over the model's defaults.

    Raises Refused (422) naming the field that the model cannot honour and what it allows.
    """
    if model.fields:
        for name in SETTABLE:
            if name in request.model_fields_set and name not in model.fields:
                raise Refused(422, "not_supported", f"the model {model.key} does not take this field", name)
    width, height = request.width or model.width, request.height or model.height
    limits = model.sizes
    for name, side in (("width", width), ("height", height)):
        if not limits.minimum <= side <= limits.maximum or side % limits.multiple:
            allowed = f"{limits.minimum} to {limits.maximum} in steps of {limits.multiple}"
            raise Refused(422, "invalid", f"the model {model.key} draws sides of {allowed} pixels, not {side}", name)
    steps = request.steps or model.steps
    if steps > model.max_steps:
        raise Refused(422, "invalid", f"the model {model.key} takes at most {model.max_steps} steps", "steps")
    sampler = request.sampler or model.sampler
    if model.samplers and sampler not in model.samplers:
        known = ", ".join(model.samplers)
        raise Refused(422, "invalid", f"the model {model.key} has the samplers {known}", "sampler")
    return Settings(
        prompt=prompt,
        negative_prompt=model.negative_prompt if negative_prompt is None else negative_prompt,
        model=model.key,
        width=width,
        height=height,
        steps=steps,
        guidance=model.guidance if request.guidance is None else request.guidance,
        sampler=sampler,
        seed=seed,
        count=request.count,
    )
