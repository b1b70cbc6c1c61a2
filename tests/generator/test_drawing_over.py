"""Drawing over pictures: image to image, masks, second passes, enlarging; on models of real architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anime_common.contracts.generation import HiresPass, Upscaling
from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase, Sampler
from anime_common.messages import uuid7
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions, Inputs
from anime_generator.engines.samplers import SAMPLERS
from anime_generator.registry import ModelSpec
from anime_generator.simulated import Simulated
from tests.generator.builders import Told, offered, sprite_spec
from tests.generator.checkpoints import tiny_sd, tiny_sdxl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

SIDE = 64
GROUND, MASK, TALL = uuid7(), uuid7(), uuid7()
CHECKPOINTS = {"sd": tiny_sd, "sdxl": tiny_sdxl}


def ground(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    image = Image.new("RGB", size, (40, 90, 200))
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=(250, 220, 30))
    return image


def half() -> Image.Image:
    """White on the right."""
    image = Image.new("L", (SIDE, SIDE), 0)
    image.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    return image


INPUTS: Inputs = {GROUND: ground(), MASK: half(), TALL: ground((SIDE, 2 * SIDE))}


@pytest.fixture(scope="module", params=[*CHECKPOINTS, "sprite"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    if request.param == "sprite":
        return sprite_spec().model_copy(update={"key": "model", "samplers": ()})
    source = CHECKPOINTS[request.param](tmp_path_factory.mktemp("model"))
    changes: dict[str, Any] = {"key": "model", "source": source, "family": request.param, "samplers": ()}
    return sprite_spec().model_copy(update=changes)


@pytest.fixture(scope="module")
def engine(spec: ModelSpec) -> Engine:
    engine = open_engine("diffusers", Simulated("card", 4 << 30), EngineOptions())
    engine.load(spec)
    return engine


def job(**changes: Any) -> OfferedJob:
    usual: dict[str, Any] = {"model": "model", "width": SIDE, "height": SIDE, "steps": 4, "seed": 5}
    return offered(**usual | changes)


def told(engine: Engine, spec: ModelSpec, *jobs: OfferedJob, inputs: Inputs = INPUTS) -> Told:
    heard = Told()
    engine.generate(spec, jobs, heard, heard, inputs=inputs)
    return heard


def pixels(image: Image.Image) -> NDArray[np.int_]:
    return np.asarray(image, dtype=int)


def drawn(engine: Engine, spec: ModelSpec, **changes: Any) -> NDArray[np.int_]:
    return pixels(told(engine, spec, job(**changes)).drawn[0].image)


def test_the_stronger_the_further_from_the_picture(engine: Engine, spec: ModelSpec) -> None:
    kept = pixels(ground())
    far = [
        np.abs(drawn(engine, spec, init_image=GROUND, strength=strength, steps=8) - kept).mean()
        for strength in (0.125, 0.5, 1.0)
    ]
    assert far[0] < far[2]
    assert far == sorted(far)


@pytest.mark.parametrize(("strength", "made"), [(0.5, 2), (0.01, 1), (1.0, 4)])
def test_only_the_steps_that_are_made_are_told(engine: Engine, spec: ModelSpec, strength: float, made: int) -> None:
    heard = told(engine, spec, job(init_image=GROUND, strength=strength))
    assert heard.steps == list(range(1, made + 1))
    assert heard.phases == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_over_a_picture_and_within_a_mask(
    engine: Engine, spec: ModelSpec, sampler: Sampler
) -> None:
    over = drawn(engine, spec, init_image=GROUND, strength=0.5, sampler=sampler)
    masked = drawn(engine, spec, init_image=GROUND, mask=MASK, strength=0.5, sampler=sampler)
    assert over.std() > 0
    assert np.array_equal(masked[:, : SIDE // 2], pixels(ground())[:, : SIDE // 2]), "outside of the mask"
    assert not np.array_equal(masked[:, SIDE // 2 :], pixels(ground())[:, SIDE // 2 :]), "inside of the mask"


def test_the_same_seed_draws_the_same_alone_and_in_company(engine: Engine, spec: ModelSpec) -> None:
    for sampler in (Sampler.DPMPP_2M, Sampler.EULER_A, Sampler.DPMPP_SDE):
        one, other = (
            job(init_image=GROUND, mask=MASK, strength=0.6, sampler=sampler, seed=seed, prompt=f"1girl {seed}")
            for seed in (5, 9)
        )
        alone, together = told(engine, spec, one), told(engine, spec, other, one)
        assert np.abs(pixels(alone.of(one)[0].image) - pixels(together.of(one)[0].image)).max() <= 1


def test_the_noise_of_the_start_is_not_that_of_the_steps(engine: Engine, spec: ModelSpec) -> None:
    """A sampler that adds noise takes it from the same generator, after the noise that the picture begins with."""
    heard: list[Any] = []
    draw = torch.randn

    def listening(*args: Any, **kwargs: Any) -> Any:
        found = draw(*args, **kwargs)
        heard.append(found.flatten()[:4].tolist())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", listening)
        drawn(engine, spec, init_image=GROUND, strength=0.9, sampler=Sampler.EULER_A)
    assert len(heard) > 1
    assert len({tuple(each) for each in heard}) == len(heard)


def test_a_picture_of_another_shape_is_cut_and_that_is_said(engine: Engine, spec: ModelSpec) -> None:
    heard = told(engine, spec, job(init_image=TALL, strength=0.5))
    assert heard.drawn[0].image.size == (SIDE, SIDE)
    assert [warning.text for warning in heard.warnings] == [
        f"init_image: cut from {SIDE} x {2 * SIDE} to the shape of {SIDE} x {SIDE} pixels"
    ]


def test_a_picture_that_did_not_come_is_named(engine: Engine, spec: ModelSpec) -> None:
    with pytest.raises(EngineError, match="mask: the file") as raised:
        told(engine, spec, job(init_image=GROUND, mask=MASK, strength=0.5), inputs={GROUND: ground()})
    assert raised.value.code == "input_unavailable"


def test_a_second_pass_draws_larger_over_what_the_first_came_to(engine: Engine, spec: ModelSpec) -> None:
    hires = HiresPass(width=2 * SIDE, height=2 * SIDE, steps=4, strength=0.5, upscaler="lanczos")
    heard = told(engine, spec, job(hires=hires, count=2))
    assert {each.image.size for each in heard.drawn} == {(2 * SIDE, 2 * SIDE)}
    assert heard.phases == [Phase.ENCODING, Phase.SAMPLING, Phase.UPSCALING, Phase.SAMPLING, Phase.DECODING]
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    again = told(engine, spec, job(hires=hires, count=2))
    assert np.array_equal(pixels(heard.drawn[1].image), pixels(again.drawn[1].image))


def test_finished_pictures_are_enlarged(engine: Engine, spec: ModelSpec) -> None:
    plain = told(engine, spec, job()).drawn[0].image
    heard = told(engine, spec, job(upscale=Upscaling(factor=1.5, upscaler="lanczos")))
    assert heard.phases[-2:] == [Phase.DECODING, Phase.UPSCALING]
    assert heard.drawn[0].image.size == (96, 96)
    assert np.array_equal(pixels(heard.drawn[0].image), pixels(plain.resize((96, 96), Image.Resampling.LANCZOS)))


def test_a_picture_can_be_enlarged_without_being_drawn_anew(engine: Engine, spec: ModelSpec) -> None:
    heard = told(engine, spec, job(init_image=TALL, strength=0.0, upscale=Upscaling(factor=2.0, upscaler="lanczos")))
    assert heard.phases == [Phase.UPSCALING]
    assert heard.drawn[0].image.size == (2 * SIDE, 4 * SIDE)
    assert heard.warnings == []


def test_a_cancel_stops_between_the_passes(engine: Engine, spec: ModelSpec) -> None:
    hires = HiresPass(width=2 * SIDE, height=2 * SIDE, steps=4, strength=0.5, upscaler="lanczos")
    stays, leaves = job(hires=hires), job(hires=hires, seed=9)
    heard = Told(cancel_on=(Phase.UPSCALING,), victims=(leaves.attempt_id,))
    engine.generate(spec, [stays, leaves], heard, heard)
    assert len(heard.of(stays)) == 1
    assert heard.of(leaves) == []
    everyone = Told(cancel_on=(Phase.UPSCALING,), victims=(stays.attempt_id, leaves.attempt_id))
    engine.generate(spec, [stays, leaves], everyone, everyone)
    assert everyone.steps == [1, 2, 3, 4]


def test_transparent_parts_are_white(engine: Engine, spec: ModelSpec) -> None:
    clear = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    white = Image.new("RGB", (SIDE, SIDE), "white")
    one, other = (
        pixels(told(engine, spec, job(init_image=GROUND, strength=0.5), inputs={GROUND: image}).drawn[0].image)
        for image in (clear, white)
    )
    assert np.array_equal(one, other)


def test_nothing_of_it_touches_a_plain_picture(engine: Engine, spec: ModelSpec) -> None:
    before = drawn(engine, spec)
    drawn(engine, spec, init_image=GROUND, strength=0.5)
    assert np.array_equal(drawn(engine, spec), before)
