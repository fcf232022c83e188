"""Messages on their way into queues of RabbitMQ, confirmed: at once, or after having waited for their time.

Publishers and workers' transports have one over a line of theirs. It sees to it that a message which waits
comes to its queue afterwards, and declares queues that are missing, where it may. What becomes of a message
that no queue takes is its caller's business.
"""

import enum
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pika

from muster.core.effects import Publication
from muster.errors import BrokerBlocked, BrokerUnavailable
from muster.settings.queues import AS_CELERY, QueueArguments
from muster.transports.amqp.delayed import (
    DELIVERY_EXCHANGE,
    ENTRY,
    Exchange,
    ExchangeBinding,
    Queue,
    QueueBinding,
    layout,
    return_of,
    routing_key,
)
from muster.transports.amqp.line import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    Answered,
    Line,
    Parcel,
    Refusal,
)
from muster.wire.amqp import to_amqp
from muster.wire.errors import MalformedMessage

logger = logging.getLogger("muster.transport")

LONGEST_NAME_BYTES: Final = 255
_LARGEST: Final = re.compile(r"is larger than configured max size (\d+)")
NOTHING: Final = Answered(set(), [], 0)
CONFIRM_SECONDS: Final = 10.0
"""How long a call waits for its confirms, and for a server that takes no messages now."""


class Letter(msgspec.Struct, frozen=True):
    """A message for a queue; one with an `eta` (Unix seconds) that has not come waits on the broker."""

    queue: str
    body: bytes
    properties: Any
    """pika's BasicProperties."""
    eta: float = 0.0


class Trouble(enum.Enum):
    """Why a message comes to no queue."""

    MISSING = "there is no such queue"
    AWAY = "the node that it lives on is away"


class Left(msgspec.Struct, frozen=True):
    """What could not be delivered, by place in what was sent; all else has been confirmed."""

    missing: Sequence[int] = ()
    """There is no such queue."""
    rejected: Sequence[int] = ()
    """The queue is full, or its node is away."""
    refused: Mapping[int, str] = {}
    """The server does not take such a message, ever, with its words: it is too large, mostly."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.rejected or self.refused)


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
        self._largest: float = math.inf
        """How many bytes a message may have, as far as the server has said so."""
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
        refused = {
            number: f"{len(each.body)} bytes are more than the {self._largest} that it is configured to take"
            for number, each in enumerate(letters)
            if len(each.body) > self._largest
        }
        trouble = self._prepare_delays({each.queue for each in letters if each.eta > now})
        kept = {
            number: trouble[each.queue]
            for number, each in enumerate(letters)
            if each.eta > now and each.queue in trouble and number not in refused
        }
        sent = [number for number in range(len(letters)) if number not in kept and number not in refused]
        parcels = [_parcel(letters[number], now) for number in sent]
        answered, odd = self._publish(sent, parcels, len(letters))
        returned = [place for place in _returned(parcels, answered) if place not in odd]
        rejected = [sent[place] for place in answered.rejected]
        if returned:
            found = self._look_for(
                {letters[sent[place]].queue for place in returned},
                {letters[sent[place]].queue for place in returned if parcels[place].exchange == ENTRY},
            )
            anew = [place for place in returned if found[letters[sent[place]].queue] is None]
            kept |= {sent[p]: why for p in returned if (why := found[letters[sent[p]].queue]) is not None}
            again = [parcels[place] for place in anew]
            answered, more = self._publish([], again, len(letters)) if again else (NOTHING, {})
            rejected += [sent[anew[place]] for place in answered.rejected]
            odd |= {anew[place]: words for place, words in more.items()}
            kept |= {sent[anew[p]]: Trouble.MISSING for p in _returned(again, answered) if p not in more}
        return Left(
            [number for number, why in kept.items() if why is Trouble.MISSING],
            [*rejected, *(number for number, why in kept.items() if why is Trouble.AWAY)],
            refused | {sent[place]: words for place, words in odd.items()},
        )

    def _look_for(self, queues: set[str], waiting: set[str]) -> dict[str, Trouble | None]:
        """Return of each queue to which something did not come why it is so; None: it may be sent again.

        `waiting`: those of them for which it was to wait first.
        """
        if waiting:  # the place to wait is half made still
            self._lay_out()
        trouble = self._prepare_delays(waiting)
        found: dict[str, Trouble | None] = {queue: trouble.get(queue) for queue in waiting}
        for queue in sorted(queues - waiting):
            found[queue] = self._declared(queue) if self._declares else self._asked(queue)
        return found

    def _publish(
        self, sent: list[int], parcels: Sequence[Parcel], count: int
    ) -> tuple[Answered, dict[int, str]]:
        """Publish; return what the server has said, and by place what it refuses.

        `sent` and `count` are for a call that is given up; see `_under_way`.
        """
        try:
            return self._line.publish(parcels, self._confirm_seconds, patient=self._patient), {}
        except BrokerBlocked:
            self._under_way = (sent, list(parcels) if sent else [], count)
            raise
        except Refusal as refusal:
            if refusal.code != PRECONDITION_FAILED:
                raise
            return self._publish_singly(parcels, refusal.left, count)

    def _publish_singly(
        self, parcels: Sequence[Parcel], places: Sequence[int], count: int
    ) -> tuple[Answered, dict[int, str]]:
        """Publish each by itself: the server does not say which one it has closed the channel for."""
        returned: set[tuple[str, str]] = set()
        rejected: list[int] = []
        refused: dict[int, str] = {}
        for place in places:
            try:
                answered = self._line.publish([parcels[place]], self._confirm_seconds, patient=self._patient)
            except BrokerBlocked:
                self._under_way = ([], [], count)
                raise
            except Refusal as refusal:
                if refusal.code != PRECONDITION_FAILED:
                    raise
                refused[place] = str(refusal)
                if found := _LARGEST.search(str(refusal)):  # the next one costs nobody its channel
                    self._largest = int(found[1])
            else:
                returned |= answered.returned
                rejected += [place] * len(answered.rejected)
        return Answered(returned, rejected, len(parcels)), refused

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

    def _declared(self, queue: str) -> Trouble | None:
        """Declare a queue; return why it is not there then. One that we may not declare concerns no other."""
        try:
            declare_part(self._line, Queue(queue, self._arguments.of(queue)))
        except Refusal as refusal:
            logger.warning("RabbitMQ at %s: queue %s is not declared: %s", self._line.place, queue, refusal)
            return Trouble.AWAY if refusal.code == NOT_FOUND else Trouble.MISSING
        return None

    def _asked(self, queue: str) -> Trouble | None:
        """Return why a queue is not there, which we do not declare; None: it has come meanwhile."""
        try:
            return Trouble.MISSING if self._line.count(queue) is None else None
        except Refusal as refusal:
            return Trouble.AWAY if refusal.code == NOT_FOUND else Trouble.MISSING

    def _lay_out(self) -> None:
        lay_out(self._line, self._delayed_type)
        self._has_delays = True

    def _prepare_delays(self, queues: set[str]) -> dict[str, Trouble]:
        """See that a message can wait, and comes to its queue then: unbound, it would be lost.

        Returns why some queues cannot be led to.
        """
        if queues and not self._has_delays:
            try:
                channel = self._line.channel
                self._line.ask(lambda done: channel.exchange_declare(ENTRY, passive=True, callback=done))
            except Refusal as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                self._lay_out()
            self._has_delays = True
        # each time: a queue that was deleted and declared again has lost its bindings
        found = {queue: self._led_to(queue) for queue in sorted(queues)}
        return {queue: trouble for queue, trouble in found.items() if trouble is not None}

    def _led_to(self, queue: str) -> Trouble | None:
        try:
            self._lead_to(queue)
        except Refusal as refusal:
            if refusal.code == ACCESS_REFUSED:
                logger.warning("RabbitMQ at %s: queue %s is not bound: %s", self._line.place, queue, refusal)
                return Trouble.MISSING
            if refusal.code != NOT_FOUND:
                raise
            if not refusal.is_absence:
                return Trouble.AWAY
            trouble = self._declared(queue) if self._declares else Trouble.MISSING
            if trouble is None:
                self._lead_to(queue)
            return trouble
        return None

    def _lead_to(self, queue: str) -> None:
        try:
            declare_part(self._line, return_of(queue))
        except Refusal as refusal:
            if not str(refusal).startswith(f"NOT_FOUND - no exchange '{DELIVERY_EXCHANGE}'"):
                raise
            self._lay_out()  # whoever made the place to wait has not come to its end
            declare_part(self._line, return_of(queue))


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


def lay_out(line: Line, delayed_type: str) -> None:
    """Declare the place in which messages wait. Raises Refusal."""
    for part in layout(delayed_type):
        declare_part(line, part)


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
