"""Tasks that share one hub: which of them keeps it from the others, when to say so, and whom to end for it.

Called by the pools of greenlets, from the thread that watches the hub and from the parent. Pure: times are
seconds of one clock, a job is its number, 0 for none that is known.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

HELD_SECONDS: Final = 1.0
"""A hub that does not come round for so long is held: then it is said by whom."""
GRACE_SECONDS: Final = 1.0
"""So long after its hard limit a job that keeps the hub may still end by itself."""


class Hold(msgspec.Struct, frozen=True):
    """Who was found at every look since `since`, in which the hub did not come round."""

    job: int
    since: float
    tell_at: float


def look(hold: Hold | None, *, job: int, beaten: float, last_look: float) -> Hold | None:
    """Return what is to be thought of the hub, which came round last at `beaten` and is at `job` now.

    Counted from the last look at which it was otherwise: many short jobs in a row are none's fault.
    """
    if beaten > last_look:
        return None
    if hold is not None and hold.job == job:
        return hold
    return Hold(job, last_look, last_look + HELD_SECONDS)


def told(hold: Hold, now: float) -> Hold:
    """Return it after it was told of: next when it has lasted twice as long."""
    return msgspec.structs.replace(hold, tell_at=hold.since + 2 * (now - hold.since))


class Limited(msgspec.Struct, frozen=True):
    """A job that has begun, and its hard limit; 0 for none."""

    number: int
    age_seconds: float
    hard_limit: float


def to_end(
    jobs: Iterable[Limited], *, beaten: float, looked_at: float, holder: int, now: float
) -> frozenset[int]:
    """Return the jobs for which their process has to be killed; none while it can end them by itself.

    As long as the hub comes round, a hard limit is raised in its job. One that keeps the hub is interrupted
    by the thread beside it; where that is in vain it is to blame, and no other. When that thread stands still
    too, or the hub is kept by what is no job, nothing in the process gets on, and the limits alone decide.
    """
    if now - beaten < HELD_SECONDS:
        return frozenset()
    over = {
        job.number for job in jobs if job.hard_limit and job.age_seconds >= job.hard_limit + GRACE_SECONDS
    }
    if holder and now - looked_at < HELD_SECONDS:
        over &= {holder}
    return frozenset(over)
