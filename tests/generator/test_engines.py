"""The conformance suite: what every engine must do, run over each of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from anime_common.contracts.vocabulary import Phase
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions, Manner, Previewed, Stepped
from anime_generator.registry import FIELDS
from anime_generator.simulated import Fault, Simulated
from tests.generator.builders import Told, attempts, noop_spec, offered
from tests.generator.conformance import SIZE, Subject, anew

# diffusers converts tensors to arrays in a way that numpy 2 deprecates; nothing of ours does.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def test_tells_phases_and_every_step_in_order(subject: Subject) -> None:
    told = Told()
    subject.engine.generate(subject.spec, [subject.job(steps=6)], told, told)
    assert told.working == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]
    assert told.steps == [1, 2, 3, 4, 5, 6]
    assert told.events[-1] == told.drawn[-1]


def test_a_request_with_a_count_gets_that_many_pictures_with_seeds_in_a_row(subject: Subject) -> None:
    job = subject.job(count=6, seed=40)
    told = Told()
    subject.engine.generate(subject.spec, [job], told, told)
    assert [(drawn.picture.index, drawn.picture.seed) for drawn in told.drawn] == [(i, 40 + i) for i in range(6)]
    assert {drawn.image.size for drawn in told.drawn} == {(SIZE[subject.spec.engine],) * 2}
    # Six pictures in passes of four, say: steps begin anew for the second pass.
    assert told.steps == [1, 2, 3, 4] * -(-6 // subject.spec.batch_limit)


def test_width_and_height_are_honoured(subject: Subject) -> None:
    told = Told()
    subject.engine.generate(subject.spec, [subject.job(width=64, height=96)], told, told)
    assert told.drawn[0].image.size == (64, 96)


def test_the_first_preview_comes_within_three_steps_and_none_with_the_last(subject: Subject) -> None:
    if subject.spec.engine == "auto":
        pytest.skip("pipelines that are run as a whole hand out no estimate to show")
    told = Told()
    subject.engine.generate(subject.spec, [subject.job(steps=6)], told, told)
    kinds = [type(event) for event in told.events]
    assert 1 <= kinds[: kinds.index(Previewed)].count(Stepped) <= 3
    last_step = len(kinds) - 1 - kinds[::-1].index(Stepped)
    assert Previewed not in kinds[last_step:]
    with Image.open(io.BytesIO(told.previews[0].jpeg)) as preview:
        assert preview.format == "JPEG"
        assert max(preview.size) <= 256


def test_the_same_seed_gives_the_same_picture_alone_and_in_a_batch(subject: Subject) -> None:
    alone, together = Told(), Told()
    job = subject.job(seed=11)
    again = anew(job)
    subject.engine.generate(subject.spec, [job], alone, alone)
    subject.engine.generate(subject.spec, [subject.job(seed=90, prompt="1boy"), again], together, together)
    one, other = (np.asarray(picture.image, dtype=int) for picture in (*alone.of(job), *together.of(again)))
    assert np.abs(one - other).max() <= 1


def test_different_seeds_give_different_pictures(subject: Subject) -> None:
    told = Told()
    subject.engine.generate(subject.spec, [subject.job(count=2, seed=1)], told, told)
    one, other = (np.asarray(drawn.image, dtype=int) for drawn in told.drawn)
    assert np.abs(one - other).max() > 8


@pytest.mark.parametrize("moment", [Phase.ENCODING, Phase.SAMPLING, 2, Phase.DECODING])
def test_a_cancel_stops_the_work_in_each_phase(subject: Subject, moment: Phase | int) -> None:
    job = subject.job(count=6)
    told = Told(cancel_on=(moment,), victims=(job.attempt_id,))
    subject.engine.generate(subject.spec, [job], told, told)
    assert told.drawn == []
    if moment != Phase.DECODING:
        assert len(told.steps) < 4


def test_a_cancel_before_the_start_does_nothing_at_all(subject: Subject) -> None:
    job = subject.job()
    told = Told(cancelled={job.attempt_id})
    subject.engine.generate(subject.spec, [job], told, told)
    assert told.events == []


@pytest.mark.parametrize("moment", [Phase.ENCODING, 2, Phase.DECODING])
def test_a_cancelled_member_leaves_the_batch_and_the_others_go_on(subject: Subject, moment: Phase | int) -> None:
    stays, leaves = subject.job(seed=5), subject.job(seed=6)
    told = Told(cancel_on=(moment,), victims=(leaves.attempt_id,))
    subject.engine.generate(subject.spec, [leaves, stays], told, told)
    assert len(told.of(stays)) == 1
    assert told.of(leaves) == []
    assert told.steps_of(stays) == [1, 2, 3, 4]


def test_the_engine_is_reusable_after_a_cancel(subject: Subject) -> None:
    victim, next_one = subject.job(), subject.job()
    told = Told(cancel_on=(1,), victims=attempts([victim]))
    subject.engine.generate(subject.spec, [victim], told, told)
    subject.engine.generate(subject.spec, [next_one], told, told)
    assert len(told.of(next_one)) == 1


def test_it_announces_what_it_honours(subject: Subject) -> None:
    info = subject.engine.describe(subject.spec)
    assert info.key == subject.spec.key
    assert set(FIELDS) <= set(info.fields)
    assert subject.spec.defaults.sampler in info.samplers


def test_unloading_gives_the_memory_back_and_loading_again_gives_the_same_picture(holder: Subject) -> None:
    job = holder.job(seed=3)
    before, after = Told(), Told()
    holder.engine.generate(holder.spec, [job], before, before)
    holder.engine.unload(holder.spec.key)
    assert holder.device.taken == {}
    holder.engine.unload(holder.spec.key)
    assert holder.engine.load(holder.spec) > 0
    holder.engine.generate(holder.spec, [job], after, after)
    assert np.array_equal(np.asarray(before.drawn[0].image), np.asarray(after.drawn[0].image))


def test_loading_twice_takes_the_memory_once(holder: Subject) -> None:
    size = holder.engine.load(holder.spec)
    assert holder.engine.load(holder.spec) == size
    assert holder.device.held() == size


def test_an_offloaded_model_gives_the_device_back_and_draws_the_same_again(holder: Subject) -> None:
    job = holder.job(seed=3)
    before, after = Told(), Told()
    holder.engine.generate(holder.spec, [job], before, before)
    assert holder.engine.offload(holder.spec.key)
    assert holder.device.held() == 0
    assert not holder.engine.offload(holder.spec.key)
    assert holder.engine.load(holder.spec) == holder.device.held()
    holder.engine.generate(holder.spec, [job], after, after)
    pixels = [np.asarray(told.drawn[0].image, dtype=np.int16) for told in (before, after)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_an_offloaded_model_can_be_given_up(holder: Subject) -> None:
    assert holder.engine.offload(holder.spec.key)
    holder.engine.unload(holder.spec.key)
    assert holder.device.taken == {}
    holder.engine.load(holder.spec)


def test_nobody_offloads_what_was_never_loaded(holder: Subject) -> None:
    assert not holder.engine.offload("nobody")


def test_smaller_passes_give_the_same_pictures_and_done_ones_are_left_out(subject: Subject) -> None:
    job = subject.job(count=3, seed=8)
    usual, told = Told(), Told()
    subject.engine.generate(subject.spec, [anew(job)], usual, usual)
    manner = Manner(batch=1, done=frozenset({(job.attempt_id, 1)}))
    subject.engine.generate(subject.spec, [job], told, told, manner)
    assert [drawn.picture.index for drawn in told.drawn] == [0, 2]
    assert {len(event.pictures) for event in told.events if isinstance(event, Stepped)} == {1}
    for drawn in told.drawn:
        one, other = (np.asarray(each.image, dtype=int) for each in (drawn, usual.drawn[drawn.picture.index]))
        assert np.abs(one - other).max() <= 1


def test_economical_work_gives_the_same_picture_and_leaves_nothing_behind(subject: Subject) -> None:
    job = subject.job(seed=8)
    usual, frugal, again = Told(), Told(), Told()
    subject.engine.generate(subject.spec, [job], usual, usual)
    subject.engine.generate(subject.spec, [anew(job)], frugal, frugal, Manner(economical=True))
    subject.engine.generate(subject.spec, [anew(job)], again, again)
    pictures = [np.asarray(told.drawn[0].image, dtype=int) for told in (usual, frugal, again)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.array_equal(pictures[0], pictures[2])


MOMENTS = [
    (Phase.ENCODING, 0, [Phase.ENCODING], []),
    (Phase.SAMPLING, 1, [Phase.ENCODING, Phase.SAMPLING], []),
    (Phase.SAMPLING, 3, [Phase.ENCODING, Phase.SAMPLING], [1, 2]),
    (Phase.DECODING, 0, [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING], [1, 2, 3, 4]),
]


@pytest.mark.parametrize(("phase", "step", "phases", "steps"), MOMENTS)
@pytest.mark.parametrize("kind", ["memory", "context"])
def test_a_failure_is_told_by_its_kind_and_the_model_draws_again(
    holder: Subject, phase: Phase, step: int, phases: list[Phase], steps: list[int], kind: Literal["memory", "context"]
) -> None:
    holder.device.faults = [Fault(phase, step=step, kind=kind)]
    told, after = Told(), Told()
    with pytest.raises(EngineError) as caught:
        holder.engine.generate(holder.spec, [holder.job()], told, told)
    expected = ("out_of_memory", False, False) if kind == "memory" else ("device_error", True, True)
    assert (caught.value.code, caught.value.retryable, caught.value.poisoned) == expected
    assert (told.working, told.steps, told.drawn) == (phases, steps, [])
    holder.engine.generate(holder.spec, [holder.job()], after, after)
    assert len(after.drawn) == 1


def test_a_load_that_fails_leaves_nothing_in_memory(holder: Subject) -> None:
    holder.engine.unload(holder.spec.key)
    holder.device.faults = [Fault(Phase.LOADING)]
    with pytest.raises(EngineError) as caught:
        holder.engine.load(holder.spec)
    assert caught.value.code == "out_of_memory"
    assert holder.device.taken == {}
    assert holder.engine.load(holder.spec) == holder.device.held() > 0


def test_a_copy_back_that_fails_leaves_nothing_in_memory(holder: Subject) -> None:
    assert holder.engine.offload(holder.spec.key)
    holder.device.faults = [Fault(Phase.LOADING)]
    with pytest.raises(EngineError):
        holder.engine.load(holder.spec)
    assert not holder.engine.offload(holder.spec.key)
    assert holder.engine.load(holder.spec) > 0


def test_a_card_without_room_says_so(holder: Subject) -> None:
    size = holder.device.held()
    holder.engine.unload(holder.spec.key)
    holder.device.others = holder.device.total - size + 1
    try:
        with pytest.raises(EngineError) as caught:
            holder.engine.load(holder.spec)
        assert caught.value.code == "out_of_memory"
    finally:
        holder.device.others = 0
    assert holder.engine.load(holder.spec) == size


class TestNoop:
    """The faults that the other tests are made of."""

    @pytest.fixture
    def engine(self) -> Engine:
        return open_engine("noop", Simulated("card", 1 << 20), EngineOptions())

    @pytest.mark.parametrize(
        ("word", "code", "retryable", "poisoned"),
        [
            ("oom", "out_of_memory", False, False),
            ("retryable", "engine_error", True, False),
            ("permanent", "bad_settings", False, False),
            ("poisoned", "device_error", True, True),
        ],
    )
    def test_fails_as_told_at_the_step_told(
        self, engine: Engine, word: str, code: str, retryable: bool, poisoned: bool
    ) -> None:
        told = Told()
        with pytest.raises(EngineError) as caught:
            engine.generate(noop_spec(), [offered(prompt=f"x noop: fail={word} fail_at=3")], told, told)
        assert (caught.value.code, caught.value.retryable, caught.value.poisoned) == (code, retryable, poisoned)
        assert told.steps == [1, 2]

    def test_misbehaves_only_as_often_as_told(self, engine: Engine) -> None:
        told = Told()
        engine.generate(noop_spec(), [offered(attempt=3, prompt="noop: fail=oom attempts=2")], told, told)
        assert len(told.drawn) == 1

    @pytest.mark.parametrize("words", ["speed=3", "step_ms=fast", "fail=often"])
    def test_refuses_directives_it_does_not_know(self, engine: Engine, words: str) -> None:
        with pytest.raises(EngineError, match="noop:"):
            engine.generate(noop_spec(), [offered(prompt=f"noop: {words}")], Told(), Told())

    def test_a_model_too_large_for_the_device_does_not_load(self, engine: Engine) -> None:
        with pytest.raises(EngineError) as caught:
            engine.load(noop_spec(memory=2 << 20))
        assert caught.value.code == "out_of_memory"

    def test_is_held_at_a_step_while_a_file_exists_and_can_be_cancelled_there(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        hold = tmp_path / "hold"
        hold.touch()
        job = offered(prompt=f"noop: hold_at=3 hold={hold}")
        told = Told(cancel_on=(2,), victims=(job.attempt_id,))
        engine.generate(noop_spec(), [job], told, told)
        assert told.steps == [1, 2]
