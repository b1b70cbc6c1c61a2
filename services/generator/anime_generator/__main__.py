"""Starts the generator: the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from anime_common import rpc
from anime_common.artifacts import Artifacts
from anime_common.consume import Loop
from anime_common.contracts.generator import COUNT_TOKENS
from anime_common.http import Check
from anime_common.messages import uuid7
from anime_common.service import Runtime, run
from anime_common.topology import GENERATOR, worker_consumer
from anime_generator import handlers, metrics, model, wire
from anime_generator.comfyui.servers import Remote
from anime_generator.comfyui.watch import Watch
from anime_generator.desk import Desk
from anime_generator.engine_host import EngineHost, HostOptions
from anime_generator.engines import LOCAL
from anime_generator.heart import Heart
from anime_generator.lengths import Lengths
from anime_generator.model import Worker
from anime_generator.registry import Registry
from anime_generator.registry.live import Catalogue, LiveRegistry
from anime_generator.reporter import Reporter
from anime_generator.runner import Runner
from anime_generator.settings import GeneratorSettings
from anime_generator.shift import Shift
from anime_generator.staging import Staging
from anime_generator.supply import Supply

SERVICE = "generator"
OFFERS_AT_ONCE = 8

log = structlog.get_logger(__name__)


async def build(runtime: Runtime[GeneratorSettings]) -> None:
    """Wire the service: engine process, desk, reporter, heart, runner, consumer, control."""
    settings, bus = runtime.settings, runtime.bus
    news = asyncio.Event()
    held: list[Desk] = []
    watch = _watch(settings, lambda: held[0].worker.attempts if held else {})
    registry: Catalogue = watch or LiveRegistry(settings.models, LOCAL)
    remote = watch.remote if watch is not None else None
    host = EngineHost(host_options(settings, registry.current, remote), news.set, metrics.ENGINE_RESTARTS.inc)
    worker = Worker(settings.worker, uuid7(), datetime.now(UTC))
    if watch is not None:
        left = await asyncio.to_thread(watch.resume)
        worker = model.resume(worker, ((mark.job, mark.offer_id, mark.epoch) for mark in left))
    desk = Desk(worker, host, news.set)
    held.append(desk)
    reporter = Reporter(bus, runtime.spawn, desk.confirmed)
    desk.publish_through(reporter)
    heart = Heart(
        bus,
        host,
        news,
        worker=lambda: desk.worker,
        last_fact=lambda: reporter.last_fact,
        registry=registry,
        interval=settings.heartbeat,
        gap=settings.heartbeat_gap,
    )
    artifacts = Artifacts(settings.artifacts_url)
    supply = Supply(bus, artifacts, settings.generator_input_patience)
    staging = Staging(artifacts, settings.generator_staging_patience)
    runner = Runner(bus, desk, host, supply, staging, registry, runtime.spawn)
    grace = (settings.generator_finish_grace, settings.stop_grace * 0.9)
    shift = Shift(desk, host, heart, runner, reporter, *grace, resumable=watch is not None)
    runtime.checks["engine"] = _engine(host, elsewhere=watch is not None)
    await bus.listen(f"anime.ctl.generator.{settings.worker}", partial(handlers.hear, desk))
    lengths = Lengths(lambda: registry.current)
    await rpc.serve(bus, {COUNT_TOKENS.at(settings.worker): lengths.answer})
    consumer = worker_consumer(settings.worker)
    runtime.spawn(
        Loop(bus, consumer, partial(handlers.handle, desk), runtime.stop, batch=OFFERS_AT_ONCE).run(), "offers"
    )
    runtime.spawn(shift.serve(runtime.stop), "shift")
    runtime.spawn(registry.follow(settings.models_poll, _swap(registry, host, news.set), runtime.stop), "registry")
    models = sorted(registry.current.models) if remote is None else remote.url
    log.info("worker", worker=worker.name, incarnation=str(worker.incarnation), models=models)


def _watch(settings: GeneratorSettings, held: Callable[[], Container[UUID]]) -> Watch | None:
    """What follows the ComfyUI server, if this worker drives one."""
    return Watch(settings.comfyui, settings.worker, held) if settings.comfyui is not None else None


def host_options(settings: GeneratorSettings, registry: Registry, remote: Remote | None = None) -> HostOptions:
    """How the engine process is to be started."""
    config = wire.Configure(
        device=settings.device,
        device_id=settings.device_id,
        models=tuple(registry.models.values()),
        embedding_cache=settings.generator_embedding_cache << 20,
        preview_every=settings.generator_preview_every,
        preview_size=settings.generator_preview_size,
        memory=settings.memory_rules(),
        remote=remote,
    )
    return HostOptions(
        config=config,
        preload=tuple(spec.key for spec in registry.preloaded()),
        environment=settings.engine_environment(),
        patience=settings.patience(),
        log_level=settings.log_level,
        log_format=settings.log_format,
        restart_delay=settings.generator_engine_delay,
    )


def _swap(registry: Catalogue, host: EngineHost, news: Callable[[], None]) -> Callable[[], None]:
    """Hands a changed registry to the engine process, and tells of it, or of a file that cannot be used."""

    def swap() -> None:
        current = registry.current
        host.reconfigure(tuple(current.models.values()), tuple(spec.key for spec in current.preloaded()))
        news()

    return swap


def _engine(host: EngineHost, *, elsewhere: bool) -> Check:
    """Whether there is something to draw with; a server that is away is told in heartbeats, and is no fault of ours."""

    async def check() -> str | None:
        if not host.usable:
            return "the engine process is starting"
        if host.preloading:
            return f"{', '.join(sorted(host.preloading))} is being loaded"
        if not host.models and not elsewhere:
            return "no model can be run: " + "; ".join(host.problems.values())
        return None

    return check


if __name__ == "__main__":
    run(SERVICE, GENERATOR, GeneratorSettings, build)
