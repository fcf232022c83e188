"""When a status is worth a write, and how its figures are rounded.

The plans build a status from what they saw and ask here whether to write it. What people and machines act on
is written at once; figures wait until 30 s after the last write, and are rounded so coarsely that a quiet
object changes none. Live figures come from metrics.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from muster_operator.api.conditions import Condition, find_condition, set_condition
from muster_operator.api.schedule import ScheduleStatus
from muster_operator.api.taskqueue import TaskQueueStatus
from muster_operator.api.workerpool import WorkerPoolStatus

WRITE_INTERVAL = timedelta(seconds=30)
EXACT_UP_TO = 20

StatusType = TypeVar("StatusType", WorkerPoolStatus, TaskQueueStatus, ScheduleStatus)

_FIGURES = {
    WorkerPoolStatus: ("ready", "busy", "slots", "depth", "in_flight", "oldest_age", "oldest_age_source"),
    TaskQueueStatus: ("depth", "in_flight", "delayed", "dead_letters", "oldest_age", "oldest_age_source"),
    ScheduleStatus: ("last_run", "next_run", "missed"),
}
"""What may wait for its turn. All else is written at once."""


@dataclass(frozen=True, kw_only=True)
class Write(Generic[StatusType]):
    """What to write now, if anything, and when what was left out is due."""

    status: StatusType | None = None
    due_at: datetime | None = None


def write(
    old: StatusType, new: StatusType, *, written_at: datetime | None, now: datetime
) -> Write[StatusType]:
    """Return whether to write `new` over `old`, which was last written at `written_at` by this operator.

    A message that says the same with other numbers waits too; a condition's status or reason does not.
    """
    if new == old:
        return Write()
    due_at = None if written_at is None else written_at + WRITE_INTERVAL
    if due_at is None or now >= due_at or _matters(old, new):
        return Write(status=new)
    return Write(due_at=due_at)


def _matters(old: StatusType, new: StatusType) -> bool:
    figures = _FIGURES[type(new)]
    calm = {name: getattr(old, name) for name in figures}
    return replace(_without_words(old), **calm) != replace(_without_words(new), **calm)


def _without_words(status: StatusType) -> StatusType:
    return replace(status, conditions=tuple(replace(each, message="") for each in status.conditions))


def merge_conditions(
    old: Iterable[Condition], found: Iterable[Condition], *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Return `old` with what was found put in place; a type that is no longer found is dropped."""
    merged = tuple(old)
    wanted = [replace(each, observed_generation=generation) for each in found]
    for condition in wanted:
        merged = set_condition(merged, condition, now)
    return tuple(each for each in merged if find_condition(wanted, each.type) is not None)


def rounded(count: int) -> int:
    """Return a count as status shows it: exact up to 20, else its two leading digits."""
    if count <= EXACT_UP_TO:
        return count
    step: int = 10 ** (len(str(count)) - 2)
    return count // step * step


def rounded_age(seconds: float | None) -> timedelta | None:
    """Return an age as status shows it: in steps of 10 s, of a minute from one on, of an hour from one on."""
    if seconds is None:
        return None
    step = 10 if seconds < 60 else 60 if seconds < 3600 else 3600
    return timedelta(seconds=int(seconds) // step * step)
