"""A worker whose broker or result store is away, on a virtual clock."""

import pytest

from fleet import Results, everything, nothing
from muster.core.effects import Publication
from muster.errors import BrokerRefused, BrokerUnavailable
from muster.transports.base import Seen, Turn
from muster.worker.loop import MAX_UNSETTLED


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
