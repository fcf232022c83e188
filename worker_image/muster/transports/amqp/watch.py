"""How a worker learns that RabbitMQ has pushed something to it: its connection becomes readable.

The transport makes it. Messages come without being asked for, up to the prefetch count, so there is nothing
to claim while we wait: they are here already.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from muster.errors import BrokerUnavailable
from muster.transports.base import Seen

if TYPE_CHECKING:
    from muster.transports.amqp.transport import AmqpTransport


class AmqpWatch:
    """See the module, and `muster.transports.base.Watch`."""

    allowed = 0

    def __init__(self, transport: "AmqpTransport", notify: Callable[[], None]) -> None:
        self._transport = transport
        self._armed = False
        self._notify = notify
        transport.consumer.on_pushed = self._pushed

    def _pushed(self) -> None:
        """Say so at once: the descriptor is silent about what has come while something else was read."""
        if self._armed:
            self._notify()

    def arm(self, claim: int = 0) -> None:  # noqa: ARG002 - what is pushed is here before it is claimed
        """Ask to be told once, as soon as a message is here."""
        self._armed = True
        with contextlib.suppress(BrokerUnavailable):  # the loop's next turn hears of it
            self._transport.listen()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when it is time to `look`."""
        return self._transport.consumer.loop.fileno()

    def look(self) -> Seen:
        """Return what has come."""
        consumer = self._transport.consumer
        consumer.line.check()
        if not (self._armed and consumer.buffered):
            return Seen()
        self._armed = False
        return Seen(come=True)

    def recall(self) -> Seen:
        """Have nothing more pushed."""
        self._armed = False
        with contextlib.suppress(BrokerUnavailable):
            self._transport.pause()
        return Seen()

    def reset(self) -> None:
        """Be unarmed."""
        self._armed = False

    def close(self) -> None:
        """Stop waiting."""
        self._armed = False
