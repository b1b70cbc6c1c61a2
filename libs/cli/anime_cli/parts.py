"""The outside of a stack: which parts are embedded, which are taken from elsewhere, and what each service is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from anime_cli import registry_file
from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_cli.process import Child, StackError, free_port
from anime_cli.secret_files import secret_file, write_private
from anime_cli.services import SERVICES, Service, comfyui_worker, prepare_database
from anime_cli.settings import StackSettings, comfyui_servers, tokens_file
from anime_common import db
from anime_common.addresses import is_loopback, url_of
from anime_common.tokens import TokensUnreadable, read_tokens

_OURS = {f"ANIME_{name.upper()}" for name in StackSettings.model_fields} | {"ANIME_TOKEN"}
"""What no service is told as it stands in our own environment: settings of the stack, and who uses the command."""


@dataclass(slots=True)
class Parts:
    """The bus, the database and the artifact store of a stack, embedded or external."""

    settings: StackSettings
    nats: NatsServer | None = field(init=False)
    postgres: PostgresServer | None = field(init=False)
    access: dict[str, db.Access] = field(default_factory=dict, init=False)
    gateway_port: int = field(default=0, init=False)
    ports: dict[str, int] = field(default_factory=dict, init=False)

    services: tuple[Service, ...] = field(default=SERVICES, init=False)
    comfyui: Path = field(init=False)

    def __post_init__(self) -> None:
        settings, home = self.settings, self.settings.home
        try:
            self.comfyui, servers = comfyui_servers(settings)
        except ValueError as error:
            raise StackError(str(error)) from error
        gateway = len(SERVICES) - 1
        self.services = (*SERVICES[:gateway], *map(comfyui_worker, servers), *SERVICES[gateway:])
        self.nats = None if settings.nats_url else NatsServer(home, settings.nats_port, settings.nats_monitor_port)
        self.postgres = None if settings.postgres_dsn else PostgresServer(home, settings.postgres_port)

    @property
    def nats_url(self) -> str:
        """Where the bus is."""
        return self.settings.nats_url or (self.nats.url if self.nats else "")

    @property
    def postgres_dsn(self) -> str:
        """Where the administrator reaches the database, without a password."""
        return db.split_password(self._admin_dsn)[0]

    @property
    def artifacts_url(self) -> str:
        """Where the artifacts lie."""
        return self.settings.artifacts_url or (self.settings.home / "artifacts").as_uri()

    @property
    def _admin_dsn(self) -> str:
        return self.settings.postgres_dsn or (self.postgres.dsn if self.postgres else "")

    async def prepare_database(self) -> None:
        """Make roles, schemas and tables; raises what `services.prepare_database` raises."""
        secrets = self.settings.home / "secrets"
        roles = {
            service.name: secret_file(secrets, f"postgres-{service.name}").read_text().strip()
            for service in SERVICES
            if service.has_database
        }
        file = self.settings.postgres_password_file
        admin_password = self.postgres.password if self.postgres else (file.read_text().strip() if file else None)
        self.access = await prepare_database(
            self._admin_dsn, roles, admin_password=admin_password, exclusive=self.postgres is not None
        )

    def choose_ports(self) -> None:
        """Choose a port for the door and one for each service's health, once: a restart takes the same."""
        settings = self.settings
        self.gateway_port = free_port(settings.gateway_port, settings.gateway_host)
        # The five keep their ports, whatever servers come and go.
        for number, service in enumerate(sorted(self.services, key=lambda each: bool(each.worker))):
            wanted = settings.health_port and settings.health_port + number
            self.ports[service.name] = free_port(wanted, taken=[self.gateway_port, *self.ports.values()])

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        return url_of(self.settings.gateway_host, self.gateway_port)

    def check_door(self) -> None:
        """Refuse at once what the gateway would refuse only when all else runs: a door for others, and no key."""
        host, file = self.settings.gateway_host, tokens_file(self.settings)
        if is_loopback(host):
            return
        try:
            good = [token for token in read_tokens(file) if not token.expired(datetime.now(UTC))]
        except TokensUnreadable as error:
            raise StackError(f"the access tokens cannot be read: {error}") from error
        if not good:
            raise StackError(
                f"ANIME_GATEWAY_HOST={host} lets others in, and {file} holds no token that is good: make one first, "
                "with `anime token create NAME --scope admin`"
            )

    def health_url(self, service: str) -> str:
        """Where a service answers `/healthz`, `/readyz` and `/metrics`."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def environment(self, service: Service, extra: Mapping[str, str]) -> dict[str, str]:
        """All that a service is told: our own environment, less what is ours or another's, plus where things are."""
        settings = self.settings
        threads = max(1, (os.cpu_count() or 2) // 2)
        env = {name: value for name, value in os.environ.items() if name not in _OURS}
        # More OpenMP threads than free cores make torch ten times slower; spinning ones starve the other services.
        env = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"} | env
        env |= {
            "ANIME_NATS_URL": self.nats_url,
            "ANIME_ARTIFACTS_URL": self.artifacts_url,
            "ANIME_HTTP_HOST": "127.0.0.1",
            "ANIME_HTTP_PORT": str(self.ports[service.name]),
            "ANIME_LOG_FORMAT": settings.log_format,
            "ANIME_STOP_GRACE": f"{settings.stop_grace:g}",
        }
        if (file := self._nats_password_file(service.identity)) is not None:
            env |= {"ANIME_NATS_USER": service.identity, "ANIME_NATS_PASSWORD_FILE": str(file)}
        if service.name == "generator":
            env["ANIME_WORKER"] = settings.worker
            if "ANIME_MODELS" not in env | dict(extra):
                registry_file.ensure(settings.home / "models.toml")
                env["ANIME_MODELS"] = str(settings.home / "models.toml")
        if service.worker:
            env |= {"ANIME_WORKER": service.worker, "ANIME_COMFYUI": str(self.comfyui)}
        if service.name == "jobs" and "ANIME_WILDCARDS" not in env | dict(extra):
            env["ANIME_WILDCARDS"] = str(settings.home / "wildcards")
        if service.name == "gateway":
            env |= {
                "ANIME_GATEWAY_HOST": settings.gateway_host,
                "ANIME_GATEWAY_PORT": str(self.gateway_port),
                "ANIME_GATEWAY_TOKENS": str(tokens_file(settings)),
            }
        if service.name in self.access:
            env |= self._database_environment(service.name)
        return {**env, **extra}

    def _nats_password_file(self, user: str) -> Path | None:
        if self.nats is not None:
            return self.nats.password_file(user)
        return self.settings.nats_secrets / f"nats-{user}" if self.settings.nats_secrets else None

    def _database_environment(self, service: str) -> dict[str, str]:
        own = self.access[service]
        env = {"ANIME_POSTGRES_DSN": own.dsn}
        if own.password is not None:
            file = self.settings.home / "secrets" / (f"postgres-{service}" if own.own_role else "postgres-shared")
            if not own.own_role:
                write_private(file, own.password)
            env["ANIME_POSTGRES_PASSWORD_FILE"] = str(file)
        return env

    def servers(self) -> dict[str, Child]:
        """The child processes of the embedded servers, by name."""
        embedded = (self.nats, self.postgres)
        return {server.child.name: server.child for server in embedded if server is not None}
