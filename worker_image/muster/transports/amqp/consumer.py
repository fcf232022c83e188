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
from muster.transports.amqp.names import SUSPECT_HEADER

logger = logging.getLogger("muster.transport")

MOST_PREFETCH: Final = 65_535
"""AMQP's own limit."""
REMEMBERED: Final = 1000
"""So many of a connection's consumers are remembered after their end."""
MOST_CONSUMERS: Final = 4
"""Of one queue, before they are replaced by one."""


class _Consuming(msgspec.Struct, eq=False):
    """One AMQP consumer: the server counts what it has pushed to it against its prefetch count."""

    queue: str
    prefetch: int
    open: int = 0
    """How many of those are not acknowledged."""


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
    consumer: _Consuming


def is_suspect(pushed: Pushed) -> bool:
    """Whether its last worker was lost while it held it, or that of the message which it is a copy of."""
    return bool(pushed.redelivered or (pushed.properties.headers or {}).get(SUSPECT_HEADER))


class Consumer:
    """See the module. Not thread-safe. Methods raise BrokerUnavailable when the connection is not there."""

    def __init__(self, places: Sequence[pika.ConnectionParameters], queues: Sequence[str]) -> None:
        self.loop = OnDemandLoop()
        self.line = Line(places, self.loop)
        self.line.reopens = False
        self.queues = list(queues)
        self.life = 0
        """Which connection it is: the tags of one mean nothing to the next."""
        self.buffers: dict[str, deque[Pushed]] = {queue: deque() for queue in queues}
        self._active: dict[str, _Consuming] = {}
        """By consumer tag, those that consume now."""
        self._all: dict[str, _Consuming] = {}
        """All of this connection: what was on its way comes after a cancellation."""
        self._ended: deque[str] = deque()
        """The tags of those that do not consume any more, in the order in which they ended."""
        self._open: deque[int] = deque()
        """Delivery tags that are not acknowledged, in their order; those in `_acked` have been, alone."""
        self._acked: set[int] = set()
        self._number = 0
        self.on_pushed: Callable[[], object] = lambda: None
        """Called for each message, in whatever call of ours it has come."""

    @property
    def consuming(self) -> frozenset[str]:
        """The queues of which messages are pushed to us."""
        return frozenset(consuming.queue for consuming in self._active.values())

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
        self._active.clear()
        self._all.clear()
        self._ended.clear()
        self._open.clear()
        self._acked.clear()

    def _on_cancelled(self, frame: Any) -> None:
        """Hear that a queue, or the node that it lives on, is gone."""
        gone = self._active.pop(frame.method.consumer_tag, None)
        if gone is not None:
            self._ended.append(frame.method.consumer_tag)
            logger.warning("queue %s is no longer there to be consumed; it is looked for again", gone.queue)

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        consuming = self._all[method.consumer_tag]
        self.buffers[consuming.queue].append(self._pushed(consuming, method, properties, body))
        self.on_pushed()

    def _pushed(self, consuming: _Consuming, method: Any, properties: Any, body: bytes) -> Pushed:
        consuming.open += 1
        self._open.append(method.delivery_tag)
        return Pushed(
            method.delivery_tag,
            consuming.queue,
            method.exchange,
            method.routing_key,
            method.redelivered,
            properties,
            body,
            time.monotonic(),
            consuming,
        )

    # consuming

    def consume(self, queues: Iterable[str], wanted: int) -> None:
        """Have messages of these queues pushed, so many more of each than are in hand. They have to be there.

        A queue that is consumed already gets one more consumer for what is missing: to change the prefetch
        count of the one that it has, this would have to be cancelled, and the new one would not count what
        the old one has in hand. More than is wanted is left: what finds no place is given back.
        """
        for queue in queues:
            active = [each for each in self._active.values() if each.queue == queue]
            spare = sum(each.prefetch - each.open for each in active) + len(self.buffers[queue])
            missing = wanted - spare
            worth = 1 if spare <= 0 else max(1, sum(each.prefetch for each in active) // 4)
            if not active or missing >= worth:
                if len(active) >= MOST_CONSUMERS:
                    self.cancel([queue])
                    missing = wanted - len(self.buffers[queue])
                self._consume(queue, min(MOST_PREFETCH, max(1, missing)))

    def _consume(self, queue: str, prefetch: int) -> None:
        channel = self.line.channel
        self._ask(lambda done: channel.basic_qos(prefetch_count=prefetch, callback=done))
        self._number += 1
        tag = f"muster-{self._number}"
        self._active[tag] = self._all[tag] = _Consuming(queue, prefetch)
        while len(self._ended) > REMEMBERED:
            old = self._ended.popleft()
            del self._all[old]  # nothing of it can be on its way any more
            channel._cleanup_consumer_ref(old)  # noqa: SLF001 - we have cancelled it without pika's word
        self._ask(
            lambda done: channel.basic_consume(queue, self._on_message, consumer_tag=tag, callback=done)
        )

    def consume_kept(self, place: str, queue: str, heard: Callable[[Pushed], object]) -> bool:
        """Have what is in `place`, a queue of ours alone, pushed to `heard`, as messages of `queue`.

        Returns False when the node that we consume from does not know that queue.
        """
        side = self.line.new_channel()  # a refusal closes the channel on which it was asked
        try:
            side.ask(lambda done: side.channel.queue_declare(place, passive=True, callback=done))
        except Refusal:
            return False
        side.channel.close()
        channel = self.line.channel
        consuming = _Consuming(queue, MOST_PREFETCH)

        def on_message(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            heard(self._pushed(consuming, method, properties, body))

        self._ask(lambda done: channel.basic_qos(prefetch_count=MOST_PREFETCH, callback=done))
        self._ask(lambda done: channel.basic_consume(place, on_message, callback=done))
        return True

    def cancel(self, queues: Iterable[str] | None = None) -> None:
        """Have no more pushed, of these queues or of all; what is here or on its way stays ours."""
        gone = self.consuming if queues is None else frozenset(queues)
        for tag in [tag for tag, each in self._active.items() if each.queue in gone]:
            del self._active[tag]
            self._ended.append(tag)
            self._ask(partial(self._cancel, tag))

    def _cancel(self, tag: str, done: Callable[[Any], None]) -> None:
        """Cancel a consumer. Pika's own function would send back what is on its way, as redelivered."""
        channel = self.line.channel
        reply = (spec.Basic.CancelOk, {"consumer_tag": tag})
        channel._rpc(spec.Basic.Cancel(consumer_tag=tag, nowait=False), done, [reply])  # noqa: SLF001

    def take(self, limit: int, *, suspects: bool = True) -> list[Pushed]:
        """Take so many messages out of the buffers, those of the first queues first.

        Without `suspects` none that may have run.
        """
        taken: list[Pushed] = []
        for queue, buffer in self.buffers.items():
            left = deque[Pushed]()
            while buffer and len(taken) < limit:
                pushed = buffer.popleft()
                (left if is_suspect(pushed) and not suspects else taken).append(pushed)
            if left:
                self.buffers[queue] = left + buffer
        return taken

    # what becomes of what was taken

    def ack(self, messages: Iterable[Pushed]) -> None:
        """Acknowledge: in one word those before which nothing is left open, one by one the others."""
        self._assert_open()
        done = set()
        for pushed in messages:
            pushed.consumer.open -= 1
            done.add(pushed.number)
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

    def requeue(self, messages: Iterable[Pushed]) -> None:
        """Have messages put back where they were, marked as redelivered."""
        self._refuse(messages, requeue=True)

    def reject(self, messages: Iterable[Pushed]) -> None:
        """Be done with messages: their queue has them dead-lettered."""
        self._refuse(messages, requeue=False)

    def _refuse(self, messages: Iterable[Pushed], *, requeue: bool) -> None:
        self._assert_open()
        for pushed in messages:
            pushed.consumer.open -= 1
            self.line.channel.basic_nack(pushed.number, requeue=requeue)
            self._acked.add(pushed.number)

    def holds(self, number: int) -> bool:
        """Whether a message of this connection is not acknowledged yet."""
        return number in self._open and number not in self._acked

    def _assert_open(self) -> None:
        if not self.line.is_open:
            raise BrokerUnavailable(f"RabbitMQ at {self.line.place} is not connected any more")

    def sync(self) -> None:
        """Return when the server has carried out what was said so far: an acknowledgement has no answer."""
        channel = self.line.channel
        self._ask(lambda done: channel.basic_qos(prefetch_count=1, callback=done))

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
