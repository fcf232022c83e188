"""How a worker on Redis learns of messages: by a wait on each list, and a claim right behind it.

The Redis transport makes it, the worker's loop looks at it. It knows connections and answers, but not what a
claim says: of that it asks the transport.

`BLMOVE q q RIGHT RIGHT` waits for a message and takes none. A blocked connection's further commands are
carried out as soon as it is free, so a claim that stands behind the wait costs no round trip: its answer
comes with the wait's own. What that means when nobody reads the answer: docs/decisions/0007.
"""

import selectors
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
import redis

from muster.redis_client import SOCKET_TIMEOUT_SECONDS
from muster.transports.base import Delivery, Seen

WAIT_SECONDS: Final = 5.0
"""How long one blocking wait lasts: an idle queue costs a command each time, or two."""
RECALL_SECONDS: Final = 1.0
"""How long we ask the server to end a wait of which it knows nothing."""
REST_SECONDS: Final = 1.0
"""How long a list is left alone whose wait the server has answered with an error."""


class Claim(msgspec.Struct, frozen=True):
    """A claim that is carried out later."""

    limit: int
    """How many messages it may take."""
    first: int
    """The first of the numbers that its tags have."""
    command: tuple[Any, ...]


class Claims(Protocol):
    """What the watch asks of its transport."""

    def before_claims(self) -> tuple[Any, ...]:
        """Return the command that makes the server ready to carry out claims."""

    def claim_later(self, limit: int) -> Claim:
        """Return a claim of so many messages."""

    def claimed(self, claim: Claim, reply: Any) -> tuple[list[Delivery], float]:
        """Return what the server's answer brought, and when it was claimed."""


class _List:
    """One list that is watched, on a connection of its own, on which a question is open most of the time."""

    def __init__(self, key: str, connection: Any) -> None:
        self.key = key
        self.connection = connection
        self.socket: Any = None
        """What the selector knows of the connection; None while there is none."""
        self.client_id: Any = None
        """The server's name for the connection."""
        self.asked_at: float | None = None
        self.rests_until = 0.0
        self.claim: Claim | None = None
        """Stands behind the open question."""


class RedisWatch:
    """Waits on all lists at once, beside whatever else its caller waits for.

    A claim stands behind the wait of an only list. Of several each would need slots of its own, all but one
    of them kept for nothing.

    Without a thread: to change to the loop's would cost a tenth of the time from a message to its start. What
    cannot be asked is left to the next `look`; meanwhile a tick tells whether a message waits.
    """

    def __init__(self, connect: Callable[[], Any], call: Callable[..., Any], claims: Claims) -> None:
        self._connect = connect
        self._call = call
        self._claims = claims
        self._lists: dict[str, _List] = {}
        self._selector = selectors.DefaultSelector()
        self._armed = self._come = self._lost = False
        self._claim = 0
        """How many may be claimed by what is asked next."""
        self._can_recall = True
        self._deliveries: list[Delivery] = []
        self._now = 0.0

    @property
    def allowed(self) -> int:
        """Return how many messages may be claimed by the questions that are open."""
        return sum(each.claim.limit for each in self._lists.values() if each.claim is not None)

    def fileno(self) -> int | None:
        """Return the selector's own descriptor: readable when any list has an answer."""
        return self._selector.fileno()

    def add(self, key: str) -> None:
        """Watch one more list."""
        if key not in self._lists:
            self._lists[key] = _List(key, self._connect())
            if self._armed:
                self._ask_all()

    def arm(self, claim: int = 0) -> None:
        """Ask for one notification, and allow a claim."""
        self._armed = True
        self._claim = claim
        self._ask_all()

    def look(self) -> Seen:
        """Read the answers, and ask anew."""
        for ready, _ in self._selector.select(0):
            self._read(ready.data)
        silent_since = time.monotonic() - WAIT_SECONDS - SOCKET_TIMEOUT_SECONDS
        for each in self._lists.values():
            if each.asked_at is not None and each.asked_at < silent_since:
                self._drop(each)  # the server is gone without a word
        if self._armed:
            self._ask_all()
        return self._seen()

    def recall(self) -> Seen:
        """End the wait behind which a claim stands, and return what came of it."""
        for each in list(self._lists.values()):  # what was claimed may bring along a list
            if each.claim is None:
                continue
            try:
                ended = self._end_wait(each)
            except redis.ResponseError:
                self._can_recall = ended = False
            except (redis.RedisError, OSError):
                ended = False
            if ended:
                self._read(each)
            else:
                self._drop(each)
        self._armed = False
        return self._seen()

    def reset(self) -> None:
        """Give up all waits with their connections."""
        for each in self._lists.values():
            self._drop(each)
        self._armed = self._come = self._lost = False

    def _end_wait(self, each: _List) -> bool:
        """Return whether the wait has an answer now; it may have one already, or begin after we ask."""
        until = time.monotonic() + RECALL_SECONDS
        while not self._call("CLIENT", "UNBLOCK", each.client_id):
            if each.connection.can_read(RECALL_SECONDS / 50):
                return True
            if time.monotonic() >= until:
                return False
        return True

    def close(self) -> None:
        """Stop waiting: open questions end with their connections."""
        for each in self._lists.values():
            self._drop(each)
        self._selector.close()

    def _seen(self) -> Seen:
        seen = Seen(come=self._come, deliveries=self._deliveries, now=self._now, lost=self._lost)
        self._come = self._lost = False
        self._deliveries = []
        return seen

    def _ask_all(self) -> None:
        now = time.monotonic()
        for each in self._lists.values():
            if each.asked_at is None and each.rests_until <= now:
                self._ask(each, now)

    def _ask(self, each: _List, now: float) -> None:
        commands: list[tuple[Any, ...]] = [("BLMOVE", each.key, each.key, "RIGHT", "RIGHT", WAIT_SECONDS)]
        try:
            if each.socket is None:
                self._open(each)
            if self._claim and self._can_recall and len(self._lists) == 1:
                each.claim = self._claims.claim_later(self._claim)
                commands.append(each.claim.command)
            each.connection.send_packed_command(each.connection.pack_commands(commands))
        except (redis.RedisError, OSError):
            self._drop(each)
            return
        each.asked_at = now

    def _open(self, each: _List) -> None:
        connection = each.connection
        connection.connect()
        each.socket = connection._sock  # noqa: SLF001 - kombu waits on it as well; there is no other name
        self._selector.register(each.socket, selectors.EVENT_READ, each)
        connection.send_packed_command(
            connection.pack_commands([("CLIENT", "ID"), self._claims.before_claims()])
        )
        each.client_id, _ = self._answer(each), self._answer(each)
        if isinstance(each.client_id, redis.ResponseError):  # what has no name cannot be told to end
            self._can_recall = False

    def _read(self, each: _List) -> None:
        claim = each.claim
        try:
            waited = self._answer(each)
            claimed = None if claim is None else self._answer(each)
        except (redis.RedisError, OSError):
            self._drop(each)
            return
        each.asked_at = each.claim = None
        come = waited is not None
        if isinstance(waited, redis.ResponseError):
            each.rests_until = time.monotonic() + REST_SECONDS
            come = False
        if isinstance(claimed, redis.ResponseError):
            come = True  # it may not, or not any more: a turn finds out why
        elif claim is not None:
            deliveries, self._now = self._claims.claimed(claim, claimed)
            self._deliveries += deliveries
            self._armed = self._armed and not deliveries  # how many may follow is for the caller to say
            self._come = self._come or len(deliveries) == claim.limit
            return
        if come and self._armed:
            self._armed, self._come = False, True

    def _answer(self, each: _List) -> Any:
        """Return an answer. One that is an error is returned as well: another may follow it."""
        try:
            return each.connection.read_response()
        except redis.ResponseError as error:
            return error

    def _drop(self, each: _List) -> None:
        self._lost = self._lost or each.claim is not None
        if each.socket is not None:
            self._selector.unregister(each.socket)
        each.socket = each.asked_at = each.claim = None
        each.connection.disconnect()
