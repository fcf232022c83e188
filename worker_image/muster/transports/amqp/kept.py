"""Messages that are held for longer than RabbitMQ lets anybody hold one without acknowledging it.

The server closes the channel of who has not acknowledged a message within its `consumer_timeout`, 30 minutes
by default, and with it all else that was held there. So whoever holds one for long puts a copy into a queue
of its own, takes it from there at once, and acknowledges the first: the copy's time begins anew. Nothing runs
twice for that, since the copy is never claimed: it takes the other's place.

When the worker is lost, nobody takes the copy any more. It lies there until its time to live is over, and
goes from there to the queue that it came from, marked as one that has begun. If the connection is lost in the
moment between copy and acknowledgement, both come back and the task runs once more than it would.

A worker's transport calls it, in its housekeeping. It knows no task.
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from muster.transports.amqp.consumer import Consumer, Pushed
from muster.transports.amqp.line import Line, Parcel, Refusal
from muster.transports.amqp.names import KEPT, KEPT_HEADER

logger = logging.getLogger("muster.transport")

KEEP_AFTER_SECONDS: Final = 240.0
"""RabbitMQ's documents name five minutes as the smallest sensible timeout; it looks once a minute."""
ALONE_MILLISECONDS: Final = 30_000
"""How long a copy lies there when its worker is gone: longer than a reconnection takes."""
UNUSED_MILLISECONDS: Final = 24 * 3600 * 1000
"""A queue that nobody consumes is removed then; long before that it is empty."""


def kept_queue(worker: str, queue: str) -> str:
    """Return the name of the queue that keeps one worker's messages of one queue."""
    return KEPT + hashlib.sha256(f"{worker}\n{queue}".encode()).hexdigest()[:32]


class Keeper:
    """See the module. `copy` makes the copy's parcel: to a queue, with headers added. Not thread-safe."""

    def __init__(
        self,
        consumer: Consumer,
        line: Line,
        worker: str,
        *,
        copy: Callable[[Pushed, str, dict[str, Any]], Parcel],
        renumbered: Callable[[int, int], None],
        after_seconds: float = KEEP_AFTER_SECONDS,
    ) -> None:
        """`renumbered` is called with a message's old number and its new one."""
        self._consumer = consumer
        self._line = line
        self._worker = worker
        self._copy = copy
        self._renumbered = renumbered
        self._after_seconds = after_seconds
        self._names = itertools.count(1)
        self._life = 0
        self._ready: set[str] = set()
        """Queues whose keeping queue is there and consumed, in this life of the connection."""
        self._awaited: dict[str, Pushed] = {}
        """By the copy's name: whose copies are on their way to us."""

    def keep(self, held: Iterable[Pushed], confirm_seconds: float) -> None:
        """Renew what has been held for long. Raises BrokerUnavailable."""
        if self._life != self._consumer.life:
            self._life = self._consumer.life
            self._ready.clear()
            self._awaited.clear()
        now = time.monotonic()
        parcels = []
        for pushed in [each for each in held if now - each.at > self._after_seconds]:
            pushed.at = now  # what the server does not take now is tried again when it is late once more
            if self._prepare(pushed.queue):
                name = f"{self._life}:{next(self._names)}"
                self._awaited[name] = pushed
                place = kept_queue(self._worker, pushed.queue)
                parcels.append(self._copy(pushed, place, {KEPT_HEADER: name}))
        if not parcels:
            return
        answered = self._line.publish(parcels, confirm_seconds, patient=False)
        failed = [parcels[place] for place in answered.rejected]
        failed += [each for each in parcels if (each.exchange, each.routing_key) in answered.returned]
        if failed:
            for parcel in failed:
                self._awaited.pop(parcel.properties.headers[KEPT_HEADER], None)
            self._ready.clear()
            logger.warning("%d messages that are held for long could not be renewed", len(failed))

    def _prepare(self, queue: str) -> bool:
        """See that the keeping queue is there, and that what comes into it is pushed to us."""
        if queue in self._ready:
            return True
        name = kept_queue(self._worker, queue)
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": ALONE_MILLISECONDS,
            "x-expires": UNUSED_MILLISECONDS,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        try:
            self._line.ask(
                lambda done: self._line.channel.queue_declare(
                    name, durable=True, arguments=arguments, callback=done
                )
            )
        except Refusal as refusal:
            logger.warning(
                "tasks of queue %s that take longer than the broker's consumer_timeout will run again: "
                "what keeps their messages cannot be declared: %s",
                queue,
                refusal,
            )
            return False
        self._consumer.consume_kept(name, queue, self._on_kept)
        self._ready.add(queue)
        return True

    def _on_kept(self, copy: Pushed) -> None:
        """Put a copy in the place of what it is a copy of."""
        pushed = self._awaited.pop((copy.properties.headers or {}).get(KEPT_HEADER, ""), None)
        if pushed is None:  # of an earlier life, in which its first went back: both are there
            self._consumer.reject([copy])
            return
        if not self._consumer.holds(pushed.number):
            self._consumer.ack([copy])  # its task has ended in the meantime
            return
        number = pushed.number
        self._consumer.ack([pushed])
        pushed.number, pushed.consumer, pushed.at = copy.number, copy.consumer, copy.at
        self._renumbered(number, copy.number)
