"""Reads a virtual host of RabbitMQ for the operator, `muster dev` and people; tells workers what to do.

What stands in a queue is asked for by passive declarations, which are right at once where the management API
is seconds behind. What workers hold and take they say themselves, in their reports; from that the age of the
oldest message is estimated. What waits for its time stands in Celery's delayed queues, whatever queue it is
for: nobody can say whose it is, only whether there is any.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pika

from muster.core import flow
from muster.errors import BrokerUnavailable, PermissionDenied
from muster.transports.amqp.address import addresses
from muster.transports.amqp.counts import counts
from muster.transports.amqp.delayed import ENTRY, LEVELS, level_name
from muster.transports.amqp.line import ACCESS_REFUSED, NOT_FOUND, Line, Parcel, Refusal
from muster.transports.amqp.mailbox import STREAM
from muster.transports.amqp.names import CONTROL, REPORTS, REVOKED
from muster.transports.base import QueueDepth, ServerFacts
from muster.wire.report import WorkerReport
from muster.wire.report import decode as decode_report

logger = logging.getLogger("muster.transport")

HEARTBEAT_SECONDS: Final = 60
ANSWER_SECONDS: Final = 10.0
REPORT_MAX_AGE_SECONDS: Final = 15.0
"""What a worker holds is counted for so long after it has said so."""
_INBOX: Final = {"x-max-length": 100_000, "x-message-ttl": 60_000}
_PERSISTENT: Final = pika.BasicProperties(delivery_mode=2)


class _Heard(msgspec.Struct):
    at: float
    """Monotonic seconds."""
    data: bytes
    report: WorkerReport | None


class AmqpObserver:
    """See the module, and `muster.transports.base.Observer`. Not thread-safe."""

    def __init__(self, url: str, dead_letters: Mapping[str, str] | None = None) -> None:
        self.dead_letters: Mapping[str, str] = dead_letters or {}
        self._line = Line(addresses(url, heartbeat_seconds=HEARTBEAT_SECONDS))
        self._listening = False
        self._heard: dict[tuple[str, str], _Heard] = {}
        """(pool, worker) → its last report."""
        self._taken: dict[str, int] = {}
        """Queue → messages that workers have taken since we have first heard of each."""
        self._flows: dict[str, flow.Flow] = {}
        self._unread: set[str] = set()
        """Queues that could not be read when we looked last."""
        self._extra_runs: dict[tuple[str, str, str], int] = {}
        """Of workers that are gone."""

    # what stands in queues

    def depths(self, queues: Sequence[str], *, horizon_seconds: float) -> dict[str, QueueDepth]:  # noqa: ARG002
        """Return the depth of each queue; one that is not there is empty. `due` is not known, and 0.

        A queue whose node is away, or that of its dead letters, is left out: nobody can say what is in it.
        Raises BrokerUnavailable when that holds for each.
        """
        if not queues:
            return {}
        self._listen()
        waiting = 0 if self._nothing_waits() else None
        held = self._held()
        self._flows = {queue: self._flows[queue] for queue in queues if queue in self._flows}
        dead = {queue: self.dead_letters.get(queue, f"{queue}.dead") for queue in queues}
        counted, unread = self._counts([*queues, *dead.values()])
        readable = [queue for queue in queues if queue in counted and dead[queue] in counted]
        self._note_unread(unread)
        if not readable:
            raise self._error(next(iter(unread.values())))
        return {
            queue: self._depth(queue, counted[queue], counted[dead[queue]], waiting, held.get(queue, (0, 0)))
            for queue in readable
        }

    def _note_unread(self, unread: Mapping[str, Refusal]) -> None:
        """Say once of each queue that it cannot be read, and why."""
        for queue, refusal in unread.items():
            if queue not in self._unread:
                logger.warning("queue %s cannot be read: %s", queue, self._error(refusal))
        self._unread = set(unread)

    def _depth(
        self, queue: str, ready: int, dead: int, waiting: int | None, held: tuple[int, int]
    ) -> QueueDepth:
        (claimed, running), now = held, time.monotonic()
        taken = self._taken.get(queue, 0)
        followed = flow.follow(self._flows.get(queue), ready=ready, taken=taken, now=now)
        self._flows[queue] = followed
        return QueueDepth(
            ready=ready,
            claimed=claimed,
            running=running,
            expired=0,  # what a lost worker held is back in its queue
            due=0,
            waiting=waiting,
            dead=dead,
            oldest=flow.age(followed, now),
        )

    def _counts(self, queues: Iterable[str]) -> tuple[dict[str, int], dict[str, Refusal]]:
        """Return how much is in each queue, and why that cannot be said of others."""
        try:
            found = counts(self._line, queues)
        except Refusal as refusal:
            raise self._error(refusal) from None
        unread = {queue: count for queue, count in found.items() if isinstance(count, Refusal)}
        counted = {queue: count or 0 for queue, count in found.items() if not isinstance(count, Refusal)}
        return counted, unread

    def _nothing_waits(self) -> bool:
        line = self._line
        try:
            line.ask(lambda done: line.channel.exchange_declare(ENTRY, passive=True, callback=done))
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return True
            raise self._error(refusal) from None
        counted, unread = self._counts(level_name(level) for level in range(LEVELS))
        return not unread and not any(counted.values())

    def _held(self) -> dict[str, tuple[int, int]]:
        """Return (claimed, running) by queue, as workers said lately."""
        found: dict[str, tuple[int, int]] = {}
        after = time.monotonic() - REPORT_MAX_AGE_SECONDS
        for heard in self._heard.values():
            if heard.report is not None and heard.at >= after:
                for queue, (claimed, running) in heard.report.hands.items():
                    before = found.get(queue, (0, 0))
                    found[queue] = (before[0] + claimed, before[1] + running)
        return found

    # reports

    def _open(self) -> None:
        if not (self._line.is_open and self._line.check()):
            self._line.open()
            self._listening = False

    def _listen(self) -> None:
        """Have the workers' reports come to a queue of ours, and take what has come."""
        self._open()
        if not self._listening:
            try:
                self._subscribe()
            except Refusal as refusal:
                raise self._error(refusal) from None
            self._listening = True
        self._line.check()

    def _subscribe(self) -> None:
        line = self._line
        line.ask(lambda done: line.channel.exchange_declare(REPORTS, "fanout", durable=True, callback=done))
        side = line.new_channel()
        channel = side.channel
        answer = side.ask(
            lambda done: channel.queue_declare("", exclusive=True, arguments=_INBOX, callback=done)
        )
        inbox = answer.method.queue
        side.ask(lambda done: channel.queue_bind(inbox, REPORTS, callback=done))
        side.ask(lambda done: channel.basic_consume(inbox, self._on_report, auto_ack=True, callback=done))

    def _on_report(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        try:
            report = decode_report(body)
            worker = report.worker
        except msgspec.DecodeError:
            report, worker = None, ""  # whoever asks for reports judges it
        if report is not None:
            self._note_taken(self._heard.get((method.routing_key, worker)), report)
        self._heard[method.routing_key, worker] = _Heard(time.monotonic(), body, report)

    def _note_taken(self, before: _Heard | None, report: WorkerReport) -> None:
        if before is None or before.report is None:  # what it took before we heard of it has left long ago
            return
        for queue, count in report.taken.items():
            more = count - before.report.taken.get(queue, 0)
            self._taken[queue] = self._taken.get(queue, 0) + max(0, more)

    def reports(self, pool: str, *, max_age_seconds: float) -> list[tuple[float, bytes]]:
        """Return (age in seconds, report) of the pool's workers that we have heard of."""
        self._listen()
        now = time.monotonic()
        self._bury_the_silent(now - max(max_age_seconds, 10 * REPORT_MAX_AGE_SECONDS))
        return [
            (now - heard.at, heard.data)
            for (whose, _), heard in self._heard.items()
            if whose == pool and now - heard.at <= max_age_seconds
        ]

    def _bury_the_silent(self, before: float) -> None:
        for key in [key for key, heard in self._heard.items() if heard.at < before]:
            self._add_extra_runs(self._extra_runs, self._heard.pop(key))

    def extra_runs(self) -> dict[tuple[str, str, str], int]:
        """Return the starts beyond the first that we have been told of, by (queue, task, cause)."""
        self._listen()
        total = dict(self._extra_runs)
        for heard in self._heard.values():
            self._add_extra_runs(total, heard)
        return total

    @staticmethod
    def _add_extra_runs(total: dict[tuple[str, str, str], int], heard: _Heard) -> None:
        if heard.report is not None:
            for queue, task, cause, count in heard.report.extra_runs:
                total[queue, task, cause] = total.get((queue, task, cause), 0) + count

    # telling

    def send(self, worker: str, control: bytes) -> None:
        """Send a control message to a worker. Raises BrokerUnavailable when it does not listen now."""
        self._open()
        line = self._line
        try:
            line.ask(
                lambda done: line.channel.exchange_declare(CONTROL, "direct", durable=True, callback=done)
            )
            answered = line.publish(
                [Parcel(CONTROL, worker, control, pika.BasicProperties())], ANSWER_SECONDS
            )
        except Refusal as refusal:
            raise self._error(refusal) from None
        if answered.returned:
            raise BrokerUnavailable(f"worker {worker} is not connected to RabbitMQ at {line.place} now")

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker that these tasks shall not run; kept for a week."""
        self._open()
        line = self._line
        body = msgspec.json.encode((time.time(), list(task_ids)))
        try:
            line.ask(
                lambda done: line.channel.queue_declare(
                    REVOKED, durable=True, arguments=STREAM, callback=done
                )
            )
            line.publish([Parcel("", REVOKED, body, _PERSISTENT)], ANSWER_SECONDS)
        except Refusal as refusal:
            raise self._error(refusal) from None

    def server(self) -> ServerFacts:
        """Return the server's version."""
        self._open()
        return ServerFacts(type="RabbitMQ", version=self._line.server_version)

    def remove_queue(self, queue: str, dead_letter: str) -> bool:
        """Remove a queue that nobody consumes and its dead letters, if nothing of either is left."""
        self._open()
        names = (queue, dead_letter)
        counted, unread = self._counts(names)
        if unread:
            raise self._error(next(iter(unread.values())))
        if any(counted.values()):
            return False
        try:
            for name in names:
                self._delete(name)
        except Refusal:
            return False
        return True

    def _delete(self, queue: str) -> None:
        channel = self._line.channel
        self._line.ask(lambda done: channel.queue_delete(queue, if_unused=True, if_empty=True, callback=done))

    def _error(self, refusal: Refusal) -> BrokerUnavailable:
        words = f"RabbitMQ at {self._line.place} answers with an error: {refusal}"
        return PermissionDenied(words) if refusal.code == ACCESS_REFUSED else BrokerUnavailable(words)

    def close(self) -> None:
        """Give up the connection."""
        self._line.close()
