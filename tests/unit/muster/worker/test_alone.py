"""Tasks that must be alone in their process, on a virtual clock."""

from fleet import Fleet, SlotPool, acks_early, task_message
from muster.core.effects import Publication
from muster.wire.losses import with_loss
from muster.wire.message import peek


class OneProcess(Fleet):
    """One worker, whose three slots are threads of one process."""

    class OneProcessPool(SlotPool):
        slots = 3
        isolates = False

        def __init__(self, clock):
            super().__init__(clock)
            self.takes = {"plain": 0.2}
            self.ids = {}

        def submit(self, jobs):
            super().submit(jobs)
            self.ids |= {job.number: peek(job.raw).id for job in jobs}

    make_pool = OneProcessPool


def test_what_must_be_alone_in_its_process_runs_when_nothing_else_does(fleet):
    """One after another; meanwhile the broker has nothing else down as running, so it alone can be blamed."""
    world = fleet("one", kind=OneProcess, plain={})
    [pool] = world.pools.values()
    world.publish("plain", 2)
    lost = [with_loss(task_message("plain", f"lost-{number}"), "WorkerLost") for number in range(2)]
    world.broker.publisher().publish([Publication("mail", raw) for raw in lost])
    world.publish("plain", 2, start=2)
    observer, most = world.broker.observer(), 0
    for _ in range(400):
        world.run(0.005)
        running = [pool.ids[number] for number in pool.active]
        if any(each.startswith("lost") for each in running):
            assert len(running) == 1
            assert observer.depths(["mail"], horizon_seconds=0)["mail"].running == 1
        most = max(most, len(running))
    assert most > 1
    assert len(pool.started) == 6


def test_what_must_be_alone_is_so_when_its_early_ack_is_answered_late(fleet):
    """Nothing else begins while the broker has not said whether it may."""
    world = fleet("one", kind=OneProcess, plain={}, early={"acks_late": False})
    [pool], [line] = world.pools.values(), world.lines.values()
    pool.takes["early"] = 0.2
    losses = iter([True, True, True])
    line.unanswered = lambda asked: acks_early(asked) and next(losses, False)
    lost = with_loss(task_message("early", "lost"), "WorkerLost")
    world.broker.publisher().publish([Publication("mail", lost)])
    world.publish("plain", 4)
    for _ in range(800):
        world.run(0.005)
        running = [pool.ids[number] for number in pool.active]
        assert "lost" not in running or len(running) == 1
    assert len(pool.started) == 5
