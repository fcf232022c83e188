"""Floors: times in which a pool is never smaller than so many."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.workerpool import Floor
from muster_operator.decide.floors import floor_at

OFFICE = Floor(schedule="0 8 * * 1-5", until="0 18 * * 1-5", time_zone="Europe/Berlin", replicas=5)
NIGHT = Floor(schedule="0 22 * * *", until="0 6 * * *", replicas=2)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "replicas", "changes_at"),
    [
        ("2026-11-20T06:59:59", 0, "2026-11-20T07:00:00"),  # a Friday, Berlin is one hour ahead
        ("2026-11-20T07:00:00", 5, "2026-11-20T17:00:00"),
        ("2026-11-20T16:59:59", 5, "2026-11-20T17:00:00"),
        ("2026-11-20T17:00:00", 0, "2026-11-23T07:00:00"),
        ("2026-11-21T12:00:00", 0, "2026-11-23T07:00:00"),
        ("2026-07-01T06:00:00", 5, "2026-07-01T16:00:00"),  # in summer two hours
    ],
)
def test_a_floor_holds_from_its_start_until_its_end(moment, replicas, changes_at):
    """Last start ≤ now < next end, in the floor's time zone, and the next change is known."""
    found = floor_at([OFFICE], at(moment))
    assert (found.replicas, found.changes_at) == (replicas, at(changes_at))


@pytest.mark.parametrize(("hour", "replicas"), [(23, 2), (0, 2), (5, 2), (6, 0), (21, 0), (22, 2)])
def test_a_floor_may_span_midnight(hour, replicas):
    """A night's floor begins on one day and ends on the next."""
    assert floor_at([NIGHT], datetime(2026, 11, 20, hour, tzinfo=UTC)).replicas == replicas


def test_of_overlapping_floors_the_highest_holds():
    """Overlap takes the highest, and the next change is that of any."""
    high = Floor(schedule="0 9 * * *", until="0 10 * * *", replicas=7)
    found = floor_at([OFFICE, high], at("2026-11-20T09:30:00"))
    assert (found.replicas, found.changes_at) == (7, at("2026-11-20T10:00:00"))


@pytest.mark.parametrize(
    ("floor", "says"),
    [
        (Floor(schedule="0 8 * * 9", until="0 18 * * *", replicas=5), "day of week"),
        (Floor(schedule="0 8 * * *", until="0 18 * * *", time_zone="Mars/Base", replicas=5), "time zone"),
    ],
    ids=["cron", "zone"],
)
def test_a_floor_that_names_no_time_does_not_hold_and_says_why(floor, says):
    """It is left out, the others hold, and the error names the field and what is wrong."""
    found = floor_at([floor, OFFICE], at("2026-11-20T12:00:00"))
    assert found.replicas == 5
    assert found.errors[0].startswith("spec.scaling.floors[0]: ")
    assert says in found.errors[0]


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_nothing_changes_before_the_change_that_is_announced(moment):
    """Asked again just before `changes_at` the answer is the same; asked then, it is the other one."""
    found = floor_at([OFFICE], moment)
    assert floor_at([OFFICE], found.changes_at.replace(microsecond=0)).replicas != found.replicas
    between = moment + (found.changes_at - moment) * 0.999
    assert floor_at([OFFICE], between).replicas == found.replicas
