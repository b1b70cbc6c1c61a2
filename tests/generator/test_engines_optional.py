"""The conformance suite, second part: what an engine must do with the fields that it announces beside the usual ones.

An engine announces them in `ModelInfo.fields`; one that does not is never asked, because such a job is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from anime_common.contracts.generation import HiresPass, Upscaling
from anime_common.contracts.vocabulary import LoraUse, Phase
from anime_common.messages import uuid7
from anime_generator.engines.protocol import EngineError, Inputs
from anime_generator.registry import settings_problem
from tests.generator.builders import Told
from tests.generator.conformance import SIZE, Subject

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

GROUND, MASK = uuid7(), uuid7()


def inputs(subject: Subject) -> Inputs:
    """A blue picture, and a mask whose right half is white, of the size that is drawn."""
    side = SIZE[subject.spec.engine]
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (side // 2, 0, side, side))
    return {GROUND: Image.new("RGB", (side, side), (40, 90, 200)), MASK: mask}


def hires(subject: Subject) -> HiresPass:
    side = 2 * SIZE[subject.spec.engine]
    return HiresPass(width=side, height=side, steps=4, strength=0.5, upscaler="lanczos")


def asked(subject: Subject) -> dict[str, dict[str, Any]]:
    """Every optional field, with what a job that uses it says."""
    return {
        "init_image": {"init_image": GROUND, "strength": 0.5},
        "mask": {"init_image": GROUND, "mask": MASK, "strength": 0.5},
        "hires": {"hires": hires(subject)},
        "upscale": {"upscale": Upscaling(factor=1.5, upscaler="lanczos")},
        "loras": {"loras": (LoraUse(key="nobody", weight=1.0),)},
    }


def drawn(subject: Subject, field: str) -> Told:
    """What is told of a job that uses the field; skips where the engine does not announce it."""
    if field not in subject.engine.describe(subject.spec).fields:
        pytest.skip(f"{subject.spec.engine} does not take {field}")
    told = Told()
    job = subject.job(seed=5, **asked(subject)[field])
    subject.engine.generate(subject.spec, [job], told, told, inputs=inputs(subject))
    assert told.events[-1] == told.drawn[-1]
    return told


@pytest.mark.parametrize("field", ["init_image", "mask", "hires", "upscale", "loras"])
def test_what_is_announced_is_allowed_and_nothing_else(subject: Subject, field: str) -> None:
    info = subject.engine.describe(subject.spec)
    problem = settings_problem(info, subject.job(**asked(subject)[field]).settings)
    names = [name for name in asked(subject) if name not in info.fields and asked(subject)[field].get(name)]
    assert problem == (f"{names[0]}: {info.key} does not take it" if names else None)


def test_half_of_the_strength_makes_half_of_the_steps(subject: Subject) -> None:
    told = drawn(subject, "init_image")
    assert told.working == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]
    assert told.steps == [1, 2]


def test_outside_of_a_mask_nothing_changes(subject: Subject) -> None:
    picture = np.asarray(drawn(subject, "mask").drawn[0].image, dtype=int)
    before = np.asarray(inputs(subject)[GROUND], dtype=int)
    half = SIZE[subject.spec.engine] // 2
    assert np.array_equal(picture[:, :half], before[:, :half])
    assert not np.array_equal(picture[:, half:], before[:, half:])


def test_a_second_pass_counts_on_and_gives_its_size(subject: Subject) -> None:
    told = drawn(subject, "hires")
    between = [Phase.UPSCALING]
    if subject.spec.engine == "comfyui":  # enlarges pictures, not latents
        between = [Phase.DECODING, Phase.UPSCALING, Phase.ENCODING]
    assert told.working == [Phase.ENCODING, Phase.SAMPLING, *between, Phase.SAMPLING, Phase.DECODING]
    assert told.steps == [1, 2, 3, 4, 5, 6]
    assert told.drawn[0].image.size == (hires(subject).width, hires(subject).height)


def test_a_finished_picture_is_enlarged_last(subject: Subject) -> None:
    told = drawn(subject, "upscale")
    assert told.working == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING, Phase.UPSCALING]
    assert told.drawn[0].image.size == (SIZE[subject.spec.engine] * 3 // 2,) * 2


def test_a_lora_that_is_not_there_is_told_by_its_key(subject: Subject) -> None:
    with pytest.raises(EngineError, match=r"loras\.nobody: ") as caught:
        drawn(subject, "loras")
    assert (caught.value.code, caught.value.retryable) == ("unknown_lora", True)
