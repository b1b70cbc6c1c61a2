"""The message base: subjects, the CloudEvents binding, and errors that name what is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import CancelJob, CommandRefused, SubmitJob
from anime_common.messages import (
    REGISTRY,
    TOKEN,
    Envelope,
    Kind,
    Message,
    Outgoing,
    Undecodable,
    ce_headers,
    decode,
    read_envelope,
    subject_matches,
    uuid7,
)

JOB = UUID("0198c0de-0000-7000-8000-000000000001")
SUBMIT = SubmitJob(job_id=JOB, request=GenerationRequest(prompt="1girl, blue hair"))
OUT = Outgoing(SUBMIT, "0198c0de-0000-7000-8000-0000000000aa", extra=(("client", "tower"),))
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))


def envelope(**changes: str) -> Envelope:
    headers = ce_headers(OUT, source="tower", now=NOW) | changes
    return read_envelope(OUT.subject, {name: value for name, value in headers.items() if value != "absent"})


class TestSubjects:
    def test_fields_and_extras_fill_the_template(self) -> None:
        assert OUT.subject == "anime.cmd.jobs.submit.tower"
        assert CancelJob(job="abcd1234").subject_for(client="gateway") == "anime.cmd.jobs.cancel.gateway"

    @pytest.mark.parametrize("client", ["", "a.b", "a b", "Tower", "*", ">", "a" * 65, "ü", "a\n"])
    def test_what_is_no_token_is_refused_by_name(self, client: str) -> None:
        with pytest.raises(ValueError, match="client = "):
            SUBMIT.subject_for(client=client)

    @given(st.text())
    def test_a_subject_never_gets_more_tokens_than_its_template(self, client: str) -> None:
        try:
            subject = SUBMIT.subject_for(client=client)
        except ValueError:
            return
        assert subject.count(".") == SubmitJob.subject.count(".")
        assert TOKEN.fullmatch(subject.rsplit(".", 1)[-1])

    @pytest.mark.parametrize(
        ("template", "subject", "fits"),
        [
            ("anime.cmd.jobs.submit.{client}", "anime.cmd.jobs.submit.tower", True),
            ("anime.cmd.jobs.submit.{client}", "anime.cmd.jobs.submit", False),
            ("anime.cmd.jobs.submit.{client}", "anime.cmd.jobs.submit.tower.x", False),
            ("anime.cmd.*.submit.*", "anime.cmd.jobs.submit.tower", True),
            ("anime.cmd.>", "anime.cmd.jobs.submit.tower", True),
            ("anime.cmd.>", "anime.cmd", False),
            ("anime.tel.queue", "anime.tel.queue", True),
            ("anime.tel.queue", "anime.tel.queues", False),
        ],
    )
    def test_matching(self, template: str, subject: str, fits: bool) -> None:
        assert subject_matches(template, subject) is fits


class TestRegistry:
    def test_a_wire_name_cannot_be_declared_twice(self) -> None:
        with pytest.raises(TypeError, match=r"anime\.jobs\.submit\.v1 is declared twice"):

            class _Again(Message, wire="jobs.submit", kind=Kind.COMMAND, subject="anime.cmd.jobs.again.{client}"):
                pass

        assert REGISTRY["anime.jobs.submit.v1"] is SubmitJob

    def test_a_wire_name_needs_kind_and_subject(self) -> None:
        with pytest.raises(TypeError, match="needs wire, kind and subject"):

            class _Half(Message, wire="jobs.half"):
                pass

        assert "anime.jobs.half.v1" not in REGISTRY


class TestEnvelope:
    def test_headers_carry_the_cloudevents_attributes(self) -> None:
        assert ce_headers(OUT, source="tower", now=NOW, traceparent="00-abc") == {
            "ce-specversion": "1.0",
            "ce-id": OUT.id,
            "ce-type": "anime.jobs.submit.v1",
            "ce-source": "/anime/tower",
            "ce-time": "2026-03-01T11:00:00.123+00:00",
            "content-type": "application/json",
            "Nats-Msg-Id": OUT.id,
            "traceparent": "00-abc",
        }

    def test_reads_what_was_written(self) -> None:
        assert envelope() == Envelope(
            OUT.id,
            "anime.jobs.submit.v1",
            "/anime/tower",
            OUT.subject,
            datetime(2026, 3, 1, 11, 0, 0, 123000, tzinfo=UTC),
        )
        assert envelope().last_token == "tower"

    def test_names_of_headers_are_read_in_any_case(self) -> None:
        found = read_envelope("anime.cmd.x", {"Ce-Id": "1", "CE-TYPE": "t", "Traceparent": "00-abc"})
        assert (found.id, found.type, found.traceparent) == ("1", "t", "00-abc")

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"ce-id": "absent"}, "ce-id"),
            ({"ce-id": ""}, "ce-id"),
            ({"ce-id": "x" * 513}, "ce-id"),
            ({"ce-id": "nul\0"}, "ce-id"),
            ({"ce-specversion": "0.3"}, "ce-specversion"),
            ({"ce-type": "absent"}, "ce-type"),
            ({"ce-type": ""}, "ce-type"),
            ({"ce-time": "yesterday"}, "ce-time"),
        ],
    )
    def test_a_bad_attribute_is_named(self, changes: dict[str, str], field: str) -> None:
        with pytest.raises(Undecodable) as caught:
            envelope(**changes)
        assert caught.value.field == field
        assert field in str(caught.value)

    def test_no_headers_at_all(self) -> None:
        with pytest.raises(Undecodable) as caught:
            read_envelope("anime.cmd.jobs.submit.tower", None)
        assert caught.value.field == "ce-id"

    @given(st.dictionaries(st.text(), st.text()))
    def test_any_headers_are_read_or_refused(self, headers: dict[str, str]) -> None:
        try:
            read_envelope("anime.cmd.jobs.submit.tower", headers)
        except Undecodable as error:
            assert error.field  # noqa: PT017 - most headers are refused, some are not


class TestDecode:
    def test_the_message_comes_back(self) -> None:
        assert decode(envelope(), SUBMIT.body()) == SUBMIT

    def test_unknown_fields_of_an_event_are_ignored(self) -> None:
        event = CommandRefused(command_id="c", client="tower", status=404, code="not_found", message="none")
        body = json.loads(event.body()) | {"from_the_future": 1}
        found = Envelope("1", event.ce_type(), "/anime/jobs", event.subject_for())
        assert decode(found, json.dumps(body).encode()) == event

    def test_unknown_fields_of_a_command_are_refused_by_name(self) -> None:
        body = json.loads(SUBMIT.body()) | {"from_the_future": 1}
        with pytest.raises(Undecodable) as caught:
            decode(envelope(), json.dumps(body).encode())
        assert caught.value.field == "from_the_future"

    def test_unknown_fields_of_a_request_are_refused_by_name(self) -> None:
        body = json.loads(SUBMIT.body())
        body["request"]["promt"] = "typing mistake"
        with pytest.raises(Undecodable) as caught:
            decode(envelope(), json.dumps(body).encode())
        assert caught.value.field == "request.promt"

    def test_an_unknown_type_or_version(self) -> None:
        with pytest.raises(Undecodable, match=r"unknown message type 'anime\.jobs\.submit\.v9'"):
            decode(envelope(**{"ce-type": "anime.jobs.submit.v9"}), SUBMIT.body())

    def test_a_type_on_a_subject_that_is_not_its_own(self) -> None:
        with pytest.raises(Undecodable, match=r"does not belong on anime\.cmd\.jobs\.submit\.tower"):
            decode(envelope(**{"ce-type": "anime.jobs.cancel.v1"}), CancelJob(job="abcd1234").body())

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b"", ""),
            (b"{", ""),
            (b"[]", ""),
            (b"\xff\xfe", ""),
            (b"{}", "job_id"),
            (b'{"job_id": "x", "request": {"prompt": "a"}}', "job_id"),
            (b'{"job_id": "%b", "request": {"prompt": "a", "steps": "20"}}', "request.steps"),
            (b'{"job_id": "%b", "request": {"prompt": "a", "guidance": NaN}}', "request.guidance"),
            (b'{"job_id": "%b", "request": {"prompt": "a\\u0000b"}}', "request.prompt"),
            (b'{"job_id": "%b", "request": {"prompt": "  "}}', "request.prompt"),
        ],
    )
    def test_a_bad_body_names_the_first_bad_field(self, body: bytes, field: str) -> None:
        with pytest.raises(Undecodable) as caught:
            decode(envelope(), body.replace(b"%b", str(JOB).encode()))
        assert caught.value.field == field
        assert field in str(caught.value)

    @given(st.binary())
    def test_any_bytes_are_decoded_or_refused(self, body: bytes) -> None:
        try:
            decode(envelope(), body)
        except Undecodable:
            return
        raise AssertionError(body)


class TestUuid7:
    def test_version_variant_and_time(self) -> None:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        made = uuid7(at)
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert made.int >> 80 == int(at.timestamp() * 1000)

    def test_ids_of_later_times_sort_later(self) -> None:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        made = [uuid7(at + timedelta(milliseconds=step)) for step in range(50)]
        assert made == sorted(made)

    def test_ids_of_one_moment_differ(self) -> None:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        assert len({uuid7(at) for _ in range(1000)}) == 1000
