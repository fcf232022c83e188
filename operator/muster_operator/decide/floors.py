"""Times in which a pool is never smaller than so many workers.

`scaling` asks for the floor that holds now and for the moment when that may change. A floor holds from a
start of its `schedule` until the next moment of its `until`, both in its time zone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from muster.core.cron import CronError, parse, zone_named
from muster_operator.api.workerpool import Floor


@dataclass(frozen=True, kw_only=True)
class FloorNow:
    """The floor that holds, and when it may change."""

    replicas: int = 0
    changes_at: datetime | None = None
    errors: tuple[str, ...] = ()
    """Floors that name no time, each with what is wrong; they do not hold."""


def floor_at(floors: Iterable[Floor], now: datetime) -> FloorNow:
    """Return the highest of the floors that hold at `now`, and the next start or end of any of them."""
    replicas, changes, errors = 0, [], []
    for index, floor in enumerate(floors):
        try:
            zone = zone_named(floor.time_zone)
            start, end = parse(floor.schedule, zone=zone), parse(floor.until, zone=zone)
        except CronError as error:
            errors.append(f"spec.scaling.floors[{index}]: {error}")
            continue
        begun, ended = start.previous_at(now), end.previous_at(now)
        # A start and an end at one moment: the new window begins.
        holds = begun is not None and (ended is None or ended <= begun)
        if holds:
            replicas = max(replicas, floor.replicas)
        changes.append(end.next_after(now) if holds else start.next_after(now))
    coming = [change for change in changes if change is not None]
    return FloorNow(replicas=replicas, changes_at=min(coming, default=None), errors=tuple(errors))
