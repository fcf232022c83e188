"""The conditions of a WorkerPool.

`plan` calls `for_pool` with the snapshot and what was decided from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.errors import ConfigurationError
from muster.settings.pools import pool_type
from muster_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason, find_condition
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import Pool
from muster_operator.decide.drain import is_active, is_leaving
from muster_operator.decide.floors import floor_at
from muster_operator.decide.scaling import Reason as ScalingReason
from muster_operator.decide.scaling import Target
from muster_operator.desired.template import Refusal
from muster_operator.model.readings import Reading, Unknown
from muster_operator.model.world import PodView, Rejection, SecretView, Snapshot

from .broker import broker_problem, broker_reachable, condition

FIELD_IS_MUSTERS = "FieldIsMusters"
"""spec.template sets a field that the operator depends on; the message says what to set instead."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why the pool's pods cannot be built as its spec says."""

    reason: str
    message: str


def declared_problem(seen: Snapshot) -> Problem | None:
    """Return what keeps the pool's workers from being built, by its spec and surroundings; None: nothing."""
    unsupported = _unsupported_pool(seen.pool.spec.pool)
    if unsupported is not None:
        return unsupported
    namespace = seen.pool.metadata.namespace
    for queue in seen.queues:
        if queue.task_queue is None:
            message = (
                f"spec.queues names TaskQueue {queue.name}, which does not exist in namespace {namespace}; "
                f"create it or correct the name"
            )
            return Problem(reason=Reason.QUEUE_NOT_FOUND, message=message)
    queues = [queue.task_queue for queue in seen.queues if queue.task_queue is not None]
    brokers = {queue.metadata.name: queue.spec.broker.secret_ref.name for queue in queues}
    if len(set(brokers.values())) > 1:
        listed = ", ".join(f"{name} on {secret}" for name, secret in sorted(brokers.items()))
        message = (
            f"spec.queues names TaskQueues on different brokers ({listed}), and a worker has one; make a "
            f"WorkerPool for each broker"
        )
        return Problem(reason=Reason.QUEUES_ON_DIFFERENT_BROKERS, message=message)
    for what, secret in (("broker", seen.broker_secret), ("results", seen.results_secret)):
        problem = _secret_problem(seen, what, queues, secret)
        if problem is not None:
            return problem
    return None


def _unsupported_pool(pool: Pool) -> Problem | None:
    """Return why no worker can be started with this pool: its containers would end at once, every time."""
    field, name = ("customPool", pool.custom_pool) if pool.custom_pool else ("type", pool.type)
    if name is None:
        return None
    try:
        pool_type(name)
    except ConfigurationError as error:
        return Problem(reason=Reason.POOL_NOT_SUPPORTED, message=f"spec.pool.{field}: {error}")
    return None


def _secret_problem(
    seen: Snapshot, what: str, queues: Sequence[TaskQueue], secret: Reading[SecretView] | None
) -> Problem | None:
    if not isinstance(secret, Unknown):
        return None
    if what == "results":
        name = seen.pool.spec.results.secret_ref.name if seen.pool.spec.results else ""
        where = "spec.results.secretRef"
    else:
        name = queues[0].spec.broker.secret_ref.name
        where = f"TaskQueue {queues[0].metadata.name}, spec.broker.secretRef"
    message = f"Secret {name} ({where}): {secret.message or secret.reason}; it needs the key url"
    return Problem(reason=secret.reason, message=message)


def for_pool(
    seen: Snapshot,
    decided: Target,
    *,
    problem: Problem | None,
    rejection: Rejection | None,
    refusals: Sequence[Refusal],
) -> tuple[Condition, ...]:
    """Return all conditions of the pool."""
    return (
        _ready(seen, decided, problem, rejection),
        broker_reachable(_secret_name(seen), seen.broker_secret, seen.broker),
        _scaling_active(seen, decided),
        _scaling_limited(seen, decided),
        _scaling_conflict(seen),
        _draining(seen),
        _paused(seen),
        _template_rejected(rejection, refusals),
    )


def taking_tasks(pods: Sequence[PodView]) -> int:
    """Return how many workers are ready and stay."""
    return sum(1 for pod in pods if is_active(pod) and pod.ready and not is_leaving(pod))


def _secret_name(seen: Snapshot) -> str:
    for queue in seen.queues:
        if queue.task_queue is not None:
            return queue.task_queue.spec.broker.secret_ref.name
    return "of the TaskQueues"


def _ready(
    seen: Snapshot, decided: Target, problem: Problem | None, rejection: Rejection | None
) -> Condition:
    if problem is not None:
        unread = problem.reason == Reason.NOT_OBSERVED_YET
        return condition(ConditionType.READY, None if unread else False, problem.reason, problem.message)
    if rejection is not None:
        return condition(ConditionType.READY, False, Reason.REJECTED_BY_API_SERVER, _rejected(rejection))
    broken = broker_problem(_secret_name(seen), seen.broker_secret, seen.broker)
    if broken is not None:
        unread = broken[0] == Reason.NOT_OBSERVED_YET
        return condition(ConditionType.READY, None if unread else False, *broken)
    for queue in seen.queues:
        state = queue.task_queue and find_condition(queue.task_queue.status.conditions, ConditionType.READY)
        if state and state.status is ConditionStatus.FALSE:
            message = f"TaskQueue {queue.name} is not ready ({state.reason}): {state.message}"
            return condition(ConditionType.READY, False, Reason.QUEUE_NOT_READY, message)
    ready = taking_tasks(seen.pods)
    if ready >= decided.replicas:
        return condition(ConditionType.READY, True, Reason.AS_DECLARED, "all wanted workers take tasks")
    troubles = [
        f"pod {pod.name}: {pod.trouble}" for pod in seen.pods if pod.trouble and not pod.terminating
    ] + [f"Deployment {each.name}: {each.trouble}" for each in seen.deployments if each.trouble]
    counted = f"{ready} of {decided.replicas} workers take tasks"
    if troubles:
        message = f"{counted}; {min(troubles)}; see kubectl describe of it"
        return condition(ConditionType.READY, False, Reason.WORKERS_NOT_READY, message)
    return condition(ConditionType.READY, False, Reason.PROGRESSING, counted)


def _scaling_active(seen: Snapshot, decided: Target) -> Condition:
    kind = ConditionType.SCALING_ACTIVE
    match decided.reason:
        case ScalingReason.SCALING_CONFLICT:
            return condition(kind, False, Reason.FOREIGN_SCALER, _foreign(seen))
        case ScalingReason.PAUSED:
            return condition(kind, False, Reason.PAUSED_BY_SPEC, "spec.paused is true")
        case ScalingReason.FIXED:
            return condition(kind, False, Reason.FIXED_MODE, "spec.replicas is the size")
        case ScalingReason.EXTERNAL:
            return condition(kind, False, Reason.EXTERNAL_MODE, "whoever writes spec.replicas sizes the pool")
        case ScalingReason.LOAD_UNKNOWN | ScalingReason.FALLBACK:
            unread = [f"TaskQueue {each.name}" for each in seen.queues if isinstance(each.reading, Unknown)]
            message = (
                f"the load of {', '.join(unread) or 'the queues'} cannot be read, so no worker is taken "
                f"away; spec.scaling.fallback says what else holds"
            )
            return condition(kind, False, Reason.LOAD_UNKNOWN, message)
        case _:
            errors = floor_at(seen.pool.spec.scaling.floors, seen.now).errors
            return condition(kind, True, Reason.LOAD_KNOWN, "; ".join(errors))


def _scaling_limited(seen: Snapshot, decided: Target) -> Condition:
    scaling = seen.pool.spec.scaling
    messages = {
        Reason.AT_MAXIMUM: f"more workers are wanted than spec.scaling.maxReplicas, {scaling.max_replicas}",
        Reason.AT_MINIMUM: "fewer workers would do than spec.scaling.minReplicas or a floor asks for",
    }
    limited = decided.limited is not Reason.WITHIN_LIMITS
    return condition(
        ConditionType.SCALING_LIMITED, limited, decided.limited, messages.get(decided.limited, "")
    )


def _scaling_conflict(seen: Snapshot) -> Condition:
    if seen.foreign_scalers:
        return condition(ConditionType.SCALING_CONFLICT, True, Reason.FOREIGN_SCALER, _foreign(seen))
    return condition(ConditionType.SCALING_CONFLICT, False, Reason.AS_DECLARED)


def _foreign(seen: Snapshot) -> str:
    scaler = seen.foreign_scalers[0]
    return (
        f"{scaler.kind} {scaler.name} scales Deployment {scaler.target}, so Muster does not; delete it, or "
        f"set spec.scaling.mode to External and let it scale WorkerPool {seen.pool.metadata.name}"
    )


def _draining(seen: Snapshot) -> Condition:
    leaving = [pod for pod in seen.pods if is_active(pod) and is_leaving(pod)]
    if leaving:
        message = f"{len(leaving)} workers finish their tasks before they leave"
        return condition(ConditionType.DRAINING, True, Reason.WORKERS_LEAVING, message)
    return condition(ConditionType.DRAINING, False, Reason.NONE_LEAVING)


def _paused(seen: Snapshot) -> Condition:
    if seen.pool.spec.paused:
        return condition(ConditionType.PAUSED, True, Reason.PAUSED_BY_SPEC, "spec.paused is true")
    return condition(ConditionType.PAUSED, False, Reason.NOT_PAUSED)


def _template_rejected(rejection: Rejection | None, refusals: Sequence[Refusal]) -> Condition:
    if rejection is not None:
        return condition(
            ConditionType.TEMPLATE_REJECTED, True, Reason.REJECTED_BY_API_SERVER, _rejected(rejection)
        )
    if refusals:
        listed = "; ".join(f"{each.path}: {each.remedy}" for each in refusals)
        message = f"fields of spec.template that are Muster's were left out: {listed}"
        return condition(ConditionType.TEMPLATE_REJECTED, True, FIELD_IS_MUSTERS, message)
    return condition(ConditionType.TEMPLATE_REJECTED, False, Reason.ACCEPTED)


def _rejected(rejection: Rejection) -> str:
    return (
        f"the API server refuses {rejection.kind} {rejection.name}: {rejection.message}; correct "
        f"spec.template or what the message names"
    )
