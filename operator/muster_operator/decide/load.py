"""From the readings of a pool's queues to the number of slots that the pool needs.

`plan` calls it on every pass and hands the result to `scaling`. It knows no pod count, no bounds and no
history. One queue that cannot be read makes the whole load Unknown: what is known of the others could only
make a pool shrink that must not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from muster_operator.model.readings import Known, Reading, Unknown, earliest, fresh
from muster_operator.model.world import PodView, QueueView, WorkerView

QUEUE_MAX_AGE = timedelta(seconds=15)
"""An older reading of a queue is Unknown; queues are read every 1 to 2 s."""
REPORT_MAX_AGE = timedelta(seconds=15)
"""An older report of a worker is Unknown; workers report on change and every 5 s."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the queues of a pool ask for, and the figures that it follows from."""

    slots: int
    """How many slots would be busy if the pool had enough of them."""
    ready: int
    claimed: int
    running: int
    expired: int
    """Of claimed and running: those that nobody works on."""
    due: int
    busy: int
    """Slots that the pool's own workers say are busy: with early acks the broker knows nothing of these."""
    runtime_seconds: float | None = None
    """What a task was taken to last, where a target latency made that matter."""


def needed_slots(
    queues: Sequence[QueueView],
    pods: Iterable[PodView],
    *,
    runtime_seconds: float | None,
    latency: timedelta | None,
    now: datetime,
) -> Reading[Load]:
    """Return the load, or Unknown with the reason of the queue that has been unreadable for longest.

    A running task takes one slot. So does a message that waits (ready, claimed and not started, lost by its
    worker, or due within the time a pod needs to start), unless both the runtime and a target latency are
    known: then `waiting · runtime / latency` slots start the last of them in time, and never more than one
    slot each.
    """
    seen = [(queue, fresh(queue.reading, now, QUEUE_MAX_AGE)) for queue in queues]
    first = earliest(
        Unknown(reason=reading.reason, at=reading.at, message=f"TaskQueue {queue.name}: {reading.message}")
        for queue, reading in seen
        if isinstance(reading, Unknown)
    )
    if first is not None:
        return first
    readings = [reading for _, reading in seen if isinstance(reading, Known)]
    if not readings:
        return Unknown(reason="NotObservedYet", at=now, message="no queue has been read yet")
    values = [reading.value for reading in readings]
    busy = sum(worker.busy for worker in fresh_reports(pods, now))
    ready, claimed, running, expired, due = (
        sum(figures)
        for figures in zip(
            *((each.ready, each.claimed, each.running, each.expired, each.due) for each in values),
            strict=True,
        )
    )
    started = max(running, busy)
    waiting = ready + due + max(0, claimed + running - started)
    timed = latency is not None and runtime_seconds is not None
    return Known(
        value=Load(
            slots=started + _slots_for(waiting, runtime_seconds, latency),
            ready=ready,
            claimed=claimed,
            running=running,
            expired=expired,
            due=due,
            busy=busy,
            runtime_seconds=runtime_seconds if timed else None,
        ),
        at=min(reading.at for reading in readings),
    )


def fresh_reports(pods: Iterable[PodView], now: datetime) -> list[WorkerView]:
    """Return what the workers said that were heard of lately."""
    reports = (fresh(pod.report, now, REPORT_MAX_AGE) for pod in pods)
    return [report.value for report in reports if isinstance(report, Known)]


def _slots_for(waiting: int, runtime_seconds: float | None, latency: timedelta | None) -> int:
    if runtime_seconds is None or latency is None:
        return waiting
    in_time = waiting * runtime_seconds / latency.total_seconds()
    return waiting if in_time >= waiting else _ceil(in_time)


def _ceil(amount: float) -> int:
    whole = int(amount)
    return whole if whole == amount else whole + 1
