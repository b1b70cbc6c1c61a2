"""The diffusers engine and memory: what its errors mean, where weights lie, and that they are let go of."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from anime_generator.device import Cpu
from anime_generator.engines.economy import one_by_one
from anime_generator.engines.faults import translated
from anime_generator.engines.offload import to_device, to_host
from anime_generator.engines.protocol import EngineError, EngineOptions
from anime_generator.simulated import Simulated
from tests.generator.builders import Told, offered, sprite_spec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.mark.parametrize(
    ("error", "code", "poisoned"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory", 0),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory", False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out_of_memory", False),
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_error", True),
        (RuntimeError("CUDA error: device-side assert triggered"), "device_error", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device_error", True),
        (RuntimeError("the sizes of tensors must match"), "engine_error", False),
    ],
)
def test_errors_of_torch_become_ours(error: Exception, code: str, poisoned: bool) -> None:
    with pytest.raises(EngineError, match="drawing") as caught, translated("drawing"):
        raise error
    assert (caught.value.code, caught.value.poisoned) == (code, bool(poisoned))


def test_weights_keep_their_values_layout_and_ties_on_their_way() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 1))
    module.to(memory_format=torch.channels_last)
    module.append(module[2])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    held = module[0].weight
    to_host([module], Cpu("here"))
    to_device([module], Cpu("here"))
    assert module[0].weight is held
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert module[3].weight.data_ptr() == module[2].weight.data_ptr()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_one_latent_at_a_time_is_what_the_batch_is() -> None:
    seen: list[tuple[int, ...]] = []

    def forward(sample: Any, timestep: Any, *, states: Any, added: dict[str, Any], scale: float) -> tuple[Any]:
        seen.append((len(sample), len(states), len(added["pooled"])))
        return (sample * timestep + states.sum() * 0 + scale * added["pooled"].sum(dim=1).view(-1, 1, 1, 1),)

    arguments: dict[str, Any] = {
        "states": torch.randn(3, 7, 5),
        "added": {"pooled": torch.randn(3, 2), "none": None},
        "scale": 2.0,
    }
    sample = torch.randn(3, 4, 2, 2)
    whole = forward(sample, torch.tensor(3), **arguments)[0]
    assert torch.allclose(one_by_one(forward)(sample, torch.tensor(3), **arguments)[0], whole)
    assert seen == [(3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unload", "offload, then unload", "fail, then unload"])
def test_no_module_outlives_its_model(how: str) -> None:
    from anime_generator.engines.diffusers import DiffusersEngine

    spec, device = sprite_spec(), Simulated("card", 1 << 30)
    engine = DiffusersEngine(device, EngineOptions())
    engine.load(spec)
    job = offered(model=spec.key, width=64, height=64, steps=2)
    engine.generate(spec, [job], told := Told(), told)
    pipe = engine._resident[spec.key].pipe
    modules = [weakref.ref(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == 3
    del pipe
    if how.startswith("offload"):
        assert engine.offload(spec.key)
    elif how.startswith("fail"):
        device.activation = 1 << 30
        error = None
        try:
            engine.generate(spec, [job], told, told)
        except EngineError as caught:
            error = caught.bare()
        assert error is not None
    engine.unload(spec.key)
    gc.collect()
    assert [module() for module in modules] == [None, None, None]
    assert (device.held(), engine._embeddings.size) == (0, 0)


@pytest.mark.slow
def test_embeddings_survive_an_offload_and_lie_in_host_memory() -> None:
    from anime_generator.engines.diffusers import DiffusersEngine

    spec = sprite_spec()
    engine = DiffusersEngine(Simulated("card", 1 << 30), EngineOptions())
    engine.load(spec)
    engine.generate(spec, [offered(model=spec.key, width=64, height=64, steps=2)], told := Told(), told)
    size = engine._embeddings.size
    assert size > 0
    assert engine.offload(spec.key)
    assert engine._embeddings.size == size
    assert {kept.tokens.device.type for kept in engine._embeddings._kept.values()} == {"cpu"}
