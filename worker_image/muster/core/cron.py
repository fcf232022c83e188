"""Cron: from five fields of text and a time zone to the instants they name.

Beat asks it when a schedule is due next, the operator when a scaling floor begins and ends, and
`muster.app.schedules` builds Celery's `crontab` on it. It knows no clock: every answer follows from
the text, the zone and the instant that was asked about.

**Text.** Minute, hour, day of month, month, day of week; lists, ranges, steps and English
three-letter names in any case; `0` and `7` are Sunday, `?` is `*`, `5/15` is `5-59/15`. Macros:
`@hourly`, `@daily` or `@midnight`, `@weekly`, `@monthly`, `@yearly` or `@annually`.

**Days.** Unix runs a job when the day of the month *or* the day of the week fits, except that both
must fit when one of the two fields starts with a star (crontab(5) of Debian: `Days.EITHER`). Celery
always asks for both (`Days.BOTH`).

**Daylight saving time**, as Debian's cron(8) does it:

* A job with a star at the head of its minute or hour field follows real time. It runs at every
  instant whose wall clock fits: never in an hour that is skipped, twice in one that is repeated.
* Any other job is meant for a time of day. If that time is skipped it runs once at the moment the
  clocks jump, however many of its times were skipped; if it is repeated it runs the first time only.

Debian applies its rule to jumps of less than three hours. Here it holds for every jump, so that a
country that skips a whole day (Samoa, 30 December 2011) loses no daily job.

Instants are returned in UTC. Two datetimes of one zone compare by their wall clocks, which is wrong
in the hour that is repeated.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)

# The longest a calendar leaves a possible date out: 29 February on one given weekday comes after 40 years
# where a century that is no leap year lies between. What is not found within 41 years never comes.
_HORIZON_MONTHS = 41 * 12

TEXT_LENGTH_MAX = 1024
"""Characters of cron text read; the longest sensible one, with every value listed, has 353."""


class CronError(ValueError):
    """A cron text or time zone that cannot be understood: which part, what it says, what it may say."""

    def __init__(self, *, field: str, text: str, allowed: str) -> None:
        """Name the `field`, quote its `text` and say what is `allowed` there."""
        self.field = field
        self.text = text
        self.allowed = allowed
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        super().__init__(f"{field} {shown!r} cannot be understood: {allowed}")

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes, which keyword-only arguments alone would not."""
        return (_cron_error, (self.field, self.text, self.allowed))


def _cron_error(field: str, text: str, allowed: str) -> CronError:
    return CronError(field=field, text=text, allowed=allowed)


class Days(StrEnum):
    """How the day of the month and the day of the week combine. The words are part of the wire."""

    EITHER = "Either"
    """Unix: one of the two fits; both must where one of the fields starts with a star."""
    BOTH = "Both"
    """Celery: both fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One of the five fields: its name in messages, its least and greatest value, its names by value."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What may stand in this field, in words."""
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        sunday = " (0 and 7 are Sunday)" if self.name == "day of week" else ""
        return (
            f"{self.name} takes {self.low}-{self.high}{named}{sunday}, as `*`, a value, a range like "
            f"`{self.low}-{self.low + 4}`, a step like `*/2`, or a list of these separated by commas"
        )


MINUTE = Field(name="minute", low=0, high=59)
HOUR = Field(name="hour", low=0, high=23)
DAY_OF_MONTH = Field(name="day of month", low=1, high=31)
MONTH = Field(
    name="month",
    low=1,
    high=12,
    names=("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
)
DAY_OF_WEEK = Field(
    name="day of week", low=0, high=7, names=("sun", "mon", "tue", "wed", "thu", "fri", "sat")
)
FIELDS = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron:
    """A parsed cron text in its time zone. Build it with `parse`.

    Sets of values are bits: bit n stands for the value n; Sunday is 0.
    """

    text: str
    zone: tzinfo
    days: Days
    minutes: int
    hours: int
    month_days: int
    months: int
    week_days: int
    both_days: bool
    """Whether day of month and day of week must both fit."""
    at_time_of_day: bool
    """Whether neither minute nor hour starts with a star: which of the two DST rules holds."""

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due instant after `instant`, in UTC.

        None: there is none, because the date does not exist (30 February) or the calendar ends.
        Raises ValueError when `instant` has no time zone.
        """
        at = _naive_utc(instant)
        try:
            return _aware(self._next_after(at))
        except OverflowError:  # beyond the year 9999
            return None

    def previous_at(self, instant: datetime) -> datetime | None:
        """Return the last due instant that is not after `instant`, in UTC; None as in `next_after`."""
        at = _naive_utc(instant)
        try:
            return _aware(self._previous_at(at))
        except OverflowError:  # before the year 1
            return None

    def previous_before(self, instant: datetime) -> datetime | None:
        """Return the last due instant before `instant`, in UTC; None as in `next_after`."""
        return self.previous_at(instant.astimezone(UTC) - _MICROSECOND)

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many due instants lie in the interval (after, until].

        Months are counted whole and only turns of the clock are looked for day by day, so the cost
        depends on the length of the interval and not on how often the job runs.
        """
        first, last = _naive_utc(after), _naive_utc(until)
        if last <= first:
            return 0
        number = self._walls_between(self._passed(first), self._passed(last))
        for turn, before, offset in self._turns(first, last):
            if not self.at_time_of_day:  # what the clocks show twice is due twice, what they skip is not
                number += self._walls_between(turn + offset, turn + before)
            elif offset > before:  # what the clocks skip, and what they jump to, is one run
                number -= max(0, self._walls_between(turn + before, turn + offset + _MICROSECOND) - 1)
        return number

    # Below, all datetimes are naive: `at` and `turn` are instants in UTC, a `wall` is what a clock on the
    # wall shows in the zone, and wall = at + offset.

    def _next_after(self, at: datetime) -> datetime | None:
        offset = self._offset(at)
        here = at + offset + _MICROSECOND
        while True:
            wall = self._wall_from(here)
            if wall is None:
                return None
            candidate = wall - offset
            ahead = min(candidate, at + _DAY)
            if self._offset(ahead) != offset:
                at = self._turn(at, ahead)
                offset = self._offset(at)
                here = at + offset
                if self.at_time_of_day and wall < here:
                    return at
            elif ahead < candidate:
                # No clock is turned by more than a day, so nothing is due until two days before.
                at = max(ahead, candidate - 2 * _DAY)
                offset = self._offset(at)
                here = at + offset
            elif self.at_time_of_day and self._is_second_showing(candidate):
                at, here = candidate, wall + _MICROSECOND
            else:
                return candidate

    def _previous_at(self, at: datetime) -> datetime | None:
        offset = self._offset(at)
        while True:
            wall = self._wall_until(at + offset)
            if wall is None:
                return None
            candidate = wall - offset
            behind = max(candidate, at - _DAY)
            if self._offset(behind) != offset:
                turn = self._turn(behind, at)
                at = turn - _MICROSECOND
                offset = self._offset(at)
                if self.at_time_of_day and wall >= turn + offset:
                    return turn
            elif candidate < behind:
                at = min(behind, candidate + 2 * _DAY)
                offset = self._offset(at)
            elif self.at_time_of_day and self._is_second_showing(candidate):
                at = candidate - _MICROSECOND
            else:
                return candidate

    def _offset(self, at: datetime) -> timedelta:
        return self.zone.fromutc(at.replace(tzinfo=self.zone)).replace(tzinfo=None) - at

    def _is_second_showing(self, at: datetime) -> bool:
        return self.zone.fromutc(at.replace(tzinfo=self.zone)).fold == 1

    def _turn(self, before: datetime, after: datetime) -> datetime:
        """Return the second in (before, after] at which the clocks are turned, given that they are once."""
        low, high = before.replace(microsecond=0), after.replace(microsecond=0)
        offset = self._offset(low)
        while high - low > _SECOND:
            middle = low + (high - low) // _SECOND // 2 * _SECOND
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high

    def _turns(self, after: datetime, until: datetime) -> Iterator[tuple[datetime, timedelta, timedelta]]:
        """Yield each turn of the clocks in (after, until] with the offsets before and from it."""
        if isinstance(self.zone, timezone):
            return
        offset = self._offset(after)
        while after < until:
            ahead = min(until, after + _DAY)
            if (new := self._offset(ahead)) != offset:
                yield self._turn(after, ahead), offset, new
            after, offset = ahead, new

    def _passed(self, at: datetime) -> datetime:
        """Return the first wall time that no clock has shown up to and including `at`."""
        offset = self._offset(at)
        if self.at_time_of_day and self._is_second_showing(at):
            turn = self._turn(at - _DAY, at)
            return turn + self._offset(turn - _MICROSECOND)
        return at + offset + _MICROSECOND

    def _wall_from(self, wall: datetime) -> datetime | None:
        """Return the first wall time that fits and is not before `wall`."""
        if wall.second or wall.microsecond:
            wall = wall.replace(second=0, microsecond=0) + timedelta(minutes=1)
        day = self._day_from(wall.date())
        if day == wall.date():
            hour = _lowest(self.hours, wall.hour)
            if hour == wall.hour:
                minute = _lowest(self.minutes, wall.minute)
                if minute is not None:
                    return wall.replace(minute=minute)
                hour = _lowest(self.hours, wall.hour + 1)
            if hour is not None:
                return wall.replace(hour=hour, minute=_first(self.minutes))
            day = self._day_from(day + _DAY)
        if day is None:
            return None
        return datetime(day.year, day.month, day.day, _first(self.hours), _first(self.minutes))  # noqa: DTZ001

    def _wall_until(self, wall: datetime) -> datetime | None:
        """Return the last wall time that fits and is not after `wall`."""
        wall = wall.replace(second=0, microsecond=0)
        day = self._day_until(wall.date())
        if day == wall.date():
            hour = _highest(self.hours, wall.hour)
            if hour == wall.hour:
                minute = _highest(self.minutes, wall.minute)
                if minute is not None:
                    return wall.replace(minute=minute)
                hour = _highest(self.hours, wall.hour - 1)
            if hour is not None:
                return wall.replace(hour=hour, minute=_last(self.minutes))
            day = self._day_until(day - _DAY)
        if day is None:
            return None
        return datetime(day.year, day.month, day.day, _last(self.hours), _last(self.minutes))  # noqa: DTZ001

    def _walls_between(self, start: datetime, end: datetime) -> int:
        """Return how many wall times fit in [start, end), negative when `end` is the earlier."""
        if end < start:
            return -self._walls_between(end, start)
        number = 0
        year, month = start.year, start.month
        while (year, month) <= (end.year, end.month):
            days = self._days_in(year, month)
            if (year, month) == (start.year, start.month):
                days = _above(days, start.day)
            if (year, month) == (end.year, end.month):
                days = _below(days, end.day)
            number += days.bit_count()
            year, month = _month_after(year, month)
        number *= self.minutes.bit_count() * self.hours.bit_count()
        return number - self._earlier_that_day(start) + self._earlier_that_day(end)

    def _earlier_that_day(self, wall: datetime) -> int:
        """Return how many wall times of the day of `wall` fit and are before it."""
        if not self._days_in(wall.year, wall.month) >> wall.day & 1:
            return 0
        number = _below(self.hours, wall.hour).bit_count() * self.minutes.bit_count()
        if self.hours >> wall.hour & 1:
            started = wall.second or wall.microsecond
            number += _below(self.minutes, wall.minute + (1 if started else 0)).bit_count()
        return number

    def _day_from(self, day: date) -> date | None:
        year, month, least = day.year, day.month, day.day
        for _ in range(_HORIZON_MONTHS):
            found = _lowest(self._days_in(year, month), least)
            if found is not None:
                return date(year, month, found)
            (year, month), least = _month_after(year, month), 1
        return None

    def _day_until(self, day: date) -> date | None:
        year, month, most = day.year, day.month, day.day
        for _ in range(_HORIZON_MONTHS):
            found = _highest(self._days_in(year, month), most)
            if found is not None:
                return date(year, month, found)
            (year, month), most = _month_before(year, month), 31
        return None

    def _days_in(self, year: int, month: int) -> int:
        """Return the days of that month that fit, as bits 1 to 31."""
        if not self.months >> month & 1:
            return 0
        if not 1 <= year <= 9999:
            raise OverflowError
        monday_based, length = monthrange(year, month)
        first = (monday_based + 1) % 7  # the weekday of the first of the month, Sunday being 0
        week = (self.week_days >> first | self.week_days << (7 - first)) & 0x7F
        by_week = week * 0x10204081 << 1  # the week five times over, from bit 1 on
        days = self.month_days & by_week if self.both_days else self.month_days | by_week
        return _below(days, length + 1)


def parse(text: str, *, zone: tzinfo = UTC, days: Days = Days.EITHER) -> Cron:
    """Return the schedule that `text` names in `zone`.

    Raises CronError, which names the field, quotes it and says what is allowed there.
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise CronError(
            field="schedule", text=text, allowed=f"a cron text has at most {TEXT_LENGTH_MAX} characters"
        )
    plain = text.strip().lower()
    _refuse_other_dialects(text, plain)
    parts = _MACROS.get(plain, plain).split()
    if len(parts) != len(FIELDS):
        raise CronError(
            field="schedule",
            text=text,
            allowed="five fields are needed (minute, hour, day of month, month, day of week), "
            f"{len(parts)} are given; or one of {', '.join(_MACROS)}",
        )
    minutes, hours, month_days, months, week_days = (
        _parse_field(field, part) for field, part in zip(FIELDS, parts, strict=True)
    )
    starred = [part[0] in "*?" for part in parts]
    return Cron(
        text=text,
        zone=zone,
        days=days,
        minutes=minutes,
        hours=hours,
        month_days=month_days,
        months=months,
        week_days=(week_days | week_days >> 7) & 0x7F,
        both_days=days is Days.BOTH or starred[2] or starred[4],
        at_time_of_day=not (starred[0] or starred[1]),
    )


def zone_named(name: str) -> tzinfo:
    """Return the time zone of that IANA name, read from the machine's tz database.

    Raises CronError when there is none of that name.
    """
    if name in {"UTC", "Etc/UTC"}:
        return UTC
    try:
        if name in {"", "Local", "localtime"}:  # would mean something else on each machine
            raise ValueError(name)
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise CronError(
            field="time zone",
            text=name,
            allowed="an IANA name is needed, such as UTC, Europe/Berlin or America/New_York",
        ) from None


def _refuse_other_dialects(text: str, plain: str) -> None:
    if plain.startswith(("tz=", "cron_tz=")):
        raise CronError(
            field="schedule",
            text=text,
            allowed="the time zone has its own field, for example `timeZone: Europe/Berlin`",
        )
    if plain.startswith("@every"):
        raise CronError(
            field="schedule", text=text, allowed="an interval has its own field, for example `every: 90s`"
        )
    if plain.startswith("@") and plain not in _MACROS:
        raise CronError(field="schedule", text=text, allowed=f"the macros are {', '.join(_MACROS)}")


def _parse_field(field: Field, text: str) -> int:
    """Return the values that `text` names, as bits."""
    bits = 0
    for item in text.split(","):
        try:
            bits |= _parse_item(field, item)
        except ValueError:
            raise CronError(field=field.name, text=text, allowed=field.allowed) from None
    return bits


def _parse_item(field: Field, item: str) -> int:
    span, slash, step_text = item.partition("/")
    step = _number(step_text) if slash else 1
    if step < 1:
        raise ValueError(item)
    # 7 is a second name of Sunday: it may be written, but a star or an open range ends at Saturday.
    top = min(field.high, 6) if field is DAY_OF_WEEK else field.high
    start_text, dash, end_text = span.partition("-")
    if span in {"*", "?"}:
        start, end = field.low, top
    elif dash:
        start, end = _value(field, start_text), _value(field, end_text)
    else:
        start = _value(field, span)
        end = max(start, top) if slash else start
    if end < start:
        raise ValueError(item)
    return sum(1 << value for value in range(start, end + 1, step))


def _value(field: Field, text: str) -> int:
    if text in field.names:
        # The first weekday is number 0, the first month is number 1.
        return field.names.index(text) + field.low
    value = _number(text)
    if not field.low <= value <= field.high:
        raise ValueError(text)
    return value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(text)
    return int(text)


def _naive_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone: cron arithmetic needs an aware datetime")
    return instant.astimezone(UTC).replace(tzinfo=None)


def _aware(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


def _above(bits: int, least: int) -> int:
    return bits >> least << least


def _below(bits: int, limit: int) -> int:
    return bits & ((1 << limit) - 1)


def _lowest(bits: int, least: int) -> int | None:
    bits = _above(bits, least)
    return _first(bits) if bits else None


def _highest(bits: int, most: int) -> int | None:
    bits = _below(bits, most + 1)
    return _last(bits) if bits else None


def _first(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _last(bits: int) -> int:
    return bits.bit_length() - 1


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year, month + 1) if month < 12 else (year + 1, 1)


def _month_before(year: int, month: int) -> tuple[int, int]:
    return (year, month - 1) if month > 1 else (year - 1, 12)
