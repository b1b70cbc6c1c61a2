"""`python -m anime_generator.registry check|inspect`: says as JSON what `anime models check` and `add` tell people.

A program, so that the command line asks the generator that is installed instead of knowing its insides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anime_generator.engines import LOCAL
from anime_generator.registry.check import check, inspect


def main(argv: list[str] | None = None) -> int:
    """Print one JSON document; exit status 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m anime_generator.registry", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="look at everything that a registry names")
    checking.add_argument("file", nargs="?", type=Path, help="the owner's models.toml; default: the shipped one alone")
    inspecting = commands.add_parser("inspect", help="look at one file")
    inspecting.add_argument("file", type=Path)
    inspecting.add_argument("--family", default="", help="its family, when the file does not tell")
    options = parser.parse_args(argv)
    checked = options.command == "check"
    report = check(options.file, LOCAL) if checked else inspect(options.file, options.family)
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
