"""Projects in the ledger's own database: made, changed, archived, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import ValidationError

from anime_common import db
from anime_common.contracts.projects import (
    ContentRating,
    CreateProject,
    DeleteProject,
    NewProject,
    Project,
    ProjectChanged,
    ProjectChanges,
    ProjectQuery,
    ProjectRef,
    ProjectState,
    ProjectStyle,
    UpdateProject,
)
from anime_common.contracts.vocabulary import JobState, LoraInfo, Preset
from anime_common.messages import uuid7
from anime_common.outbox import transaction
from anime_common.outcomes import Refused
from anime_jobs import projects, roster, store
from anime_jobs.model import Record
from tests.builders import job, model_info, request
from tests.conftest import Database

EPOCH = 3
STYLE = {
    "model": "counterfeit",
    "preset": "fast",
    "loras": [{"key": "ink", "weight": 0.5}],
    "prompt_prefix": "anime screencap",
    "negative_prompt": "lowres",
    "width": 512,
    "height": 768,
}


@pytest_asyncio.fixture
async def connection(database: Database) -> AsyncIterator[store.Connection]:
    """A transaction on the ledger's schema that nothing else sees."""
    pool: db.Pool = await database.pool("jobs")
    async with transaction(pool) as found:
        yield found
    await pool.close()


async def make(connection: store.Connection, name: str = "Moonlit Academy", **fields: Any) -> Project:
    new = NewProject.model_validate({"name": name, **fields})
    made, _ = await projects.create(connection, CreateProject(id=uuid7(), project=new), EPOCH)
    return made


async def change(connection: store.Connection, ref: str, version: int | None = None, **changes: Any) -> Project:
    wanted = ProjectChanges.model_validate(changes)
    question = UpdateProject(project=ref, changes=wanted, expected_version=version)
    changed, _ = await projects.update(connection, question, EPOCH)
    return changed


async def put_job(connection: store.Connection, project: Project, state: JobState) -> None:
    now = datetime.now(UTC)
    made = job(
        id=uuid7(),
        code=uuid7().hex[-8:],
        state=state,
        project_id=project.id,
        project=project.slug,
        created_at=now,
        updated_at=now,
        queued_at=now,
        request=request(project=project.slug),
        ended_at=now if state.ended else None,
    )
    await store.insert(connection, [Record(job=made, request_hash="x", prompt="x", negative_prompt=None, seed=1)])


async def know(connection: store.Connection) -> None:
    """A worker has announced a model with a preset and a LoRA."""
    info = model_info(
        key="counterfeit", presets=(Preset(name="fast", steps=6),), loras=(LoraInfo(key="ink", family="sd15"),)
    )
    await roster.announce(connection, [info])


async def test_everything_that_is_set_is_kept(connection: store.Connection) -> None:
    await know(connection)
    cover = uuid7()
    made = await make(connection, description="Pilot", state="draft", rating="sensitive", style=STYLE, cover=cover)
    read = await projects.get(connection, ProjectRef(project="moonlit-academy"))
    assert read == made
    assert (read.slug, read.state, read.rating) == ("moonlit-academy", ProjectState.DRAFT, ContentRating.SENSITIVE)
    assert (read.style, read.cover, read.version) == (ProjectStyle.model_validate(STYLE), cover, 1)


async def test_the_same_call_again_makes_one_and_another_under_its_id_is_refused(connection: store.Connection) -> None:
    question = CreateProject(id=uuid7(), project=NewProject(name="Academy", style=ProjectStyle(prompt_prefix="a")))
    first, told = await projects.create(connection, question, EPOCH)
    again, silence = await projects.create(connection, question, EPOCH)
    assert (first, len(told), silence) == (again, 1, [])
    other = question.model_copy(update={"project": NewProject(name="Academy")})
    with pytest.raises(Refused) as refusal:
        await projects.create(connection, other, EPOCH)
    assert (refusal.value.status, refusal.value.field) == (409, "id")


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"slug": "taken"}, 409, "slug"),
        ({"name": "Taken"}, 409, "name"),
        ({"name": "夜"}, 422, "slug"),
        ({"state": "archived"}, 422, "state"),
        ({"style": {"model": "unheard-of"}}, 422, "style.model"),
        ({"style": {"model": "counterfeit", "preset": "slow"}}, 422, "style.preset"),
        ({"style": {"model": "counterfeit", "loras": [{"key": "no"}]}}, 422, "style.loras.0.key"),
    ],
)
async def test_what_cannot_be_is_refused_by_its_field(
    connection: store.Connection, fields: dict[str, Any], status: int, field: str
) -> None:
    await know(connection)
    await make(connection, "Taken")
    with pytest.raises(Refused) as refusal:
        await make(connection, **fields)
    assert (refusal.value.status, refusal.value.field) == (status, field)


@pytest.mark.parametrize(
    "style",
    [
        {"width": 512},
        {"preset": "fast"},
        {"loras": [{"key": "a"}, {"key": "a"}]},
        {"prompt_prefix": "x" * 1001},
        {"prefix": "an unknown field"},
    ],
)
def test_a_style_that_does_not_hold_together_is_no_style(style: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProjectStyle.model_validate(style)


async def test_changes_leave_the_rest_and_null_takes_away(connection: store.Connection) -> None:
    await know(connection)
    await make(connection, style=STYLE, cover=uuid7(), description="Pilot")
    changed = await change(connection, "moonlit-academy", style={"prompt_suffix": "soft light", "preset": None})
    wanted = {**STYLE, "prompt_suffix": "soft light", "preset": None}
    assert (changed.style, changed.description) == (ProjectStyle.model_validate(wanted), "Pilot")
    assert changed.version == 2
    bare = await change(connection, "moonlit-academy", cover=None, rating="explicit")
    assert (bare.cover, bare.rating, bare.style) == (None, ContentRating.EXPLICIT, changed.style)
    with pytest.raises(Refused) as refusal:
        await change(connection, "moonlit-academy", style={"width": None})
    assert (refusal.value.status, refusal.value.field) == (422, "style")
    nothings: list[dict[str, Any]] = [{}, {"name": None}, {"style": {}}, {"style": {"loras": None}}]
    for nothing in nothings:
        with pytest.raises(ValidationError):
            ProjectChanges.model_validate(nothing)


async def test_a_change_that_changes_nothing_is_none(connection: store.Connection) -> None:
    await make(connection, style={"prompt_prefix": "a"})
    same = ProjectChanges.model_validate({"name": "Moonlit Academy", "style": {"prompt_prefix": "a"}})
    project, told = await projects.update(connection, UpdateProject(project="moonlit-academy", changes=same), EPOCH)
    assert (project.version, told) == (1, [])


async def test_who_read_an_older_version_is_told(connection: store.Connection) -> None:
    await make(connection)
    await change(connection, "moonlit-academy", 1, description="one")
    with pytest.raises(Refused) as refusal:
        await change(connection, "moonlit-academy", 1, description="two")
    assert (refusal.value.status, refusal.value.code) == (412, "changed_meanwhile")
    with pytest.raises(Refused) as refusal:
        await projects.delete(connection, DeleteProject(project="moonlit-academy", expected_version=1), EPOCH)
    assert refusal.value.status == 412


async def test_jobs_are_counted_by_state(connection: store.Connection) -> None:
    project = await make(connection)
    for state in (JobState.COMPLETED, JobState.COMPLETED, JobState.FAILED):
        await put_job(connection, project, state)
    await make(connection, "Empty")
    shown = await projects.listing(connection, ProjectQuery())
    counts = {each.slug: (each.jobs, each.counts) for each in shown.items}
    assert counts["moonlit-academy"] == (3, {JobState.COMPLETED: 2, JobState.FAILED: 1})
    assert counts["empty"] == (0, {})


async def test_lists_are_cut_and_filtered(connection: store.Connection) -> None:
    for name, state, rating in (("A", "draft", "general"), ("B", "active", "explicit"), ("C", "active", "general")):
        await make(connection, name, state=state, rating=rating)
    active = await projects.listing(connection, ProjectQuery(state=ProjectState.ACTIVE))
    assert [each.slug for each in active.items] == ["b", "c", "default"]
    general = await projects.listing(connection, ProjectQuery(rating=ContentRating.GENERAL, limit=2))
    assert ([each.slug for each in general.items], general.next) == (["a", "c"], "c")
    rest = await projects.listing(connection, ProjectQuery(rating=ContentRating.GENERAL, cursor=general.next))
    assert [each.slug for each in rest.items] == ["default"]


async def test_an_empty_project_is_deleted(connection: store.Connection) -> None:
    project = await make(connection)
    gone, told = await projects.delete(connection, DeleteProject(project=project.slug), EPOCH)
    assert (gone.deleted, gone.jobs) == (True, 0)
    (event,) = [each.message for each in told]
    assert isinstance(event, ProjectChanged)
    assert (event.deleted, event.project_id) == (True, project.id)
    assert await projects.find(connection, project.slug) is None


@pytest.mark.parametrize("work", ["a job", "files"])
async def test_a_project_with_work_in_it_is_archived(connection: store.Connection, work: str) -> None:
    project = await make(connection)
    if work == "a job":
        await put_job(connection, project, JobState.COMPLETED)
    question = DeleteProject(project=project.slug, holds_files=work == "files")
    gone, told = await projects.delete(connection, question, EPOCH)
    assert (gone.deleted, gone.project.state, gone.project.version) == (False, ProjectState.ARCHIVED, 2)
    assert [each.message.deleted for each in told if isinstance(each.message, ProjectChanged)] == [False]
    again, silence = await projects.delete(connection, question, EPOCH)
    assert (again.project, silence) == (gone.project, [])


async def test_forced_it_goes_with_its_ended_jobs_and_never_under_a_running_one(connection: store.Connection) -> None:
    project = await make(connection)
    await put_job(connection, project, JobState.COMPLETED)
    await put_job(connection, project, JobState.QUEUED)
    forced = DeleteProject(project=project.slug, force=True, holds_files=True)
    with pytest.raises(Refused) as refusal:
        await projects.delete(connection, forced, EPOCH)
    assert (refusal.value.status, refusal.value.code) == (409, "project_busy")
    await connection.execute("UPDATE jobs SET state = 'cancelled' WHERE state = 'queued'")
    gone, _ = await projects.delete(connection, forced, EPOCH)
    assert (gone.deleted, gone.jobs) == (True, 2)
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 0


async def test_the_default_project_stays(connection: store.Connection) -> None:
    for ask in (
        projects.delete(connection, DeleteProject(project="default", force=True), EPOCH),
        projects.update(
            connection, UpdateProject(project="default", changes=ProjectChanges(state=ProjectState.ARCHIVED)), EPOCH
        ),
    ):
        with pytest.raises(Refused) as refusal:
            await ask
        assert (refusal.value.status, refusal.value.code) == (409, "default_project")


async def test_a_file_that_is_gone_covers_nothing(connection: store.Connection) -> None:
    cover = uuid7()
    await make(connection, "One", cover=cover)
    await make(connection, "Two", cover=uuid7())
    told = await projects.forget_cover(connection, cover, EPOCH)
    assert [each.message.project.slug for each in told if isinstance(each.message, ProjectChanged)] == ["one"]
    assert (await projects.get(connection, ProjectRef(project="one"))).cover is None
    assert isinstance((await projects.get(connection, ProjectRef(project="two"))).cover, UUID)
