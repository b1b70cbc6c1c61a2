"""The making of the model in small: a few pictures, a few steps. Needs cairo, as drawing does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tools.sprite import shipped, tokenizer
from tools.sprite.home import load
from tools.sprite.measures import UNSEEN
from tools.sprite.vocabulary import TAGS, all_tags

if TYPE_CHECKING:
    from tools.sprite import adapter, dataset, diffusion, evaluate, judge, pack, pictures
else:
    pytest.importorskip("cairo")
    from tools.sprite import adapter, dataset, diffusion, evaluate, judge, pack, pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]
OPTIONS = diffusion.Options(seconds=0.01, anneal=0.0, rate=1e-3, device="cpu", workers=1)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home of the training with 48 pictures, and the tokenizer of a small corpus."""
    place = tmp_path_factory.mktemp("sprite")
    monkeypatch = pytest.MonkeyPatch()
    corpus = tokenizer.corpus(500)
    monkeypatch.setenv("ANIME_SPRITE_HOME", str(place))
    monkeypatch.setattr(dataset, "COUNT", 48)
    monkeypatch.setattr(tokenizer, "corpus", lambda: corpus)
    for name, value in (("STEPS", 3), ("DECODED", 16), ("DECODED_IN_BATCH", 8), ("BATCH", 16)):
        monkeypatch.setattr(judge, name, value)
    for name, value in (("PICTURES", 8), ("SHOWN", 2)):
        monkeypatch.setattr(adapter, name, value)
    diffusion.prepare()
    yield place
    monkeypatch.undo()


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([value.detach().reshape(-1) for value in trainer.parameters])


def test_training_goes_on_from_its_checkpoint_exactly(home: Path) -> None:
    first = diffusion.Trainer(OPTIONS, 0)
    first.train_step(1e-3)
    before = weights(first)
    first.checkpoint()
    second = diffusion.Trainer(OPTIONS, 0)
    assert (second.step, second.samples) == (1, diffusion.BATCH)
    assert torch.equal(weights(second), before)
    for trainer in (first, second):
        trainer.train_step(1e-3)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), before)
    assert all(torch.equal(*pair) for pair in zip(first.average, second.average, strict=True))


def test_annealing_writes_beside_the_checkpoint(home: Path) -> None:
    diffusion.run(0, OPTIONS)
    at = load(diffusion.checkpoint_path())["step"]
    diffusion.run(0, diffusion.Options(seconds=1, anneal=0.01, rate=1e-3, device="cpu", workers=1))
    assert load(diffusion.checkpoint_path())["step"] == at
    assert load(diffusion.checkpoint_path(annealed=True))["step"] > at


def test_a_checkpoint_becomes_a_package_that_draws(home: Path, tmp_path: Path) -> None:
    diffusion.run(0, OPTIONS)
    size = pack.pack(tmp_path / "package")
    assert 1 < size < shipped.LIMIT_MB
    assert json.loads((tmp_path / "package" / "tags.json").read_text(encoding="utf-8")) == {"tags": all_tags()}
    assert evaluate.made_of(tmp_path / "package")["samples"] >= diffusion.BATCH
    drawn = pictures.generate(pictures.load(tmp_path / "package"), ["1girl", "1boy"], shipped.drawing("fast"))
    assert drawn.shape == (2, 128, 128, 3)


def test_a_judge_is_trained_where_there_is_none_and_kept(home: Path) -> None:
    characters = judge.held_out_characters(6)
    drawn = judge.draw(characters)
    features, found = judge.look(judge.load_judge(), drawn)
    assert features.shape == (6, judge.FEATURES)
    assert all((values < len(judge.HEADS[head])).all() for head, values in found.items())
    again, _ = judge.look(judge.load_judge(), drawn)
    assert np.array_equal(features, again)
    shares = evaluate.shares(judge.labels(characters), judge.labels(characters))
    assert set(shares.values()) == {1.0}


def test_closed_eyes_have_no_colour_to_judge() -> None:
    characters = judge.held_out_characters(60)
    eyes = judge.labels(characters)["eyes"]
    assert [bool(value == UNSEEN) for value in eyes] == [not one.eyes_show for one in characters]


def test_a_picture_through_the_autoencoder_is_nearly_the_same() -> None:
    drawn = judge.draw(judge.held_out_characters(3))
    apart = np.abs(judge.reconstruct(drawn).astype(int) - drawn).mean()
    assert apart < 8 < np.abs(judge.reconstruct(drawn, noise=3.0).astype(int) - drawn).mean()


def test_a_lora_is_trained_written_and_leaves_no_trace(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "hikari.safetensors"
    pipeline = pictures.load(shipped.PACKAGE)
    adapter.train(pipeline, 2)
    adapter.write(pipeline, target)
    assert 0 < target.stat().st_size < 3e6
    found = adapter.measure(pictures.load(shipped.PACKAGE), target)
    assert set(found["found"]) == {*adapter.LOOK, "flower"} <= {*TAGS, "flower"}


def test_the_negative_prompt_is_measured_by_the_colour_that_it_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "TRIES", 2)
    assert 0 <= evaluate.avoidance(pictures.load(shipped.PACKAGE), shipped.drawing("fast")) <= 1
