"""Every sampler, driven as a pipeline drives it, over a denoiser that is a formula."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from anime_common.contracts.vocabulary import Sampler
from anime_generator.engines.samplers import SAMPLERS, build_sampler
from anime_generator.metadata import SAMPLER_NAMES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

STEPS = 6
EPSILON = dict(EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").config)
ZERO_SNR = {
    **EPSILON,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def drawn(sampler: Sampler, seeds: list[int], trained: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The latents (pictures, 4, 8, 8) of a run, and the estimates that were told on the way."""
    told: list[Any] = []
    scheduler = build_sampler(sampler, trained, told.append)
    scheduler.set_timesteps(STEPS)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=each) for each in generators]) * scheduler.init_noise_sigma
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in takes else {}
    for time in scheduler.timesteps:
        answer = torch.tanh(scheduler.scale_model_input(latents, time))
        latents = scheduler.step(answer, time, latents, return_dict=False, **extra)[0]
    return latents, told


def test_every_name_has_a_recipe_and_a_name_for_other_tools() -> None:
    assert set(SAMPLERS) == set(Sampler) == set(SAMPLER_NAMES)


@pytest.mark.parametrize("trained", [EPSILON, ZERO_SNR], ids=["epsilon", "zero-snr"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_makes_its_steps_and_a_seed_is_the_same_in_company(sampler: Sampler, trained: dict[str, Any]) -> None:
    together, told = drawn(sampler, [3, 4], trained)
    alone, _ = drawn(sampler, [4], trained)
    assert bool(torch.isfinite(together).all())
    assert torch.allclose(together[1:], alone, atol=1e-5)
    assert [each.shape for each in told] == [together.shape] * STEPS


def test_names_differ_in_what_they_draw() -> None:
    pictures = [drawn(sampler, [5], EPSILON)[0] for sampler in SAMPLERS]
    for place, one in enumerate(pictures):
        same = [SAMPLERS[other] for other in range(place) if torch.equal(one, pictures[other])]
        assert not same, (SAMPLERS[place], same)
