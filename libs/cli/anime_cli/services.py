"""The five services of the stack, as a table; and the workers that drive ComfyUI servers, one more for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anime_common import db
from anime_common.migrations import folder_of, migrate


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its name in the logs, and on the bus unless `user` is another; the module that `python -m` runs.

    `worker` is what a generator calls itself, where that is not the stack's to choose.
    """

    name: str
    module: str
    user: str = ""
    worker: str = ""

    @property
    def identity(self) -> str:
        """Who it is on the bus."""
        return self.user or self.name

    @property
    def has_database(self) -> bool:
        """Whether it owns a schema."""
        return self.name in db.SCHEMAS


SERVICES: tuple[Service, ...] = (
    Service("jobs", "anime_jobs"),
    Service("echo", "anime_echo_bridge"),
    Service("files", "anime_files"),
    Service("generator", "anime_generator"),
    Service("gateway", "anime_gateway"),
)
"""In the order of stopping, reversed: people first lose the door, last the ledger."""


def comfyui_worker(server: str) -> Service:
    """The generator that drives the ComfyUI server of a name."""
    return Service(f"comfyui-{server}", "anime_generator", user="generator", worker=server)


async def prepare_database(
    admin_dsn: str, service_roles: Mapping[str, str], *, admin_password: str | None = None, exclusive: bool = False
) -> dict[str, db.Access]:
    """Make roles and schemas and migrate each to its newest version; returns how each service connects.

    `service_roles` maps services to passwords. Raises what `db.provision` and `migrations.migrate` raise.
    """
    access = await db.provision(admin_dsn, service_roles, admin_password=admin_password, exclusive=exclusive)
    for service in SERVICES:
        if service.name in access:
            own = access[service.name]
            schema = db.SCHEMAS[service.name][0]
            await migrate(own.dsn, folder_of(service.module), schema, password=own.password)
    return access
