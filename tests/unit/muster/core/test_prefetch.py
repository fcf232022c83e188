"""How many messages a slot may hold."""

from hypothesis import given
from hypothesis import strategies as st

from muster.core.prefetch import HOLD_SECONDS, MAX_DEPTH, SHORT_SECONDS, depth, estimate

seconds = st.floats(1e-7, 1e5)


def test_an_unknown_task_is_handed_over_alone():
    """It may be long."""
    assert depth(None) == 1


@given(seconds)
def test_a_task_of_a_millisecond_or_more_is_handed_over_alone(runtime):
    """And never is there room for none, or for more than the bound."""
    assert 1 <= depth(runtime) <= MAX_DEPTH
    if runtime >= SHORT_SECONDS:
        assert depth(runtime) == 1


@given(seconds)
def test_what_a_slot_holds_is_a_few_milliseconds_of_work(runtime):
    """The estimated sum stays below the bound, the one that runs set aside."""
    assert (depth(runtime) - 1) * runtime <= HOLD_SECONDS


@given(seconds, seconds)
def test_longer_tasks_never_get_more_room(one, other):
    """Depth falls with the estimate."""
    short, long = sorted((one, other))
    assert depth(short) >= depth(long)


@given(st.lists(seconds, min_size=1))
def test_the_estimate_is_never_below_the_last_run(runtimes):
    """So one slow run is enough to be careful."""
    current = None
    for runtime in runtimes:
        current = estimate(current, runtime)
        assert current >= runtime * (1 - 1e-9)


def test_the_estimate_forgets_a_slow_run_after_some_quick_ones():
    """A hundred quick runs bring batches back."""
    current = estimate(None, 0.01)
    for _ in range(100):
        current = estimate(current, 0.00001)
    assert depth(current) > 1
