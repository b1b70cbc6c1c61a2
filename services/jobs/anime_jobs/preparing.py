"""What a request is accepted with: its project, its characters, its seed and its model, read in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common.contracts.jobs import Job
from anime_common.contracts.projects import Project, ProjectState
from anime_common.contracts.vocabulary import JobState, ModelInfo
from anime_common.outcomes import Refused
from anime_common.tracing import current_traceparent
from anime_jobs import admission
from anime_jobs.admission import Place, Resolved
from anime_jobs.codes import new_code
from anime_jobs.composition import Production
from anime_jobs.model import Moment, Record

if TYPE_CHECKING:
    from anime_common.contracts.generation import GenerationRequest
    from anime_jobs.books import Books


SEEDS = 2**32
BETWEEN = 1e-5
"""Seconds between the places of the jobs of a batch, which are accepted in one moment."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a job is made of; `resolved` is absent while no worker has ever announced a model."""

    project: Project
    production: Production
    seed: int
    resolved: Resolved | None


async def prepare(books: Books, request: GenerationRequest, drawn: int, offset: int = 0) -> Prepared:
    """Look up what a request names; `drawn` is the seed if nobody wants another, and `offset` is added to it.

    Raises Refused (422).
    """
    project = await books.project(request.project)
    if project is None:
        text = f"there is no project {request.project!r}: make it first, or leave the field out for 'default'"
        raise Refused(422, "unknown_project", text, "project")
    if project.state is ProjectState.ARCHIVED:
        raise Refused(422, "project_archived", f"the project {project.slug!r} is archived", "project")
    production = Production(
        style=project.style,
        project_version=project.version,
        cast=await books.cast(project.id, request.characters),
    )
    seed = (admission.seed_for(request, production, project.id, drawn) + offset) % SEEDS
    model = model_for(request.model, project.style.model, await books.models())
    if model is None:
        return Prepared(project, production, seed, None)
    resolved = admission.resolve(request, model, production, request.prompt, request.negative_prompt, seed)
    return Prepared(project, resolved.production, seed, resolved)


def model_for(key: str | None, usual: str | None, known: Sequence[ModelInfo]) -> ModelInfo | None:
    """The model that a request names, else the `usual` one of its project, else the workers' default.

    None while no worker has ever announced any. Raises Refused for one nobody knows.
    """
    if not known:
        return None
    wanted = key or usual
    if wanted is None:
        return known[0]
    for info in known:
        if info.key == wanted:
            return info
    if key is None:
        text = f"no worker knows {wanted!r}, the model of the project: name another, or change its style"
        raise Refused(422, "unknown_model", text, "project")
    raise Refused(422, "unknown_model", f"no worker knows {key!r}; known: {', '.join(i.key for i in known)}", "model")


def accepted(
    request: GenerationRequest,
    found: Prepared,
    *,
    job_id: UUID,
    client: str,
    epoch: int,
    at: Moment,
    place: Place | None = None,
) -> Record:
    """A job as it is accepted: waiting for Echo if it is asked, else queued."""
    preparing, resolved = request.optimize, found.resolved
    job = Job(
        id=job_id,
        code=new_code(),
        version=1,
        epoch=epoch,
        state=JobState.PREPARING if preparing else JobState.QUEUED,
        client=client,
        project_id=found.project.id,
        project=found.project.slug,
        priority=request.priority,
        request=request,
        settings=resolved.settings if resolved else None,
        composition=resolved.composition if resolved else None,
        warnings=resolved.warnings if resolved else (),
        batch_id=place.batch_id if place else None,
        labels=place.labels if place else {},
        not_before=request.not_before,
        message=None if resolved else "waits for a worker that knows its model",
        created_at=at.now,
        updated_at=at.now,
        queued_at=None if preparing else at.now,
    )
    return Record(
        job=job,
        request_hash=admission.request_hash(client, request),
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=found.seed,
        traceparent=current_traceparent(),
        batch_index=place.index if place else None,
        place=at.now.timestamp() + (place.index * BETWEEN if place else 0.0),
        production=found.production,
        deadline=at.now + timedelta(seconds=at.policy.prepare_nudge) if preparing else None,
    )
