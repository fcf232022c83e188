"""What beat's place on every broker must hold: on memory, SQLite, a real Redis and a real RabbitMQ."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from brokers import OnMemory, OnRedis, OnSQLite, message
from muster.core.effects import Publication
from muster.transports.connect import connect_schedules
from muster.transports.schedules.base import Advance, Changed, Done, Leader, NotLeader, Superseded, Term
from muster.wire.keys import RedisKeys
from muster.wire.schedule import RunRecord, ScheduleEntry
from schedules_on_rabbitmq import SchedulesOnRabbitMQ

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEASE = 60.0
SHORT = 0.2


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=pytest.mark.servers),
        pytest.param("rabbitmq", marks=pytest.mark.servers),
    ]
)
def broker(request, tmp_path):
    match request.param:
        case "memory":
            made = OnMemory()
        case "sqlite":
            made = OnSQLite(tmp_path / "broker.db")
        case "redis":
            made = OnRedis(request.getfixturevalue("redis_server").url)
        case "rabbitmq":
            made = SchedulesOnRabbitMQ(request.getfixturevalue("rabbitmq"))
    yield made
    made.close()


@pytest.fixture
def store(broker):
    return broker.schedules()


def entry(uid="u", **fields):
    fields = {"every_seconds": 60, "created_at": NOON, "since": NOON, "queue": "mail", **fields}
    return ScheduleEntry(uid=uid, name=f"shop/{uid}", task="shop.tick", **fields)


def record(minutes, uid="u"):
    at = NOON + minutes * MINUTE
    return RunRecord(settled_at=at, last_at=at, last_id=f"{uid}-{minutes}", next_at=at + MINUTE)


def revision_of(store, uid="u"):
    return {change.entry.uid: change.revision for change in store.changes(0, ()).put}[uid]


def tick(store, minutes=1, *, uid="u", after=None, **fields):
    """A step that sends the task of `minutes` past noon."""
    values = {
        "uid": uid,
        "revision": revision_of(store, uid),
        "after": after and NOON + after * MINUTE,
        "record": record(minutes, uid),
        "publication": Publication("mail", message(f"{uid}-{minutes}")),
        **fields,
    }
    return Advance(**values)


def led(store, holder="one"):
    term = store.acquire(holder, LEASE)
    assert isinstance(term, Term)
    return term


def sent(broker):
    """The ids in the queue, oldest first; takes them out."""
    return broker.take("mail")


# -- the election


def test_one_of_two_leads(broker):
    """The first gets a term; the other is told who leads, and for how long at most."""
    one, two = broker.schedules(), broker.schedules()
    term = led(one)
    assert term.holder == "one"
    found = two.acquire("two", LEASE)
    assert isinstance(found, Leader)
    assert found.holder == "one"
    assert 0 < found.seconds <= LEASE
    assert two.leader().holder == "one"


def test_nobody_leads_at_first(store):
    """A scope that no beat has served has no leader."""
    assert store.leader() is None


def test_a_lease_ends_by_the_brokers_judgement(broker):
    """Who is not heard of is followed by the next, with a higher term; the old one is told at renewal."""
    one, two = broker.schedules(), broker.schedules()
    first = one.acquire("one", SHORT)
    broker.lapse(one, SHORT)
    assert one.leader() is None
    second = two.acquire("two", LEASE)
    assert second.number > first.number
    assert not one.renew(first, LEASE)
    assert two.renew(second, LEASE)
    assert two.leader().holder == "two"


def test_a_renewed_lease_begins_anew(broker):
    """Renewing keeps the term and the others out."""
    one, two = broker.schedules(), broker.schedules()
    term = one.acquire("one", SHORT)
    assert one.renew(term, LEASE)
    broker.elapse(SHORT)
    assert isinstance(two.acquire("two", LEASE), Leader)


def test_a_lease_that_ran_out_unnoticed_is_renewed(broker):
    """Nobody has taken over, so nothing stands in the way of going on with the same term."""
    one = broker.schedules()
    term = one.acquire("one", SHORT)
    broker.elapse(SHORT)
    assert one.renew(term, LEASE)
    assert one.leader().holder == "one"


def test_a_released_term_is_followed_at_once(broker):
    """Nobody waits for the lease of a beat that has left in good order."""
    one, two = broker.schedules(), broker.schedules()
    first = led(one)
    one.release(first)
    assert two.leader() is None
    second = led(two, "two")
    assert second.number > first.number
    one.release(first)
    assert two.leader().holder == "two"


def test_the_same_holder_begins_a_new_term(broker):
    """A beat that was started again under its name leads at once, and its earlier life no longer does."""
    one, again = broker.schedules(), broker.schedules()
    first = led(one)
    broker.end(one)
    second = led(again)
    assert second.number > first.number
    assert not one.renew(first, LEASE)


def test_scopes_have_elections_of_their_own(broker):
    """Two namespaces on one broker do not meet."""
    shop, bank = broker.schedules("shop"), broker.schedules("bank")
    led(shop)
    led(bank, "two")
    shop.put([entry()])
    assert bank.entries() == {}
    assert not bank.changes(0, ()).put
    assert shop.leader().holder == "one"


def test_of_many_that_ask_at_once_one_leads(broker):
    """Elections race, and have one winner."""
    number = 8
    stores = [broker.schedules() for _ in range(number)]
    with ThreadPoolExecutor(number) as pool:
        found = list(pool.map(lambda n: stores[n].acquire(str(n), LEASE), range(number)))
    winners = [one for one in found if isinstance(one, Term)]
    assert len(winners) == 1
    assert {one.holder for one in found} == {winners[0].holder}


# -- entries


def test_entries_come_back_as_they_were_put(store):
    """Entries are there by uid, to the last field."""
    full = entry(
        "v",
        args=(1, "zwei", None, {"a": [1.5]}),
        kwargs={"Grüße": "日本"},
        options={"priority": 5, "expires": 600.0},
        suspended=True,
        starting_deadline_seconds=300.0,
    )
    store.put([entry(), full])
    assert store.entries() == {"u": entry(), "v": full}


def test_changes_are_told_once(store):
    """Who asks with the revision of the last answer hears of what came after it and nothing else."""
    store.put([entry("a"), entry("b")])
    first = store.changes(0, ())
    assert {change.entry.uid for change in first.put} == {"a", "b"}
    nothing = store.changes(first.revision, {"a", "b"})
    assert (nothing.revision, list(nothing.put), list(nothing.removed)) == (first.revision, [], [])

    changed = replace(entry("b"), suspended=True)
    store.put([entry("a"), changed, entry("c")])
    second = store.changes(first.revision, {"a", "b"})
    assert second.revision > first.revision
    assert {change.entry.uid: change.entry for change in second.put} == {"b": changed, "c": entry("c")}
    assert not second.removed


def test_an_equal_entry_changes_nothing(store):
    """Writing what stands there already is no change."""
    store.put([entry()])
    before = store.changes(0, ()).revision
    store.put([entry()])
    store.put([])
    store.remove(["never was"])
    store.remove([])
    assert store.changes(0, ()).revision == before


def test_a_removal_is_told(store):
    """What left is named, also when as many came as went."""
    store.put([entry("a"), entry("b")])
    revision = store.changes(0, ()).revision
    store.remove(["a"])
    store.put([entry("c")])
    changes = store.changes(revision, {"a", "b"})
    assert list(changes.removed) == ["a"]
    assert [change.entry.uid for change in changes.put] == ["c"]


def test_a_schedule_that_was_removed_and_made_again_is_told_as_changed(store):
    """It has no run behind it then."""
    term = led(store)
    store.put([entry()])
    store.advance(term, [tick(store)])
    changes = store.changes(0, ())
    store.remove(["u"])
    store.put([entry()])
    again = store.changes(changes.revision, {"u"})
    assert [change.entry.uid for change in again.put] == ["u"]
    assert store.runs(["u"]) == {}


def test_ten_thousand_fit(store):
    """Ten thousand are written, read and changed; of a change only the changed ones are told."""
    many = [entry(str(n), kwargs={"n": n}) for n in range(10_000)]
    store.put(many)
    changes = store.changes(0, ())
    assert {change.entry.uid: change.entry for change in changes.put} == {one.uid: one for one in many}
    known = {one.uid for one in many}
    store.put([replace(many[77], suspended=True)])
    store.remove(["78", "79"])
    second = store.changes(changes.revision, known)
    assert [change.entry.uid for change in second.put] == ["77"]
    assert sorted(second.removed) == ["78", "79"]
    assert len(store.entries()) == 9_998


# -- ticks


def test_a_tick_sends_and_records(broker, store):
    """The message is in its queue, the record is written."""
    store.put([entry()])
    assert list(store.advance(led(store), [tick(store)])) == [Done()]
    assert store.runs(["u", "v"]) == {"u": record(1)}
    assert sent(broker) == ["u-1"]


def test_a_second_tick_of_one_due_time_sends_nothing(broker, store):
    """Whoever asks, and however often: the record that stands there comes back instead."""
    store.put([entry()])
    term, step = led(store), tick(store)
    store.advance(term, [step])
    assert list(store.advance(term, [step])) == [Superseded(record(1))]
    assert list(store.advance(term, [step, step])) == [Superseded(record(1))] * 2
    assert sent(broker) == ["u-1"]


def test_a_step_from_a_mark_that_is_ahead_of_the_broker_sends_nothing(broker, store):
    """A broker that has lost its last writes says where it stands, and nothing is left out."""
    store.put([entry()])
    assert list(store.advance(led(store), [tick(store, 2, after=1)])) == [Superseded(RunRecord())]
    assert sent(broker) == []


def test_ticks_follow_each_other(broker, store):
    """Several due times of one schedule go in one call, in their order."""
    store.put([entry()])
    steps = [tick(store, 1), tick(store, 2, after=1), tick(store, 3, after=2)]
    assert list(store.advance(led(store), steps)) == [Done()] * 3
    assert sent(broker) == ["u-1", "u-2", "u-3"]
    assert store.runs(["u"]) == {"u": record(3)}


def test_after_a_refusal_the_others_go_on(broker, store):
    """One schedule's refusal is its own affair."""
    store.put([entry("a"), entry("b")])
    term = led(store)
    store.advance(term, [tick(store, 1, uid="a")])
    steps = [tick(store, 1, uid="a"), tick(store, 1, uid="b")]
    assert list(store.advance(term, steps)) == [Superseded(record(1, "a")), Done()]
    assert sent(broker) == ["a-1", "b-1"]


def test_due_times_are_settled_without_a_message(broker, store):
    """Missed due times move the mark and send nothing."""
    store.put([entry()])
    missed = RunRecord(settled_at=NOON + 3 * MINUTE, missed=3)
    step = tick(store, record=missed, publication=None)
    assert list(store.advance(led(store), [step])) == [Done()]
    assert store.runs(["u"]) == {"u": missed}
    assert sent(broker) == []


def test_a_record_is_noted_without_moving_the_mark(broker, store):
    """The next due time of a schedule is there for people before its first run, and does not settle it."""
    store.put([entry()])
    term = led(store)
    noted = RunRecord(next_at=NOON + MINUTE, next_id="u-1")
    note = tick(store, record=noted, publication=None)
    assert list(store.advance(term, [note])) == [Done()]
    assert store.runs(["u"]) == {"u": noted}
    assert list(store.advance(term, [tick(store)])) == [Done()]
    assert list(store.advance(term, [note])) == [Superseded(record(1))]
    assert sent(broker) == ["u-1"]


def test_a_changed_entry_is_not_ticked_before_it_is_read(broker, store):
    """From the moment that a change is written nothing is sent by what stood there before."""
    store.put([entry()])
    term, step = led(store), tick(store)
    store.put([replace(entry(), suspended=True)])
    assert list(store.advance(term, [step])) == [Changed()]
    assert sent(broker) == []
    assert list(store.advance(term, [replace(step, revision=revision_of(store))])) == [Done()]


def test_a_removed_entry_is_ticked_no_more(broker, store):
    """A removal holds at once and leaves no record behind."""
    store.put([entry()])
    term, step = led(store), tick(store)
    store.remove(["u"])
    assert list(store.advance(term, [step])) == [Changed()]
    assert store.runs(["u"]) == {}
    assert sent(broker) == []


def test_only_the_leader_ticks(broker):
    """A beat whose term is over sends nothing, however sure it is of itself."""
    one, two = broker.schedules(), broker.schedules()
    one.put([entry()])
    old = one.acquire("one", SHORT)
    broker.lapse(one, SHORT)
    new = led(two, "two")
    assert list(one.advance(old, [tick(one)])) == [NotLeader()]
    assert list(two.advance(new, [tick(two)])) == [Done()]
    two.release(new)
    assert list(two.advance(new, [tick(two, 2, after=1)])) == [NotLeader()]
    assert sent(broker) == ["u-1"]


def test_an_expired_lease_that_nobody_took_still_ticks(broker):
    """The term is the fence, not the time."""
    one = broker.schedules()
    one.put([entry()])
    term = one.acquire("one", SHORT)
    broker.elapse(SHORT)
    assert list(one.advance(term, [tick(one)])) == [Done()]
    assert sent(broker) == ["u-1"]


def test_priorities_and_etas_are_those_of_every_message(broker, store):
    """A tick goes where a client's message would: more urgent first, and one with an ETA waits for it."""
    broker.serve("mail")  # on Redis an ETA waits where a worker of ours has been
    store.put([entry()])
    later = broker.now() + 1000
    steps = [
        tick(store, 1, publication=Publication("mail", message("low"), broker.patient)),
        tick(store, 2, after=1, publication=Publication("mail", message("high"), broker.urgent)),
        tick(store, 3, after=2, publication=Publication("mail", message("later"), broker.urgent, later)),
    ]
    assert list(store.advance(led(store), steps)) == [Done()] * 3
    assert broker.depth().waiting == 1
    assert sent(broker) == ["high", "low"]


# -- any order of calls


class Overlap(RuleBasedStateMachine):
    """Two beats that lose and win the election at any moment, and steps that come late or twice."""

    def __init__(self):
        super().__init__()
        self.broker = OnMemory()
        self.store = self.broker.schedules()
        self.store.put([entry()])
        self.terms = {}
        self.mark = 0
        self.messages = []

    @rule(holder=st.sampled_from("ab"))
    def acquires(self, holder):
        found = self.store.acquire(holder, 9)
        if isinstance(found, Term):
            assert all(found.number > other.number for other in self.terms.values())
            self.terms[holder] = found

    @rule(seconds=st.sampled_from([1, 8, 10]))
    def time_passes(self, seconds):
        self.broker.elapse(seconds)

    @precondition(lambda self: self.terms)
    @rule(data=st.data(), after=st.integers(0, 6), ahead=st.integers(1, 2))
    def a_beat_ticks(self, data, after, ahead):
        term = self.terms[data.draw(st.sampled_from(sorted(self.terms)))]
        newest = max(self.terms.values(), key=lambda one: one.number)
        step = tick(self.store, after + ahead, after=after or None)
        [outcome] = self.store.advance(term, [step])
        if term != newest:
            assert outcome == NotLeader()
        elif after != self.mark:
            assert isinstance(outcome, Superseded)
        else:
            assert outcome == Done()
            self.mark = after + ahead
            self.messages.append(self.mark)

    @invariant()
    def each_due_time_is_sent_once(self):
        assert len(list(self.broker.places())) == len(self.messages)
        assert self.messages == sorted(set(self.messages))


TestOverlap = Overlap.TestCase


# -- Redis alone


def test_an_entry_that_cannot_be_read_is_told_and_the_others_go_on(redis_server):
    """What a later version or a person wrote amiss is named, stays visible, and can be overwritten."""
    on_redis = OnRedis(redis_server.url)
    store = on_redis.schedules()
    store.put([entry("a"), entry("b")])
    on_redis.client.hset(RedisKeys().schedules("shop"), "a", b'{"uid":"a"}')
    changes = store.changes(0, ())
    assert [change.entry.uid for change in changes.put] == ["b"]
    assert "name" in changes.malformed["a"]
    assert store.entries() == {"a": None, "b": entry("b")}
    store.put([entry("a")])
    assert store.entries()["a"] == entry("a")
    on_redis.close()


def test_a_server_that_lost_its_memory_tells_everything_again(redis_server):
    """After its data is gone, entries are reported as removed, and those written again as new."""
    on_redis = OnRedis(redis_server.url)
    store = on_redis.schedules()
    store.put([entry("a"), entry("b")])
    term = led(store)
    seen = store.changes(0, ())
    on_redis.client.flushall()
    lost = store.changes(seen.revision, {"a", "b"})
    assert sorted(lost.removed) == ["a", "b"]
    assert not store.renew(term, LEASE)
    assert list(store.advance(term, [tick_of(seen)])) == [NotLeader()]
    store.put([entry("a")])
    assert led(store).number > term.number
    again = store.changes(lost.revision, ())
    assert [change.entry.uid for change in again.put] == ["a"]
    assert again.revision > seen.revision
    on_redis.close()


def tick_of(changes):
    change = changes.put[0]
    uid = change.entry.uid
    return Advance(
        uid=uid,
        revision=change.revision,
        after=None,
        record=record(1, uid),
        publication=Publication("mail", message(f"{uid}-1")),
    )


def test_a_clock_that_was_set_back_locks_nobody_out(redis_server):
    """A lease with more time left than any lease has is that of another clock, and is not waited for."""
    on_redis = OnRedis(redis_server.url)
    store = on_redis.schedules()
    first = led(store)
    on_redis.client.hset(RedisKeys().beat("shop"), "until", on_redis.now() + 3600)
    assert led(store, "two").number > first.number
    on_redis.close()


def test_a_prefix_stands_before_every_key(redis_server):
    """`global_keyprefix` leads to keys behind the prefix, the queue's too."""
    store = connect_schedules(redis_server.url, scope="shop", options={"global_keyprefix": "eu_"})
    store.put([entry()])
    store.advance(led(store), [tick(store)])
    with redis_server.client() as client:
        assert sorted(client.keys()) == [
            b"eu_mail",
            b"eu_muster.beat.shop",
            b"eu_muster.schedule_revisions.shop",
            b"eu_muster.schedule_runs.shop",
            b"eu_muster.schedules.shop",
        ]
    store.close()
