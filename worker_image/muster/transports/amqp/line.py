"""One connection to RabbitMQ with one channel, driven by whoever calls: no thread and no loop of its own.

Publishers, workers' transports and observers are made of lines. It knows pika, frames and confirms, and turns
what goes wrong into our errors; what a message or a queue is for, it does not know.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import pika
from pika import exceptions as amqp
from pika.spec import Basic

from muster.errors import (
    BrokerBlocked,
    BrokerRefused,
    BrokerUnavailable,
    NoVirtualHost,
    PermissionDenied,
)
from muster.transports.amqp.address import CONNECT_SECONDS, place_of
from muster.transports.amqp.ioloop import OnDemandLoop
from muster.transports.amqp.tables import complete

complete()
# it logs every lost connection as an error, with its own stack; we raise ours instead. Who wants to read
# pika's words sets its level.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)

ANSWER_SECONDS: Final = 10.0
"""How long the server may take for a confirm, or for the answer to a declaration."""
GOODBYE_SECONDS: Final = 0.5
WINDOW: Final = 500
"""How many messages may wait for their confirms at once."""
NOT_FOUND: Final = 404
ACCESS_REFUSED: Final = 403
PRECONDITION_FAILED: Final = 406


class Parcel(msgspec.Struct, frozen=True):
    """A message on its way to an exchange."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    """pika's BasicProperties."""
    mandatory: bool = True
    """Whether it is returned when it reaches no queue; else it is dropped."""


class Answered(msgspec.Struct, frozen=True):
    """What the server has said of parcels."""

    returned: set[tuple[str, str]]
    """(exchange, routing key) of those that reached no queue."""
    rejected: list[int]
    """Which of them, by their place, a queue has rejected."""
    sent: int
    """How many were sent at all, from the first."""


class Taken(msgspec.Struct, frozen=True):
    """A message that was asked for."""

    tag: int
    """To be acknowledged on the line's channel."""
    body: bytes


class Refusal(Exception):
    """The server has closed the channel because of what was asked; `code` is AMQP's.

    `left`: of parcels that were being published, the places of those that no queue is known to have.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.left: Sequence[int] = ()

    @property
    def is_absence(self) -> bool:
        """Whether there is no such queue. One whose node is away is not found either, with its messages."""
        return self.code == NOT_FOUND and str(self).startswith("NOT_FOUND - no queue ")


class Line:
    """See the module. Not thread-safe. Its methods raise BrokerUnavailable when the server is away.

    `loop` is one that outlives the connection, for who waits for its descriptor; by default it has its own.
    """

    def __init__(self, places: Sequence[pika.ConnectionParameters], loop: OnDemandLoop | None = None) -> None:
        self._places = list(places)
        self._given = loop
        self.reopens = True
        """Whether a channel that the server has closed is made anew: not so for who holds messages by it."""
        self._loop: OnDemandLoop | None = None
        self._connection: Any = None
        self._channel: Any = None
        self._reason: BaseException | None = None
        """Why the connection is closed, or could not be opened."""
        self._refused: Refusal | None = None
        self.blocked = ""
        """Why the server takes no messages now; empty: it does."""
        self._sent = 0
        self._first = 1
        """Of the publishing tags of the last call."""
        self._open_tags: set[int] = set()
        self._rejected: set[int] = set()
        self._returned: list[tuple[str, str]] = []
        self._got: list[Taken | None] = []
        """The answer to the last `get`."""
        self._at_close: tuple[int, set[int], set[tuple[str, str]]] = (0, set(), set())
        """Of a channel that the server has closed: the last tag, which were open, and what was returned."""

    @property
    def is_open(self) -> bool:
        """Whether both connection and channel were usable when we last heard of them."""
        return self._channel is not None and self._channel.is_open

    @property
    def is_done(self) -> bool:
        """Whether all that was sent has its confirm: not so when a call was interrupted."""
        return not self._open_tags

    @property
    def place(self) -> str:
        """The server that it is connected to, or tries first."""
        return place_of(self._places[0])

    @property
    def server_version(self) -> str:
        """What the server says of itself."""
        told = self._connection.server_properties or {} if self._connection is not None else {}
        version = told.get("version", "")
        return version.decode() if isinstance(version, bytes) else str(version)

    def open(self) -> None:
        """Connect to the first server that answers; that one stays the first. Raises BrokerUnavailable.

        One whose connection was lost comes last: if its machine is gone, nothing answers there, not even a
        refusal, and the next server would be asked only when the patience with it is over.
        """
        if self._reason is not None:
            self._places.append(self._places.pop(0))
        failures = []
        for _ in range(len(self._places)):
            try:
                self._open(self._places[0])
            except BrokerRefused:
                raise
            except BrokerUnavailable as error:
                failures.append(str(error))
                self._places.append(self._places.pop(0))
            else:
                return
        raise BrokerUnavailable("; ".join(failures))

    def _open(self, place: pika.ConnectionParameters) -> None:
        self.close()
        self._reason, self._refused, self.blocked = None, None, ""
        self._loop = self._given or OnDemandLoop()
        self._connection = pika.SelectConnection(
            place,
            on_open_callback=lambda _connection: None,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self.wait(lambda: self._connection.is_open, 3 * CONNECT_SECONDS)
        self._open_channel()

    def _open_channel(self) -> None:
        self._refused = None
        self._sent = 0
        self._open_tags, self._rejected, self._returned = set(), set(), []
        self._channel = self._connection.channel()
        self._channel.add_on_close_callback(self._on_channel_closed)
        self._channel.add_on_return_callback(self._on_returned)
        self._channel.add_callback(lambda _empty: self._got.append(None), [Basic.GetEmpty], one_shot=False)
        self.wait(lambda: self._channel.is_open, CONNECT_SECONDS)
        self.ask(lambda done: self._channel.confirm_delivery(self._on_confirmed, done))

    def close(self) -> None:
        """Give up the connection, with a word to the server if it listens."""
        connection, self._connection, self._channel = self._connection, None, None
        if self._loop is None:
            return
        if connection is not None:
            if connection.is_open:
                connection.close()
            self._let_end(connection)
            if not connection.is_closed:  # a server that takes no messages hears nothing else either
                connection._adapter_disconnect_stream()  # noqa: SLF001 - there is no other name for it
                self._let_end(connection)
        if self._given is None:
            self._loop.close()
        self._loop = None

    def _let_end(self, connection: Any) -> None:
        until = time.monotonic() + GOODBYE_SECONDS
        while not connection.is_closed and time.monotonic() < until:
            self._pump(0.1)

    # what it hears

    def _on_closed(self, _connection: Any, reason: BaseException) -> None:
        self._reason = reason

    def _on_blocked(self, _connection: Any, method: Any) -> None:
        self.blocked = method.method.reason or "it takes no messages now"

    def _on_unblocked(self, _connection: Any, _method: Any) -> None:
        self.blocked = ""

    def _on_channel_closed(self, _channel: Any, reason: BaseException) -> None:
        if isinstance(reason, amqp.ChannelClosedByBroker):
            self._refused = Refusal(reason.reply_code, reason.reply_text)
            self._at_close = (self._sent, self._open_tags | self._rejected, set(self._returned))

    def _on_returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._returned.append((method.exchange, method.routing_key))

    def _on_confirmed(self, frame: Any) -> None:
        method = frame.method
        tag = method.delivery_tag
        done = {each for each in self._open_tags if each <= tag} if method.multiple else {tag}
        self._open_tags -= done
        if not isinstance(method, Basic.Ack):
            self._rejected |= done

    # what it does

    def _pump(self, seconds: float) -> None:
        """Let pika work for once, waiting no longer than so."""
        if self._loop is not None:
            self._loop.go_round(seconds)

    def wait(self, until: Callable[[], object], seconds: float) -> None:
        """Wait for something. Raises Refusal when the channel is closed for it, BrokerUnavailable else."""
        end = time.monotonic() + seconds
        while not until():
            if self._reason is not None:
                raise self._error(self._reason)
            if self._refused is not None:
                refused = self._refused
                if not self.reopens:
                    raise BrokerUnavailable(f"RabbitMQ at {self.place} has closed our channel: {refused}")
                self._open_channel()
                raise refused
            left = end - time.monotonic()
            if left <= 0:
                where = f"RabbitMQ at {self.place}"
                blocked = self.blocked
                if self._open_tags or not blocked:
                    self.close()  # an answer that comes later would be taken for the next one's
                if blocked:
                    raise BrokerBlocked(f"{where} takes no messages now: {blocked}")
                raise BrokerUnavailable(f"{where} has not answered for {seconds:.0f} s")
            self._pump(left)

    def _error(self, reason: BaseException) -> BrokerUnavailable:
        where = f"RabbitMQ at {self.place}"
        last = _innermost(reason)
        if isinstance(last, amqp.ProbableAuthenticationError | amqp.AuthenticationError):
            return BrokerRefused(f"{where} refuses our credentials")
        if isinstance(last, amqp.ProbableAccessDeniedError):
            name = self._places[0].virtual_host
            refused = NoVirtualHost if "not found" in str(last) else PermissionDenied
            return refused(f"{where} has no virtual host {name!r} for us: {last}")
        if isinstance(last, amqp.ConnectionClosedByBroker) and last.reply_code in {403, 530}:
            return BrokerRefused(f"{where} refuses us: {last.reply_text}")
        return BrokerUnavailable(f"{where} cannot be reached: {str(last) or type(last).__name__}")

    def check(self) -> bool:
        """Hear what the server has said meanwhile; return whether the line can still be used."""
        self._pump(0.0)
        return self.is_open

    def serve(self) -> None:
        """Hear what the server has said meanwhile. Raises what is wrong when the line cannot be used."""
        self._pump(0.0)
        if self._refused is not None:
            raise BrokerUnavailable(f"RabbitMQ at {self.place} has closed our channel: {self._refused}")
        if self._reason is not None:
            raise self._error(self._reason)
        if not self.is_open:
            raise BrokerUnavailable(f"RabbitMQ at {self.place} is not connected")

    def new_channel(self) -> "SideChannel":
        """Return one more channel, without confirms: what the server closes it for concerns no other."""
        self._insist()
        side = SideChannel(self, self._connection.channel())
        self.wait(lambda: side.channel.is_open or side.channel.is_closed, CONNECT_SECONDS)
        return side

    def ask(self, question: Callable[[Callable[[Any], None]], object]) -> Any:
        """Ask what has an answer (`question` is given what to call with it), and return that.

        Raises Refusal when the server closes the channel for it.
        """
        self._insist()
        answers: list[Any] = []
        question(answers.append)
        self.wait(lambda: answers, ANSWER_SECONDS)
        return answers[0]

    def _insist(self) -> None:
        """Raise what is wrong when the line cannot be used."""
        if not self.is_open:
            if self._reason is not None:
                raise self._error(self._reason)
            raise BrokerUnavailable(f"RabbitMQ at {self.place} is not connected")

    def count(self, queue: str) -> int | None:
        """Return how many messages are ready in a queue; None: there is no such queue. Raises Refusal.

        That of a queue whose node is away has the same code, see `Refusal.is_absence`.
        """
        try:
            answer = self.ask(lambda done: self._channel.queue_declare(queue, passive=True, callback=done))
        except Refusal as refusal:
            if refusal.is_absence:
                return None
            raise
        return int(answer.method.message_count)

    def get(self, queue: str) -> Taken | None:
        """Take one message out of a queue, to be acknowledged; None: there is none. Raises Refusal.

        Raises BrokerBlocked when the server stops listening meanwhile, having given up the connection: an
        answer that comes later would hold a message that nobody knows of.
        """
        self._insist()
        self._got = []

        def take(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
            self._got.append(Taken(method.delivery_tag, body))

        self._channel.basic_get(queue, take)
        self.wait(lambda: self._got or self.blocked, ANSWER_SECONDS)
        if not self._got:
            blocked = self.blocked
            self.close()
            raise BrokerBlocked(f"RabbitMQ at {self.place} takes no messages now: {blocked}")
        return self._got[0]

    def rest(self, seconds: float) -> None:
        """Let others have a moment, hearing what the server says meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._pump(left)

    @property
    def channel(self) -> Any:
        """Pika's channel, for questions."""
        return self._channel

    def publish(self, parcels: Sequence[Parcel], seconds: float, *, patient: bool = True) -> Answered:
        """Publish, and wait for the confirms.

        Raises Refusal for an exchange that is not there, and for a message that the server does not take; its
        `left` says which are to be sent again. Raises BrokerBlocked when the server takes no messages now:
        after so many seconds, having given up the connection if any were sent; or, for who is not `patient`,
        at once, and `answer` tells later.
        """
        end = time.monotonic() + seconds
        if self.blocked and patient:  # nothing is sent that would be carried out when we have given up
            self.wait(lambda: not self.blocked, seconds)
        self._returned, self._rejected = [], set()
        self._first = first = self._sent + 1

        def stopped() -> bool:
            return self._refused is not None or (not patient and bool(self.blocked))

        try:
            for parcel in parcels:
                if len(self._open_tags) >= WINDOW:
                    self.wait(lambda: len(self._open_tags) < WINDOW // 2 or stopped(), end - time.monotonic())
                if stopped() or self._reason is not None:
                    break
                self._post(parcel)
            self.wait(  # all of them sent, too: a line that ended meanwhile has none open either
                lambda: (
                    (not self._open_tags and self._sent - self._first + 1 == len(parcels))
                    or (stopped() and self._refused is None)
                ),
                max(0.0, end - time.monotonic()),
            )
        except Refusal as refusal:
            last, open_tags, returned = self._at_close
            refusal.left = [
                place
                for place, parcel in enumerate(parcels)
                if first + place > last
                or first + place in open_tags
                or (parcel.exchange, parcel.routing_key) in returned
            ]
            raise
        if not patient and self.blocked:
            raise BrokerBlocked(f"RabbitMQ at {self.place} takes no messages now: {self.blocked}")
        return self._answered()

    def post(self, parcel: Parcel) -> None:
        """Publish one, and do not wait for its confirm; not while others wait for theirs."""
        self._first = self._sent + 1
        self._post(parcel)
        self.flush()

    def flush(self) -> None:
        """Write out what was said: pika does so when it works next."""
        self._pump(0.0)

    def _post(self, parcel: Parcel) -> None:
        self._channel.basic_publish(
            parcel.exchange, parcel.routing_key, parcel.body, parcel.properties, parcel.mandatory
        )
        self._sent += 1
        self._open_tags.add(self._sent)

    def answer(self) -> Answered | None:
        """Return what the server has said of the parcels of a call that did not wait; None: not all of it."""
        self._pump(0.0)
        return None if self._open_tags else self._answered()

    def _answered(self) -> Answered:
        sent = self._sent - self._first + 1
        return Answered(
            set(self._returned),
            sorted(tag - self._first for tag in self._rejected if tag >= self._first),
            sent,
        )


class SideChannel:
    """A channel beside the line's own, on the same connection."""

    def __init__(self, line: Line, channel: Any) -> None:
        self._line = line
        self.channel = channel
        self._refused: Refusal | None = None
        self._by_server = False
        channel.add_on_close_callback(self._on_closed)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return bool(self.channel.is_open)

    @property
    def refusal(self) -> Refusal | None:
        """Why the server has closed it, where it did so for what was asked here."""
        return self._refused if self._by_server else None

    def _on_closed(self, _channel: Any, reason: BaseException) -> None:
        self._by_server = isinstance(reason, amqp.ChannelClosedByBroker)
        code, text = getattr(reason, "reply_code", 0), getattr(reason, "reply_text", str(reason))
        self._refused = Refusal(code, text)

    def ask(self, question: Callable[[Callable[[Any], None]], object]) -> Any:
        """Ask what has an answer, as `Line.ask` does. Raises Refusal: then the channel is closed."""
        answers: list[Any] = []
        if self._refused is None:
            question(answers.append)
        self._line.wait(lambda: answers or self._refused is not None, ANSWER_SECONDS)
        if not answers:
            assert self._refused is not None
            raise self._refused
        return answers[0]


def _innermost(reason: BaseException) -> BaseException:
    """Return what pika's steps of connecting have wrapped, each in its own way."""
    inner = [
        *(getattr(reason, "exceptions", None) or ()),
        *filter(None, [getattr(reason, "exception", None)]),
        *(each for each in reason.args if isinstance(each, BaseException)),
    ]
    return _innermost(inner[-1]) if inner else reason
