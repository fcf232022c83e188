"""When a schedule is due: the policies as named stories, and what holds for every one of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core import cron
from muster.core.schedule import (
    CATCH_UP_MAX,
    FIRST_SIGHT,
    ON_TIME,
    RETRY,
    CatchUp,
    ConcurrencyPolicy,
    Due,
    Every,
    Reason,
    Schedule,
    ScheduleError,
    Unknown,
    due,
    schedule_of,
    succeeding,
)
from muster.core.solar import Event, Solar
from muster.wire.schedule import ScheduleEntry, SolarEntry

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

EACH_MINUTE = Schedule(timing=cron.parse("* * * * *"), since=NOON)


def minutes(*numbers):
    """Return instants so many minutes after noon."""
    return tuple(NOON + number * MINUTE for number in numbers)


# --- one tick after the other -------------------------------------------------------------------------


def test_a_due_time_is_sent_when_it_comes():
    """One due time since the mark is one tick; the mark moves to it."""
    assert due(EACH_MINUTE, NOON, NOON + MINUTE + SECOND) == Due(
        ticks=minutes(1),
        settled_at=NOON + MINUTE,
        ask_at=NOON + 2 * MINUTE,
        next_at=NOON + 2 * MINUTE,
        reason=Reason.DUE,
    )


def test_before_its_time_nothing_is_sent():
    """Asked too early, it says when to ask."""
    assert due(EACH_MINUTE, NOON, NOON + MINUTE - MICROSECOND) == Due(
        ask_at=NOON + MINUTE, next_at=NOON + MINUTE, reason=Reason.NOT_YET
    )


def test_what_is_settled_is_not_due_again():
    """The same question with the mark moved has no ticks."""
    now = NOON + MINUTE + SECOND
    first = due(EACH_MINUTE, NOON, now)

    assert due(EACH_MINUTE, first.settled_at, now).ticks == ()


def test_a_later_start_settles_what_the_mark_does_not():
    """After a change the entry's start lies ahead of the mark: what is between is neither sent nor missed."""
    found = due(replace(EACH_MINUTE, since=NOON + 9 * MINUTE), NOON + MINUTE, NOON + 10 * MINUTE)

    assert (found.ticks, found.missed) == (minutes(10), 0)


def test_a_clock_set_back_repeats_nothing():
    """With a mark that lies ahead, the next due time is the first one after the mark."""
    found = due(EACH_MINUTE, NOON + 60 * MINUTE, NOON + MINUTE)

    assert (found.ticks, found.next_at, found.reason) == ((), NOON + 61 * MINUTE, Reason.NOT_YET)


def test_a_suspended_schedule_is_silent():
    """Nothing is sent, missed or asked for while it is suspended."""
    assert due(replace(EACH_MINUTE, suspended=True), None, NOON + 5 * MINUTE) == Due(reason=Reason.SUSPENDED)


def test_a_date_that_does_not_exist_is_never():
    """30 February: nothing to send and nothing to wait for."""
    assert due(replace(EACH_MINUTE, timing=cron.parse("0 0 30 2 *")), None, NOON) == Due(reason=Reason.NEVER)


# --- after an absence of three due times (ux-reliability row 38) --------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "deadline_seconds", "ticks", "missed", "reason"),
    [
        (CatchUp.NONE, None, (), 3, Reason.TOO_LATE),
        (CatchUp.NONE, 60, (), 3, Reason.TOO_LATE),
        (CatchUp.LAST, None, (3,), 2, Reason.CAUGHT_UP),
        (CatchUp.LAST, 60, (3,), 2, Reason.CAUGHT_UP),
        (CatchUp.LAST, 29, (), 3, Reason.TOO_LATE),
        (CatchUp.ALL, None, (1, 2, 3), 0, Reason.CAUGHT_UP),
        (CatchUp.ALL, 100, (2, 3), 1, Reason.CAUGHT_UP),
        (CatchUp.ALL, 29, (), 3, Reason.TOO_LATE),
    ],
)
def test_three_due_times_without_a_beat(catch_up, deadline_seconds, ticks, missed, reason):
    """Thirty seconds after the third: skip, the last one, or all, within the deadline."""
    deadline = None if deadline_seconds is None else timedelta(seconds=deadline_seconds)
    found = due(
        replace(EACH_MINUTE, catch_up=catch_up, deadline=deadline), NOON, NOON + 3 * MINUTE + 30 * SECOND
    )

    assert (found.ticks, found.missed, found.reason) == (minutes(*ticks), missed, reason)
    assert found.settled_at == NOON + 3 * MINUTE


def test_without_catch_up_a_beat_may_still_take_over():
    """A tick no later than `ON_TIME` is no missed one, one microsecond more and it is."""
    schedule = replace(EACH_MINUTE, catch_up=CatchUp.NONE)

    assert due(schedule, NOON, NOON + MINUTE + ON_TIME).ticks == minutes(1)
    assert due(schedule, NOON, NOON + MINUTE + ON_TIME + MICROSECOND).ticks == ()


def test_all_means_at_most_a_hundred():
    """After a day without a beat the latest hundred are sent, the others counted."""
    found = due(replace(EACH_MINUTE, catch_up=CatchUp.ALL), NOON, NOON + 1440 * MINUTE)

    assert found.ticks == minutes(*range(1341, 1441))
    assert (len(found.ticks), found.missed) == (CATCH_UP_MAX, 1340)


# --- overlapping runs (row 40) ------------------------------------------------------------------------

FORBID = replace(EACH_MINUTE, concurrency_policy=ConcurrencyPolicy.FORBID)


def test_forbid_leaves_out_what_finds_the_run_before_unfinished():
    """The due time is missed for good."""
    found = due(FORBID, NOON, NOON + MINUTE, running=True)

    assert (found.ticks, found.missed, found.settled_at) == ((), 1, NOON + MINUTE)
    assert found.reason is Reason.STILL_RUNNING


def test_forbid_waits_when_it_cannot_know():
    """An unknown state settles nothing: the due time is sent once it is known, and is not lost."""
    unknown = due(FORBID, NOON, NOON + MINUTE, running=Unknown(reason="Redis does not answer"))
    known = due(FORBID, NOON, NOON + MINUTE + RETRY, running=False)

    assert unknown == Due(
        ask_at=NOON + MINUTE + RETRY, next_at=NOON + 2 * MINUTE, reason=Reason.RUNNING_UNKNOWN
    )
    assert known.ticks == minutes(1)


def test_forbid_never_sends_two_at_once():
    """To catch up with all would be to overlap: the latest is sent."""
    found = due(replace(FORBID, catch_up=CatchUp.ALL), NOON, NOON + 3 * MINUTE)

    assert (found.ticks, found.missed) == (minutes(3), 2)


def test_allow_does_not_look_at_the_run_before():
    """Running or unknown makes no difference."""
    now = NOON + MINUTE

    assert due(EACH_MINUTE, NOON, now, running=True) == due(EACH_MINUTE, NOON, now)
    assert due(EACH_MINUTE, NOON, now, running=Unknown(reason="x")) == due(EACH_MINUTE, NOON, now)


# --- properties ---------------------------------------------------------------------------------------

timings = st.one_of(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "15 6 1 * mon"]).flatmap(
        lambda text: st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]).map(
            lambda zone: cron.parse(text, zone=cron.zone_named(zone))
        )
    ),
    st.builds(
        Every,
        period=st.timedeltas(timedelta(seconds=1), timedelta(days=2)),
        start=st.just(NOON - timedelta(days=1)),
    ),
    st.builds(
        Solar, event=st.sampled_from(Event), latitude=st.floats(-80, 80), longitude=st.floats(-180, 180)
    ),
)
schedules = st.builds(
    Schedule,
    timing=timings,
    since=st.timedeltas(-timedelta(days=1), timedelta(days=1)).map(lambda after: NOON + after),
    deadline=st.none() | st.timedeltas(SECOND, timedelta(days=1)),
    catch_up=st.sampled_from(CatchUp),
    concurrency_policy=st.sampled_from(ConcurrencyPolicy),
)
# Wakes from one second to a day and a half apart; now and then the clock is set back.
wakes = st.lists(
    st.tuples(
        st.one_of(
            st.timedeltas(SECOND, 3 * MINUTE),
            st.timedeltas(SECOND, timedelta(hours=36)),
            st.timedeltas(-timedelta(hours=2), timedelta(0)),
        ),
        st.sampled_from([False, True, Unknown(reason="no answer")]),
    ),
    min_size=1,
    max_size=8,
)


def lived(schedule, wakes):
    """Return what a beat concludes at each wake, as (now, Due), carrying the mark on."""
    now, settled_at, found = NOON, None, []
    for after, running in wakes:
        now += after
        answer = due(schedule, settled_at, now, running=running)
        found.append((now, answer))
        settled_at = answer.settled_at or settled_at
    return found, settled_at


def all_due(timing, after, until):
    found = []
    while (after := timing.next_after(after)) is not None and after <= until:
        found.append(after)
    return found


@given(schedules, wakes)
@settings(deadline=None)
def test_each_due_time_is_sent_once_or_missed_once(schedule, wakes):
    """Whatever the wakes: no time twice, in order, only real ones, and none is neither sent nor missed."""
    answers, settled_at = lived(schedule, wakes)
    ticks = [tick for _, answer in answers for tick in answer.ticks]
    everything = [] if settled_at is None else all_due(schedule.timing, schedule.since, settled_at)

    assert ticks == sorted(set(ticks))
    assert set(ticks) <= set(everything)
    assert len(ticks) + sum(answer.missed for _, answer in answers) == len(everything)


@given(schedules, wakes)
@settings(deadline=None)
def test_no_tick_comes_before_its_time_or_outside_the_policy(schedule, wakes):
    """Not early, not beyond the deadline, and no more at once than the policy permits."""
    for now, answer in lived(schedule, wakes)[0]:
        assert len(answer.ticks) <= (CATCH_UP_MAX if schedule.catch_up is CatchUp.ALL else 1)
        for tick in answer.ticks:
            assert tick <= now
            assert schedule.deadline is None or now - tick <= schedule.deadline
            assert schedule.catch_up is not CatchUp.NONE or now - tick <= ON_TIME
        if schedule.concurrency_policy is ConcurrencyPolicy.FORBID:
            assert len(answer.ticks) <= 1


@given(schedules, st.timedeltas(SECOND, timedelta(days=3)), st.timedeltas(SECOND, timedelta(days=3)))
@settings(deadline=None)
def test_a_beat_that_was_away_sends_no_more_than_one_that_was_not(schedule, first, second):
    """What one wake after a long absence sends is a part of what two wakes in that time send."""
    seldom = due(schedule, None, NOON + first + second)
    early = due(schedule, None, NOON + first)
    late = due(schedule, early.settled_at, NOON + first + second)

    assert set(seldom.ticks) <= {*early.ticks, *late.ticks}
    assert len(seldom.ticks) + seldom.missed == sum(len(each.ticks) + each.missed for each in (early, late))


@given(schedules, wakes)
@settings(deadline=None)
def test_two_beats_agree(schedule, wakes):
    """The same inputs give the same ticks to whoever asks, wherever the instants were written."""
    elsewhere = cron.zone_named("America/New_York")
    settled_at = None
    now = NOON
    for after, running in wakes:
        now += after
        one = due(schedule, settled_at, now, running=running)
        other = due(
            schedule,
            None if settled_at is None else settled_at.astimezone(elsewhere),
            now.astimezone(elsewhere),
            running=running,
        )
        assert one == other
        settled_at = one.settled_at or settled_at


@given(schedules, st.timedeltas(-timedelta(days=1), timedelta(days=3)))
@settings(deadline=None)
def test_who_asks_at_the_time_that_was_named_finds_it_due(schedule, after):
    """`ask_at` is the next due time: no beat sleeps past one, none wakes for nothing."""
    answer = due(schedule, None, NOON + after)
    if answer.ask_at is not None:
        mark = answer.settled_at
        assert due(schedule, mark, answer.ask_at - MICROSECOND).ticks == ()
        assert due(schedule, mark, answer.ask_at).ticks[-1:] == (answer.ask_at,)


every = st.builds(
    Every,
    period=st.timedeltas(timedelta(milliseconds=100), timedelta(days=9)),
    start=st.datetimes(timezones=st.just(UTC), min_value=datetime(1980, 1, 1)),  # noqa: DTZ001
)


@given(every, st.timedeltas(-timedelta(days=9), timedelta(days=30_000)))
def test_an_interval_is_due_at_whole_multiples_after_its_start(timing, after):
    """Next, previous and count agree, and the first due time is one period after the start."""
    try:
        instant = timing.start + after
    except OverflowError:
        return
    later = timing.next_after(instant)
    if later is None:
        return
    earlier = timing.previous_at(instant)

    assert later > instant
    assert (later - timing.start) % timing.period == timedelta(0)
    assert timing.previous_at(later) == later
    if earlier is None:
        assert later == timing.start + timing.period
        assert timing.count(timing.start, instant) == 0
    else:
        assert earlier <= instant
        assert later - earlier == timing.period
        assert timing.count(timing.start, instant) == (earlier - timing.start) // timing.period
    assert timing.count(instant, later) == 1


# --- entries ------------------------------------------------------------------------------------------

ENTRY = ScheduleEntry(
    uid="u-1", name="shop/report", task="shop.report", cron="0 9 * * *", created_at=NOON, since=NOON
)


def changed(**fields):
    return msgspec.structs.replace(ENTRY, **fields)


def test_an_entry_becomes_a_schedule():
    """All that says when is taken over."""
    entry = changed(
        time_zone="Europe/Berlin",
        days="Both",
        catch_up="All",
        concurrency_policy="Forbid",
        starting_deadline_seconds=90,
        suspended=True,
    )

    assert schedule_of(entry) == Schedule(
        timing=cron.parse("0 9 * * *", zone=cron.zone_named("Europe/Berlin"), days=cron.Days.BOTH),
        since=NOON,
        suspended=True,
        deadline=timedelta(seconds=90),
        catch_up=CatchUp.ALL,
        concurrency_policy=ConcurrencyPolicy.FORBID,
    )
    assert schedule_of(changed(cron=None, every_seconds=30)).timing == Every(
        period=timedelta(seconds=30), start=NOON
    )
    assert schedule_of(
        changed(cron=None, solar=SolarEntry(event="sunset", latitude=52.5, longitude=13.4))
    ).timing == Solar(event=Event.SUNSET, latitude=52.5, longitude=13.4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cron": "0 25 * * *"}, "hour '25'"),
        ({"time_zone": "Europe/Atlantis"}, "time zone 'Europe/Atlantis'"),
        ({"cron": None, "every_seconds": 0.01}, "from 0.1 s"),
        ({"cron": None, "every_seconds": 1e10 - 1}, "a hundred years"),
        (
            {"cron": None, "solar": SolarEntry(event="eclipse", latitude=0, longitude=0)},
            "'eclipse' is not known",
        ),
        ({"cron": None, "solar": SolarEntry(event="sunset", latitude=99, longitude=0)}, "latitude 99"),
        ({"starting_deadline_seconds": 0.5}, "at least 1 s"),
    ],
)
def test_an_entry_that_cannot_be_scheduled_is_refused_in_words(fields, words):
    """The error names the schedule and says what is wrong."""
    with pytest.raises(ScheduleError, match=words) as caught:
        schedule_of(changed(**fields))

    assert "shop/report" in str(caught.value)


def test_a_new_schedule_starts_with_its_creation():
    """A due time between the creation and the first sight of it is not lost."""
    seen = NOON + 2 * SECOND

    assert succeeding(changed(since=seen), None, seen).since == NOON


def test_an_old_schedule_without_a_memory_starts_now():
    """When the broker has lost everything, what was due before is not sent a second time."""
    seen = NOON + FIRST_SIGHT + SECOND

    assert succeeding(ENTRY, None, seen).since == seen


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "0 8 * * *"},
        {"time_zone": "Europe/Berlin"},
        {"days": "Both"},
        {"cron": None, "every_seconds": 60},
        {"uid": "u-2", "created_at": NOON - timedelta(days=9)},
    ],
)
def test_a_change_of_when_does_not_fire_the_past(fields):
    """Another time, zone or schedule starts from the moment it was seen."""
    seen = NOON + timedelta(days=3)
    entry = succeeding(changed(**fields), ENTRY, seen)

    assert entry.since == seen
    assert due(schedule_of(entry), None, seen).ticks == ()


@pytest.mark.parametrize(
    "fields",
    [{"args": (1,)}, {"queue": "other"}, {"catch_up": "All"}, {"suspended": True}, {"generation": 9}],
)
def test_any_other_change_keeps_the_schedule_going(fields):
    """What is sent, where and with what patience does not lose a due time."""
    seen = NOON + timedelta(days=3)

    assert succeeding(changed(since=seen, **fields), ENTRY, seen).since == NOON


def test_the_end_of_a_suspension_is_a_start():
    """Due times of a suspended schedule are not caught up with."""
    seen = NOON + timedelta(days=3)

    assert succeeding(ENTRY, changed(suspended=True), seen).since == seen


def test_an_interval_keeps_its_start():
    """Written anew, with a creation of now, an interval still counts from its first sight."""
    before = changed(cron=None, every_seconds=60)
    later = NOON + timedelta(days=3)

    assert succeeding(msgspec.structs.replace(before, created_at=later, since=later), before, later) == before


def test_writing_twice_is_writing_once():
    """A second look at the same entry changes nothing."""
    for before in (None, ENTRY, changed(cron="1 2 3 4 5"), changed(suspended=True)):
        once = succeeding(ENTRY, before, NOON + timedelta(days=3))
        assert succeeding(ENTRY, once, NOON + timedelta(days=4)) == once


def test_five_schedules_of_one_period_are_not_due_together():
    """Intervals count from each schedule's own creation."""
    firsts = [Every(period=MINUTE, start=NOON + number * SECOND).next_after(NOON) for number in range(5)]

    assert all(later - earlier == SECOND for earlier, later in pairwise(firsts))
