"""The shipped character, on the ordinary path of every LoRA: her look appears with her word, and leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anime_common.contracts.vocabulary import LoraUse
from anime_generator.engines import ENGINES, open_engine
from anime_generator.engines.protocol import EngineOptions
from anime_generator.registry import load_registry
from anime_generator.simulated import Simulated
from tests.generator.builders import Told, offered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]
PROMPTS = [f"hikari, 1girl, {mood}, {scene}" for mood in ("smile", "angry") for scene in ("forest", "blue sky")]
SHOWS = 0.8
Pixels = NDArray[np.int64]


def silver_hair(picture: Pixels) -> bool:
    top = picture[14:30, 52:76].reshape(-1, 3)
    return bool(np.median(top.mean(1)) > 150 and np.median(np.ptp(top, axis=1)) < 45)


def purple_clothes(picture: Pixels) -> bool:
    red, green, blue = np.moveaxis(picture[114:, 36:92].reshape(-1, 3), 1, 0)
    return bool(((red > green + 25) & (blue > green + 25)).mean() > 0.3)


def test_her_look_appears_with_her_word_and_leaves_no_trace() -> None:
    spec = load_registry(None, frozenset(ENGINES)).models["sprite"]
    (lora,) = spec.loras
    engine = open_engine("diffusers", Simulated("card", 4 << 30), EngineOptions())
    engine.load(spec)

    def drawn(*loras: LoraUse) -> list[Pixels]:
        usual: dict[str, Any] = {
            "model": spec.key,
            "width": 128,
            "height": 128,
            "steps": 4,
            "guidance": 2.0,
            "count": 2,
            "loras": loras,
        }
        jobs = [offered(prompt=prompt, seed=100 + 10 * place, **usual) for place, prompt in enumerate(PROMPTS)]
        told = Told()
        for start in range(0, len(jobs), 2):
            engine.generate(spec, jobs[start : start + 2], told, told)
        return [np.asarray(each.image, dtype=np.int64) for each in told.drawn]

    before = drawn()
    with_her = drawn(LoraUse(key=lora.key, weight=lora.weight))
    assert all(word in prompt for prompt in PROMPTS for word in lora.trigger_words)
    for shows in (silver_hair, purple_clothes):
        assert np.mean([shows(picture) for picture in before]) < 0.5
        assert np.mean([shows(picture) for picture in with_her]) >= SHOWS
    assert all(np.array_equal(*pair) for pair in zip(before, drawn(), strict=True))
