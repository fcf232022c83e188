"""The worker's loop on a virtual clock, between the memory broker and a pool whose tasks take no time."""

import random
from collections import Counter

import msgspec
import pytest

from brokers import Clock
from muster.core.autoscale import Bounds
from muster.core.effects import Publication
from muster.core.policy import Policy
from muster.core.rate import read_rate
from muster.errors import BrokerRefused, BrokerUnavailable
from muster.pools.base import Outcome, Publish, Returned, Running, Started
from muster.results.memory import MemoryResults
from muster.transports.base import Seen, Tick, Turn, Verdict
from muster.transports.memory import MemoryBroker
from muster.wire.losses import with_loss
from muster.wire.message import pack, peek
from muster.wire.report import decode as decode_report
from muster.worker.loop import MAX_UNSETTLED, WorkerLoop
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


class Scaled(Fleet):
    """One worker whose pool has between one and four slots."""

    make_pool = SlotPool
    autoscale = Bounds(fewest=1, most=4, keepalive_seconds=30.0)

    def __init__(self, takes, **policies):
        super().__init__("one", **policies)
        [self.loop], [self.pool] = self.loops, self.pools.values()
        self.pool.takes = takes

    def report(self):
        [(_, raw)] = self.broker.observer().reports("pool", max_age_seconds=60)
        return decode_report(raw)


class TwoSlots(Fleet):
    """Workers with two slots each, for tasks that take a second or nearly nothing."""

    class TwoSlotPool(SlotPool):
        slots = 2

        def __init__(self, clock):
            super().__init__(clock)
            self.takes = {"long": 1.0, "quick": 0.01}

    make_pool = TwoSlotPool


@pytest.fixture
def fleet(caplog):
    made = []

    def make(*names, kind=Fleet, **details):
        made.append(kind(*names, **details))
        return made[-1]

    caplog.set_level("INFO")
    yield make
    for one in made:
        one.close()


RATE = read_rate("100/m", whose="")
TWENTY = [0.0] * 10 + [0.3 + 0.6 * number for number in range(10)]
"""When twenty tasks start that came together."""


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("kind", ["rate", "global_rate"])
def test_a_limited_task_starts_as_often_as_its_rate_says(fleet, kind, early):
    """Ten of 100/m at once, then one every 0.6 s, whoever counts and whenever it is acknowledged."""
    world = fleet("one", limited={kind: RATE, "acks_late": not early})
    world.publish("limited", 20)
    world.run(8)
    assert world.starts("limited") == pytest.approx(TWENTY, abs=0.02)
    assert world.tally("limited") == {"succeeded": 20, "rate_limited": 10, "lost": 0}
    assert world.broker.observer().extra_runs() == {}


@pytest.mark.parametrize("kind", ["rate", "global_rate"])
def test_what_has_to_wait_is_in_nobodys_hands(fleet, kind):
    """However many wait, they wait on the broker, each for its own time."""
    world = fleet("one", limited={kind: RATE})
    world.publish("limited", 500)
    world.run(0.2)
    depth = world.broker.observer().depths(["mail"], horizon_seconds=9)["mail"]
    assert (depth.ready, depth.claimed, depth.running, depth.waiting) == (0, 0, 0, 490)
    assert depth.due == 15, "one every 0.6 s"
    assert world.tally("limited")["rate_limited"] == 490


@pytest.mark.parametrize("kind", ["rate", "global_rate"])
def test_a_task_without_a_limit_is_not_held_up_by_one_that_has(fleet, kind):
    """It stands behind a thousand of them, and starts at once."""
    world = fleet("one", limited={kind: RATE}, free={})
    world.publish("limited", 1000)
    world.publish("free", 50)
    world.run(0.5)
    assert len(world.starts("free")) == 50
    assert world.starts("free")[-1] < 0.5


def test_each_worker_has_a_rate_of_its_own(fleet):
    """Two workers start nearly twice as many as one, which alone takes 113 s; neither exceeds its rate."""
    world = fleet("one", "two", limited={"rate": RATE})
    world.publish("limited", 200)
    world.run(75)
    assert len(world.starts("limited")) == 200
    for pool in world.pools.values():
        at = [at for _, _, at in pool.started]
        for first in range(len(at)):
            for last in range(first, len(at)):
                most = 1 + (at[last] - at[first] + RATE.tolerance_seconds) / RATE.interval_seconds
                assert last - first + 1 <= most + 1e-3


def test_all_workers_share_a_global_rate(fleet):
    """Three workers start no more than one would, and no less."""
    world = fleet("one", "two", "three", limited={"global_rate": RATE})
    world.publish("limited", 20)
    world.run(8)
    assert world.starts("limited") == pytest.approx(TWENTY, abs=0.02)


def test_a_high_rate_is_reached(fleet):
    """200/s: the broker is not asked for each, and none is late."""
    world = fleet("one", limited={"rate": read_rate("200/s", whose="")})
    world.publish("limited", 600)
    world.run(3.2)
    assert len(world.starts("limited")) == 600
    assert world.tally("limited")["rate_limited"] == 580


def test_a_limited_task_taken_from_behind_a_long_one_asks_again(fleet):
    """It goes back to the broker: else those taken back would all start together later."""
    world = fleet("one", limited={"rate": read_rate("2/s", whose="")})
    [pool] = world.pools.values()
    taken = []
    pool.submit = taken.extend
    pool.room = lambda _depth: 1 - len(taken)
    world.publish("limited", 1)
    world.run(0.01)
    [job] = taken
    pool.events.append(Returned(job.number))
    world.run(0.01)
    depth = world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"]
    assert (depth.ready, depth.claimed, depth.running) == (1, 0, 0)
    other = world.broker.transport(queues=["mail"], worker="two", pool="pool", lease_seconds=30)
    [delivery] = other.turn(Turn(claim=1)).deliveries
    assert peek(delivery.raw).losses == 0


def test_a_waiting_message_is_started_by_whoever_is_left(fleet):
    """The worker that put it off leaves; another one starts it when it is due."""
    world = fleet("one", "two", limited={"rate": RATE})
    world.publish("limited", 30)
    world.run(0.2)
    world.loops.pop(0).close()
    world.run(30)
    assert len(world.starts("limited")) == 30


@pytest.mark.parametrize("policy", [{}, {"acks_late": False}, {"global_rate": read_rate("1000/s", whose="")}])
def test_a_pool_with_bounds_grows_at_once_when_messages_wait(fleet, policy):
    """At its fewest it takes as many as it could run, and runs them, however they are acknowledged."""
    world = fleet({"long": 1.0}, kind=Scaled, long=policy)
    world.publish("long", 9)
    world.run(0.05)
    assert (world.pool.sizes, len(world.starts("long"))) == ([4], 4)
    depth = world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"]
    assert (depth.ready, depth.claimed + depth.running) == (5, 0 if policy.get("acks_late") is False else 4)
    world.run(4)
    assert world.tally("long") == {"succeeded": 9, "rate_limited": 0, "lost": 0}


def test_a_pool_with_bounds_shrinks_when_it_was_idle(fleet):
    """After the keepalive, to as many slots as were needed during it."""
    world = fleet({"long": 1.0}, kind=Scaled, long={})
    world.publish("long", 4)
    world.run(25)
    assert world.pool.sizes == [4]
    world.run(10)
    world.publish("long", 2, start=4)
    world.run(20)
    assert world.pool.sizes == [4], "all four were needed within the last 30 s when they were looked at"
    world.run(10)
    assert world.pool.sizes == [4, 2]
    world.run(30)
    assert world.pool.sizes == [4, 2, 1]


def test_a_pool_with_bounds_stays_small_for_one_task_after_another(fleet):
    """A slot that is free is used before another is made."""
    world = fleet({"long": 0.1}, kind=Scaled, long={})
    for number in range(50):
        world.publish("long", 1, start=number)
        world.run(0.2)
    assert world.pool.sizes == []
    assert world.tally("long")["succeeded"] == 50


def test_short_tasks_get_another_slot_when_one_before_them_is_long(fleet):
    """They share the only slot until then, and do not wait for the long one's end."""
    world = fleet({"short": 0.00002, "long": 60.0}, kind=Scaled, short={}, long={})
    for number in range(200):
        world.publish("short", 1, start=number)
        world.run(0.01)
    world.publish("long", 1)
    world.publish("short", 50, start=200)
    assert world.pool.sizes == []
    world.run(0.5)
    assert world.pool.sizes == [2]
    assert world.tally("short")["succeeded"] == 250


def test_a_worker_reports_what_it_can_run_and_not_what_it_has_now(fleet):
    """Else the operator would start another worker before this one has grown."""
    world = fleet({"long": 1.0}, kind=Scaled, long={})
    world.run(0.1)
    assert (world.loop.current_slots, world.loop.slots, world.report().slots) == (1, 4, 4)
    world.publish("long", 2)
    world.run(0.1)
    assert (world.loop.current_slots, world.loop.slots, world.report().slots) == (2, 4, 4)


# -- answers that get lost, leases that end


def test_a_task_whose_early_ack_was_not_answered_starts(fleet, caplog):
    """The ack was carried out, so no other has the message: it is asked for again, and the task runs once."""
    world = fleet("one", early={"acks_late": False})
    [line] = world.lines.values()
    losses = iter([True, True, False])
    line.unanswered = lambda asked: acks_early(asked) and next(losses)
    world.publish("early", 3)
    world.run(0.05)
    assert world.starts("early") == []
    assert list(world.broker.places()) == []
    world.run(2)
    assert len(world.starts("early")) == world.tally("early")["succeeded"] == 3
    assert "lease" not in caplog.text


def test_an_unanswered_early_ack_is_asked_for_until_it_is_answered(fleet):
    """Even when the pool has no room any more, or the worker drains: it can run nowhere else."""
    world = fleet("one", early={"acks_late": False})
    [line], [pool], [loop] = world.lines.values(), world.pools.values(), world.loops
    line.unanswered = acks_early
    world.publish("early", 2)
    world.run(0.05)
    line.unanswered = nothing
    pool.room = lambda _depth: 0
    loop.leave()
    world.run(2)
    assert len(world.starts("early")) == 2
    assert loop.idle


def test_an_early_ack_that_came_too_late_leaves_the_task_to_others(fleet, caplog):
    """The broker never heard of the ack, and the lease ended: another worker runs it, this one does not."""
    world = fleet("one", "two", early={"acks_late": False})
    one, two = world.loops
    world.loops = [one]
    world.pools["one"].slots = 1  # with a second one it would have asked for the next message
    world.lines["one"].unheard = acks_early
    world.publish("early", 1)
    world.run(0.05)
    world.lines["one"].unheard = everything
    world.clock.now += 31
    world.loops = [two]
    world.run(1.5)
    world.lines["one"].unheard = nothing
    world.loops = [one, two]
    world.run(6)
    assert [len(world.pools[name].started) for name in ("one", "two")] == [0, 1]
    assert caplog.text.count("left to whoever takes it next") == 1
    assert "will run again" not in caplog.text


def test_a_lease_that_has_ended_is_told_once(fleet, caplog):
    """The task runs on, its lease is not asked for again, and its end is offered all the same."""
    world = fleet("one", late={})
    [pool], [loop] = world.pools.values(), world.loops
    pool.submit = pool.held.extend
    world.publish("late", 1)
    world.run(0.05)
    other = world.broker.transport(queues=["mail"], worker="two", pool="pool", lease_seconds=30)
    world.clock.now += 31
    other.tick(Tick())
    for _ in range(3):
        world.run(11)
    assert caplog.text.count("ended before it could be renewed: it will run again") == 1
    assert not loop.idle


# -- servers that are away


def said(caplog, *words):
    """Return the lines of the log that contain all of the words."""
    return [record.getMessage() for record in caplog.records if all(w in record.getMessage() for w in words)]


def test_a_result_store_that_is_away_is_an_outage_of_its_own(fleet, caplog):
    """The broker's readiness is its own, tasks go on, and what is done is kept until it can be stored."""
    results = Results()
    results.error = BrokerUnavailable("Redis at 10.0.0.9:6379/1 cannot be reached")
    world = fleet("one", results=results, kept={})
    [loop] = world.loops
    world.publish("kept", 3)
    world.run(0.1)
    world.publish("kept", 2, start=3)
    for _ in range(200):
        world.run(1)
        assert loop.ready
    assert len(world.starts("kept")) == 5
    assert [place for place, _ in world.broker.places()] == ["running"] * 5, "their leases are renewed"
    assert not loop.idle
    assert 40 <= results.asked <= 100, "after pauses of up to 5 s"
    warnings = said(caplog, "the result store: Redis at 10.0.0.9:6379/1")
    assert len(warnings) == 3, "at once, after one minute and after two more"
    assert "3 tasks are done" in warnings[0]
    assert "for 3 min now; 5 tasks are done and wait" in warnings[2]
    assert said(caplog, "the broker") == []
    results.error = None
    world.run(6)
    assert sorted(results.stored) == [f"kept-{number}" for number in range(5)]
    assert loop.idle
    assert list(world.broker.places()) == []
    assert len(said(caplog, "the result store answers, after 3 min and")) == 1


def test_what_leaves_no_result_is_given_up_while_the_result_store_is_away(fleet):
    """Its messages do not wait behind those whose results cannot be stored."""
    results = Results()
    results.error = BrokerUnavailable("away")
    world = fleet("one", results=results, kept={}, early={"acks_late": False})
    world.publish("kept", 1)
    world.run(0.1)
    world.broker.publisher().publish([Publication("mail", b"not json")])
    world.publish("early", 1)
    world.run(0.1)
    assert [place for place, _ in world.broker.places()] == ["running", "dead"]
    assert len(world.starts("early")) == 1


def test_claims_stop_when_too_much_waits_for_the_result_store(fleet, caplog):
    """The worker keeps what it has done, leaves the rest to others, and says so."""
    results = Results()
    results.error = BrokerUnavailable("away")
    world = fleet("one", results=results, kept={})
    world.publish("kept", MAX_UNSETTLED + 1000)
    world.run(70)
    depth = world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"]
    assert depth.ready > 0
    assert MAX_UNSETTLED <= depth.running < MAX_UNSETTLED + 1000
    assert len(said(caplog, f"{depth.running} tasks are done", "no more are claimed")) == 1
    results.error = None
    world.run(8)
    assert list(world.broker.places()) == []
    assert len(results.stored) == MAX_UNSETTLED + 1000


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (BrokerUnavailable("Redis at x cannot be reached"), "see that it runs"),
        (BrokerRefused("Redis at x refuses our credentials"), "user and password"),
    ],
)
def test_a_worker_is_ready_when_the_broker_has_answered(fleet, caplog, error, remedy):
    """Until then it says, again and again, for how long it waits for whom and what there is to do."""
    world = fleet("one")
    [line], [loop] = world.lines.values(), world.loops
    line.unheard, line.error = everything, error
    world.run(200)
    assert not loop.ready
    assert said(caplog, "ready") == []
    warnings = said(caplog, "the broker: Redis at x", remedy)
    assert len(warnings) == 3
    assert ", for 3 min now" in warnings[2]
    line.unheard = nothing
    world.run(6)
    assert loop.ready
    assert len(said(caplog, "one ready: model with 100 slots, queues mail, 0 tasks")) == 1
    assert len(said(caplog, "the broker answers, after 3 min")) == 1
    world.run(60)
    assert len(caplog.records) == len(warnings) + 2


def test_a_broker_that_answers_ticks_alone_is_away(fleet, caplog):
    """A queue's key that is something else fails each claim: that is one outage, told as one."""
    world = fleet("one")
    [line], [loop] = world.lines.values(), world.loops
    line.unheard = lambda asked: isinstance(asked, Turn)
    world.run(30)
    assert not loop.connected
    assert len(caplog.records) == 1


@pytest.mark.parametrize("joined", [True, False])
def test_a_start_is_stored_while_the_task_runs(fleet, joined):
    """In the broker's own store or in another one; what has ended meanwhile is stored after it."""
    store = MemoryResults(Clock())
    world = fleet("one", results=store, joined=joined, tracked={})
    [pool] = world.pools.values()
    jobs = []
    pool.submit = jobs.extend
    world.publish("tracked", 2)
    world.run(0.01)
    pool.events += [Started(job.number, b'{"status":"STARTED"}') for job in jobs]
    pool.events.append(Outcome(jobs[1].number, "SUCCESS", b'{"status":"SUCCESS"}', (), 0.5))
    world.run(0.01)
    assert store.get("tracked-0") == b'{"status":"STARTED"}'
    assert store.get("tracked-1") == b'{"status":"SUCCESS"}'


@pytest.mark.parametrize(("early", "stored"), [(False, 1), (True, 0)])
def test_only_a_dead_letter_that_is_stored_is_counted(fleet, early, stored):
    """A task that was acknowledged at its start can refuse a message, which is then nowhere any more."""
    world = fleet("one", limited={"acks_late": not early})
    [pool] = world.pools.values()
    jobs = []
    pool.submit = jobs.extend
    world.publish("limited", 1)
    world.run(0.01)
    pool.events.append(Outcome(jobs[0].number, "REJECTED", b"", (), 0.5, "no", "RejectedByTask"))
    world.run(0.01)
    assert len(world.broker.dead("mail.dead")) == stored
    [loop] = world.loops
    assert loop.tally.dead == ({("mail", "RejectedByTask"): 1} if stored else {})


def test_what_cannot_be_read_is_counted_once_the_broker_has_it(fleet):
    """By its reason."""
    world = fleet("one")
    world.broker.publisher().publish([Publication("mail", b"no message")])
    world.run(0.01)
    [loop] = world.loops
    assert loop.tally.dead == {("mail", "MalformedMessage"): 1}


def test_what_was_left_to_somebody_else_is_no_dead_letter(fleet):
    """The lease has ended while the task ran: its refusal comes too late, and the message runs elsewhere."""
    world = fleet("one", refused={})
    [pool] = world.pools.values()
    jobs = []
    pool.submit = jobs.extend
    pool.room = lambda _depth: 1 - len(jobs)  # with a second slot it would have asked for the next message
    world.publish("refused", 1)
    world.run(0.01)
    other = world.broker.transport(queues=["mail"], worker="two", pool="pool", lease_seconds=30)
    world.clock.now += 31
    other.tick(Tick())
    assert len(other.turn(Turn(claim=1)).deliveries) == 1
    pool.events.append(Outcome(jobs[0].number, "REJECTED", b"", (), 0.5, "no", "RejectedByTask"))
    world.run(0.01)
    [loop] = world.loops
    assert (loop.tally.dead, world.broker.dead("mail.dead")) == ({}, [])


# -- what is claimed while it waits


def test_an_idle_worker_needs_no_turn_to_get_a_message(fleet):
    """It is claimed behind the wait: between its coming and its start the broker is asked for nothing."""
    world = fleet("one", quick={})
    world.run(0.05)
    asked = []
    world.lines["one"].unheard = lambda one: isinstance(one, Turn) and asked.append(one)
    world.publish("quick", 1)
    world.loops[0].step()
    assert len(world.starts("quick")) == 1
    world.run(0.1)
    assert world.tally("quick")["succeeded"] == 1
    assert [turn.claim for turn in asked if turn.settle] == [0]


def test_it_claims_for_idle_slots_only(fleet):
    """Two slots, one of them busy: of three messages that come one is taken, the others wait for a slot."""
    world = fleet("one", kind=TwoSlots, long={}, quick={})
    world.publish("long", 1)
    world.run(0.05)
    world.publish("quick", 3)
    depth = world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"]
    assert (depth.ready, depth.running) == (2, 2)
    world.run(3)
    assert world.tally("quick")["succeeded"] == 3


def test_a_worker_that_drains_claims_nothing_that_comes_later(fleet):
    """What it had allowed is taken back; the message is left to others."""
    world = fleet("one", quick={})
    [one] = world.loops
    world.run(0.05)
    one.drain()
    world.run(0.05)
    world.publish("quick", 1)
    world.run(0.05)
    assert world.starts("quick") == []
    assert world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"].ready == 1


def test_what_comes_while_it_is_told_to_drain_goes_back(fleet):
    """Claimed, and not seen yet: no attempt is counted, and the next worker has it at once."""
    world = fleet("one", "two", quick={})
    one, two = world.loops
    world.loops = [one]
    world.run(0.05)
    world.publish("quick", 1)
    one._notified = False  # the word of it is still on its way
    one.drain()
    world.run(0.05)
    assert world.pools["one"].started == []
    world.loops = [one, two]
    world.run(0.05)
    assert len(world.pools["two"].started) == 1
    assert world.broker.observer().extra_runs() == {}


def test_a_worker_that_was_stopped_starts_nothing_that_is_not_its_own_any_more(fleet):
    """A message was claimed for it while it stood still, its lease ended and another worker has run it."""
    world = fleet("one", "two", quick={})
    one, two = world.loops
    world.loops = [one]
    world.run(0.05)
    world.publish("quick", 1)
    world.loops = [two]
    world.clock.now += 31
    world.run(2)
    assert len(world.pools["two"].started) == 1
    world.loops = [one, two]
    world.run(2)
    assert world.pools["one"].started == []
    assert world.tally("quick")["succeeded"] == 1


def test_a_worker_that_was_stopped_for_less_than_its_lease_starts_what_it_got(fleet):
    """The broker says that it is still ours."""
    world = fleet("one", quick={})
    world.run(0.05)
    world.publish("quick", 1)
    world.clock.now += 15
    world.run(0.05)
    assert len(world.starts("quick")) == 1
    assert world.tally("quick") == {"succeeded": 1, "rate_limited": 0, "lost": 0}


def test_an_end_that_is_said_again_is_not_taken_for_a_lost_lease(fleet, caplog):
    """Its first answer got lost: the message went the first time, and the log leaves that open."""
    world = fleet("one", quick={})
    line = world.lines["one"]
    world.run(0.05)
    line.unanswered = lambda asked: isinstance(asked, Turn) and bool(asked.settle)
    world.publish("quick", 1)
    world.run(0.05)
    line.unanswered = nothing
    world.run(6)
    assert "said before, whose answer got lost, or its lease" in caplog.text
    assert len(world.starts("quick")) == 1


def test_an_end_after_its_lease_says_that_it_runs_again(fleet, caplog):
    """The worker was stopped for longer than its lease, while its task was done."""
    world = fleet("one", "two", quick={})
    one, two = world.loops
    world.loops = [one]
    world.pools["one"].room = lambda _depth: 1
    world.publish("quick", 1)
    world.loops = [one]
    world.lines["one"].unheard = lambda asked: isinstance(asked, Turn) and bool(asked.settle)
    world.run(0.01)
    world.lines["one"].unheard = nothing
    world.loops = [two]
    world.clock.now += 31
    world.run(2)
    world.loops = [one, two]
    world.run(6)
    assert len(world.starts("quick")) == 2
    assert "no longer ours when it was done" in caplog.text


def test_a_claim_that_got_lost_is_given_back_and_the_worker_goes_on(fleet):
    """The watch's connection broke: at once what it had claimed, and later what the broker did unheard."""
    world = fleet("one", quick={})
    [loop] = world.loops
    world.run(0.05)
    watch = loop._watch
    world.publish("quick", 1)
    watch._seen = Seen(lost=True)
    world.run(0.05)
    assert len(world.starts("quick")) == 1, "it came back, and was claimed anew"
    assert watch.allowed
    watch.recall()  # its connection is gone; the broker does not know that yet
    world.publish("quick", 1, start=1)
    world.broker._claim(watch.transport, 1, 1, world.clock() + 30)
    world.run(8)
    assert len(world.starts("quick")) == 2
    assert world.tally("quick") == {"succeeded": 2, "rate_limited": 0, "lost": 0}


def test_an_outage_leaves_no_claim_behind(fleet):
    """Nothing is asked of a broker that is away; when it is back, all is as before."""
    world = fleet("one", quick={})
    [line], [loop] = world.lines.values(), world.loops
    world.run(0.05)
    line.unheard = everything
    world.run(1.1)
    assert not loop.connected
    assert not loop._watch.allowed
    world.publish("quick", 1)
    line.unheard = nothing
    world.run(6)
    assert len(world.starts("quick")) == 1
    assert loop._watch.allowed


class OneProcess(Fleet):
    """One worker, whose three slots are threads of one process."""

    class OneProcessPool(SlotPool):
        slots = 3
        isolates = False

        def __init__(self, clock):
            super().__init__(clock)
            self.takes = {"plain": 0.2}
            self.ids = {}

        def submit(self, jobs):
            super().submit(jobs)
            self.ids |= {job.number: peek(job.raw).id for job in jobs}

    make_pool = OneProcessPool


def test_what_must_be_alone_in_its_process_runs_when_nothing_else_does(fleet):
    """One after another; meanwhile the broker has nothing else down as running, so it alone can be blamed."""
    world = fleet("one", kind=OneProcess, plain={})
    [pool] = world.pools.values()
    world.publish("plain", 2)
    lost = [with_loss(task_message("plain", f"lost-{number}"), "WorkerLost") for number in range(2)]
    world.broker.publisher().publish([Publication("mail", raw) for raw in lost])
    world.publish("plain", 2, start=2)
    observer, most = world.broker.observer(), 0
    for _ in range(400):
        world.run(0.005)
        running = [pool.ids[number] for number in pool.active]
        if any(each.startswith("lost") for each in running):
            assert len(running) == 1
            assert observer.depths(["mail"], horizon_seconds=0)["mail"].running == 1
        most = max(most, len(running))
    assert most > 1
    assert len(pool.started) == 6


def test_what_must_be_alone_is_so_when_its_early_ack_is_answered_late(fleet):
    """Nothing else begins while the broker has not said whether it may."""
    world = fleet("one", kind=OneProcess, plain={}, early={"acks_late": False})
    [pool], [line] = world.pools.values(), world.lines.values()
    pool.takes["early"] = 0.2
    losses = iter([True, True, True])
    line.unanswered = lambda asked: acks_early(asked) and next(losses, False)
    lost = with_loss(task_message("early", "lost"), "WorkerLost")
    world.broker.publisher().publish([Publication("mail", lost)])
    world.publish("plain", 4)
    for _ in range(800):
        world.run(0.005)
        running = [pool.ids[number] for number in pool.active]
        assert "lost" not in running or len(running) == 1
    assert len(pool.started) == 5


def test_who_leaves_waits_for_what_its_transport_has_yet_to_bring_back(fleet):
    """A message that was put off is nobody's job here, and the broker may not have it yet."""
    world = fleet("one", plain={})
    [line], [loop] = world.lines.values(), world.loops
    undone = 1
    line.tick = lambda tick: msgspec.structs.replace(line.inner.tick(tick), undone=undone)
    world.run(1.5)
    loop.leave()
    world.run(2)
    assert not loop.idle
    undone = 0
    world.run(1.5)
    assert loop.idle


def test_what_the_broker_cannot_take_now_is_said_again(fleet):
    """A settlement that it leaves open stays ours, with its lease, until it is answered; others are done."""
    world = fleet("one", plain={})
    [line] = world.lines.values()
    asked = []

    def leave_one_open(turn):
        if not turn.settle:
            return line.inner.turn(turn)
        asked.append([each.tag for each in turn.settle])
        turned = line.inner.turn(msgspec.structs.replace(turn, settle=turn.settle[1:]))
        return msgspec.structs.replace(turned, settled=[None, *turned.settled])

    line.turn = leave_one_open
    world.publish("plain", 2)
    world.run(1)
    [loop] = world.loops
    assert not loop.idle
    assert len(asked) > 1
    assert all(asked[0][0] in tags for tags in asked)
    assert world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"].running == 1
    del line.turn
    world.run(1)
    assert loop.idle
    assert world.broker.observer().depths(["mail"], horizon_seconds=0)["mail"].running == 0


class Sends(Fleet):
    """One worker whose tasks each send a message, and hear what became of it."""

    class SendingPool(Pool):
        slots = 2

        def __init__(self, clock):
            super().__init__(clock)
            self.answers = {}

        def submit(self, jobs):
            self.events += [Publish(job.number, [Publication("mail", b"{}")]) for job in jobs]

        def published(self, tokens, error):
            self.answers |= dict.fromkeys(tokens, error)

    make_pool = SendingPool


def test_a_task_is_told_why_its_message_was_not_sent(fleet):
    """One is refused, which concerns no other; one has to wait, and is asked for again until it is sent."""
    world = fleet("one", kind=Sends, plain={})
    [line], [pool] = world.lines.values(), world.pools.values()
    waits = True

    def answer(turn):
        turned = line.inner.turn(msgspec.structs.replace(turn, send=()))
        tokens = [each.token for each in turn.send]
        unsent = {token: "no queue" if token.endswith(":1") else "" for token in tokens if waits}
        return msgspec.structs.replace(turned, unsent=unsent)

    line.turn = answer
    world.publish("plain", 2)
    world.run(0.5)
    assert pool.answers == {1: "no queue"}
    waits = False
    world.run(0.5)
    assert pool.answers == {1: "no queue", 2: ""}


def test_a_report_tells_what_is_in_hand_by_queue(fleet):
    """Running and not yet begun, and the starts beyond the first: a broker that pushes cannot count them."""
    world = fleet("one", kind=TwoSlots, long={})
    [pool] = world.pools.values()
    pool.takes["long"] = 10.0
    world.publish("long", 1)
    lost = with_loss(task_message("long", "lost"), "WorkerLost")
    world.broker.publisher().publish([Publication("mail", lost)])
    world.run(1.5)
    [(_, raw)] = world.broker.observer().reports("pool", max_age_seconds=60)
    report = decode_report(raw)
    assert report.hands == {"mail": (0, 2)}
    assert report.extra_runs == [("mail", "long", "WorkerLost", 1)]
