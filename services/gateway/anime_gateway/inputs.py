"""Whether the pictures that a job is to begin with are there, before the job is taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common.contracts.files import GET_FILE, FileRef
from anime_common.contracts.vocabulary import PICTURE_TYPES
from anime_common.outcomes import Refused

if TYPE_CHECKING:
    from anime_common.contracts.generation import GenerationRequest
    from anime_gateway.deps import Gateway


async def check(gateway: Gateway, request: GenerationRequest) -> None:
    """Make sure that `init_image` and `mask`, where given, are pictures of the library; raises Refused for the first
    that is not, and as files refuses when it is away.
    """
    given = {"init_image": request.init_image, "mask": request.mask}
    looks = (_problem(gateway, name, file_id) for name, file_id in given.items() if file_id is not None)
    for problem in await asyncio.gather(*looks):
        if problem is not None:
            raise problem


async def check_picture(gateway: Gateway, field: str, file_id: UUID | None) -> None:
    """Make sure that a file, where one is named, is a picture of the library; raises Refused, naming `field`."""
    if file_id is not None and (problem := await _problem(gateway, field, file_id)) is not None:
        raise problem


async def _problem(gateway: Gateway, field: str, file_id: UUID) -> Refused | None:
    try:
        file = await gateway.ask(GET_FILE, FileRef(id=file_id))
    except Refused as error:
        if error.status == 404:
            return Refused(422, "unknown_file", f"there is no file {str(file_id)!r}", field)
        return error
    if file.media_type not in PICTURE_TYPES:
        return Refused(
            422, "not_a_picture", f"the file is {file.media_type}, not one of {', '.join(PICTURE_TYPES)}", field
        )
    return None
