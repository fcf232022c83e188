"""What shall be done, as values: a Plan is a list of them, and `loop.execute` carries them out in order.

The order matters: what must be confirmed first stands first, and a failure ends the plan, but for its events
and its status, which tell what was decided. Every action can be repeated without harm. Nothing here knows how
it is done or whether it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from muster.wire.schedule import ScheduleEntry
from muster_operator.api.objects import ObjectMeta
from muster_operator.api.schedule import ScheduleStatus
from muster_operator.api.taskqueue import TaskQueueStatus
from muster_operator.api.workerpool import WorkerPoolStatus

from .history import History, RuntimeEstimate
from .rabbitmq import Policy, QueueDeclaration
from .world import Manifest

Status: TypeAlias = WorkerPoolStatus | TaskQueueStatus | ScheduleStatus


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    """Names a broker the only way an action may: by the Secret that holds its URL."""

    namespace: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Server-side apply the whole manifest as field manager `muster`, by force."""

    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Server-side apply the replicas of a Deployment as field manager `muster-scaler`, and nothing else."""

    namespace: str
    deployment: str
    replicas: int
    down: bool
    """True when this takes replicas away; for metrics and for the memory adapter's asserts."""


@dataclass(frozen=True, kw_only=True)
class MarkPod:
    """Server-side apply these annotations, all that `muster-drain` owns of the pod with this `uid`."""

    namespace: str
    pod: str
    uid: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SendDrain:
    """Put the control message `drain` into a worker's mailbox on its broker."""

    broker: BrokerAddress
    pool: str
    """`namespace/name` of the WorkerPool."""
    worker: str
    """The pod's UID."""
    leave: bool = False
    """`leave` instead: its pod is being deleted, and it does not know."""


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete an object, if it still is the one with `uid` (empty: any); its children go in the background."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, kw_only=True)
class PutSchedule:
    """Write an entry to the broker-side set that beat reads."""

    broker: BrokerAddress
    entry: ScheduleEntry


@dataclass(frozen=True, kw_only=True)
class RemoveSchedule:
    """Take the entry with this UID out of the broker-side set of the address' namespace."""

    broker: BrokerAddress
    uid: str


@dataclass(frozen=True, kw_only=True)
class RemoveQueue:
    """Remove a real queue and its dead letters from the broker, only if both are empty then."""

    broker: BrokerAddress
    queue: str
    dead_letter: str


@dataclass(frozen=True, kw_only=True)
class DeclareQueues:
    """Declare queues on RabbitMQ and lead dead letters to them; one that is there otherwise is left alone."""

    broker: BrokerAddress
    queues: tuple[QueueDeclaration, ...]


@dataclass(frozen=True, kw_only=True)
class PutPolicy:
    """Write a policy of a virtual host."""

    broker: BrokerAddress
    policy: Policy


@dataclass(frozen=True, kw_only=True)
class RemovePolicy:
    """Remove a policy of ours from a virtual host."""

    broker: BrokerAddress
    name: str


@dataclass(frozen=True, kw_only=True)
class SetDefaultQueueType:
    """Have a virtual host make this of queues that are declared without a type."""

    broker: BrokerAddress
    type: str


@dataclass(frozen=True, kw_only=True)
class SetFinalizer:
    """Put our finalizer on an object, or take it off."""

    kind: str
    metadata: ObjectMeta
    finalizer: str
    present: bool


class EventType(StrEnum):
    """Kubernetes' two types of events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, kw_only=True)
class Emit:
    """Record an event on an object; repeats are counted by the recorder."""

    kind: str
    metadata: ObjectMeta
    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SetStatus:
    """Server-side apply the whole status as field manager `muster-status`."""

    kind: str
    metadata: ObjectMeta
    status: Status


Action: TypeAlias = (
    Apply
    | Scale
    | MarkPod
    | SendDrain
    | Delete
    | PutSchedule
    | RemoveSchedule
    | RemoveQueue
    | DeclareQueues
    | PutPolicy
    | RemovePolicy
    | SetDefaultQueueType
    | SetFinalizer
    | Emit
    | SetStatus
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now, when to look again, and what to hand to the next pass."""

    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None
    """Look again then, even if nothing changes; None when only a change can matter."""
    history: History = field(default_factory=History)
    runtime: RuntimeEstimate = field(default_factory=RuntimeEstimate)
