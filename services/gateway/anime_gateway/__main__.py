"""The gateway: `python -m anime_gateway`."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from anime_common import http, service
from anime_common.artifacts import Artifacts
from anime_common.service import Runtime
from anime_common.topology import GATEWAY
from anime_gateway.access import Access
from anime_gateway.app import serve
from anime_gateway.commands import Commands
from anime_gateway.deps import Gateway
from anime_gateway.hub import Hub
from anime_gateway.protocol import DoorProtocol
from anime_gateway.settings import GatewaySettings
from anime_gateway.snapshots import Snapshots
from anime_gateway.stream import Streams

log = structlog.get_logger(__name__)

SERVER: dict[str, Any] = {
    "http": DoorProtocol,
    "ws": "websockets-sansio",
    "ws_max_size": 64 * 1024,
    "ws_per_message_deflate": False,
    "proxy_headers": False,
    "server_header": False,
    "backlog": 4096,
}


async def build(runtime: Runtime[GatewaySettings]) -> None:
    """Wire the parts and open the door."""
    gateway = make(runtime)
    runtime.spawn(gateway.hub.run(runtime.stop), "hub")
    runtime.spawn(gateway.access.watch(runtime.stop), "access")
    runtime.checks["events"] = gateway.hub.check
    runtime.checks["tokens"] = gateway.access.check
    settings = runtime.settings
    port = await runtime.closing.enter_async_context(
        http.running(serve(gateway), host=settings.gateway_host, port=settings.gateway_port, **SERVER)
    )
    host = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
    log.info("serving", url=f"http://{host}:{port}/")


def make(runtime: Runtime[GatewaySettings]) -> Gateway:
    """The parts of a gateway, not yet running."""
    settings, bus = runtime.settings, runtime.bus
    commands = Commands(bus, wait=settings.gateway_submit_wait, publish_wait=settings.gateway_publish_wait)
    hub = Hub(bus, overhear=commands.overhear, check_every=settings.gateway_tail_check, limit=settings.gateway_streams)
    streams = Streams(
        hub, Snapshots(hub, settings.gateway_rpc_wait), settings.gateway_heartbeat, settings.gateway_replay
    )
    artifacts, uploading = Artifacts(settings.artifacts_url), asyncio.Semaphore(settings.gateway_uploads)
    return Gateway(settings, bus, hub, commands, streams, artifacts, Access(settings), uploading)


def main() -> None:
    """Run until stopped."""
    service.run("gateway", GATEWAY, GatewaySettings, build)


if __name__ == "__main__":
    main()
