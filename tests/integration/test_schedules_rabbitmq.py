"""Beat's place on a real RabbitMQ: killed at every step, and what only RabbitMQ has."""

import contextlib
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from brokers import message
from muster.core.effects import Publication
from muster.errors import BrokerUnavailable
from muster.settings.queues import QueueArguments
from muster.transports.amqp.address import addresses
from muster.transports.amqp.ioloop import OnDemandLoop
from muster.transports.amqp.line import Line
from muster.transports.connect import connect_schedules
from muster.transports.schedules import amqp
from muster.transports.schedules.base import Advance, Changed, Done, NotLeader, Refused, Superseded, Term
from muster.wire.message import pack
from muster.wire.schedule import RunRecord, ScheduleEntry
from muster.wire.schedule_log import log_of
from rabbitmq import RabbitMQServer
from waiting import wait_for

pytestmark = pytest.mark.servers

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEASE = 9.0


def entry(uid="u", **fields):
    fields = {"every_seconds": 60, "created_at": NOON, "since": NOON, "queue": "mail", **fields}
    return ScheduleEntry(uid=uid, name=f"shop/{uid}", task="shop.tick", **fields)


def record(minutes):
    at = NOON + minutes * MINUTE
    return RunRecord(settled_at=at, last_at=at, last_id=f"u-{minutes}")


def tick(store, minutes=1, *, uid="u", after=None, queue="mail", raw=None):
    revision = {change.entry.uid: change.revision for change in store.changes(0, ()).put}[uid]
    return Advance(
        uid=uid,
        revision=revision,
        after=None if not after else NOON + after * MINUTE,
        record=record(minutes),
        publication=Publication(queue, raw or message(f"u-{minutes}")),
    )


@contextlib.contextmanager
def opened(url, scope="shop", **options):
    with contextlib.closing(connect_schedules(url, scope=scope, **options)) as store:
        yield store


def led(store, holder="one"):
    """Lead, as soon as the server has seen the end of who led before."""
    return wait_for(
        lambda: store.acquire(holder, LEASE), until=lambda found: isinstance(found, Term), what="the lock"
    )


def sent(host):
    return [one["properties"]["correlation_id"] for one in host.messages("mail")]


class Steps:
    """Counts how often a connection has gone round, and calls something at one of these steps."""

    def __init__(self, monkeypatch, at, then):
        self.number = -1
        real = OnDemandLoop.go_round

        def counted(loop, seconds):
            if self.number >= 0:
                self.number += 1
                if self.number == at:
                    then()
            real(loop, seconds)

        monkeypatch.setattr(OnDemandLoop, "go_round", counted)

    def count(self):
        self.number = 0


def run_and_die(url, scope, at, monkeypatch):
    """In a process of its own: lead, tick, and be killed at that step. Returns whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            steps = Steps(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            store = connect_schedules(url, scope=scope)
            term = led(store)
            long = pack(  # its bytes leave in several steps
                headers={"task": "shop.tick", "id": "u-1"},
                body="x" * 300_000,
                queue="mail",
                task_id="u-1",
                delivery_tag="1",
            )
            step = tick(store, raw=long)
            steps.count()
            store.advance(term, [step])
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def test_a_beat_that_is_killed_at_any_step_of_a_tick_sends_it_once(rabbitmq, monkeypatch):
    """Between any two of its system calls: whoever comes next finds it sent and noted, or neither."""
    rabbitmq.declare("mail")
    found = set()
    killed, at = True, 0
    while killed:
        at += 1
        scope = f"shop-{at}"
        with opened(rabbitmq.url, scope) as store:
            store.put([entry()])
        killed = run_and_die(rabbitmq.url, scope, at, monkeypatch)
        with opened(rabbitmq.url, scope) as store:
            term = led(store, "two")
            before = store.runs(["u"])
            found.add(bool(before))
            if not before:
                assert list(store.advance(term, [tick(store)])) == [Done()]
            assert sent(rabbitmq) == ["u-1"], f"killed at step {at}"
    assert at > 8
    assert found == {False, True}


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_server_that_is_killed_during_a_tick_loses_none(own_rabbitmq_server, monkeypatch, queue_type):
    """At any step: the tick is there afterwards, with its one id; at worst it is there twice."""
    with own_rabbitmq_server.virtual_host() as host:
        host.declare("mail", **{"x-queue-type": queue_type})
        steps_of_interest = (3, 5, 6, 7)
        for at in steps_of_interest:
            _make_lasting(host, f"shop-{at}")
        own_rabbitmq_server.stop()
        own_rabbitmq_server.start()
        for at in steps_of_interest:
            scope = f"shop-{at}"
            with opened(host.url, scope) as store, monkeypatch.context() as patches:
                steps = Steps(patches, at, own_rabbitmq_server.kill9)
                wait_for(lambda s=store: _acquired(s), what="the log", timeout_seconds=60)
                term, step = led(store), tick(store, at)
                steps.count()
                with contextlib.suppress(BrokerUnavailable):
                    store.advance(term, [step])
                if own_rabbitmq_server.running:
                    own_rabbitmq_server.kill9()
            own_rabbitmq_server.start()
            with opened(host.url, scope) as store:
                term = wait_for(lambda s=store: _acquired(s), what="a new term", timeout_seconds=60)
                if not store.runs(["u"]):
                    assert list(store.advance(term, [tick(store, at)])) == [Done()]
            # what was taken out before the last kill may be there again
            assert sent(host).count(f"u-{at}") in {1, 2}


def _make_lasting(host, scope):
    """Make a log that outlives the server: 3.10 forgets one when it is killed a moment after its first."""
    with opened(host.url, scope) as store:
        store.put([entry()])


def _acquired(store):
    try:
        return store.acquire("two", LEASE)
    except BrokerUnavailable as error:
        raise ConnectionError(str(error)) from None


def test_unsure_ticks_are_taken_back_after_a_restart_of_the_server(own_rabbitmq_server, monkeypatch):
    """The log has it, nobody knows whether its queue has it, and the server is new: it is sent again."""
    with own_rabbitmq_server.virtual_host() as host:
        host.declare("mail")
        _make_lasting(host, "shop")
        own_rabbitmq_server.stop()
        own_rabbitmq_server.start()
        with opened(host.url) as store, monkeypatch.context() as patches:
            wait_for(lambda: _acquired(store), what="the log", timeout_seconds=60)
            term, step = led(store), tick(store)
            real = store._send

            def killed_behind(letters):
                real(letters)
                raise BrokerUnavailable("no time to say that it is sure")

            patches.setattr(store, "_send", killed_behind)
            with pytest.raises(BrokerUnavailable):
                store.advance(term, [step])
        with opened(host.url) as store:  # the same server: the tick is trusted
            term = led(store, "two")
            assert store.runs(["u"]) == {"u": record(1)}
            real = store._send
            monkeypatch.setattr(store, "_send", killed_behind)
            with pytest.raises(BrokerUnavailable):
                store.advance(term, [tick(store, 2, after=1)])
        own_rabbitmq_server.kill9()
        own_rabbitmq_server.start()
        with opened(host.url) as store:  # another one
            term = wait_for(lambda: _acquired(store), what="a new term", timeout_seconds=60)
            assert store.runs(["u"]) == {"u": record(1)}
            assert list(store.advance(term, [tick(store, 2, after=1)])) == [Done()]
        assert sent(host) == ["u-1", "u-2", "u-2"]


def test_a_full_queue_refuses_its_own_ticks_only(rabbitmq):
    """They are not settled, and are sent once there is room; other schedules go on."""
    rabbitmq.declare("full", **{"x-max-length": 0, "x-overflow": "reject-publish"})
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as store:
        store.put([entry("a", queue="full"), entry("b")])
        term = led(store)
        steps = [
            tick(store, 1, uid="a", queue="full"),
            tick(store, 2, uid="a", after=1, queue="full"),
            tick(store, 3, uid="b"),
        ]
        first, second, third = store.advance(term, steps)
        assert isinstance(first, Refused)
        assert "queue 'full' is full" in first.reason
        assert second == first
        assert third == Done()
        assert store.runs(["a", "b"])["a"] == RunRecord()
        assert store.runs(["b"]) == {"b": record(3)}
        again = replace(steps[0], publication=Publication("mail", message("u-1")))
        assert list(store.advance(term, [again])) == [Done()]
    assert sent(rabbitmq) == ["u-3", "u-1"]


def test_a_queue_that_is_not_there_is_declared_where_that_is_allowed(rabbitmq):
    """As Celery's beat would do it; else its ticks are refused, though the log would have had its copy."""
    with opened(rabbitmq.url, create_missing_queues=False) as store:
        store.put([entry()])
        [outcome] = store.advance(led(store), [tick(store)])
        assert isinstance(outcome, Refused)
        assert "no queue 'mail'" in outcome.reason
        assert store.runs(["u"]) == {}
    quorum = {"x-queue-type": "quorum"}
    with opened(rabbitmq.url, queue_arguments=QueueArguments(others=quorum)) as store:
        assert list(store.advance(led(store), [tick(store)])) == [Done()]
    assert rabbitmq.queue("mail")["arguments"] == quorum
    assert sent(rabbitmq) == ["u-1"]


def url_of_user(rabbitmq, **rights):
    """The URL of a user who may do everything but what is said."""
    server, user = rabbitmq.server, f"user-of-{rabbitmq.name}"
    server.api("PUT", f"users/{user}", password="right", tags="")
    rights = {"configure": ".*", "write": ".*", "read": ".*", **rights}
    server.api("PUT", f"permissions/{rabbitmq.name}/{user}", **rights)
    return server.url(rabbitmq.name, user, "right")


def test_a_queue_that_we_may_not_declare_refuses_its_own_ticks_only(rabbitmq):
    """Nor may one that is another connection's own be asked for; other schedules go on."""
    rabbitmq.declare("mail")
    own = Line(addresses(rabbitmq.url, heartbeat_seconds=60))
    own.open()
    own.ask(lambda done: own.channel.queue_declare("theirs", exclusive=True, callback=done))
    with opened(url_of_user(rabbitmq, configure="^muster\\.")) as store:
        store.put([entry("a", queue="gone"), entry("b", queue="theirs"), entry("c")])
        term = led(store)
        steps = [
            tick(store, 1, uid="a", queue="gone"),
            tick(store, 2, uid="b", queue="theirs"),
            tick(store, 3, uid="c"),
        ]
        for _ in range(2):
            gone, theirs, done = store.advance(term, steps)
            assert isinstance(gone, Refused)
            assert "queue 'gone': ACCESS_REFUSED" in gone.reason
            assert isinstance(theirs, Refused)
            assert "queue 'theirs': RESOURCE_LOCKED" in theirs.reason
        assert done == Superseded(record(3))
        assert store.runs(["a", "b", "c"])["c"] == record(3)
    own.close()
    assert sent(rabbitmq) == ["u-3"]


def test_a_message_that_amqp_cannot_carry_refuses_its_own_tick_only(rabbitmq):
    """It is not settled, and no other schedule waits for it."""
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as store:
        store.put([entry("a"), entry("b")])
        term = led(store)
        odd = tick(store, 1, uid="a", raw=message("u-1", big=2**70))
        refused, done = store.advance(term, [odd, tick(store, 2, uid="b")])
        assert isinstance(refused, Refused)
        assert "AMQP cannot carry it" in refused.reason
        assert done == Done()
        assert store.runs(["a", "b"]) == {"b": record(2)}
    assert sent(rabbitmq) == ["u-2"]


def test_a_message_that_the_server_does_not_take_refuses_its_own_tick_only():
    """One that is too large is not taken for sent; what goes with it is."""
    with RabbitMQServer("max_message_size = 50000\n") as server, server.virtual_host() as host:
        host.declare("mail")
        with opened(host.url) as store:
            store.put([entry("a"), entry("b")])
            term = led(store)
            large = pack(
                headers={"task": "shop.tick", "id": "u-1"},
                body="x" * 100_000,
                queue="mail",
                task_id="u-1",
                delivery_tag="1",
            )
            steps = [tick(store, 1, uid="a", raw=large), tick(store, 2, uid="b")]
            refused, done = store.advance(term, steps)
            assert isinstance(refused, Refused)
            assert "larger than configured max size" in refused.reason
            assert done == Done()
            assert store.runs(["a", "b"]) == {"a": RunRecord(), "b": record(2)}
        assert set(sent(host)) == {"u-2"}


@pytest.mark.parametrize(("right", "scope"), [("configure", "celery_delayed_"), ("write", "amq.default")])
def test_a_right_that_is_missing_is_an_outage_that_says_so(rabbitmq, right, scope):
    """Beat goes on to try: somebody may be about to grant it."""
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as operator:
        operator.put([entry()])
    said = rf"refuses what beat needs there.*{scope}.*needs the right"
    with opened(url_of_user(rabbitmq, **{right: r"^(muster\..*|mail)$"})) as store:
        late = Publication("mail", message("u-1"), eta=time.time() + 50)
        with pytest.raises(BrokerUnavailable, match=said):
            store.advance(led(store), [replace(tick(store), publication=late)])
    assert sent(rabbitmq) == []


def test_what_others_change_is_heard_of_without_asking(rabbitmq):
    """A change is pushed; from when it has been written nothing is sent by what stood there before."""
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as beat, opened(rabbitmq.url) as operator:
        operator.put([entry()])
        term, step = led(beat), tick(beat)
        seen = beat.changes(0, ())
        operator.put([entry(suspended=True)])
        assert list(beat.advance(term, [step])) == [Changed()]
        changes = wait_for(
            lambda: beat.changes(seen.revision, {"u"}), until=lambda found: found.put, what="the change"
        )
        assert changes.put[0].entry.suspended
        operator.remove(["u"])
        wait_for(lambda: beat.changes(changes.revision, {"u"}).removed, what="the removal")
    assert sent(rabbitmq) == []


def test_a_log_that_was_lost_tells_everything_again(rabbitmq):
    """Who deletes the stream ends the term; entries are told as removed, and those written again as new."""
    with opened(rabbitmq.url) as store:
        store.put([entry("a"), entry("b")])
        term = led(store)
        seen = store.changes(0, ())
        rabbitmq.server.api("DELETE", f"queues/{rabbitmq.name}/{log_of('shop')}")
        wait_for(lambda: not store.renew(term, LEASE), what="the end of the term")
        lost = store.changes(seen.revision, {"a", "b"})
        assert sorted(lost.removed) == ["a", "b"]
        step = tick_of(seen)
        assert list(store.advance(term, [step])) == [NotLeader()]
        store.put([entry("a")])
        assert led(store).number > term.number
        again = store.changes(lost.revision, ())
        assert [change.entry.uid for change in again.put] == ["a"]
        assert again.revision > seen.revision


def tick_of(changes):
    change = changes.put[0]
    return Advance(uid=change.entry.uid, revision=change.revision, after=None, record=record(1))


def test_an_entry_that_cannot_be_read_is_told_and_the_others_go_on(rabbitmq):
    """What a later version wrote amiss is named, stays visible, and can be overwritten."""
    with opened(rabbitmq.url) as store:
        store.put([entry("a"), entry("b")])
        for payload in ('{"put":{"a":{"uid":"a"}}}', "no record at all"):
            rabbitmq.server.api(
                "POST",
                f"exchanges/{rabbitmq.name}/amq.default/publish",
                routing_key=log_of("shop"),
                payload=payload,
                payload_encoding="string",
                properties={},
            )
        changes = store.changes(0, ())
        assert [change.entry.uid for change in changes.put] == ["b"]
        assert "name" in changes.malformed["a"]
        assert store.entries() == {"a": None, "b": entry("b")}
        store.put([entry("a")])
        assert store.entries()["a"] == entry("a")


def test_a_long_log_is_said_again_and_read_from_there(rabbitmq, monkeypatch):
    """Who comes later reads little, and the same; what was removed stays so."""
    monkeypatch.setattr(amqp, "SMALLEST_REPEAT", 20_000)
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as store:
        store.put([entry("u"), entry("gone"), entry("idle")])
        term = led(store)
        store.remove(["gone"])
        for minutes in range(1, 61):
            outcomes = store.advance(term, [tick(store, minutes, after=minutes - 1)])
            assert list(outcomes) == [Done()]
        entries = store.entries()
        with opened(rabbitmq.url) as late:
            assert late.entries() == entries == {"u": entry("u"), "idle": entry("idle")}
            assert late.runs(["u", "gone", "idle"]) == {"u": record(60)}
            assert late.leader().holder == "one"
            assert late._heard < 120 < late._book.next
    assert sent(rabbitmq) == [f"u-{minutes}" for minutes in range(1, 61)]


def test_all_that_beat_has_in_a_virtual_host_begins_with_muster(rabbitmq):
    """And the copy for the log does not show in the task's message."""
    rabbitmq.declare("mail")
    with opened(rabbitmq.url) as store:
        store.put([entry()])
        store.advance(led(store), [tick(store)])
        names = {queue["name"] for queue in rabbitmq.server.api("GET", f"queues/{rabbitmq.name}")}
        assert names == {"mail", "muster.beat.shop", "muster.beat_witness.shop", "muster.schedules.shop"}
    [found] = rabbitmq.messages("mail")
    assert found["properties"]["headers"] == {"task": "shop.send", "id": "u-1", "retries": 0}
