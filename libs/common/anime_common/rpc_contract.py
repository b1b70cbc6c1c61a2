"""The shape of a question to another service: its name, what is asked, what is answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

from anime_common.messages import TOKEN, Model

Q = TypeVar("Q", bound=BaseModel)
A = TypeVar("A", bound=BaseModel)


class Empty(Model):
    """No content."""


class ProblemBody(Model):
    """How a question is refused: an HTTP status, a stable code, a text, and the field at fault if there is one."""

    status: int = Field(description="An HTTP status.")
    code: str = Field(description="Why, for programs: stable.")
    message: str = Field(description="Why, for people.")
    field: str | None = Field(None, description="The field at fault.")


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Q, A]):
    """A question that `owner` answers on `anime.rpc.<owner>.<name>`, or one of its instances by a last token."""

    owner: str
    name: str
    question: type[Q]
    answer: type[A]
    instance: str = ""

    @property
    def subject(self) -> str:
        """The subject it is asked on."""
        return f"anime.rpc.{self.owner}.{self.name}" + (f".{self.instance}" if self.instance else "")

    def at(self, instance: str) -> Rpc[Q, A]:
        """The same question to one instance of its owner; raises ValueError when nobody can be called so."""
        if not TOKEN.fullmatch(instance):
            raise ValueError(f"{instance!r} cannot be a subject token: a-z, 0-9, _ and - are allowed")
        return replace(self, instance=instance)
