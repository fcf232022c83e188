"""How often tasks with a rate start, on a virtual clock: of one worker, and of all."""

import pytest

from muster.core.rate import read_rate
from muster.pools.base import Returned
from muster.transports.base import Turn
from muster.wire.message import peek

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
