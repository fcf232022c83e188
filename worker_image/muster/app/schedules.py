"""Celery's ways to say when: `crontab`, `schedule`, `solar`, and the entries of `beat_schedule`.

Applications use the classes in their configuration; `muster beat` calls `entries` to turn the setting into
what stands on the broker. The names, argument forms and meanings are Celery's, except where a line says
otherwise; the arithmetic is `muster.core.cron` and `muster.core.schedule`.

Differences that show: `crontab` keeps the DST rules of `muster.core.cron`; an interval counts from the
moment its entry was first seen and is never shifted by a late run, so `relative` changes nothing; a second
beat with the same setting finds the same due times.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from muster.core.cron import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    HOUR,
    MINUTE,
    MONTH,
    CronError,
    Days,
    Field,
    parse,
)
from muster.core.schedule import ScheduleError, schedule_of
from muster.core.solar import Event, Solar
from muster.wire import values
from muster.wire.schedule import ScheduleEntry, SolarEntry

CronSpec: TypeAlias = int | str | Iterable[int]

_UIDS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "beat-schedule.muster.dev")
_LONG_NAMES: Final = {
    "month": (
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ),
    "day of week": ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"),
}
_ENTRY_KEYS: Final = ("task", "schedule", "args", "kwargs", "options", "relative")


class crontab:  # noqa: N801 -- Celery's name
    """Due at the minutes whose fields all fit: unlike Unix, both day of week *and* day of month.

    Each field is an int, an iterable of ints, or text: `*`, `*/15`, `1,13,30-45`, `50-59/2`, and names,
    short or long, for `day_of_week` (`mon-fri`, `sunday`) and `month_of_year`. Text ranges wrap round
    (`fri-mon`, `22-2`). Sunday is 0. Raises CronError, a ValueError, for what it cannot understand and
    for a date that does not exist. The zone is the application's `timezone`.
    """

    __slots__ = ("_given", "text")

    text: str
    """The same schedule as cron text, to be read with `Days.BOTH`."""

    def __init__(
        self,
        minute: CronSpec = "*",
        hour: CronSpec = "*",
        day_of_week: CronSpec = "*",
        day_of_month: CronSpec = "*",
        month_of_year: CronSpec = "*",
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: object = None,  # noqa: ARG002 -- Celery's users pass it; nothing here depends on an application
    ) -> None:
        if nowfun is not None:
            raise ValueError("crontab(nowfun=…) is not supported: set the time zone by `timezone`")
        fields = (
            ("minute", MINUTE, minute),
            ("hour", HOUR, hour),
            ("day_of_month", DAY_OF_MONTH, day_of_month),
            ("month_of_year", MONTH, month_of_year),
            ("day_of_week", DAY_OF_WEEK, day_of_week),
        )
        self._given = tuple(spec if isinstance(spec, int | str) else tuple(spec) for _, _, spec in fields)
        self.text = " ".join(
            _field_text(name, field, spec) for (name, field, _), spec in zip(fields, self._given, strict=True)
        )
        if parse(self.text, days=Days.BOTH).next_after(_SOME_DAY) is None:
            raise CronError(
                field="crontab",
                text=self.text,
                allowed="none of the days in day_of_month occurs in any month of month_of_year",
            )

    @classmethod
    def from_string(cls, text: str) -> "crontab":
        """Return the crontab of five fields in Unix order: minute, hour, day of month, month, weekday."""
        parts = text.split()
        if len(parts) != 5:
            raise CronError(
                field="crontab", text=text, allowed=f"five fields are needed, {len(parts)} are given"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = parts
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def __repr__(self) -> str:
        """Show the fields in Unix order."""
        return f"<crontab: {' '.join(str(spec) for spec in self._given)}>"

    def __eq__(self, other: object) -> bool:
        """Crontabs are equal when they are due at the same times in every zone."""
        if not isinstance(other, crontab):
            return NotImplemented
        return _bits(self.text) == _bits(other.text)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(_bits(self.text))

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes."""
        minute, hour, day_of_month, month_of_year, day_of_week = self._given
        return (crontab, (minute, hour, day_of_week, day_of_month, month_of_year))


class schedule:  # noqa: N801 -- Celery's name
    """Due each `run_every`, seconds or a timedelta, from the moment the entry was first seen.

    `relative` and `app` are accepted and change nothing; `nowfun` is refused with ValueError.
    """

    __slots__ = ("run_every",)

    run_every: timedelta

    def __init__(
        self,
        run_every: float | timedelta,
        relative: bool = False,  # noqa: ARG002 -- see the module's docstring
        nowfun: Callable[[], datetime] | None = None,
        app: object = None,  # noqa: ARG002 -- as in crontab
    ) -> None:
        if nowfun is not None:
            raise ValueError("schedule(nowfun=…) is not supported: intervals are measured in elapsed time")
        try:
            self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        except (ValueError, OverflowError):  # not a number, or more than timedelta holds
            raise ValueError(f"an interval of {run_every} s cannot be kept") from None

    @property
    def seconds(self) -> float:
        """The interval in seconds."""
        return self.run_every.total_seconds()

    def __repr__(self) -> str:
        """Show the interval."""
        return f"<schedule: every {self.run_every}>"

    def __eq__(self, other: object) -> bool:
        """Compare with another schedule or a timedelta."""
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return self.run_every == other if isinstance(other, timedelta) else NotImplemented

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.run_every)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes."""
        return (schedule, (self.run_every,))


@dataclass(frozen=True, slots=True)
class solar:  # noqa: N801 -- Celery's name
    """Due at an event of the sun's day (`sunrise`, `solar_noon`, `dusk_civil`, …) at a place in degrees.

    Raises ValueError for an unknown event and for a place that is not on the globe.
    """

    event: str
    lat: float
    lon: float

    def __post_init__(self) -> None:
        """Refuse what the sun does not do, and what is no place."""
        if self.event not in set(Event):
            raise ValueError(f"solar event {self.event!r} is not known: it is one of {', '.join(Event)}")
        Solar(event=Event(self.event), latitude=self.lat, longitude=self.lon)


def entries(
    beat_schedule: Mapping[str, Mapping[str, Any]],
    *,
    application: str,
    time_zone: str,
    now: datetime,
    starting_deadline_seconds: float | None = None,
) -> tuple[ScheduleEntry, ...]:
    """Return the setting `beat_schedule` as entries for the broker.

    `application` is the application's name: with the entry's key it makes the uid, so that two
    applications on one broker do not meet. `time_zone` is the setting `timezone`;
    `starting_deadline_seconds` is `beat_cron_starting_deadline` and holds for crontabs only. Each entry is
    created `now`: pass it through `muster.core.schedule.succeeding` with what the broker holds, which
    keeps the creation that stands there.

    Raises ScheduleError, which names the entry and the key, for what is not understood.
    """
    return tuple(
        _entry(
            name,
            fields,
            application=application,
            time_zone=time_zone,
            now=now,
            starting_deadline_seconds=starting_deadline_seconds,
        )
        for name, fields in beat_schedule.items()
    )


def _entry(
    name: str,
    fields: Mapping[str, Any],
    *,
    application: str,
    time_zone: str,
    now: datetime,
    starting_deadline_seconds: float | None,
) -> ScheduleEntry:
    where = f"beat_schedule[{name!r}]"
    if not isinstance(fields, Mapping):
        raise ScheduleError(f"{where} must be a mapping with `task` and `schedule`, not {fields!r}")
    for key in fields:
        if key not in _ENTRY_KEYS:
            raise ScheduleError(f"{where} has the unknown key {key!r}: the keys are {', '.join(_ENTRY_KEYS)}")
    task = fields.get("task")
    if not isinstance(task, str) or not task:
        raise ScheduleError(f"{where}['task'] must be the name of a task, not {task!r}")
    when = _when(where, fields.get("schedule"))
    options = _plain(f"{where}['options']", _mapping(where, "options", fields))
    if isinstance(options.get("expires"), dict):
        raise ScheduleError(
            f"{where}['options']['expires'] must be seconds or a timedelta: a fixed time passes"
        )
    queue = options.pop("queue", None)
    if not isinstance(queue, str | None):
        raise ScheduleError(f"{where}['options']['queue'] must be the name of a queue, not {queue!r}")
    args = fields.get("args") or ()
    if not isinstance(args, Sequence) or isinstance(args, str | bytes):
        raise ScheduleError(f"{where}['args'] must be a list or tuple, not {args!r}")
    entry = ScheduleEntry(
        uid=str(uuid.uuid5(_UIDS, f"{application} {name}")),
        name=name,
        task=task,
        args=tuple(_plain(f"{where}['args']", list(args))),
        kwargs=_plain(f"{where}['kwargs']", _mapping(where, "kwargs", fields)),
        queue=queue,
        options=options,
        time_zone=time_zone,
        starting_deadline_seconds=starting_deadline_seconds if "cron" in when else None,
        created_at=now,
        since=now,
        **when,
    )
    try:
        schedule_of(entry)
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from error
    return entry


def _when(where: str, value: Any) -> dict[str, Any]:
    """Return the fields of a ScheduleEntry that say when."""
    match value:
        case crontab():
            return {"cron": value.text, "days": Days.BOTH.value}
        case solar():
            return {"solar": SolarEntry(event=value.event, latitude=value.lat, longitude=value.lon)}
        case bool():
            pass
        case int() | float() | timedelta():
            try:
                return {"every_seconds": schedule(value).seconds}
            except ValueError as error:
                raise ScheduleError(f"{where}['schedule']: {error}") from error
        case schedule():
            return {"every_seconds": value.seconds}
    raise ScheduleError(
        f"{where}['schedule'] must be seconds, a timedelta, or Muster's crontab, schedule or solar, "
        f"not {value!r}"
    )


def _mapping(where: str, key: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    value = fields.get(key) or {}
    if not isinstance(value, Mapping):
        raise ScheduleError(f"{where}[{key!r}] must be a mapping, not {value!r}")
    return dict(value)


def _plain(where: str, value: Any) -> Any:
    """Return `value` as plain JSON values; timedeltas, such as in `expires`, become seconds."""
    if isinstance(value, dict):
        value = {
            key: item.total_seconds() if isinstance(item, timedelta) else item for key, item in value.items()
        }
    try:
        return json.loads(values.dumps(value), parse_constant=_refuse_constant)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"{where} cannot be written as JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _field_text(name: str, field: Field, spec: CronSpec) -> str:
    """Return one field as cron text. Parts with a star stay, so that the DST rule sees them."""
    match spec:
        case bool():
            raise CronError(field=name, text=repr(spec), allowed=_allowed(field))
        case int():
            return str(_checked(name, field, spec))
        case str():
            return ",".join(_part_text(name, field, part.strip().lower()) for part in spec.split(","))
    numbers = tuple(spec)
    if not numbers:
        raise CronError(field=name, text=repr(spec), allowed=f"an empty list is never due; {_allowed(field)}")
    return ",".join(str(_checked(name, field, number)) for number in numbers)


def _part_text(name: str, field: Field, part: str) -> str:
    span, slash, step_text = part.partition("/")
    step = _number(step_text) if slash else 1
    if step is None or step < 1:
        raise CronError(field=name, text=part, allowed=_allowed(field))
    if span == "*":
        return part
    start_text, dash, end_text = span.partition("-")
    if slash and not dash:  # Celery knows steps of stars and ranges only
        raise CronError(field=name, text=part, allowed=_allowed(field))
    start = _value(name, field, start_text)
    if not dash:
        return str(start)
    end = _value(name, field, end_text)
    if start <= end:
        numbers = list(range(start, end + 1))
    else:
        numbers = [*range(start, _highest(field) + 1), *range(field.low, end + 1)]
    return ",".join(str(number) for number in numbers[::step])


def _value(name: str, field: Field, text: str) -> int:
    number = _number(text)
    if number is None:
        for position, long_name in enumerate(_LONG_NAMES.get(field.name, ())):
            if len(text) >= 3 and long_name.startswith(text):
                return position + field.low
        raise CronError(field=name, text=text, allowed=_allowed(field))
    return _checked(name, field, number)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _checked(name: str, field: Field, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not field.low <= number <= _highest(field):
        raise CronError(field=name, text=repr(number), allowed=_allowed(field))
    return number


def _highest(field: Field) -> int:
    """Return the greatest value: Celery's Sunday is 0 and never 7."""
    return 6 if field is DAY_OF_WEEK else field.high


def _allowed(field: Field) -> str:
    named = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
    return (
        f"it takes {field.low}-{_highest(field)}{named} as an int, a list of ints, or text "
        "such as `*`, `*/2`, `1-5`, `1-5/2`, or several of these separated by commas"
    )


def _bits(text: str) -> tuple[int, ...]:
    cron = parse(text, days=Days.BOTH)
    return cron.minutes, cron.hours, cron.month_days, cron.months, cron.week_days, cron.at_time_of_day


_SOME_DAY: Final = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
"""From here each date that exists comes within a few years; `crontab` asks for one."""
