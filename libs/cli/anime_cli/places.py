"""Where finished pictures lie, as far as this machine can tell."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from anime_cli.stack_file import read_stack_file
from anime_common.artifact_keys import checked
from anime_common.contracts.vocabulary import Output


def folder_of(artifacts_url: str) -> Path | None:
    """The folder of a `file://` store; None for any other."""
    parts = urlsplit(artifacts_url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def place_of(output: Output, url: str, home: Path) -> str:
    """The path of a filed picture when the gateway at `url` is this home's, else the address that serves it."""
    stack = read_stack_file(home)
    if stack is not None and stack.url.rstrip("/") == url.rstrip("/"):
        folder = folder_of(stack.artifacts_url)
        if folder is not None and (path := folder / checked(output.key)).exists():
            return str(path)
    return f"{url}/api/anime/files/{output.file_id}/content"
