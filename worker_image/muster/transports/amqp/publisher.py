"""A client's side of RabbitMQ: messages are sent with `mandatory`, and are there when `publish` returns.

Each thread that publishes takes a connection out of a pool for as long as it needs it. A process that was
forked gets connections of its own. Connections have no heartbeat, because nobody serves them between two
calls: a server that has gone without a word shows when a confirm does not come.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pika

from muster.core.effects import Publication
from muster.errors import BrokerBlocked, BrokerUnavailable, UnroutableMessage
from muster.transports.amqp.address import addresses
from muster.transports.amqp.delayed import (
    ENTRY,
    Exchange,
    ExchangeBinding,
    Queue,
    QueueBinding,
    layout,
    return_of,
    routing_key,
)
from muster.transports.amqp.line import NOT_FOUND, Line, Parcel, Refusal
from muster.wire.amqp import to_amqp

POOL_LIMIT: Final = 10
"""How many connections a process has at most, as Celery's `broker_pool_limit`."""
CONFIRM_SECONDS: Final = 10.0
"""How long a call waits for its confirms, and for a server that takes no messages now."""


class AmqpPublisher:
    """See the module, and `muster.transports.base.Publisher`.

    `delayed_type` is the type of the queues in which messages wait for their ETA, Celery's
    `broker_native_delayed_delivery_queue_type`. `create_missing_queues`: one that is not there is declared as
    Celery's clients do it, durable and without arguments.
    """

    def __init__(
        self,
        url: str,
        *,
        delayed_type: str = "quorum",
        create_missing_queues: bool = True,
        pool_limit: int = POOL_LIMIT,
        confirm_seconds: float = CONFIRM_SECONDS,
    ) -> None:
        self._places = addresses(url, heartbeat_seconds=0)
        self._delayed_type = delayed_type
        self._declares = create_missing_queues
        self._limit = pool_limit
        self._confirm_seconds = confirm_seconds
        self._pools: dict[int, _Pool] = {}

    @contextmanager
    def _line(self) -> Iterator[Line]:
        pid = os.getpid()
        pool = self._pools.get(pid)
        if pool is None:
            # of two threads at once one wins, without a lock, which a fork might leave locked
            pool = self._pools.setdefault(pid, _Pool(self._places, self._limit))
        with pool.line() as line:
            yield line

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues, or let them wait on the broker for their ETA.

        Raises UnroutableMessage, BrokerUnavailable. Of several messages others may be there then.
        """
        if not publications:
            return
        with self._line() as line:
            try:
                self._publish(line, publications)
            except Refusal as refusal:
                raise BrokerUnavailable(
                    f"RabbitMQ at {line.place} answers with an error: {refusal}"
                ) from None

    def _publish(self, line: Line, publications: Sequence[Publication]) -> None:
        now = time.time()
        late = {p.queue for p in publications if p.eta > now}
        if late:
            self._prepare_delays(line, late)
        missing = self._send(line, publications, now)
        if missing and self._declares:
            for queue in sorted({publication.queue for publication in missing}):
                self._declare(line, queue)
            missing = self._send(line, missing, now)
        if missing:
            names = ", ".join(sorted({repr(publication.queue) for publication in missing}))
            raise UnroutableMessage(
                f"RabbitMQ at {line.place} has no queue {names}, and {len(missing)} messages are nowhere: "
                "declare it, by a TaskQueue or by a worker that consumes it"
            )

    def _send(self, line: Line, publications: Sequence[Publication], now: float) -> list[Publication]:
        """Publish; return those for which there is no queue."""
        parcels = [_parcel(publication, now) for publication in publications]
        returned, rejected = line.publish(parcels, self._confirm_seconds)
        if rejected:
            raise BrokerBlocked(
                f"RabbitMQ at {line.place} rejects {rejected} of {len(parcels)} messages: a queue is full, "
                "and takes more when workers have emptied it"
            )
        return [
            publication
            for publication, parcel in zip(publications, parcels, strict=True)
            if (parcel.exchange, parcel.routing_key) in returned
        ]

    def _declare(self, line: Line, queue: str) -> None:
        line.ask(lambda done: line.channel.queue_declare(queue, durable=True, callback=done))

    def _prepare_delays(self, line: Line, queues: set[str]) -> None:
        """See that a message can wait, and comes to its queue then: unbound, it would be lost."""
        try:
            line.ask(lambda done: line.channel.exchange_declare(ENTRY, passive=True, callback=done))
        except Refusal as refusal:
            if refusal.code != NOT_FOUND:
                raise
            for part in layout(self._delayed_type):
                _declare_part(line, part)
        for queue in sorted(queues):
            try:
                _declare_part(line, return_of(queue))
            except Refusal as refusal:
                if refusal.code != NOT_FOUND or not self._declares:
                    raise UnroutableMessage(
                        f"RabbitMQ at {line.place} has no queue {queue!r}: nothing is sent to wait for it"
                    ) from None
                self._declare(line, queue)
                _declare_part(line, return_of(queue))

    def close(self) -> None:
        """Give up the connections."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()


class _Pool:
    """The connections of one process: as many as threads publish at once, up to a limit."""

    def __init__(self, places: Sequence[pika.ConnectionParameters], limit: int) -> None:
        self._places = places
        self._free: list[Line] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(limit)

    @contextmanager
    def line(self) -> Iterator[Line]:
        """Lend an open connection. It is kept for the next one, unless it is broken."""
        with self._slots:
            with self._lock:
                line = self._free.pop() if self._free else Line(self._places)
            try:
                self._open(line)
                yield line
            finally:
                if line.is_open and line.is_done:
                    with self._lock:
                        self._free.append(line)
                else:
                    line.close()

    def _open(self, line: Line) -> None:
        if not (
            line.is_open and line.check()
        ):  # it may have gone while nobody looked, and nothing was on its way
            line.open()

    def close(self) -> None:
        """Give them up."""
        with self._lock:
            lines, self._free = self._free, []
        for line in lines:
            line.close()


def _parcel(publication: Publication, now: float) -> Parcel:
    message = to_amqp(publication.raw)
    waits = publication.eta > now
    return Parcel(
        exchange=ENTRY if waits else "",
        routing_key=routing_key(publication.eta - now, publication.queue) if waits else publication.queue,
        body=message.body,
        properties=pika.BasicProperties(
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.headers,
            delivery_mode=message.delivery_mode,
            priority=publication.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=message.expiration,
            timestamp=message.timestamp,
        ),
    )


def _declare_part(line: Line, part: Exchange | Queue | QueueBinding | ExchangeBinding) -> None:
    channel = line.channel
    match part:
        case Exchange(name):
            line.ask(lambda done: channel.exchange_declare(name, "topic", durable=True, callback=done))
        case Queue(name, arguments):
            line.ask(
                lambda done: channel.queue_declare(name, durable=True, arguments=arguments, callback=done)
            )
        case QueueBinding(queue, exchange, key):
            line.ask(lambda done: channel.queue_bind(queue, exchange, key, callback=done))
        case ExchangeBinding(destination, source, key):
            line.ask(lambda done: channel.exchange_bind(destination, source, key, callback=done))
