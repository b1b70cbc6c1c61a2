"""Publishing from another service as the documentation shows it: the example, and the commands of the nats program."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from anime_common.contracts.jobs import CancelJob, SubmitJob
from anime_common.messages import Message, decode, read_envelope
from anime_common.topology import TOWER
from tests.docs.markdown import read
from tests.stacks import PROGRAMS, ROOT, Product

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = read(ROOT / "docs" / "publish-from-another-service.md")


async def test_the_example_prints_what_is_shown(noop: Product) -> None:
    (command,) = PAGE.commands("python")
    words = [sys.executable, str(ROOT / shlex.split(command)[1]), *shlex.split(command)[2:]]
    # The defaults of the example are those of a stack in the working directory, with its usual ports.
    places = ["--url", noop.nats.url, "--password-file", str(noop.nats.password_file("tower"))]
    status, out, err = await noop.run(*words, *places)
    assert status == 0, err
    assert shape(out) == shape(PAGE.block("", "is stored in").text)


def shape(printed: str) -> list[str]:
    """What is printed, without what differs each time: ids, codes, numbers, dates."""
    text = re.sub(r"job [0-9a-f]{8}-\S+", "job ID", printed)
    return [re.sub(r"^\w{8} |\w{8}_|\d+-\d+-\d+|\d+$", "~", line) for line in text.strip().splitlines()]


async def test_what_the_nats_command_is_told_does_what_it_says(noop: Product, tmp_path: Path) -> None:
    """The shell runs the commands with a `nats` that notes its arguments; what it was to publish is then published."""
    context, submit, cancel = await noted(tmp_path, noop.nats.password_file("tower"))
    assert context[:3] == ["context", "save", TOWER.name]
    assert option(context, "--user") == TOWER.name
    assert option(context, "--password") == noop.nats.password_file("tower").read_text().strip()
    assert option(context, "--inbox-prefix") == TOWER.inbox
    job_id = await published(noop, submit, SubmitJob)
    await noop.until(job_id, "queued", "dispatched", "running", "filing", "completed")
    assert (await noop.job(job_id))["client"] == TOWER.name
    await published(noop, cancel, CancelJob)
    assert await noop.until(job_id, "cancelled", "completed")


async def noted(folder: Path, password: Path) -> list[list[str]]:
    """The arguments of each run of `nats` in the shell blocks of the document, without the subscription."""
    notes = folder / "notes"
    program = folder / "nats"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open({str(notes)!r}, 'a'))\n"
    )
    program.chmod(0o755)
    (folder / ".anime" / "secrets").mkdir(parents=True)
    (folder / ".anime" / "secrets" / "nats-tower").symlink_to(password)
    script = "\n".join(block.text for block in PAGE.blocks if block.language == "sh" and "nats " in block.text)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", f"{script}\nwait"), cwd=folder, env={"PATH": f"{folder}:{PROGRAMS}:/usr/bin:/bin"}
    )
    assert await asyncio.wait_for(process.wait(), 30) == 0
    calls: list[list[str]] = [json.loads(line) for line in notes.read_text().splitlines()]
    return [call for call in calls if call[0] != "sub"]


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


async def published(noop: Product, call: list[str], expected: type[Message]) -> str:
    """Publish what `nats request` was told to, as the user it was told to be; the job it names."""
    verb, subject, body, *options = call
    assert verb == "request"
    headers = dict(value.split(":", 1) for flag, value in zip(options[::2], options[1::2], strict=True) if flag == "-H")
    assert len(headers) == len(options) / 2
    message = decode(read_envelope(subject, headers), body.encode())
    assert isinstance(message, expected)
    async with noop.bus(TOWER) as bus:
        await bus.store(subject, headers, body.encode())
    return str(json.loads(body).get("job_id") or json.loads(body)["job"])
