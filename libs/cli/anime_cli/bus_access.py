"""How the owner's command line reaches the bus: what is set, else the stack of this home."""

from __future__ import annotations

from anime_cli.settings import ClientSettings
from anime_cli.stack_file import read_stack_file
from anime_common.settings import ServiceSettings, load
from anime_common.topology import ADMIN


def admin_settings() -> ServiceSettings:
    """The settings of a connection as the bus's owner."""
    settings = load(ServiceSettings)
    home = load(ClientSettings).home.expanduser()
    changes: dict[str, object] = {"nats_user": settings.nats_user or ADMIN.name}
    stack = read_stack_file(home)
    if "nats_url" not in settings.model_fields_set and stack is not None:
        changes["nats_url"] = stack.nats_url
    secret = home / "secrets" / f"nats-{ADMIN.name}"
    if settings.nats_password is None and settings.nats_password_file is None and secret.exists():
        changes["nats_password_file"] = secret
    return settings.model_copy(update=changes)
