"""What a worker reports of itself: when it is due, and of what it is made.

The loop calls it at each tick. It reads the loop's own counts and sends nothing.
"""

import os
from collections.abc import Container, Mapping, Sequence

from muster.pools.base import Running
from muster.wire.report import TaskStatistics, WorkerReport
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally


def is_news(last: WorkerReport | None, *, busy: int, draining: bool, drained: bool, leaving: bool) -> bool:
    """Return whether a report must not wait for its turn."""
    said = None if last is None else (last.busy, last.draining, last.drained, last.leaving)
    return said != (busy, draining, drained, leaving)


def make_report(
    settings: LoopSettings,
    tally: Tally,
    running: Sequence[Running],
    *,
    slots: int,
    held: Mapping[int, str],
    draining: bool,
    drained: bool,
    leaving: bool,
) -> WorkerReport:
    """Return the report of a worker that holds messages, by number with their queue, those that run too."""
    tasks: dict[str, TaskStatistics] = {}
    for (_, task), counts in tally.tasks.items():
        before = tasks.get(task, TaskStatistics())
        tasks[task] = TaskStatistics(
            succeeded=before.succeeded + counts.succeeded,
            failed=before.failed + counts.failed,
            retried=before.retried + counts.retried,
            runtime_seconds=before.runtime_seconds + counts.runtime,
        )
    return WorkerReport(
        worker=settings.worker,
        pool=settings.pool_name,
        hostname=settings.hostname,
        pid=os.getpid(),
        pool_type=settings.pool_type,
        queues=list(settings.queues),
        slots=slots,
        busy=len(running),
        claimed=max(0, len(held) - len(running)),
        oldest_start_age_seconds=max((r.age_seconds for r in running), default=None),
        draining=draining,
        drained=drained,
        leaving=leaving,
        ready=not draining,
        tasks=tasks,
        hands=_by_queue(held, {run.number for run in running}),
        taken=dict(tally.taken),
        extra_runs=[
            (queue, task, cause, count)
            for (queue, task), counts in tally.tasks.items()
            for cause, count in counts.extra.items()
        ],
        settings=dict(settings.effective),
    )


def _by_queue(held: Mapping[int, str], running: Container[int]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for number, queue in held.items():
        claimed, runs = found.get(queue, (0, 0))
        found[queue] = (claimed, runs + 1) if number in running else (claimed + 1, runs)
    return found
