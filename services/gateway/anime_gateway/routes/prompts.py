"""Prompts: improved or composed without making a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from anime_common.contracts.echo import OPTIMIZE, OptimizedPrompt, OptimizeQuestion
from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import PREVIEW_PROMPT, PreviewQuestion, PromptPreview
from anime_gateway import inputs
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps
from anime_gateway.documents import WRITE_ERRORS, errors

router = APIRouter(prefix="/prompts", tags=["prompts"])

OPTIMIZE_WAIT = 30.0
PREVIEW_WAIT = 10.0


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


@router.post(
    "/preview",
    summary="Show what would be drawn",
    response_model=PromptPreview,
    responses=errors(*WRITE_ERRORS),
    openapi_extra=json_body(
        GenerationRequest,
        words={"prompt": "smile, classroom", "project": "moonlit-academy", "characters": ["yuki"]},
        two_characters={
            "prompt": "rooftop, night sky",
            "project": "moonlit-academy",
            "characters": ["yuki", {"character": "mio", "words": "waving", "outfit": "white dress"}],
        },
    ),
)
async def preview(gateway: Deps, request: Annotated[GenerationRequest, body(GenerationRequest)]) -> Response:
    """The prompt that a job of this request would be drawn with, its parts, its length in tokens, and all warnings.

    Nothing is run, and nothing is kept; what a job would be refused for is refused here.
    """
    await inputs.check(gateway, request)
    question = PreviewQuestion(request=request)
    return answer(await gateway.ask(PREVIEW_PROMPT, question, within="request", timeout=PREVIEW_WAIT))
