"""When a status is written, and how its figures are rounded."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.conditions import Condition, ConditionStatus
from muster_operator.api.workerpool import LastDecision, WorkerPoolStatus
from muster_operator.decide.status import merge_conditions, rounded, rounded_age, write
from worlds import NOW, seconds

READY = Condition(type="Ready", status=ConditionStatus.TRUE, reason="AsDeclared", message="3 of 3")
OLD = WorkerPoolStatus(desired=3, ready=3, depth=20, conditions=(READY,))


def written(new, *, ago):
    return write(OLD, new, written_at=NOW - seconds(ago), now=NOW)


def test_an_equal_status_is_not_written():
    """However long ago the last write was."""
    assert written(OLD, ago=9999).status is None


@pytest.mark.parametrize(
    "figures",
    [{"depth": 30}, {"busy": 4}, {"ready": 2}, {"oldest_age": seconds(10)}, {"slots": 1}, {"in_flight": 1}],
    ids=str,
)
def test_a_figure_waits_for_its_turn(figures):
    """30 s after the last write, and it says when that is."""
    new = replace(OLD, **figures)
    assert written(new, ago=29).status is None
    assert written(new, ago=29).due_at == NOW + seconds(1)
    assert written(new, ago=30).status == new


@pytest.mark.parametrize(
    "change",
    [
        {"desired": 4},
        {"replicas": 4},
        {"observed_generation": 2},
        {"last_decision": LastDecision(from_=1, to=3, reason="LoadRose", time=NOW)},
        {"conditions": (replace(READY, status=ConditionStatus.FALSE),)},
        {"conditions": (replace(READY, reason="Progressing"),)},
        {"conditions": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_acted_on_is_written_at_once(change):
    """Sizes, generations, decisions and conditions wait for nothing."""
    assert written(replace(OLD, **change), ago=0).status is not None


def test_a_message_with_other_numbers_waits():
    """The same condition in other words is a figure."""
    new = replace(OLD, conditions=(replace(READY, message="2 of 3"),))
    assert written(new, ago=29).status is None
    assert written(new, ago=30).status == new


def test_a_restarted_operator_may_write():
    """It does not know when the last write was."""
    assert write(OLD, replace(OLD, depth=1), written_at=None, now=NOW).status is not None


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, 0), (1, 1), (20, 20), (21, 21), (99, 99), (101, 100), (1234, 1200), (99999, 99000)],
)
def test_counts_are_rounded_to_two_digits(count, shown):
    """Exact up to 99, never up, and nothing but 0 becomes 0."""
    assert rounded(count) == shown


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_rounding_keeps_the_order(first, second):
    """A larger queue never looks smaller, and the error is below a tenth."""
    low, high = sorted((first, second))
    assert rounded(low) <= rounded(high)
    assert 0 <= high - rounded(high) <= high / 10


@pytest.mark.parametrize(
    ("age", "shown"), [(None, None), (0, 0), (9, 0), (59, 50), (61, 60), (3599, 3540), (8000, 7200)]
)
def test_ages_are_rounded_to_steps(age, shown):
    """Steps of 10 s, of a minute, of an hour."""
    assert rounded_age(age) == (None if shown is None else timedelta(seconds=shown))


def test_conditions_keep_the_time_of_their_transition():
    """A status that stays keeps its time, one that turns gets now, and what is not found any more goes."""
    old = (
        replace(READY, last_transition_time=NOW - seconds(60)),
        Condition(type="Gone", status=ConditionStatus.TRUE, reason="X"),
        Condition(
            type="Paused",
            status=ConditionStatus.TRUE,
            reason="PausedBySpec",
            last_transition_time=NOW - seconds(60),
        ),
    )
    paused = Condition(type="Paused", status=ConditionStatus.FALSE, reason="NotPaused")
    found = merge_conditions(old, [READY, paused], generation=3, now=NOW)
    assert [(each.type, each.last_transition_time) for each in found] == [
        ("Ready", NOW - seconds(60)),
        ("Paused", NOW),
    ]
    assert {each.observed_generation for each in found} == {3}
