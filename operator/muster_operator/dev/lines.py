"""From one Picture to the next: the plain lines that tell what is new. For logs, CI and pipes.

`dev.terminal` calls it on every pass where there is no terminal. Sizes are told at once, figures that move
all the time once in `FIGURES_EVERY` and at the end, and only when they have changed. Troubles are events,
which the session tells.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from .picture import Picture, PoolRow, QueueRow, ScheduleRow, age, clock, number, slots, why

FIGURES_EVERY: Final = timedelta(seconds=2)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What has been told so far."""

    queues: dict[str, QueueRow] = field(default_factory=dict)
    pools: dict[str, PoolRow] = field(default_factory=dict)
    schedules: dict[str, ScheduleRow] = field(default_factory=dict)
    draining: bool = False
    figures_at: datetime | None = None


def news(told: Told, picture: Picture) -> tuple[list[str], Told]:
    """Return the lines to print now, and what has then been told."""
    lines: list[str] = []
    due = told.figures_at is None or picture.ended or picture.now >= told.figures_at + FIGURES_EVERY
    if picture.draining and not told.draining:
        lines.append("draining: running tasks finish, then the workers leave")
    pools, schedules, queues = dict(told.pools), dict(told.schedules), dict(told.queues)
    for pool in picture.pools:
        lines += _pool(pools.get(pool.name), pool, figures=due)
        if due or pools.get(pool.name) is None or _sizes(pools[pool.name]) != _sizes(pool):
            pools[pool.name] = pool
    if due:
        for queue in picture.queues:
            if queue.ready is None and not queue.problem:
                continue  # it has not been read yet
            lines += _queue(queues.get(queue.name), queue)
            queues[queue.name] = queue
        for schedule in picture.schedules:
            lines += _schedule(schedules.get(schedule.name), schedule)
            schedules[schedule.name] = schedule
    return lines, Told(
        queues=queues,
        pools=pools,
        schedules=schedules,
        draining=picture.draining,
        figures_at=picture.now if due else told.figures_at,
    )


def _sizes(row: PoolRow) -> tuple[object, ...]:
    return row.desired, row.ready, row.leaving, row.decision


def _pool(before: PoolRow | None, row: PoolRow, *, figures: bool) -> Iterable[str]:
    decision = row.decision
    if decision is not None and (before is None or before.decision != decision):
        yield f"pool {row.name}: {decision.from_} → {decision.to} workers, {why(decision)}"
    if before is None or _sizes(before) != _sizes(row):
        leaving = f", {row.leaving} leaving" if row.leaving else ""
        yield f"pool {row.name}: {row.ready} of {row.desired} workers ready{leaving}"
    if figures and (0 if before is None else before.done) != row.done:
        yield (
            f"pool {row.name}: {number(row.done)} tasks done, {row.per_second:,.0f} a second, "
            f"{slots(row)} slots busy"
        )


def _queue(before: QueueRow | None, row: QueueRow) -> Iterable[str]:
    calm = replace(row, oldest_seconds=None)
    if before is not None and replace(before, oldest_seconds=None) == calm:
        return
    if row.problem:
        yield f"queue {row.name}: {row.problem}"
        return
    oldest = f", the oldest for {age(row.oldest_seconds)}" if row.oldest_seconds is not None else ""
    yield (
        f"queue {row.name}: {number(row.ready)} ready{oldest}, {number(row.running)} running, "
        f"{number(row.waiting)} waiting, {number(row.dead)} dead"
    )


def _schedule(before: ScheduleRow | None, row: ScheduleRow) -> Iterable[str]:
    if row.problem and (before is None or before.problem != row.problem):
        yield f"schedule {row.name}: {row.problem}"
    if row.last_at is not None and (before is None or before.last_at != row.last_at):
        yield f"schedule {row.name} ({row.timing}): ran for {clock(row.last_at)}"
