"""A ledger for the gateway's tests: real messages over a real bus, but told by the test what happens to jobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from anime_common import rpc
from anime_common.bus import Bus
from anime_common.consume import Delivery, Loop
from anime_common.contracts import jobs as contract
from anime_common.contracts import projects
from anime_common.contracts.generator import JobProgress
from anime_common.contracts.jobs import (
    CancelJob,
    CommandDone,
    CommandRefused,
    Job,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobDispatched,
    JobEvent,
    JobFailed,
    JobFiling,
    JobPage,
    JobQuery,
    JobQuestion,
    JobQueued,
    JobStarted,
    JobUpdated,
    JobView,
    PrioritizeJob,
    SubmitJob,
)
from anime_common.contracts.statistics import GET_HISTORY, History, StatsQuestion
from anime_common.contracts.vocabulary import JobState, Progress
from anime_common.examples import example
from anime_common.messages import Message, Outgoing, uuid7
from anime_common.outcomes import Refused, not_found
from anime_common.rpc_contract import Empty
from anime_common.topology import JOBS_COMMANDS
from tests import builders

EVENTS: dict[JobState, type[JobEvent]] = {
    JobState.QUEUED: JobQueued,
    JobState.DISPATCHED: JobDispatched,
    JobState.RUNNING: JobStarted,
    JobState.COMPLETED: JobCompleted,
    JobState.FAILED: JobFailed,
    JobState.CANCELLED: JobCancelled,
}


@dataclass
class Ledger:
    """Jobs and projects in memory; commands are answered as soon as they come, unless `deaf`."""

    bus: Bus
    worker: Bus
    jobs: dict[UUID, Job] = field(default_factory=dict)
    productions: dict[str, projects.Project] = field(default_factory=dict)
    commands: list[Message] = field(default_factory=list)
    refusal: Refused | None = None
    asked: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.Task[None] | None = None
    _published: int = 0

    async def start(self) -> None:
        """Answer questions and commands."""
        await rpc.serve(
            self.bus,
            {
                contract.GET_JOB: self._get,
                contract.LIST_JOBS: self._list,
                contract.GET_QUEUE: self._queue,
                contract.GET_WORKERS: self._workers,
                contract.GET_CATALOGUE: self._catalogue,
                contract.GET_STATS: self._stats,
                GET_HISTORY: self._history,
                projects.CREATE_PROJECT: self._create_project,
                projects.GET_PROJECT: self._get_project,
                projects.UPDATE_PROJECT: self._update_project,
                projects.LIST_PROJECTS: self._list_projects,
                projects.DELETE_PROJECT: self._delete_project,
            },
        )
        self.hear()

    def hear(self) -> None:
        """Consume commands."""
        self.stop = asyncio.Event()
        loop = Loop(self.bus, JOBS_COMMANDS, self._handle, self.stop, expires=0.1)
        self._loop = asyncio.create_task(loop.run())

    async def deafen(self) -> None:
        """Consume commands no more."""
        self.stop.set()
        assert self._loop is not None
        await self._loop

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.commands.append(delivery.message)
            ident, client = delivery.id, delivery.envelope.last_token
            try:
                status, job = await self._obey(delivery.message, client)
                answer: Message = CommandDone(command_id=ident, client=client, status=status, job=job)
            except Refused as error:
                answer = CommandRefused(
                    command_id=ident,
                    client=client,
                    status=error.status,
                    code=error.code,
                    message=error.message,
                    field=error.field,
                )
            await self.publish(answer)

    async def _obey(self, command: Message, client: str) -> tuple[int, Job]:
        if self.refusal is not None:
            raise self.refusal
        if isinstance(command, SubmitJob):
            known = self.jobs.get(command.job_id)
            if known is not None and known.request != command.request:
                raise Refused(409, "idempotency_conflict", "the key stands for another request")
            if known is not None:
                return 200, known
            code = hashlib.sha256(command.job_id.bytes).hexdigest()[:8]
            job = builders.job(id=command.job_id, code=code, client=client, request=command.request, created_at=now())
            self.jobs[job.id] = job
            await self.publish(JobAccepted(job=job))
            return 201, job
        assert isinstance(command, CancelJob | contract.RetryJob | PrioritizeJob)
        job = self._find(command.job)
        if isinstance(command, CancelJob):
            return 200, await self.move(job.id, JobState.CANCELLED)
        if isinstance(command, PrioritizeJob):
            changes = command.changes.model_dump(exclude_none=True, exclude={"before", "after", "move"})
            if command.clear_not_before:
                changes["not_before"] = None
            return 200, await self.update(job.id, **changes)
        return 200, await self.move(job.id, JobState.QUEUED)

    async def add(self, **fields: Any) -> Job:
        """A job that is there, with its event."""
        job = builders.job(**({"id": uuid7(), "code": f"j{len(self.jobs):07d}", "created_at": now()} | fields))
        self.jobs[job.id] = job
        await self.publish(JobAccepted(job=job))
        return job

    async def move(self, job_id: UUID, state: JobState, *, publish: bool = True, **fields: Any) -> Job:
        """Bring a job to a state, with its event."""
        job = self.jobs[job_id]
        if state is JobState.DISPATCHED:
            fields.setdefault("attempt_id", uuid7())
        changed = job.model_copy(update={"state": state, "version": job.version + 1, **fields})
        self.jobs[job_id] = changed
        if publish:
            await self.publish(self.event(changed))
        return changed

    def event(self, job: Job) -> Message:
        """The event of a job's state."""
        if job.state is JobState.FILING:
            assert job.attempt_id is not None
            assert job.settings is not None
            return JobFiling(
                job=job, attempt_id=job.attempt_id, staged=(), settings=job.settings, date=builders.NOON.date()
            )
        return EVENTS[job.state](job=job)

    async def update(self, job_id: UUID, **fields: Any) -> Job:
        """Change something but the state."""
        job = self.jobs[job_id]
        changed = Job.model_validate(job.model_dump() | fields | {"version": job.version + 1})
        self.jobs[job_id] = changed
        await self.publish(JobUpdated(job=changed))
        return changed

    async def run(self, **fields: Any) -> Job:
        """A job that runs."""
        job = await self.add(**fields)
        await self.move(job.id, JobState.DISPATCHED)
        return await self.move(job.id, JobState.RUNNING)

    async def tell(self, job: Job, percent: float, **fields: Any) -> None:
        """Tell progress as the worker of the job's attempt."""
        defaults = {"phase": "sampling", "step": int(percent) // 10, "steps": 10}
        told = {"job_id": job.id, "attempt_id": job.attempt_id, "percent": percent, **defaults, **fields}
        await self.worker.tell(JobProgress.model_validate(told))

    async def publish(self, message: Message) -> int:
        """Store an event; returns its sequence."""
        self._published += 1
        return (await self.bus.publish(Outgoing(message, f"1:jobs:{self._published}:{uuid7()}"))).sequence

    def _find(self, ref: str) -> Job:
        for job in self.jobs.values():
            if ref in {str(job.id), job.code}:
                return job
        raise not_found("job", ref, "job")

    async def _get(self, question: JobQuestion) -> JobView:
        return view(self._find(question.job))

    async def _list(self, query: JobQuery) -> JobPage:
        self.asked += 1
        found = [job for job in self.jobs.values() if not query.state or job.state in query.state]
        found.sort(key=lambda job: job.created_at, reverse=True)
        return JobPage(items=tuple(view(job) for job in found[: query.limit]))

    async def _queue(self, _: Empty) -> contract.QueueState:
        return contract.QueueState(at=now(), entries=(), waiting=0, counts={}, workers=1)

    async def _workers(self, _: Empty) -> contract.Workers:
        worker = contract.WorkerView(worker="w1", status="idle", last_seen=now(), heartbeat=builders.heartbeat())
        return contract.Workers(items=(worker,))

    async def _catalogue(self, _: Empty) -> contract.Catalogue:
        entry = contract.CatalogueEntry(model=builders.model_info(), workers=("w1",))
        return contract.Catalogue(items=(entry,))

    async def _stats(self, _: Empty) -> contract.LedgerStats:
        return contract.LedgerStats(
            epoch=1, counts={}, completed_last_hour=0, failed_last_hour=0, outbox=0, scheduler=True
        )

    async def _history(self, question: StatsQuestion) -> History:
        return example(History).model_copy(update={"window": question.window})

    async def _create_project(self, question: projects.CreateProject) -> projects.Project:
        if question.project.slug == "taken":
            raise Refused(409, "slug_taken", "there is already a project 'taken'", "project.slug")
        slug = question.project.slug or question.project.name.lower().replace(" ", "-")
        given = question.project.model_dump(exclude={"slug"})
        made = projects.Project(id=question.id, slug=slug, created_at=now(), updated_at=now(), **given)
        return self.productions.setdefault(str(question.id), made)

    async def _get_project(self, question: projects.ProjectRef) -> projects.Project:
        for project in self.productions.values():
            if question.project in {str(project.id), project.slug}:
                return project
        raise not_found("project", question.project, "project")

    async def _update_project(self, question: projects.UpdateProject) -> projects.Project:
        project = await self._get_project(question)
        if question.expected_version not in {None, project.version}:
            raise Refused(412, "changed_meanwhile", "read it again")
        changes = question.changes.model_dump(exclude_unset=True)
        changes["style"] = project.style.model_dump() | changes.get("style", {})
        changed = projects.Project.model_validate({**dict(project), **changes, "version": project.version + 1})
        self.productions[str(project.id)] = changed
        return changed

    async def _list_projects(self, _: projects.ProjectQuery) -> projects.ProjectPage:
        return projects.ProjectPage(items=tuple(self.productions.values()))

    async def _delete_project(self, question: projects.DeleteProject) -> projects.DeletedProject:
        project = await self._get_project(question)
        if question.expected_version not in {None, project.version}:
            raise Refused(412, "changed_meanwhile", "read it again")
        if question.force or not question.holds_files:
            gone = self.productions.pop(str(project.id))
            return projects.DeletedProject(deleted=True, jobs=0, project=gone)
        archived = project.model_copy(update={"state": projects.ProjectState.ARCHIVED})
        return projects.DeletedProject(deleted=False, jobs=0, project=archived)


def view(job: Job) -> JobView:
    """A job as the ledger answers it."""
    percent = {JobState.COMPLETED: 100.0, JobState.FILING: 99.0}.get(job.state, 0.0)
    progress = Progress(job_id=job.id, state=job.state, attempt_id=job.attempt_id, percent=percent)
    return JobView(**dict(job), progress=progress)


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)
