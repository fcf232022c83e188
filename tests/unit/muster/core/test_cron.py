"""Cron text and the instants it names: tables of named stories, then properties against three oracles.

The oracles are cronsim (Debian's rules in a library of its own), the definition of the DST rule walked
minute by minute, and the module against itself (next and previous, counting and enumerating).
"""

import pickle
import time as clock
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from muster.core.cron import FIELDS, TEXT_LENGTH_MAX, Cron, CronError, Days, parse, zone_named

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
MINUTE = timedelta(minutes=1)

# Zones whose clocks turn by an hour, by half an hour, at midnight, one minute past midnight, by a whole
# day, with every Ramadan, by two hours, and not at all.
ZONES = tuple(
    ZoneInfo(name)
    for name in (
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "America/St_Johns",
        "America/Havana",
        "Africa/Casablanca",
        "Antarctica/Troll",
        "Asia/Kolkata",
        "Pacific/Apia",
        "UTC",
    )
)


def at(text):
    """Return the instant written as `2026-03-29T02:30+01:00`."""
    return datetime.fromisoformat(text).astimezone(UTC)


def from_next(cron, instant, number):
    """Return the `number` due instants after `instant`."""
    found = []
    while len(found) < number and (instant := cron.next_after(instant)) is not None:
        found.append(instant)
    return found


# --- what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        (" @Daily ", "0 0 * * *"),
        ("0  9\t* * MON-fri", "0 9 * * 1-5"),
        ("0 0 1 Jan,DEC ?", "0 0 1 1,12 *"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("10-20/5 * * * *", "10,15,20 * * * *"),
        ("0 0 * * 7", "0 0 * * sun"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 ? * */3", "0 0 * * 0,3,6"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5"),
        ("*/90 * * * *", "0/90 * * * *"),
    ],
)
def test_two_ways_to_write_one_schedule(text, same):
    """Macros, names, question marks, steps and Sunday's two numbers are other words for plain lists."""
    one, other = parse(text), parse(same)

    assert from_next(one, at("2026-01-01T00:00Z"), 50) == from_next(other, at("2026-01-01T00:00Z"), 50)


@pytest.mark.parametrize(
    ("text", "field", "quoted"),
    [
        ("60 * * * *", "minute", "60"),
        ("* 24 * * *", "hour", "24"),
        ("* * 0 * *", "day of month", "0"),
        ("* * 32 * *", "day of month", "32"),
        ("* * L * *", "day of month", "l"),
        ("* * * 13 *", "month", "13"),
        ("* * * january *", "month", "january"),
        ("* * * * 8", "day of week", "8"),
        ("* * * * fri-sun", "day of week", "fri-sun"),
        ("* * * * mon#1", "day of week", "mon#1"),
        ("5-1 * * * *", "minute", "5-1"),
        ("*/0 * * * *", "minute", "*/0"),
        ("*/ * * * *", "minute", "*/"),
        ("*/-2 * * * *", "minute", "*/-2"),
        ("1,,2 * * * *", "minute", "1,,2"),
        (", * * * *", "minute", ","),
        ("1- * * * *", "minute", "1-"),
        ("-1 * * * *", "minute", "-1"),
        ("1.5 * * * *", "minute", "1.5"),
        ("٣ * * * *", "minute", "٣"),
        ("9999999999999999999 * * * *", "minute", "9999999999999999999"),
        ("* * * *", "schedule", "* * * *"),
        ("0 * * * * *", "schedule", "0 * * * * *"),
        ("", "schedule", ""),
        ("@reboot", "schedule", "@reboot"),
        ("@every 5m", "schedule", "@every 5m"),
        ("TZ=UTC 0 0 * * *", "schedule", "TZ=UTC 0 0 * * *"),
        ("CRON_TZ=UTC 0 0 * * *", "schedule", "CRON_TZ=UTC 0 0 * * *"),
    ],
)
def test_an_error_names_the_field_its_text_and_what_is_allowed(text, field, quoted):
    """A text that cannot be understood is refused with the part that is wrong and the remedy."""
    with pytest.raises(CronError) as caught:
        parse(text)

    assert (caught.value.field, caught.value.text) == (field, quoted)
    assert field in str(caught.value)
    assert repr(quoted) in str(caught.value)
    assert caught.value.allowed in str(caught.value)


def test_an_interval_and_a_zone_in_the_text_are_sent_to_their_own_fields():
    """Who writes @every or TZ= is told the field that does it here."""
    with pytest.raises(CronError, match="`every: 90s`"):
        parse("@every 5m")
    with pytest.raises(CronError, match="`timeZone: Europe/Berlin`"):
        parse("TZ=Europe/Berlin 0 0 * * *")


def test_a_text_without_end_is_refused_unread():
    """A text longer than any sensible schedule is refused by its length, and quoted in short."""
    with pytest.raises(CronError, match=str(TEXT_LENGTH_MAX)) as caught:
        parse("1," * 100_000 + "1 * * * *")

    assert len(str(caught.value)) < 300


def test_an_error_travels_between_processes():
    """A CronError survives pickling whole."""
    with pytest.raises(CronError) as caught:
        parse("60 * * * *")
    copy = pickle.loads(pickle.dumps(caught.value))

    assert (str(copy), copy.field, copy.text) == (str(caught.value), "minute", "60")


@given(st.text(max_size=60) | st.text(alphabet="0123456789*/,-? @adefjlmnorstuvwy", max_size=40))
def test_any_text_is_understood_or_refused_with_a_cron_error(text):
    """No text makes the parser fail in another way."""
    with suppress(CronError):
        cron = parse(text)
        assert cron.minutes
        assert cron.hours
        assert cron.months


@pytest.mark.parametrize(
    "name",
    ["", "Local", "localtime", "Europe/Nowhere", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b", "é"],
)
def test_an_unknown_zone_is_refused_by_name(name):
    """What is no IANA name, or would mean something else on each machine, is no time zone."""
    with pytest.raises(CronError, match="IANA name"):
        zone_named(name)


def test_a_known_zone_is_found():
    """IANA names are read from the tz database; UTC needs none."""
    assert zone_named("Europe/Berlin") == BERLIN
    assert zone_named("UTC") is UTC


def test_a_naive_datetime_is_refused():
    """What has no zone is no instant."""
    with pytest.raises(ValueError, match="no time zone"):
        parse("* * * * *").next_after(datetime(2026, 1, 1))  # noqa: DTZ001


# --- days ---------------------------------------------------------------------------------------------


def days_of(text, days):
    """Return the days of May 2026, whose first is a Friday, on which that job runs."""
    cron = parse(text, days=days)
    return [
        found.day
        for found in from_next(cron, at("2026-04-30T23:59Z"), 31)
        if (found.year, found.month) == (2026, 5)
    ]


def test_unix_runs_on_either_day_and_celery_on_both():
    """`0 0 13 * fri`: each Friday and the thirteenth for Unix, Friday the thirteenth for Celery."""
    assert days_of("0 0 13 * fri", Days.EITHER) == [1, 8, 13, 15, 22, 29]
    assert days_of("0 0 13 * fri", Days.BOTH) == []
    assert days_of("0 0 15 * fri", Days.BOTH) == [15]


def test_a_star_at_the_head_of_a_day_field_asks_for_both():
    """`*/2` begins with a star, so that the other day field limits it, as in Debian; `1-31/2` does not."""
    assert days_of("0 0 */2 * fri", Days.EITHER) == [1, 15, 29]
    assert days_of("0 0 13 * */2", Days.EITHER) == []
    assert days_of("0 0 1-31/2 * fri", Days.EITHER) == sorted({*range(1, 32, 2), 8, 22})


# --- the calendar ---------------------------------------------------------------------------------------


def test_a_leap_day_comes_every_four_years_but_not_in_2100():
    """29 February skips the years that have none."""
    found = from_next(parse("0 0 29 2 *"), at("2088-03-01T00:00Z"), 4)

    assert [day.year for day in found] == [2092, 2096, 2104, 2108]


def test_the_rarest_day_is_found_across_its_longest_gap():
    """29 February on one given weekday can be 40 years away, and is found in both directions."""
    cron = parse("0 0 29 2 1", days=Days.BOTH)
    found = from_next(cron, at("1800-01-01T00:00Z"), 60)
    gaps = [later.year - earlier.year for earlier, later in pairwise(found)]

    assert max(gaps) == 40
    assert all(cron.previous_before(later) == earlier for earlier, later in pairwise(found))


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 30-31 feb *"])
@pytest.mark.parametrize("zone", [UTC, BERLIN])
def test_a_date_that_does_not_exist_is_never_due(text, zone):
    """30 February gives None in both directions, within a time that no scan of years would need."""
    cron = parse(text, zone=zone)
    started = clock.perf_counter()

    assert cron.next_after(at("2026-01-01T00:00Z")) is None
    assert cron.previous_at(at("2026-01-01T00:00Z")) is None
    assert cron.count(at("2026-01-01T00:00Z"), at("2036-01-01T00:00Z")) == 0
    assert clock.perf_counter() - started < 0.5


def test_the_end_of_the_calendar_is_the_end_of_the_schedule():
    """Beyond the last year that datetimes have there is nothing due, and no error."""
    assert parse("* * * * *").next_after(datetime.max.replace(tzinfo=UTC)) is None
    assert parse("* * * * *", zone=BERLIN).previous_at(datetime.min.replace(tzinfo=UTC)) is None
    assert parse("0 0 1 1 *", zone=BERLIN).next_after(at("9999-12-31T00:00Z")) is None


# --- daylight saving time -------------------------------------------------------------------------------


def due(text, zone, start, end):
    """Return what is due in (start, end] as local times with their offsets."""
    cron = parse(text, zone=zone)
    found, instant = [], at(start)
    while (instant := cron.next_after(instant)) is not None and instant <= at(end):
        found.append(instant.astimezone(zone).isoformat(timespec="minutes")[8:])
    return found


SPRING = ("2026-03-28T12:00+01:00", "2026-03-30T12:00+02:00")  # Berlin: 29 March, 02:00 becomes 03:00
AUTUMN = ("2026-10-24T12:00+02:00", "2026-10-26T12:00+01:00")  # Berlin: 25 October, 03:00 becomes 02:00


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 2 * * *", ["29T03:00+02:00", "30T02:00+02:00"]),
        ("30 2 * * *", ["29T03:00+02:00", "30T02:30+02:00"]),
        ("0,20,40 2 29 3 *", ["29T03:00+02:00"]),
        ("0 2,3 29 3 *", ["29T03:00+02:00"]),
        ("30 1-3 29 3 *", ["29T01:30+01:00", "29T03:00+02:00", "29T03:30+02:00"]),
        ("0 * 29 3 *", [f"29T{hour:02}:00+0{1 if hour < 2 else 2}:00" for hour in range(24) if hour != 2]),
        ("*/30 2 * * *", ["30T02:00+02:00", "30T02:30+02:00"]),
    ],
)
def test_berlin_springs_forward(text, expected):
    """A skipped time of day runs once when the clocks jump; a job with a star follows real time."""
    assert due(text, BERLIN, *SPRING) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["25T02:30+02:00", "26T02:30+01:00"]),
        ("0 3 * * *", ["25T03:00+01:00", "26T03:00+01:00"]),
        ("0 1-3 25 10 *", ["25T01:00+02:00", "25T02:00+02:00", "25T03:00+01:00"]),
        (
            "30 * 25 10 *",
            [f"25T{h:02}:30+02:00" for h in range(3)] + [f"25T{h:02}:30+01:00" for h in range(2, 24)],
        ),
        ("*/30 2 25 10 *", ["25T02:00+02:00", "25T02:30+02:00", "25T02:00+01:00", "25T02:30+01:00"]),
    ],
)
def test_berlin_falls_back(text, expected):
    """A repeated time of day runs the first time; a job with a star runs in both hours."""
    assert due(text, BERLIN, *AUTUMN) == expected


def test_new_york_turns_its_clocks_at_two():
    """Daily at 02:30: at 03:00 on the day in March, the first 01:30 on the day in November."""
    assert due("30 2 * * *", NEW_YORK, "2026-03-08T00:00-05:00", "2026-03-09T00:00-04:00") == [
        "08T03:00-04:00"
    ]
    assert due("30 1 * * *", NEW_YORK, "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00") == [
        "01T01:30-04:00"
    ]


def test_lord_howe_turns_its_clocks_by_half_an_hour():
    """On the island 02:00 becomes 02:30 in October and 01:30 in April."""
    spring = ("2026-10-04T00:00+10:30", "2026-10-05T00:00+11:00")
    autumn = ("2026-04-05T00:00+11:00", "2026-04-06T00:00+10:30")

    assert due("15 2 * * *", LORD_HOWE, *spring) == ["04T02:30+11:00"]
    assert due("*/15 2 * * *", LORD_HOWE, *spring) == ["04T02:30+11:00", "04T02:45+11:00"]
    assert due("45 1 * * *", LORD_HOWE, *autumn) == ["05T01:45+11:00"]
    assert due("*/15 1 * * *", LORD_HOWE, *autumn) == [
        "05T01:00+11:00",
        "05T01:15+11:00",
        "05T01:30+11:00",
        "05T01:45+11:00",
        "05T01:30+10:30",
        "05T01:45+10:30",
    ]


def test_a_country_that_skips_a_day_loses_no_daily_job():
    """Samoa had no 30 December 2011: that day's run comes with the first moment of the 31st, once."""
    apia = ZoneInfo("Pacific/Apia")

    assert due("0 12 * * *", apia, "2011-12-29T00:00-10:00", "2012-01-01T00:00+14:00") == [
        "29T12:00-10:00",
        "31T00:00+14:00",
        "31T12:00+14:00",
    ]


# --- properties -----------------------------------------------------------------------------------------


@st.composite
def items(draw, field, *, steps=True):
    low, high = field.low, field.high
    kind = draw(st.sampled_from(("value", "range", "star") + (("step", "range step") if steps else ())))
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, 40))
    match kind:
        case "value":
            return str(first)
        case "range":
            return f"{first}-{last}"
        case "star":
            return "*"
        case "step":
            return f"*/{step}"
        case _:
            assume(first < last)  # cronsim reads 5-5/10 as 5/10
            return f"{first}-{last}/{step}"


@st.composite
def texts(draw):
    """Return a cron text; each field is a star, or a list of one to three items."""
    return " ".join(
        draw(st.just("*") | st.lists(items(field), min_size=1, max_size=3).map(",".join)) for field in FIELDS
    )


# Years whose clocks were turned by the present kind of rule, and whose seconds are whole minutes.
instants = st.datetimes(
    min_value=datetime(1975, 1, 1),  # noqa: DTZ001 -- the strategy adds the zone
    max_value=datetime(2036, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
zones = st.sampled_from(ZONES)
crons = st.builds(
    lambda text, zone, days: parse(text, zone=zone, days=days), texts(), zones, st.sampled_from(Days)
)


def turns(zone):
    """Return the instants between 1975 and 2036 at which the clocks of `zone` are turned, to the minute."""
    found, instant = [], datetime(1975, 1, 1, tzinfo=UTC)
    while instant < datetime(2036, 1, 1, tzinfo=UTC):
        later = instant + timedelta(hours=6)
        if later.astimezone(zone).utcoffset() != instant.astimezone(zone).utcoffset():
            found += [
                turn
                for turn in (instant + number * MINUTE for number in range(1, 361))
                if turn.astimezone(zone).utcoffset() != (turn - MINUTE).astimezone(zone).utcoffset()
            ]
        instant = later
    return found


TURNS = [(zone, turn) for zone in ZONES for turn in turns(zone)]
near_turns = st.sampled_from(TURNS).flatmap(
    lambda pair: st.tuples(
        st.just(pair[0]), st.integers(-30 * 60, 30 * 60).map(lambda number: pair[1] + number * MINUTE)
    )
)


def oracle(text, zone, instant):
    """Return cronsim's answer in UTC, or None.

    Asked from the second showing of a repeated hour it names times of the first; these are passed over.
    """
    with suppress(CronSimError):
        for found in CronSim(text, instant.astimezone(zone)):
            if found.astimezone(UTC) > instant:
                return found.astimezone(UTC)
    return None


# cronsim steps by whole hours, which goes astray where clocks turn by half an hour or at midnight; the walk
# below covers those zones.
hourly_zones = (BERLIN, NEW_YORK, ZoneInfo("Asia/Kolkata"), ZoneInfo("UTC"))


@given(texts(), st.sampled_from(hourly_zones), instants)
@settings(max_examples=300, deadline=None)
def test_the_next_instant_is_cronsims(text, zone, instant):
    """Anywhere in time both arithmetics name the same next instant."""
    assert parse(text, zone=zone).next_after(instant) == oracle(text, zone, instant)


@given(texts(), near_turns.filter(lambda pair: pair[0] in hourly_zones))
@settings(max_examples=300, deadline=None)
def test_the_next_instant_is_cronsims_where_clocks_turn(text, near):
    """Within a day of a turn of the clocks both arithmetics name the same next instant."""
    zone, instant = near
    assert parse(text, zone=zone).next_after(instant) == oracle(text, zone, instant)


def fits(cron, wall):
    """Say whether a wall time fits, by looking at each field's bits alone."""
    by_month = bool(cron.month_days >> wall.day & 1)
    by_week = bool(cron.week_days >> (wall.isoweekday() % 7) & 1)
    day = by_month and by_week if cron.both_days else by_month or by_week
    return day and bool(cron.months >> wall.month & cron.hours >> wall.hour & cron.minutes >> wall.minute & 1)


def walked(cron, start, end):
    """Return what is due in [start, end] by the words of the rule, minute by minute, in UTC."""
    found, instant, zone = set(), start, cron.zone
    while instant <= end:
        local = instant.astimezone(zone)
        if fits(cron, local) and not (cron.at_time_of_day and local.fold):
            found.add(instant)
        before = (instant - MINUTE).astimezone(zone)
        if cron.at_time_of_day and local.utcoffset() > before.utcoffset():
            skipped = before.replace(tzinfo=None) + MINUTE
            while skipped < local.replace(tzinfo=None):
                if fits(cron, skipped):
                    found.add(instant)
                skipped += MINUTE
        instant += MINUTE
    return sorted(found)


dense = st.builds(
    lambda minute, hour, day: f"{minute} {hour} {day} * *",
    st.sampled_from(("*", "*/20", "0", "30", "1,31", "0-59/15", "59")),
    st.sampled_from(("*", "*/2", "0", "2", "23", "0-3", "1,2,3", "0-23")),
    st.sampled_from(("*", "1-31", "*/2", "30,31")),
)


@given(dense | texts(), near_turns)
@settings(max_examples=60, deadline=None)
def test_each_instant_around_a_turn_is_what_the_rule_says(text, near):
    """In every zone, next, previous and count agree with the rule applied minute by minute."""
    zone, middle = near
    cron = parse(text, zone=zone)
    start, end = middle - timedelta(hours=40), middle + timedelta(hours=40)
    expected = walked(cron, start, end)

    forwards, instant = [], start - MINUTE
    while (instant := cron.next_after(instant)) is not None and instant <= end:
        forwards.append(instant)
    backwards, instant = [], end
    while (instant := cron.previous_at(instant)) is not None and instant >= start:
        backwards.append(instant)
        instant -= timedelta(microseconds=1)

    assert forwards == expected
    assert backwards[::-1] == expected
    assert cron.count(start - timedelta(microseconds=1), end) == len(expected)
    assert cron.count(middle, end) == len([found for found in expected if found > middle])
    assert cron.count(start - timedelta(microseconds=1), middle) == len(
        [found for found in expected if found <= middle]
    )


@given(crons, instants)
def test_next_and_previous_agree(cron, instant):
    """Nothing lies between an instant and what is next after it; what is due is its own previous."""
    later = cron.next_after(instant)
    assume(later is not None)

    assert later > instant
    assert cron.previous_at(later) == later
    earlier = cron.previous_before(later)
    assert earlier is None or earlier <= instant
    assert cron.previous_at(instant) == earlier
    if earlier is not None:
        assert cron.next_after(earlier) == later


@given(crons, instants, st.integers(1, 30))
def test_counting_is_enumerating(cron, instant, number):
    """Between an instant and the n-th one due after it there are n."""
    found = from_next(cron, instant, number)
    assume(found)

    assert cron.count(instant, found[-1]) == len(found)
    assert cron.count(found[-1], instant) == 0


@given(crons, instants)
def test_equal_questions_have_equal_answers(cron, instant):
    """The zone in which an instant is written does not matter, nor who asks."""
    again = parse(cron.text, zone=cron.zone, days=cron.days)

    assert again == cron
    assert cron.next_after(instant.astimezone(NEW_YORK)) == again.next_after(instant)


def test_an_hourly_job_runs_8760_times_a_year_in_real_time():
    """Turning the clocks neither loses nor adds a run of a job that follows real time."""
    cron = parse("@hourly", zone=BERLIN)

    assert cron.count(at("2026-01-01T00:00Z"), at("2027-01-01T00:00Z")) == 8760
    assert parse("30 2 * * *", zone=BERLIN).count(at("2026-01-01T00:00Z"), at("2027-01-01T00:00Z")) == 365


def test_a_schedule_travels_between_processes():
    """A parsed schedule survives pickling."""
    cron = parse("0 9 * * 1-5", zone=BERLIN)
    copy: Cron = pickle.loads(pickle.dumps(cron))

    assert copy == cron
    assert from_next(copy, at("2026-01-01T00:00Z"), 3) == from_next(cron, at("2026-01-01T00:00Z"), 3)
