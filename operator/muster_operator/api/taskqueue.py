"""TaskQueue: one queue on a broker, its limits, and what becomes of it."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from .conditions import Condition
from .meta import Prop
from .objects import ObjectMeta, SecretRef, Source

QUEUE_NAME_PATTERN = r"^[A-Za-z0-9_.:-]+$"


class QueueType(StrEnum):
    """What the queue is on its broker."""

    QUORUM = "Quorum"
    """RabbitMQ, replicated by Raft."""
    CLASSIC = "Classic"
    """RabbitMQ, on one node."""
    REDIS = "Redis"
    """Celery's lists on Redis."""


class Overflow(StrEnum):
    """What happens to a full queue."""

    DROP_HEAD = "DropHead"
    """The oldest message makes room and goes to the dead letters."""
    REJECT_PUBLISH = "RejectPublish"
    """The new message is refused."""


class DeletionPolicy(StrEnum):
    """What becomes of the real queue when the TaskQueue is deleted."""

    RETAIN = "Retain"
    """It stays."""
    DELETE = "Delete"
    """It is removed if it is empty."""


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where the queue lives."""

    secret_ref: Annotated[
        SecretRef,
        Prop(
            "The Secret with the key url (redis, rediss, redis+sentinel, amqp or amqps) and, if needed, managementUrl, "
            "ca.crt and broker options."
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """Where messages go that nobody could run."""

    queue_name: Annotated[
        str | None,
        Prop(
            "Its name; by default the queue's with .dead behind it.",
            pattern=QUEUE_NAME_PATTERN,
            max_length=200,
        ),
    ] = None
    max_age: Annotated[timedelta, Prop("Older ones are removed.")] = timedelta(days=7)
    max_length: Annotated[
        int, Prop("The oldest beyond this number are removed.", minimum=1, maximum=10_000_000)
    ] = 100_000


@dataclass(frozen=True, kw_only=True)
class HighAvailability:
    """How many copies a quorum queue keeps."""

    replicas: Annotated[
        int, Prop("Members of the quorum; the broker needs as many nodes.", minimum=1, maximum=9)
    ] = 3


@dataclass(frozen=True, kw_only=True)
class TaskQueueSpec:
    """What the queue shall be."""

    broker: Annotated[Broker, Prop("The only place that names a broker.")]
    queue_name: Annotated[
        str | None,
        Prop(
            "The queue's name on the broker; by default metadata.name.",
            pattern=QUEUE_NAME_PATTERN,
            max_length=200,
        ),
    ] = None
    type: Annotated[QueueType | None, Prop("What it is on its broker; by default what suits the broker.")] = (
        None
    )
    message_ttl: Annotated[
        timedelta | None, Prop("A message older than this is dead; by default none is.")
    ] = None
    max_length: Annotated[
        int | None,
        Prop("Most messages that may wait; unlimited by default.", minimum=1, maximum=1_000_000_000),
    ] = None
    overflow: Annotated[Overflow, Prop("What happens beyond maxLength.")] = Overflow.DROP_HEAD
    dead_letter: Annotated[DeadLetter, Prop("Where messages go that nobody could run.")] = field(
        default_factory=DeadLetter
    )
    delivery_limit: Annotated[
        int,
        Prop("A message whose worker was lost this often goes to the dead letters.", minimum=1, maximum=1000),
    ] = 5
    ha: Annotated[
        HighAvailability | None, Prop("Copies of a quorum queue; by default the broker's choice.")
    ] = None
    consumer_timeout: Annotated[
        timedelta | None, Prop("How long a worker may keep a message; by default the broker's choice.")
    ] = None
    deletion_policy: Annotated[
        DeletionPolicy, Prop("What becomes of the real queue when this object is deleted.")
    ] = DeletionPolicy.RETAIN


@dataclass(frozen=True, kw_only=True)
class TaskQueueStatus:
    """What the queue is. Figures are rounded and written rarely; live ones come from metrics."""

    observed_generation: Annotated[
        int | None, Prop("The generation that this status speaks of.", minimum=0)
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Prop("What is true of it.", list_type="map", list_map_keys=("type",), max_items=32),
    ] = ()
    queue_name: Annotated[str | None, Prop("The queue's name on the broker.", max_length=253)] = None
    type: Annotated[QueueType | None, Prop("What it is on its broker.")] = None
    depth: Annotated[int | None, Prop("Messages that wait to be started.", minimum=0)] = None
    in_flight: Annotated[int | None, Prop("Messages that workers hold.", minimum=0)] = None
    delayed: Annotated[int | None, Prop("Messages whose countdown or ETA has not come.", minimum=0)] = None
    dead_letters: Annotated[int | None, Prop("Messages among the dead letters.", minimum=0)] = None
    oldest_age: Annotated[timedelta | None, Prop("How long the oldest waiting message waits.")] = None
    oldest_age_source: Annotated[Source | None, Prop("How oldestAge was obtained.")] = None


@dataclass(frozen=True, kw_only=True)
class TaskQueue:
    """A queue on a broker."""

    metadata: ObjectMeta
    spec: TaskQueueSpec
    status: TaskQueueStatus = field(default_factory=TaskQueueStatus)

    @property
    def queue_name(self) -> str:
        """The queue's name on its broker."""
        return self.spec.queue_name or self.metadata.name

    @property
    def dead_letter_name(self) -> str:
        """The name of its dead letters' place."""
        return self.spec.dead_letter.queue_name or f"{self.queue_name}.dead"
