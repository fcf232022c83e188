"""A client's side of RabbitMQ: messages are sent with `mandatory`, and are there when `publish` returns.

Each thread that publishes takes a connection out of a pool for as long as it needs it. A process that was
forked gets connections of its own. Connections have no heartbeat, because nobody serves them between two
calls: a server that has gone without a word shows when a confirm does not come.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pika

from muster.core.effects import Publication
from muster.errors import BrokerRefused, BrokerUnavailable, MessageRejected, UnroutableMessage
from muster.settings.queues import AS_CELERY, QueueArguments
from muster.transports.amqp.address import addresses
from muster.transports.amqp.line import Line
from muster.transports.amqp.outbox import CONFIRM_SECONDS, Outbox, letter

POOL_LIMIT: Final = 10
"""How many connections a process has at most, as Celery's `broker_pool_limit`."""


class AmqpPublisher:
    """See the module, and `muster.transports.base.Publisher`.

    `delayed_type` is the type of the queues in which messages wait for their ETA, Celery's
    `broker_native_delayed_delivery_queue_type`. `create_missing_queues`: one that is not there is declared,
    with its `queue_arguments`. A broker that takes no messages is waited for, for
    `confirm_seconds`.
    """

    def __init__(
        self,
        url: str,
        *,
        delayed_type: str = "quorum",
        create_missing_queues: bool = True,
        queue_arguments: QueueArguments = AS_CELERY,
        pool_limit: int = POOL_LIMIT,
        confirm_seconds: float = CONFIRM_SECONDS,
    ) -> None:
        self._places = addresses(url, heartbeat_seconds=0)
        self._delayed_type = delayed_type
        self._declares = create_missing_queues
        self._arguments = queue_arguments
        self._limit = pool_limit
        self._confirm_seconds = confirm_seconds
        self._pools: dict[int, _Pool] = {}

    @contextmanager
    def _line(self) -> Iterator[Line]:
        pid = os.getpid()
        pool = self._pools.get(pid)
        if pool is None:
            # of two threads at once one wins, without a lock, which a fork might leave locked
            pool = self._pools.setdefault(pid, _Pool(self._places, self._limit, self._confirm_seconds))
        with pool.line() as line:
            yield line

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues, or let them wait on the broker for their ETA.

        Raises UnroutableMessage, BrokerUnavailable. Of several messages others may be there then.
        """
        if not publications:
            return
        with self._line() as line:
            outbox = Outbox(
                line,
                delayed_type=self._delayed_type,
                declares=self._declares,
                arguments=self._arguments,
                confirm_seconds=self._confirm_seconds,
            )
            left = outbox.send([letter(publication) for publication in publications])
            if left.missing:
                names = ", ".join(sorted({repr(publications[place].queue) for place in left.missing}))
                raise UnroutableMessage(
                    f"RabbitMQ at {line.place} has no queue {names}, and {len(left.missing)} messages are "
                    "nowhere: declare it, by a TaskQueue or by a worker that consumes it"
                )
            if left.refused:
                words = next(iter(left.refused.values()))
                raise BrokerRefused(
                    f"RabbitMQ at {line.place} does not take {len(left.refused)} of {len(publications)} "
                    f"messages: {words}"
                )
            if left.rejected:
                raise MessageRejected(
                    f"RabbitMQ at {line.place} rejects {len(left.rejected)} of {len(publications)} messages: "
                    "a queue is full, until workers have emptied it, or the node that it lives on is away"
                )

    def close(self) -> None:
        """Give up the connections."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()


class _Pool:
    """The connections of one process: as many as threads publish at once, up to a limit."""

    def __init__(
        self, places: Sequence[pika.ConnectionParameters], limit: int, patience_seconds: float
    ) -> None:
        self._places, self._limit, self._patience = places, limit, patience_seconds
        self._free: list[Line] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(limit)

    @contextmanager
    def line(self) -> Iterator[Line]:
        """Lend an open connection. It is kept for the next one, unless it is broken.

        Raises BrokerUnavailable when none becomes free in time.
        """
        if not self._slots.acquire(timeout=self._patience):
            raise BrokerUnavailable(
                f"RabbitMQ: all {self._limit} connections of this process (broker_pool_limit) are in use for "
                f"{self._patience:g} s now"
            )
        try:
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
        finally:
            self._slots.release()

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
