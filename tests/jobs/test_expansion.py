"""What a batch stands for: which jobs, in which order, under which labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anime_common.contracts.batches import Axis, Choice, Dynamic, NewBatch, Sheet
from anime_common.outcomes import Refused
from anime_jobs.dynamic import DynamicPrompts
from anime_jobs.expansion import LABEL, Plan, expand, sheet_plan

DAY = date(2026, 3, 1)


def plain(text: str, _limit: int) -> Sequence[str]:
    return (text,)


def plan(limit: int = 1000, *, variants: Any = plain, **fields: Any) -> Plan:
    if "prompts" not in fields and "request" not in fields:
        fields["request"] = {"prompt": "1girl"}
    return expand(NewBatch.model_validate({"request": {}, **fields}), variants, limit)


def prompts(found: Plan) -> list[str]:
    return [cell.request.prompt for cell in found.cells]


def refusal(*, limit: int = 1000, variants: Any = plain, **fields: Any) -> tuple[int, str, str | None]:
    with pytest.raises(Refused) as found:
        plan(limit, variants=variants, **fields)
    return found.value.status, found.value.code, found.value.field


class TestMatrix:
    def test_a_list_of_prompts(self) -> None:
        found = plan(prompts=["a", "b"])
        assert prompts(found) == ["a", "b"]
        assert found.axes == (Axis(name="prompt", values=("a", "b")),)

    def test_variables_stand_in_every_text_the_last_turning_quickest(self) -> None:
        request = {
            "prompt": "{hair}, {scene}",
            "negative_prompt": "no {hair}",
            "scene": "{scene}",
            "characters": [{"character": "yuki", "words": "in the {scene}"}],
        }
        found = plan(request=request, variables={"hair": ["red", "blue"], "scene": ["park", "roof"]})
        assert prompts(found) == ["red, park", "red, roof", "blue, park", "blue, roof"]
        last = found.cells[-1]
        assert (last.request.negative_prompt, last.request.scene) == ("no blue", "roof")
        assert last.request.characters[0].words == "in the roof"
        assert last.labels == {"hair": "blue", "scene": "roof"}
        assert [axis.name for axis in found.axes] == ["hair", "scene"]

    def test_everything_is_combined(self) -> None:
        found = plan(
            prompts=["a {x}", "b {x}"],
            variables={"x": ["1", "2"]},
            casts=[["yuki"], ["yuki", {"character": "mio", "version": 2}]],
            vary={"steps": [4, 12], "guidance": [2.5]},
            seeds=[7, 8],
        )
        assert len(found.cells) == 2 * 2 * 2 * 2 * 1 * 2
        assert [(axis.name, axis.values) for axis in found.axes] == [
            ("prompt", ("a {x}", "b {x}")),
            ("x", ("1", "2")),
            ("cast", ("yuki", "yuki + mio@2")),
            ("steps", ("4", "12")),
            ("guidance", ("2.5",)),
            ("seed", ("7", "8")),
        ]
        first, last = found.cells[0], found.cells[-1]
        assert (first.request.prompt, first.request.steps, first.request.seed) == ("a 1", 4, 7)
        assert (last.request.prompt, last.request.steps, last.request.seed) == ("b 2", 12, 8)
        assert [use.character for use in last.request.characters] == ["yuki", "mio"]

    def test_takes_of_one_combination(self) -> None:
        found = plan(request={"prompt": "a", "seed": 5}, count=3)
        assert [(cell.take, cell.labels) for cell in found.cells] == [(n, {"take": str(n + 1)}) for n in range(3)]

    def test_what_the_request_says_is_said_of_all(self) -> None:
        request = {"prompt": "a", "width": 64, "project": "moonlit", "keep_partial": True}
        found = plan(request=request, seeds=[1, 2], not_before="2026-03-01T23:00:00+01:00")
        for cell in found.cells:
            assert (cell.request.width, cell.request.project, cell.request.keep_partial) == (64, "moonlit", True)
            assert cell.request.priority.value == "batch"
            assert cell.request.not_before is not None

    def test_labels_are_short(self) -> None:
        found = plan(prompts=["x" * 500, "y"])
        assert found.axes[0].values == ("x" * LABEL, "y")

    def test_values_that_begin_alike_have_labels_of_their_own(self) -> None:
        same = "a girl with silver hair in a garden of roses, "
        found = plan(prompts=[f"{same}noon", same[:LABEL], f"{same}night", f"{same}noon"], seeds=[1, 2])
        short = same[:LABEL]
        assert found.axes[0].values == (short, f"{short[:-4]} (2)", f"{short[:-4]} (3)")
        assert [cell.labels["prompt"] for cell in found.cells[::2]] == [*found.axes[0].values, short]
        assert {cell.request.prompt for cell in found.cells if cell.labels["prompt"] == short} == {f"{same}noon"}

    def test_variants_that_begin_alike_have_labels_of_their_own(self) -> None:
        ends = ("noon", "night")
        batch = NewBatch.model_validate(
            {"request": {"prompt": "x" * 60}, "dynamic": {"choose": "all"}, "seeds": [1, 2]}
        )
        found = expand(batch, lambda text, _limit: [text + end for end in ends], 10)
        assert found.axes[0].name in {"variant", "seed"}
        values = {cell.request.prompt: cell.labels["variant"] for cell in found.cells}
        assert len(set(values.values())) == len(values) == 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "code", "field"),
        [
            ({"request": {"prompt": "{hair}"}}, "unknown_variable", "request.prompt"),
            ({"prompts": ["a", "{b}"]}, "unknown_variable", "prompts.1"),
            ({"request": {"prompt": "a", "scene": "{b}"}}, "unknown_variable", "request.scene"),
            ({"request": {"prompt": "a"}, "variables": {"b": ["c"]}}, "unused_variable", "variables.b"),
            ({"vary": {"steps": [4, 900]}}, "invalid", "vary.steps"),
            ({"vary": {"sampler": ["nonsense"]}}, "invalid", "vary.sampler"),
            ({"prompts": ["{x}" * 500], "variables": {"x": ["y" * 400]}}, "invalid", "request.prompt"),
            ({"prompts": ["{x}"], "variables": {"x": [" "]}}, "invalid", "request.prompt"),
        ],
    )
    def test_what_cannot_be_is_refused_by_its_field(self, fields: dict[str, Any], code: str, field: str) -> None:
        assert refusal(**fields) == (422, code, field)

    def test_too_large_a_batch_is_refused_before_it_is_made(self) -> None:
        many = {"a": [str(n) for n in range(200)], "b": [str(n) for n in range(200)]}
        request = {"prompt": "{a} {b}"}
        assert refusal(request=request, variables=many)[1] == "batch_too_large"
        assert refusal(request=request, variables=many, count=1000)[1] == "batch_too_large"
        assert refusal(limit=3, seeds=[1, 2, 3, 4])[1] == "batch_too_large"
        assert len(plan(4, seeds=[1, 2, 3, 4]).cells) == 4

    @pytest.mark.parametrize(
        "fields",
        [
            {"request": {}},
            {"request": {"prompt": "a"}, "prompts": ["b"]},
            {"request": {"prompt": "a"}, "seeds": [1], "count": 2},
            {"request": {"prompt": "a"}, "seeds": [1, 1]},
            {"request": {"prompt": "a", "characters": ["x"]}, "casts": [["y"]]},
            {"request": {"prompt": "a"}, "variables": {"two words": ["x"]}},
            {"request": {"prompt": "a"}, "variables": {"x": []}},
            {"request": {"prompt": "a"}, "vary": {"project": ["x"]}},
            {"request": {"prompt": "a"}, "dynamic": {"choose": "random"}},
            {"request": {"prompt": "a"}, "dynamic": {"count": 3}},
            {"request": {"prompt": "a", "unheard": 1}},
        ],
    )
    def test_what_does_not_hold_together_is_no_batch(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            NewBatch.model_validate(fields)


NAMES = st.sampled_from(["hair", "eyes", "scene"])
VALUES = st.lists(st.text(alphabet="abc ", min_size=1).filter(str.strip), min_size=1, max_size=4, unique=True)


@given(variables=st.dictionaries(NAMES, VALUES, max_size=3), count=st.none() | st.integers(1, 3))
def test_there_is_one_job_for_each_combination(variables: dict[str, list[str]], count: int | None) -> None:
    text = "x " + " ".join(f"{{{name}}}" for name in variables)
    found = plan(request={"prompt": text}, variables=variables, count=count)
    assert len(found.cells) == prod(map(len, variables.values())) * (count or 1)
    assert len({(cell.request.prompt, tuple(cell.labels.items())) for cell in found.cells}) == len(found.cells)
    for cell in found.cells:
        assert "{" not in cell.request.prompt
        for axis in found.axes:
            assert cell.labels[axis.name] in axis.values


class TestDynamic:
    def variants(self, text: str, folder: Path | None = None, limit: int = 50, **asked: Any) -> list[str]:
        return list(DynamicPrompts(Dynamic.model_validate(asked), folder).variants(text, limit))

    def test_all_variants_in_order(self) -> None:
        assert self.variants("1girl, {red|blue} {hair|eyes}") == [
            *("1girl, red hair", "1girl, red eyes", "1girl, blue hair", "1girl, blue eyes")
        ]
        assert len(self.variants("{2$$a|b|c}")) == 6

    def test_wildcards_come_from_files(self, tmp_path: Path) -> None:
        (tmp_path / "colours.txt").write_text("red\nblue\n# a comment\n")
        assert sorted(self.variants("__colours__ hair", tmp_path)) == ["blue hair", "red hair"]

    def test_a_seed_chooses_the_same(self) -> None:
        text = "{a|b|c|d|e|f|g|h} {1|2|3|4|5|6|7|8}"
        first = self.variants(text, choose=Choice.RANDOM, count=5, seed=3)
        assert first == self.variants(text, choose=Choice.RANDOM, count=5, seed=3)
        assert 1 <= len(first) <= 5
        assert first != self.variants(text, choose=Choice.RANDOM, count=5, seed=4)

    @pytest.mark.parametrize(
        "text", ["50% grey, {a|b}", "#1 fan, {a|b}", "a$b {a|b}", "(x:1.2) [y] <lora:z:1> {a|b}", "夜空 “q” {a|b}"]
    )
    def test_what_is_text_to_people_stays_text(self, text: str) -> None:
        assert self.variants(text) == [text.replace("{a|b}", "a"), text.replace("{a|b}", "b")]

    def test_a_prompt_without_any_is_itself(self) -> None:
        for text in ("1girl, 100% cotton # x", "o_o", "a } b"):
            assert self.variants(text) == [text]

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("{unclosed", "bad_dynamic_prompt"),
            ("{" * 21 + "a" + "}" * 21, "bad_dynamic_prompt"),
            ("__nowhere__", "unknown_wildcard"),
            ("__../../secret__", "unknown_wildcard"),
            ("__sub/../../secret__", "unknown_wildcard"),
        ],
    )
    def test_mistakes_are_told(self, tmp_path: Path, text: str, code: str) -> None:
        (tmp_path / "secret.txt").write_text("x")
        (folder := tmp_path / "wildcards").mkdir()
        for where in (folder, None):
            with pytest.raises(Refused) as found:
                self.variants(text, where)
            assert (found.value.status, found.value.code, found.value.field) == (422, code, "prompt")

    def test_more_than_there_may_be_are_not_made(self) -> None:
        assert len(self.variants("{a|b}" * 40, limit=11)) == 11

    def test_a_batch_of_them(self) -> None:
        reader = DynamicPrompts(Dynamic())
        found = plan(
            variants=reader.variants,
            request={"prompt": "{who}, {red|blue} hair"},
            variables={"who": ["1girl", "1boy"]},
            dynamic={},
        )
        assert prompts(found) == ["1girl, red hair", "1girl, blue hair", "1boy, red hair", "1boy, blue hair"]
        assert (
            refusal(limit=3, variants=reader.variants, request={"prompt": "{a|b|c|d}"}, dynamic={})[1]
            == "batch_too_large"
        )


class TestSheets:
    AXES = (
        Axis(name="prompt", values=("a",)),
        Axis(name="hair", values=("red", "blue")),
        Axis(name="steps", values=("4", "12")),
        Axis(name="seed", values=("1", "2")),
    )

    def test_the_first_two_axes_that_differ_go_across_and_down(self) -> None:
        found = sheet_plan(self.AXES, Sheet(), "Test", DAY)
        assert (found.column_axis, found.columns, found.row_axis, found.rows) == (
            *("hair", ("red", "blue")),
            *("steps", ("4", "12")),
        )

    def test_or_those_that_are_named(self) -> None:
        found = sheet_plan(self.AXES, Sheet(rows="hair"), "Test", DAY)
        assert (found.column_axis, found.row_axis) == ("steps", "hair")
        found = sheet_plan(self.AXES, Sheet(columns="seed"), "Test", DAY)
        assert (found.column_axis, found.row_axis) == ("seed", "hair")
        with pytest.raises(Refused) as refused:
            sheet_plan(self.AXES, Sheet(rows="eyes"), "Test", DAY)
        assert refused.value.field == "sheet.rows"

    def test_one_job_has_none(self) -> None:
        found = sheet_plan((), Sheet(), "Test", DAY)
        assert (found.columns, found.rows) == ((), ())
