"""What the reply subject of a delivered message tells."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from anime_common.pull import Pulled


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.ANIME_LEDGER.files-ledger.3.77.42.1767225600000000000.5",
        "$JS.ACK._.ACCHASH.ANIME_LEDGER.files-ledger.3.77.42.1767225600000000000.5",
        "$JS.ACK.hub.ACCHASH.ANIME_LEDGER.files-ledger.3.77.42.1767225600000000000.5.token",
    ],
)
def test_both_forms_of_the_ack_subject(reply: str) -> None:
    pulled = Pulled("anime.evt.jobs.filing.x", {}, b"", reply)
    assert (pulled.deliveries, pulled.stream_sequence) == (3, 77)
    assert pulled.stored_at == datetime(2026, 1, 1, tzinfo=UTC)
