"""TaskQueue: one queue on a broker, its limits, and what becomes of it.

The rules here are those of the manifest alone. What depends on the broker is shown in conditions.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from .brokers import HA_REFUSED, PRIORITIES_REFUSED
from .conditions import Condition
from .kind import AGE, READY, REASON, Column, Kind
from .meta import Prop, Word, rule, transition
from .objects import ObjectMeta, SecretRef, Source

QUEUE_NAME_PATTERN = r"^[A-Za-z0-9_.:/@#=+{}~-]+$"
QUEUE_NAME_SENTENCE = "a queue's name is made of letters, digits and _ . : / @ # = + { } ~ -"

RESERVED_PREFIXES = ("muster.", "unacked", "_kombu.", "celery-task-meta-", "celery-taskset-meta-", "amq.")
"""Keys of Muster's, Celery's and RabbitMQ's own; a queue of such a name would be mixed up with them."""


SECOND = timedelta(seconds=1)
NOT_ON_REDIS = "No effect on Redis, where the condition LimitsEnforced says so."
WHERE_KEPT = "Where it has none, the condition LimitsEnforced says so."


class QueueType(Word):
    """What the queue is on its broker."""

    QUORUM = "Quorum", "RabbitMQ, replicated by Raft."
    CLASSIC = "Classic", "RabbitMQ, on one node."
    REDIS = "Redis", "Celery's lists on Redis."


class Overflow(Word):
    """What happens to a full queue."""

    DROP_HEAD = "DropHead", "The oldest message makes room and goes to the dead letters."
    REJECT_PUBLISH = "RejectPublish", "The new message is refused."


class DeletionPolicy(Word):
    """What becomes of the real queue when the TaskQueue is deleted."""

    RETAIN = "Retain", "It stays."
    DELETE = "Delete", "It is removed if it is empty."


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where the queue lives."""

    secret_ref: Annotated[
        SecretRef,
        Prop(
            "The Secret with the key url (redis, rediss, amqp or amqps; several servers of RabbitMQ with ; "
            "between) and, if needed, managementUrl (of RabbitMQ's management API; with the url's user, "
            "unless it has its own) and ca.crt. redis+sentinel comes in a later version: until then Ready is "
            "False for BrokerNotSupported."
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
            sentence=QUEUE_NAME_SENTENCE,
            max_length=200,
        ),
    ] = None
    max_age: Annotated[timedelta, Prop("Older ones are removed.", at_least=SECOND)] = timedelta(days=7)
    max_length: Annotated[
        int, Prop("The oldest beyond this number are removed.", minimum=1, maximum=10_000_000)
    ] = 100_000


@dataclass(frozen=True, kw_only=True)
class HighAvailability:
    """How many copies a queue has on RabbitMQ."""

    replicas: Annotated[
        int,
        Prop(
            "Members of a quorum queue, or mirrors of a classic one on RabbitMQ 3; the broker needs as many "
            "nodes.",
            minimum=1,
            maximum=9,
        ),
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
            sentence=QUEUE_NAME_SENTENCE,
            max_length=200,
        ),
    ] = None
    type: Annotated[QueueType | None, Prop("What it is on its broker; by default what suits the broker.")] = (
        None
    )
    message_ttl: Annotated[
        timedelta | None,
        Prop(f"A message older than this is dead; by default none is. {NOT_ON_REDIS}", at_least=SECOND),
    ] = None
    max_length: Annotated[
        int | None,
        Prop(
            f"Most messages that may wait; unlimited by default. {NOT_ON_REDIS}",
            minimum=1,
            maximum=1_000_000_000,
        ),
    ] = None
    overflow: Annotated[Overflow, Prop(f"What happens beyond maxLength. {NOT_ON_REDIS}")] = Overflow.DROP_HEAD
    max_priority: Annotated[
        int | None,
        Prop(
            "The highest priority that a classic queue of RabbitMQ tells from lower ones: 9 with "
            "maxPriority 9 is served first. It cannot change while the queue exists; by default all "
            "messages are alike there.",
            minimum=1,
            maximum=255,
        ),
    ] = None
    dead_letter: Annotated[DeadLetter, Prop("Where messages go that nobody could run.")] = field(
        default_factory=DeadLetter
    )
    delivery_limit: Annotated[
        int,
        Prop("A message whose worker was lost this often goes to the dead letters.", minimum=1, maximum=1000),
    ] = 5
    ha: Annotated[
        HighAvailability | None,
        Prop(f"Copies of the queue; by default the broker's choice. {WHERE_KEPT}"),
    ] = None
    consumer_timeout: Annotated[
        timedelta | None,
        Prop(
            f"How long a worker may keep a message; by default the broker's choice. {WHERE_KEPT}",
            at_least=timedelta(minutes=1),
        ),
    ] = None
    deletion_policy: Annotated[
        DeletionPolicy, Prop("What becomes of the real queue when this object is deleted.")
    ] = DeletionPolicy.RETAIN

    @rule(
        "!has(self.ha) || !has(self.type) || self.type != 'Redis'",
        HA_REFUSED,
        field="ha",
    )
    def redis_copies_no_queue(self) -> bool:
        return self.ha is None or self.type is not QueueType.REDIS

    @rule(
        "!has(self.maxPriority) || (has(self.type) && self.type == 'Classic')",
        PRIORITIES_REFUSED,
        field="maxPriority",
    )
    def only_a_classic_queue_is_told_its_priorities(self) -> bool:
        return self.max_priority is None or self.type is QueueType.CLASSIC

    @rule(
        "self.overflow != 'RejectPublish' || has(self.maxLength)",
        "RejectPublish refuses messages beyond maxLength: set maxLength too",
        field="overflow",
    )
    def an_overflow_has_a_length(self) -> bool:
        return self.overflow is not Overflow.REJECT_PUBLISH or self.max_length is not None


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


_NAME = "(has(self.spec.queueName) ? self.spec.queueName : self.metadata.name)"
_OLD_NAME = "(has(oldSelf.spec.queueName) ? oldSelf.spec.queueName : oldSelf.metadata.name)"
_DEAD = "self.spec.deadLetter.queueName"


def _is_reserved(name: str) -> str:
    return " || ".join(f"{name}.startsWith('{prefix}')" for prefix in RESERVED_PREFIXES)


@dataclass(frozen=True, kw_only=True)
class TaskQueue:
    """A queue on a broker: its limits, its dead letters, and what becomes of it."""

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

    @rule(
        f"!({_is_reserved(_NAME)})",
        "the queue's name (spec.queueName, else metadata.name) must not begin with "
        f"{', '.join(RESERVED_PREFIXES)}: such names belong to Muster, Celery or RabbitMQ themselves",
        field="spec.queueName",
    )
    def name_is_free(self) -> bool:
        return not self.queue_name.startswith(RESERVED_PREFIXES)

    @rule(
        f"!has({_DEAD}) || !({_is_reserved(_DEAD)})",
        f"the dead letters' name must not begin with {', '.join(RESERVED_PREFIXES)}: "
        "such names belong to Muster, Celery or RabbitMQ themselves",
        field="spec.deadLetter.queueName",
    )
    def dead_letter_name_is_free(self) -> bool:
        return not (self.spec.dead_letter.queue_name or "").startswith(RESERVED_PREFIXES)

    @rule(
        f"!has({_DEAD}) || {_DEAD} != {_NAME}",
        "dead letters need a queue of their own: give deadLetter.queueName another name than the queue's",
        field="spec.deadLetter.queueName",
    )
    def dead_letters_lie_elsewhere(self) -> bool:
        return self.spec.dead_letter.queue_name != self.queue_name

    @transition(
        f"{_NAME} == {_OLD_NAME}",
        "queueName cannot change, because waiting tasks would stay behind under the old name: "
        "make a new TaskQueue and move the producers",
        field="spec.queueName",
    )
    def name_stays(self, old: "TaskQueue") -> bool:
        return self.queue_name == old.queue_name

    @transition(
        "!has(oldSelf.spec.type) || (has(self.spec.type) && self.spec.type == oldSelf.spec.type)",
        "type cannot change once set, because a broker cannot turn a queue into another kind: "
        "make a new TaskQueue",
        field="spec.type",
    )
    def type_stays(self, old: "TaskQueue") -> bool:
        return old.spec.type is None or self.spec.type is old.spec.type


TASK_QUEUE = Kind(
    cls=TaskQueue,
    plural="taskqueues",
    short_name="tq",
    columns=(
        READY,
        Column(name="Queue", path=".status.queueName"),
        Column(name="Type", path=".status.type"),
        Column(name="Depth", path=".status.depth", type="integer"),
        Column(name="InFlight", path=".status.inFlight", type="integer"),
        Column(name="Dead", path=".status.deadLetters", type="integer"),
        Column(name="Oldest", path=".status.oldestAge", wide=True),
        Column(name="Broker", path=".spec.broker.secretRef.name", wide=True),
        REASON,
        AGE,
    ),
)
