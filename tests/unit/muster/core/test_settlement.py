"""What becomes of a message when its run has ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.policy import Policy
from muster.core.settlement import BY_TASK, Settled, after_loss, after_run
from muster.transports.base import Verdict

STATES = ["SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED", "REQUEUED"]


@pytest.mark.parametrize(
    ("state", "policy", "want"),
    [
        ("SUCCESS", Policy(), Settled("ACK")),
        ("RETRY", Policy(), Settled("ACK")),
        ("FAILURE", Policy(), Settled("ACK")),
        ("FAILURE", Policy(acks_on_failure_or_timeout=False), Settled("DEAD", reason="TaskFailed")),
        ("IGNORED", Policy(), Settled("ACK", store=False)),
        ("REQUEUED", Policy(), Settled("REQUEUE", store=False)),
        ("REJECTED", Policy(), Settled("DEAD", reason="Rejected", error="TaskError")),
    ],
)
def test_each_end_of_a_run_has_its_verdict(state, policy, want):
    """The table of ends that a run itself reports."""
    assert after_run(state, "", policy) == want


def test_a_rejection_keeps_its_own_reason():
    """So that the dead letter says what was wrong with it."""
    assert after_run("REJECTED", "MalformedBody", Policy()).reason == "MalformedBody"


def test_what_a_task_refuses_itself_leaves_no_result():
    """As with Celery; of what could not be run at all, the result says so."""
    assert after_run("REJECTED", BY_TASK, Policy()) == Settled("DEAD", reason=BY_TASK)
    assert after_run("REJECTED", "CompressedBody", Policy()).error == "TaskError"


policies = st.builds(
    Policy,
    acks_late=st.booleans(),
    reject_on_worker_lost=st.booleans(),
    acks_on_failure_or_timeout=st.booleans(),
)


@given(policy=policies, by_limit=st.booleans(), losses=st.integers(0, 10), limit=st.integers(0, 6))
def test_a_lost_run_is_run_again_or_recorded(policy, by_limit, losses, limit):
    """Never neither and never both: no task vanishes, and none is recorded as failed while it runs again."""
    settled = after_loss(by_limit=by_limit, losses=losses, delivery_limit=limit, policy=policy)
    assert (settled.verdict == "LOST") != bool(settled.error)
    assert settled.verdict in Verdict.__members__


@given(losses=st.integers(0, 100))
def test_the_hard_limit_is_the_tasks_own_failure(losses):
    """However many workers were lost before, a task killed at its limit does not run again."""
    settled = after_loss(by_limit=True, losses=losses, delivery_limit=5, policy=Policy())
    assert settled == Settled("ACK", error="TimeLimitExceeded")


@given(losses=st.integers(0, 10), limit=st.integers(1, 6))
def test_a_poison_task_is_buried_at_its_limit(losses, limit):
    """With late acks: as many lost workers as the limit says, no more."""
    settled = after_loss(by_limit=False, losses=losses, delivery_limit=limit, policy=Policy())
    assert settled.verdict == ("DEAD" if losses + 1 >= limit else "LOST")


def test_an_early_ack_is_never_run_again():
    """Its message is gone: all that is left is to say what happened."""
    settled = after_loss(by_limit=False, losses=0, delivery_limit=5, policy=Policy(acks_late=False))
    assert settled.verdict == "ACKED"
    assert settled.error == "WorkerLostError"


@pytest.mark.parametrize("state", STATES)
def test_every_verdict_is_one_that_a_transport_knows(state):
    """The names here and in the port are the same."""
    assert after_run(state, "", Policy()).verdict in Verdict.__members__
