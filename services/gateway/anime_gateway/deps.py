"""What the routes work with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from anime_common import rpc
from anime_common.artifacts import Artifacts
from anime_common.bus import Bus
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Rpc
from anime_gateway.access import Access
from anime_gateway.commands import Commands
from anime_gateway.hub import Hub
from anime_gateway.settings import GatewaySettings
from anime_gateway.stream import Streams

Q = TypeVar("Q", bound=BaseModel)
A = TypeVar("A", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway. `uploading` bounds the uploads under way, each of which takes some memory."""

    settings: GatewaySettings
    bus: Bus
    hub: Hub
    commands: Commands
    streams: Streams
    artifacts: Artifacts
    access: Access
    uploading: asyncio.Semaphore

    async def ask(self, question: Rpc[Q, A], about: Q, *, within: str = "", timeout: float | None = None) -> A:
        """Ask another service; raises Refused. `within` is the part of the question that the user wrote, such as
        `changes`: a field at fault is named as the user knows it.
        """
        try:
            return await rpc.call(self.bus, question, about, timeout=timeout or self.settings.gateway_rpc_wait)
        except Refused as error:
            if within and error.field is not None:
                field = error.field.removeprefix(f"{within}.")
                raise Refused(error.status, error.code, error.message, field) from error
            raise


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway behind a request."""
    found: Gateway = connection.app.state.gateway
    return found


Deps = Annotated[Gateway, Depends(gateway_of)]
