"""Which workers leave, in which order, and how far each has come.

`versions` asks. A worker leaves in two phases, each visible in the cluster, so that an operator that starts
in the middle goes on where the last one stopped:

1. It is chosen: the annotation `draining-since` says so, and the control message `drain` goes to its mailbox.
It stops
   taking tasks, hands back what has not started, and finishes what runs.
2. It reports that it is drained: it gets a deletion cost, and once that is seen, replicas fall by the number
of such
   pods. The ReplicaSet deletes the pods with the lowest cost first.

There is no way back: a chosen worker that is needed again leaves all the same and is replaced. A pod without
a process (waiting for a node, an image, a restart) has nothing to finish.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from muster_operator.api.conditions import Reason
from muster_operator.model.readings import Known, fresh
from muster_operator.model.world import PodPhase, PodView

from .load import REPORT_MAX_AGE

DELETION_COST = -1000
"""Of a drained worker's pod; others have 0."""
RESEND_AFTER = timedelta(seconds=5)
"""A report that much younger than the choice and still not draining: the message was lost."""


def is_active(pod: PodView) -> bool:
    """Return whether the ReplicaSet counts the pod."""
    return not pod.terminating and pod.phase not in {PodPhase.SUCCEEDED, PodPhase.FAILED}


def is_leaving(pod: PodView) -> bool:
    """Return whether the worker was chosen to leave, or says that it does; a stale word counts too."""
    said = isinstance(pod.report, Known) and pod.report.value.draining
    return pod.draining_since is not None or said


def is_done(pod: PodView, now: datetime) -> bool:
    """Return whether a leaving pod is proven to work on nothing: by a fresh report, or without a process."""
    report = fresh(pod.report, now, REPORT_MAX_AGE)
    return not pod.process or (isinstance(report, Known) and report.value.drained)


def is_unstarted(pod: PodView) -> bool:
    """Return whether the pod waits for its first process: ReplicaSets take such pods before all others."""
    return pod.phase is PodPhase.PENDING and not pod.process


def is_marked(pod: PodView) -> bool:
    """Return whether the ReplicaSet is known to prefer this pod."""
    return pod.deletion_cost <= DELETION_COST


def must_hear_again(pod: PodView, now: datetime) -> bool:
    """Return whether a chosen worker reports, well after the choice, that it is not draining."""
    report = fresh(pod.report, now, REPORT_MAX_AGE)
    return (
        pod.process
        and pod.draining_since is not None
        and isinstance(report, Known)
        and not report.value.draining
        and report.at > pod.draining_since + RESEND_AFTER
    )


def is_deaf(pod: PodView, now: datetime) -> bool:
    """Return whether a pod that is being deleted has a worker that does not know of it.

    A SIGTERM that comes while the process starts is lost (the kernel drops what PID 1 has no handler for),
    and the worker would stay until it is killed at the end of its grace period.
    """
    report = fresh(pod.report, now, REPORT_MAX_AGE)
    return (
        pod.terminating
        and pod.process
        and isinstance(report, Known)
        and not report.value.leaving
        and (pod.deleted_at is None or report.at > pod.deleted_at + RESEND_AFTER)
    )


def choose(pods: Iterable[PodView], count: int, now: datetime) -> tuple[PodView, ...]:
    """Return `count` of the pods in the order in which they should leave.

    First those without a process, then idle workers and those that are still starting, then busy ones, the
    longest running task of which started last, then those that have not been heard of. Among equals those
    that are not ready go first, then the youngest.
    """

    def rank(pod: PodView) -> tuple[int, float, int, bool, float, str]:
        group, started, busy = 3, 0.0, 0
        report = fresh(pod.report, now, REPORT_MAX_AGE)
        if not pod.process:
            group = 0
        elif isinstance(report, Known):
            busy = report.value.busy
            group = 2 if busy or report.value.claimed else 1
            start = report.value.oldest_start_at
            started = -start.timestamp() if start is not None else float("-inf")
        elif not pod.ready and report.reason == Reason.NOT_OBSERVED_YET:
            group, started = 1, float("-inf")  # it has never been ready to take a task
        return group, started, busy, pod.ready, -pod.created_at.timestamp(), pod.name

    return tuple(sorted(pods, key=rank)[: max(0, count)])


def replica_set_order(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods as a ReplicaSet deletes them: pending first, then unready, by cost, youngest first.

    Source: Kubernetes' `controller.ActivePodsWithRanks`, without its ranks by node.
    """
    return sorted(
        pods,
        key=lambda pod: (
            pod.phase is not PodPhase.PENDING,
            pod.ready,
            pod.deletion_cost,
            -pod.created_at.timestamp(),
            pod.name,
        ),
    )
