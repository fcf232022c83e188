"""Messages on their way into queues of RabbitMQ, confirmed: at once, or after having waited for their time.

Publishers and workers' transports have one over a line of theirs. It sees to it that a message which waits
comes to its queue afterwards, and declares queues that are missing, where it may. What becomes of a message
that no queue takes is its caller's business.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pika

from muster.core.effects import Publication
from muster.errors import BrokerBlocked, BrokerUnavailable
from muster.settings.queues import AS_CELERY, QueueArguments
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
from muster.transports.amqp.line import NOT_FOUND, Answered, Line, Parcel, Refusal
from muster.wire.amqp import to_amqp
from muster.wire.errors import MalformedMessage

LONGEST_NAME_BYTES: Final = 255
CONFIRM_SECONDS: Final = 10.0
"""How long a call waits for its confirms, and for a server that takes no messages now."""


class Letter(msgspec.Struct, frozen=True):
    """A message for a queue; one with an `eta` (Unix seconds) that has not come waits on the broker."""

    queue: str
    body: bytes
    properties: Any
    """pika's BasicProperties."""
    eta: float = 0.0


class Left(msgspec.Struct, frozen=True):
    """What could not be delivered, by place in what was sent; all else has been confirmed."""

    missing: Sequence[int] = ()
    """There is no such queue."""
    rejected: Sequence[int] = ()
    """The queue is full."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.rejected)


def letter(publication: Publication) -> Letter:
    """Return what carries a publication. Raises MalformedMessage."""
    message = to_amqp(publication.raw)
    properties = pika.BasicProperties(
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers,
        delivery_mode=message.delivery_mode,
        priority=publication.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=message.expiration,
        timestamp=message.timestamp,
    )
    try:
        properties.encode()
        fits = len(publication.queue.encode()) <= LONGEST_NAME_BYTES
    except Exception as error:  # noqa: BLE001 - pika's, struct's and codecs', each of its own kind
        raise MalformedMessage("MalformedMessage", f"AMQP cannot carry it: {str(error)[:200]}") from None
    if not fits:
        raise MalformedMessage("MalformedMessage", "the queue's name is longer than AMQP can carry")
    return Letter(publication.queue, message.body, properties, publication.eta)


class Outbox:
    """See the module.

    `delayed_type` is the type of the queues in which messages wait, Celery's
    `broker_native_delayed_delivery_queue_type`. `declares`: a queue that is not there is declared, durable
    and with its `arguments`. `patient`: a server that takes no messages now is waited for; else `send` raises
    BrokerBlocked at once, and `finish` tells what became of what was under way.
    """

    def __init__(
        self,
        line: Line,
        *,
        delayed_type: str,
        declares: bool,
        arguments: QueueArguments = AS_CELERY,
        confirm_seconds: float = CONFIRM_SECONDS,
        patient: bool = True,
    ) -> None:
        self._line = line
        self._delayed_type = delayed_type
        self._declares = declares
        self._arguments = arguments
        self._confirm_seconds = confirm_seconds
        self._patient = patient
        self._has_delays = False
        """Whether the place to wait was there when we looked last."""
        self._under_way: tuple[list[int], list[Parcel], int] | None = None
        """Of a call that was given up: which letters were sent, as what, and of how many in all."""

    def send(self, letters: Sequence[Letter]) -> Left:
        """Send; returns when the broker has them. Raises BrokerUnavailable: then some may be there."""
        if not letters:
            return Left()
        try:
            return self._send(letters)
        except BrokerBlocked:
            if (
                self._under_way is None
            ):  # blocked while something else was asked: nothing is known to be there
                self._under_way = ([], [], len(letters))
            raise
        except Refusal as refusal:
            self._has_delays = False
            raise BrokerUnavailable(
                f"RabbitMQ at {self._line.place} answers with an error: {refusal}"
            ) from None

    def _send(self, letters: Sequence[Letter]) -> Left:
        now = time.time()
        late = {each.queue for each in letters if each.eta > now}
        gone = self._prepare_delays(late) if late else set()
        sent = [number for number, each in enumerate(letters) if each.queue not in gone or each.eta <= now]
        missing = [number for number in range(len(letters)) if number not in set(sent)] if gone else []
        parcels = [_parcel(letters[number], now) for number in sent]
        try:
            answered = self._publish(parcels)
        except BrokerBlocked:
            self._under_way = (sent, parcels, len(letters))
            raise
        returned = _returned(parcels, answered)
        rejected = [sent[place] for place in answered.rejected]
        if returned and self._declares:
            for queue in sorted({letters[sent[place]].queue for place in returned}):
                self._declare(queue)
            again = [parcels[place] for place in returned]
            answered = self._publish(again)
            rejected += [sent[returned[place]] for place in answered.rejected]
            returned = [returned[place] for place in _returned(again, answered)]
        return Left([*missing, *(sent[place] for place in returned)], rejected)

    def _publish(self, parcels: Sequence[Parcel]) -> Answered:
        return self._line.publish(parcels, self._confirm_seconds, patient=self._patient)

    def finish(self) -> Left | None:
        """Return what was not delivered in a call that raised BrokerBlocked; None: that is not known yet."""
        if self._under_way is None:
            return Left()
        answered = self._line.answer()
        if answered is None:
            return None
        (sent, parcels, count), self._under_way = self._under_way, None
        failed = {*_returned(parcels, answered), *answered.rejected, *range(answered.sent, len(parcels))}
        delivered = {number for place, number in enumerate(sent) if place not in failed}
        return Left([number for number in range(count) if number not in delivered])

    def forget(self) -> None:
        """Be done with what was under way: its connection is gone, and with it the answer."""
        self._under_way = None
        self._has_delays = False

    def _declare(self, queue: str) -> None:
        declare_part(self._line, Queue(queue, self._arguments.of(queue)))

    def _prepare_delays(self, queues: set[str]) -> set[str]:
        """See that a message can wait, and comes to its queue then: unbound, it would be lost.

        Returns the queues that are not there.
        """
        if not self._has_delays:
            try:
                channel = self._line.channel
                self._line.ask(lambda done: channel.exchange_declare(ENTRY, passive=True, callback=done))
            except Refusal as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                for part in layout(self._delayed_type):
                    declare_part(self._line, part)
            self._has_delays = True
        return {queue for queue in sorted(queues) if not self._bound(queue)}

    def _bound(self, queue: str) -> bool:
        # each time: a queue that was deleted and declared again has lost its bindings
        try:
            declare_part(self._line, return_of(queue))
        except Refusal as refusal:
            if refusal.code != NOT_FOUND:
                raise
            if not self._declares:
                return False
            self._declare(queue)
            declare_part(self._line, return_of(queue))
        return True


def _returned(parcels: Sequence[Parcel], answered: Answered) -> list[int]:
    """Return which parcels reached no queue."""
    if not answered.returned:
        return []
    return [
        place
        for place, parcel in enumerate(parcels)
        if (parcel.exchange, parcel.routing_key) in answered.returned
    ]


def _parcel(letter: Letter, now: float) -> Parcel:
    if letter.eta > now:
        return Parcel(ENTRY, routing_key(letter.eta - now, letter.queue), letter.body, letter.properties)
    return Parcel("", letter.queue, letter.body, letter.properties)


def declare_part(line: Line, part: Exchange | Queue | QueueBinding | ExchangeBinding) -> None:
    """Declare an exchange or a queue, or bind one. Raises Refusal."""
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
