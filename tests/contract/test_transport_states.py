"""Any sequence of calls, on brokers whose clock is ours: a message is in one place, never two, never none."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokers import OnMemory, OnSQLite, message
from muster.core.effects import Publication
from muster.transports.base import Settlement, Start, Tick, Turn, Verdict
from muster.wire.message import peek

QUEUES = ("mail", "other")
WORKERS = ("one", "two")
LEASE = 30.0
workers = st.sampled_from(WORKERS)
picks = st.integers(0, 1000)


class Held:
    """What the model knows of one delivery."""

    def __init__(self, delivery, worker, deadline):
        self.delivery = delivery
        self.id = peek(delivery.raw).id
        self.worker = worker
        self.running = delivery.running
        self.deadline = deadline


class BrokerMachine(RuleBasedStateMachine):
    """Publishers, two workers and a clock, and beside them a model of where each message must be."""

    def __init__(self):
        super().__init__()
        self.broker = self.make_broker()
        self.transports = {
            name: self.broker.transport(*QUEUES, worker=name, lease_seconds=LEASE) for name in WORKERS
        }
        self.publisher = self.broker.publisher()
        self.observer = self.broker.observer()
        self.sent = 0
        self.place = {}
        self.queue = {}
        self.losses = Counter()
        self.eta = {}
        self.held = {}
        self.forgotten = []
        self.extra_runs = 0
        self.acked_early = {}
        """Worker → the tag of its last early ack, which it may say again."""

    def make_broker(self):
        raise NotImplementedError

    def teardown(self):
        self.broker.close()

    def new(self, queue, eta):
        self.sent += 1
        task_id = str(self.sent)
        self.queue[task_id] = queue
        self.put(task_id, eta)
        return message(task_id, queue, published_at=int(self.broker.now()))

    def put(self, task_id, eta=0.0):
        waits = eta > self.broker.now()
        self.place[task_id] = "waiting" if waits else "ready"
        if waits:
            self.eta[task_id] = eta

    def back(self, held, lost):
        self.losses[held.id] += lost
        self.put(held.id)
        del self.held[held.delivery.tag]
        self.forgotten.append(held.delivery)

    def pick(self, worker, number):
        ours = [held for held in self.held.values() if held.worker == worker]
        return ours[number % len(ours)] if ours else None

    @rule(queue=st.sampled_from(QUEUES), priority=st.integers(0, 9), wait=st.sampled_from([0, 0, 5, 60]))
    def publish(self, queue, priority, wait):
        eta = self.broker.now() + wait if wait else 0.0
        self.publisher.publish([Publication(queue, self.new(queue, eta), priority, eta)])

    @rule(worker=workers, count=st.integers(1, 4), run=st.integers(0, 4))
    def claim(self, worker, count, run):
        ready = sum(place == "ready" for place in self.place.values())
        deliveries = self.transports[worker].turn(Turn(claim=count, run=run)).deliveries
        assert len(deliveries) == min(count, ready)
        assert sum(delivery.running for delivery in deliveries) <= run
        for delivery in deliveries:
            held = Held(delivery, worker, self.broker.now() + LEASE)
            assert self.place[held.id] == "ready"
            assert peek(delivery.raw).losses == self.losses[held.id]
            assert not (delivery.running and self.losses[held.id])
            assert delivery.tag not in self.held
            self.place[held.id] = "running" if held.running else "claimed"
            self.held[delivery.tag] = held

    @rule(worker=workers, number=picks)
    def start(self, worker, number):
        if held := self.pick(worker, number):
            extra = f'["{held.delivery.queue}","shop.send","Lost"]' if self.losses[held.id] else ""
            start = Start(held.delivery.tag, held.delivery.queue, extra)
            assert list(self.transports[worker].turn(Turn(start=[start])).started) == [True]
            if not held.running:
                held.running = True
                held.deadline = self.broker.now() + LEASE
                self.place[held.id] = "running"
                self.extra_runs += bool(extra)

    @rule(
        worker=workers,
        number=picks,
        verdict=st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.ACKED]),
        follow=st.booleans(),
    )
    def settle(self, worker, number, verdict, follow):
        held = self.pick(worker, number)
        if held is None:
            return
        eta = self.broker.now() + 7
        follow = follow and verdict is not Verdict.ACK_EARLY  # nothing has run yet
        publish = [Publication("other", self.new("other", 0.0))] if follow else []
        self.say(worker, held.delivery, verdict, eta, publish, ours=True)
        if verdict in {Verdict.RETURN, Verdict.LOST}:
            self.back(held, lost=verdict is Verdict.LOST)
            return
        del self.held[held.delivery.tag]
        self.forgotten.append(held.delivery)
        if verdict is Verdict.ACK_EARLY:
            self.acked_early[worker] = held.delivery.tag
        match verdict:
            case Verdict.ACK | Verdict.ACK_EARLY:
                del self.place[held.id]
            case Verdict.DEAD:
                self.place[held.id] = "dead"
            case Verdict.DEFER:
                self.put(held.id, eta)
            case Verdict.REQUEUE:
                self.put(held.id)

    @rule(
        worker=workers, number=picks, verdict=st.sampled_from([v for v in Verdict if v is not Verdict.ACKED])
    )
    def settle_what_is_gone(self, worker, number, verdict):
        if self.forgotten:
            delivery = self.forgotten[number % len(self.forgotten)]
            publish = [Publication("mail", message("never"))]
            again = verdict is Verdict.ACK_EARLY and delivery.tag == self.acked_early.get(worker)
            self.say(worker, delivery, verdict, self.broker.now() + 7, publish, ours=again)
            start = Start(delivery.tag, delivery.queue)
            assert list(self.transports[worker].turn(Turn(start=[start])).started) == [False]

    def say(self, worker, delivery, verdict, eta, publish, *, ours):
        settlement = Settlement(
            tag=delivery.tag,
            queue=delivery.queue,
            verdict=verdict,
            eta=eta,
            reason="Lost",
            publish=publish,
        )
        assert list(self.transports[worker].turn(Turn(settle=[settlement])).settled) == [ours]

    @rule(worker=workers, keep=st.booleans(), reconcile=st.booleans())
    def tick(self, worker, keep, reconcile):
        ours = [held for held in self.held.values() if held.worker == worker] if keep else []
        renew = [(held.delivery.queue, held.delivery.tag) for held in ours]
        ticked = self.transports[worker].tick(Tick(renew=renew, reconcile=reconcile))
        assert list(ticked.gone) == []
        now = self.broker.now()
        for held in ours:
            held.deadline = now + LEASE
        for held in list(self.held.values()):
            if reconcile and held.worker == worker and held not in ours:
                self.back(held, lost=False)
            elif held.deadline <= now:
                self.back(held, lost=held.running)
        for task_id, eta in list(self.eta.items()):
            if eta <= now:
                del self.eta[task_id]
                self.put(task_id)
        assert ticked.next_eta == min(self.eta.values(), default=None)

    @rule(seconds=st.sampled_from([1, 6, 20, 31]))
    def time_passes(self, seconds):
        self.broker.elapse(seconds)

    @invariant()
    def each_message_is_where_it_must_be(self):
        found = sorted((peek(raw).id, place) for place, raw in self.broker.places())
        assert found == sorted(self.place.items())

    @invariant()
    def depths_agree(self):
        now = self.broker.now()
        for queue, depth in self.observer.depths(QUEUES, horizon_seconds=10).items():
            here = Counter(place for task_id, place in self.place.items() if self.queue[task_id] == queue)
            assert (depth.ready, depth.claimed, depth.running, depth.waiting, depth.dead) == tuple(
                here[place] for place in ("ready", "claimed", "running", "waiting", "dead")
            )
            mine = [held for held in self.held.values() if held.delivery.queue == queue]
            assert depth.expired == sum(held.deadline <= now for held in mine)
            assert depth.due == sum(
                eta <= now + 10 for task_id, eta in self.eta.items() if self.queue[task_id] == queue
            )
            assert bool(depth.oldest) == bool(depth.ready)

    @invariant()
    def extra_runs_are_counted(self):
        assert sum(self.observer.extra_runs().values()) == self.extra_runs


class MemoryMachine(BrokerMachine):
    """The machine on memory."""

    def make_broker(self):
        return OnMemory()


class SQLiteMachine(BrokerMachine):
    """The machine on SQLite."""

    def make_broker(self):
        self.folder = tempfile.TemporaryDirectory()
        return OnSQLite(Path(self.folder.name) / "broker.db")

    def teardown(self):
        super().teardown()
        self.folder.cleanup()


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=150, stateful_step_count=40)
TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=40)
