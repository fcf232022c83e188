"""Real beats on a real broker, killed, stopped and overlapping: every due time is sent, once, with one id.

What was sent is read from the queue, where nobody takes it out, and compared with the due times that plain
arithmetic says.
"""

import contextlib
import signal
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from beats import Beat
from ledger import Ledger, compare
from muster.transports.base import Turn
from muster.transports.connect import connect_schedules, connect_transport
from muster.wire.keys import RedisKeys
from muster.wire.message import peek
from muster.wire.schedule import ScheduleEntry, tick_id
from waiting import wait_for
from workers import TESTS, Worker

SCOPE = "shop"
LEASE_SECONDS = 9.0
SECOND = timedelta(seconds=1)


class Place:
    """A broker, the schedules on it, and what has been sent so far."""

    def __init__(self, url):
        self.url = url
        self.store = connect_schedules(url, scope=SCOPE)
        self._queue = connect_transport(
            url,
            queues=["mail"],
            worker="reader",
            pool="none",
            lease_seconds=1e6,
            dead_letters={},
            options={},
            results_prefix=None,
        )
        self._sent = []

    def beat(self, *arguments, **options):
        return Beat("--scope", SCOPE, "-b", self.url, *arguments, **options)

    def put(self, uid="u", *, every_seconds=1.0, **fields):
        now = datetime.now(UTC)
        values = {"created_at": now, "since": now, "catch_up": "All", "queue": "mail", **fields}
        entry = ScheduleEntry(
            uid=uid, name=f"shop/{uid}", task="shop.tick", every_seconds=every_seconds, **values
        )
        self.store.put([entry])
        return entry

    def sent(self):
        """The ids of all tasks sent, in the order in which they entered the queue."""
        while found := self._queue.turn(Turn(claim=1000)).deliveries:
            self._sent += [peek(one.raw).id for one in found]
        return self._sent

    def record(self, uid="u"):
        return self.store.runs([uid]).get(uid)

    def mark(self, entry):
        """How many due times of an interval are settled."""
        record = self.record(entry.uid)
        return 0 if record is None or record.settled_at is None else number(entry, record.settled_at)

    def wait_for_mark(self, entry, least, timeout_seconds=60):
        return wait_for(
            lambda: self.mark(entry),
            until=lambda mark: mark >= least,
            what=f"due time {least} of {entry.name}",
            timeout_seconds=timeout_seconds,
            every_seconds=0.02,
        )

    def wait_for_leader(self, timeout_seconds=30):
        return wait_for(
            self.store.leader, what="a leader", timeout_seconds=timeout_seconds, every_seconds=0.02
        )

    def close(self):
        self.store.close()
        self._queue.close()


class PlaceOnRabbitMQ(Place):
    """The same, where the server's API takes out what has been sent."""

    def __init__(self, host):
        self.url = host.url
        self.store = connect_schedules(host.url, scope=SCOPE)
        self._host = host
        self._sent = []
        host.declare("mail")

    def sent(self):
        self._sent += [one["properties"]["correlation_id"] for one in self._host.messages("mail")]
        return self._sent

    def close(self):
        self.store.close()


def number(entry, at):
    return round((at - entry.created_at) / (entry.every_seconds * SECOND))


def expected(entry, until):
    """The ids of the first `until` due times, oldest first."""
    period = entry.every_seconds * SECOND
    return [tick_id(entry.uid, entry.created_at + n * period) for n in range(1, until + 1)]


ON_REDIS = pytest.param("redis", marks=pytest.mark.servers)
ON_RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.servers)


@pytest.fixture(params=["sqlite", ON_REDIS, ON_RABBITMQ])
def place(request, tmp_path):
    match request.param:
        case "sqlite":
            made = Place(f"sqlite:///{tmp_path}/broker.db")
        case "redis":
            made = Place(request.getfixturevalue("redis_server").url)
        case "rabbitmq":
            made = PlaceOnRabbitMQ(request.getfixturevalue("rabbitmq"))
    yield made
    made.close()


@pytest.fixture
def own_place(own_redis_server):
    made = Place(own_redis_server.url)
    yield made
    made.close()


TICKS = "A beat killed, stopped or doubled sends each due time once, with one id"


def finish(place, entry, *beats, account=None, **figures):
    """Stop the beats in good order and compare all that was sent with all that was due."""
    for beat in beats:
        beat.terminate()
    assert [beat.wait() for beat in beats] == [0] * len(beats)
    mark = place.mark(entry)
    if account is not None:
        entered = Counter(place.sent())
        account(compare(expected(entry, mark), entered, entered), **figures)
    assert place.sent() == expected(entry, mark)
    return mark


@pytest.mark.soak(TICKS)
def test_a_beat_killed_at_its_ticks_sends_each_once(place, account, times):
    """Ten kills in a row, before and after the broker has the tick: nothing lost, nothing twice."""
    entry = place.put()
    for turn in range(10 * times):
        fault = "before" if turn % 2 else "after"
        beat = place.beat(
            script=TESTS / "apps/faulty_beat.py",
            MUSTER_WORKER_ID="the-pod",
            FAULT=fault,
            FAULT_AT=str(1 + turn % 3),
        )
        with beat:
            assert beat.wait() == -signal.SIGKILL
    with place.beat(MUSTER_WORKER_ID="the-pod") as beat:
        place.wait_for_mark(entry, place.mark(entry) + 2)
        finish(place, entry, beat, account=account, kills=10 * times)


@pytest.mark.soak(TICKS, repeat=True)
def test_another_beat_takes_over_from_a_killed_one(place, account):
    """Within the lease, and it sends what came due meanwhile."""
    entry = place.put()
    with contextlib.ExitStack() as stack:
        faulty = stack.enter_context(
            place.beat(script=TESTS / "apps/faulty_beat.py", FAULT="after", FAULT_AT="5")
        )
        place.wait_for_leader()
        standby = stack.enter_context(place.beat())
        assert faulty.wait() == -signal.SIGKILL
        killed = time.monotonic()
        wait_for(lambda: standby.leads, what="the other leads", every_seconds=0.05)
        seconds = time.monotonic() - killed
        account(longest_failover_seconds=seconds)
        assert seconds < LEASE_SECONDS + 1.5
        place.wait_for_mark(entry, number(entry, datetime.now(UTC)))
        finish(place, entry, standby, account=account, kills=1)


def test_a_beat_that_leaves_is_followed_within_two_seconds(place, record_property):
    """SIGTERM: exit code 0, the lease is given up, the other leads at once."""
    entry = place.put()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(place.beat())
        place.wait_for_mark(entry, 1)
        second = stack.enter_context(place.beat())
        second.wait_ready()
        first.terminate()
        left = time.monotonic()
        wait_for(lambda: second.leads, what="the other leads", every_seconds=0.02)
        seconds = time.monotonic() - left
        record_property("failover_seconds", seconds)
        assert seconds < 2
        assert first.wait() == 0
        place.wait_for_mark(entry, place.mark(entry) + 2)
        finish(place, entry, second)


@pytest.mark.soak(TICKS, repeat=True)
@pytest.mark.parametrize("place", [ON_REDIS, ON_RABBITMQ], indirect=True)
def test_two_beats_that_overlap_send_each_once(place, account):
    """The leader is stopped past its lease, another leads, the first goes on and thinks that it leads."""
    entry = place.put()
    with place.beat() as one:
        place.wait_for_mark(entry, 2)
        with place.beat() as two:
            two.wait_ready()
            one.send_signal(signal.SIGSTOP)
            wait_for(lambda: two.leads, what="the other leads")
            place.wait_for_mark(entry, place.mark(entry) + 2)
            one.send_signal(signal.SIGCONT)
            wait_for(lambda: not one.leads and one.get("/readyz")[0] == 200, what="the first stands by")
            two.send_signal(signal.SIGSTOP)  # and back, the other way round
            wait_for(lambda: one.leads, what="the first leads again")
            two.send_signal(signal.SIGCONT)
            wait_for(lambda: not two.leads and two.get("/readyz")[0] == 200, what="the second stands by")
            place.wait_for_mark(entry, place.mark(entry) + 2)
            mark = finish(place, entry, one, two, account=account, overlaps=2)
            assert (
                mark >= 6
            )  # two before, two between and two after: how many more says how quick elections are
            assert "another beat leads now" in one.log + two.log


def test_a_broker_that_comes_later_is_waited_for(own_redis_server, own_place):
    """Beat may be started before its broker."""
    entry = own_place.put()
    own_redis_server.stop()
    with own_place.beat() as beat:
        wait_for(lambda: beat.get("/readyz")[0] == 503, what="beat runs without a broker")
        own_redis_server.start()
        own_place.wait_for_mark(entry, 3)
        finish(own_place, entry, beat)


def test_changes_are_seen_within_a_second(place, record_property):
    """New, suspended, resumed, changed and removed schedules, each by what beat writes back of them."""
    seconds = {}

    def timed(what, probe, until=bool):
        begin = time.monotonic()
        wait_for(probe, until=until, what=what, every_seconds=0.01)
        seconds[what] = time.monotonic() - begin

    with place.beat() as beat:
        place.wait_for_leader()
        beat.wait_ready()
        entry = place.put(every_seconds=3600.0)
        timed("new", place.record, lambda record: record is not None and record.next_at)
        first = place.record()
        assert first.next_at == entry.created_at + timedelta(hours=1)
        assert first.next_id == tick_id("u", first.next_at)
        place.store.put([replace(entry, suspended=True)])
        timed("suspended", lambda: place.record().next_at, lambda at: at is None)
        place.store.put([entry])
        timed("resumed", lambda: place.record().next_at, lambda at: at == first.next_at)
        place.store.put([replace(entry, every_seconds=7200.0)])
        timed(
            "changed", lambda: place.record().next_at, lambda at: at == entry.created_at + timedelta(hours=2)
        )
        place.store.remove(["u"])
        timed("removed", lambda: beat.metric("muster_beat_schedules"), lambda number: number == 0)
        assert place.store.runs(["u"]) == {}
    record_property("seconds", seconds)
    assert max(seconds.values()) < 1, seconds


@pytest.mark.soak("Ten thousand schedules: a change is seen in a second, and all are sent when they are due")
def test_ten_thousand_schedules(place, allowed, record_property):
    """They are read, one change among them is seen in a second, and due at one moment all are sent."""
    due = datetime.now(UTC) + timedelta(seconds=20)
    created = due - timedelta(hours=1)
    entries = [
        ScheduleEntry(
            uid=str(uuid.uuid4()),
            name=f"shop/{n}",
            task="shop.tick",
            args=(n,),
            queue="mail",
            every_seconds=3600.0,
            created_at=created,
            since=created,
        )
        for n in range(10_000)
    ]
    place.store.put(entries)
    with place.beat() as beat:
        begin = time.monotonic()
        wait_for(lambda: beat.metric("muster_beat_schedules") == 10_000, what="all are known")
        record_property("read_seconds", time.monotonic() - begin)
        place.store.put([replace(entries[77], suspended=True)])
        begin = time.monotonic()
        wait_for(
            lambda: place.record(entries[77].uid),
            until=lambda record: record is not None and record.next_at is None,
            what="the change",
            every_seconds=0.01,
        )
        change_seconds = time.monotonic() - begin
        record_property("change_seconds", change_seconds)
        assert change_seconds < allowed(1, beside=3)
        wait_for(
            lambda: beat.metric("muster_beat_ticks_total") == 9_999, what="all ticks", timeout_seconds=60
        )
        assert sorted(place.sent()) == sorted(
            tick_id(one.uid, due) for one in entries if one is not entries[77]
        )
        lag = beat.metric("muster_beat_lag_seconds_sum") / 9_999
        record_property("mean_lag_seconds", lag)
        record_property("within_2_s", beat.metric('muster_beat_lag_seconds_bucket{le="2.0"}'))
        assert lag < allowed(5, beside=10)
        beat.terminate()
        assert beat.wait() == 0


def test_the_lag_of_a_tick(place, record_property):
    """Twenty ticks of an idle beat: each is with the broker soon after its due time."""
    entry = place.put(every_seconds=0.2)
    with place.beat() as beat:
        place.wait_for_leader()
        first = beat.metric("muster_beat_lag_seconds_count"), beat.metric("muster_beat_lag_seconds_sum")
        place.wait_for_mark(entry, place.mark(entry) + 20)
        count = beat.metric("muster_beat_lag_seconds_count") - first[0]
        mean = (beat.metric("muster_beat_lag_seconds_sum") - first[1]) / count
        record_property("mean_lag_seconds", mean)
        assert mean < 0.5
        finish(place, entry, beat)


# -- an application's own schedule, with a worker that runs it


@pytest.fixture
def application(own_redis_server, tmp_path):
    """Environment and ledger of beat_app on a broker of its own."""
    ledger = Ledger(tmp_path / "ledger")
    return {"BROKER": own_redis_server.url, "LEDGER": str(ledger.path)}, ledger


def test_an_application_ticks_and_a_worker_runs(own_redis_server, application):
    """Two beats for one beat_schedule: each due time runs once; a restart goes on with the same due times."""
    environment, ledger = application
    store = connect_schedules(own_redis_server.url, scope="app:ledger")
    with Worker("beat_app", "solo", **environment) as worker:
        with Beat("-A", "beat_app", **environment) as one, Beat("-A", "beat_app", **environment) as two:
            wait_for(lambda: len(ledger.ends) >= 3, what="three runs")
            by_name = {entry.name: entry for entry in store.entries().values()}
            each = by_name["each"]
            assert by_name["nightly"].time_zone == "Europe/Berlin"
            for beat in (one, two):
                beat.terminate()
            assert [one.wait(), two.wait()] == [0, 0]
        with Beat("-A", "beat_app", **environment) as again:
            mark = store.runs([each.uid])[each.uid].settled_at
            wait_for(
                lambda: store.runs([each.uid])[each.uid].settled_at > mark + 2 * SECOND, what="more runs"
            )
            again.terminate()
            assert again.wait() == 0
        assert {entry.name: entry for entry in store.entries().values()} == by_name
        record = store.runs([each.uid])[each.uid]
        wait_for(lambda: record.last_id in ledger.ends, what="the last run")
        worker.terminate()
        assert worker.wait() == 0
    settled = number(each, record.settled_at)
    assert set(ledger.starts) <= set(expected(each, settled))
    assert set(ledger.starts.values()) == {1}
    assert len(ledger.starts) + record.missed == settled
    store.close()


def test_a_changed_beat_schedule_is_that_of_the_new_leader(own_redis_server, application):
    """A new version of the application brings its own times, and what is gone from it is gone."""
    environment, _ = application
    store = connect_schedules(own_redis_server.url, scope="app:ledger")
    for each in ("1", "5"):
        with Beat("-A", "beat_app", EACH=each, **environment) as beat:
            wait_for(
                lambda: {entry.name: entry.every_seconds for entry in store.entries().values()},
                until=lambda found, each=each: found.get("each") == float(each),
                what=f"an interval of {each} s",
            )
            beat.terminate()
            assert beat.wait() == 0
    assert len(store.entries()) == 2
    store.close()


def test_a_run_that_is_not_finished_holds_the_next_up(own_redis_server, application):
    """Forbid with real results: while a task runs its schedule's due times are missed, then it goes on."""
    environment, ledger = application
    store = connect_schedules(own_redis_server.url, scope=SCOPE)
    now = datetime.now(UTC)
    entry = ScheduleEntry(
        uid="u",
        name="shop/u",
        task="ledger.work",
        kwargs={"seconds": 2.5},
        queue="celery",
        every_seconds=1.0,
        concurrency_policy="Forbid",
        created_at=now,
        since=now,
    )
    store.put([entry])
    arguments = ["--scope", SCOPE, "-b", own_redis_server.url, "--result-backend", own_redis_server.url]
    with Worker("ledger_app", "threads", **environment), Beat(*arguments) as beat:
        wait_for(lambda: len(ledger.ends) >= 3, what="three runs")
        beat.terminate()
        assert beat.wait() == 0
        assert beat.log.count("StillRunning") >= 3
    lines = [line.split()[:2] for line in ledger.path.read_text().splitlines()]
    runs = [what for what, _ in lines]
    assert runs[:6] == ["start", "end"] * 3
    record = store.runs(["u"])["u"]
    assert record.missed >= 3
    assert set(ledger.starts) <= set(expected(entry, number(entry, record.settled_at)))
    store.close()


def test_beat_holds_one_connection(redis_server):
    """Started as in a pod, by its environment alone; what it asks of an idle broker is little."""
    with Beat(MUSTER_BEAT_SCOPE=SCOPE, MUSTER_BROKER_URL=redis_server.url, MUSTER_WORKER_ID="pod") as beat:
        beat.wait_ready()
        with redis_server.client() as client:
            wait_for(
                lambda: client.hget(RedisKeys().beat(SCOPE), "holder"),
                until=lambda holder: holder == b"pod",
                what="the pod leads",
            )
            assert len([one for one in client.client_list() if one["id"] != str(client.client_id())]) == 1
            before, begin = int(client.info()["total_commands_processed"]), time.monotonic()
            wait_for(lambda: time.monotonic() - begin > 4, what="four idle seconds", every_seconds=1)
            commands = int(client.info()["total_commands_processed"]) - before
            # a script's own calls are counted too
            assert commands / (time.monotonic() - begin) < 5


def test_beat_and_worker_on_rabbitmq_alone(rabbitmq, tmp_path):
    """Two beats for one beat_schedule and a worker, with nothing but RabbitMQ: each due time runs once."""
    ledger = Ledger(tmp_path / "ledger")
    environment = {"BROKER": rabbitmq.url, "RESULTS": "rpc://", "LEDGER": str(ledger.path)}
    store = connect_schedules(rabbitmq.url, scope="app:ledger")
    with Worker("beat_app", "solo", **environment) as worker:
        with Beat("-A", "beat_app", **environment) as one, Beat("-A", "beat_app", **environment) as two:
            wait_for(lambda: len(ledger.ends) >= 3, what="three runs")
            for beat in (one, two):
                beat.terminate()
            assert [one.wait(), two.wait()] == [0, 0]
        [each] = [entry for entry in store.entries().values() if entry.name == "each"]
        record = store.runs([each.uid])[each.uid]
        wait_for(lambda: record.last_id in ledger.ends, what="the last run")
        worker.terminate()
        assert worker.wait() == 0
    assert set(ledger.starts) <= set(expected(each, number(each, record.settled_at)))
    assert set(ledger.starts.values()) == {1}
    store.close()
