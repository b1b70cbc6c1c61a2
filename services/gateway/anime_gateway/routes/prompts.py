"""Prompts: let the optimiser improve one without making a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from anime_common.contracts.echo import OPTIMIZE, OptimizedPrompt, OptimizeQuestion
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps
from anime_gateway.documents import WRITE_ERRORS, errors

router = APIRouter(prefix="/prompts", tags=["prompts"])

OPTIMIZE_WAIT = 30.0


@router.post(
    "/optimize",
    summary="Improve a prompt",
    response_model=OptimizedPrompt,
    responses=errors(*WRITE_ERRORS),
    openapi_extra=json_body(OptimizeQuestion, prompt={"prompt": "girl with blue hair smiling in a classroom"}),
)
async def optimize(gateway: Deps, question: Annotated[OptimizeQuestion, body(OptimizeQuestion)]) -> Response:
    """What the optimiser makes of a prompt, and what it changed. With `optimize` in a job, the same happens to it."""
    return answer(await gateway.ask(OPTIMIZE, question, timeout=OPTIMIZE_WAIT))
