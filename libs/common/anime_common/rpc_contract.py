"""The shape of a question to another service: its name, what is asked, what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

from anime_common.messages import Model

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
    """A question that `owner` answers on `anime.rpc.<owner>.<name>`."""

    owner: str
    name: str
    question: type[Q]
    answer: type[A]

    @property
    def subject(self) -> str:
        """The subject it is asked on."""
        return f"anime.rpc.{self.owner}.{self.name}"
