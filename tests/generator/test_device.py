from __future__ import annotations

from pathlib import Path

import pytest

from anime_generator import device
from anime_generator.device import Cpu, DeviceError, device_info, open_device
from anime_generator.memory import Memory, OutOfMemoryError
from anime_generator.simulated import Simulated


def test_the_machine_has_some_memory_free() -> None:
    memory = open_device("cpu", "here").memory()
    assert 0 < memory.free <= memory.total


def test_a_control_group_limits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{24 << 20}\n")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert Cpu("here").memory() == Memory(64 << 20, 40 << 20)


def test_no_limit_of_the_control_group_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert Cpu("here").memory().total > 64 << 20


def test_a_simulated_card_says_no_when_it_is_full() -> None:
    card = Simulated("card", 100)
    card.take("one", 60)
    with pytest.raises(OutOfMemoryError, match="two needs 50 bytes, 40 are free"):
        card.take("two", 50)
    card.give_back("one")
    card.give_back("one")
    card.take("two", 50)
    assert card.memory().free == 50


def test_workers_on_one_card_share_its_id() -> None:
    info = device_info(open_device("simulated:12", "card-7"))
    assert (info.id, info.kind, info.memory_total) == ("card-7", "simulated", 12 << 20)


def test_where_there_is_no_card_auto_is_the_cpu_and_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CARD_FILES", ())
    assert open_device("auto").kind == "cpu"
    with pytest.raises(DeviceError, match="finds no usable card"):
        open_device("cuda")


@pytest.mark.parametrize("spec", ["", "gpu", "cuda:x", "simulated:"])
def test_other_words_are_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match="there is no device"):
        open_device(spec)
