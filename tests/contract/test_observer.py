"""What an observer reads of a queue: one suite, run on memory, SQLite and a real Redis.

Where messages are pushed, claimed and running are what workers report: see `test_amqp_transport`.
"""

from datetime import UTC, datetime

import pytest

from brokers import claim, message, settle
from muster.settings.environment import DeadLetter
from muster.transports.base import Tick, Verdict

LONG = 60.0
"""A lease, in seconds, that never ends within a test."""


def test_depths_count_each_state(broker):
    """Each number of a depth counts what its name says, queue by queue."""
    transport = broker.transport("mail", "other")
    transport.tick(Tick())
    now = broker.now()
    broker.publish(*(message(str(n)) for n in range(7)))
    claimed = claim(transport, 4, run=1)
    settle(transport, claimed[3], Verdict.DEAD, reason="MalformedMessage", text="…")
    broker.publish(message("low"), priority=6)
    broker.publish(message("soon"), eta=now + 40)
    broker.publish(message("later"), message("latest"), eta=now + 4000)
    depths = broker.observer().depths(["mail", "other"], horizon_seconds=60)
    mail = depths["mail"]
    assert (mail.ready, mail.claimed, mail.running, mail.expired) == (4, 2, 1, 0)
    assert (mail.due, mail.waiting, mail.dead) == (1, 3, 1)
    other = depths["other"]
    assert (other.ready, other.claimed, other.running, other.waiting, other.dead) == (0, 0, 0, 0, 0)


def test_a_queue_that_nobody_has_used_is_empty(any_broker):
    """Reading makes nothing, and asks for nothing to be made before."""
    depth = any_broker.observer().depths(["never"], horizon_seconds=60)["never"]
    assert (depth.ready, depth.waiting, depth.dead, depth.oldest) == (0, 0, 0, None)
    assert any_broker.observer().depths([], horizon_seconds=60) == {}


def test_the_oldest_message_tells_how_long_it_waits(broker):
    """Of those that come next, in whichever priority; when it has been taken the one behind it counts."""
    now, transport = int(broker.now()), broker.transport()

    def waits():
        oldest = broker.depth().oldest
        return oldest and (oldest.source, pytest.approx(oldest.seconds, abs=5))

    assert waits() is None
    broker.publish(message("1", published_at=now - 30), message("2", published_at=now - 20))
    assert waits() == ("Measured", 30)
    [delivery] = claim(transport, 1)
    assert waits() == ("Measured", 20)
    broker.publish(message("3", published_at=now - 100), priority=9)
    assert waits() == ("Measured", 100)
    assert len(claim(transport)) == 2
    assert waits() is None
    assert settle(transport, delivery, Verdict.RETURN)
    assert waits() == ("Measured", 30)


def test_an_age_counts_from_the_eta(broker):
    """What was sent for later has not waited before its time came."""
    now = broker.now()
    eta = datetime.fromtimestamp(now - 40, UTC).isoformat()
    broker.publish(message(published_at=int(now) - 500, eta=eta))
    assert broker.depth().oldest.seconds == pytest.approx(40, abs=5)


def test_the_place_of_dead_letters_may_change(broker):
    """An observer counts in the place that it is told of before the call."""
    broker.publish(message())
    transport = broker.transport(dead_letters={"mail": DeadLetter(name="graveyard")})
    settle(transport, *claim(transport), Verdict.DEAD, reason="MalformedMessage", text="…")
    observer = broker.observer()
    for places, dead in (({}, 0), ({"mail": "graveyard"}, 1), ({"mail": "elsewhere"}, 0)):
        observer.dead_letters = places
        assert observer.depths(["mail"], horizon_seconds=0)["mail"].dead == dead


@pytest.mark.parametrize("priority", [0, 3, 6, 9])
def test_a_tick_tells_whether_a_message_waits(broker, priority):
    """Of any priority, in any of the worker's queues; what is in hand or waits for its time does not."""
    transport = broker.transport("mail", "default")
    assert not transport.tick(Tick()).ready
    broker.publish(message(), queue="default", priority=priority)
    assert transport.tick(Tick()).ready
    [delivery] = claim(transport)
    assert not transport.tick(Tick(renew=[(delivery.queue, delivery.tag)])).ready
    settle(transport, delivery, Verdict.DEFER, eta=broker.now() + LONG)
    assert not transport.tick(Tick()).ready
