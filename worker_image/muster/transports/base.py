"""The port to a broker: what the worker's loop, the client and `muster dev` ask of it.

Implementations: `redis`, `amqp`, `sqlite`, `memory`; one contract suite (`tests/contract/`) runs on each. A
transport knows no task, no policy and no clock of this machine: every time it gives or takes is the broker's,
in Unix seconds (RabbitMQ tells none: there it is the machine's). A message in a worker's hands is *claimed*
(prefetched, not started) or *running*; either way it is held by a lease that `tick` renews and anyone's
`tick` ends, or on RabbitMQ by the connection.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

import msgspec

from muster.core.age import Age
from muster.core.effects import Publication, StoredResult
from muster.core.rate import Rate


class Verdict(IntEnum):
    """What becomes of a message in hand. The numbers are part of the Lua scripts' arguments."""

    ACK = 0
    """It is done with."""
    RETURN = 1
    """Back to its queue as it came, to be served next: it has not started."""
    LOST = 2
    """Back to its queue with one more loss noted: its worker was lost while it may have run."""
    DEAD = 3
    """To the dead-letter place of its queue, with the reason."""
    DEFER = 4
    """Waits on the broker for its ETA."""
    REQUEUE = 5
    """Back to its queue as it came, behind the others: the task asked for it (`Reject(requeue=True)`)."""
    ACKED = 6
    """It was acknowledged before it started (early ack): only `result` and `publish` remain. They are
    carried out, `publish` once however often this is said."""
    ACK_EARLY = 7
    """It is about to start (early ack): done with for the broker, and nothing comes with it. Said again in
    the next turns, because its answer got lost, it is answered as at first: nobody else has the message."""


class Delivery(msgspec.Struct, frozen=True):
    """One message taken from a queue."""

    tag: str
    """Names this delivery to the broker."""
    queue: str
    raw: bytes
    running: bool
    """True: the broker already has it down as running; False: `Turn.start` must come first."""
    suspect: bool = False
    """Its last worker was lost, and the broker does not tell whether it had begun: it runs alone, and its
    start counts as an extra run. Losses that the message itself notes are certain."""
    again: bool = False
    """It was delivered before, and has waited for its time in our hands meanwhile."""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one message in hand; carried out wholly or, if its lease is gone, only `result`.

    Order: the result is stored, `publish` put into queues, then the verdict. So nothing is lost between.
    """

    tag: str
    queue: str
    verdict: Verdict
    reason: str = ""
    """DEAD: CamelCase reason. LOST: the cause (`WorkerLost`, …)."""
    text: str = ""
    """DEAD: a sentence for people."""
    eta: float = 0.0
    """DEFER: when, Unix seconds."""
    result: StoredResult | None = None
    publish: Sequence[Publication] = ()


class Sending(msgspec.Struct, frozen=True):
    """What a running task asked to publish and waits for. Said again, in the next turns, it is done once."""

    token: str
    """Different for each sending of all workers."""
    publications: Sequence[Publication]


class Start(msgspec.Struct, frozen=True):
    """A message in hand that is about to be handed to the pool. `extra_run` is JSON [queue, task, cause]."""

    tag: str
    queue: str
    extra_run: str = ""
    task: str = ""
    rate: Rate | None = None
    """How often `task` may start in all workers together. Over it, the message waits on the broker instead:
    it is not ours any more, and `Turned.put_off` says until when. A start that is asked for again, because
    its answer got lost, is counted again."""


class Turn(msgspec.Struct, kw_only=True):
    """All that the worker's loop has for the broker at one moment: one round trip."""

    store: Sequence[StoredResult] = ()
    """Results of tasks that go on, stored before all else: where results are this broker's own."""
    settle: Sequence[Settlement] = ()
    send: Sequence[Sending] = ()
    start: Sequence[Start] = ()
    claim: int = 0
    """How many messages to take at most."""
    run: int = 0
    """How many of them count as running at once; the others are claimed."""


class Turned(msgspec.Struct, kw_only=True):
    """The broker's answer, confirmed."""

    settled: Sequence[bool | None] = ()
    """For each settlement: was the lease still ours? False: somebody else has the message now. None: nothing
    has been done yet (the broker takes no messages now, which this one needs); it has to be said again."""
    unsent: Mapping[str, str] = {}
    """Token → why a sending was not done; empty: not yet, and it has to be said again."""
    started: Sequence[bool] = ()
    """For each start: is it ours to run?"""
    put_off: Mapping[str, float] = {}
    """Tag → time, for the starts that have to wait for their rate."""
    deliveries: Sequence[Delivery] = ()
    now: float = 0.0
    undone: int = 0
    """How many messages that were put off the broker has yet to take back: whoever leaves waits for that."""


class Tick(msgspec.Struct, kw_only=True):
    """The once-a-second housekeeping of one worker."""

    renew: Sequence[tuple[str, str]] = ()
    """(queue, tag) of leases to renew."""
    reconcile: bool = False
    """`renew` is all that we hold. What else stands under our name was claimed in an answer that never
    reached us: it goes back as it came. For the first tick after an outage, with the watch recalled."""
    spare: bool = False
    """End no lease now: the broker was away, and those who hold it have not all come back yet."""
    report: bytes | None = None
    revoked_after: float = 0.0
    """Return ids revoked after this time."""


class Ticked(msgspec.Struct, kw_only=True):
    """The answer to a tick."""

    now: float
    next_eta: float | None = None
    """When the next waiting message of our queues is due."""
    commands: Sequence[bytes] = ()
    revoked: Sequence[str] = ()
    gone: Sequence[str] = ()
    """Tags whose lease was no longer ours to renew."""
    undone: int = 0
    """As in `Turned`."""
    ready: bool = False
    """Whether a message waits in one of our queues: the watch may have missed it."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch has to tell."""

    come: bool = False
    """That for which it was armed has come, and there may be something to claim."""
    deliveries: Sequence[Delivery] = ()
    """What was claimed at once, as `arm` allowed it: held by a lease like any other claim."""
    now: float = 0.0
    """When it was claimed, by the broker's clock: its lease counts from then."""
    lost: bool = False
    """An answer got lost, in which something may have been claimed: it is for `Tick.reconcile`."""


class Watch(Protocol):
    """Waits for messages: in the background, or beside what its caller waits for. The wait takes none."""

    @property
    def allowed(self) -> int:
        """Return how many messages may be claimed without any further word of ours, as `arm` said."""

    def arm(self, claim: int = 0) -> None:
        """Ask to be told once, as soon as a message waits in one of the queues (or now, if one does).

        `claim`: so many messages may be claimed at that moment, as by `Turn.claim` and `Turn.run`, which
        saves a round trip; not every watch can. It is told of when there may be more. It may miss what comes
        with a priority that nobody used before; the next `tick` tells of that.
        """

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when it is time to `look`; None: `notify` is called."""

    def look(self) -> Seen:
        """Return what has come. To be called once in a while in any case."""

    def recall(self) -> Seen:
        """Take back what `arm` has allowed: afterwards nothing is claimed without a further word of ours.

        Returns what has come, also what was claimed until then. Waits for the broker's answer.
        """

    def reset(self) -> None:
        """Be unarmed, asking nobody: for when the broker is away.

        What was allowed may still be claimed for a few seconds, unheard; it is for `Tick.reconcile`.
        """

    def close(self) -> None:
        """Stop waiting."""


class Transport(Protocol):
    """One worker's connection to its broker, for the queues it consumes, in order of preference.

    Every method raises BrokerUnavailable when the broker cannot be reached and changes nothing it has
    not confirmed. Not thread-safe, but for the watch.
    """

    def turn(self, turn: Turn) -> Turned:
        """Carry out settlements and sendings, then starts, then the claim."""

    def tick(self, tick: Tick) -> Ticked:
        """Renew leases, end foreign expired ones, move due ETAs, report, read the mailbox."""

    def watch(self, notify: Callable[[], None]) -> Watch:
        """Return an unarmed watch over the queues."""

    def close(self) -> None:
        """Give up the connections. What is still in hand comes back when its lease ends."""


class Publisher(Protocol):
    """A client's connection to a broker. Thread-safe."""

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues; when it returns the broker has them. Raises BrokerUnavailable."""

    def close(self) -> None:
        """Give up the connections."""


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in one queue, at `now` of the broker's clock."""

    ready: int
    claimed: int
    running: int
    expired: int
    """Of claimed and running: how many leases are over, so that nobody works on them."""
    due: int
    """Waiting messages whose ETA falls within the horizon."""
    waiting: int | None
    """All messages that wait for an ETA; None: some do on this broker, and nobody can say for which queue."""
    dead: int
    oldest: Age | None = None
    """How long the message has waited that waits longest, of those that come next in each priority list.
    Where they do not tell, only an observer that has read the queue before knows."""


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker says of itself."""

    type: str
    """`Redis`, `RabbitMQ` or `SQLite`."""
    version: str = ""
    eviction_policy: str = ""
    """Redis' maxmemory-policy; empty where there is none."""
    max_memory_bytes: int = 0
    """Redis' maxmemory; 0: no limit."""


class Observer(Protocol):
    """Reads a broker for the operator, `muster dev` and people; sends control messages."""

    dead_letters: Mapping[str, str]
    """Queue → its dead-letter place, by default `<queue>.dead`; may be set anew between two calls."""

    def depths(self, queues: Sequence[str], *, horizon_seconds: float) -> dict[str, QueueDepth]:
        """Return the depth of each queue, in one round trip; one that cannot be read now is left out."""

    def reports(self, pool: str, *, max_age_seconds: float) -> list[tuple[float, bytes]]:
        """Return (age in seconds, report) of the pool's workers heard of within `max_age_seconds`."""

    def send(self, worker: str, control: bytes) -> None:
        """Put a control message into a worker's mailbox."""

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker, at its next tick, that these tasks shall not run. Kept for a week."""

    def server(self) -> ServerFacts:
        """Return what the broker says of itself."""

    def remove_queue(self, queue: str, dead_letter: str) -> bool:
        """Remove a queue and its dead-letter place if both are empty. Returns whether they were."""

    def extra_runs(self) -> dict[tuple[str, str, str], int]:
        """Return how many starts beyond the first each (queue, task, cause) has seen."""

    def close(self) -> None:
        """Give up the connection."""
