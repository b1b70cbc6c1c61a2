"""Samplers by their usual names, built from a model's own scheduler configuration.

What the model was trained with (betas, prediction type, spacing) is kept; a name decides the solver and its schedule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from anime_common.contracts.vocabulary import Sampler

_NO_CLIP = {"clip_sample": False, "thresholding": False}
"""DDIM and LCM clip x0 to [-1, 1] by default, which is right for pixels and wrong for latents."""


@dataclass(frozen=True, slots=True)
class _Recipe:
    scheduler: Any
    changes: Mapping[str, Any] = field(default_factory=dict)


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
_SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
"""Noise is added at each step, from the generator of each picture, so that a picture is the same in any company."""
_RECIPES: dict[Sampler, _Recipe] = {
    Sampler.DPMPP_2M: _Recipe(DPMSolverMultistepScheduler, {**_DPM, "use_karras_sigmas": False}),
    Sampler.DPMPP_2M_KARRAS: _Recipe(DPMSolverMultistepScheduler, {**_DPM, "use_karras_sigmas": True}),
    Sampler.DPMPP_2M_SDE: _Recipe(DPMSolverMultistepScheduler, {**_SDE, "use_karras_sigmas": False}),
    Sampler.DPMPP_2M_SDE_KARRAS: _Recipe(DPMSolverMultistepScheduler, {**_SDE, "use_karras_sigmas": True}),
    Sampler.DPMPP_3M_SDE_KARRAS: _Recipe(
        DPMSolverMultistepScheduler, {**_SDE, "solver_order": 3, "use_karras_sigmas": True}
    ),
    Sampler.DPMPP_SDE: _Recipe(DPMSolverSinglestepScheduler, {**_SDE, "use_karras_sigmas": False}),
    Sampler.DPMPP_SDE_KARRAS: _Recipe(DPMSolverSinglestepScheduler, {**_SDE, "use_karras_sigmas": True}),
    Sampler.EULER: _Recipe(EulerDiscreteScheduler, {"use_karras_sigmas": False}),
    Sampler.EULER_KARRAS: _Recipe(EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    Sampler.EULER_TRAILING: _Recipe(
        EulerDiscreteScheduler, {"use_karras_sigmas": False, "timestep_spacing": "trailing"}
    ),
    Sampler.EULER_A: _Recipe(EulerAncestralDiscreteScheduler),
    Sampler.DDIM: _Recipe(DDIMScheduler, {**_NO_CLIP, "set_alpha_to_one": False}),
    Sampler.UNIPC: _Recipe(UniPCMultistepScheduler, {"solver_order": 2, "use_karras_sigmas": False}),
    Sampler.UNIPC_KARRAS: _Recipe(UniPCMultistepScheduler, {"solver_order": 2, "use_karras_sigmas": True}),
    Sampler.LCM: _Recipe(LCMScheduler, {**_NO_CLIP, "set_alpha_to_one": False}),
    Sampler.TCD: _Recipe(TCDScheduler, {**_NO_CLIP, "set_alpha_to_one": False}),
}

SAMPLERS: tuple[Sampler, ...] = tuple(_RECIPES)

OnEstimate = Callable[[Any], None]


def build_sampler(sampler: Sampler, trained: Mapping[str, Any], on_estimate: OnEstimate) -> Any:
    """A fresh scheduler for one forward pass, which hands its estimate of x0 to `on_estimate` after every step.

    `trained` is the configuration that came with the model. The estimate has the shape of the latents
    (pictures, channels, height, width).
    """
    recipe = _RECIPES[sampler]
    scheduler = recipe.scheduler.from_config(trained, **recipe.changes)
    step = scheduler.step

    @functools.wraps(step)
    def observed(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        on_estimate(_estimate(scheduler, result))
        return result

    scheduler.step = observed
    return scheduler


def _estimate(scheduler: Any, result: Any) -> Any:
    """x0 as the solver predicts it now: single-step solvers return it, multistep solvers remember it."""
    if isinstance(result, tuple) and len(result) > 1:
        return result[1]
    remembered = getattr(scheduler, "model_outputs", None)
    return remembered[-1] if remembered and remembered[-1] is not None else result[0]
