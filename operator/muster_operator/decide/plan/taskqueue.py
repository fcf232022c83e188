"""The plan for a TaskQueue: its status, and what becomes of the real queue when the object goes.

Only `deletionPolicy: Delete` puts a finalizer on the object, and nothing can keep it there for longer than
`PATIENCE`: a queue that is not empty, not ours, or not to be reached stays on its broker, with an event that
says so.
"""

from datetime import timedelta

from muster_operator.api.brokers import Column, unkept
from muster_operator.api.conditions import ConditionStatus, ConditionType, Reason, find_condition
from muster_operator.api.names import FINALIZER_QUEUE
from muster_operator.api.taskqueue import DeletionPolicy, QueueType, TaskQueueStatus
from muster_operator.decide.conditions import taskqueue as queue_conditions
from muster_operator.decide.load import QUEUE_MAX_AGE
from muster_operator.decide.rabbitmq.queues import type_of
from muster_operator.decide.status import merge_conditions, rounded, rounded_age, write
from muster_operator.model.actions import (
    Action,
    BrokerAddress,
    Emit,
    EventType,
    Plan,
    RemoveQueue,
    SetFinalizer,
    SetStatus,
)
from muster_operator.model.readings import Known, Unknown, fresh
from muster_operator.model.world import QueueReading, QueueSnapshot

from .common import earliest, warnings

KIND = "TaskQueue"
PATIENCE = timedelta(seconds=60)
"""How long a deletion waits for a broker that cannot be read."""
BROKERS_PATIENCE = timedelta(minutes=5)
"""How long a deletion waits for RabbitMQ's consent."""
FIRST_LOOK = timedelta(seconds=30)
"""How long an operator that has just begun with an object looks before it says that it does not know yet.

Else a start would write what each of a thousand queues soon no longer is, and turn those that are Ready over.
"""
QUEUE_RETAINED = "QueueRetained"
"""Event: the object is gone and the real queue stays, for the reason in the message."""


def plan_task_queue(seen: QueueSnapshot) -> Plan:
    """Return what to do for the queue now."""
    metadata = seen.task_queue.metadata
    if metadata.deletion_timestamp is not None:
        return _deletion(seen)
    actions: list[Action] = []
    wants = seen.task_queue.spec.deletion_policy is DeletionPolicy.DELETE
    if wants != (FINALIZER_QUEUE in metadata.finalizers):
        actions.append(_finalizer(seen, present=wants))
    old, status = seen.task_queue.status, _status(seen)
    looked_at = seen.first_seen_at + FIRST_LOOK if seen.first_seen_at is not None else seen.now
    if seen.now < looked_at and _is_open(status):
        return Plan(actions=tuple(actions), requeue_at=looked_at)
    written = write(old, status, written_at=seen.status_written_at, now=seen.now)
    if written.status is not None:
        actions += warnings(KIND, metadata, old.conditions, status.conditions)
        actions.append(SetStatus(kind=KIND, metadata=metadata, status=written.status))
    return Plan(actions=tuple(actions), requeue_at=written.due_at)


def _is_open(status: TaskQueueStatus) -> bool:
    """Whether it is yet to be seen what the queue is, and nothing is known that keeps it from being seen."""
    ready = find_condition(status.conditions, ConditionType.READY)
    alarm = find_condition(status.conditions, ConditionType.BROKER_ALARM)
    if alarm is not None and alarm.status is ConditionStatus.TRUE:
        return False
    return ready is not None and ready.reason in {Reason.NOT_OBSERVED_YET, Reason.PROGRESSING}


def _deletion(seen: QueueSnapshot) -> Plan:
    queue = seen.task_queue
    asked_at = queue.metadata.deletion_timestamp
    if FINALIZER_QUEUE not in queue.metadata.finalizers or asked_at is None:
        return Plan()
    reading = fresh(seen.reading, seen.now, QUEUE_MAX_AGE)
    gives_up_at = asked_at + PATIENCE
    if not queue_conditions.owns_queue(seen):
        older = queue_conditions.owner(seen).metadata
        return _retain(seen, f"TaskQueue {older.namespace}/{older.name} owns it")
    if isinstance(seen.broker_secret, Unknown) and seen.broker_secret.reason != Reason.NOT_OBSERVED_YET:
        secret = queue.spec.broker.secret_ref.name
        return _retain(seen, f"Secret {secret} cannot be read ({seen.broker_secret.reason})")
    if isinstance(reading, Unknown):
        if seen.namespace_terminating or seen.now >= gives_up_at:
            return _retain(seen, f"the broker cannot be read ({reading.reason}) {reading.message}".rstrip())
        return Plan(requeue_at=earliest(gives_up_at))
    held = _held(reading.value)
    if held:
        return _retain(seen, f"it holds {held} messages, its dead letters among them")
    if queue_conditions.on_rabbitmq(seen):
        if type_of(queue) is not QueueType.CLASSIC:
            return _retain(seen, unkept("deletionPolicy", Column.QUORUM_4))
        if seen.now >= asked_at + BROKERS_PATIENCE:
            return _retain(seen, "RabbitMQ does not remove it, since somebody consumes it")
    remove = RemoveQueue(broker=_broker(seen), queue=queue.queue_name, dead_letter=queue.dead_letter_name)
    return Plan(actions=(remove, _finalizer(seen, present=False)))


def _retain(seen: QueueSnapshot, why: str) -> Plan:
    event = Emit(
        kind=KIND,
        metadata=seen.task_queue.metadata,
        type=EventType.WARNING,
        reason=QUEUE_RETAINED,
        message=f"queue {seen.task_queue.queue_name} stays on its broker: {why}; remove it there by hand",
    )
    return Plan(actions=(event, _finalizer(seen, present=False)))


def _held(reading: QueueReading) -> int:
    waiting = 1 if reading.waiting is None else reading.waiting  # some may be this queue's
    return reading.ready + reading.claimed + reading.running + waiting + reading.dead


def _finalizer(seen: QueueSnapshot, *, present: bool) -> SetFinalizer:
    metadata = seen.task_queue.metadata
    return SetFinalizer(kind=KIND, metadata=metadata, finalizer=FINALIZER_QUEUE, present=present)


def _broker(seen: QueueSnapshot) -> BrokerAddress:
    queue = seen.task_queue
    return BrokerAddress(namespace=queue.metadata.namespace, secret=queue.spec.broker.secret_ref.name)


def _status(seen: QueueSnapshot) -> TaskQueueStatus:
    queue = seen.task_queue
    generation = queue.metadata.generation
    found = queue_conditions.for_queue(seen)
    reading = fresh(seen.reading, seen.now, QUEUE_MAX_AGE)
    figures = reading.value if isinstance(reading, Known) else None
    return TaskQueueStatus(
        observed_generation=generation,
        conditions=merge_conditions(queue.status.conditions, found, generation=generation, now=seen.now),
        queue_name=queue.queue_name,
        type=queue_conditions.effective_type(seen) or queue.status.type,
        depth=rounded(figures.ready) if figures else None,
        in_flight=rounded(figures.claimed + figures.running) if figures else None,
        delayed=rounded(figures.waiting) if figures and figures.waiting is not None else None,
        dead_letters=rounded(figures.dead) if figures else None,
        oldest_age=rounded_age(figures.oldest_age_seconds) if figures else None,
        oldest_age_source=figures.oldest_age_source if figures else None,
    )
