"""Workers' loops on a virtual clock, between the memory broker and pools whose tasks take no real time.

Tests of the loop use them; broker, result store and answers can be away.
"""

import random
from collections import Counter

from brokers import Clock
from muster.core.effects import Publication
from muster.core.policy import Policy
from muster.errors import BrokerUnavailable
from muster.pools.base import Outcome, Running
from muster.transports.base import Turn, Verdict
from muster.transports.memory import MemoryBroker
from muster.wire.message import pack, peek
from muster.worker.loop import WorkerLoop
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally


def task_message(task, task_id, queue="mail"):
    return pack(
        headers={"task": task, "id": task_id, "retries": 0},
        body="[[],{},{}]",
        queue=queue,
        task_id=task_id,
        delivery_tag=task_id,
    )


class Pool:
    """Runs each task at once, and writes down when."""

    slots = 100
    isolates = True

    def __init__(self, clock):
        self.clock = clock
        self.started = []
        self.held = []
        self.events = []

    def room(self, depth):
        return self.slots * depth - len(self.events)

    def fileno(self):
        return None

    def submit(self, jobs):
        for job in jobs:
            seen = peek(job.raw)
            self.started.append((seen.task, seen.id, self.clock()))
            self.events.append(Outcome(job.number, "SUCCESS", b"{}", (), 0.5))

    def collect(self):
        events, self.events = self.events, []
        return events

    def running(self):
        return []

    def recall(self):
        """Nothing waits here."""

    def kill(self):
        return True

    def check(self):
        return 1.0

    def published(self, tokens, error):
        """Nobody asks."""


class SlotPool(Pool):
    """Runs as many tasks at once as it has slots; each takes what `takes` says for its name."""

    slots = 1

    def __init__(self, clock):
        super().__init__(clock)
        self.takes = {}
        self.queued = []
        self.active = {}
        self.sizes = []

    def room(self, depth):
        return max(0, self.slots * depth - len(self.queued) - len(self.active))

    def resize(self, slots):
        self.slots = slots
        self.sizes.append(slots)

    def submit(self, jobs):
        self.queued += jobs

    def collect(self):
        now = self.clock()
        ended = [number for number, (since, seconds) in self.active.items() if now >= since + seconds]
        events = [Outcome(number, "SUCCESS", b"{}", (), self.active.pop(number)[1]) for number in ended]
        while self.queued and len(self.active) < self.slots:
            job = self.queued.pop(0)
            seen = peek(job.raw)
            self.started.append((seen.task, seen.id, now))
            self.active[job.number] = (now, self.takes[seen.task])
        return events

    def running(self):
        return [Running(number, self.clock() - since) for number, (since, _) in self.active.items()]


class Line:
    """A transport whose broker can be away, and whose answers can get lost."""

    def __init__(self, inner):
        self.inner = inner
        self.watch = inner.watch
        self.error = BrokerUnavailable("the broker is away")
        self.unheard = self.unanswered = nothing
        """Whether what is asked gets lost on its way, or its answer does."""

    def turn(self, turn):
        return self._through(self.inner.turn, turn)

    def tick(self, tick):
        return self._through(self.inner.tick, tick)

    def _through(self, call, asked):
        if self.unheard(asked):
            raise self.error
        answer = call(asked)
        if self.unanswered(asked):
            raise self.error
        return answer


def nothing(_asked):
    return False


def everything(_asked):
    return True


def acks_early(asked):
    """Whether a turn asks for an early ack."""
    return isinstance(asked, Turn) and any(one.verdict is Verdict.ACK_EARLY for one in asked.settle)


class Results:
    """A result store that can be away."""

    def __init__(self):
        self.error = None
        self.asked = 0
        self.stored = []

    def store(self, results):
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.stored += [result.task_id for result in results]


class Fleet:
    """Workers with the same policies on one broker. Time moves by steps of 5 ms."""

    make_pool = Pool
    autoscale = None

    def __init__(self, *names, results=None, joined=False, **policies):
        """`joined`: `results` are kept by the broker itself."""
        self.clock = Clock()
        self.stores_results = results is not None
        self.results = None if joined else results
        self.broker = MemoryBroker(self.clock, results.store if joined else None)
        self.policies = {task: Policy(**fields) for task, fields in policies.items()}
        self.pools = {name: self.make_pool(self.clock) for name in names}
        self.lines = {
            name: Line(self.broker.transport(queues=["mail"], worker=name, pool="pool", lease_seconds=30))
            for name in names
        }
        self.loops = [self.loop(name, pool) for name, pool in self.pools.items()]
        self.begin = self.clock()
        self.random = random.Random(0)

    def loop(self, name, pool):
        return WorkerLoop(
            LoopSettings(
                worker=name,
                pool_name="pool",
                pool_type="model",
                hostname=name,
                queues=["mail"],
                autoscale=self.autoscale,
            ),
            transport=self.lines[name],
            pool=pool,
            policies=self.policies,
            default_policy=Policy(),
            results=self.results,
            stores_results=self.stores_results,
            tally=Tally(),
            clock=self.clock,
            dice=lambda: 0.5,
        )

    def publish(self, task, count, start=0):
        raws = [task_message(task, f"{task}-{number}") for number in range(start, start + count)]
        self.broker.publisher().publish([Publication("mail", raw) for raw in raws])

    def run(self, seconds):
        end = self.clock() + seconds
        while self.clock() < end:
            self.random.shuffle(self.loops)  # whoever wakes first
            for loop in self.loops:
                loop.step()
            self.clock.now += 0.005

    def starts(self, task):
        """Seconds since the beginning at which tasks of this name started, in any worker."""
        found = [at for pool in self.pools.values() for name, _, at in pool.started if name == task]
        return sorted(at - self.begin for at in found)

    def tally(self, task):
        """All workers' counts of a task."""
        total = Counter()
        for loop in self.loops:
            counts = loop.tally.task("mail", task)
            total.update(succeeded=counts.succeeded, rate_limited=counts.rate_limited, lost=counts.lost)
        return total

    def close(self):
        for loop in self.loops:
            loop.close()


class TwoSlots(Fleet):
    """Workers with two slots each, for tasks that take a second or nearly nothing."""

    class TwoSlotPool(SlotPool):
        slots = 2

        def __init__(self, clock):
            super().__init__(clock)
            self.takes = {"long": 1.0, "quick": 0.01}

    make_pool = TwoSlotPool
