"""Windows and step policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.workerpool import PolicyType, ScalingPolicy, ScalingRules, SelectPolicy
from muster_operator.decide import stabilize
from muster_operator.model.history import Change, History
from worlds import NOW, seconds

WINDOW = seconds(60)


def recorded(*wishes, window=WINDOW):
    """The history of wishes at these seconds before now."""
    history = History()
    for ago, wish in wishes:
        history = stabilize.record_wish(history, wish, window, NOW - seconds(ago))
    return history


def rules(*policies, select=SelectPolicy.MAX):
    made = tuple(
        ScalingPolicy(type=PolicyType(kind), value=value, period_seconds=period)
        for kind, value, period in policies
    )
    return ScalingRules(policies=made, select_policy=select)


def changed(*changes):
    return History(changes=tuple(Change(at=NOW - seconds(ago), by=by) for ago, by in changes))


def test_the_window_remembers_its_extremes():
    """Highest and lowest of the window, and of nothing older."""
    history = recorded((90, 99), (50, 7), (20, 3), (0, 5))
    assert stabilize.highest(history, WINDOW, NOW) == 7
    assert stabilize.lowest(history, WINDOW, NOW) == 3


def test_a_window_is_covered_after_its_whole_length():
    """One second less is not enough."""
    assert stabilize.covered(recorded((60, 1), (30, 1), (0, 1)), WINDOW, NOW)
    assert not stabilize.covered(recorded((59, 1), (30, 1), (0, 1)), WINDOW, NOW)
    assert not stabilize.covered(History(), WINDOW, NOW)


def test_an_unknown_load_breaks_the_window():
    """After an Unknown the window begins anew."""
    history = recorded((90, 1), (60, 1), (40, None), (20, 1), (0, 1))
    assert not stabilize.covered(history, WINDOW, NOW)
    assert stabilize.covered(history, seconds(20), NOW)


def test_a_pause_longer_than_the_window_breaks_it():
    """An operator that slept has proof of nothing."""
    assert not stabilize.covered(recorded((200, 1), (0, 1)), WINDOW, NOW)


def test_a_longer_window_must_be_covered_anew():
    """What was forgotten under a short window cannot prove a long one."""
    history = recorded(*((ago, 1) for ago in range(600, -1, -10)))
    assert stabilize.covered(history, WINDOW, NOW)
    history = stabilize.record_wish(history, 1, seconds(300), NOW)
    assert not stabilize.covered(history, seconds(300), NOW)


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 50)), max_size=300),
    st.sampled_from([0, 1, 60, 3600]),
)
def test_the_record_of_wishes_is_bounded_and_never_less_careful(steps, window):
    """However often it is written, it stays small, and its extremes enclose those of the true window."""
    history, moment, true = History(), NOW, []
    for elapsed, wish in steps:
        moment += seconds(elapsed)
        true.append((moment, wish))
        history = stabilize.record_wish(history, wish, seconds(window), moment)
        inside = [each for at, each in true if at >= moment - seconds(window)]
        assert len(history.wishes) <= stabilize.ENTRIES_MAX
        assert stabilize.highest(history, seconds(window), moment) >= max(inside)
        assert stabilize.lowest(history, seconds(window), moment) <= min(inside)


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 50)), max_size=300), st.integers(0, 1800))
def test_the_record_of_changes_is_bounded_and_complete(steps, period):
    """However often the size changes, the record stays small and adds up to what changed in the period."""
    history, moment, sizes = History(), NOW, []
    for elapsed, size in steps:
        moment += seconds(elapsed)
        sizes.append((moment, size))
        history = stabilize.record_size(history, size, seconds(period), moment)
        assert len(history.changes) <= stabilize.ENTRIES_MAX
    if sizes and all(at >= moment - seconds(period) for at, _ in sizes):
        assert sum(each.by for each in history.changes) == sizes[-1][1] - sizes[0][1]


def test_a_change_is_what_was_seen_to_change():
    """The first pass sees no change, and a size that stays makes none."""
    history = stabilize.record_size(History(), 4, WINDOW, NOW)
    assert history.changes == ()
    history = stabilize.record_size(history, 4, WINDOW, NOW)
    assert history.changes == ()
    assert stabilize.record_size(history, 6, WINDOW, NOW).changes == (Change(at=NOW, by=2),)


@pytest.mark.parametrize(
    ("policies", "select", "size", "changes", "limit"),
    [
        ([], "Max", 5, [], None),
        ([("Pods", 4, 15)], "Max", 5, [], 9),
        ([("Pods", 4, 15)], "Max", 5, [(10, 3)], 6),
        ([("Pods", 4, 15)], "Max", 5, [(20, 3)], 9),
        ([("Pods", 4, 15)], "Max", 9, [(5, 5)], 9),
        ([("Percent", 100, 15)], "Max", 5, [], 10),
        ([("Percent", 10, 15)], "Max", 5, [], 6),
        ([("Percent", 100, 15)], "Max", 0, [], 1),
        ([("Percent", 100, 15), ("Pods", 4, 15)], "Max", 2, [], 6),
        ([("Percent", 100, 15), ("Pods", 4, 15)], "Min", 2, [], 4),
        ([("Pods", 4, 15)], "Disabled", 5, [], 5),
    ],
    ids=str,
)
def test_how_far_up(policies, select, size, changes, limit):
    """Pods and Percent within their periods, the largest or the smallest of them, or none at all."""
    made = rules(*policies, select=SelectPolicy(select))
    assert stabilize.up_limit(made, size, changed(*changes), NOW) == limit


@pytest.mark.parametrize(
    ("policies", "select", "size", "changes", "limit"),
    [
        ([], "Max", 5, [], 0),
        ([("Pods", 2, 60)], "Max", 5, [], 3),
        ([("Pods", 2, 60)], "Max", 4, [(30, -1)], 3),
        ([("Pods", 2, 60)], "Max", 4, [(90, -1)], 2),
        ([("Percent", 50, 60)], "Max", 5, [], 2),
        ([("Percent", 50, 60)], "Max", 1, [], 0),
        ([("Percent", 150, 60)], "Max", 5, [], 0),
        ([("Percent", 50, 60), ("Pods", 1, 60)], "Max", 10, [], 5),
        ([("Percent", 50, 60), ("Pods", 1, 60)], "Min", 10, [], 9),
        ([("Pods", 2, 60)], "Disabled", 5, [], 5),
    ],
    ids=str,
)
def test_how_far_down(policies, select, size, changes, limit):
    """As upwards; half of one worker is none, so a pool can reach zero."""
    made = rules(*policies, select=SelectPolicy(select))
    assert stabilize.down_limit(made, size, changed(*changes), NOW) == limit


def test_the_longest_period_is_that_of_any_rule():
    """The record of changes reaches as far back as any policy looks."""
    assert stabilize.longest_period(rules(("Pods", 1, 15)), rules(("Pods", 1, 90))) == seconds(90)
    assert stabilize.longest_period(rules(), rules()) == seconds(0)
