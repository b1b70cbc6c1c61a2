"""LoRAs on real pipelines: they change the picture, and leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from safetensors.torch import save_file

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import LoraUse, Phase
from anime_generator.engines import open_engine
from anime_generator.engines.adapters import KEPT
from anime_generator.engines.protocol import OUT_OF_MEMORY, Engine, EngineError, EngineOptions
from anime_generator.registry import LoraSpec, ModelSpec
from anime_generator.simulated import Simulated
from tests.generator.bench import at_bench
from tests.generator.builders import Told, noop_spec, offered, sprite_spec
from tests.generator.checkpoints import tiny_sd, tiny_sdxl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

UNET = ("to_q", "to_v", "conv1")


CHECKPOINTS = {"sd": tiny_sd, "sdxl": tiny_sdxl}


def a_lora(pipe: Any, folder: Path, key: str, *, seed: int, text: bool = False, width: int | None = None) -> LoraSpec:
    """A LoRA of random weights for a model; `width` makes it one for another."""
    generator = torch.Generator().manual_seed(seed)
    parts = {"unet": pipe.unet} | ({"text_encoder": pipe.text_encoder} if text else {})
    found: dict[str, torch.Tensor] = {}
    for part, module in parts.items():
        wanted = UNET if part == "unet" else ("q_proj", "v_proj")
        for name, layer in module.named_modules():
            if name.split(".")[-1] not in wanted:
                continue
            out, into, *kernel = layer.weight.shape
            found[f"{part}.{name}.lora_A.weight"] = 0.3 * torch.randn(4, width or into, *kernel, generator=generator)
            found[f"{part}.{name}.lora_B.weight"] = 0.3 * torch.randn(out, 4, *[1 for _ in kernel], generator=generator)
    target = folder / f"{key}.safetensors"
    save_file({name: value.half() for name, value in found.items()}, target)
    return LoraSpec(key=key, source=target, family="sd", size=target.stat().st_size, stamp=str(seed))


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("loras")
    source = CHECKPOINTS[request.param](tmp_path_factory.mktemp("model"))
    pipe = DiffusionPipeline.from_pretrained(source)
    loras = (
        a_lora(pipe, folder, "ink", seed=1),
        a_lora(pipe, folder, "soft.light", seed=2, text=True),
        a_lora(pipe, folder, "foreign", seed=3, width=7),
        *(a_lora(pipe, folder, f"more-{number}", seed=10 + number) for number in range(KEPT)),
    )
    changes = {"key": "model", "source": source, "family": request.param, "samplers": (), "loras": loras}
    return sprite_spec().model_copy(update=changes)


@pytest.fixture
def engine(spec: ModelSpec) -> Engine:
    engine = open_engine("diffusers", Simulated("card", 4 << 30), EngineOptions())
    engine.load(spec)
    return engine


def job(*uses: tuple[str, float], **changes: Any) -> OfferedJob:
    loras = tuple(LoraUse(key=key, weight=weight) for key, weight in uses)
    usual: dict[str, Any] = {"model": "model", "width": 64, "height": 64, "steps": 2, "loras": loras}
    return offered(**usual | changes)


def drawn(engine: Engine, spec: ModelSpec, *uses: tuple[str, float]) -> NDArray[np.int_]:
    told = Told()
    engine.generate(spec, [job(*uses)], told, told)
    return np.asarray(told.drawn[0].image, dtype=int)


def test_a_lora_changes_the_picture_and_leaves_no_trace(engine: Engine, spec: ModelSpec) -> None:
    plain = drawn(engine, spec)
    inked = drawn(engine, spec, ("ink", 1.0))
    assert np.abs(inked - plain).mean() > 1
    assert np.array_equal(drawn(engine, spec), plain), "switched off, it still changes the picture"
    assert np.array_equal(drawn(engine, spec, ("ink", 1.0)), inked)
    assert np.array_equal(drawn(engine, spec, ("ink", 0.0)), plain)


def test_its_weight_counts_and_two_work_together(engine: Engine, spec: ModelSpec) -> None:
    plain, both = drawn(engine, spec), drawn(engine, spec, ("ink", 1.0), ("soft.light", 1.0))
    ink, soft = drawn(engine, spec, ("ink", 1.0)), drawn(engine, spec, ("soft.light", 1.0))
    weak = drawn(engine, spec, ("ink", 0.2))
    assert 0 < np.abs(weak - plain).mean() < np.abs(ink - plain).mean()
    for one in (ink, soft, plain):
        assert np.abs(both - one).mean() > 1


def test_one_that_changes_the_text_encoder_does_not_reuse_what_was_encoded_without_it(
    engine: Engine, spec: ModelSpec
) -> None:
    fresh = open_engine("diffusers", Simulated("card", 4 << 30), EngineOptions())
    fresh.load(spec)
    expected = drawn(fresh, spec, ("soft.light", 1.0))
    drawn(engine, spec)
    assert np.array_equal(drawn(engine, spec, ("soft.light", 1.0)), expected)


def test_it_is_loaded_once_and_says_so(engine: Engine, spec: ModelSpec) -> None:
    first, again = Told(), Told()
    engine.generate(spec, [job(("ink", 1.0))], first, first)
    engine.generate(spec, [job(("ink", 0.5))], again, again)
    assert first.phases == [Phase.LOADING, Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]
    assert again.phases == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]


def test_only_a_few_stay_in_memory(engine: Engine, spec: ModelSpec) -> None:
    plain = drawn(engine, spec)
    for number in range(KEPT):
        drawn(engine, spec, (f"more-{number}", 1.0))
    drawn(engine, spec, ("ink", 1.0))
    told = Told()
    engine.generate(spec, [job((f"more-{KEPT - 1}", 1.0))], told, told)
    assert Phase.LOADING not in told.phases
    engine.generate(spec, [job(("more-0", 1.0))], told, told)
    assert Phase.LOADING in told.phases
    assert np.array_equal(drawn(engine, spec), plain)


def test_one_for_another_model_is_refused_by_name_and_harms_nothing(engine: Engine, spec: ModelSpec) -> None:
    plain = drawn(engine, spec)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"loras\.foreign: foreign\.safetensors does not fit") as raised:
            drawn(engine, spec, ("foreign", 1.0))
        assert (raised.value.code, raised.value.retryable) == ("model_unusable", False)
        assert np.array_equal(drawn(engine, spec), plain)
    assert not np.array_equal(drawn(engine, spec, ("ink", 1.0)), plain)


def test_one_without_anything_for_this_model_is_refused(engine: Engine, spec: ModelSpec, tmp_path: Path) -> None:
    target = tmp_path / "empty.safetensors"
    save_file({"text_encoder_2.q_proj.lora_A.weight": torch.zeros(4, 32)}, target)
    empty = LoraSpec(key="empty", source=target, family="sd", stamp="1")
    other = spec.model_copy(update={"loras": (empty,)})
    with pytest.raises(EngineError, match=r"loras\.empty"):
        drawn(engine, other, ("empty", 1.0))


def test_one_that_this_worker_lost_may_be_elsewhere(engine: Engine, spec: ModelSpec) -> None:
    with pytest.raises(EngineError, match=r"loras\.gone: this worker does not have it") as raised:
        drawn(engine, spec, ("gone", 1.0))
    assert raised.value.retryable


def test_a_changed_file_is_loaded_again(engine: Engine, spec: ModelSpec) -> None:
    before = drawn(engine, spec, ("ink", 1.0))
    changed = spec.loras[1].model_copy(update={"key": "ink"})
    other = spec.model_copy(update={"loras": (changed,)})
    assert not np.array_equal(drawn(engine, other, ("ink", 1.0)), before)


def test_offloading_and_coming_back_keeps_them(engine: Engine, spec: ModelSpec) -> None:
    before = drawn(engine, spec, ("ink", 1.0))
    assert engine.offload(spec.key)
    engine.load(spec)
    assert np.array_equal(drawn(engine, spec, ("ink", 1.0)), before)


def test_memory_that_runs_out_while_one_is_loaded_is_not_blamed_on_its_file(
    engine: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = drawn(engine, spec)
    pipe = engine._resident[spec.key].pipe  # type: ignore[attr-defined]
    for raised, code in (
        (torch.OutOfMemoryError("CUDA out of memory"), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_error"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(pipe, "load_lora_weights", _raising(raised))
            with pytest.raises(EngineError) as caught:
                drawn(engine, spec, ("ink", 1.0))
        assert caught.value.code == code
        assert np.array_equal(drawn(engine, spec), plain)
    assert not np.array_equal(drawn(engine, spec, ("ink", 1.0)), plain)


def _raising(error: Exception) -> Any:
    def load(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return load


def test_other_models_leave_when_there_is_no_room_for_one(spec: ModelSpec, tmp_path: Path) -> None:
    with at_bench(tmp_path, spec, noop_spec(memory=1 << 20)) as bench:
        bench.prepare("noop", spec.key)
        bench.say({"phase": "loading", "model": spec.key})  # the model is there: what is loaded is the LoRA
        inked = job(("ink", 1.0))
        assert bench.draw(inked).end(inked).outcome == "painted"
        bench.tell()
        assert (bench.tier(spec.key), bench.tier("noop")) == ("device", "host")


def test_what_it_takes_is_counted_with_its_model(spec: ModelSpec, tmp_path: Path) -> None:
    with at_bench(tmp_path, spec) as bench:
        bench.prepare(spec.key)
        sizes = []
        for uses in ((), (("ink", 1.0),), ()):
            bench.draw(job(*uses))
            assert bench.latest is not None
            (told,) = bench.latest.models
            sizes.append(told.bytes)
        (ink,) = [lora for lora in spec.loras if lora.key == "ink"]
        assert sizes[1] - sizes[0] >= ink.size // 2
        assert sizes[2] == sizes[1], "it stays in memory, switched off"
