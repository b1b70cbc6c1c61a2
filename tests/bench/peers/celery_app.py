"""Celery with a task that does nothing; runs in the peers' own environment, on the server at BENCH_REDIS_URL.

`submit N` sends N tasks and tells how long that took; `results` tells how many have succeeded, and when each ended.
With BENCH_CELERY_SAFE a task is acknowledged after it ran, and a worker's process takes one at a time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime

from celery import Celery
from redis import Redis

URL = os.environ["BENCH_REDIS_URL"]
RESULTS = "celery-task-meta-*"

app = Celery("bench", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
if os.environ.get("BENCH_CELERY_SAFE"):
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.worker_prefetch_multiplier = 1


def nothing() -> None:
    """The no-op task."""


task = app.task(name="nothing")(nothing)


def submit(jobs: int) -> None:
    began = time.time()
    for _ in range(jobs):
        task.apply_async()
    print(json.dumps({"began": began, "seconds": time.time() - began}))


def results() -> None:
    store = Redis.from_url(URL)
    keys = list(store.scan_iter(RESULTS, count=1000))
    found = [json.loads(value) for value in (store.mget(keys) if keys else ()) if value is not None]
    ends = [datetime.fromisoformat(each["date_done"]) for each in found if each["status"] == "SUCCESS"]
    print(json.dumps({"ends": [(end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp() for end in ends]}))


if __name__ == "__main__":
    if sys.argv[1] == "submit":
        submit(int(sys.argv[2]))
    else:
        results()
