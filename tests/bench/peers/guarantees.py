"""What we and the peers promise of a job, as each documents it."""

from __future__ import annotations

from tests.bench.tables import Table

GUARANTEES = Table(
    ("", "Tower Anime Production", "procrastinate", "Celery, acks_late, appendfsync always", "Celery, its defaults"),
    (
        ("on disk before a submit is answered", "yes", "yes", "yes", "no"),
        (
            "a worker gets SIGKILL",
            "tried again by itself",
            "tried again if the application retries stalled jobs",
            "tried again: at once for one process, after the visibility timeout (1 h) for all",
            "what it ran is lost",
        ),
        ("the server loses power", "nothing is lost", "nothing is lost", "nothing is lost", "minutes may be lost"),
        (
            "how often a job's state ends",
            "once: guarded row, inbox, fencing",
            "once: guarded row",
            "may run and end twice",
            "at most once",
        ),
        (
            "what is kept of it",
            "row, history of attempts, events, file",
            "row and events",
            "a result that expires",
            "a result that expires",
        ),
        ("live progress, resumable events", "yes", "no", "states of one's own", "states of one's own"),
        ("files, verified and filed once", "yes", "no", "no", "no"),
        (
            "what a job is here",
            "5 services, about 10 stored messages, a PNG staged, verified and filed, with fsync each time",
            "a call of a function",
            "a call of a function",
            "a call of a function",
        ),
    ),
    "What each side promises",
)
