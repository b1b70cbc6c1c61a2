"""What a job is drawn with, in the running ledger: that of the moment at which it was accepted."""

from __future__ import annotations

from typing import Any

import pytest

from anime_common import rpc
from anime_common.contracts.casting import CharacterUse
from anime_common.contracts.characters import (
    CREATE_CHARACTER,
    UPDATE_CHARACTER,
    CharacterChanges,
    CreateCharacter,
    NewCharacter,
    UpdateCharacter,
)
from anime_common.contracts.echo import OptimizedPrompt, PromptOptimized
from anime_common.contracts.jobs import PREVIEW_PROMPT, PreviewQuestion
from anime_common.contracts.projects import (
    CREATE_PROJECT,
    UPDATE_PROJECT,
    CreateProject,
    NewProject,
    ProjectChanges,
    UpdateProject,
)
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Refused
from anime_common.topology import GATEWAY
from tests.builders import request
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World
from tests.jobs.test_service import known_model
from tests.waiting import eventually

YUKI = (CharacterUse(character="yuki"),)


async def ask(world: World, question: Any, about: Any) -> Any:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, question, about)


async def produce(world: World) -> None:
    """A project with a style, and a character in it."""
    new = NewProject.model_validate({"name": "Academy", "style": {"prompt_prefix": "anime"}})
    await ask(world, CREATE_PROJECT, CreateProject(id=uuid7(), project=new))
    yuki = NewCharacter.model_validate({"name": "Yuki", "project": "academy", "canon": {"hair": "silver hair"}})
    await ask(world, CREATE_CHARACTER, CreateCharacter(id=uuid7(), character=yuki))


async def change(world: World) -> None:
    """Both have changed since."""
    changes = CharacterChanges.model_validate({"canon": {"hair": "black hair"}})
    await ask(world, UPDATE_CHARACTER, UpdateCharacter(character="yuki", changes=changes))
    style = ProjectChanges.model_validate({"style": {"prompt_prefix": "sketch"}})
    await ask(world, UPDATE_PROJECT, UpdateProject(project="academy", changes=style))


async def test_a_job_that_waits_is_drawn_with_what_it_was_accepted_with(world: World, ledger: Service) -> None:
    await produce(world)
    job_id = await world.submit(prompt="smile", project="academy", characters=YUKI)
    assert (await world.job(job_id)).settings is None, "no model is known yet"
    await change(world)
    (offered,) = (await Worker(world).offer()).jobs
    assert (offered.job_id, offered.settings.prompt) == (job_id, "anime, silver hair, smile")
    job = await world.job(job_id)
    assert job.composition is not None
    assert [(each.slug, each.version) for each in job.composition.characters] == [("yuki", 1)]
    assert job.composition.project_version == 1
    later = await world.submit(prompt="smile", project="academy", characters=YUKI)
    view = await world.job(later)
    assert view.settings is not None
    assert view.settings.prompt == "sketch, black hair, smile"


async def test_echo_improves_the_users_own_words_alone(world: World, ledger: Service) -> None:
    await known_model(world)
    await produce(world)
    job_id = await world.submit(prompt="smile", project="academy", characters=YUKI, optimize=True)
    await change(world)
    preparing = await world.job(job_id)
    answer = PromptOptimized(
        job_id=job_id,
        job_version=preparing.version,
        epoch=1,
        result=OptimizedPrompt(prompt="smile, best quality, black hair", provider="builtin"),
    )
    await world.echo.publish(Outgoing(answer, answer.ident()))

    async def improved() -> bool:
        return (await world.job(job_id)).prompt_note is not None

    await eventually(improved)
    job = await world.job(job_id)
    assert job.settings is not None
    assert job.settings.prompt == "anime, silver hair, smile, best quality, black hair"
    assert job.warnings == (), "what Echo adds pushes nobody's traits aside"
    assert job.composition is not None
    assert job.composition.prompt == job.settings.prompt


async def test_a_preview_makes_nothing_and_is_refused_as_the_job_would_be(world: World, ledger: Service) -> None:
    await produce(world)

    async def preview(**fields: Any) -> Any:
        return await ask(world, PREVIEW_PROMPT, PreviewQuestion(request=request(**fields)))

    with pytest.raises(Refused) as refusal:
        await preview(prompt="smile")
    assert (refusal.value.status, refusal.value.code) == (503, "no_model")
    await known_model(world)
    found = await preview(prompt="smile", project="academy", characters=YUKI)
    assert found.composition.prompt == found.settings.prompt == "anime, silver hair, smile"
    assert found.length.prompt is None
    assert found.length.unknown, "the worker that a test plays by hand counts nothing, and that is said"
    with pytest.raises(Refused) as refusal:
        await preview(prompt="smile", project="academy", characters=(CharacterUse(character="nobody"),))
    assert (refusal.value.code, refusal.value.field) == ("unknown_character", "characters.0")
