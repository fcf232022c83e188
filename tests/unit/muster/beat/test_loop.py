"""Beat's loop on a broker in memory, with clocks that the tests move: what is sent, when, and by whom."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.app.app import Muster
from muster.beat.compose import CannotCompose, composer
from muster.beat.loop import AT_ONCE, BeatLoop, LoopSettings
from muster.core.schedule import Unknown
from muster.errors import BrokerRefused, BrokerUnavailable
from muster.transports.base import Turn
from muster.transports.memory import MemoryBroker
from muster.transports.schedules.base import Advance, Done
from muster.transports.schedules.memory import MemorySchedules
from muster.wire.message import peek
from muster.wire.schedule import RunRecord, ScheduleEntry, tick_id

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def entry(uid="u", **fields):
    fields = {"every_seconds": 1, "created_at": NOON, "since": NOON, "queue": "mail", **fields}
    return ScheduleEntry(uid=uid, name=f"shop/{uid}", task="shop.tick", **fields)


@dataclass
class Clock:
    seconds: float = NOON.timestamp()

    def __call__(self):
        return self.seconds


class Unreliable:
    """A store whose calls fail while `away`, before or after the broker has carried them out."""

    def __init__(self, real):
        self.real = real
        self.away = None
        self.answers_lost = False

    def __getattr__(self, name):
        method = getattr(self.real, name)

        def call(*arguments):
            if self.away is not None and not self.answers_lost:
                raise self.away
            answer = method(*arguments)
            if self.away is not None:
                raise self.away
            return answer

        return call


@dataclass
class Runs:
    answers: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def unfinished(self, records, now):
        self.asked.append((dict(records), now))
        return {uid: self.answers[uid] for uid in records}


class World:
    """One broker, and any number of beats on it."""

    def __init__(self):
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock)
        self.schedules = MemorySchedules(self.broker, clock=self.clock)
        self.worker = self.broker.transport(queues=["mail"], worker="w", pool="p", lease_seconds=1e9)
        self.app = Muster("shop", set_as_current=False)
        self.sent = []

    def beat(self, holder="one", **options):
        store = Unreliable(self.schedules)
        loop = BeatLoop(
            LoopSettings(scope="shop", holder=holder, **options.pop("settings", {})),
            store=store,
            compose=options.pop("compose", composer(self.app)),
            clock=self.clock,
            monotonic=self.clock,
            **options,
        )
        loop.broker = store
        return loop

    def run(self, *loops, until, by=None):
        """Let the loops step, each whenever it asks to, until a time in seconds after noon."""
        end = NOON.timestamp() + until
        while self.clock.seconds < end:
            pause = min(loop.step() for loop in loops)
            self.clock.seconds = min(end, self.clock.seconds + (by or max(pause, 1e-4)))

    def due(self):
        """What has been sent: seconds after noon by the ids of the messages, in their order."""
        self.sent += [peek(one.raw).id for one in self.worker.turn(Turn(claim=100_000)).deliveries]
        known = {tick_id("u", NOON + n * SECOND): n for n in range(200)}
        return [known[task_id] for task_id in self.sent]


@pytest.fixture
def world():
    return World()


def test_a_schedule_is_sent_at_its_times(world):
    """Each due time is sent when it comes, and the record says what was and what will be."""
    world.schedules.put([entry()])
    loop = world.beat()
    world.run(loop, until=3.5)
    assert world.due() == [1, 2, 3]
    record = world.schedules.runs(["u"])["u"]
    assert (record.settled_at, record.last_at, record.next_at) == (
        NOON + 3 * SECOND,
        NOON + 3 * SECOND,
        NOON + 4 * SECOND,
    )
    assert (loop.tally.ticks["mail", "shop.tick"], sum(loop.tally.lag_counts), loop.tally.leads) == (
        3,
        3,
        True,
    )
    assert loop.tally.lag_sum_seconds < 0.01


def test_it_sleeps_until_there_is_something_to_do(world):
    """Between its looks at the broker a beat without due times does nothing."""
    world.schedules.put([entry(every_seconds=3600)])
    loop = world.beat()
    assert loop.step() == pytest.approx(0.5)
    world.clock.seconds += 0.2
    assert loop.step() == pytest.approx(0.3)


def test_it_wakes_for_the_next_due_time(world):
    """A due time that comes before the next look is waited for exactly."""
    world.schedules.put([entry(every_seconds=0.25)])
    assert world.beat().step() == pytest.approx(0.25)


def test_the_next_due_time_is_noted_before_it_comes(world):
    """People see when a schedule will run as soon as beat has seen it."""
    world.schedules.put([entry(every_seconds=3600)])
    world.beat().step()
    record = world.schedules.runs(["u"])["u"]
    assert (record.settled_at, record.next_at) == (None, NOON + timedelta(hours=1))
    assert record.next_id == tick_id("u", NOON + timedelta(hours=1))


def test_changes_are_seen_within_a_second(world):
    """A new, changed, suspended, resumed or removed schedule is acted on at the next look."""
    loop = world.beat()
    world.run(loop, until=1)
    world.schedules.put([entry(since=NOON + SECOND)])
    world.run(loop, until=3.1)
    world.schedules.put([entry(since=NOON + SECOND, suspended=True)])
    world.run(loop, until=5.1)
    assert world.schedules.runs(["u"])["u"].next_at is None
    world.schedules.put([entry(since=NOON + 5 * SECOND)])
    world.run(loop, until=7.1)
    world.schedules.remove(["u"])
    world.run(loop, until=9.1)
    assert world.due() == [2, 3, 6, 7]
    assert world.schedules.runs(["u"]) == {}
    assert len(loop._agenda) == 0


def test_a_change_holds_before_it_is_seen(world):
    """What was suspended a moment before its due time is not sent, although beat has not looked."""
    world.schedules.put([entry()])
    loop = world.beat()
    world.run(loop, until=1.999)
    world.schedules.put([entry(suspended=True)])
    world.run(loop, until=3.5)
    assert world.due() == [1]


def test_an_entry_that_cannot_be_scheduled_sends_nothing(world, caplog):
    """It is named with what is wrong, counted, and does not stop the others; mended it runs again."""
    world.schedules.put([entry(), entry("v", every_seconds=None, cron="61 * * * *")])
    loop = world.beat()
    world.run(loop, until=1.5)
    world.schedules.put([entry(every_seconds=None, cron="* * * *")])
    world.run(loop, until=3.5)
    assert world.due() == [1]
    assert (loop.tally.schedules, loop.tally.refused) == (0, 2)
    assert "shop/v" in caplog.text
    world.schedules.put([entry(since=NOON + timedelta(seconds=3.5))])
    world.run(loop, until=4.5)
    assert world.due() == [1, 4]


def test_a_message_that_cannot_be_made_holds_up_only_its_own_schedule(world, caplog):
    """It is tried again a minute later; the others go on."""
    made = composer(world.app)
    broken = {"v"}

    def compose(one, due_at, task_id):
        if one.uid in broken:
            raise CannotCompose("shop/v makes no message")
        return made(one, due_at, task_id)

    world.schedules.put([entry(), entry("v", every_seconds=10)])
    loop = world.beat(compose=compose)
    world.run(loop, until=12.5)
    assert world.due() == list(range(1, 13))
    assert "shop/v makes no message" in caplog.text
    broken.clear()
    world.run(loop, until=71)
    assert world.schedules.runs(["v"])["v"].last_at == NOON + timedelta(seconds=70)


def test_what_was_missed_is_counted(world, caplog):
    """After a time without any beat the latest is sent, the others are counted as missed."""
    world.schedules.put([entry()])
    world.clock.seconds += 50.5
    loop = world.beat()
    loop.step()
    assert world.due() == [50]
    assert loop.tally.missed["mail", "shop.tick"] == 49
    assert "49 due times are missed" in caplog.text


def test_all_that_was_missed_is_caught_up_in_order(world):
    """With catchUp All every due time is sent, in order, in as many transactions as it takes."""
    world.schedules.put([entry(catch_up="All"), *(entry(f"w{n}", queue="other") for n in range(AT_ONCE))])
    world.clock.seconds += 50.5
    world.beat().step()
    assert world.due() == list(range(1, 51))


# -- several beats


def test_one_of_two_ticks(world):
    """The other stands by and looks once a second."""
    world.schedules.put([entry()])
    one, two = world.beat("one"), world.beat("two")
    one.step()
    assert two.step() == 1.0
    world.run(one, two, until=5.5)
    assert world.due() == [1, 2, 3, 4, 5]
    assert (one.tally.leads, two.tally.leads) == (True, False)
    assert not two.tally.ticks


def test_a_standby_takes_over_within_a_second_of_a_release(world):
    """A leader that leaves in good order is followed at once, and no due time is left out."""
    world.schedules.put([entry()])
    one, two = world.beat("one"), world.beat("two")
    world.run(one, two, until=2.5)
    one._release()
    world.run(two, until=6.5)
    assert world.due() == [1, 2, 3, 4, 5, 6]
    assert two.tally.missed == {}


def test_a_standby_takes_over_when_the_lease_is_over(world):
    """After a leader that is gone without a word, the latest due time is sent and the others are counted."""
    world.schedules.put([entry()])
    one, two = world.beat("one"), world.beat("two")
    world.run(one, two, until=2.5)
    world.run(two, until=14.5)
    sent = world.due()
    assert sent[:2] == [1, 2]
    assert sent[-1] == 14
    assert len(sent) + two.tally.missed["mail", "shop.tick"] == 14
    assert len(sent) == len(set(sent))


def test_a_leader_that_stood_still_sends_nothing_more(world, caplog):
    """It wakes, thinks that it leads, and is refused; then it stands by."""
    world.schedules.put([entry(catch_up="All")])
    one, two = world.beat("one"), world.beat("two")
    world.run(one, until=2.5)
    world.run(two, until=15.5)
    one._renew_at = one._check_at = world.clock.seconds + 60  # it has not noticed how long it stood
    one.step()
    assert not one.tally.leads
    assert "another beat leads now" in caplog.text
    world.run(one, two, until=20.5)
    assert world.due() == list(range(1, 21))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two", "both"]),
            st.sampled_from([0.3, 1.0, 4.0, 11.0]),
            st.sampled_from([None, "away", "answers lost"]),
        ),
        max_size=8,  # a beat that was away for more than 100 due times leaves some out
    )
)
def test_every_due_time_is_sent_once_whatever_beats_and_broker_do(history):
    """Beats that stop, go on and overlap, a broker that is away or whose answers are lost: once each."""
    world = World()
    world.schedules.put([entry(catch_up="All", every_seconds=1)])
    beats = {"one": world.beat("one"), "two": world.beat("two")}
    for who, seconds, trouble in history:
        for name, loop in beats.items():
            loop.broker.away = BrokerUnavailable("away") if trouble else None
            loop.broker.answers_lost = trouble == "answers lost"
            if who not in {name, "both"}:
                continue
            end = world.clock.seconds + seconds / (2 if who == "both" else 1)
            while world.clock.seconds < end:
                try:
                    pause = loop.step()
                except BrokerUnavailable as error:
                    loop._was_connected = True
                    pause = loop._outage(error)
                world.clock.seconds = min(end, world.clock.seconds + max(pause, 0.01))
    for loop in beats.values():
        loop.broker.away = None
    world.clock.seconds += 10
    for name in ("one", "two", "one"):
        beats[name].step()
    last = int(world.clock.seconds - NOON.timestamp() + 1e-6)
    assert world.due() == list(range(1, last + 1))


# -- outages


@pytest.mark.parametrize("answers_lost", [False, True])
def test_an_outage_loses_nothing_and_sends_nothing_twice(world, answers_lost):
    """Due times of an outage come after it, the one whose answer was lost has come already."""
    world.schedules.put([entry(catch_up="All")])
    loop = world.beat()
    world.run(loop, until=2.5)
    loop._recovered()
    loop.broker.away, loop.broker.answers_lost = BrokerUnavailable("Redis cannot be reached"), answers_lost
    for second in (3.0, 4.0, 5.5):
        world.clock.seconds = NOON.timestamp() + second
        with pytest.raises(BrokerUnavailable):
            loop.step()
        assert 0 < loop._outage(loop.broker.away) <= 2
        assert not loop.connected
    loop.broker.away = None
    world.run(loop, until=6.5)
    assert world.due() == [1, 2, 3, 4, 5, 6]


def test_a_broker_that_is_away_at_the_start_is_waited_for(world):
    """Unless the application says otherwise; a refusal is not waited for, since somebody must act."""
    away, refused = BrokerUnavailable("away"), BrokerRefused("wrong password")
    assert world.beat()._outage(away) > 0
    with pytest.raises(BrokerUnavailable, match="away"):
        world.beat(settings={"retry_on_startup": False})._outage(away)
    with pytest.raises(BrokerRefused):
        world.beat()._outage(refused)
    connected = world.beat()
    connected.step()
    connected._recovered()
    assert connected._outage(refused) > 0


def test_leaving_releases_the_lease(world):
    """`run` ends after `leave`, and another beat leads at once."""
    loop = world.beat()
    loop.step()
    loop.leave()
    loop.run()
    assert world.schedules.leader() is None
    loop.leave()


def test_leaving_in_the_midst_of_many_ticks_leaves_the_rest_to_the_next(world):
    """The batch in hand is finished, then the lease is given up; another beat sends the others."""
    world.schedules.put([entry(str(n), every_seconds=60) for n in range(3 * AT_ONCE)])
    one, two = world.beat("one"), world.beat("two")
    one._published = lambda _draft: one.leave()
    one.step()
    world.clock.seconds += 60
    one.step()
    one.run()
    two.step()
    assert (one.tally.ticks["mail", "shop.tick"], two.tally.ticks["mail", "shop.tick"]) == (
        AT_ONCE,
        2 * AT_ONCE,
    )


def test_leaving_without_a_broker_ends_too(world, caplog):
    """The lease then ends by itself."""
    loop = world.beat()
    loop.step()
    loop.broker.away = BrokerUnavailable("Redis cannot be reached")
    loop.leave()
    loop.run()
    assert "another beat leads once the lease is over" in caplog.text


# -- overlapping runs


def test_forbidden_overlap_asks_for_the_last_run(world):
    """The first run is sent; the second only when the first is finished; what was not sent is missed."""
    runs = Runs({"u": True})
    world.schedules.put([entry(concurrency_policy="Forbid")])
    loop = world.beat(runs=runs)
    world.run(loop, until=3.5)
    assert world.due() == [1]
    assert loop.tally.missed["mail", "shop.tick"] == 2
    [first, *_] = [records for records, _ in runs.asked]
    assert first["u"].last_id == tick_id("u", NOON + SECOND)
    runs.answers["u"] = False
    world.run(loop, until=4.5)
    assert world.due() == [1, 4]


def test_forbidden_overlap_waits_while_nothing_is_known(world, caplog):
    """An unknown answer settles nothing: the due time is sent as soon as the answer is there."""
    runs = Runs({"u": Unknown(reason="the store is away")})
    world.schedules.put([entry(concurrency_policy="Forbid", every_seconds=60)])
    loop = world.beat(runs=runs)
    world.run(loop, until=121)
    assert "the store is away" in caplog.text
    assert world.schedules.runs(["u"])["u"].last_at == NOON + 60 * SECOND
    runs.answers["u"] = False
    world.run(loop, until=127)
    assert world.schedules.runs(["u"])["u"].last_at == NOON + 120 * SECOND
    assert not loop.tally.missed


def test_the_default_without_a_result_store_says_what_to_do(world, caplog):
    """A beat that knows no result store holds a schedule that forbids overlap after its first run."""
    world.schedules.put([entry(concurrency_policy="Forbid")])
    world.run(world.beat(), until=3.5)
    assert world.due() == [1]
    assert "MUSTER_RESULT_URL" in caplog.text


# -- many


def test_ten_thousand_due_at_once(world):
    """All are sent in one step, in batches, and the lease is renewed meanwhile when it is time."""
    world.schedules.put([entry(str(n), every_seconds=60) for n in range(10_000)])
    loop = world.beat()
    loop.step()
    world.clock.seconds += 60
    loop.step()
    assert loop.tally.ticks["mail", "shop.tick"] == 10_000
    ids = {peek(one.raw).id for one in world.worker.turn(Turn(claim=100_000)).deliveries}
    assert ids == {tick_id(str(n), NOON + 60 * SECOND) for n in range(10_000)}


def test_a_record_of_another_beat_is_taken_over(world):
    """A beat that finds a mark on the broker goes on from there."""
    world.schedules.put([entry()])
    term = world.schedules.acquire("x", 1)
    [change] = world.schedules.changes(0, ()).put
    record = RunRecord(settled_at=NOON + 3 * SECOND, missed=7)
    step = Advance(uid="u", revision=change.revision, after=None, record=record)
    assert list(world.schedules.advance(term, [step])) == [Done()]
    world.clock.seconds += 4.5
    world.beat().step()
    assert world.due() == [4]
    assert world.schedules.runs(["u"])["u"].missed == 7


def test_prepare_runs_at_each_beginning_of_a_term(world):
    """The application's own entries are written by whoever leads, and again after an outage."""
    calls = []
    loop = world.beat(prepare=lambda store, now: calls.append(now))
    loop.step()
    loop.step()
    assert calls == [NOON]
    loop._was_connected = True
    loop._outage(BrokerUnavailable("away"))
    loop.step()
    assert calls == [NOON, NOON]


def test_receivers_hear_of_what_the_broker_has(world):
    """`published` is called once for each tick that was confirmed."""
    heard = []
    world.schedules.put([entry()])
    world.run(world.beat(published=heard.append), until=2.5)
    assert [draft.task_id for draft in heard] == [tick_id("u", NOON + n * SECOND) for n in (1, 2)]
