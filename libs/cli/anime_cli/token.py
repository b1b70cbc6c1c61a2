"""`anime token`: access tokens of the gateway. Changes the file that the gateway reads, on the gateway's machine."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from anime_cli import render
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Yes, confirm, run, show_json
from anime_cli.secret_files import write_private
from anime_cli.settings import ClientSettings, tokens_file
from anime_common.settings import load
from anime_common.tokens import AccessToken, Scope, TokenFile, TokensUnreadable, mint, read_tokens

app = typer.Typer(no_args_is_help=True, help="Access tokens, for a gateway that others can reach.")

_LIFE = re.compile(r"([1-9][0-9]{0,4})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}

Name = Annotated[str, typer.Argument(help="Who or what it is for: a-z, 0-9, dots, dashes.", show_default=False)]
Ref = Annotated[str, typer.Argument(help="Name or id of a token.", show_default=False)]
May = Annotated[Scope, typer.Option("--scope", help="read: look; submit: make things too; admin: delete too.")]
Expires = Annotated[
    str | None, typer.Option("--expires", help="How long it is good: 12h, 90d, 8w, 1y; default: until revoked.")
]


@app.command()
def create(name: Name, *, scope: May = Scope.SUBMIT, expires: Expires = None, as_json: Json = False) -> None:
    """Make a token and print it, this once: only its hash is kept."""

    async def work() -> tuple[AccessToken, str]:
        now = datetime.now(UTC)
        life = _life(expires)
        try:
            kept, secret = mint(name, scope, now, now + life if life is not None else None)
        except ValidationError as error:
            text = "use a-z, 0-9, dots, dashes and underscores; at most 64, a letter or digit first and last"
            raise CliError(ExitStatus.USAGE, f"name: {text}", problem={"field": "name", "detail": text}) from error
        with _changing() as tokens:
            if any(token.name == name for token in tokens):
                raise CliError(
                    ExitStatus.CONFLICT, f"there is a token {name!r} already: revoke it, or take another name"
                )
            tokens.append(kept)
        return kept, secret

    kept, secret = run(work(), as_json=as_json)
    if as_json:
        show_json({"token": secret, **_public(kept)})
        return
    print(secret)
    until = f"until {kept.expires_at:%Y-%m-%d %H:%M} UTC" if kept.expires_at else "until it is revoked"
    render.console(typer.get_text_stream("stderr")).print(
        f"{kept.name} may {kept.scope}, {until}. Keep it now: it is not shown again."
    )


@app.command("list")
def list_tokens(*, as_json: Json = False) -> None:
    """List the tokens, without the tokens."""

    async def work() -> list[AccessToken]:
        return list(_read(_file()))

    found = run(work(), as_json=as_json)
    if as_json:
        show_json({"items": [_public(token) for token in found]})
        return
    now = datetime.now(UTC)
    render.table(
        ["id", "name", "scope", "made", "expires"],
        [
            [token.id, token.name, token.scope.value, render.ago(token.created_at), _until(token, now)]
            for token in found
        ],
        "there are no tokens: `anime token create NAME` makes one",
    )


@app.command()
def revoke(token: Ref, *, yes: Yes = False, as_json: Json = False) -> None:
    """End a token: its next request is refused, its open streams end within seconds."""

    async def work() -> AccessToken:
        confirm(f"revoke the token {token!r}?", yes=yes)
        with _changing() as tokens:
            found = next((each for each in tokens if token in {each.id, each.name}), None)
            if found is None:
                raise CliError(ExitStatus.NOT_FOUND, f"there is no token {token!r}")
            tokens.remove(found)
        return found

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(_public(found))
    else:
        render.console().print(f"token {found.name} is revoked")


def _file() -> Path:
    return tokens_file(load(ClientSettings))


def _read(path: Path) -> tuple[AccessToken, ...]:
    try:
        return read_tokens(path)
    except TokensUnreadable as error:
        raise CliError(ExitStatus.FAILED, str(error), "mend the file, or remove it to begin anew") from error


@contextmanager
def _changing() -> Iterator[list[AccessToken]]:
    """The tokens, written back at the end; another command that changes them waits so long."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = list(_read(path))
            yield tokens
            write_private(path, TokenFile(tokens=tuple(tokens)).model_dump_json(indent=2, exclude_none=True) + "\n")
        finally:
            os.close(lock)
    except OSError as error:
        raise CliError(ExitStatus.FAILED, f"{path} cannot be written: {error.strerror}") from error


def _life(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _LIFE.fullmatch(text)
    if found is None:
        wrong = f"{text!r} is no time: write a number and h, d, w or y, as in 90d"
        raise CliError(ExitStatus.USAGE, f"--expires: {wrong}", problem={"field": "expires", "detail": wrong})
    return int(found[1]) * _UNITS[found[2]]


def _until(token: AccessToken, now: datetime) -> str:
    if token.expires_at is None:
        return "never"
    return f"{token.expires_at:%Y-%m-%d %H:%M} UTC{' (expired)' if token.expired(now) else ''}"


def _public(token: AccessToken) -> dict[str, object]:
    return token.model_dump(mode="json", exclude={"sha256"})
