"""The world as the operator saw it at one moment: all that a decision may look at.

The loop's observer builds one snapshot for one object from its indexes and the latest broker readings;
decisions read nothing else, so a saved snapshot explains a decision for ever. Nothing here knows where a
figure came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from muster.wire.schedule import RunRecord, ScheduleEntry
from muster_operator.api.objects import Source
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool

from .history import History, RuntimeEstimate
from .rabbitmq import VirtualHost
from .readings import Reading

Manifest = Mapping[str, Any]
"""A Kubernetes object as JSON; never changed in place."""


@dataclass(frozen=True, kw_only=True)
class SecretView:
    """What may be known of a Secret outside the adapters: no value, only its keys and a hash over all."""

    name: str
    keys: frozenset[str]
    hash: str


@dataclass(frozen=True, kw_only=True)
class BrokerFacts:
    """A broker that answered."""

    type: str
    """`Redis`, `SQLite` or `RabbitMQ`: which queue types it can have."""
    version: str = ""
    eviction_policy: str = ""
    """Redis' maxmemory-policy; empty when the broker has none or does not tell."""
    max_memory_bytes: int = 0
    """Redis' maxmemory; 0 means no limit, so nothing is ever evicted."""


@dataclass(frozen=True, kw_only=True)
class QueueReading:
    """What stands in one queue. `claimed` and `running` include `expired`, so the load is their plain sum."""

    ready: int
    """Messages that wait to be taken, over all priority lists."""
    claimed: int = 0
    """Taken by a worker and not started. A reader that cannot tell claimed from running counts both here."""
    running: int = 0
    """Started."""
    expired: int = 0
    """Of claimed and running: those whose lease is over, so that nobody works on them."""
    due: int = 0
    """Of waiting: those whose ETA comes within the time that a pod needs to start."""
    waiting: int | None = 0
    """All that wait for an ETA; None: some do on the broker, and it does not tell for which queue."""
    dead: int = 0
    """Dead letters."""
    oldest_age_seconds: float | None = None
    """How long the oldest ready message waits; None when none waits or the broker cannot tell."""
    oldest_age_source: Source | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """What a worker said of itself last. Times are absolute: the adapter took ages off their receipt."""

    slots: int
    busy: int
    claimed: int = 0
    oldest_start_at: datetime | None = None
    """Start of the longest running task; None when idle."""
    draining: bool = False
    drained: bool = False
    """Draining, and nothing runs or is in hand any more."""
    leaving: bool = False
    """It ends when it is drained."""
    ready: bool = True
    runs: int = 0
    """Ended runs since the worker's start."""
    runtime_seconds: float = 0.0
    """Their time, summed."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is effective in the worker, as text."""


class PodPhase(StrEnum):
    """Kubernetes' pod phases."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True)
class PodView:
    """One pod of a pool."""

    name: str
    uid: str
    deployment: str
    """The name of the Deployment that it belongs to."""
    created_at: datetime
    phase: PodPhase = PodPhase.RUNNING
    process: bool = True
    """A process of the worker container runs; False while it waits for an image, a node or a restart."""
    ready: bool = False
    terminating: bool = False
    deleted_at: datetime | None = None
    """When its deletion was asked for, and SIGTERM sent a moment later; None when it was not."""
    trouble: str = ""
    """Why it does not run, in the cluster's words (`ImagePullBackOff: …`); empty when nothing is wrong."""
    draining_since: datetime | None = None
    """From the annotation: when it was chosen to leave."""
    deletion_cost: int = 0
    """From the annotation; what the ReplicaSet deletes first is lowest."""
    report: Reading[WorkerView]


@dataclass(frozen=True, kw_only=True)
class DeploymentView:
    """One version of a pool."""

    name: str
    uid: str = ""
    created_at: datetime
    replicas: int
    """spec.replicas."""
    pods: int = 0
    """status.replicas: how many pods its controller counts."""
    settled: bool = True
    """The controller has seen the latest spec (observedGeneration is generation), so `pods` is current."""
    trouble: str = ""
    """Message of a ReplicaFailure condition, such as an exceeded quota; empty when there is none."""
    manifest: Manifest = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """A TaskQueue that a pool or schedule names: the object, if there is one, and its figures."""

    name: str
    task_queue: TaskQueue | None
    reading: Reading[QueueReading]


@dataclass(frozen=True, kw_only=True)
class ForeignScaler:
    """Something that is not ours and sets the replicas of one of our Deployments."""

    kind: str
    name: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """The API server refused to take an object."""

    kind: str
    name: str
    applied: str
    """Hash of the manifest that was refused: the same is not tried again before `RETRY_AFTER`."""
    message: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A WorkerPool and everything that bears on it, at `now`."""

    now: datetime
    pool: WorkerPool
    queues: tuple[QueueView, ...]
    """In the order of spec.queues."""
    broker: Reading[BrokerFacts]
    broker_secret: Reading[SecretView]
    results_secret: Reading[SecretView] | None = None
    """None when spec.results is not set."""
    pods: tuple[PodView, ...] = ()
    """Of all versions, the terminating ones too."""
    deployments: tuple[DeploymentView, ...] = ()
    budget: Manifest | None = None
    """The pool's PodDisruptionBudget."""
    foreign_scalers: tuple[ForeignScaler, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    history: History = field(default_factory=History)
    """What the plan before handed back; empty after a restart, which only delays shrinking by one window."""
    runtime: RuntimeEstimate = field(default_factory=RuntimeEstimate)
    """Likewise."""
    status_written_at: datetime | None = None
    """When this operator last wrote the status; None when it has not yet."""


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """A TaskQueue and everything that bears on it, at `now`."""

    now: datetime
    task_queue: TaskQueue
    rivals: tuple[TaskQueue, ...] = ()
    """All others with the same broker (endpoint, vhost, credentials) and real queue, in any namespace."""
    broker: Reading[BrokerFacts]
    broker_secret: Reading[SecretView]
    reading: Reading[QueueReading]
    virtual_host: Reading[VirtualHost] | None = None
    """None on a broker that has none."""
    pools: tuple[WorkerPool, ...] = ()
    """Those that work it."""
    neighbours: tuple[TaskQueue, ...] = ()
    """Others on the same virtual host for which one of its two names means something too."""
    owner: str = ""
    """As in VirtualHostSnapshot."""
    namespace_terminating: bool = False
    first_seen_at: datetime | None = None
    """When this operator has first looked at it."""
    status_written_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class VirtualHostSnapshot:
    """All TaskQueues on one virtual host of RabbitMQ, in any namespace, at `now`."""

    now: datetime
    namespace: str
    secret_name: str
    """The Secret by which it is written; of several that name it, one."""
    owner: str
    """Tells the policies of this operator from those of another one on the same virtual host."""
    broker: Reading[BrokerFacts]
    task_queues: tuple[TaskQueue, ...]
    """Those that own their queue and stay."""
    virtual_host: Reading[VirtualHost]


@dataclass(frozen=True, kw_only=True)
class ScheduleSnapshot:
    """A Schedule and everything that bears on it, at `now`."""

    now: datetime
    schedule: Schedule
    queue: QueueView
    entry: Reading[ScheduleEntry | None]
    """What stands on the broker now; None when nothing does, or nothing that can be read."""
    runs: Reading[RunRecord | None]
    beat_running: Reading[bool]
    """Whether a beat holds the election for this broker and namespace."""
    results_kept: bool = True
    """Whether some pool that works the queue keeps results."""
    status_written_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class BeatSnapshot:
    """All Schedules of one namespace on one broker, and their beat, at `now`."""

    now: datetime
    namespace: str
    broker_secret: Reading[SecretView]
    secret_name: str
    schedules: tuple[Schedule, ...]
    task_queues: tuple[TaskQueue, ...]
    """Those that the schedules name: they own the Deployment."""
    entries: Reading[Mapping[str, str]]
    """UID → `namespace/name` of every entry that stands in the broker-side set of this namespace."""
    deployment: DeploymentView | None = None
    image: str
    """The engine's image: beat needs none of the user's code."""
    results_secret: Reading[SecretView] | None = None
    """The result store of the pools that work the schedules' queues; None when none keeps results."""
    rejections: tuple[Rejection, ...] = ()
