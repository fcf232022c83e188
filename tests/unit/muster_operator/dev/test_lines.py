"""Facts about the plain lines: they tell what is new, once, and figures not too often."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from muster_operator.api.workerpool import LastDecision
from muster_operator.dev.lines import FIGURES_EVERY, Told, news
from muster_operator.dev.picture import Picture, PoolRow, QueueRow, ScheduleRow

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
POOL = PoolRow(name="mail")
QUEUE = QueueRow(name="mail", ready=0, running=0, waiting=0, dead=0)
PICTURE = Picture(now=NOW, since=NOW, title="a", broker="b", queues=(QUEUE,), pools=(POOL,))


def after(told, seconds=0.0, *, pool=POOL, queue=QUEUE, schedules=(), draining=False, ended=False):
    """Return the lines for the next picture, and what has been told then."""
    picture = replace(
        PICTURE,
        now=NOW + timedelta(seconds=seconds),
        pools=(pool,),
        queues=(queue,),
        schedules=schedules,
        draining=draining,
        ended=ended,
    )
    return news(told, picture)


def test_nothing_new_says_nothing():
    """However often it is looked."""
    lines, told = after(Told())
    assert lines == ["pool mail: 0 of 0 workers ready", "queue mail: 0 ready, 0 running, 0 waiting, 0 dead"]
    for seconds in (0.1, 5, 50):
        lines, told = after(told, seconds)
        assert lines == []


def test_a_size_is_told_at_once_with_its_reason():
    """Also between two turns of the figures."""
    _, told = after(Told())
    decision = LastDecision(
        from_=0, to=3, reason="LoadRose", inputs={"neededSlots": 5, "slotsPerWorker": 2}, time=NOW
    )
    grown = replace(POOL, desired=3, decision=decision)
    lines, told = after(told, 0.2, pool=grown)
    assert lines == [
        "pool mail: 0 → 3 workers, load rose: 5 slots needed, 2 a worker",
        "pool mail: 0 of 3 workers ready",
    ]
    lines, told = after(told, 0.4, pool=replace(grown, ready=3, leaving=1))
    assert lines == ["pool mail: 3 of 3 workers ready, 1 leaving"]
    assert after(told, 0.6, pool=replace(grown, ready=3, leaving=1))[0] == []


def test_figures_wait_for_their_turn():
    """A queue that changes all the time is told once in a while, with the latest figures."""
    _, told = after(Told())
    lines, told = after(told, 0.5, queue=replace(QUEUE, ready=7), pool=replace(POOL, done=2))
    assert lines == []
    seconds = FIGURES_EVERY.total_seconds()
    lines, told = after(
        told,
        seconds,
        queue=replace(QUEUE, ready=1500, oldest_seconds=3.0),
        pool=replace(POOL, done=12, per_second=6.0, busy=1, slots=2),
    )
    assert lines == [
        "pool mail: 12 tasks done, 6 a second, 1/2 slots busy",
        "queue mail: 1,500 ready, the oldest for 3 s, 0 running, 0 waiting, 0 dead",
    ]
    aged = replace(QUEUE, ready=1500, oldest_seconds=5.0)
    assert after(told, 2 * seconds, queue=aged, pool=replace(POOL, done=12))[0] == []


def test_the_end_is_told_once():
    """As soon as it begins."""
    _, told = after(Told())
    lines, told = after(told, 0.1, draining=True)
    assert lines == ["draining: running tasks finish, then the workers leave"]
    assert after(told, 0.2, draining=True)[0] == []


def test_the_last_figures_wait_for_no_turn():
    """What is told last is how things are."""
    _, told = after(Told(), draining=True)
    lines, _ = after(told, 0.1, queue=replace(QUEUE, dead=1), draining=True, ended=True)
    assert lines == ["queue mail: 0 ready, 0 running, 0 waiting, 1 dead"]


def test_runs_of_a_schedule_and_what_is_wrong():
    """Each run once; a problem when it comes up."""
    row = ScheduleRow(name="report", timing="every 2s")
    _, told = after(Told(), schedules=(row,))
    lines, told = after(told, 3, schedules=(replace(row, last_at=NOW),))
    assert len(lines) == 1
    assert lines[0].startswith("schedule report (every 2s): ran for ")
    lines, told = after(told, 6, schedules=(replace(row, last_at=NOW, problem="no beat"),))
    assert lines == ["schedule report: no beat"]


def test_a_queue_that_cannot_be_read_says_why():
    """Instead of figures."""
    lines, _ = after(Told(), queue=QueueRow(name="mail", problem="nothing answers"))
    assert "queue mail: nothing answers" in lines
