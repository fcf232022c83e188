"""How often a task starts in all workers together: its pace is a message that goes from hand to hand.

For each task with such a rate there is a queue of one message, which says what `core.rate` has to know. Who
wants to start takes it, and while it is in hand nobody else has it; the pace that follows is put into the
queue, confirmed, before the one taken is acknowledged, and only then anything starts. So who is lost on the
way has started nothing, and leaves the pace as it was or one that allows less. More than one message is never
kept: the newest pushes others out. It is a quorum queue, so that one node less holds nobody up.

A worker's transport calls it with all starts of a task in a turn, on the connection that publishes. Times are
those of the workers' machines, since RabbitMQ tells none.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import pika

from muster.core.rate import Pace, Rate, ask
from muster.errors import BrokerBlocked
from muster.transports.amqp.line import NOT_FOUND, Line, Parcel, Refusal, SideChannel, Taken
from muster.transports.amqp.names import PACE, PACE_KEPT_MILLISECONDS, PACE_LOCK

logger = logging.getLogger("muster.transport")

RESOURCE_LOCKED: Final = 405
LONGEST_TASK_BYTES: Final = 200
TRIES: Final = 5
"""How often somebody else's hand is waited for within one turn; they have it for milliseconds."""
TRY_AGAIN_SECONDS: Final = 0.002
FORGOTTEN_SECONDS: Final = 5.0
"""Who finds a pace missing asks again much sooner than that."""

_ARGUMENTS: Final[dict[str, Any]] = {
    "x-queue-type": "quorum",
    "x-max-length": 1,
    "x-overflow": "drop-head",
    "x-expires": PACE_KEPT_MILLISECONDS,
}
_PERSISTENT: Final = pika.BasicProperties(delivery_mode=2)
_decode = msgspec.json.Decoder(Pace).decode


def pace_queue(task: str) -> str:
    """Return the name of the queue that holds a task's pace."""
    encoded = task.encode()
    fits = len(encoded) <= LONGEST_TASK_BYTES
    return PACE + (task if fits else hashlib.sha256(encoded).hexdigest())


class Paces:
    """See the module. `lost_after_seconds`: a pace that nobody has had in hand for so long is made anew.

    That has to be longer than the broker takes to notice that who had it is gone.
    """

    def __init__(self, line: Line, *, confirm_seconds: float, lost_after_seconds: float) -> None:
        self._line = line
        self._confirm_seconds = confirm_seconds
        self._lost_after = lost_after_seconds
        self._there: set[str] = set()
        """Queues that have been seen on this connection."""
        self._unsure: list[tuple[Any, int]] = []
        """Channel and tag of paces in hand, of which the next one is under way."""
        self._missing: dict[str, tuple[float, float]] = {}
        """Queue → when we found it empty first, and last; monotonic seconds."""

    def forget(self) -> None:
        """Be done with what was known of a connection that has ended."""
        self._there.clear()
        self._unsure.clear()

    def ask(self, task: str, rates: Sequence[Rate], now: float) -> list[float] | None:
        """Ask for so many starts of a task, each at its rate.

        Returns for each 0.0 to start now, or a later time, Unix seconds, at which to ask again; None when it
        cannot be told now: others are asking. Raises BrokerUnavailable (BrokerBlocked when the broker stops
        taking messages meanwhile) and Refusal.
        """
        queue = pace_queue(task)
        if not self._is_sure():
            return None
        taken = self._take(queue, rates[0], now)
        if taken is None:
            return None
        pace = _read(taken.body)
        answers = []
        for rate in rates:
            pace, until = ask(rate, pace, now)
            answers.append(until)
        return answers if self._replace(queue, taken.tag, pace) else None

    def _take(self, queue: str, rate: Rate, now: float) -> Taken | None:
        """Take the pace in hand; None: somebody else has it."""
        if not self._is_there(queue):
            return None
        for number in range(TRIES):
            if number:
                self._line.rest(TRY_AGAIN_SECONDS)
                if self._line.blocked:
                    return None
            try:
                taken = self._line.get(queue)
            except Refusal as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                self._there.discard(queue)
                return None
            if taken is not None:
                self._missing.pop(queue, None)
                return taken
        if self._is_lost(queue):
            self._make_anew(queue, Pace(next_start=now + rate.tolerance_seconds))
        return None

    def _is_lost(self, queue: str) -> bool:
        """Note that the pace was not there; return whether that has been so for too long."""
        now = time.monotonic()
        since, last = self._missing.get(queue, (now, now))
        if now - last > FORGOTTEN_SECONDS:  # nobody has asked here meanwhile
            since = now
        self._missing[queue] = since, now
        return now - since > self._lost_after

    def _make_anew(self, queue: str, pace: Pace) -> None:
        with self._making(queue) as ours:
            if ours and not self._line.count(queue):
                logger.warning("the pace in queue %s is lost: it begins anew, evenly", queue)
                self._put(queue, pace)
        del self._missing[queue]

    def _is_there(self, queue: str) -> bool:
        """See that the queue is there; who makes it puts a full allowance into it.

        Nobody else looks meanwhile: a quorum queue is seen before it can be used, and who asks it for a
        message then loses the connection (RabbitMQ 3.10).
        """
        if queue in self._there:
            return True
        line = self._line
        with self._making(queue) as ours:
            if ours and line.count(queue) is None:
                line.ask(
                    lambda done: line.channel.queue_declare(
                        queue, durable=True, arguments=_ARGUMENTS, callback=done
                    )
                )
                self._put(queue, Pace())
            if ours:
                self._there.add(queue)
            return ours

    @contextmanager
    def _making(self, queue: str) -> Iterator[bool]:
        """Whether we alone make a pace now: by a queue that is ours until we say so, or are gone."""
        lock = PACE_LOCK + queue.removeprefix(PACE)
        side = self._line.new_channel()
        try:
            yield self._is_locked(side, lock)
        finally:  # also when there is no answer: what is said then is carried out in its order
            if side.is_open:
                side.channel.queue_delete(lock)
                side.channel.close()
                self._line.flush()

    @staticmethod
    def _is_locked(side: SideChannel, lock: str) -> bool:
        try:
            side.ask(lambda done: side.channel.queue_declare(lock, exclusive=True, callback=done))
        except Refusal as refusal:
            if refusal.code != RESOURCE_LOCKED:
                raise
            return False
        return True

    def _replace(self, queue: str, tag: int, pace: Pace) -> bool:
        """Put a pace into its queue in place of the one taken; return whether it is there."""
        try:
            done = self._put(queue, pace)
        except BrokerBlocked:
            self._unsure.append((self._line.channel, tag))
            raise
        if done:
            self._line.channel.basic_ack(tag)
        else:
            self._line.channel.basic_nack(tag)
        self._line.flush()
        return done

    def _is_sure(self) -> bool:
        """Be done with paces whose successor was on its way when the broker stopped listening."""
        if self._unsure and self._line.is_done:
            for channel, tag in self._unsure:
                if channel is self._line.channel:
                    channel.basic_ack(tag)
            self._unsure.clear()
        return not self._unsure

    def _put(self, queue: str, pace: Pace) -> bool:
        parcel = Parcel("", queue, msgspec.json.encode(pace), _PERSISTENT)
        answered = self._line.publish([parcel], self._confirm_seconds, patient=False)
        if answered.returned:
            self._there.discard(queue)
        return not (answered.returned or answered.rejected)


def _read(body: bytes) -> Pace:
    try:
        return _decode(body)
    except msgspec.DecodeError:  # somebody has put it there by hand
        return Pace()
