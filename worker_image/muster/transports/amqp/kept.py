"""Messages that are held for longer than RabbitMQ lets anybody hold one without acknowledging it.

The server closes the channel of who has not acknowledged a message within its `consumer_timeout`, 30 minutes
by default, and with it all else that was held there. So whoever holds one for long puts a copy into a queue
of its own, takes it from there at once, and acknowledges the first: the copy's time begins anew. Nothing runs
twice for that, since the copy is never claimed: it takes the other's place.

When the worker is lost, nobody takes the copy any more. When its time to live is over, which it mostly is by
then, it goes to the queue that it came from, marked as one that has begun. If the connection is lost between
copy and acknowledgement, both come back and the task runs once more than it would.

A worker's transport calls it, in its housekeeping. It knows no task.
"""

import hashlib
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from muster.errors import BrokerBlocked
from muster.transports.amqp.consumer import Consumer, Pushed
from muster.transports.amqp.line import Line, Parcel, Refusal
from muster.transports.amqp.names import KEPT, KEPT_HEADER

logger = logging.getLogger("muster.transport")

KEEP_AFTER_SECONDS: Final = 240.0
"""RabbitMQ's documents name five minutes as the smallest sensible timeout; it looks once a minute."""
ALONE_MILLISECONDS: Final = 30_000
"""How long a copy lies there when its worker is gone: longer than a reconnection takes."""
UNUSED_MILLISECONDS: Final = 3600 * 1000
"""A queue that nobody consumes is removed then; long before that it is empty."""
TIMEOUT_MILLISECONDS: Final = 1_800_000
"""What holds for what is kept, where RabbitMQ has a timeout for each queue: its own default."""
AGAIN_SECONDS: Final = 15.0
"""When a queue is tried again of which something could not be renewed."""
UNDER_WAY_SECONDS: Final = 60.0
"""For how long a copy is awaited before there is another."""
FORGOTTEN_SECONDS: Final = 3600.0
"""A copy that has not come by then does not come."""


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
        self._mark = uuid.uuid4().hex
        """No copy of another's is taken for one of ours."""
        self._names = itertools.count(1)
        self._life = 0
        self._ready: set[str] = set()
        """Queues whose keeping queue is there and consumed, in this life of the connection."""
        self._again_at: dict[str, float] = {}
        """Queues of which something could not be renewed, and when they are tried again."""
        self._awaited: dict[str, tuple[Pushed, float]] = {}
        """By the copy's name: whose copies are on their way to us, and since when."""

    def keep(self, held: Iterable[Pushed], confirm_seconds: float) -> None:
        """Renew what has been held for long. Raises BrokerUnavailable."""
        if self._life != self._consumer.life:
            self._life = self._consumer.life
            self._ready.clear()
            self._awaited.clear()
        now = time.monotonic()
        late = [each for each in held if now - each.at > self._after_seconds]
        if not late:
            return
        self._awaited = {
            name: (pushed, at) for name, (pushed, at) in self._awaited.items() if now - at < FORGOTTEN_SECONDS
        }
        under_way = {id(pushed) for pushed, at in self._awaited.values() if now - at < UNDER_WAY_SECONDS}
        parcels: list[tuple[str, Parcel]] = []
        for pushed in late:
            if id(pushed) not in under_way and self._prepare(pushed.queue, now):
                name = f"{self._mark}:{next(self._names)}"
                self._awaited[name] = (pushed, now)
                place = kept_queue(self._worker, pushed.queue)
                parcels.append((pushed.queue, self._copy(pushed, place, {KEPT_HEADER: name})))
        if not parcels:
            return
        # the first one alone: when the server takes no messages, it says so then, and no others are under way
        if not self._send(parcels[:1], confirm_seconds, now):
            for _, parcel in parcels[1:]:
                del self._awaited[parcel.properties.headers[KEPT_HEADER]]
        elif parcels[1:]:
            self._send(parcels[1:], confirm_seconds, now)

    def _send(self, parcels: Sequence[tuple[str, Parcel]], confirm_seconds: float, now: float) -> bool:
        """Publish copies; return whether the server goes on taking them."""
        try:
            answered = self._line.publish([each for _, each in parcels], confirm_seconds, patient=False)
        except BrokerBlocked:
            return False  # those that were sent come when it takes messages again
        except Refusal as refusal:
            self._again_at |= dict.fromkeys((queue for queue, _ in parcels), now + AGAIN_SECONDS)
            logger.warning("a message that is held for long could not be renewed: %s", refusal)
            return False
        rejected = set(answered.rejected)
        failed = 0
        for place, (queue, parcel) in enumerate(parcels):
            missing = (parcel.exchange, parcel.routing_key) in answered.returned
            if missing:
                self._ready.discard(queue)
            if missing or place in rejected:
                failed += 1
                self._again_at[queue] = now + AGAIN_SECONDS
                self._awaited.pop(parcel.properties.headers[KEPT_HEADER], None)
        if failed:
            logger.warning("%d messages that are held for long could not be renewed yet", failed)
        return True

    def _prepare(self, queue: str, now: float) -> bool:
        """See that the keeping queue is there, and that what comes into it is pushed to us."""
        if now < self._again_at.get(queue, 0.0):
            return False
        if queue in self._ready:
            return True
        self._again_at[queue] = now + AGAIN_SECONDS
        name = kept_queue(self._worker, queue)
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": ALONE_MILLISECONDS,
            "x-expires": UNUSED_MILLISECONDS,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-consumer-timeout": TIMEOUT_MILLISECONDS,
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
        if not self._consumer.consume_kept(name, queue, self._on_kept):
            return False  # its node has not heard of it yet
        self._ready.add(queue)
        del self._again_at[queue]
        return True

    def _on_kept(self, copy: Pushed) -> None:
        """Put a copy in the place of what it is a copy of."""
        found = self._awaited.pop((copy.properties.headers or {}).get(KEPT_HEADER, ""), None)
        if found is None:  # of an earlier life, in which its first went back: both are there
            self._consumer.reject([copy])
            return
        pushed, _ = found
        if not self._consumer.holds(pushed.number):
            self._consumer.ack([copy])  # its task has ended in the meantime
            return
        number = pushed.number
        self._consumer.ack([pushed])
        pushed.number, pushed.consumer, pushed.at = copy.number, copy.consumer, copy.at
        self._renumbered(number, copy.number)
