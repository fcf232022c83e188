"""The conditions of a TaskQueue that only RabbitMQ has. `taskqueue` calls `for_queue` and `problem`."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from muster_operator.api.conditions import Condition, ConditionType, Reason
from muster_operator.api.durations import format_duration
from muster_operator.api.taskqueue import Overflow, QueueType, TaskQueue
from muster_operator.decide.rabbitmq import policies
from muster_operator.decide.rabbitmq.queues import (
    ACCESS_REFUSED,
    OLDEST,
    Version,
    arguments_of,
    default_type_of,
    mismatch,
    refused,
    type_of,
    wanted_queues,
)
from muster_operator.model.rabbitmq import QueueDeclaration, VirtualHost
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import QueueSnapshot

from .broker import condition

OUTLIVED_TIMEOUT: Final = timedelta(minutes=5)
"""Workers renew in good time what they hold, if they have so much. RabbitMQ's own is 30 minutes."""
_ALARMS: Final = (("disk", Reason.DISK_ALARM), ("memory", Reason.MEMORY_ALARM))


def problem(
    seen: QueueSnapshot, version: Version, host: Reading[VirtualHost]
) -> tuple[bool | None, str, str] | None:
    """Return (status of Ready, reason, message) of what keeps the queue from being served; None: nothing."""
    name = seen.task_queue.queue_name
    if version < OLDEST:
        needed, found = ".".join(map(str, OLDEST)), ".".join(map(str, version))
        return (
            False,
            Reason.BROKER_TOO_OLD,
            f"RabbitMQ {found} lacks what queue {name} needs: upgrade it to {needed} or newer",
        )
    if isinstance(host, Unknown):
        unread = host.reason == Reason.NOT_OBSERVED_YET
        return None if unread else False, host.reason, f"queue {name}: {host.message or host.reason}"
    for wanted in _both(seen, host.value):
        if host.value.asked is not None and wanted.name not in host.value.asked:
            return None, Reason.NOT_OBSERVED_YET, f"queue {wanted.name} has not been read yet"
        if words := mismatch(wanted, host.value):
            return False, Reason.OTHER_ARGUMENTS, _mismatched(wanted.name, words)
        if answer := refused(wanted, host.value):
            code, said = answer
            reason = Reason.PERMISSION_MISSING if code == ACCESS_REFUSED else Reason.BROKER_ERROR
            remedy = "; give the Secret's user the right to configure it" if code == ACCESS_REFUSED else ""
            return False, reason, f"queue {wanted.name} cannot be declared: {said}{remedy}"
        if wanted.name not in host.value.there:
            return False, Reason.PROGRESSING, f"queue {wanted.name} is being declared"
    return None


def _both(seen: QueueSnapshot, host: VirtualHost) -> list[QueueDeclaration]:
    """Return the declarations of the queue and of its dead letters."""
    queue = seen.task_queue
    names = (queue.queue_name, queue.dead_letter_name)
    wanted = {each.name: each for each in wanted_queues([queue, *seen.neighbours], default_type_of(host))}
    return [wanted[name] for name in names]


def _mismatched(name: str, words: str) -> str:
    return (
        f"queue {name} is there with other arguments: {words}; empty and delete it on the broker, or make a "
        f"TaskQueue with the type that it has"
    )


def for_queue(seen: QueueSnapshot, version: Version, host: Reading[VirtualHost]) -> Iterator[Condition]:
    """Yield the conditions of a queue on RabbitMQ."""
    queue = seen.task_queue
    if isinstance(host, Unknown):
        yield condition(ConditionType.POLICY_IN_SYNC, None, host.reason, host.message)
        return
    yield _mismatch(seen, host.value)
    yield _policy_in_sync(seen, version, host.value)
    yield _alarm(host.value)
    if (clients := _clients(queue, host.value)) is not None:
        yield clients
    if queue.spec.overflow is Overflow.REJECT_PUBLISH:
        yield _unconfirmed(queue)
    if (members := _under_replicated(queue, host.value)) is not None:
        yield members
    if (timeout := _consumer_timeout(seen, version)) is not None:
        yield timeout


def _mismatch(seen: QueueSnapshot, host: VirtualHost) -> Condition:
    for wanted in _both(seen, host):
        if words := mismatch(wanted, host):
            message = _mismatched(wanted.name, words)
            return condition(ConditionType.QUEUE_MISMATCH, True, Reason.OTHER_ARGUMENTS, message)
    return condition(ConditionType.QUEUE_MISMATCH, False, Reason.AS_DECLARED)


def _policy_in_sync(seen: QueueSnapshot, version: Version, host: VirtualHost) -> Condition:
    kind = ConditionType.POLICY_IN_SYNC
    if isinstance(host.management, Unknown):
        return condition(kind, None, host.management.reason, host.management.message)
    management = host.management.value
    if not management.may_write_policies:
        message = (
            f"user {management.user} may not write policies: give it the tag policymaker, or put another "
            f"user into the Secret's managementUrl"
        )
        return condition(kind, False, Reason.PERMISSION_MISSING, message)
    queue = seen.task_queue
    wanted = policies.definitions([queue, *seen.neighbours], version)
    waiting = []
    for name in (queue.queue_name, queue.dead_letter_name):
        found = management.queues.get(name)
        if found is None:
            waiting.append(name)
            continue
        foreign = policies.overridden(name, wanted[name], found, management, seen.owner)
        if foreign is not None:
            whose, words = foreign
            reason = Reason.POLICY_OVERRIDDEN if whose == "policy" else Reason.OPERATOR_POLICY
            return condition(kind, False, reason, words)
        if not policies.in_force(wanted[name], found):
            waiting.append(name)
    if waiting:
        message = f"the policy of queue {', '.join(waiting)} is being written"
        return condition(kind, False, Reason.PROGRESSING, message)
    return condition(kind, True, Reason.AS_DECLARED)


def _alarm(host: VirtualHost) -> Condition:
    kind = ConditionType.BROKER_ALARM
    if not host.alarm:
        return condition(kind, False, Reason.AS_DECLARED)
    reason = next((each for word, each in _ALARMS if word in host.alarm), Reason.BROKER_ERROR)
    what = {
        Reason.DISK_ALARM: "disk space: make room on its disk",
        Reason.MEMORY_ALARM: "memory: give it more, or let workers empty its queues",
    }.get(reason, "something: see its log")
    return condition(kind, True, reason, f"RabbitMQ takes no messages ({host.alarm}); it is short of {what}")


def _clients(queue: TaskQueue, host: VirtualHost) -> Condition | None:
    """Return what a Celery client must be told to be let in: each argument of the declaration.

    None for a classic queue without any: every client may declare it.
    """
    default_type = default_type_of(host)
    arguments = arguments_of(queue, default_type)
    classic = type_of(queue) is QueueType.CLASSIC
    if classic and not arguments:
        return None
    kind = (
        ConditionType.CLIENTS_MUST_DECLARE_ARGUMENTS if classic else ConditionType.CLIENTS_MUST_DECLARE_QUORUM
    )
    if classic or len(arguments) > 1:
        message = (
            f"queue {queue.queue_name} has arguments that Celery's clients must name: task_queues = "
            f"[Queue({queue.queue_name!r}, queue_arguments={dict(arguments)!r})]"
        )
        return condition(kind, True, Reason.MORE_ARGUMENTS, message)
    if default_type == "quorum":
        return condition(kind, False, Reason.AS_DECLARED, "the virtual host's default queue type is quorum")
    message = (
        f"a Celery client that declares queue {queue.queue_name} without its type is refused (406): set "
        'task_create_missing_queue_type = "quorum" there, task_default_queue_type for its default queue, or '
        "the virtual host's default queue type to quorum; Muster's clients need neither"
    )
    return condition(kind, True, Reason.DEFAULT_TYPE_NOT_QUORUM, message)


def _unconfirmed(queue: TaskQueue) -> Condition:
    message = (
        f"a full queue {queue.queue_name} rejects messages, and Celery's clients lose them without an error: "
        'set broker_transport_options = {"confirm_publish": True} there; Muster\'s clients confirm'
    )
    return condition(ConditionType.UNCONFIRMED_PUBLISHERS_LOSE_TASKS, True, Reason.REJECTS_WHEN_FULL, message)


def _under_replicated(queue: TaskQueue, host: VirtualHost) -> Condition | None:
    """Return None where the members are not known, and where there is nothing to have too few of."""
    if not isinstance(host.management, Known):
        return None
    for name in (queue.queue_name, queue.dead_letter_name):
        found = host.management.value.queues.get(name)
        if found is None or found.online is None or found.members is None:
            return None
        asked = queue.spec.ha.replicas if queue.spec.ha is not None else 0
        wanted = max(asked, found.members)
        if found.online < wanted:
            message = (
                f"queue {name} has {found.online} of {wanted} members online: bring nodes back, or add "
                f"members with `rabbitmq-queues grow`"
            )
            return condition(ConditionType.UNDER_REPLICATED, True, Reason.TOO_FEW_MEMBERS, message)
    return condition(ConditionType.UNDER_REPLICATED, False, Reason.AS_DECLARED)


def _consumer_timeout(seen: QueueSnapshot, version: Version) -> Condition | None:
    """Return None where none is asked for, or the broker knows none of a queue."""
    asked = seen.task_queue.spec.consumer_timeout
    if asked is None or version < (3, 12):
        return None
    kind = ConditionType.CONSUMER_TIMEOUT_TOO_SHORT
    limits = {
        pool.metadata.name: limit
        for pool in seen.pools
        if (limit := pool.spec.limits.time_limit or pool.spec.limits.soft_time_limit) is not None
    }
    longer = sorted(name for name, limit in limits.items() if limit >= asked)
    if asked >= OUTLIVED_TIMEOUT or not longer:
        return condition(kind, False, Reason.AS_DECLARED)
    named = ", ".join(f"{name} for {format_duration(limits[name])}" for name in longer)
    message = (
        f"spec.consumerTimeout is {format_duration(asked)}, and tasks may run longer in WorkerPools {named}: "
        "RabbitMQ would close their workers' channels; set it to "
        f"{format_duration(OUTLIVED_TIMEOUT)} or more, which workers outlive"
    )
    return condition(kind, True, Reason.LIMIT_IS_LONGER, message)
