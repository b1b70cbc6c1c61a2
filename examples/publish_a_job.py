"""Makes a picture from another service, over NATS alone: submits a job and follows it to its end.

Needs nothing but nats-py (`pip install nats-py`); the message is docs/schemas/anime.jobs.submit.v1.json.

    python examples/publish_a_job.py "1girl, blue hair, smile" --url nats://127.0.0.1:4222

`tower` is the bus user for other services of this server. It may publish commands under its own name and read every
event, and nothing else. Exit status: 0 the pictures are filed, 1 the job failed or was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

USER = "tower"
ENDED = {"completed", "failed", "cancelled"}


async def main() -> int:
    """Submit, follow, say where the pictures are; returns the exit status."""
    options = arguments()
    password = options.password_file.read_text().strip()
    # Each user may hear answers only under an inbox prefix of its own.
    bus = await nats.connect(options.url, user=USER, password=password, inbox_prefix=f"_INBOX_{USER}".encode())
    try:
        job_id, command_id = uuid.uuid4(), uuid.uuid4()
        # First listen, then ask: otherwise the first events could pass unheard.
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await listen(bus, f"anime.evt.jobs.*.{job_id}", heard)
        await listen(bus, f"anime.evt.jobs.command_refused.{command_id}", heard)
        await submit(bus, job_id, command_id, {"prompt": options.prompt, **json.loads(options.settings)})
        return await follow(heard)
    finally:
        await bus.close()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a picture over NATS.")
    parser.add_argument("prompt")
    parser.add_argument("--url", default="nats://127.0.0.1:4222")
    parser.add_argument("--password-file", type=Path, default=Path(".anime/secrets/nats-tower"))
    parser.add_argument("--settings", default="{}", help="more of the request as JSON, such as '{\"seed\": 7}'")
    return parser.parse_args()


async def listen(bus: Client, subject: str, heard: asyncio.Queue[dict[str, Any]]) -> None:
    """Put the body of every message of a subject into a queue."""

    async def on_message(message: Any) -> None:
        await heard.put(json.loads(message.data))

    await bus.subscribe(subject, cb=on_message)


async def submit(bus: Client, job_id: uuid.UUID, command_id: uuid.UUID, request: dict[str, Any]) -> None:
    """Have the command stored. The same ids make repeating it harmless, so it is repeated until that is certain."""
    body = json.dumps({"job_id": str(job_id), "request": request}).encode()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(command_id),
        "ce-type": "anime.jobs.submit.v1",
        "ce-source": f"/{USER}/example",
        "ce-time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
        "Nats-Msg-Id": str(command_id),
    }
    for _ in range(10):
        try:
            answer = await bus.request(f"anime.cmd.jobs.submit.{USER}", body, headers=headers, timeout=2)
        except (NatsTimeoutError, NoRespondersError):
            await asyncio.sleep(0.5)
            continue
        stored = json.loads(answer.data)
        if "error" in stored:
            raise SystemExit(f"the stream refused the command: {stored['error']['description']}")
        print(f"job {job_id} is stored in {stored['stream']} as {stored['seq']}", flush=True)
        return
    raise SystemExit("the stream did not confirm the command")


async def follow(heard: asyncio.Queue[dict[str, Any]]) -> int:
    """Print what becomes of the job until it has ended; returns the exit status."""
    while True:
        event = await heard.get()
        job = event.get("job")
        if job is None:
            field = f"{event['field']}: " if event.get("field") else ""
            print(f"refused ({event['status']} {event['code']}): {field}{event['message']}", file=sys.stderr)
            return 1
        print(f"{job['code']} {job['state']}", flush=True)
        if job["state"] in ENDED:
            for output in job["outputs"]:
                print(f"picture: {output['key']}")
            if job.get("error"):
                print(job["error"]["message"], file=sys.stderr)
            return 0 if job["state"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
