"""Which files of a prompt are taken: those of the nodes that count, under the attempt's own prefix, or none."""

from __future__ import annotations

import pytest

from anime_common.messages import uuid7
from anime_generator.comfyui import faults
from anime_generator.comfyui.outputs import files_of, prefix_of
from anime_generator.comfyui.records import File, Prompt, Where, ended
from anime_generator.engines.protocol import EngineError
from tests.comfyui.recordings import scripts

ATTEMPT = uuid7()
PREFIX = prefix_of(ATTEMPT, 0)


def written(
    node: str = "9", name: str = "00_00001_.png", folder: str = f"tower/{ATTEMPT}", place: str = "output"
) -> File:
    return File(node, "images", name, folder, place)


def taken(*files: File) -> tuple[File, ...]:
    return files_of(Prompt(Where.ENDED, files=files), frozenset({"9"}), PREFIX)


def refusal(*files: File) -> str:
    with pytest.raises(EngineError) as caught:
        taken(*files)
    assert not caught.value.retryable
    return caught.value.code


def test_the_files_of_the_nodes_that_count_are_taken_in_their_order() -> None:
    first, second = written(), written(name="00_00002_.png")
    assert taken(written(node="12"), first, second) == (first, second)
    assert taken(written(folder=f"tower\\{ATTEMPT}")) == (written(folder=f"tower\\{ATTEMPT}"),)


def test_previews_count_only_where_nothing_else_was_written() -> None:
    shown = written(name="ComfyUI_temp_x.png", folder="", place="temp")
    assert taken(shown, written()) == (written(),)
    assert taken(shown) == (shown,)


def test_a_file_of_another_job_is_never_taken() -> None:
    assert refusal(written(folder=f"tower/{uuid7()}")) == faults.FOREIGN_OUTPUT
    assert refusal(written(name="01_00001_.png")) == faults.FOREIGN_OUTPUT
    recorded = ended(scripts("b_success_same_seed_cached_mini")[0].history or {})
    assert refusal(*recorded.files) == faults.FOREIGN_OUTPUT


def test_no_file_is_an_error() -> None:
    assert refusal() == faults.NO_OUTPUT
    assert refusal(written(node="12")) == faults.NO_OUTPUT
