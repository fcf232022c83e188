"""Results over the broker (`rpc://`), as Celery has them: each is a message to who has sent the task.

A client has a queue of its own and names it in what it sends (`reply_to`); a worker sends each result
document there, with the task's id as correlation id. Nothing is stored: a result is known to the process that
has sent the task, from when it has come until that process ends, and nobody else can ask for it. RabbitMQ
only.

The application gives it the broker's URL, asks it for `reply_to` and has it `listen` before it sends; the
worker stores by it. It has a connection of its own, opened when it is first needed.
"""

import contextlib
import math
import os
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pika

from muster.core.effects import StoredResult
from muster.errors import BrokerUnavailable
from muster.transports.amqp.address import addresses
from muster.transports.amqp.line import Line, Parcel, Refusal
from muster.wire.result import READY_STATES, load

CONFIRM_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 30.0
"""How long an outage may last before those who wait are told of it."""
PAUSE_SECONDS: Final = 0.2
PUSHED_AT_ONCE: Final = 1000
SLICE_SECONDS: Final = 1.0
"""The longest time between two looks at what else is to be done."""
SURE_SECONDS: Final = 5.0
"""A connection of which nothing was heard for longer is asked for a word before it is relied on."""
UNUSED_SECONDS: Final = 3600
"""So long a client may be away before its queue goes, with the results that have come meanwhile."""


class _Status(msgspec.Struct):
    status: str
    retries: int = 0


class _Come(msgspec.Struct, frozen=True):
    at: float
    document: bytes
    ready: bool
    retries: int
    success: bool


_decode_status = msgspec.json.Decoder(_Status).decode


class AmqpReplies:
    """See the module, and `muster.results.base.Replies`. A process that was forked gets its own queue.

    `kept_seconds`: so long a result is remembered after it has come; 0: for ever.
    """

    def __init__(self, broker_url: str, *, kept_seconds: int) -> None:
        """Raise ConfigurationError for a URL that cannot be used."""
        self._places = addresses(broker_url, heartbeat_seconds=0)
        self._kept_seconds = kept_seconds or math.inf
        self._pid = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._name = str(uuid.uuid4())
        self._sending = threading.Lock()
        self._out = Line(self._places)
        self._changed = threading.Condition()
        self._being_read = False
        self._in = Line(self._places)
        self._heard_from: Any = None
        """The channel on which our queue is consumed."""
        self._sure_at = 0.0
        """When we knew that, monotonic seconds."""
        self._unacknowledged = 0
        self._come: dict[str, _Come] = {}

    def _mine(self) -> None:
        if self._pid != os.getpid():  # the parent's connections stay its own
            self._begin()

    @property
    def reply_to(self) -> str:
        """The name of the queue of this process."""
        self._mine()
        return self._name

    # -- a worker's side

    def store(self, results: Sequence[StoredResult]) -> None:
        """Send each result to who waits for it; those that nobody waits for any more are dropped."""
        self._mine()
        parcels = [_parcel(result) for result in results if result.reply_to]
        if not parcels:
            return
        with self._sending:
            if not (self._out.is_open and self._out.is_done and self._out.check()):
                self._out.open()
            try:
                self._out.publish(parcels, CONFIRM_SECONDS)
            except Refusal as refusal:
                raise BrokerUnavailable(
                    f"RabbitMQ at {self._out.place} takes no results: {refusal}"
                ) from None

    # -- a client's side

    def listen(self) -> None:
        """See that the queue is there, before something is sent whose result is to come to it."""
        self._mine()
        while not self._begin_to_read():
            if self._is_listening():  # who reads hears at once what becomes of the connection
                return
            with self._changed:
                self._changed.wait_for(lambda: not self._being_read, SLICE_SECONDS)
        try:
            self._connect()
        finally:
            self._let_others_read()

    def _is_listening(self) -> bool:
        return self._in.is_open and self._in.channel is self._heard_from

    def _answers(self) -> bool:
        """Whether our queue is consumed over this connection: for long, nobody may have heard that it is not.

        What the server has said in such a time stands before its answer, however much that is.
        """
        line = self._in
        if time.monotonic() - self._sure_at > SURE_SECONDS:
            with contextlib.suppress(BrokerUnavailable, Refusal):
                line.ask(lambda done: line.channel.basic_qos(prefetch_count=PUSHED_AT_ONCE, callback=done))
        else:
            line.check()
        return self._is_listening()

    def _on_cancelled(self, _frame: Any) -> None:
        """Hear that the queue, or the node that it lives on, is gone."""
        self._heard_from = None

    def _connect(self) -> None:
        if self._is_listening() and self._answers():
            self._sure_at = time.monotonic()
            return
        line = self._in
        line.open()
        line.channel.add_on_cancel_callback(self._on_cancelled)
        arguments = {"x-queue-type": "classic", "x-expires": UNUSED_SECONDS * 1000}
        try:
            line.ask(
                lambda done: line.channel.queue_declare(
                    self._name, durable=True, arguments=arguments, callback=done
                )
            )
            line.ask(lambda done: line.channel.basic_qos(prefetch_count=PUSHED_AT_ONCE, callback=done))
            line.ask(lambda done: line.channel.basic_consume(self._name, self._on_result, callback=done))
        except Refusal as refusal:
            raise BrokerUnavailable(
                f"RabbitMQ at {line.place} gives us no queue for results: {refusal}; its user needs the "
                "right to configure, write and read queues whose names are UUIDs, as Celery's clients do"
            ) from None
        self._heard_from = line.channel
        self._unacknowledged = 0
        self._sure_at = time.monotonic()

    def _acknowledge(self) -> None:
        """Say what has come: what was only on its way when a connection broke comes again over the next."""
        if self._unacknowledged and self._in.is_open:
            self._in.channel.basic_ack(self._unacknowledged, multiple=True)
        self._unacknowledged = 0

    def _on_result(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._unacknowledged = method.delivery_tag
        if method.delivery_tag % (PUSHED_AT_ONCE // 4) == 0:
            self._acknowledge()
        task_id = properties.correlation_id
        if not task_id:
            return
        come = _read(body)
        with self._changed:
            known = self._come.get(task_id)
            if known is not None and known.ready and (known.success or known.retries >= come.retries):
                return
            self._come.pop(task_id, None)  # the newest last
            self._come[task_id] = come
            while come.at - (oldest := next(iter(self._come.items())))[1].at > self._kept_seconds:
                del self._come[oldest[0]]
            self._changed.notify_all()

    def get(self, task_id: str) -> bytes | None:
        """Return the newest document that has come; None: none yet, or another process has sent the task."""
        self._mine()
        if self._begin_to_read():
            try:
                self._read(0.0)
            finally:
                self._let_others_read()
        found = self._come.get(task_id)
        return None if found is None else found.document

    def wait(self, task_id: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first document in a ready state, or None when the time is over.

        One of those who wait reads for all. Goes on through an outage that is over before
        `PATIENCE_SECONDS`: the queue is kept meanwhile.
        """
        self._mine()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        failing_since: float | None = None
        while True:
            found = self._come.get(task_id)
            if found is not None and found.ready:
                return found.document
            left = SLICE_SECONDS if deadline is None else min(SLICE_SECONDS, deadline - time.monotonic())
            if not self._begin_to_read():
                if left <= 0:
                    return None
                with self._changed:
                    self._changed.wait_for(lambda: self._is_ready(task_id) or not self._being_read, left)
                continue
            try:
                self._read(max(0.0, left), task_id)
                failing_since = None
            except BrokerUnavailable:
                now = time.monotonic()
                failing_since = failing_since or now
                if now - failing_since > PATIENCE_SECONDS or (deadline is not None and now >= deadline):
                    raise
                time.sleep(PAUSE_SECONDS)
            finally:
                self._let_others_read()
            if left <= 0 and not self._is_ready(task_id):
                return None

    def _is_ready(self, task_id: str) -> bool:
        found = self._come.get(task_id)
        return found is not None and found.ready

    def _begin_to_read(self) -> bool:
        """Whether this thread is now the one that reads."""
        with self._changed:
            if self._being_read:
                return False
            self._being_read = True
            return True

    def _let_others_read(self) -> None:
        with self._changed:
            self._being_read = False
            self._changed.notify_all()

    def _read(self, seconds: float, task_id: str | None = None) -> None:
        """Take what has come; wait so long for the result of a task."""
        self._connect()
        heard = -1
        while heard != len(self._come):
            heard = len(self._come)
            self._in.serve()
        if task_id is not None and seconds > 0:
            end = time.monotonic() + seconds
            self._in.wait(lambda: self._is_ready(task_id) or time.monotonic() >= end, seconds)
        self._acknowledge()

    def forget(self, task_id: str) -> None:
        """Remove a document from memory."""
        self._mine()
        with self._changed:
            self._come.pop(task_id, None)

    def close(self) -> None:
        """Give up the connections, and the queue with what has not been read."""
        if self._pid != os.getpid():
            return
        if self._is_listening() and self._in.check():
            with contextlib.suppress(BrokerUnavailable, Refusal):  # it goes by itself after an hour
                self._in.ask(lambda done: self._in.channel.queue_delete(self._name, callback=done))
        self._heard_from = None
        self._in.close()
        self._out.close()


def _parcel(result: StoredResult) -> Parcel:
    return Parcel(
        "",
        result.reply_to,
        result.document,
        pika.BasicProperties(
            correlation_id=result.task_id,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=1,
        ),
        mandatory=False,
    )


def _read(document: bytes) -> _Come:
    """Return what has come. What is no document is ready: its reader shall say so."""
    try:
        try:
            status = _decode_status(document)
        except msgspec.DecodeError:  # NaN, or retries that are none
            meta = load(document)
            status = _Status(str(meta["status"]), int(meta.get("retries") or 0))
        ready, success, retries = status.status in READY_STATES, status.status == "SUCCESS", status.retries
    except (ValueError, TypeError, KeyError):
        ready, success, retries = True, False, 0
    return _Come(time.monotonic(), document, ready, retries, success)
