"""An application's own schedules: its `beat_schedule`, written to the scope that bears its name.

For those without a cluster; in one the operator writes the entries of a namespace. Beat's loop calls what
`writer` returns each time it begins to lead, so that the leader's configuration is the one in force, and
what a broker has forgotten is there again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from muster.app.app import Muster
from muster.app.schedules import entries
from muster.core.schedule import succeeding
from muster.errors import ConfigurationError
from muster.transports.schedules.base import ScheduleStore
from muster.wire.schedule import ScheduleEntry


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is to be written and removed so that a scope holds exactly the wanted entries."""

    put: tuple[ScheduleEntry, ...]
    remove: tuple[str, ...]


def update(
    wanted: Sequence[ScheduleEntry], standing: dict[str, ScheduleEntry | None], now: datetime
) -> Update:
    """Return the difference. What stands there keeps its past, see `muster.core.schedule.succeeding`."""
    succeeded = [succeeding(one, standing.get(one.uid), now) for one in wanted]
    return Update(
        put=tuple(one for one in succeeded if standing.get(one.uid) != one),
        remove=tuple(sorted(standing.keys() - {one.uid for one in wanted})),
    )


def scope_of(application: str) -> str:
    """Return the scope of an application's own schedules. No namespace has a colon in its name."""
    return f"app:{application}"


def own_entries(app: Muster, application: str, now: datetime) -> tuple[ScheduleEntry, ...]:
    """Return the entries of `beat_schedule`, created `now`. Raises ConfigurationError in one sentence."""
    settings = app.conf.settings
    try:
        return entries(
            settings.beat_schedule,
            application=application,
            time_zone=settings.timezone or "UTC",
            now=now,
            starting_deadline_seconds=settings.beat_cron_starting_deadline,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def writer(app: Muster, application: str) -> Callable[[ScheduleStore, datetime], None]:
    """Return what brings the application's entries to the broker."""

    def write(store: ScheduleStore, now: datetime) -> None:
        change = update(own_entries(app, application, now), store.entries(), now)
        store.put(change.put)
        store.remove(change.remove)

    return write
