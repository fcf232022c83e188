"""Beat's place on RabbitMQ; see `base`, and `muster.wire.schedule_log` for what stands there.

**Who leads** owns an exclusive queue, on the very connection by which it sends: when that is lost, by
whichever side, queue and right to tick are gone together. The lease is the connection's heartbeat, so the
`lease_seconds` of the port are only told to people. Before each step the leader puts a fence into the log and
reads up to it: it then knows every change that was written before, and of a newer term if there is one.

**Once.** A tick's message is published with its queue as routing key and the log as blind copy: one message,
one confirm, which is given when both have it. A beat that is killed has sent the whole message or nothing.
Only a server that is killed in that moment may have kept one half. So ticks count as *unsure* until a record
in the log says that they were confirmed; a new leader takes unsure ones for sent if the witness, a message
that does not outlive the server's process, says that the server is still the same, and takes them back
otherwise: then they are sent again, with the same id, rather than perhaps never.

**The log** is a stream that everybody reads without taking anything out. Who reads it keeps a book of what it
says. Whoever finds that too much of it is old says all that stands there again, and notes where that begins.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
import pika

from muster.errors import BrokerUnavailable
from muster.settings.queues import AS_CELERY, QueueArguments
from muster.transports.amqp.address import addresses
from muster.transports.amqp.delayed import ENTRY, Queue, QueueBinding
from muster.transports.amqp.line import (
    ACCESS_REFUSED,
    ANSWER_SECONDS,
    NOT_FOUND,
    Answered,
    Line,
    Parcel,
    Refusal,
    SideChannel,
)
from muster.transports.amqp.outbox import CONFIRM_SECONDS, Left, Letter, Outbox, declare_part, lay_out, letter
from muster.transports.schedules.base import (
    Advance,
    Changes,
    Done,
    Leader,
    NotLeader,
    Outcome,
    Refused,
    Term,
)
from muster.transports.schedules.book import Book
from muster.wire.errors import MalformedMessage
from muster.wire.schedule import RunRecord, ScheduleEntry
from muster.wire.schedule import encode as encode_entry
from muster.wire.schedule_log import (
    COPY_HEADER,
    KEPT_BYTES,
    LOCK_ARGUMENTS,
    LOG_ARGUMENTS,
    TICK,
    WITNESS_ARGUMENTS,
    Record,
    TermNote,
    TickRun,
    decode_record,
    encode,
    lock_of,
    log_of,
    read_tick,
    witness_of,
    write_tick,
)

logger = logging.getLogger("muster.beat")

HEARTBEAT_SECONDS: Final = 3
"""Of the leader's connection: the server ends one that it has not heard of for two to three times as long."""
READER_HEARTBEAT_SECONDS: Final = 60
STALE_SECONDS: Final = 30.0
"""Who has not looked for so long reads anew, from where the log says all."""
GRACE_SECONDS: Final = 0.2
"""What a connection that has ended had sent before may still be on its way inside the server."""
STARTING_SECONDS: Final = 5.0
"""How long a stream may take until it can be read, when it was declared a moment ago."""
NAME_SECONDS: Final = 2.0
"""How long a new leader may take to say its name."""
AT_ONCE: Final = 200
"""Entries a record."""
PUSHED_AT_ONCE: Final = 1000
SMALLEST_REPEAT: Final = 1024 * 1024
"""So much of the log may be old in any case."""
LOCKED: Final = 405
OTHERWISE: Final = 406
"""AMQP's codes: a queue is another connection's, and stands there with other arguments."""

_LASTING: Final = pika.BasicProperties(delivery_mode=2, content_type="application/json")
_PASSING: Final = pika.BasicProperties(delivery_mode=1)
_Item = TypeVar("_Item")


class AmqpSchedules:
    """See the module, and `base.ScheduleStore`.

    What has a default is as for `muster.transports.amqp.outbox.Outbox`.
    """

    def __init__(
        self,
        url: str,
        *,
        scope: str,
        delayed_type: str = "quorum",
        create_missing_queues: bool = True,
        queue_arguments: QueueArguments = AS_CELERY,
    ) -> None:
        """Raise ConfigurationError for a URL that cannot be used."""
        self._reading = addresses(url, heartbeat_seconds=READER_HEARTBEAT_SECONDS)
        self._leading = addresses(url, heartbeat_seconds=HEARTBEAT_SECONDS)
        self._log, self._lock, self._witness = log_of(scope), lock_of(scope), witness_of(scope)
        self._delayed_type = delayed_type
        self._declares = create_missing_queues
        self._arguments = queue_arguments
        self._line: Line | None = None
        self._may_lead = False
        """Whether the connection has a leader's heartbeat."""
        self._outbox: Outbox
        self._term: Term | None = None
        self._holds_lock = False
        self._reader: SideChannel | None = None
        self._ended = False
        """The server has stopped telling us of the log."""
        self._asker: SideChannel | None = None
        self._book = Book()
        self._looked_at = 0.0
        self._heard = 0
        self._unacknowledged = 0
        self._awaited = ""
        """The fence up to which we are about to read."""
        self._unread = False
        """We have written what we have not read."""
        self._in_doubt = False
        """Confirms of ticks did not come in time, over a connection that was not broken."""
        self._repeat_at = SMALLEST_REPEAT
        self._repeating = 0
        """Where the repetition begins that we have written and not read yet."""

    # -- the election

    def acquire(self, holder: str, lease_seconds: float) -> Term | Leader:
        """Return a new term, or who leads instead."""
        self._look(may_lead=True)
        if not self._holds_lock:
            if self._is_locked() or not self._take_lock():
                return self._somebody(lease_seconds)
            self._read_on()
            if self._named():  # the last leader has not left in good order
                self._pause(GRACE_SECONDS)
        self._read_on()
        trusted = self._asks_witness() and not self._in_doubt
        unsure = dict(self._book.unsure)
        if unsure and not trusted:
            logger.warning(
                "whether %d ticks have reached their queues is not known, so they are sent again with the "
                "same ids: the broker was restarted, or did not answer, while they were on their way",
                len(unsure),
            )
        last = 0 if self._book.term is None else self._book.term.number
        term = Term(holder, max(time.time_ns() // 1000, last + 1))
        note = TermNote(holder, term.number, lease_seconds)
        self._append(Record(sure=True, runs={} if trusted else unsure, term=note))
        self._read_on()
        self._in_doubt = False
        self._term = term
        return term

    def _take_lock(self) -> bool:
        def declare(done: Callable[[Any], None]) -> None:
            self._up.channel.queue_declare(
                self._lock, exclusive=True, arguments=LOCK_ARGUMENTS, callback=done
            )

        try:
            self._up.ask(declare)
        except Refusal as refusal:
            if refusal.code == LOCKED:
                return False
            raise self._refused(refusal) from None
        self._holds_lock = True
        return True

    def _is_locked(self) -> bool:
        """Ask without a declaration, whose refusal would close the channel."""
        return not self._publish(Parcel("", self._lock, b"", _PASSING)).returned

    def _somebody(self, lease_seconds: float) -> Leader:
        """Return who holds the lock. Its name is in the log, where it comes a moment later than the lock."""
        end = time.monotonic() + NAME_SECONDS
        self._up.wait(
            lambda: self._named() or time.monotonic() >= end or self._ended, NAME_SECONDS + ANSWER_SECONDS
        )
        term = self._book.term
        return Leader("" if term is None else term.holder, lease_seconds)

    def _named(self) -> bool:
        return self._book.term is not None and not self._book.term.over

    def _asks_witness(self) -> bool:
        """Return whether the server is the one that the last leader has met, and put a new witness there."""

        def declare(done: Callable[[Any], None]) -> None:
            self._up.channel.queue_declare(
                self._witness, durable=True, arguments=WITNESS_ARGUMENTS, callback=done
            )

        try:
            found = self._up.ask(declare).method.message_count
        except Refusal:  # the node on which it stands is away
            return False
        self._publish(Parcel("", self._witness, b"", _PASSING))
        return bool(found)

    def renew(self, term: Term, lease_seconds: float) -> bool:  # noqa: ARG002 - the lease is the heartbeat
        """Return whether the term goes on. What keeps it is the heartbeat, which goes out when we look."""
        return self._leads(term)

    def _leads(self, term: Term) -> bool:
        """Whether we have the lock, and the log knows of no newer term. A lost connection is a lost term."""
        if self._term != term:
            return False
        line = self._line
        if line is None or not line.check() or self._ended or not self._holds_lock:
            self._close()
            return False
        self._pump()
        newest = self._book.term
        return newest is not None and newest.number == term.number

    def release(self, term: Term) -> None:
        """End the term."""
        if not self._leads(term):
            return
        newest = self._book.term
        assert newest is not None
        self._append(Record(term=msgspec.structs.replace(newest, over=True)))
        self._term = None
        self._up.ask(lambda done: self._up.channel.queue_delete(self._lock, callback=done))
        self._holds_lock = False

    def leader(self) -> Leader | None:
        """Return who leads."""
        self._look()
        if not self._is_locked():
            return None
        found = self._somebody(0.0)
        return Leader(found.holder, 0.0 if self._book.term is None else self._book.term.lease_seconds)

    # -- the entries

    def put(self, entries: Sequence[ScheduleEntry]) -> None:
        """Write entries. That equal ones change nothing, their readers see to."""
        for batch in _batches(entries):
            self._write(Record(put={one.uid: msgspec.Raw(encode_entry(one)) for one in batch}))

    def remove(self, uids: Collection[str]) -> None:
        """Remove entries and their records."""
        for batch in _batches(uids):
            self._write(Record(removed=batch))

    def entries(self) -> dict[str, ScheduleEntry | None]:
        """Return all entries."""
        self._sync()
        if not self._book.unsure:
            self._repeat_what_is_old()
        return {uid: one.entry for uid, one in self._book.entries.items()}

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those uids."""
        self._sync()
        return self._book.runs(uids)

    # -- beat

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed. The log is pushed to us, so this costs no question but the first time."""
        if since == 0 or self._unread:
            self._sync()
        else:
            self._look(may_lead=self._may_lead)
        return self._book.changes(since, known)

    def advance(self, term: Term, advances: Sequence[Advance]) -> Sequence[Outcome]:
        """Carry out the steps; see the module."""
        none: list[Outcome] = [NotLeader()] * len(advances)
        if not self._leads(term):
            return none
        self._read_on()
        if not self._leads(term):
            return none
        outcomes = self._book.judge(advances)
        refused: dict[str, str] = {}
        for turn in _turns([place for place, one in enumerate(outcomes) if one == Done()], advances):
            open_ = [place for place in turn if advances[place].uid not in refused]
            refused |= self._carry_out([advances[place] for place in open_])
            for place in turn:
                if reason := refused.get(advances[place].uid):
                    outcomes[place] = Refused(reason)
        self._repeat_what_is_old()
        return outcomes

    def _carry_out(self, steps: Sequence[Advance]) -> dict[str, str]:
        """Carry out one step each of several schedules; return by uid why some were not."""
        refused: dict[str, str] = {}
        notes = {one.uid: one.record for one in steps if one.publication is None}
        ticks: list[tuple[Advance, Letter]] = []
        for one in steps:
            if one.publication is not None:
                try:
                    ticks.append((one, letter(one.publication)))
                except MalformedMessage as error:
                    refused[one.uid] = str(error)
        gone = self._missing({each.queue for _, each in ticks})
        refused |= {one.uid: gone[each.queue] for one, each in ticks if each.queue in gone}
        sent = [(one, each) for one, each in ticks if each.queue not in gone]
        if any(each.eta for _, each in sent):
            self._let_copies_of_late_ones_through()
        before = {one.uid: self._book.record(one.uid) for one, _ in sent}
        if notes:
            self._append(Record(runs=notes))
        left = self._send([self._copied(one, each) for one, each in sent])
        for place in {*left.rejected, *left.missing}:
            one, each = sent[place]
            refused[one.uid] = f"RabbitMQ at {self._up.place} rejects it: queue {each.queue!r} is full"
        for place, words in left.refused.items():
            refused[sent[place][0].uid] = f"RabbitMQ at {self._up.place} does not take it: {words}"
        # from here on it is known of each tick whether its queue has it
        if sent:
            self._append(Record(sure=True, runs={uid: before[uid] for uid in refused if uid in before}))
        self._read_on()
        return refused

    def _send(self, letters: Sequence[Letter]) -> Left:
        begun = time.monotonic()
        try:
            return self._outbox.send(letters)
        except BrokerUnavailable:
            self._in_doubt = time.monotonic() - begun >= CONFIRM_SECONDS
            raise

    def _copied(self, one: Advance, each: Letter) -> Letter:
        """Return the letter with a copy for the log, and with what the copy says."""
        properties = each.properties
        properties.type = TICK
        properties.message_id, properties.app_id = write_tick(TickRun(one.uid, one.record, self._book.first))
        properties.headers = {**(properties.headers or {}), COPY_HEADER: [self._log]}
        return each

    def _missing(self, queues: Collection[str]) -> dict[str, str]:
        """Return the queues that cannot be sent to, and why. A copy would hide that.

        What the server refuses of one queue says nothing of the others.
        """
        gone = {}
        for queue in sorted(queues):
            try:
                if not self._is_there(queue):
                    gone[queue] = (
                        f"RabbitMQ at {self._up.place} has no queue {queue!r}: declare it, by a TaskQueue "
                        "or by a worker that consumes it"
                    )
            except Refusal as refusal:
                gone[queue] = f"RabbitMQ at {self._up.place} does not give us queue {queue!r}: {refusal}"
        return gone

    def _is_there(self, queue: str) -> bool:
        """Return whether there is such a queue now, declared by us where we may. Raises Refusal."""
        if self._asker is None or not self._asker.is_open:
            self._asker = self._up.new_channel()
        asker, channel = self._asker, self._asker.channel
        try:
            asker.ask(lambda done: channel.queue_declare(queue, passive=True, callback=done))
        except Refusal as refusal:
            if asker.refusal is None:  # it went with its connection
                raise self._refused(refusal) from None
            if refusal.code != NOT_FOUND:
                raise
            if not self._declares:
                if not refusal.is_absence:
                    raise
                return False
            declare_part(self._up, Queue(queue, self._arguments.of(queue)))
        return True

    def _let_copies_of_late_ones_through(self) -> None:
        """Bind the log where messages begin to wait: a copy does not."""
        binding = QueueBinding(self._log, ENTRY, self._log)
        try:
            try:
                declare_part(self._up, binding)
            except Refusal as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                lay_out(self._up, self._delayed_type)
                declare_part(self._up, binding)
        except Refusal as refusal:
            raise self._refused(refusal) from None

    def close(self) -> None:
        """Give up the connection, and what it holds."""
        self._close()

    # -- the connection

    @property
    def _up(self) -> Line:
        if self._line is None:
            raise BrokerUnavailable(
                f"the connection to RabbitMQ is gone, and with it what {self._lock} gave us"
            )
        return self._line

    def _close(self) -> None:
        line, self._line = self._line, None
        self._reader = self._asker = None
        self._term, self._holds_lock = None, False
        if line is not None:
            line.close()

    def _refused(self, refusal: Refusal) -> BrokerUnavailable:
        if refusal.code == NOT_FOUND:
            return BrokerUnavailable(
                f"RabbitMQ at {self._up.place} has {self._log} and cannot reach it: {refusal}; if no node "
                "will bring it back, delete it: schedules are written anew then, and only last due times lost"
            )
        remedy = (
            "; its user needs the right to configure, write and read muster.*, and celery_delayed_* for ETAs"
        )
        text = f"RabbitMQ at {self._up.place} refuses what beat needs there: {refusal}"
        return BrokerUnavailable(text + (remedy if refusal.code == ACCESS_REFUSED else ""))

    def _connect(self, *, may_lead: bool = False) -> None:
        """See that there is a connection, and a log."""
        line = self._line
        if line is not None and line.check() and not self._ended and (self._may_lead or not may_lead):
            return
        self._close()
        self._ended = False
        self._may_lead = may_lead
        self._line = line = Line(self._leading if may_lead else self._reading)
        line.open()
        self._outbox = Outbox(
            line, delayed_type=self._delayed_type, declares=self._declares, arguments=self._arguments
        )
        try:
            line.ask(
                lambda done: line.channel.queue_declare(
                    self._log, durable=True, arguments=LOG_ARGUMENTS, callback=done
                )
            )
        except Refusal as refusal:
            if refusal.code != OTHERWISE:
                raise self._refused(refusal) from None

    def _publish(self, parcel: Parcel) -> Answered:
        try:
            return self._up.publish([parcel], CONFIRM_SECONDS)
        except Refusal as refusal:
            raise self._refused(refusal) from None

    def _write(self, record: Record) -> None:
        """Append to the log, over a new connection if need be."""
        self._connect(may_lead=self._may_lead)
        self._append(record)

    def _append(self, record: Record) -> None:
        """Append to the log, by this connection or not at all; it is there when this returns."""
        line = self._up
        line.serve()
        if self._reader is not None and record.first is None:
            record = msgspec.structs.replace(record, first=self._book.first)
        self._unread = True
        answered = self._publish(Parcel("", self._log, encode(record), _LASTING))
        if answered.returned or answered.rejected:
            self._close()
            raise BrokerUnavailable(
                f"RabbitMQ at {line.place} has lost the stream {self._log}; it is made anew"
            )

    # -- reading

    def _look(self, *, may_lead: bool = False) -> None:
        """Take in what has been told to us; read everything, if we have not looked for long."""
        self._connect(may_lead=may_lead)
        if self._reads_nothing():
            self._sync()
        else:
            self._pump()

    def _pump(self) -> None:
        heard = -1
        while heard != self._heard:
            heard = self._heard
            self._up.check()
        self._acknowledge()
        self._looked_at = time.monotonic()

    def _sync(self) -> None:
        """Read all that is in the log now, over a new connection if need be."""
        self._connect(may_lead=self._may_lead)
        if self._reads_nothing():
            self._begin_to_read()
        self._read_on()

    def _reads_nothing(self) -> bool:
        """Whether the log is to be read anew: not begun yet, or not looked at for long."""
        if self._reader is None or not self._reader.is_open:
            return True
        return self._term is None and time.monotonic() - self._looked_at > STALE_SECONDS

    def _read_on(self) -> None:
        """Read up to what is written now, by this connection or not at all."""
        self._awaited = uuid.uuid4().hex
        self._append(Record(fence=self._awaited))
        self._up.wait(lambda: not self._awaited or self._ended, ANSWER_SECONDS)
        if self._ended:
            self._close()
            raise BrokerUnavailable(f"RabbitMQ has ended the stream {self._log}; it is made anew")
        self._unread = False
        self._book.forget_the_last()
        self._acknowledge()
        self._looked_at = time.monotonic()

    def _begin_to_read(self) -> None:
        if self._reader is not None and self._reader.is_open:
            self._reader.channel.close()
        end = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                start = self._where_it_says_all()
                break
            except Refusal as refusal:
                if refusal.code != OTHERWISE or time.monotonic() >= end:
                    raise self._refused(refusal) from None
                self._pause(GRACE_SECONDS)  # another one has just declared it
        self._book = Book(self._book)
        self._unacknowledged = 0
        self._reader = self._consume(self._on_message, start, PUSHED_AT_ONCE)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._up.wait(lambda: time.monotonic() >= end, seconds)

    def _consume(self, heard: Callable[..., None], start: int | str, at_once: int) -> SideChannel:
        side = self._up.new_channel()
        channel = side.channel
        channel.add_on_cancel_callback(self._on_cancelled)
        side.ask(lambda done: channel.basic_qos(prefetch_count=at_once, callback=done))
        arguments = {"x-stream-offset": start}
        side.ask(lambda done: channel.basic_consume(self._log, heard, arguments=arguments, callback=done))
        return side

    def _where_it_says_all(self) -> int | str:
        """Return from where the log must be read, as its last messages say: if none does, from the first."""
        said: list[int] = []

        def heard(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
            tick, record = _read(properties, body)
            first = tick.first if tick is not None else None if record is None else record.first
            if first:
                said.append(first)

        side = self._consume(heard, "last", 10)
        side.ask(
            lambda done: side.channel.basic_qos(prefetch_count=10, callback=done)
        )  # what is there has come
        side.channel.close()
        return max(said, default=0) or "first"

    def _on_cancelled(self, _method: Any) -> None:
        self._ended = True

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._heard += 1
        offset = int(properties.headers["x-stream-offset"])
        tick, record = _read(properties, body)
        if tick is not None:
            self._book.take_tick(offset, len(body), tick)
        elif record is not None:
            self._book.take_record(offset, len(body), record)
            if record.fence == self._awaited:
                self._awaited = ""
        else:
            logger.warning("%s: message %d is no record and is passed over", self._log, offset)
        self._unacknowledged = method.delivery_tag
        if self._heard % (PUSHED_AT_ONCE // 4) == 0:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Let the server tell more: a stream keeps what was acknowledged."""
        if self._unacknowledged and self._reader is not None and self._reader.is_open:
            self._reader.channel.basic_ack(self._unacknowledged, multiple=True)
        self._unacknowledged = 0

    def _repeat_what_is_old(self) -> None:
        """Say all that stands there again when the log has become long, so that nobody reads far back."""
        book = self._book
        if book.size < self._repeat_at or self._repeating > book.first:
            return
        self._repeating = begin = book.next
        written = 0
        for batch in _batches(book.kept()):
            record = Record(kept=batch, term=book.term)
            written += len(encode(record))
            self._append(record)
        self._append(Record(term=book.term, first=begin))
        self._repeat_at = max(SMALLEST_REPEAT, 3 * written)
        if written > KEPT_BYTES // 4:
            logger.warning(
                "%s: the schedules take %d MB of a log that keeps %d MB: some will be lost; shorten their "
                "arguments or put some into another namespace",
                self._log,
                written // 1_000_000,
                KEPT_BYTES // 1_000_000,
            )


def _read(properties: Any, body: bytes) -> tuple[TickRun | None, Record | None]:
    """Return what a message of the log says; neither, when it says nothing that we understand."""
    with contextlib.suppress(msgspec.DecodeError):
        if properties.type == TICK:
            return read_tick(properties.message_id, properties.app_id), None
        return None, decode_record(body)
    return None, None


def _turns(places: Sequence[int], advances: Sequence[Advance]) -> Iterator[list[int]]:
    """Yield the steps so that no two of one schedule are under way at once: a later settles the earlier."""
    turns: list[list[int]] = []
    number: dict[str, int] = {}
    for place in places:
        uid = advances[place].uid
        turn = number[uid] = number.get(uid, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(place)
    yield from turns


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, AT_ONCE)):
        yield batch
