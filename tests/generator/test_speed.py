"""Speed options of the registry: what they change, what they must not, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anime_generator.engines import ENGINES, open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions, Manner
from anime_generator.registry import ModelSpec, RegistryError, load_registry
from anime_generator.simulated import Simulated
from tests.generator.builders import Told, offered, sprite_spec
from tests.generator.checkpoints import tiny_sdxl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def spec_with(**options: Any) -> ModelSpec:
    return sprite_spec().model_copy(update={"options": options})


def loaded(spec: ModelSpec) -> Engine:
    engine = open_engine("diffusers", Simulated("card", 4 << 30), EngineOptions())
    engine.load(spec)
    return engine


def drawn(engine: Engine, spec: ModelSpec, *, seed: int = 1, economical: bool = False) -> NDArray[np.int64]:
    told = Told()
    job = offered(model=spec.key, width=64, height=64, steps=3, seed=seed)
    engine.generate(spec, [job], told, told, Manner(economical=economical))
    return np.asarray(told.drawn[0].image, dtype=np.int64)


@pytest.mark.slow
def test_another_memory_format_draws_the_same() -> None:
    usual, other = spec_with(), spec_with(channels_last=True)
    engine = loaded(other)
    unet = engine._resident[other.key].pipe.unet  # type: ignore[attr-defined]
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(drawn(engine, other) - drawn(loaded(usual), usual)).max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_compiled_model_draws_the_same_and_keeps_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    changes = {"source": tiny_sdxl(tmp_path / "model"), "family": "sdxl", "samplers": ()}
    usual = sprite_spec().model_copy(update=changes)
    other = usual.model_copy(update={"options": {"compile": True}})
    plain, engine = loaded(usual), loaded(other)
    assert np.abs(drawn(engine, other) - drawn(plain, usual)).max() <= 2
    assert any((tmp_path / "kernels").rglob("*.so")), "no kernel was kept for the next start"
    unet = engine._resident[other.key].pipe.unet  # type: ignore[attr-defined]
    assert unet._compiled_call_impl is not None
    economical = drawn(engine, other, economical=True)
    assert np.array_equal(economical, drawn(plain, usual, economical=True)), "compiled all the same"


def test_compiling_without_a_compiler_is_refused_by_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match=r"models\.sprite\.options\.compile: it needs a C\+\+ compiler \(g") as caught:
        loaded(spec_with(compile=True))
    assert (caught.value.code, caught.value.retryable) == ("model_unusable", False)


def test_xformers_without_a_card_is_refused_by_its_option() -> None:
    with pytest.raises(EngineError, match=r"models\.sprite\.options\.attention: xformers needs a card"):
        loaded(spec_with(attention="xformers"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("speed = 3", "models.sprite.options.speed: unknown key; allowed are attention, compile, channels_last"),
        ('attention = "flash"', "models.sprite.options.attention: Input should be 'sdpa' or 'xformers'"),
        ('compile = "often"', "models.sprite.options.compile: Input should be a valid boolean"),
    ],
)
def test_options_that_there_are_not_are_told_by_their_key(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f"[models.sprite.options]\n{line}\n", encoding="utf-8")
    with pytest.raises(RegistryError) as caught:
        load_registry(file, frozenset(ENGINES))
    assert caught.value.problems[0].startswith(f"{file}: {problem}")
