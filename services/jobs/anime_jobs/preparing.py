"""What a request is accepted with: its project, its characters, its seed and its model, read in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anime_common.contracts.projects import Project, ProjectState
from anime_common.contracts.vocabulary import ModelInfo
from anime_common.outcomes import Refused
from anime_jobs import admission, characters
from anime_jobs.admission import Resolved
from anime_jobs.composition import Production

if TYPE_CHECKING:
    from anime_common.contracts.generation import GenerationRequest
    from anime_jobs.books import Books


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a job is made of; `resolved` is absent while no worker has ever announced a model."""

    project: Project
    production: Production
    seed: int
    resolved: Resolved | None


async def prepare(books: Books, request: GenerationRequest, drawn: int) -> Prepared:
    """Look up what a request names; `drawn` is the seed if nobody wants another. Raises Refused (422)."""
    project = await books.project(request.project)
    if project is None:
        text = f"there is no project {request.project!r}: make it first, or leave the field out for 'default'"
        raise Refused(422, "unknown_project", text, "project")
    if project.state is ProjectState.ARCHIVED:
        raise Refused(422, "project_archived", f"the project {project.slug!r} is archived", "project")
    production = Production(
        style=project.style,
        project_version=project.version,
        cast=await characters.cast(books.connection, project.id, request.characters),
    )
    seed = admission.seed_for(request, production, project.id, drawn)
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
