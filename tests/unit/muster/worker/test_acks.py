"""Early acks and ends that the broker does not answer, or too late, on a virtual clock."""

from fleet import acks_early, everything, nothing
from muster.transports.base import Tick, Turn


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
