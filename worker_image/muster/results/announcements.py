"""Waiting for results on Redis: one subscribed connection for all waiting threads of a process.

There is no thread of its own. One of those who wait reads the connection for all (the reader); when it has
its answer, another takes over. So a lone waiter learns of its result without a change of threads.

Nothing is missed: a key is looked up only after its subscription was confirmed, and a connection that was
made anew confirms, and so leads to another look at, every key that is waited for.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import redis

from muster.errors import BrokerRefused, BrokerUnavailable
from muster.redis_client import outage
from muster.wire.result import READY_STATES, load

PATIENCE_SECONDS: Final = 30.0
"""How long an outage may last before those who wait are told of it."""
SLICE_SECONDS: Final = 1.0
"""The longest time between two looks at what else is to be done."""
SILENCE_SECONDS: Final = 15.0
"""After so much silence, the ping that was sent meanwhile included, the connection counts as dead."""
PAUSE_SECONDS: Final = 0.2


class _Status(msgspec.Struct):
    status: str


_decode_status = msgspec.json.Decoder(_Status).decode


def is_ready(document: bytes) -> bool:
    """Whether a document is in a ready state. What is no document is ready: its reader shall say so."""
    try:
        try:
            return _decode_status(document).status in READY_STATES
        except msgspec.DecodeError:  # NaN, or no document
            return load(document)["status"] in READY_STATES
    except ValueError:
        return True


class _Awaited:
    """One key, and those who wait for it."""

    __slots__ = ("answer", "changed", "look", "waiters")

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.waiters = 0
        self.look = False
        """Its subscription has been confirmed, so what stands there now must be looked at."""
        self.answer: bytes | None = None


class Announcements:
    """All waits of one process on one Redis database. Thread- and greenlet-safe."""

    def __init__(self, client: redis.Redis, place: str) -> None:
        self._client = client
        self._place = place
        self._lock = threading.Lock()
        self._awaited: dict[str, _Awaited] = {}
        self._being_read = False
        self._connection: Any = None
        self._heard_at = 0.0

    def wait(self, key: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first ready document under `key`, or None when the time is over.

        Raises BrokerUnavailable.
        """
        with outage(self._place):
            answer = self._look(key)
        if answer is not None or timeout_seconds == 0:
            return answer
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        awaited = self._begin(key)
        try:
            return self._until(key, awaited, deadline)
        finally:
            self._end(key, awaited)

    def _look(self, key: str) -> bytes | None:
        found: bytes | None = self._client.get(key)  # type: ignore[assignment]
        return found if found is not None and is_ready(found) else None

    def _begin(self, key: str) -> _Awaited:
        with self._lock:
            awaited = self._awaited.get(key)
            if awaited is None:
                awaited = self._awaited[key] = _Awaited(self._lock)
                self._tell("subscribe", key)
            awaited.waiters += 1
            return awaited

    def _end(self, key: str, awaited: _Awaited) -> None:
        with self._lock:
            awaited.waiters -= 1
            if not awaited.waiters:
                del self._awaited[key]
                self._tell("unsubscribe", key)
            if not self._being_read:
                for other in self._awaited.values():
                    other.changed.notify()
                    break

    def _tell(self, command: str, key: str) -> None:
        """Send a command over the connection, if there is one; a broken one is given up, and made anew."""
        if self._connection is not None:
            try:
                getattr(self._connection, command)(key)
            except (redis.RedisError, OSError):
                self._connection.close()
                self._connection = None

    def _until(self, key: str, awaited: _Awaited, deadline: float | None) -> bytes | None:
        failing_since: float | None = None
        while True:
            task = self._next_task(awaited, deadline)
            if task is None:
                return awaited.answer
            try:
                with outage(self._place):
                    task(key, awaited, deadline)
                failing_since = None
            except BrokerRefused:
                raise
            except BrokerUnavailable:
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since > PATIENCE_SECONDS or (deadline is not None and now >= deadline):
                    raise
                time.sleep(PAUSE_SECONDS)

    def _next_task(self, awaited: _Awaited, deadline: float | None) -> Callable[..., None] | None:
        """Return what this thread has to do now, waiting for it; None when its wait is over."""
        with self._lock:
            while awaited.answer is None:
                if awaited.look:
                    return self._look_again
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                if not self._being_read:
                    self._being_read = True
                    return self._read
                awaited.changed.wait(left)
            return None

    def _look_again(self, key: str, awaited: _Awaited, _deadline: float | None) -> None:
        answer = self._look(key)
        with self._lock:
            awaited.look = False
            if answer is not None:
                awaited.answer = answer
                awaited.changed.notify_all()

    def _read(self, _key: str, awaited: _Awaited, deadline: float | None) -> None:
        """Read for everybody, until there is something for this thread or its time is over."""
        try:
            while awaited.answer is None and not awaited.look:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return
                self._read_one(SLICE_SECONDS if left is None else min(SLICE_SECONDS, left))
        finally:
            with self._lock:
                self._being_read = False

    def _read_one(self, timeout_seconds: float) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connect()
        try:
            message = connection.get_message(timeout=timeout_seconds)
            now = time.monotonic()
            if message is not None:
                self._heard_at = now
            elif now - self._heard_at > SILENCE_SECONDS:
                raise redis.ConnectionError(f"nothing was heard for {SILENCE_SECONDS:g} s")
            elif now - self._heard_at > SILENCE_SECONDS / 2:
                connection.ping()
        except (redis.RedisError, OSError):
            with self._lock:
                if self._connection is connection:
                    self._connection = None
            connection.close()
            raise
        if message is not None:
            self._hand_out(message)

    def _hand_out(self, message: dict[str, Any]) -> None:
        with self._lock:
            awaited = self._awaited.get((message["channel"] or b"").decode())
            if awaited is None:
                return
            if message["type"] == "subscribe":
                awaited.look = True
            elif message["type"] == "message" and is_ready(message["data"]):
                awaited.answer = message["data"]
            awaited.changed.notify_all()

    def _connect(self) -> Any:
        connection = self._client.pubsub()  # type: ignore[no-untyped-call]
        with self._lock:
            keys = list(self._awaited)
        connection.subscribe(*keys)
        self._heard_at = time.monotonic()
        with self._lock:
            self._connection = connection
            for key in self._awaited.keys() - set(keys):
                self._tell("subscribe", key)
        return connection

    def close(self) -> None:
        """Give up the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
