"""What `muster dev` shows: one moment as a value, and the words for its figures.

`dev.session` makes a Picture on every pass, `dev.view` draws it on a terminal, `dev.lines` tells what is new
in it. Nothing here reads anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from muster_operator.api.workerpool import LastDecision

RATE_WINDOW: Final = timedelta(seconds=3)


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """A TaskQueue; the figures are None when they could not be read, for `problem`."""

    name: str
    ready: int | None = None
    running: int | None = None
    """In workers' hands, started or not."""
    waiting: int | None = None
    """Until their ETA."""
    dead: int | None = None
    oldest_seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class PoolRow:
    """A WorkerPool."""

    name: str
    desired: int = 0
    ready: int = 0
    leaving: int = 0
    busy: int = 0
    slots: int = 0
    done: int = 0
    """Tasks that its workers are done with, in all."""
    per_second: float = 0.0
    decision: LastDecision | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleRow:
    """A Schedule."""

    name: str
    timing: str
    last_at: datetime | None = None
    next_at: datetime | None = None
    suspended: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All of it, at one moment."""

    now: datetime
    since: datetime
    """When `muster dev` began."""
    title: str
    broker: str
    """Which brokers there are."""
    logs: str = ""
    """Where the logs are."""
    queues: tuple[QueueRow, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    schedules: tuple[ScheduleRow, ...] = ()
    troubles: tuple[str, ...] = ()
    """What is wrong now and with which remedy, a line each."""
    draining: bool = False
    ended: bool = False
    """Nothing runs any more."""


def rate_per_second(totals: Sequence[tuple[datetime, int]], now: datetime) -> float:
    """Return the mean rise a second of a total over the last `RATE_WINDOW`; `totals` are oldest first."""
    if not totals:
        return 0.0
    before = [total for total in totals if total[0] <= now - RATE_WINDOW]
    first_at, first = before[-1] if before else totals[0]
    seconds = (now - first_at).total_seconds()
    return max(0.0, (totals[-1][1] - first) / seconds) if seconds > 0 else 0.0


def why(decision: LastDecision) -> str:
    """Return a decision's reason in words, with the figures that it was made from."""
    reason = _SENTENCES.get(decision.reason, decision.reason)
    return f"{reason}{_figures(decision.inputs)}"


_SENTENCES: Final[Mapping[str, str]] = {
    "LoadRose": "load rose",
    "LoadFell": "load fell",
    "Floor": "a floor holds",
    "Minimum": "to the minimum",
    "Maximum": "to the maximum",
    "ScaleUpLimited": "scaleUp allows no more",
    "ScaleDownLimited": "scaleDown lets no more go",
    "LoadUnknown": "the load is unknown",
    "Fallback": "the load has been unknown for long",
    "Paused": "paused",
    "Fixed": "fixed",
    "External": "set from outside",
}


def _figures(inputs: Mapping[str, object]) -> str:
    needed, each = inputs.get("neededSlots"), inputs.get("slotsPerWorker")
    if not isinstance(needed, int) or not isinstance(each, int):
        return ""
    return f": {number(needed)} slots needed, {number(each)} a worker"


def number(count: int | None) -> str:
    """Return a count as people read it; a dash for one that is not known."""
    return "-" if count is None else f"{count:,}"


def age(seconds: float | None) -> str:
    """Return a time span in its two largest units: 0 s, 59 s, 2 m 05 s, 3 h 10 m, 2 d 04 h."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {smaller}"
    return f"{whole} s"


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago it was."""
    return "-" if moment is None else f"{age((now - moment).total_seconds())} ago"


def ahead(moment: datetime | None, now: datetime) -> str:
    """Return in how long it will be, rounded up as clocks that count down do."""
    if moment is None:
        return "-"
    left = (moment - now) / timedelta(seconds=1)
    return "now" if left <= 0 else f"in {age(-(-left // 1))}"


def clock(moment: datetime) -> str:
    """Return the time of day here."""
    return f"{moment.astimezone():%H:%M:%S}"


def slots(row: PoolRow) -> str:
    """Return busy of all slots."""
    return f"{number(row.busy)}/{number(row.slots)}"
