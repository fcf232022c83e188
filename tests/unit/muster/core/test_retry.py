"""When a task runs again after an exception: bounds, growth and ends of the delays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.retry import AutoRetry, Backoff, is_exhausted

DICE = st.floats(0, 1, exclude_max=True)
RETRIES = st.integers(0, 10**9)


@given(st.integers(1, 100), st.integers(0, 10_000), RETRIES, DICE, st.booleans())
def test_a_delay_is_never_longer_than_its_maximum(factor, maximum, retries, dice, jitter):
    """However many retries a message claims to have behind it, the delay stays within bounds."""
    backoff = Backoff(factor_seconds=factor, maximum_seconds=maximum, jitter=jitter)
    assert 0 <= backoff.delay_seconds(retries, dice) <= maximum


@given(st.integers(1, 100), st.integers(0, 40))
def test_without_jitter_delays_double(factor, retries):
    """factor, twice that, four times: until the maximum."""
    backoff = Backoff(factor_seconds=factor, maximum_seconds=10**15, jitter=False)
    assert backoff.delay_seconds(retries, 0.5) == factor * 2**retries


@given(RETRIES, DICE)
def test_jitter_only_shortens(retries, dice):
    """Full jitter draws evenly between nothing and the whole delay, both reachable."""
    whole = Backoff(factor_seconds=3, jitter=False).delay_seconds(retries, dice)
    drawn = Backoff(factor_seconds=3)
    assert drawn.delay_seconds(retries, dice) <= whole
    assert drawn.delay_seconds(retries, 0.0) == 0
    assert drawn.delay_seconds(retries, 1 - 2**-53) == whole


@pytest.mark.parametrize(
    ("retries", "max_retries", "over"),
    [(0, 3, False), (2, 3, False), (3, 3, True), (4, 3, True), (0, 0, True), (10**6, None, False)],
)
def test_the_last_retry_is_the_one_that_was_allowed(retries, max_retries, over):
    """`max_retries` runs after the first; None has no end."""
    assert is_exhausted(retries, max_retries) is over


def test_exceptions_that_are_excepted_make_no_retry():
    """A class of `dont_autoretry_for` goes before its base in `autoretry_for`."""
    rule = AutoRetry(on=(OSError,), never_on=(FileNotFoundError,))
    assert rule.applies_to(ConnectionError())
    assert not rule.applies_to(FileNotFoundError())
    assert not rule.applies_to(ValueError())
