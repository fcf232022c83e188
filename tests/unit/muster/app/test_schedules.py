"""Celery's ways to say when, against Celery's own classes, and `beat_schedule` as entries."""

import copy
import pickle
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import celery
import celery.schedules
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from muster.app.schedules import crontab, entries, schedule, solar
from muster.core.cron import Cron, CronError, Days, parse
from muster.core.schedule import Every, ScheduleError, due, schedule_of, succeeding
from muster.core.solar import Solar
from muster.wire import values
from muster.wire.schedule import decode_entry, encode

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CELERY = celery.Celery("oracle", set_as_current=False)
CELERY.conf.timezone = "UTC"


def expanded(bits):
    """Return the values that a field's bits stand for."""
    return {value for value in range(60) if bits >> value & 1}


def ours(**fields):
    """Return the five sets of values of Muster's crontab, by Celery's names."""
    cron = parse(crontab(**fields).text, days=Days.BOTH)
    return {
        "minute": expanded(cron.minutes),
        "hour": expanded(cron.hours),
        "day_of_month": expanded(cron.month_days),
        "month_of_year": expanded(cron.months),
        "day_of_week": expanded(cron.week_days),
    }


def theirs(**fields):
    """Return the same of Celery's."""
    other = celery.schedules.crontab(**fields)
    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return {name: set(getattr(other, name)) for name in names}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"minute": 0},
        {"minute": "*/15", "hour": "*/3"},
        {"minute": "1,13,30-45,50-59/2"},
        {"minute": [0, 30], "hour": (8, 20), "day_of_week": {1, 5}},
        {"minute": range(0, 60, 7)},
        {"hour": "22-2", "minute": 0},
        {"hour": "22-4/2", "minute": 0},
        {"day_of_week": "mon-fri"},
        {"day_of_week": "sunday"},
        {"day_of_week": "Thu,Fri"},
        {"day_of_week": "fri-mon"},
        {"day_of_week": "*/2"},
        {"day_of_week": "friday-monday/2"},
        {"day_of_month": "2-30/2"},
        {"day_of_month": "1-7,15-21", "day_of_week": 1},
        {"month_of_year": "*/3", "day_of_month": 11},
        {"month_of_year": "jan,december"},
        {"month_of_year": "nov-feb"},
        {"minute": "*/100"},
    ],
)
def test_argument_forms_mean_what_they_mean_in_celery(fields):
    """Ints, iterables, steps, names and ranges that wrap round name the same values."""
    assert ours(**copy.deepcopy(fields)) == theirs(**fields)


SPECS = {
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day_of_week": (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
    "day_of_month": (1, 31, ()),
    "month_of_year": (1, 12, ("jan", "feb", "march", "april", "may")),
}


def specs(low, high, names):
    """Return a strategy for all forms of one field."""
    numbers = st.integers(low, high)
    words = numbers.map(str) | st.sampled_from(names) if names else numbers.map(str)
    steps = st.integers(1, high).map(lambda step: f"/{step}")
    spans = st.tuples(words, words).map("-".join)
    parts = st.one_of(
        words,
        spans,
        st.tuples(spans, steps).map("".join),
        st.just("*"),
        steps.map(lambda step: f"*{step}"),
    )
    return st.one_of(
        numbers,
        st.lists(numbers, min_size=1, max_size=5),
        st.lists(parts, min_size=1, max_size=3).map(",".join),
    )


fields = st.fixed_dictionaries({}, optional={name: specs(*bounds) for name, bounds in SPECS.items()})


@given(fields)
def test_any_crontab_has_celerys_values_or_is_refused_as_there(fields):
    """Whatever Celery accepts names the same values here; a date that never comes is refused in both."""
    try:
        expected = theirs(**fields)
    except ValueError:
        with pytest.raises(ValueError, match="day_of_month"):
            crontab(**fields)
    else:
        assert ours(**fields) == expected


@given(
    fields,
    st.datetimes(
        min_value=datetime(1990, 1, 1),  # noqa: DTZ001 -- the strategy adds the zone
        max_value=datetime(2060, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
)
@settings(deadline=None)
def test_a_crontab_is_due_when_celerys_is(fields, instant):
    """In UTC the next due time after any run is the one that Celery names."""
    try:
        other = celery.schedules.crontab(**fields, app=CELERY, nowfun=lambda: instant)
        remaining = other.remaining_estimate(instant)
    except (ValueError, RuntimeError):  # a date that never comes, or too rare for Celery to find
        assume(False)
    cron = parse(crontab(**fields).text, days=Days.BOTH)

    assert cron.next_after(instant) == instant + remaining


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"minute": 60}, "minute '60'"),
        ({"minute": "60"}, "minute '60'"),
        ({"minute": -1}, "minute '-1'"),
        ({"minute": ""}, "minute ''"),
        ({"minute": "1,,2"}, "minute ''"),
        ({"minute": "*/0"}, r"minute '\*/0'"),
        ({"minute": "5/15"}, "minute '5/15'"),
        ({"minute": []}, "an empty list"),
        ({"minute": True}, "minute 'True'"),
        ({"minute": [1.5]}, "minute '1.5'"),
        ({"hour": 24}, "hour '24'"),
        ({"day_of_week": 7}, "day_of_week '7'"),
        ({"day_of_week": "monkey"}, "day_of_week 'monkey'"),
        ({"day_of_week": "mo"}, "day_of_week 'mo'"),
        ({"day_of_month": 0}, "day_of_month '0'"),
        ({"month_of_year": "13"}, "month_of_year '13'"),
        ({"day_of_month": 30, "month_of_year": 2}, "occurs in any month"),
    ],
)
def test_a_crontab_that_cannot_be_is_refused_by_its_argument(fields, named):
    """The error names Celery's argument and says what is allowed."""
    with pytest.raises(CronError, match=named):
        crontab(**fields)


def test_a_clock_of_ones_own_is_refused():
    """Who passes `nowfun` is told what to use instead."""
    with pytest.raises(ValueError, match="timezone"):
        crontab(nowfun=datetime.now)
    with pytest.raises(ValueError, match="elapsed"):
        schedule(60, nowfun=datetime.now)


def test_positions_are_celerys():
    """The third position is the day of the week, not the day of the month as in cron text."""
    assert crontab("0", "4", "1") == crontab(minute=0, hour=4, day_of_week="mon")
    assert crontab.from_string("0 4 15 * 1") == crontab(0, 4, 1, 15)
    with pytest.raises(CronError, match="five fields"):
        crontab.from_string("0 4 15 *")


def test_a_star_keeps_its_dst_rule():
    """`*/30` follows real time where clocks turn, `0,30` is a time of day; so they are not equal."""
    follows = parse(crontab(minute="*/30", hour=2).text)
    keeps = parse(crontab(minute=[0, 30], hour=2).text)

    assert (follows.at_time_of_day, keeps.at_time_of_day) == (False, True)
    assert crontab(minute="*/30", hour=2) != crontab(minute=[0, 30], hour=2)


@pytest.mark.parametrize(
    "value",
    [crontab(0, "*/2", "mon-fri", range(1, 8)), schedule(90), solar("sunset", 52.5, 13.4)],
)
def test_values_travel_and_compare(value):
    """Pickled, copied and hashed they are the same value, and no other."""
    assert pickle.loads(pickle.dumps(value)) == value
    assert hash(copy.deepcopy(value)) == hash(value)
    assert value != "else"
    assert repr(value)


def test_a_schedule_is_its_interval():
    """Seconds and timedeltas are two ways to write one interval."""
    assert schedule(90) == schedule(timedelta(minutes=1.5), relative=True) == timedelta(seconds=90)
    assert schedule(90).seconds == 90
    assert schedule(90) != schedule(91)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eclipse", 0, 0), "dawn_astronomical"),
        (("sunset", 91, 0), "latitude"),
        (("sunset", 0, 200), "longitude"),
    ],
)
def test_what_the_sun_does_not_do_is_refused(arguments, words):
    """Events and places are checked where they are written."""
    with pytest.raises(ValueError, match=words):
        solar(*arguments)


# --- beat_schedule ------------------------------------------------------------------------------------------


def read(setting, **arguments):
    """Return the entries of a setting as beat reads them: through the broker."""
    arguments = {"application": "shop", "time_zone": "Europe/Berlin", "now": NOW, **arguments}
    return [decode_entry(encode(entry)) for entry in entries(setting, **arguments)]


def test_each_way_to_say_when():
    """Numbers, timedeltas, and the three classes become timings of the core."""
    found = read(
        {
            "int": {"task": "t", "schedule": 30},
            "float": {"task": "t", "schedule": 0.5},
            "timedelta": {"task": "t", "schedule": timedelta(minutes=2)},
            "schedule": {"task": "t", "schedule": schedule(run_every=timedelta(hours=1))},
            "crontab": {"task": "t", "schedule": crontab(minute=0, hour=9, day_of_week="mon-fri")},
            "solar": {"task": "t", "schedule": solar("sunset", 52.5, 13.4)},
        }
    )
    timings = {entry.name: schedule_of(entry).timing for entry in found}

    assert [timings[name].period.total_seconds() for name in ("int", "float", "timedelta", "schedule")] == [
        30,
        0.5,
        120,
        3600,
    ]
    assert isinstance(timings["int"], Every)
    assert isinstance(timings["crontab"], Cron)
    assert timings["crontab"].next_after(NOW) == datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert timings["crontab"].both_days
    assert isinstance(timings["solar"], Solar)


def test_an_entry_keeps_celerys_meaning_of_days():
    """Friday the thirteenth is both, on the broker too: after November 2026 that is in August 2027."""
    (entry,) = read({"x": {"task": "t", "schedule": crontab(0, 0, 5, 13)}}, time_zone="UTC")

    assert schedule_of(entry).timing.next_after(NOW) == datetime(2027, 8, 13, tzinfo=UTC)


def test_what_is_sent_comes_through():
    """Task, arguments, options and queue arrive; types beyond JSON in the wire's own form."""
    (entry,) = read(
        {
            "report": {
                "task": "shop.report",
                "schedule": 30,
                "args": (1, "two", datetime(2026, 1, 1, tzinfo=UTC)),
                "kwargs": {"big": 2**80, "deep": {"a": [None]}},
                "options": {"queue": "mail", "priority": 5, "expires": timedelta(minutes=10)},
                "relative": True,
            }
        }
    )

    assert (entry.task, entry.queue, entry.options) == (
        "shop.report",
        "mail",
        {"priority": 5, "expires": 600.0},
    )
    assert values.loads(values.dumps(entry.args)) == [1, "two", datetime(2026, 1, 1, tzinfo=UTC)]
    assert entry.kwargs == {"big": 2**80, "deep": {"a": [None]}}


def test_defaults_are_empty_and_read_only_settings_are_fine():
    """Missing or None arguments are no arguments; the setting is not changed by reading it."""
    setting = {
        "x": MappingProxyType({"task": "t", "schedule": 1, "args": None, "kwargs": None, "options": None})
    }
    (entry,) = read(setting)

    assert (entry.args, entry.kwargs, entry.options, entry.queue) == ((), {}, {}, None)


def test_the_cron_deadline_is_for_crontabs():
    """`beat_cron_starting_deadline` limits how late a crontab is caught up with, and no interval."""
    found = read(
        {"c": {"task": "t", "schedule": crontab()}, "i": {"task": "t", "schedule": 60}},
        starting_deadline_seconds=120,
    )

    assert [entry.starting_deadline_seconds for entry in found] == [120, None]


def test_a_uid_is_the_applications_and_the_entrys():
    """Read again it is the same, in another application another."""
    setting = {"a": {"task": "t", "schedule": 1}, "b": {"task": "t", "schedule": 1}}
    first, again, other = (
        read(setting),
        read(setting, now=NOW + timedelta(days=1)),
        read(setting, application="x"),
    )

    assert [entry.uid for entry in first] == [entry.uid for entry in again]
    assert len({entry.uid for entry in first + other}) == 4


def test_a_second_beat_keeps_the_rhythm_of_the_first():
    """An interval counts from the first beat's start, also when a second one starts later."""
    setting = {"a": {"task": "t", "schedule": 60}}
    (first,) = read(setting)
    later = NOW + timedelta(seconds=1000)
    (second,) = read(setting, now=later)
    taken_over = succeeding(second, succeeding(first, None, NOW), later)

    found = due(schedule_of(taken_over), NOW + timedelta(seconds=960), NOW + timedelta(seconds=1020))
    assert found.ticks == (NOW + timedelta(seconds=1020),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("shop.report", "must be a mapping"),
        ({"schedule": 30}, r"\['task'\] must be the name"),
        ({"task": "t"}, r"\['schedule'\] must be seconds"),
        ({"task": "t", "schedule": True}, "must be seconds"),
        ({"task": "t", "schedule": "0 9 * * *"}, "must be seconds"),
        ({"task": "t", "schedule": celery.schedules.crontab()}, "Muster's crontab"),
        ({"task": "t", "schedule": 0}, "cannot be kept"),
        ({"task": "t", "schedule": -5}, "cannot be kept"),
        ({"task": "t", "schedule": float("nan")}, "cannot be kept"),
        ({"task": "t", "schedule": float("inf")}, "cannot be kept"),
        ({"task": "t", "schedule": 10**400}, "cannot be kept"),
        ({"task": "t", "schedule": 1, "when": 2}, "unknown key 'when'"),
        ({"task": "t", "schedule": 1, "args": "abc"}, r"\['args'\] must be a list"),
        ({"task": "t", "schedule": 1, "args": [object()]}, r"\['args'\] cannot be written as JSON"),
        ({"task": "t", "schedule": 1, "args": [float("nan")]}, "JSON has no NaN"),
        ({"task": "t", "schedule": 1, "kwargs": [1]}, r"\['kwargs'\] must be a mapping"),
        ({"task": "t", "schedule": 1, "options": {"queue": 5}}, "name of a queue"),
        ({"task": "t", "schedule": 1, "options": {"expires": NOW}}, "a fixed time passes"),
    ],
)
def test_a_bad_entry_is_refused_by_name_and_key(fields, words):
    """The error names the entry, and what to write there."""
    with pytest.raises(ScheduleError, match=words) as caught:
        read({"x": fields})

    assert "beat_schedule['x']" in str(caught.value)


def test_a_bad_zone_is_refused_with_the_entry_that_needs_it():
    """`timezone` matters to crontabs."""
    with pytest.raises(ScheduleError, match="Europe/Atlantis"):
        read({"x": {"task": "t", "schedule": crontab()}}, time_zone="Europe/Atlantis")
