"""Writes what is made from the contracts and the topology: `python -m anime_common.generate [--check]`.

`docs/schemas/<type>.json`, `docs/asyncapi.yaml`, `docs/events.md`, `docs/errors.md`, `docs/topology.md` and
`tests/contracts/golden/<type>.json`, under the folder given with `--root` (the current one by default). `--check`
writes nothing and fails when a file differs, is missing, or should not be there. Needs PyYAML, which only development
installs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from anime_common import asyncapi, contracts, errors_page, events_page, topology_page, traffic
from anime_common.examples import COMMAND, EXAMPLE_TIME, example
from anime_common.messages import REGISTRY, Kind, Message, Outgoing, ce_headers
from anime_common.schemas import batch_file_schema, message_schema

SCHEMAS = Path("docs/schemas")
GOLDEN = Path("tests/contracts/golden")
FULL_FOLDERS = (SCHEMAS, GOLDEN)
"""Folders that hold nothing but generated files."""


def documents() -> dict[Path, str]:
    """Every generated file by its path under the root of the repository."""
    assert contracts.__all__, "importing the contracts fills the registry"
    examples = {name: golden(cls) for name, cls in sorted(REGISTRY.items())}
    found = {
        Path("docs/asyncapi.yaml"): _yaml(asyncapi.document()),
        Path("docs/batch.schema.json"): _json(batch_file_schema()),
        Path("docs/topology.md"): topology_page.page(),
        Path("docs/events.md"): events_page.page(examples),
        Path("docs/errors.md"): errors_page.page(),
    }
    for name, shown in examples.items():
        found[SCHEMAS / f"{name}.json"] = _json(message_schema(REGISTRY[name]))
        found[GOLDEN / f"{name}.json"] = _json(shown)
    return found


def golden(cls: type[Message]) -> dict[str, Any]:
    """An example of a message as it travels: subject, headers (of stored ones) and body."""
    message = example(cls)
    extra = {"client": "tower"} if cls.kind is Kind.COMMAND and "{client}" in cls.subject else {}
    found: dict[str, Any] = {"subject": message.subject_for(**extra)}
    if cls.kind.stored:
        found["headers"] = _headers(message, tuple(extra.items()))
    return found | {"body": json.loads(message.body())}


def _headers(message: Message, extra: tuple[tuple[str, str], ...]) -> dict[str, str]:
    source = dict(extra).get("client") or traffic.senders(type(message))[0].name
    elsewhere = {"command_id": COMMAND, "epoch": 1, "version": 4}
    known = {name: value for name, value in elsewhere.items() if name not in type(message).model_fields}
    return ce_headers(Outgoing(message, message.ident(**known), extra), source=source, now=EXAMPLE_TIME)


def stale(root: Path, wanted: Mapping[Path, str]) -> list[str]:
    """What is wrong with the files on disk, a line each."""
    wrong = []
    for path, text in wanted.items():
        there = root / path
        if not there.exists():
            wrong.append(f"{path} is missing")
        elif there.read_text(encoding="utf-8") != text:
            wrong.append(f"{path} is stale")
    return wrong + [f"{path} should not be there" for path in surplus(root, wanted)]


def surplus(root: Path, wanted: Mapping[Path, str]) -> list[Path]:
    """Files in the generated folders that nothing makes any more."""
    present = [path for folder in FULL_FOLDERS for path in sorted((root / folder).glob("*"))]
    return [path.relative_to(root) for path in present if path.relative_to(root) not in wanted]


def write(root: Path, wanted: Mapping[Path, str]) -> None:
    """Write every file, and remove those that nothing makes any more."""
    for path in surplus(root, wanted):
        (root / path).unlink()
    for path, text in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks, and everything in full rather than by alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Always."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    head = "# Made from the contracts and the topology by `make generated`: do not edit.\n"
    return head + yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m anime_common.generate", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository")
    options = parser.parse_args()
    wanted = documents()
    if not options.check:
        write(options.root, wanted)
        return 0
    wrong = stale(options.root, wanted)
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    if wrong:
        sys.stderr.write("run `make generated` and commit what it writes\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
