"""Who keeps a hub from others, when that is told, and whom it costs its process."""

from hypothesis import given
from hypothesis import strategies as st

from muster.core.stall import GRACE_SECONDS, HELD_SECONDS, Limited, look, to_end, told

NUMBERS = st.integers(0, 5)
SECONDS = st.floats(0, 100)
JOBS = st.lists(st.builds(Limited, st.integers(1, 5), SECONDS, st.sampled_from([0.0, 1.0, 20.0])), max_size=5)


def looks(found, *, beaten=0.0, every=0.1):
    """Look at the hub as often as there are jobs in `found`; yield (time, hold)."""
    hold, last = None, 0.0
    for number, job in enumerate(found, 1):
        hold = look(hold, job=job, beaten=beaten, last_look=last)
        last = number * every
        yield last, hold


def test_one_job_at_every_look_keeps_the_hub():
    """From the look before the first at which it was seen."""
    *_, (now, hold) = looks([3] * 20)
    assert (hold.job, hold.since) == (3, 0.0)
    assert now >= hold.tell_at == HELD_SECONDS


def test_many_jobs_in_a_row_are_nobodys_fault():
    """Another at each look: none is ever told of, however long the hub does not come round."""
    assert all(hold.tell_at > now for now, hold in looks([1, 2] * 100))


def test_a_hub_that_comes_round_is_kept_by_none():
    """Whoever it is at."""
    assert look(None, job=3, beaten=1.05, last_look=1.0) is None


def test_it_is_told_again_when_it_has_lasted_twice_as_long():
    """After 1, 2, 4 seconds."""
    hold, told_at = None, []
    for tick in range(1, 60):
        now = tick / 10
        hold = look(hold, job=1, beaten=0.0, last_look=now - 0.1)
        if now >= hold.tell_at:
            told_at.append(round(now - hold.since))
            hold = told(hold, now)
    assert told_at == [1, 2, 4]


@given(JOBS, NUMBERS, SECONDS)
def test_a_process_whose_hub_comes_round_is_never_killed(jobs, holder, looked_at):
    """It ends its jobs by itself."""
    assert not to_end(jobs, beaten=99.5, looked_at=looked_at, holder=holder, now=100.0)


@given(JOBS, NUMBERS, SECONDS, SECONDS)
def test_none_is_blamed_before_its_limit(jobs, holder, beaten, looked_at):
    """Only jobs with a hard limit that is over, and the grace too."""
    blamed = to_end(jobs, beaten=beaten, looked_at=looked_at, holder=holder, now=100.0)
    assert blamed <= {
        j.number for j in jobs if j.hard_limit and j.age_seconds >= j.hard_limit + GRACE_SECONDS
    }


@given(JOBS, st.integers(1, 5), SECONDS)
def test_while_the_thread_sees_who_keeps_the_hub_no_other_is_blamed(jobs, holder, beaten):
    """Those whose limits are over beside it get them when the hub comes round."""
    assert to_end(jobs, beaten=beaten, looked_at=100.0, holder=holder, now=100.0) <= {holder}


def test_where_nothing_gets_on_the_limits_decide():
    """The thread stands still too, or what keeps the hub is no job."""
    jobs = [Limited(1, 50.0, 10.0), Limited(2, 50.0, 0.0), Limited(3, 10.5, 10.0)]
    assert to_end(jobs, beaten=90.0, looked_at=90.0, holder=2, now=100.0) == {1}
    assert to_end(jobs, beaten=90.0, looked_at=100.0, holder=0, now=100.0) == {1}
