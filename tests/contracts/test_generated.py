"""What is generated from the contracts is committed and fresh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from anime_common import generate, topology, traffic
from anime_common.messages import REGISTRY
from anime_gateway.app import openapi

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_stale_missing_or_left_over() -> None:
    assert generate.stale(ROOT, generate.documents()) == [], "run `make generated`"


def test_the_openapi_document_is_that_of_the_gateway() -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert committed == openapi(), "run `make generated`"


def test_check_sees_a_stale_a_missing_and_a_surplus_file(tmp_path: Path) -> None:
    wanted = {Path("docs/topology.md"): "new", generate.SCHEMAS / "a.json": "{}"}
    generate.write(tmp_path, wanted)
    assert generate.stale(tmp_path, wanted) == []
    (tmp_path / "docs/topology.md").write_text("old")
    (tmp_path / generate.SCHEMAS / "a.json").rename(tmp_path / generate.SCHEMAS / "b.json")
    assert generate.stale(tmp_path, wanted) == [
        "docs/topology.md is stale",
        "docs/schemas/a.json is missing",
        "docs/schemas/b.json should not be there",
    ]
    generate.write(tmp_path, wanted)
    assert generate.stale(tmp_path, wanted) == []


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())
    return found


class TestAsyncApi:
    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        references = list(_references(document))
        assert len(references) > 200
        for reference in references:
            if reference.startswith("#/"):
                place: Any = document
                for step in reference[2:].split("/"):
                    place = place[step]
            else:
                assert (ROOT / "docs" / reference).is_file(), reference

    def test_every_message_is_sent_and_read_by_somebody(self, document: dict[str, Any]) -> None:
        operations = document["operations"]
        for name, cls in REGISTRY.items():
            channel = f"#/channels/{cls.wire}"
            actions = {each["action"] for each in operations.values() if each["channel"]["$ref"] == channel}
            assert actions == {"send", "receive"}, name

    def test_every_question_is_asked_and_answered_by_its_owner(self) -> None:
        for rpc in traffic.rpcs():
            assert [user.name for user in traffic.answerers(rpc)] == [rpc.owner]
            # What an instance is asked is between services: no person names a worker to count tokens.
            assert (topology.GATEWAY in traffic.askers(rpc)) == (not rpc.instance)

    def test_parameters_are_those_of_the_address(self, document: dict[str, Any]) -> None:
        for channel in document["channels"].values():
            holes = {token[1:-1] for token in (channel["address"] or "").split(".") if token.startswith("{")}
            assert set(channel.get("parameters", {})) == holes


class TestOverlap:
    @pytest.mark.parametrize(
        ("one", "other", "overlaps"),
        [
            ("anime.evt.>", "anime.evt.jobs.queued.{job_id}", True),
            ("anime.cmd.jobs.submit.tower", "anime.cmd.jobs.submit.{client}", True),
            ("anime.cmd.jobs.submit.tower", "anime.cmd.jobs.cancel.{client}", False),
            ("anime.rpc.*.*", "anime.rpc.jobs.get", True),
            ("anime.rpc.*", "anime.rpc.jobs.get", False),
            ("anime.evt.files.>", "anime.evt.jobs.queued.{job_id}", False),
        ],
    )
    def test_both_ways(self, one: str, other: str, overlaps: bool) -> None:
        assert traffic.overlap(one, other) is overlaps
        assert traffic.overlap(other, one) is overlaps


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [each for child in value.values() for each in _references(child)]
    return [each for child in value for each in _references(child)] if isinstance(value, list) else []
