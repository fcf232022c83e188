"""When a schedule is due: from its entry, its high-water mark and `now` to the ticks to send.

Beat asks `due` at every wake; whoever writes entries to the broker (the operator, `muster beat`) asks
`succeeding` which past a new entry leaves alone. Neither knows a clock, a broker or a task.

**Once.** A due time is settled when its tick was sent or missed for good. The high-water mark says up to
where all is settled, it only rises, and nothing at or before it is due. So each due time becomes at most
one tick, however often, late or twice the question is asked, and also when a clock is set back.

**The past.** An entry's `since` is a mark of its own: a schedule that is new, changed or no longer
suspended starts from there, so a new cron text never fires times that only it would have had.

**Missed.** What was not sent at its time, because no beat ran or the broker was away, is treated by
`CatchUp`, within the deadline. Every due time ends up sent or counted as missed, never neither.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from muster.core.cron import Cron, Days, parse, zone_named
from muster.core.solar import Event, Solar
from muster.wire.schedule import ScheduleEntry

ON_TIME: Final = timedelta(seconds=10)
"""How late a tick may be without being a missed one: what a beat may need to take over from another."""

CATCH_UP_MAX: Final = 100
"""The most ticks that `CatchUp.ALL` sends at once."""

FIRST_SIGHT: Final = timedelta(minutes=5)
"""A schedule seen first within this time of its creation starts with its creation, a later one when seen."""

RETRY: Final = timedelta(seconds=5)
"""When to ask again whether the run before is finished, after it could not be known."""

EVERY_SECONDS_MIN: Final = 0.1
EVERY_SECONDS_MAX: Final = 3.2e9  # a century

_MICROSECOND = timedelta(microseconds=1)


class ScheduleError(ValueError):
    """An entry that cannot be scheduled. The text names the schedule, the field and what is allowed."""


class CatchUp(StrEnum):
    """What becomes of due times that were missed. The words are API."""

    NONE = "None"
    """They are left out: only the latest is sent, and only while it is no more than `ON_TIME` late."""
    LAST = "Last"
    """The latest is sent, however late within the deadline."""
    ALL = "All"
    """All within the deadline are sent, oldest first; of more than `CATCH_UP_MAX` the latest."""


class ConcurrencyPolicy(StrEnum):
    """Whether a run may begin while the one before is not finished. The words are API."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    """A due time that finds the run before unfinished is missed. One tick at a time, so `ALL` is `LAST`."""


class Reason(StrEnum):
    """Why `due` concluded what it did, for logs and the command line."""

    NOT_YET = "NotYet"
    """The next due time is to come."""
    DUE = "Due"
    """The one due time since the mark is sent."""
    CAUGHT_UP = "CaughtUp"
    """Several due times had passed; those that the policy permits are sent."""
    TOO_LATE = "TooLate"
    """Due times had passed, none of which the policy permits to be sent."""
    STILL_RUNNING = "StillRunning"
    """The run before is not finished and the policy forbids a second one."""
    RUNNING_UNKNOWN = "RunningUnknown"
    """Whether the run before is finished could not be read: nothing is settled, ask again."""
    SUSPENDED = "Suspended"
    NEVER = "Never"
    """There is no due time to come: the date does not exist, or the sun does not do that there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Every:
    """Due each `period` after `start`, in elapsed time, whatever clocks and beats do meanwhile.

    `start` is the schedule's creation. It stands in the entry, so every beat finds the same due times
    without knowing when another one ran; and since schedules are created at different moments, not all
    schedules of one period are due in the same second, as they would be if they counted from 1970.
    """

    period: timedelta
    start: datetime

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due instant after `instant`; None beyond the year 9999."""
        number = max(1, (instant - self.start) // self.period + 1)
        try:
            return self.start + number * self.period
        except OverflowError:
            return None

    def previous_at(self, instant: datetime) -> datetime | None:
        """Return the last due instant that is not after `instant`; None before the first."""
        number = (instant - self.start) // self.period
        return self.start + number * self.period if number >= 1 else None

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many due instants lie in the interval (after, until]."""
        passed = max(0, (after - self.start) // self.period)
        return max(0, (until - self.start) // self.period - passed)


Timing: TypeAlias = Cron | Every | Solar


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """What could not be read, and why: `running` when the result store does not answer."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What `due` must know of an entry. Build it with `schedule_of`."""

    timing: Timing
    since: datetime
    suspended: bool = False
    deadline: timedelta | None = None
    catch_up: CatchUp = CatchUp.LAST
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.ALLOW


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What is to be done about a schedule, and why."""

    ticks: tuple[datetime, ...] = ()
    """Due times to send now, oldest first."""
    missed: int = 0
    """Due times left out for good; all of them are before the first of `ticks`."""
    settled_at: datetime | None = None
    """The new high-water mark; None: it stays."""
    ask_at: datetime | None = None
    """When to ask again; None: not before the entry changes."""
    next_at: datetime | None = None
    """The next due time, for people."""
    reason: Reason


def due(
    schedule: Schedule, settled_at: datetime | None, now: datetime, *, running: bool | Unknown = False
) -> Due:
    """Return what has become due after `settled_at` and up to `now`.

    `settled_at` is the high-water mark, None for a schedule that has none yet. `running` says whether the
    task of the last tick is unfinished; only `ConcurrencyPolicy.FORBID` looks at it.
    """
    if schedule.suspended:
        return Due(reason=Reason.SUSPENDED)
    after = first_open(schedule, settled_at)
    next_at = schedule.timing.next_after(max(after, now))
    latest = schedule.timing.previous_at(now)
    if latest is None or latest <= after:
        reason = Reason.NEVER if next_at is None else Reason.NOT_YET
        return Due(ask_at=next_at, next_at=next_at, reason=reason)
    number = schedule.timing.count(after, now)
    ticks = _permitted(schedule, after, latest, now)
    reason = Reason.DUE if number == 1 else Reason.CAUGHT_UP
    if not ticks:
        reason = Reason.TOO_LATE
    elif schedule.concurrency_policy is ConcurrencyPolicy.FORBID:
        if isinstance(running, Unknown):
            ask_at = now + RETRY if next_at is None else min(next_at, now + RETRY)
            return Due(ask_at=ask_at, next_at=next_at, reason=Reason.RUNNING_UNKNOWN)
        if running:
            ticks, reason = (), Reason.STILL_RUNNING
    return Due(
        ticks=ticks,
        missed=number - len(ticks),
        settled_at=latest,
        ask_at=next_at,
        next_at=next_at,
        reason=reason,
    )


def first_open(schedule: Schedule, settled_at: datetime | None) -> datetime:
    """Return the instant after which due times are not settled yet."""
    return schedule.since if settled_at is None else max(schedule.since, settled_at)


def _permitted(schedule: Schedule, after: datetime, latest: datetime, now: datetime) -> tuple[datetime, ...]:
    """Return the due times in (after, latest] that the policies let through, oldest first."""
    patience = schedule.deadline
    if schedule.catch_up is CatchUp.NONE:
        patience = ON_TIME if patience is None else min(patience, ON_TIME)
    one = schedule.catch_up is not CatchUp.ALL or schedule.concurrency_policy is ConcurrencyPolicy.FORBID
    ticks: list[datetime] = []
    tick: datetime | None = latest
    while tick is not None and tick > after and len(ticks) < (1 if one else CATCH_UP_MAX):
        if patience is not None and now - tick > patience:
            break
        ticks.append(tick)
        tick = schedule.timing.previous_at(tick - _MICROSECOND)
    return tuple(reversed(ticks))


def schedule_of(entry: ScheduleEntry) -> Schedule:
    """Return what `due` must know of `entry`. Raises ScheduleError with a sentence for the user."""
    try:
        return Schedule(
            timing=_timing(entry),
            since=entry.since,
            suspended=entry.suspended,
            deadline=_deadline(entry.starting_deadline_seconds),
            catch_up=CatchUp(entry.catch_up),
            concurrency_policy=ConcurrencyPolicy(entry.concurrency_policy),
        )
    except ValueError as error:
        raise ScheduleError(f"schedule {entry.name}: {error}") from error


def _timing(entry: ScheduleEntry) -> Timing:
    if entry.cron is not None:
        return parse(entry.cron, zone=zone_named(entry.time_zone), days=Days(entry.days))
    if entry.every_seconds is not None:
        seconds = entry.every_seconds
        if not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
            raise ValueError(
                f"an interval of {seconds} s cannot be kept: "
                f"it may last from {EVERY_SECONDS_MIN} s to a hundred years"
            )
        return Every(period=timedelta(seconds=seconds), start=entry.created_at)
    if entry.solar is None:
        raise ValueError("none of cron text, interval and solar event says when it is due")
    if entry.solar.event not in set(Event):
        raise ValueError(f"solar event {entry.solar.event!r} is not known: it is one of {', '.join(Event)}")
    return Solar(
        event=Event(entry.solar.event), latitude=entry.solar.latitude, longitude=entry.solar.longitude
    )


def _deadline(seconds: float | None) -> timedelta | None:
    if seconds is not None and seconds < 1:
        raise ValueError(f"a starting deadline of {seconds} s cannot be kept: it is at least 1 s")
    return None if seconds is None else timedelta(seconds=seconds)


def succeeding(entry: ScheduleEntry, before: ScheduleEntry | None, now: datetime) -> ScheduleEntry:
    """Return `entry` as it is to be written where `before` stands (None: nothing does), seen at `now`.

    `since` is settled here. It stays while what says when the schedule is due stays; a change of that, or
    the end of a suspension, starts anew from `now`. A schedule without a predecessor starts from its
    creation if that was within `FIRST_SIGHT`, else from `now`: then it is not new, but the broker has lost
    its memory, and what was due before may well have been sent. The creation that stands is kept.
    """
    if before is None or before.uid != entry.uid:
        seen_early = now - entry.created_at <= FIRST_SIGHT
        return msgspec.structs.replace(entry, since=entry.created_at if seen_early else now)
    resumed = before.suspended and not entry.suspended
    since = before.since if _when(entry) == _when(before) and not resumed else now
    return msgspec.structs.replace(entry, since=since, created_at=before.created_at)


def _when(entry: ScheduleEntry) -> tuple[object, ...]:
    """Return all that says when an entry is due."""
    zone = entry.time_zone if entry.cron is not None else None
    return entry.cron, entry.days, entry.every_seconds, entry.solar, zone
