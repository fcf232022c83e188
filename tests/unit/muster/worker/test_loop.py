"""The worker's loop on a virtual clock: what it claims, starts, gives back and reports."""

import msgspec
import pytest

from brokers import Clock
from fleet import (
    Fleet,
    Pool,
    TwoSlots,
    task_message,
)
from muster.core.effects import Publication
from muster.pools.base import Outcome, Publish, Started
from muster.results.memory import MemoryResults
from muster.transports.base import Tick, Turn
from muster.wire.losses import with_loss
from muster.wire.report import decode as decode_report


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
