"""What is found on a server of an earlier life of ours."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from anime_common.messages import uuid7
from anime_generator.comfyui.marks import LATEST, RECENT, Mark, extra_of, ours, prompt_id_of, resumable
from tests.generator.builders import offered

NOW = 1_800_000_000.0


def mark(worker: str = "tower", index: int = 0) -> Mark:
    return Mark(worker=worker, offer_id=uuid7(), epoch=2, index=index, job=offered())


def waits(mark: Mark, number: int = 1) -> list[Any]:
    return [number, str(mark.job.attempt_id), {}, {**extra_of(mark), "client_id": "c"}, ["9"]]


def over(mark: Mark, ago: float) -> dict[str, Any]:
    stamp = {"prompt_id": "x", "timestamp": int((NOW - ago) * 1000)}
    messages = [["execution_start", {"timestamp": 1}], ["execution_success", stamp]]
    return {"prompt": waits(mark), "outputs": {}, "status": {"status_str": "success", "messages": messages}}


def history(*ended: tuple[Mark, float]) -> dict[str, Any]:
    return {str(each.job.attempt_id): over(each, ago) for each, ago in ended}


def ids(marks: tuple[Mark, ...]) -> list[UUID]:
    return [each.job.attempt_id for each in marks]


def test_what_runs_and_waits_comes_first_and_of_what_ended_the_latest() -> None:
    running, waiting = mark(), mark()
    ended = [(mark(), float(ago)) for ago in range(10, 10 + 2 * LATEST)]
    queue = {"queue_running": [waits(running)], "queue_pending": [waits(waiting, 2)]}
    found = resumable(ours("tower", queue, history(*ended)), NOW)
    assert ids(found) == ids((running, waiting, *(each for each, _ in ended[:LATEST])))
    assert found[0] == running


def test_what_is_long_over_or_anothers_or_of_no_mark_is_left() -> None:
    old, theirs = mark(), mark("attic")
    strange = [3, "p", {}, {"tower_anime": {"worker": "tower"}}, []]
    queue = {"queue_running": [waits(theirs)], "queue_pending": [strange, [4, "q", {}], ["odd"]]}
    found = ours("tower", queue, history((old, RECENT + 1)) | {"x": {"prompt": []}, "y": None})
    assert ids(tuple(each.mark for each in found)) == ids((old,))
    assert resumable(found, NOW) == ()


def test_an_attempt_of_several_pictures_is_one() -> None:
    first = mark()
    second = first.model_copy(update={"index": 1})
    queue = {"queue_running": [waits(second)], "queue_pending": []}
    assert ids(resumable(ours("tower", queue, history((first, 5.0))), NOW)) == ids((first,))


def test_ids_of_prompts_are_their_attempts_and_never_twice() -> None:
    attempt = uuid7()
    made = {prompt_id_of(attempt, index, tries) for index in range(4) for tries in range(3)}
    assert len(made) == 12
    assert prompt_id_of(attempt, 0, 0) == str(attempt)
    assert prompt_id_of(attempt, 2, 1) == prompt_id_of(attempt, 2, 1)
