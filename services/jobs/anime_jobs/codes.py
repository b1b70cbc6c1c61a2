"""Short ids of jobs, for people."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 (https://www.crockford.com/base32.html): no letter is mistaken for a digit."""


def new_code() -> str:
    """A random short id: 8 characters, 40 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))
