"""How long a task runs, from what workers report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide.runtime import fold
from muster_operator.model.history import RuntimeEstimate
from worlds import NOW, seconds, worker


def test_nothing_is_known_before_the_first_run():
    """Workers that have ended nothing tell no runtime."""
    assert fold(RuntimeEstimate(), {"a": worker()}, NOW).seconds is None


def test_the_first_runs_are_averaged():
    """The first report that has runs is taken as it is."""
    found = fold(RuntimeEstimate(), {"a": worker(runs=4, runtime_seconds=2.0)}, NOW)
    assert found.seconds == 0.5


def test_a_report_that_is_seen_twice_changes_nothing():
    """Totals that have not moved are not new runs."""
    workers = {"a": worker(runs=4, runtime_seconds=2.0)}
    first = fold(RuntimeEstimate(), workers, NOW)
    assert fold(first, workers, NOW + seconds(60)).seconds == 0.5


def test_old_runs_weigh_half_after_a_minute():
    """The half-life is 60 s: then 1 s before and 3 s now make 2 s."""
    first = fold(RuntimeEstimate(), {"a": worker(runs=1, runtime_seconds=1.0)}, NOW)
    later = fold(first, {"a": worker(runs=2, runtime_seconds=4.0)}, NOW + seconds(60))
    assert later.seconds == pytest.approx(2.0)


def test_a_restarted_worker_counts_from_zero():
    """Totals that went down are a new process: all of them is new."""
    first = fold(RuntimeEstimate(), {"a": worker(runs=10, runtime_seconds=10.0)}, NOW)
    later = fold(first, {"a": worker(runs=1, runtime_seconds=3.0)}, NOW + seconds(60))
    assert later.seconds == pytest.approx(2.0)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 9), st.floats(0, 9)), max_size=3)
    )
)
def test_the_estimate_is_bounded(reports):
    """It keeps the workers of the latest pass only, and never becomes negative."""
    estimate = RuntimeEstimate()
    for step, totals in enumerate(reports):
        workers = {name: worker(runs=runs, runtime_seconds=time) for name, (runs, time) in totals.items()}
        estimate = fold(estimate, workers, NOW + seconds(step))
        assert set(estimate.totals) == set(workers)
        assert estimate.seconds is None or estimate.seconds >= 0
