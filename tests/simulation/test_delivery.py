"""One seed, a fleet of workers on a virtual clock, and everything that can happen to them.

The worker's loop, its decisions and the memory broker are the real ones; the pool is a model that runs tasks
in virtual time and writes a ledger. Workers are killed between and inside their calls, frozen beyond their
leases, drained and replaced; answers of the broker get lost and the broker goes away; children die. Then the
faults end, everything has to come to rest, and the books are compared.

Thirty seeds are drawn; with `--times 10` (tests/soak.py) a hundred times as many.
"""

import logging
import random
from collections import Counter, defaultdict
from contextlib import contextmanager
from math import inf

import pytest

from muster.core.effects import Publication
from muster.core.policy import Policy
from muster.core.rate import Rate
from muster.errors import BrokerUnavailable
from muster.pools.base import Lost, Outcome, Publish, Returned, Running
from muster.transports.base import Seen, Verdict
from muster.transports.memory import MemoryBroker
from muster.wire.message import pack, peek
from muster.worker.loop import WorkerLoop
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally

QUEUES = ("mail", "other")
LEASE_SECONDS = 5.0
STEP_SECONDS = 0.25
TROUBLE_SECONDS = 60.0
WORKERS = 3
SLOTS = 2
SEEDS = 30
TASKS = ("plain", "chain", "retry", "publishes", "fails", "early", "paced", "together")
LATE, EARLY = Policy(), Policy(acks_late=False)
EACH, TOGETHER = Rate(12.0, 1.0), Rate(4.0, 1.0)
POLICIES = {
    **dict.fromkeys(TASKS, LATE),
    "early": EARLY,
    "paced": Policy(rate=EACH),
    "together": Policy(global_rate=TOGETHER),
}


class Killed(BaseException):
    """The process ends here."""


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


def task_message(task, task_id, queue, retries=0):
    return pack(
        headers={"task": task, "id": task_id, "retries": retries},
        body="[[],{},{}]",
        queue=queue,
        task_id=task_id,
        delivery_tag=task_id,
    )


class Results:
    """A result store by the rule of `results.base`, which remembers every ready state it took."""

    def __init__(self):
        self.ready = {}
        self.taken = Counter()

    def store(self, results):
        for result in results:
            old = self.ready.get(result.task_id)
            if old and (old[0] == "SUCCESS" or old[1] >= result.retries):
                continue
            if result.status in {"SUCCESS", "FAILURE", "REVOKED"}:
                self.ready[result.task_id] = (result.status, result.retries)
                self.taken[result.task_id, result.retries] += 1


class Away:
    """The result store when it is another server than the broker: it is away at times of its own."""

    def __init__(self, world):
        self.world = world

    def store(self, results):
        world = self.world
        if world.trouble and (world.clock() < world.store_back_at or world.random.random() < 0.02):
            raise BrokerUnavailable("the result store is away")
        world.results.store(results)
        if world.trouble and world.random.random() < 0.02:
            raise BrokerUnavailable("the answer got lost")


class CountingBroker(MemoryBroker):
    """Counts which messages have entered, to see one that came twice, and which were handed out running."""

    def __init__(self, world, store):
        super().__init__(world.clock, store)
        self.world = world
        self.entered = Counter()

    def _claim(self, *args):
        deliveries = super()._claim(*args)
        self.world.mark(delivery.raw for delivery in deliveries if delivery.running)
        return deliveries

    def _publish(self, publications, now):
        publications = list(publications)
        for publication in publications:
            seen = peek(publication.raw)
            self.entered[seen.id, seen.retries] += 1
        super()._publish(publications, now)


class Model:
    """A pool that runs tasks in virtual time. It knows what each task does; see `_end`."""

    slots = SLOTS

    def __init__(self, world):
        self.world = world
        self.isolates = world.isolates
        self.queued = []
        self.active = {}
        self.events = []
        self.waiting = {}
        self.submitted = defaultdict(list)
        """Task → when it was to start."""

    def room(self, depth):
        return max(0, self.slots * depth - len(self.queued) - len(self.active))

    def fileno(self):
        return None

    def submit(self, jobs):
        self.queued += jobs
        for job in jobs:
            self.submitted[peek(job.raw).task].append(self.world.clock())

    def collect(self):
        events, self.events = self.events, []
        return events

    def running(self):
        now = self.world.clock()
        return [Running(number, now - since) for number, (_, since, _) in self.active.items()]

    def recall(self):
        self.events += [Returned(job.number) for job in self.queued]
        self.queued = []

    def kill(self):
        self.queued, self.active = [], {}
        return True

    def check(self):
        return inf

    def published(self, tokens, error):
        for token in tokens:
            child = self.waiting.pop(token, None)
            if child is not None:
                if not error:
                    self.world.confirmed.add(child)
                if token in self.active:  # else the task was ended while it waited: the port says so
                    job, since, _ = self.active[token]
                    self.active[token] = (job, since, self.world.clock())

    def advance(self):
        """Start and end what is due."""
        world = self.world
        for number, (job, _, until) in list(self.active.items()):
            if number in self.waiting and world.trouble and world.random.random() < 0.05:
                del self.active[number]
                world.faults["killed while it publishes"] += 1
                self.events.append(Lost(number, "its process was killed"))
            elif until <= world.clock():
                del self.active[number]
                if world.trouble and world.random.random() < 0.04:
                    self.events.append(Lost(number, "its process was killed"))
                else:
                    self.events.append(self._end(job))
        while self.queued and len(self.active) < self.slots:
            self._begin(self.queued.pop(0))

    def _begin(self, job):
        world = self.world
        seen = peek(job.raw)
        world.starts[seen.id, seen.retries] += 1
        if not self.isolates:
            beside = [other for other, _, _ in self.active.values()]
            assert not beside or not any(each.alone for each in [job, *beside]), "it runs alone"
        until = world.clock() + world.random.choice([0.0, 0.2, 1.0, 4.0, 12.0])
        if seen.task == "publishes":
            child = f"{seen.id}.sent"
            self.waiting[job.number] = child
            until = inf
            self.events.append(
                Publish(job.number, [Publication("other", task_message("plain", child, "other"))])
            )
        self.active[job.number] = (job, world.clock(), until)

    def _end(self, job):
        seen = peek(job.raw)
        task_id = seen.id
        if seen.task == "chain" and task_id.count(".") < 3:
            child = Publication("other", task_message("chain", f"{task_id}.next", "other"))
            return Outcome(job.number, "SUCCESS", b"{}", [child], 1.0)
        if seen.task == "retry" and seen.retries < 2:
            again = task_message("retry", task_id, job.queue, seen.retries + 1)
            eta = self.world.clock() + 3.0
            return Outcome(job.number, "RETRY", b"", [Publication(job.queue, again, 0, eta)], 1.0)
        return Outcome(job.number, "FAILURE" if seen.task == "fails" else "SUCCESS", b"{}", (), 1.0)


class Faulty:
    """A transport between which and its broker there is a network and a process that can end."""

    def __init__(self, world, name):
        self.world = world
        self.inner = world.broker.transport(
            queues=QUEUES, worker=name, pool="pool", lease_seconds=LEASE_SECONDS
        )
        self.close = self.inner.close
        self.acked_early = set()
        """Tasks that nobody else has any more."""

    def turn(self, turn):
        held = self.world.broker._held
        fresh = [held[s.tag].message.raw for s in turn.start if s.tag in held and not held[s.tag].running]
        early = [s.tag for s in turn.settle if s.verdict is Verdict.ACK_EARLY]
        acked = {peek(held[tag].message.raw).id for tag in early if tag in held}

        def call():
            turned = self.inner.turn(turn)
            self.acked_early |= acked
            self.world.mark(raw for raw in fresh)
            return turned

        return self._through(call)

    def tick(self, tick):
        return self._through(lambda: self.inner.tick(tick))

    def watch(self, notify):
        return FaultyWatch(self.world, self.inner.watch(notify))

    def _through(self, call):
        world = self.world
        if not world.trouble:
            return call()
        if world.clock() < world.broker_back_at or world.random.random() < 0.02:
            raise BrokerUnavailable("the broker is away")
        fate = world.random.random()
        if fate < 0.004:
            raise Killed
        answer = call()
        if fate < 0.008:
            raise Killed
        if fate < 0.03:
            raise BrokerUnavailable("the answer got lost")
        return answer


class FaultyWatch:
    """A watch whose answers can get lost, with what was claimed in them."""

    def __init__(self, world, inner):
        self.world = world
        self.inner = inner
        self.fileno, self.arm, self.close, self.reset = inner.fileno, inner.arm, inner.close, inner.reset

    @property
    def allowed(self):
        return self.inner.allowed

    def look(self):
        return self._through(self.inner.look())

    def recall(self):
        return self._through(self.inner.recall())

    def _through(self, seen):
        world = self.world
        if seen.deliveries and world.trouble and world.random.random() < 0.05:
            world.faults["claim unheard"] += 1
            return Seen(lost=True)
        return seen


class Worker:
    """The real loop, driven pass by pass."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.pool = Model(world)
        self.transport = Faulty(world, name)
        self.loop = WorkerLoop(
            LoopSettings(worker=name, pool_name="pool", pool_type="model", hostname=name, queues=QUEUES,
                         lease_seconds=LEASE_SECONDS, delivery_limit=0),
            transport=self.transport,
            pool=self.pool,
            policies=POLICIES,
            default_policy=LATE,
            results=Away(world) if world.separate else None,
            stores_results=True,
            tally=Tally(),
            clock=world.clock,
            dice=world.random.random,
        )  # fmt: skip
        self.frozen_until = 0.0
        self.leaving = 0
        """How often it was told to leave: the second time it gives up what runs."""

    def step(self):
        """Go round once. Returns False when the worker has left. Raises Killed."""
        self.pool.advance()
        return self.loop.step()

    def leave(self):
        self.leaving += 1
        self.loop.leave()

    def end(self):
        """Be gone: nothing is said to anybody any more."""
        self.transport.close()
        self.loop.close()


class World:
    """Everything that one seed decides."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.isolates = seed % 2 == 0
        """Whether the pools' slots are processes of their own, as with prefork, or share one."""
        self.clock = Clock()
        self.results = Results()
        self.separate = self.random.random() < 0.5
        """Whether results live elsewhere than messages."""
        self.broker = CountingBroker(self, None if self.separate else self.results.store)
        self.publisher = self.broker.publisher()
        self.trouble = True
        self.broker_back_at = 0.0
        self.store_back_at = 0.0
        self.confirmed = set()
        self.lost_early = set()
        """What was acknowledged early by a worker that was ended before the end was recorded."""
        self.starts = Counter()
        self.marks = Counter()
        self.faults = Counter()
        self.names = 0
        self.workers = []
        self.pools, self.tallies = [], []
        """Those of former workers too."""

    def mark(self, raws):
        for raw in raws:
            seen = peek(raw)
            self.marks[seen.id, seen.retries] += 1

    def hire(self):
        self.names += 1
        self.workers.append(Worker(self, f"worker{self.names}"))
        self.pools.append(self.workers[-1].pool)
        self.tallies.append(self.workers[-1].loop.tally)

    def fire(self, worker, how):
        self.faults[how] += 1
        if how != "left" or worker.leaving > 1:
            self.lost_early |= worker.transport.acked_early - set(self.results.ready)
        self.workers.remove(worker)
        worker.end()
        self.hire()

    def submit(self):
        task = self.random.choice(TASKS)
        task_id = f"{task}{len(self.confirmed)}"
        queue = self.random.choice(QUEUES)
        eta = self.clock() + 4.0 if self.random.random() < 0.1 else 0.0
        self.publisher.publish(
            [Publication(queue, task_message(task, task_id, queue), self.random.randrange(10), eta)]
        )
        self.confirmed.add(task_id)

    def disturb(self):
        draw = self.random.random()
        worker = self.random.choice(self.workers)
        if draw < 0.01:
            self.fire(worker, "killed between calls")
        elif draw < 0.02:
            self.faults["frozen"] += 1
            worker.frozen_until = self.clock() + self.random.choice([2.0, 8.0, 20.0])
        elif draw < 0.03:
            self.faults["told to leave"] += 1
            worker.leave()
        elif draw < 0.033:
            self.faults["told to leave at once"] += 1
            worker.leave()
            worker.leave()
        elif draw < 0.04:
            self.faults["broker away"] += 1
            self.broker_back_at = self.clock() + self.random.choice([1.0, 4.0, 9.0])
        elif draw < 0.047 and self.separate:
            self.faults["result store away"] += 1
            self.store_back_at = self.clock() + self.random.choice([1.0, 4.0, 9.0])

    def run(self):
        for _ in range(WORKERS):
            self.hire()
        end = self.clock() + TROUBLE_SECONDS
        while self.clock() < end:
            for _ in range(self.random.choice([0, 0, 0, 1, 3])):
                self.submit()
            self.disturb()
            self.everybody_steps()
        self.trouble = False
        for _ in range(4000):
            if self.at_rest():
                return
            self.everybody_steps()
        held = [w.name for w in self.workers if not w.loop.idle]
        raise AssertionError(f"not at rest: {Counter(place for place, _ in self.broker.places())}, {held}")

    def everybody_steps(self):
        self.clock.now += STEP_SECONDS
        for worker in list(self.workers):
            if self.clock() < worker.frozen_until:
                continue
            try:
                stays = worker.step()
            except Killed:
                self.fire(worker, "killed inside a call")
            else:
                if not stays:
                    self.fire(worker, "left")

    def at_rest(self):
        """Nothing stands anywhere but among the dead letters, and no worker believes to hold anything."""
        busy = any(place != "dead" for place, _ in self.broker.places())
        return not busy and not any(w.pool.active or not w.loop.idle for w in self.workers)

    def close(self):
        for worker in self.workers:
            worker.end()


def pytest_generate_tests(metafunc):
    if "world" in metafunc.fixturenames:
        seeds = range(SEEDS * metafunc.config.getoption("times") ** 2)
        metafunc.parametrize("world", seeds, indirect=True, scope="module")


@contextmanager
def run(seed):
    """A world in which everything has happened and come to rest."""
    world = World(seed)
    logging.disable(logging.CRITICAL)  # a fleet in trouble says much
    try:
        world.run()
        yield world
    finally:
        logging.disable(logging.NOTSET)
        world.close()


@pytest.fixture(scope="module")
def world(request):
    """The world of one seed, for all that is asked of it."""
    with run(request.param) as made:
        yield made


SIMULATED = (
    "Simulated fleets in trouble of every kind: nothing lost, nothing recorded twice, no rate exceeded"
)


@pytest.mark.soak(SIMULATED)
def test_whatever_happens_the_books_agree(world, account):
    """Nothing confirmed is lost, results are recorded once, follow-ups come once, extra runs are counted."""
    late = {task_id for task_id in world.confirmed if not task_id.startswith("early")}
    ready = world.results.ready

    missing = world.confirmed - set(ready)
    lost = missing - world.lost_early
    taken = Counter(world.results.taken.values())
    account(
        sent=len(world.confirmed),
        lost=len(lost),
        duplicated=taken.total() - taken[1],
        faults=world.faults.total(),
    )
    assert not lost, f"confirmed and never recorded: {sorted(lost)}"
    assert missing == world.lost_early, "what an early ack has lost was recorded after all"
    wrong = {i for i in late if (ready[i][0] == "FAILURE") != i.startswith("fails")}
    assert not wrong, f"recorded with another state than the task's: {sorted(wrong)}"
    assert set(taken) <= {1}, "a result was recorded twice"

    for task_id in late:
        if task_id.startswith("chain"):
            steps = [task_id + ".next" * number for number in range(4)]
            assert all(step in ready for step in steps), f"a chain broke: {task_id}"
        if task_id.startswith("retry"):
            assert ready[task_id] == ("SUCCESS", 2), f"retries were lost: {task_id}"
    # what a task publishes while it runs, each of its runs publishes once
    twice = {
        key
        for key, count in world.broker.entered.items()
        if count > (world.starts[key[0].removesuffix(".sent"), 0] if key[0].endswith(".sent") else 1)
    }
    assert not twice, f"published twice: {sorted(twice)}"

    early = {key: count for key, count in world.starts.items() if key[0].startswith("early")}
    assert set(early.values()) <= {1}, "an early-acknowledged task ran twice"

    starts = {key: count for key, count in world.starts.items() if not key[0].startswith("early")}
    marks = sum(count for key, count in world.marks.items() if not key[0].startswith("early"))
    # two messages of one id, because two runs of a task published it, are no extra run
    extra = sum(starts.values()) - sum(world.broker.entered[key] for key in starts)
    never_begun = marks - sum(starts.values())
    counted = sum(
        runs for (_, task, _), runs in world.broker.observer().extra_runs().items() if task != "early"
    )
    account(extra_runs=extra, counted=counted)
    assert extra <= counted, f"{extra} extra runs, {counted} counted"
    assert counted <= extra + never_begun, f"{counted} counted, {extra} extra, {never_begun} never begun"


@pytest.mark.soak(SIMULATED)
def test_whatever_happens_no_task_starts_more_often_than_its_rate(world):
    """Neither in one worker, nor in all together, in any window of time."""
    for pool in world.pools:
        assert_within(EACH, pool.submitted["paced"])
    assert_within(TOGETHER, sorted(at for pool in world.pools for at in pool.submitted["together"]))


def assert_within(rate, times):
    for first in range(len(times)):
        for last in range(first, len(times)):
            most = 1 + (times[last] - times[first] + rate.tolerance_seconds) / rate.interval_seconds
            assert last - first + 1 <= most + 1e-3


def test_the_trouble_is_real():
    """Over the seeds every kind of fault happens and tasks run again: the books have work."""
    faults, extra, tasks, waits = Counter(), 0, defaultdict(int), Counter()
    lost_early = set()
    for seed in range(6):
        with run(seed) as world:
            faults += world.faults
            lost_early |= world.lost_early
            extra += sum(world.starts.values()) - len(world.starts)
            for tally in world.tallies:
                waits.update({task: counts.rate_limited for (_, task), counts in tally.tasks.items()})
            for task_id in world.confirmed:
                tasks[task_id.rstrip("0123456789").partition(".")[0].rstrip("0123456789")] += 1
    assert set(faults) == {
        "killed between calls",
        "killed inside a call",
        "killed while it publishes",
        "frozen",
        "left",
        "told to leave",
        "told to leave at once",
        "broker away",
        "claim unheard",
        "result store away",
    }
    assert extra > 20
    assert lost_early
    assert set(tasks) == set(TASKS)
    assert min(waits["paced"], waits["together"]) > 20


def test_a_loss_is_seen():
    """The books themselves are tested: a message taken out by hand is missed."""
    with run(0) as world:
        victim = next(iter(task_id for task_id in world.confirmed if task_id.startswith("plain")))
        del world.results.ready[victim]
        assert world.confirmed - world.lost_early - set(world.results.ready) == {victim}
