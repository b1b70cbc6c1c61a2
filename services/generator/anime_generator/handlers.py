"""What the generator does about messages: offers from its durable consumer, orders from core NATS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from anime_common.consume import Delivery
from anime_common.contracts.generator import Control, Offer
from anime_common.failpoints import hit
from anime_common.messages import Message, uuid7
from anime_common.outcomes import Poison
from anime_generator import model

if TYPE_CHECKING:
    from anime_common.bus import Received
    from anime_generator.desk import Desk

log = structlog.get_logger(__name__)


async def on_offer(desk: Desk, offer: Offer, traceparent: str | None) -> None:
    """Hold what is offered; the next heartbeat lists it. Once this returns, the offer is acked."""
    before = desk.worker
    desk.apply(model.take_offer(before, offer, datetime.now(UTC), traceparent))
    taken = len(desk.worker.attempts) - len(before.attempts)
    log.info("offer", offer_id=str(offer.offer_id), jobs=len(offer.jobs), taken=taken, repeat=offer.repeat)
    await hit("generator.offer_taken")


async def on_control(desk: Desk, control: Control) -> None:
    """Obey an order; every one is safe to repeat."""
    if control.worker != desk.worker.name:
        log.warning("order_for_another", worker=control.worker)
        return
    log.info("order", **control.order.model_dump(mode="json"))
    desk.apply(model.obey(desk.worker, control.order, datetime.now(UTC), uuid7()))


async def handle(desk: Desk, deliveries: Sequence[Delivery]) -> None:
    """A batch from the durable consumer."""
    for delivery in deliveries:
        handler = HANDLERS.get(type(delivery.message))
        if handler is None:
            raise Poison(f"a generator does not handle {delivery.envelope.type}")
        await handler(desk, delivery.message, delivery.envelope.traceparent)


async def hear(desk: Desk, received: Received) -> None:
    """A message of core NATS. One that cannot be read is dropped: whoever sent it repeats it or nobody meant it."""
    try:
        control = Control.parse(received.data)
    except ValidationError as error:
        log.warning("order_unreadable", subject=received.subject, error=str(error))
        return
    await on_control(desk, control)


HANDLERS: dict[type[Message], Callable[..., Awaitable[None]]] = {Offer: on_offer}
