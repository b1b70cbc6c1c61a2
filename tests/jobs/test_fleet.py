"""What follows from heartbeats: worker loss, repeats, orders, room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from anime_common.contracts.generator import AbandonAttempt, CancelAttempt, Heartbeat, Renew
from anime_common.contracts.vocabulary import JobState, LoraInfo
from anime_common.messages import uuid7
from anime_jobs.fleet import Attention, Fleet, Verdict, View, free_workers, judge
from anime_jobs.model import Adopted, OfferFenced, OfferRepeated, Record, WorkerLost
from tests.builders import NOON, heartbeat, held, job, later, model_info

MINE, NEXT = uuid7(NOON), uuid7(NOON)
ATTEMPT, OFFER = uuid7(NOON), uuid7(NOON)


def owned(state: JobState = JobState.RUNNING, **fields: Any) -> Record:
    private = {name: fields.pop(name) for name in list(fields) if name in Record.__dataclass_fields__}
    found = job(
        **({"state": state, "attempt_id": ATTEMPT, "worker": "w1", "started_at": NOON, "dispatched_at": NOON} | fields)
    )
    base = Record(job=found, request_hash="", prompt="", negative_prompt=None, seed=1, incarnation=MINE, offer_id=OFFER)
    return replace(base, **private)


def beat(incarnation: UUID = MINE, sent: float = 100, **fields: Any) -> Heartbeat:
    started = NOON if incarnation == MINE else later(50)
    return heartbeat(incarnation=incarnation, sent_at=later(sent), started_at=started, **fields)


def listing(**fields: Any) -> Any:
    return held(job_id=uuid7(NOON), attempt_id=ATTEMPT, offer_id=OFFER, **fields)


def view(*beats: Heartbeat, at: float = 100, now: float = 100, **fields: Any) -> View:
    fleet = Fleet()
    for each in beats:
        fleet.hear(each, at, later(at))
    defaults: dict[str, Any] = {
        "news": frozenset({"w1"}),
        "deaf_until": 0.0, "lost_after": 20.0, "lost": frozenset(), "facts_seen": {"w1": True}, "max_repeats": 2,
        "at": later(now),
    }  # fmt: skip
    return View(fleet=fleet, now=now, **(defaults | fields))


def inputs(verdict: Verdict) -> list[object]:
    return [message for _, message in verdict.inputs]


def test_all_is_well_while_the_owner_lists_the_attempt() -> None:
    verdict = judge([owned()], {"w1": MINE}, view(beat(attempts=(listing(),))))
    assert verdict == Verdict()


def test_a_silent_worker_is_lost_and_its_running_attempt_counts() -> None:
    verdict = judge([owned()], {"w1": MINE}, view(beat(attempts=(listing(),)), at=100, now=121))
    assert verdict.lost == (("w1", MINE),)
    (lost,) = inputs(verdict)
    assert isinstance(lost, WorkerLost)
    assert lost.counts


def test_silence_counts_only_while_we_could_hear() -> None:
    assert judge([owned()], {"w1": MINE}, view(beat(), at=100, now=125, deaf_until=110)).lost == ()


def test_silence_counts_only_once_all_facts_are_consumed() -> None:
    silent = view(beat(attempts=(listing(),)), at=100, now=125, facts_seen={"w1": False})
    assert judge([owned()], {"w1": MINE}, silent) == Verdict()


def test_a_worker_never_heard_since_we_lead_is_lost_after_the_same_time() -> None:
    assert judge([owned()], {"w1": MINE}, view(deaf_until=90, now=100)).lost == ()
    assert judge([owned()], {"w1": MINE}, view(deaf_until=70, now=100)).lost == (("w1", MINE),)


def test_an_attempt_of_a_worker_that_left_before_we_listened_is_lost_after_the_same_time() -> None:
    (lost,) = inputs(judge([owned()], {}, view(deaf_until=70, now=100)))
    assert isinstance(lost, WorkerLost)
    assert inputs(judge([owned()], {}, view(deaf_until=90, now=100))) == []


def test_what_ended_is_abandoned_once_a_heartbeat() -> None:
    stale = view(beat(attempts=(listing(ended=True),)), news=frozenset())
    assert judge([], {"w1": MINE}, stale).orders == ()


def test_a_running_attempt_that_its_owner_dropped_is_lost_once_facts_are_consumed() -> None:
    (lost,) = inputs(judge([owned()], {"w1": MINE}, view(beat())))
    assert isinstance(lost, WorkerLost)
    assert inputs(judge([owned()], {"w1": MINE}, view(beat(), facts_seen={"w1": False}))) == []


def test_a_heartbeat_from_before_the_start_proves_nothing() -> None:
    assert inputs(judge([owned(started_at=later(200))], {"w1": MINE}, view(beat(sent=100)))) == []


def test_an_offer_is_repeated_then_fenced() -> None:
    waiting = owned(JobState.DISPATCHED, deadline=later(90))
    assert inputs(judge([waiting], {"w1": MINE}, view(beat()))) == [OfferRepeated()]
    assert inputs(judge([replace(waiting, repeat=2)], {"w1": MINE}, view(beat()))) == [OfferFenced()]
    assert inputs(judge([replace(waiting, deadline=later(101))], {"w1": MINE}, view(beat()))) == []
    assert inputs(judge([waiting], {"w1": MINE}, view(beat(attempts=(listing(),))))) == []


def test_a_new_incarnation_adopts_what_it_lists_and_loses_the_rest() -> None:
    resumed = view(beat(NEXT, attempts=(listing(),)))
    assert inputs(judge([owned()], {"w1": NEXT}, resumed)) == [Adopted(NEXT)]
    (lost,) = inputs(judge([owned()], {"w1": NEXT}, view(beat(NEXT))))
    assert isinstance(lost, WorkerLost)
    assert lost.counts
    (waiting,) = inputs(judge([owned(JobState.DISPATCHED)], {"w1": NEXT}, view(beat(NEXT))))
    assert isinstance(waiting, WorkerLost)
    assert not waiting.counts


def test_a_goodbye_keeps_the_retry_budget() -> None:
    (lost,) = inputs(judge([owned()], {"w1": MINE}, view(beat(goodbye=True))))
    assert isinstance(lost, WorkerLost)
    assert not lost.counts
    (after,) = inputs(judge([owned()], {"w1": NEXT}, view(beat(goodbye=True), beat(NEXT))))
    assert isinstance(after, WorkerLost)
    assert not after.counts


def test_a_lost_incarnation_is_told_to_renew_and_gets_nothing() -> None:
    seen = view(beat(), lost=frozenset({MINE}))
    assert [order.order for order in judge([], {}, seen).orders] == [Renew(incarnation=MINE)]
    assert free_workers([], seen, look_ahead=1) == []


def test_an_attempt_that_is_nobodys_is_abandoned() -> None:
    (order,) = judge([], {"w1": MINE}, view(beat(attempts=(listing(),)))).orders
    assert isinstance(order.order, AbandonAttempt)
    cancelled_then_given_again = owned(attempt_id=uuid7(NOON))
    orders = judge([cancelled_then_given_again], {"w1": MINE}, view(beat(attempts=(listing(),)))).orders
    assert [type(each.order) for each in orders] == [AbandonAttempt]


def test_a_requested_cancel_is_repeated_while_the_attempt_is_listed() -> None:
    asked = owned(cancel_requested=True)
    (order,) = judge([asked], {"w1": MINE}, view(beat(attempts=(listing(),)))).orders
    assert isinstance(order.order, CancelAttempt)
    assert judge([asked], {"w1": MINE}, view(beat(attempts=(listing(ended=True),)))).orders == ()


def test_a_stale_heartbeat_is_dropped() -> None:
    fleet = Fleet()
    fleet.hear(beat(sent=10), 10, later(10))
    fleet.hear(beat(sent=9, draining=True), 11, later(11))
    fleet.hear(beat(NEXT, sent=60), 60, later(60))
    fleet.hear(beat(sent=61), 61, later(61))
    assert fleet.seen["w1"].heartbeat.incarnation == NEXT


def test_room_counts_offers_in_the_ledger_and_in_the_heartbeat_once() -> None:
    ledger = owned(JobState.DISPATCHED)
    (idle,) = free_workers([], view(beat(slots=2)), look_ahead=1)
    assert (idle.free, idle.ahead) == (2, 1)
    (both,) = free_workers([ledger], view(beat(slots=2, attempts=(listing(),))), look_ahead=1)
    assert (both.free, both.ahead) == (1, 1)
    strangers = tuple(held(offer_id=uuid7(NOON)) for _ in range(3))
    (full,) = free_workers([ledger], view(beat(slots=2, attempts=strangers)), look_ahead=1)
    assert (full.free, full.ahead) == (0, 0)
    assert free_workers([], view(beat(draining=True)), look_ahead=1) == []


def test_a_bus_that_did_not_answer_for_a_while_counts_as_deafness() -> None:
    attention = Attention(most=10)
    assert attention.unbroken_since(5) == 5
    for now in (5, 10, 20):
        attention.answered(now)
    assert (attention.unbroken_since(20), attention.unbroken_since(30)) == (5, 5)
    assert attention.unbroken_since(31) == 31
    attention.answered(35)
    assert attention.unbroken_since(40) == 35


INK = LoraInfo(key="ink-style", family="sd15", trigger_words=("ink style",))


class TestBriefHeartbeats:
    def test_are_completed_by_what_their_incarnation_told_before(self) -> None:
        seen = view(beat(loras=(INK,)), beat(sent=101, brief=True)).fleet.seen["w1"].heartbeat
        assert (seen.loras, seen.brief) == ((INK,), False)

    def test_stay_brief_when_it_told_nothing_yet(self) -> None:
        seen = view(beat(loras=(INK,)), beat(incarnation=NEXT, sent=101, brief=True)).fleet.seen["w1"].heartbeat
        assert (seen.loras, seen.brief) == ((), True)

    def test_full_ones_say_what_is_gone(self) -> None:
        seen = view(beat(loras=(INK,)), beat(sent=101)).fleet.seen["w1"].heartbeat
        assert seen.loras == ()


def test_loras_go_to_the_models_of_their_family() -> None:
    ours, other = model_info(key="ours", family="sd15"), model_info(key="other", family="sdxl")
    found = {info.key: info.loras for info in beat(models=(ours, other), loras=(INK,)).catalogue()}
    assert found == {"ours": (INK,), "other": ()}
