"""One prompt on a server that does what real ones were recorded to do: success, refusals, errors, cancels, deaths."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Phase
from anime_generator.comfyui import faults
from anime_generator.comfyui.conversation import Conversation, Done, Order, Patience
from anime_generator.comfyui.records import Outcome
from anime_generator.comfyui.server import Refused, Server
from anime_generator.comfyui.tracking import InPhase, Shown, Step, Told
from anime_generator.engines.protocol import Cancelled, EngineError
from tests.comfyui.recordings import CASES, Script, file, scripts
from tests.comfyui.replay import Faults, Replay

pytestmark = pytest.mark.slow

QUICK = Patience(silence=0.2, between=0.05, unreachable=1.5, stalled=1.5, unseen=30.0, tick=0.02)
WARM = scripts("c_success_new_seed_warm_mini")[0]
COLD = scripts("a_success_cold_mini")[0]
ENDED = [
    pytest.param(script, id=f"{case}-{number}")
    for case in CASES
    for number, script in enumerate(scripts(case))
    if script.ends and not script.refused
]
REFUSED = [pytest.param(script, id=script.note) for script in scripts("d_invalid_prompts") if script.status != 200]


class Heard:
    """What a conversation told, and when it is no longer wanted."""

    def __init__(self, until: Callable[[Told | int], bool] = lambda told: False) -> None:
        self.told: list[Told] = []
        self.ahead: list[int] = []
        self.looks = 0
        self.wanted = True
        self._until = until

    def tell(self, told: Told) -> None:
        self.told.append(told)
        if self._until(told):
            self.wanted = False

    def looked(self, ahead: int | None) -> None:
        self.looks += 1
        if ahead is None:
            return
        self.ahead.append(ahead)
        if self._until(ahead):
            self.wanted = False

    @property
    def phases(self) -> list[Phase]:
        return [told.phase for told in self.told if isinstance(told, InPhase)]

    @property
    def steps(self) -> list[tuple[int, int]]:
        return [(told.step, told.steps) for told in self.told if isinstance(told, Step)]


def converse(replay: Replay, script: Script, heard: Heard | None = None, prompt_id: str = "") -> Done:
    heard = heard or Heard()
    server = Server(replay.url, {}, timeout=0.5)
    order = Order(prompt_id or str(uuid4()), script.graph, {"tower": {"attempt": 1}})
    try:
        return Conversation(server, order, QUICK, heard.tell, lambda: heard.wanted, heard.looked).run()
    finally:
        server.close()


@pytest.mark.parametrize("script", ENDED)
def test_every_recorded_prompt_ends_as_it_did(script: Script) -> None:
    with Replay((script,)).serving() as replay:
        if script.says("execution_success"):
            assert converse(replay, script).prompt.outcome is Outcome.SUCCESS
        else:
            with pytest.raises(EngineError) as caught:
                converse(replay, script)
            interrupted = script.says("execution_interrupted")
            assert (caught.value.code == faults.INTERRUPTED) == interrupted
            assert "/opt/" not in caught.value.message
            assert "tensor(" not in caught.value.message
        assert len(replay.posts()) == 1


def test_a_cold_run_tells_phases_steps_and_what_each_node_cost() -> None:
    heard = Heard()
    with Replay((COLD,), Faults(pace=0.1)).serving() as replay:
        done = converse(replay, COLD, heard)
        assert replay.posts()[0]["extra_data"] == {"tower": {"attempt": 1}}
    assert heard.phases == [Phase.LOADING, Phase.ENCODING, Phase.SAMPLING, Phase.DECODING, Phase.SAVING]
    assert heard.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(each.name, each.node) for each in done.prompt.files] == [("ComfyUI_00051_.png", "9")]
    costs = {cost.node.class_type: cost.seconds for cost in done.costs}
    assert max(costs, key=lambda name: costs[name]) == "CheckpointLoaderSimple"
    assert not any(cost.cached for cost in done.costs)


def test_what_is_cached_is_no_step_and_costs_nothing() -> None:
    heard = Heard()
    script = scripts("b_success_same_seed_cached_mini")[0]
    with Replay((script,)).serving() as replay:
        done = converse(replay, script, heard)
    assert (heard.phases, heard.steps) == ([], [])
    assert {cost.node.class_type for cost in done.costs if cost.cached} >= {"KSampler", "CheckpointLoaderSimple"}


@pytest.mark.parametrize("case", ["i_previews_type1", "i_previews_type4_metadata"])
def test_previews_of_both_kinds_are_shown(case: str) -> None:
    heard = Heard()
    (script,) = scripts(case)
    with Replay((script,)).serving() as replay:
        converse(replay, script, heard)
    shown = [told.image for told in heard.told if isinstance(told, Shown)]
    assert len(shown) == 4
    assert all(image.media_type == "image/jpeg" and image.data.startswith(b"\xff\xd8\xff") for image in shown)


@pytest.mark.parametrize("script", REFUSED)
def test_a_refused_prompt_says_why_and_is_not_sent_again(script: Script) -> None:
    with Replay((script, WARM)).serving() as replay, pytest.raises(EngineError) as caught:
        converse(replay, WARM)
    assert len(replay.posts()) == 1
    assert not caught.value.retryable
    assert caught.value.message
    assert "/opt/" not in caught.value.message


@pytest.mark.parametrize(
    ("note", "code", "says"),
    [
        ("unknown node class", faults.NODE_MISSING, "NoSuchLoader does not exist"),
        (
            "checkpoint name not in the list",
            faults.MODEL_MISSING,
            "the server has no 'nope.safetensors'; it has sd15_mini",
        ),
        ("two values out of range", faults.BAD_VALUE, "Value 0 smaller than min of 1 steps; "),
        ("required input missing", faults.BAD_VALUE, "Required input is missing seed"),
        ("no output node", faults.WORKFLOW_INVALID, "Prompt has no outputs"),
        ("UI-format workflow instead of API format", faults.SERVER_ERROR, "is it in the API format?"),
    ],
)
def test_refusals_are_coded(note: str, code: str, says: str) -> None:
    script = next(each for each in scripts("d_invalid_prompts") if each.note == note)
    with Replay((script,)).serving() as replay, pytest.raises(EngineError) as caught:
        converse(replay, WARM)
    assert caught.value.code == code
    assert says in caught.value.message


def test_a_prompt_of_which_outputs_are_dropped_is_stopped_and_refused() -> None:
    script = next(
        each for each in scripts("d_invalid_prompts") if (each.answer or {}).get("node_errors") and each.status == 200
    )
    with Replay((script,), Faults(pace=1.0)).serving() as replay, pytest.raises(EngineError):
        converse(replay, script)
    assert replay.running is None


def test_one_that_cannot_be_stopped_is_refused_all_the_same() -> None:
    script = next(each for each in scripts("d_invalid_prompts") if each.refused and each.status == 200)
    with Replay((script,), Faults(stuck_at=0)).serving() as replay:
        with pytest.raises(EngineError):
            converse(replay, script)
        assert replay.running is not None
        assert len(replay.asked("/interrupt")) > 1


def test_execution_errors_are_coded() -> None:
    codes = []
    for script in scripts("e_execution_error")[:3]:
        with Replay((script,)).serving() as replay, pytest.raises(EngineError) as caught:
            converse(replay, script)
        codes.append((caught.value.code, caught.value.retryable))
        assert f"node {['4', '8', '5'][len(codes) - 1]} " in caught.value.message
    assert codes == [(faults.NODE_FAILED, False), (faults.NODE_FAILED, False), ("out_of_memory", False)]


class TestCancel:
    @pytest.mark.parametrize("lost", [0, 2])
    def test_while_it_runs_the_interrupt_is_repeated_until_it_ended(self, lost: int) -> None:
        heard = Heard(lambda told: isinstance(told, Step))
        with Replay((COLD,), Faults(pace=0.5, interrupts_lost=lost)).serving() as replay:
            with pytest.raises(Cancelled):
                converse(replay, COLD, heard, "mine")
            asked = replay.asked("/interrupt")
            assert len(asked) >= 1 + lost
            assert {each["prompt_id"] for each in asked} == {"mine"}
            assert replay.history["mine"]["status"]["status_str"] == "error"

    def test_newer_servers_are_asked_by_the_job(self) -> None:
        heard = Heard(lambda told: isinstance(told, Step))
        with Replay((COLD,), Faults(pace=0.5, cancels_jobs=True)).serving() as replay:
            with pytest.raises(Cancelled):
                converse(replay, COLD, heard, "mine")
            assert replay.asked("/api/jobs/mine/cancel")
            assert not replay.asked("/interrupt")

    def test_while_it_waits_it_is_deleted_and_the_one_that_runs_goes_on(self) -> None:
        heard = Heard(lambda told: told == 1)
        with Replay((COLD, WARM), Faults(pace=0.5)).serving() as replay:
            other = Server(replay.url, {})
            other.submit("other", COLD.graph, "somebody", {})
            with pytest.raises(Cancelled):
                converse(replay, WARM, heard, "mine")
            assert replay.asked("/queue") == [{"delete": ["mine"]}]
            assert not replay.asked("/interrupt")
            assert replay.running is not None
            assert replay.running.prompt_id == "other"
            other.close()

    def test_before_it_is_sent_nothing_is_sent(self) -> None:
        heard = Heard()
        heard.wanted = False
        with Replay((COLD,)).serving() as replay, pytest.raises(Cancelled):
            converse(replay, COLD, heard)
        assert replay.posts() == []


class TestConnection:
    @pytest.mark.parametrize(
        "fault",
        [
            Faults(pace=0.2, cut_at=8),
            Faults(pace=0.2, silent_after=6),
            Faults(pace=0.2, history_late=0.4),
            Faults(no_socket=True, pace=0.05),
            Faults(answers_lost=1, pace=0.1),
        ],
        ids=["cut", "silent", "late history", "no socket", "lost answer"],
    )
    def test_whatever_happens_to_the_socket_the_history_decides(self, fault: Faults) -> None:
        with Replay((COLD,), fault).serving() as replay:
            done = converse(replay, COLD)
            assert [each.name for each in done.prompt.files] == ["ComfyUI_00051_.png"]
            assert len(replay.posts()) == 1

    def test_after_the_socket_was_lost_it_is_opened_anew_and_progress_goes_on(self) -> None:
        heard = Heard()
        with Replay((COLD,), Faults(pace=0.6, cut_at=8)).serving() as replay:
            converse(replay, COLD, heard)
        assert heard.steps[-1] == (4, 4)

    def test_without_a_socket_nothing_looks_like_a_stall(self) -> None:
        with Replay((COLD,), Faults(pace=0.6, no_socket=True)).serving() as replay:
            assert converse(replay, COLD).prompt.outcome is Outcome.SUCCESS

    def test_a_server_that_was_started_anew_has_lost_the_prompt(self) -> None:
        with Replay((COLD,), Faults(pace=0.1, forgets_at=12)).serving() as replay, pytest.raises(EngineError) as caught:
            converse(replay, COLD)
        assert (caught.value.code, caught.value.retryable) == (faults.LOST, True)

    def test_a_frozen_server_is_given_up_after_a_while(self) -> None:
        with Replay((COLD,), Faults(pace=0.1, frozen_at=12)).serving() as replay, pytest.raises(EngineError) as caught:
            converse(replay, COLD)
        assert (caught.value.code, caught.value.retryable) == (faults.UNREACHABLE, True)

    def test_a_server_whose_prompt_does_not_get_on_is_told_from_one_that_works(self) -> None:
        with Replay((COLD,), Faults(pace=0.1, stuck_at=20)).serving() as replay, pytest.raises(EngineError) as caught:
            converse(replay, COLD)
        assert (caught.value.code, caught.value.retryable) == (faults.STALLED, True)
        assert "at node 3 'KSampler'" in caught.value.message

    def test_a_prompt_that_runs_already_is_gone_on_with_not_sent_again(self) -> None:
        with Replay((COLD,), Faults(pace=0.2)).serving() as replay:
            first = Server(replay.url, {})
            first.submit("mine", COLD.graph, "the process before", {})
            first.close()
            done = converse(replay, COLD, prompt_id="mine")
            assert [each.name for each in done.prompt.files] == ["ComfyUI_00051_.png"]
            assert len(replay.posts()) == 1

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(script=st.sampled_from([COLD, WARM, *scripts("e_execution_error")[:3]]), data=st.data())
    def test_wherever_the_socket_dies_the_end_is_that_of_the_history(self, script: Script, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(script.frames)))
        done = None
        fault = Faults(cut_at=at) if data.draw(st.booleans()) else Faults(silent_after=at)
        with Replay((script,), fault).serving() as replay:
            with suppress(EngineError):
                done = converse(replay, script)
            (entry,) = replay.history.values()
            assert (done is not None) == (entry["status"]["status_str"] == "success")


def test_a_file_is_fetched_or_said_to_be_gone() -> None:
    content = file("a_success_cold_mini")
    with Replay((COLD,), files=content).serving() as replay:
        done = converse(replay, COLD)
        server = Server(replay.url, {})
        assert server.view(done.prompt.files[0], 1 << 20) == content
        replay.faults.no_files = True
        with pytest.raises(Refused, match="404"):
            server.view(done.prompt.files[0], 1 << 20)
        server.close()
