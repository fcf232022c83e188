"""The broker inside one process: for unit tests, and for the simulation with its virtual clock.

`MemoryBroker` is the broker; its three views are what the ports ask for. It keeps the whole contract of
`muster.transports.base` but survives nothing: what must outlive a process belongs to `sqlite` or `redis`.

A message's place in its queue is when it entered. Coming back (returned, lost, lease over, due) it takes
that old place and so is served before those that entered later; only REQUEUE gives it a new one.
"""

# ruff: noqa: SLF001  # the views are the outside of the broker, in one file with it

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from muster.core.age import age, greatest
from muster.core.effects import Publication, StoredResult
from muster.core.rate import Pace, ask
from muster.settings import environment
from muster.transports.base import (
    Delivery,
    QueueDepth,
    Seen,
    ServerFacts,
    Settlement,
    Start,
    Tick,
    Ticked,
    Turn,
    Turned,
    Verdict,
)
from muster.transports.once import Once
from muster.wire.keys import PRIORITY_STEPS, priority_step
from muster.wire.losses import may_have_run, with_loss

StoreResults: TypeAlias = Callable[[Sequence[StoredResult]], None]


@dataclass(kw_only=True)
class _Message:
    queue: str
    step: int
    place: int
    raw: bytes


@dataclass(kw_only=True)
class _Held:
    message: _Message
    holder: "MemoryTransport"
    running: bool
    deadline: float


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that nobody will run, and why."""

    reason: str
    text: str
    queue: str
    raw: bytes
    at: float


@dataclass(kw_only=True)
class _Queue:
    ready: dict[int, list[tuple[int, _Message]]] = field(
        default_factory=lambda: {step: [] for step in PRIORITY_STEPS}
    )
    """Step → heap of (place, message)."""
    waiting: list[tuple[float, int, _Message]] = field(default_factory=list)
    """Heap of (ETA, place, message)."""


class MemoryBroker:
    """All queues of one process. Thread-safe. `clock` is the broker's time, in Unix seconds.

    `store` is called with the results that turns carry, before anything else of the turn happens.
    """

    def __init__(self, clock: Callable[[], float] = time.time, store: StoreResults | None = None) -> None:
        self._clock = clock
        self._store = store
        self._lock = threading.RLock()
        self._places = itertools.count(1)
        self._queues: dict[str, _Queue] = {}
        self._held: dict[str, _Held] = {}
        self._dead: dict[str, deque[DeadLetter]] = {}
        self._reports: dict[str, dict[str, tuple[float, bytes]]] = {}
        self._mailboxes: dict[str, list[bytes]] = {}
        self._revoked: dict[str, float] = {}
        self._extra_runs: dict[tuple[str, str, str], int] = {}
        self._paces: dict[str, Pace] = {}
        """Task → how far its rate for all workers is used up."""
        self._sent: dict[str, list[str]] = {}
        """Worker → what it said last of all that is done once."""
        self._watches: list[MemoryWatch] = []

    # -- views

    def transport(
        self,
        *,
        queues: Sequence[str],
        worker: str,
        pool: str,
        lease_seconds: float,
        dead_letters: Mapping[str, environment.DeadLetter] | None = None,
    ) -> "MemoryTransport":
        """Return one worker's connection. `dead_letters`: queue → place, by default `<queue>.dead`."""
        return MemoryTransport(self, queues, worker, pool, lease_seconds, dead_letters or {})

    def publisher(self) -> "MemoryPublisher":
        """Return a client's connection."""
        return MemoryPublisher(self)

    def observer(self, dead_letters: Mapping[str, str] | None = None) -> "MemoryObserver":
        """Return a reader's connection."""
        return MemoryObserver(self, dead_letters or {})

    def dead(self, place: str) -> list[DeadLetter]:
        """Return the dead letters of one place, the oldest first."""
        with self._lock:
            return list(self._dead.get(place, ()))

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker, at its next tick, that these tasks shall not run."""
        with self._lock:
            self._revoked.update(dict.fromkeys(task_ids, self._clock()))

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Yield (place, message) for every message that the broker has: ready, held, waiting or dead."""
        with self._lock:
            for queue in self._queues.values():
                for heap in queue.ready.values():
                    yield from (("ready", message.raw) for _, message in heap)
                yield from (("waiting", message.raw) for _, _, message in queue.waiting)
            for held in self._held.values():
                yield ("running" if held.running else "claimed"), held.message.raw
            for letters in self._dead.values():
                yield from (("dead", letter.raw) for letter in letters)

    # -- what the views do; each holds the lock for the whole of one call

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue())

    def _enqueue(self, message: _Message) -> None:
        heapq.heappush(self._queue(message.queue).ready[message.step], (message.place, message))

    def _wait_until(self, eta: float, message: _Message) -> None:
        heapq.heappush(self._queue(message.queue).waiting, (eta, message.place, message))

    def _publish(self, publications: Iterable[Publication], now: float) -> None:
        for publication in publications:
            message = _Message(
                queue=publication.queue,
                step=priority_step(publication.priority),
                place=next(self._places),
                raw=publication.raw,
            )
            if publication.eta > now:
                self._wait_until(publication.eta, message)
            else:
                self._enqueue(message)

    def _settle(self, settlement: Settlement, transport: "MemoryTransport", once: Once, now: float) -> bool:
        if settlement.verdict is Verdict.ACKED:
            if settlement.publish and once.is_new(settlement.tag):
                self._publish(settlement.publish, now)
            return True
        if settlement.verdict is Verdict.ACK_EARLY:
            held = self._find(settlement) and self._held.pop(settlement.tag)
            return once.ours(settlement.tag, acked_now=held is not None)
        if self._find(settlement) is None:
            return False
        message = self._held.pop(settlement.tag).message
        self._publish(settlement.publish, now)
        match settlement.verdict:
            case Verdict.ACK:
                pass
            case Verdict.RETURN:
                self._enqueue(message)
            case Verdict.LOST:
                message.raw = with_loss(message.raw, settlement.reason)
                self._enqueue(message)
            case Verdict.DEAD:
                place = transport.dead_letters[message.queue]
                letter = DeadLetter(
                    reason=settlement.reason,
                    text=settlement.text,
                    queue=message.queue,
                    raw=message.raw,
                    at=now,
                )
                self._dead.setdefault(place.name, deque()).append(letter)
                self._end_dead_letters(place, now)
            case Verdict.DEFER:
                self._wait_until(settlement.eta, message)
            case Verdict.REQUEUE:
                message.place = next(self._places)
                self._enqueue(message)
        return True

    def _find(self, named: Settlement | Start) -> _Held | None:
        held = self._held.get(named.tag)
        return held if held is not None and held.message.queue == named.queue else None

    def _start(self, start: Start, now: float, deadline: float, put_off: dict[str, float]) -> bool:
        held = self._find(start)
        if held is None:
            return False
        if start.rate is not None:
            self._paces[start.task], until = ask(start.rate, self._paces.get(start.task, Pace()), now)
            if until:
                put_off[start.tag] = until
                self._wait_until(until, self._held.pop(start.tag).message)
                return False
        if held.running:  # a start whose answer got lost is asked for again
            return True
        held.running = True
        held.deadline = deadline
        if start.extra_run:
            queue, task, cause = msgspec.json.decode(start.extra_run, type=tuple[str, str, str])
            self._extra_runs[queue, task, cause] = self._extra_runs.get((queue, task, cause), 0) + 1
        return True

    def _take(self, queues: Sequence[str], limit: int) -> Iterator[_Message]:
        """Yield the next messages: priority first, then the order of preference, then their places."""
        for step in PRIORITY_STEPS:
            for name in queues:
                heap = self._queue(name).ready[step]
                while heap and limit > 0:
                    limit -= 1
                    yield heapq.heappop(heap)[1]

    def _claim(self, transport: "MemoryTransport", limit: int, run: int, deadline: float) -> list[Delivery]:
        deliveries = []
        for message in self._take(transport.queues, limit):
            tag = transport.next_tag()
            running = run > 0 and not may_have_run(message.raw)
            run -= running
            self._held[tag] = _Held(message=message, holder=transport, running=running, deadline=deadline)
            deliveries.append(Delivery(tag, message.queue, message.raw, running))
        return deliveries

    def _turn(self, turn: Turn, transport: "MemoryTransport") -> Turned:
        if self._store is not None and (
            results := [
                *turn.store,
                *(settlement.result for settlement in turn.settle if settlement.result is not None),
            ]
        ):
            self._store(results)
        with self._lock:
            now = self._clock()
            deadline = now + transport.lease_seconds
            once = Once(lambda: self._sent.get(transport.worker, ()))
            settled = [self._settle(s, transport, once, now) for s in turn.settle]
            for sending in turn.send:
                if once.is_new(sending.token):
                    self._publish(sending.publications, now)
            if once.said:
                self._sent[transport.worker] = once.said
            put_off: dict[str, float] = {}
            started = [self._start(start, now, deadline, put_off) for start in turn.start]
            deliveries = self._claim(transport, turn.claim, turn.run, deadline)
            watches = self._woken()
        for watch in watches:
            watch.fire()
        return Turned(settled=settled, started=started, put_off=put_off, deliveries=deliveries, now=now)

    def _tick(self, tick: Tick, transport: "MemoryTransport") -> Ticked:
        with self._lock:
            now = self._clock()
            gone = []
            for queue, tag in tick.renew:
                held = self._held.get(tag)
                if held is None or held.message.queue != queue:
                    gone.append(tag)
                else:
                    held.deadline = now + transport.lease_seconds
            if tick.reconcile:
                self._reconcile(transport, {tag for _, tag in tick.renew})
            if not tick.spare:
                self._end_leases(transport.queues, now)
            for place in transport.dead_letters.values():
                self._end_dead_letters(place, now)
            next_eta = self._move_due(transport.queues, now)
            if tick.report is not None:
                self._reports.setdefault(transport.pool, {})[transport.worker] = (now, tick.report)
            commands = self._mailboxes.pop(transport.worker, [])
            revoked = [task_id for task_id, at in self._revoked.items() if at > tick.revoked_after]
            ready = any(any(self._queue(name).ready.values()) for name in transport.queues)
            watches = self._woken()
        for watch in watches:
            watch.fire()
        return Ticked(now=now, next_eta=next_eta, commands=commands, revoked=revoked, gone=gone, ready=ready)

    def _reconcile(self, transport: "MemoryTransport", ours: set[str]) -> None:
        """Give back, as it came, what stands under a worker's name and is not in its hands."""
        for tag, held in list(self._held.items()):
            if held.holder is transport and held.message.queue in transport.queues and tag not in ours:
                self._enqueue(self._held.pop(tag).message)

    def _end_dead_letters(self, place: environment.DeadLetter, now: float) -> None:
        letters = self._dead.get(place.name, deque())
        while letters and (len(letters) > place.max_length or letters[0].at < now - place.max_age):
            letters.popleft()

    def _end_leases(self, queues: Sequence[str], now: float) -> None:
        over = [
            tag for tag, held in self._held.items() if held.deadline <= now and held.message.queue in queues
        ]
        for tag in over:
            held = self._held.pop(tag)
            if held.running:
                held.message.raw = with_loss(held.message.raw, "LeaseExpired")
            self._enqueue(held.message)

    def _move_due(self, queues: Sequence[str], now: float) -> float | None:
        etas = []
        for name in queues:
            waiting = self._queue(name).waiting
            while waiting and waiting[0][0] <= now:
                self._enqueue(heapq.heappop(waiting)[2])
            if waiting:
                etas.append(waiting[0][0])
        return min(etas, default=None)

    def _woken(self) -> list["MemoryWatch"]:
        """Return, and disarm, the armed watches for which a message is ready, with what they may claim."""
        woken = []
        for watch in self._watches:
            if watch.armed and self._any_ready(watch.transport.queues):
                watch.come(self._clock())
                woken.append(watch)
        return woken

    def _any_ready(self, queues: Sequence[str]) -> bool:
        return any(heap for name in queues for heap in self._queue(name).ready.values())

    def _depth(self, name: str, dead_letter: str, now: float, horizon_seconds: float) -> QueueDepth:
        queue = self._queue(name)
        held = [held for held in self._held.values() if held.message.queue == name]
        heaps = [heap for heap in queue.ready.values() if heap]
        return QueueDepth(
            ready=sum(map(len, heaps)),
            claimed=sum(not one.running for one in held),
            running=sum(one.running for one in held),
            expired=sum(one.deadline <= now for one in held),
            due=sum(eta <= now + horizon_seconds for eta, _, _ in queue.waiting),
            waiting=len(queue.waiting),
            dead=len(self._dead.get(dead_letter, ())),
            oldest=greatest(age(heap[0][1].raw, None, now) for heap in heaps),
        )


class MemoryWatch:
    """See `muster.transports.base.Watch`. `notify` is called in the thread that publishes, or that arms."""

    def __init__(
        self, broker: MemoryBroker, transport: "MemoryTransport", notify: Callable[[], None]
    ) -> None:
        self.transport = transport
        self.armed = False
        self._may_claim = 0
        self._broker = broker
        self._seen = Seen()
        self.fire = notify

    @property
    def allowed(self) -> int:
        """Return how many messages may be claimed, or have been and nobody has looked."""
        with self._broker._lock:
            return self._may_claim + len(self._seen.deliveries)

    def arm(self, claim: int = 0) -> None:
        """Ask for one notification, and allow a claim."""
        with self._broker._lock:
            self.armed = True
            self._may_claim = claim
            if self in self._broker._watches:  # who has waited longest is served first
                self._broker._watches.remove(self)
                self._broker._watches.append(self)
            fire = self in self._broker._woken()
        if fire:
            self.fire()

    def come(self, now: float) -> None:
        """Note that a message is there, and claim what is allowed. The broker calls it, holding its lock."""
        limit, self._may_claim, self.armed = self._may_claim, 0, False
        claimed = self._broker._claim(self.transport, limit, limit, now + self.transport.lease_seconds)
        self._seen = Seen(come=len(claimed) == limit, deliveries=[*self._seen.deliveries, *claimed], now=now)

    def fileno(self) -> None:
        """Return nothing: `notify` is called."""

    def look(self) -> Seen:
        """Return what has come."""
        with self._broker._lock:
            seen, self._seen = self._seen, Seen()
        return seen

    def recall(self) -> Seen:
        """Take back what `arm` has allowed, and return what has come."""
        with self._broker._lock:
            self.armed, self._may_claim = False, 0
            return self.look()

    def reset(self) -> None:
        """Be unarmed, and forget what nobody has looked at."""
        self.recall()

    def close(self) -> None:
        """Stop waiting."""
        with self._broker._lock:
            self.armed = False
            if self in self._broker._watches:
                self._broker._watches.remove(self)


class MemoryTransport:
    """One worker's view; see `muster.transports.base.Transport`."""

    def __init__(
        self,
        broker: MemoryBroker,
        queues: Sequence[str],
        worker: str,
        pool: str,
        lease_seconds: float,
        dead_letters: Mapping[str, environment.DeadLetter],
    ) -> None:
        self.queues = list(queues)
        self.worker = worker
        self.pool = pool
        self.lease_seconds = lease_seconds
        self.dead_letters = {
            name: dead_letters.get(name) or environment.DeadLetter(name=f"{name}.dead") for name in queues
        }
        self._broker = broker
        self._watches: list[MemoryWatch] = []

    def next_tag(self) -> str:
        """Return a name for a delivery that no other has had."""
        return f"{self.worker}:{next(self._broker._places)}"

    def turn(self, turn: Turn) -> Turned:
        """Carry out settlements and sendings, then starts, then the claim."""
        return self._broker._turn(turn, self)

    def tick(self, tick: Tick) -> Ticked:
        """Renew leases, end expired ones of anybody, move due ETAs, report, read the mailbox."""
        return self._broker._tick(tick, self)

    def watch(self, notify: Callable[[], None]) -> MemoryWatch:
        """Return an unarmed watch over the queues."""
        watch = MemoryWatch(self._broker, self, notify)
        with self._broker._lock:
            self._broker._watches.append(watch)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        """Close the watches. What is in hand comes back when its lease ends."""
        for watch in self._watches:
            watch.close()


class MemoryPublisher:
    """A client's view; see `muster.transports.base.Publisher`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues."""
        broker = self._broker
        with broker._lock:
            broker._publish(publications, broker._clock())
            watches = broker._woken()
        for watch in watches:
            watch.fire()

    def close(self) -> None:
        """Nothing is held open."""


class MemoryObserver:
    """A reader's view; see `muster.transports.base.Observer`."""

    def __init__(self, broker: MemoryBroker, dead_letters: Mapping[str, str]) -> None:
        self._broker = broker
        self.dead_letters = dead_letters

    def depths(self, queues: Sequence[str], *, horizon_seconds: float) -> dict[str, QueueDepth]:
        """Return the depth of each queue."""
        broker = self._broker
        with broker._lock:
            now = broker._clock()
            return {
                name: broker._depth(name, self.dead_letters.get(name, f"{name}.dead"), now, horizon_seconds)
                for name in queues
            }

    def reports(self, pool: str, *, max_age_seconds: float) -> list[tuple[float, bytes]]:
        """Return (age in seconds, report) of the pool's workers."""
        broker = self._broker
        with broker._lock:
            now = broker._clock()
            found = [(now - at, report) for at, report in broker._reports.get(pool, {}).values()]
        return [(age, report) for age, report in found if age <= max_age_seconds]

    def send(self, worker: str, control: bytes) -> None:
        """Put a control message into a worker's mailbox."""
        with self._broker._lock:
            self._broker._mailboxes.setdefault(worker, []).append(control)

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker, at its next tick, that these tasks shall not run."""
        self._broker.revoke(task_ids)

    def server(self) -> ServerFacts:
        """Return that it is this process' memory."""
        return ServerFacts(type="Memory")

    def remove_queue(self, queue: str, dead_letter: str) -> bool:
        """Return whether nothing of either is left: an empty queue takes no place."""
        depth = self.depths([queue], horizon_seconds=0)[queue]
        held = depth.ready or depth.claimed or depth.running or depth.waiting
        return not (held or self._broker.dead(dead_letter))

    def extra_runs(self) -> dict[tuple[str, str, str], int]:
        """Return the starts beyond the first by (queue, task, cause)."""
        with self._broker._lock:
            return dict(self._broker._extra_runs)

    def close(self) -> None:
        """Nothing is held open."""
