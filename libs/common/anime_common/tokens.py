"""Access tokens of the gateway: what one looks like, what a file of them holds, who a token belongs to.

A token is `anime_<id>_<secret>`; the secret has 256 random bits. Only its SHA-256 is kept: with so much entropy
nothing slower is needed, since there is nothing to guess. The file is written by `anime token`, read by the gateway.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from anime_common.contracts.vocabulary import Sha256
from anime_common.messages import Request

PATTERN = re.compile(r"anime_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")

TokenId = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{8}$")]
TokenName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether who may do this may do `other`."""
        ranks = list(Scope)
        return ranks.index(self) >= ranks.index(other)


class AccessToken(Request):
    """A token as it is kept: everything but the token."""

    id: TokenId
    name: TokenName
    scope: Scope
    sha256: Sha256
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


class TokenFile(Request):
    """The file of tokens."""

    version: Literal[1] = 1
    tokens: tuple[AccessToken, ...] = Field(())

    @model_validator(mode="after")
    def _unique(self) -> TokenFile:
        for what in ("id", "name"):
            values = [getattr(token, what) for token in self.tokens]
            if len(set(values)) < len(values):
                raise ValueError(f"two tokens have the same {what}")
        return self


class TokensUnreadable(Exception):
    """The file of tokens cannot be used; says which and why."""


def mint(name: str, scope: Scope, now: datetime, expires_at: datetime | None = None) -> tuple[AccessToken, str]:
    """A new token: what is kept of it, and itself, which is shown once. Raises ValidationError for a bad name."""
    ident = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    token = f"anime_{ident}_{secrets.token_urlsafe(32)}"
    kept = AccessToken(id=ident, name=name, scope=scope, sha256=digest(token), created_at=now, expires_at=expires_at)
    return kept, token


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def owner(tokens: Iterable[AccessToken], presented: str, now: datetime) -> AccessToken | None:
    """The one of `tokens` that was presented, unless it has expired. Takes as long for any wrong secret."""
    found = PATTERN.fullmatch(presented)
    if found is None:
        return None
    presented_digest = digest(presented)
    for token in tokens:
        if token.id == found[1] and hmac.compare_digest(token.sha256, presented_digest):
            return None if token.expired(now) else token
    return None


def read_tokens(path: Path) -> tuple[AccessToken, ...]:
    """The tokens of a file, none where there is no file; raises TokensUnreadable."""
    try:
        return TokenFile.model_validate_json(path.read_bytes()).tokens
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise TokensUnreadable(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        # Never the input itself: somebody may have put a token where its hash belongs.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TokensUnreadable(f"{path}: {where}: {first['msg']}") from error
