"""The page `docs/errors.md`: why jobs fail, and which failures are tried again."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from anime_common.contracts.errors import ERRORS, Origin, Trouble
from anime_common.markdown import code, section

INTRODUCTION = """\
# Why jobs fail

Made from `anime_common.contracts.errors` by `make generated`: do not edit.

`error.code` of a job, and of each of its attempts, is one of these. *Tried again* says whether the ledger tries again
by itself, after a growing delay and as long as the job has tries left (`ANIME_MAX_FAILURES`); a failure of several
jobs drawn together is nobody's, and each is tried again alone. A code that is not here comes from a newer service,
which says itself whether to try again. Any failed job can be retried by hand: `anime retry CODE`.
"""

TITLES: Mapping[Origin, str] = MappingProxyType(
    {
        "request": "What was asked for",
        "ledger": "The ledger",
        "worker": "Workers and their engines",
        "comfyui": "ComfyUI servers",
        "files": "Filing of the pictures",
    }
)


def page() -> str:
    """The whole page."""
    head = ("code", "tried again", "what it means", "what helps")
    parts = [
        section(title, head, [_row(each) for each in ERRORS.values() if each.origin == origin])
        for origin, title in TITLES.items()
    ]
    return "\n".join([INTRODUCTION, *parts])


def _row(trouble: Trouble) -> tuple[str, str, str, str]:
    return code(trouble.code), "yes" if trouble.retryable else "no", trouble.meaning, trouble.remedy
