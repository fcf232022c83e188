"""What becomes of a message when its run has ended: the last decision on it.

Called by the worker's loop for each end of a run. The verdicts are the transport's; what is stored in the
result store is decided beside them. Celery's rules stand in `celery/worker/request.py`.
"""

from typing import Final

import msgspec

from muster.core.policy import Policy


class Settled(msgspec.Struct, frozen=True):
    """`verdict` names a `transports.base.Verdict`; `store`: put the run's document into the store."""

    verdict: str
    store: bool = True
    reason: str = ""
    error: str = ""
    """Name of the exception to store when the run left no document of its own."""


BY_TASK: Final = "RejectedByTask"
"""Reason of a message that the task itself has refused."""

_ACK = Settled("ACK")
_ACK_IGNORED = Settled("ACK", store=False)
_REQUEUE = Settled("REQUEUE", store=False)


def after_run(state: str, reason: str, policy: Policy) -> Settled:
    """Decide after a run that reported its end in `state`; `reason` is the run's own, for REJECTED."""
    match state:
        case "SUCCESS" | "RETRY":
            return _ACK
        case "FAILURE":
            return _ACK if policy.acks_on_failure_or_timeout else Settled("DEAD", reason="TaskFailed")
        case "IGNORED":
            return _ACK_IGNORED
        case "REQUEUED":
            return _REQUEUE
        case _:
            # a task that refuses its message says nothing of its result; of one that could not be run
            # somebody waits for the result all the same
            error = "" if reason == BY_TASK else "TaskError"
            return Settled("DEAD", reason=reason or "Rejected", error=error)


def after_loss(*, by_limit: bool, losses: int, delivery_limit: int, policy: Policy) -> Settled:
    """Decide after a run whose process is gone. `losses` counts the earlier ones, not this.

    `by_limit`: it was killed at its hard time limit, which is the task's own failure and no lost worker.
    """
    if by_limit:
        if policy.acks_on_failure_or_timeout:
            return Settled("ACK", error="TimeLimitExceeded")
        return Settled("DEAD", reason="TimeLimitExceeded", error="TimeLimitExceeded")
    if not policy.acks_late:
        return Settled("ACKED", error="WorkerLostError")
    if not policy.reject_on_worker_lost:
        return Settled("ACK", error="WorkerLostError")
    if losses + 1 >= delivery_limit > 0:
        return Settled("DEAD", reason="DeliveryLimitExceeded", error="WorkerLostError")
    return Settled("LOST", store=False, reason="WorkerLost")
