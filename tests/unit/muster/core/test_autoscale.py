"""The size of a worker's pool between two bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.autoscale import Bounds, Size, resize, slots_needed

BOUNDS = Bounds(fewest=1, most=4, keepalive_seconds=30.0)


@pytest.mark.parametrize(
    ("jobs", "long", "depth", "slots"),
    [
        (0, 0, 1, 0),
        (3, 0, 1, 3),
        (3, 3, 1, 3),
        (128, 0, 128, 1),
        (129, 0, 128, 2),
        (128, 1, 128, 2),  # 127 short ones must not wait behind the long one
        (2, 2, 128, 2),
        (0, 1, 128, 1),  # it runs, though its message is no longer ours
    ],
)
def test_short_jobs_share_slots_and_long_ones_do_not(jobs, long, depth, slots):
    """A slot for each long job that runs, and as many for the others as their depth says."""
    assert slots_needed(jobs, long=long, depth=depth) == slots


def test_a_pool_grows_at_once_and_as_far_as_needed():
    """Not a slot more than that, and never past the most."""
    assert resize(Size(1, 0.0), BOUNDS, needed=3, now=0.1).slots == 3
    assert resize(Size(3, 0.0), BOUNDS, needed=9, now=0.2).slots == 4


def test_what_was_not_needed_for_the_keepalive_is_given_back():
    """Of four slots that were needed once and two that are needed now and then, two stay, then one."""
    size, sizes = Size(1, 0.0), []
    for now, needed in [(1, 4), (29, 2), (30, 0), (59, 2), (60, 0), (89, 0), (90, 0)]:
        size = resize(size, BOUNDS, needed=needed, now=float(now))
        sizes.append(size.slots)
    assert sizes == [4, 4, 4, 4, 2, 2, 1]


bounds = st.builds(
    lambda one, other, keepalive: Bounds(min(one, other), max(one, other), keepalive),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0.1, 100),
)
loads = st.lists(st.tuples(st.floats(0, 60), st.integers(0, 30)), min_size=1, max_size=60)


@given(bounds, loads)
def test_a_pool_stays_within_its_bounds_and_is_never_too_small(limits, load):
    """However the load changes, there are as many slots as it needs, up to the most."""
    now, size = 0.0, Size(limits.fewest, 0.0)
    for elapsed, needed in load:
        now += elapsed
        size = resize(size, limits, needed=needed, now=now)
        assert limits.fewest <= size.slots <= limits.most
        assert size.slots >= min(needed, limits.most)


@given(bounds, loads)
def test_no_slot_is_given_back_that_was_needed_within_the_keepalive(limits, load):
    """Whenever a pool shrinks, all that it was asked for within the last keepalive fits into the rest."""
    now, size, asked = 0.0, Size(limits.fewest, 0.0), []
    for elapsed, needed in load:
        now += elapsed
        asked.append((now, needed))
        before, size = size, resize(size, limits, needed=needed, now=now)
        if size.slots < before.slots:
            recent = [number for at, number in asked if at > now - limits.keepalive_seconds]
            assert size.slots >= min(max(recent), limits.most)


@given(bounds, loads)
def test_an_idle_pool_is_at_its_fewest_after_two_keepalives(limits, load):
    """Looked at once a second, as the loop does at least."""
    now, size = 0.0, Size(limits.fewest, 0.0)
    for elapsed, needed in load:
        now += elapsed
        size = resize(size, limits, needed=needed, now=now)
    end = now + 2 * limits.keepalive_seconds + 2
    while now < end:
        now += 1
        size = resize(size, limits, needed=0, now=now)
    assert size.slots == limits.fewest
