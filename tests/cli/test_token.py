"""`anime token`: what it writes, what it shows, what it refuses."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anime_cli.errors import ExitStatus
from anime_common.tokens import Scope, owner, read_tokens
from tests.cli.conftest import Anime


@pytest.fixture
def file(home: Path) -> Path:
    """Where the tokens of this home are kept."""
    return home / "secrets" / "gateway-tokens.json"


def test_a_token_is_shown_once_and_kept_as_its_hash(anime: Anime, file: Path) -> None:
    made = anime("token", "create", "laptop", "--scope", "read", "--expires", "90d")
    assert made.exit_code == ExitStatus.OK
    (token,) = made.stdout.splitlines()
    assert "not shown again" in made.stderr
    assert token not in made.stderr
    (kept,) = read_tokens(file)
    assert token not in file.read_text()
    assert owner([kept], token, datetime.now(UTC)) == kept
    assert (kept.name, kept.scope) == ("laptop", Scope.READ)
    assert kept.expires_at is not None
    assert abs(kept.expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    listed = anime("token", "list")
    assert "laptop" in listed.stdout
    assert token not in listed.stdout
    assert kept.sha256 not in listed.stdout
    assert f"{kept.expires_at:%Y-%m-%d %H:%M} UTC" in listed.stdout
    anime("token", "create", "tower")
    assert "never" in anime("token", "list").stdout


def test_for_programs(anime: Anime, file: Path) -> None:
    made: dict[str, Any] = json.loads(anime("token", "create", "ci", "--json").stdout)
    (kept,) = read_tokens(file)
    assert owner([kept], made["token"], datetime.now(UTC)) == kept
    assert made["scope"] == "submit"
    (listed,) = json.loads(anime("token", "list", "--json").stdout)["items"]
    assert listed == {name: value for name, value in made.items() if name != "token"}


@pytest.mark.parametrize("by", ["name", "id"])
def test_revoking(anime: Anime, file: Path, by: str) -> None:
    for name in ("one", "two"):
        anime("token", "create", name)
    kept = next(token for token in read_tokens(file) if token.name == "one")
    assert anime("token", "revoke", getattr(kept, by), "--yes").exit_code == ExitStatus.OK
    assert [token.name for token in read_tokens(file)] == ["two"]
    assert anime("token", "revoke", "one", "--yes").exit_code == ExitStatus.NOT_FOUND


def test_nothing_is_revoked_unasked(anime: Anime, file: Path) -> None:
    anime("token", "create", "one")
    assert anime("token", "revoke", "one").exit_code == ExitStatus.USAGE
    assert len(read_tokens(file)) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["create", "a b"], ExitStatus.USAGE, "name"),
        (["create", ""], ExitStatus.USAGE, "name"),
        (["create", "x", "--expires", "soon"], ExitStatus.USAGE, "--expires"),
        (["create", "x", "--expires", "0d"], ExitStatus.USAGE, "--expires"),
        (["create", "x", "--scope", "root"], ExitStatus.USAGE, "scope"),
        (["create", "taken"], ExitStatus.CONFLICT, "already"),
    ],
)
def test_what_is_refused(anime: Anime, file: Path, arguments: list[str], status: ExitStatus, said: str) -> None:
    anime("token", "create", "taken")
    result = anime("token", *arguments)
    assert result.exit_code == status
    assert said in result.stderr
    assert [token.name for token in read_tokens(file)] == ["taken"]


def test_a_broken_file_is_not_written_over(anime: Anime, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("{")
    result = anime("token", "create", "x")
    assert result.exit_code == ExitStatus.FAILED
    assert str(file) in result.stderr
    assert file.read_text() == "{"


def test_several_at_once_are_all_kept(anime: Anime, file: Path) -> None:
    from anime_cli.token import _changing
    from anime_common.tokens import mint

    def add(number: int) -> None:
        with _changing() as tokens:
            tokens.append(mint(f"t{number}", Scope.READ, datetime.now(UTC))[0])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    assert {token.name for token in read_tokens(file)} == {f"t{number}" for number in range(16)}


def test_the_file_may_be_elsewhere(anime: Anime, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_GATEWAY_TOKENS", str(tmp_path / "mine.json"))
    anime("token", "create", "x")
    assert not file.exists()
    assert len(read_tokens(tmp_path / "mine.json")) == 1
