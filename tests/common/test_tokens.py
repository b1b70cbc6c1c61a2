"""Access tokens: what is kept of one, who it belongs to, files that cannot be used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anime_common.tokens import PATTERN, Scope, TokenFile, TokensUnreadable, digest, mint, owner, read_tokens

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_token_is_known_by_its_hash_alone() -> None:
    kept, token = mint("laptop", Scope.READ, NOW)
    assert PATTERN.fullmatch(token)
    assert token not in kept.model_dump_json()
    assert token.rsplit("_", 1)[1] not in kept.model_dump_json()
    assert kept.sha256 == digest(token)
    assert owner([kept], token, NOW) == kept


def test_no_two_tokens_are_alike() -> None:
    assert len({mint("x", Scope.READ, NOW)[1] for _ in range(50)}) == 50


def test_an_expired_one_is_nobodys() -> None:
    kept, token = mint("laptop", Scope.READ, NOW, NOW + timedelta(hours=1))
    assert owner([kept], token, NOW + timedelta(minutes=59)) == kept
    assert owner([kept], token, NOW + timedelta(hours=1)) is None


def test_the_id_of_another_token_does_not_help() -> None:
    one, token = mint("one", Scope.READ, NOW)
    other, _ = mint("other", Scope.ADMIN, NOW)
    forged = token.replace(one.id, other.id)
    assert owner([one, other], forged, NOW) is None


@given(st.text(max_size=80))
def test_what_is_no_token_is_nobodys(presented: str) -> None:
    kept, _ = mint("laptop", Scope.READ, NOW)
    assert owner([kept], presented, NOW) is None


@pytest.mark.parametrize("name", ["", "Laptop", "a b", "-a", "a/", "é", "x" * 65, "a\n"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        mint(name, Scope.READ, NOW)


def test_each_scope_includes_those_before_it() -> None:
    assert [[one.includes(other) for other in Scope] for one in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_no_file_is_no_token(tmp_path: Path) -> None:
    assert read_tokens(tmp_path / "none") == ()


def test_a_file_gives_back_what_was_kept(tmp_path: Path) -> None:
    kept = [mint(name, Scope.SUBMIT, NOW)[0] for name in ("one", "two")]
    file = tmp_path / "tokens.json"
    file.write_text(TokenFile(tokens=tuple(kept)).model_dump_json())
    assert read_tokens(file) == tuple(kept)


def _kept(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mint("laptop", Scope.READ, NOW)[0].model_dump_json(exclude_none=True))
    return found | changes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file"),
        ("{", "the file"),
        ("[]", "the file"),
        ('{"version": 2, "tokens": []}', "version"),
        ('{"tokens": [], "token": []}', "token"),
        (json.dumps({"tokens": [_kept(scope="root")]}), "tokens.0.scope"),
        (json.dumps({"tokens": [_kept(sha256="hunter2")]}), "tokens.0.sha256"),
        (json.dumps({"tokens": [_kept(expires_at="2026-01-01T00:00:00")]}), "tokens.0.expires_at"),
        (json.dumps({"tokens": [_kept(), _kept()]}), "two tokens have the same name"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(content)
    with pytest.raises(TokensUnreadable) as found:
        read_tokens(file)
    assert said in str(found.value)
    assert str(file) in str(found.value)
    assert "hunter2" not in str(found.value)
