"""What RabbitMQ pushes to a worker: one connection that consumes, holds and acknowledges.

A worker's transport has one. Messages are pushed into a buffer per queue as far as the prefetch count lets
them; whoever has a place for some takes them from there. What has not been acknowledged when the connection
ends goes back to its queue by itself, which is why a delivery's tag names the connection's life, too. It
knows no task and decides nothing about a message.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import pika
from pika import spec

from muster.errors import BrokerUnavailable
from muster.transports.amqp.ioloop import OnDemandLoop
from muster.transports.amqp.line import Line, Refusal

logger = logging.getLogger("muster.transport")

MOST_PREFETCH: Final = 65_535
"""AMQP's own limit."""


class Pushed(msgspec.Struct, eq=False):
    """A message that was pushed to us."""

    number: int
    """Its delivery tag on this connection."""
    queue: str
    exchange: str
    routing_key: str
    redelivered: bool
    properties: Any
    body: bytes
    at: float
    """When it came, monotonic seconds."""


class Prefetch(msgspec.Struct, frozen=True):
    """How many messages of a queue may be with us unacknowledged."""

    count: int

    def fitting(self, wanted: int) -> "Prefetch":
        """Return what suits the wanted number: itself while it is near, as a change costs two round trips."""
        wanted = min(MOST_PREFETCH, max(1, wanted))
        return self if abs(wanted - self.count) < max(1, self.count // 4) else Prefetch(wanted)


class Consumer:
    """See the module. Not thread-safe. Methods raise BrokerUnavailable when the connection is not there."""

    def __init__(self, places: Sequence[pika.ConnectionParameters], queues: Sequence[str]) -> None:
        self.loop = OnDemandLoop()
        self.line = Line(places, self.loop)
        self.queues = list(queues)
        self.life = 0
        """Which connection it is: the tags of one mean nothing to the next."""
        self.buffers: dict[str, deque[Pushed]] = {queue: deque() for queue in queues}
        self._prefetch = Prefetch(0)
        self._tags: dict[str, str] = {}
        """Consumer tag → queue, of those that consume now."""
        self._queue_of: dict[str, str] = {}
        """The same, of all of this connection: what was on its way comes after a cancellation."""
        self._open: deque[int] = deque()
        """Delivery tags that are not acknowledged, in their order; those in `_acked` have been, alone."""
        self._acked: set[int] = set()
        self._number = 0

    @property
    def consuming(self) -> frozenset[str]:
        """The queues of which messages are pushed to us."""
        return frozenset(self._tags.values())

    @property
    def buffered(self) -> int:
        """How many messages are here and taken by nobody."""
        return sum(map(len, self.buffers.values()))

    def connect(self) -> None:
        """Connect anew. All that was here has gone back to its queue. Raises BrokerUnavailable."""
        self.forget()
        self.line.open()
        self.life += 1
        self.line.channel.add_on_cancel_callback(self._on_cancelled)

    def forget(self) -> None:
        """Be done with what the last connection has brought."""
        for buffer in self.buffers.values():
            buffer.clear()
        self._tags.clear()
        self._queue_of.clear()
        self._open.clear()
        self._acked.clear()
        self._prefetch = Prefetch(0)

    def _on_cancelled(self, frame: Any) -> None:
        """Hear that a queue, or the node that it lives on, is gone."""
        queue = self._tags.pop(frame.method.consumer_tag, None)
        if queue is not None:
            logger.warning("queue %s is no longer there to be consumed; it is looked for again", queue)

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        queue = self._queue_of[method.consumer_tag]
        self._open.append(method.delivery_tag)
        self.buffers[queue].append(
            Pushed(
                method.delivery_tag,
                queue,
                method.exchange,
                method.routing_key,
                method.redelivered,
                properties,
                body,
                time.monotonic(),
            )
        )

    # consuming

    def consume(self, queues: Iterable[str], wanted: int | None = None) -> None:
        """Have messages of these queues pushed, so many of each or as before. They have to be there."""
        fitting = self._prefetch.fitting(self._prefetch.count if wanted is None else wanted)
        if fitting is not self._prefetch:
            self.cancel()
            self._prefetch = fitting
            self._ask_qos()
        consumed = self.consuming
        for queue in queues:
            if queue not in consumed:
                self._consume(queue)

    def _ask_qos(self) -> None:
        channel, count = self.line.channel, self._prefetch.count
        self._ask(lambda done: channel.basic_qos(prefetch_count=count, callback=done))

    def _consume(self, queue: str) -> None:
        self._number += 1
        tag = f"muster-{self._number}"
        self._tags[tag] = queue
        self._queue_of[tag] = queue
        channel = self.line.channel
        self._ask(
            lambda done: channel.basic_consume(queue, self._on_message, consumer_tag=tag, callback=done)
        )

    def cancel(self, queues: Iterable[str] | None = None) -> None:
        """Have no more pushed, of these queues or of all; what is here or on its way stays ours."""
        gone = self.consuming if queues is None else frozenset(queues)
        for tag in [tag for tag, queue in self._tags.items() if queue in gone]:
            del self._tags[tag]
            self._ask(partial(self._cancel, tag))

    def _cancel(self, tag: str, done: Callable[[Any], None]) -> None:
        """Cancel a consumer. Pika's own function would send back what is on its way, as redelivered."""
        channel = self.line.channel
        reply = (spec.Basic.CancelOk, {"consumer_tag": tag})
        channel._rpc(spec.Basic.Cancel(consumer_tag=tag, nowait=False), done, [reply])  # noqa: SLF001

    def take(self, limit: int) -> list[Pushed]:
        """Take so many messages out of the buffers, those of the first queues first."""
        taken: list[Pushed] = []
        for buffer in self.buffers.values():
            while buffer and len(taken) < limit:
                taken.append(buffer.popleft())
        return taken

    # what becomes of what was taken

    def ack(self, numbers: Iterable[int]) -> None:
        """Acknowledge: in one word those before which nothing is left open, one by one the others."""
        done = set(numbers)
        last = 0
        while self._open and (self._open[0] in done or self._open[0] in self._acked):
            first = self._open.popleft()
            if first in done:
                done.discard(first)
                last = first
            else:
                self._acked.discard(first)
        channel = self.line.channel
        if last:
            channel.basic_ack(last, multiple=True)
        for number in done:
            channel.basic_ack(number)
        self._acked |= done

    def requeue(self, numbers: Iterable[int]) -> None:
        """Have messages put back where they were, marked as redelivered."""
        for number in numbers:
            self.line.channel.basic_nack(number, requeue=True)
            self._acked.add(number)

    def sync(self) -> None:
        """Return when the server has carried out what was said so far: an acknowledgement has no answer."""
        self._ask_qos()

    def serve(self) -> None:
        """Hear what has come. Raises BrokerUnavailable when the connection is not there any more."""
        self.line.serve()

    def _ask(self, question: Callable[[Callable[[Any], None]], object]) -> None:
        try:
            self.line.ask(question)
        except Refusal as refusal:  # with its channel all that we hold has gone
            self.line.close()
            raise BrokerUnavailable(
                f"RabbitMQ at {self.line.place} answers with an error: {refusal}"
            ) from None

    def close(self) -> None:
        """Give up the connection, and with it what was not acknowledged."""
        self.forget()
        self.line.close()
        self.loop.close()
