"""The conditions of a TaskQueue. `plan` calls `for_queue`; `muster dev` notes what is `without_effect`."""

from muster_operator.api.brokers import LIMITS, Column, unkept
from muster_operator.api.conditions import Condition, ConditionType, Reason
from muster_operator.api.taskqueue import Overflow, QueueType, TaskQueue, TaskQueueSpec
from muster_operator.decide.rabbitmq.queues import Version, column_of, seniority, type_of, version_of
from muster_operator.model.rabbitmq import VirtualHost
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import BrokerFacts, QueueSnapshot

from . import rabbitmq
from .broker import broker_problem, broker_reachable, condition

_TYPES_OF = {
    "Redis": frozenset({QueueType.REDIS}),
    "RabbitMQ": frozenset({QueueType.QUORUM, QueueType.CLASSIC}),
}
"""Broker → types of queue that it has; one that is not listed (SQLite) takes any, as it stands in for all."""


def for_queue(seen: QueueSnapshot) -> tuple[Condition, ...]:
    """Return all conditions of the queue."""
    secret = seen.task_queue.spec.broker.secret_ref.name
    found = [
        _ready(seen),
        broker_reachable(secret, seen.broker_secret, seen.broker),
        _conflict(seen),
    ]
    if isinstance(seen.broker, Known) and seen.broker.value.type == "Redis":
        found.append(_eviction(seen.broker.value))
    limits = _limits_enforced(seen)
    if limits is not None:
        found.append(limits)
    if on_rabbitmq(seen) and owns_queue(seen) and not _type_mismatch(seen):
        found += rabbitmq.for_queue(seen, _version(seen), _virtual_host(seen))
    return tuple(found)


def on_rabbitmq(seen: QueueSnapshot) -> bool:
    """Return whether the broker is known to be RabbitMQ."""
    return isinstance(seen.broker, Known) and seen.broker.value.type == "RabbitMQ"


def _version(seen: QueueSnapshot) -> Version:
    return version_of(seen.broker.value.version if isinstance(seen.broker, Known) else "")


def _virtual_host(seen: QueueSnapshot) -> Reading[VirtualHost]:
    if seen.virtual_host is not None:
        return seen.virtual_host
    message = "the virtual host has not been read yet"
    return Unknown(reason=Reason.NOT_OBSERVED_YET, at=seen.now, message=message)


def without_effect(spec: TaskQueueSpec, column: Column, version: Version | None = None) -> tuple[str, ...]:
    """Return the fields that are set and that a broker does not keep, each with what holds in its place."""
    given = {
        "messageTTL": spec.message_ttl is not None,
        "maxLength": spec.max_length is not None,
        "overflow": spec.overflow is not Overflow.DROP_HEAD,
        "maxPriority": spec.max_priority is not None,
        "ha": spec.ha is not None,
        "consumerTimeout": spec.consumer_timeout is not None,
    }
    return tuple(
        f"spec.{name} ({instead})"
        for name in LIMITS
        if given[name] and (instead := unkept(name, column, version))
    )


def effective_type(seen: QueueSnapshot) -> QueueType | None:
    """Return what the queue is on its broker; None while that is not known."""
    if seen.task_queue.spec.type is not None:
        return seen.task_queue.spec.type
    if isinstance(seen.broker, Known) and seen.broker.value.type == "Redis":
        return QueueType.REDIS
    if isinstance(seen.broker, Known) and seen.broker.value.type == "RabbitMQ":
        return QueueType.QUORUM
    return None


def owner(seen: QueueSnapshot) -> TaskQueue:
    """Return the one of all TaskQueues for this real queue that owns it: the oldest."""
    return min((seen.task_queue, *seen.rivals), key=seniority)


def owns_queue(seen: QueueSnapshot) -> bool:
    """Return whether this TaskQueue is the one that rules over the real queue."""
    return owner(seen) is seen.task_queue


def _ready(seen: QueueSnapshot) -> Condition:
    kind = ConditionType.READY
    if not owns_queue(seen):
        return condition(kind, False, Reason.OWNED_BY_OLDER, _owned_by(seen))
    secret = seen.task_queue.spec.broker.secret_ref.name
    problem = broker_problem(secret, seen.broker_secret, seen.broker)
    if problem is not None:
        return condition(kind, None if problem[0] == Reason.NOT_OBSERVED_YET else False, *problem)
    mismatch = _type_mismatch(seen)
    if mismatch:
        return condition(kind, False, Reason.TYPE_MISMATCH, mismatch)
    broken = rabbitmq.problem(seen, _version(seen), _virtual_host(seen)) if on_rabbitmq(seen) else None
    if broken is not None:
        return condition(kind, *broken)
    if isinstance(seen.reading, Unknown):
        unread = seen.reading.reason == Reason.NOT_OBSERVED_YET
        message = f"queue {seen.task_queue.queue_name}: {seen.reading.message or seen.reading.reason}"
        return condition(kind, None if unread else False, seen.reading.reason, message)
    return condition(kind, True, Reason.AS_DECLARED, f"queue {seen.task_queue.queue_name} is served")


def _type_mismatch(seen: QueueSnapshot) -> str:
    wanted = seen.task_queue.spec.type
    if wanted is None or not isinstance(seen.broker, Known):
        return ""
    has = _TYPES_OF.get(seen.broker.value.type)
    if has is None or wanted in has:
        return ""
    listed = " or ".join(sorted(has))
    return (
        f"spec.type is {wanted}, and the broker of Secret {seen.task_queue.spec.broker.secret_ref.name} is "
        f"{seen.broker.value.type}, which has {listed}; make a TaskQueue of that type, or name another broker"
    )


def _conflict(seen: QueueSnapshot) -> Condition:
    if owns_queue(seen):
        return condition(ConditionType.CONFLICT, False, Reason.AS_DECLARED)
    return condition(ConditionType.CONFLICT, True, Reason.OWNED_BY_OLDER, _owned_by(seen))


def _owned_by(seen: QueueSnapshot) -> str:
    older = owner(seen).metadata
    return (
        f"TaskQueue {older.namespace}/{older.name} is older and owns queue {seen.task_queue.queue_name} on "
        f"the same broker; delete one of the two"
    )


def _limits_enforced(seen: QueueSnapshot) -> Condition | None:
    """Return None where there is nothing to keep, and on the embedded broker, which stands in for all."""
    spec = seen.task_queue.spec
    if isinstance(seen.broker, Known) and seen.broker.value.type == "SQLite":
        return None
    kind = ConditionType.LIMITS_ENFORCED
    if on_rabbitmq(seen):
        version = _version(seen)
        unkept_there = without_effect(spec, column_of(seen.task_queue, version), version)
        if not unkept_there:
            return None
        message = (
            f"no effect on RabbitMQ {'.'.join(map(str, version))} for a {type_of(seen.task_queue)} queue: "
            f"{', '.join(unkept_there)}"
        )
        return condition(kind, False, Reason.NOT_ON_THIS_BROKER, message)
    type_before = effective_type(seen) or seen.task_queue.status.type
    if not isinstance(seen.broker, Known) and type_before in _TYPES_OF["RabbitMQ"]:
        return None
    unkept_on_redis = without_effect(spec, Column.REDIS)
    if not unkept_on_redis:
        return None
    problem = broker_problem(spec.broker.secret_ref.name, seen.broker_secret, seen.broker)
    if problem is not None:
        return condition(kind, None, *problem)
    message = (
        f"no effect on Redis: {', '.join(unkept_on_redis)}; leave them out, or use RabbitMQ, which keeps them"
    )
    return condition(kind, False, Reason.NOT_ON_REDIS, message)


def _eviction(facts: BrokerFacts) -> Condition:
    kind = ConditionType.EVICTION_POLICY_UNSAFE
    policy = facts.eviction_policy
    if policy in {"", "noeviction"} or facts.max_memory_bytes == 0:
        return condition(kind, False, Reason.AS_DECLARED)
    message = f"Redis' maxmemory-policy is {policy}: a full Redis deletes tasks; set it to noeviction"
    return condition(kind, True, Reason.EVICTION_POLICY, message)
