"""Writes docs/openapi.json from the gateway: `python tools/generate_openapi.py [--check]`.

`--check` writes nothing and fails when the file is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anime_gateway.app import openapi

TARGET = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    options = parser.parse_args()
    text = json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n"
    if not options.check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{TARGET} is stale: run `make generated` and commit what it writes\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
