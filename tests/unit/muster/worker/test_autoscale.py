"""When a pool with bounds grows and shrinks, on a virtual clock."""

import pytest

from fleet import (
    Fleet,
    SlotPool,
)
from muster.core.autoscale import Bounds
from muster.core.rate import read_rate
from muster.wire.report import decode as decode_report


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
