"""Conditions: what is true of an object now, in the form every Kubernetes tool understands.

The operator's decisions build conditions and the status writer stores them. Types and reasons are API: users
wait for them (`kubectl wait --for=condition=Ready`) and alert on them, so a word, once released, keeps its
meaning. Nothing here knows how a condition is found out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from .meta import Prop, Word


class ConditionStatus(Word):
    """Whether a condition holds; Unknown when it could not be found out."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(Word):
    """What a condition speaks of."""

    READY = "Ready", "The object does what its spec says."
    BROKER_REACHABLE = "BrokerReachable", "The broker answers and takes the credentials."
    CONFLICT = "Conflict", "An older TaskQueue owns the same real queue."
    EVICTION_POLICY_UNSAFE = "EvictionPolicyUnsafe", "Redis may drop waiting tasks when its memory is full."
    LIMITS_ENFORCED = (
        "LimitsEnforced",
        "The broker keeps every limit of the spec; a TaskQueue without one has no such condition.",
    )
    POLICY_IN_SYNC = (
        "PolicyInSync",
        "RabbitMQ's effective policy is what the spec asks for; Unknown without its management API.",
    )
    QUEUE_MISMATCH = (
        "QueueMismatch",
        "A queue of that name exists with other arguments; it is left alone, and nothing else is done to it.",
    )
    CLIENTS_MUST_DECLARE_QUORUM = (
        "ClientsMustDeclareQuorum",
        "Celery's clients are refused by the queue unless they have the setting in the message.",
    )
    CLIENTS_MUST_DECLARE_ARGUMENTS = (
        "ClientsMustDeclareArguments",
        "Celery's clients are refused by the classic queue unless they name its arguments.",
    )
    UNCONFIRMED_PUBLISHERS_LOSE_TASKS = (
        "UnconfirmedPublishersLoseTasks",
        "The queue rejects what is too much, and Celery's clients do not notice unless they confirm.",
    )
    UNDER_REPLICATED = "UnderReplicated", "The queue has fewer members online than it shall have."
    BROKER_ALARM = "BrokerAlarm", "RabbitMQ takes no messages: its memory or disk is short."
    CONSUMER_TIMEOUT_TOO_SHORT = (
        "ConsumerTimeoutTooShort",
        "RabbitMQ takes a task away from its worker before the pool's own limit ends it.",
    )
    SCALING_ACTIVE = "ScalingActive", "Muster chooses the pool's size and knows enough to do so."
    SCALING_LIMITED = "ScalingLimited", "The wanted size lies outside the allowed one."
    SCALING_CONFLICT = (
        "ScalingConflict",
        "Something else scales the pool's Deployments; Muster keeps its hands off.",
    )
    PAUSED = "Paused", "It stands still because its spec says so."
    DRAINING = "Draining", "Workers are finishing their tasks before they leave."
    TEMPLATE_REJECTED = "TemplateRejected", "The API server refuses what spec.template makes of the pod."


class Reason(Word):
    """Why a condition has its status. Another broker adds its own words to this list."""

    AS_DECLARED = "AsDeclared", "Everything is as the spec says."
    PROGRESSING = "Progressing", "Being brought to what the spec says; nothing is wrong."
    NOT_OBSERVED_YET = "NotObservedYet", "Seen for the first time; nothing has been read yet."

    SECRET_NOT_FOUND = (
        "SecretNotFound",
        "The Secret that spec.broker or spec.results names does not exist.",
    )
    SECRET_INVALID = (
        "SecretInvalid",
        "The Secret exists and lacks a key or holds a URL that cannot be read.",
    )
    AUTH_FAILED = "AuthFailed", "The broker answered and refused the credentials."
    BROKER_UNREACHABLE = "BrokerUnreachable", "Nothing answers at the broker's address in time."
    BROKER_ERROR = "BrokerError", "The broker answered with an error of its own, quoted in the message."
    BROKER_NOT_SUPPORTED = (
        "BrokerNotSupported",
        "The URL's scheme names a broker that this version does not know.",
    )
    TYPE_MISMATCH = "TypeMismatch", "spec.type names a kind of queue that this broker does not have."

    OWNED_BY_OLDER = "OwnedByOlder", "An older TaskQueue, named in the message, owns the same real queue."
    EVICTION_POLICY = (
        "EvictionPolicy",
        "Redis' maxmemory-policy is not noeviction: under memory pressure it deletes tasks.",
    )

    NOT_ON_REDIS = (
        "NotOnRedis",
        "Fields of the spec, named in the message, have no effect on Redis; tasks are run all the same.",
    )

    NOT_ON_THIS_BROKER = (
        "NotOnThisBroker",
        "Fields of the spec, named in the message, have no effect on this version or type of queue.",
    )

    VIRTUAL_HOST_NOT_FOUND = "VirtualHostNotFound", "RabbitMQ has no virtual host of that name."
    PERMISSION_MISSING = (
        "PermissionMissing",
        "RabbitMQ knows the user and does not let it do what the message names.",
    )
    BROKER_TOO_OLD = "BrokerTooOld", "The broker's version lacks what the queue needs."
    OTHER_ARGUMENTS = (
        "OtherArguments",
        "The real queue has other arguments than the TaskQueue asks for; both sets are in the message.",
    )
    NO_MANAGEMENT_API = (
        "NoManagementApi",
        "The Secret has no managementUrl: policies are neither written nor read, all else works.",
    )
    MANAGEMENT_UNREACHABLE = (
        "ManagementUnreachable",
        "Nothing that can be understood answers at the Secret's managementUrl.",
    )
    POLICY_OVERRIDDEN = (
        "PolicyOverridden",
        "A policy of somebody else, named in the message, is in force in place of Muster's.",
    )
    OPERATOR_POLICY = (
        "OperatorPolicy",
        "An operator policy, named in the message, changes what the spec asks for.",
    )
    MEMORY_ALARM = "MemoryAlarm", "RabbitMQ is short of memory and takes no messages."
    DISK_ALARM = "DiskAlarm", "RabbitMQ is short of disk space and takes no messages."
    TOO_FEW_MEMBERS = "TooFewMembers", "Fewer members are online than the spec or the queue names."
    DEFAULT_TYPE_NOT_QUORUM = (
        "DefaultTypeNotQuorum",
        "The virtual host's default queue type is not quorum, or not known.",
    )
    MORE_ARGUMENTS = (
        "MoreArguments",
        "The queue has an argument that a client must name too.",
    )
    REJECTS_WHEN_FULL = "RejectsWhenFull", "spec.overflow is RejectPublish."
    LIMIT_IS_LONGER = (
        "LimitIsLonger",
        "A pool, named in the message, lets a task run for longer than the broker lets it be held.",
    )

    POOL_NOT_SUPPORTED = (
        "PoolNotSupported",
        "spec.pool names a way to run tasks that this version does not have; nothing is started.",
    )
    QUEUE_NOT_FOUND = (
        "QueueNotFound",
        "spec.queues or spec.queue names a TaskQueue that does not exist in this namespace.",
    )
    QUEUE_NOT_READY = "QueueNotReady", "A TaskQueue that is named exists and is not Ready itself."
    QUEUES_ON_DIFFERENT_BROKERS = (
        "QueuesOnDifferentBrokers",
        "The TaskQueues of one pool name different brokers; a worker has one.",
    )

    LOAD_KNOWN = "LoadKnown", "The pool is sized by its measured load."
    LOAD_UNKNOWN = "LoadUnknown", "The load could not be read; spec.scaling.fallback says what holds."
    FIXED_MODE = "FixedMode", "spec.scaling.mode is Fixed: spec.replicas is the size."
    EXTERNAL_MODE = (
        "ExternalMode",
        "spec.scaling.mode is External: whoever writes spec.replicas chooses the size.",
    )
    FOREIGN_SCALER = (
        "ForeignScaler",
        "A HorizontalPodAutoscaler or ScaledObject targets the pool's Deployment.",
    )
    AT_MAXIMUM = "AtMaximum", "More workers are wanted than scaling.maxReplicas allows."
    AT_MINIMUM = "AtMinimum", "Fewer workers would do than scaling.minReplicas or a floor asks for."
    WITHIN_LIMITS = "WithinLimits", "The wanted size is allowed."

    WORKERS_NOT_READY = "WorkersNotReady", "Fewer workers are ready than wanted."
    WORKERS_LEAVING = "WorkersLeaving", "Workers are finishing their tasks before they leave."
    NONE_LEAVING = "NoneLeaving", "No worker is draining."
    FIELD_IS_MUSTERS = "FieldIsMusters", "spec.template sets a field that Muster depends on."
    REJECTED_BY_API_SERVER = (
        "RejectedByAPIServer",
        "The API server refused an object; its words are in the message.",
    )
    ACCEPTED = "Accepted", "The API server took the object as it is."

    PAUSED_BY_SPEC = "PausedBySpec", "spec.paused or spec.suspend is true."
    NOT_PAUSED = "NotPaused", "Neither spec.paused nor spec.suspend is set."
    TIME_ZONE_UNKNOWN = "TimeZoneUnknown", "The time zone database does not know spec.timeZone."
    SCHEDULE_INVALID = "ScheduleInvalid", "spec.schedule has the shape of a cron line and names no time."
    RESULTS_NEEDED = (
        "ResultsNeeded",
        "concurrencyPolicy Forbid needs results on the pool that works the queue.",
    )
    BEAT_NOT_RUNNING = "BeatNotRunning", "No beat is elected, so nothing ticks."


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, as metav1.Condition has it."""

    type: Annotated[str, Prop("What it speaks of, such as Ready.", max_length=316)]
    status: Annotated[ConditionStatus, Prop("Whether it holds.")]
    reason: Annotated[str, Prop("Why, in one CamelCase word.", min_length=1, max_length=1024)]
    message: Annotated[
        str, Prop("Why, for people: what, on which object, and what to do.", max_length=32768)
    ] = ""
    observed_generation: Annotated[
        int | None, Prop("The metadata.generation it was found for.", minimum=0)
    ] = None
    last_transition_time: Annotated[datetime | None, Prop("When its status last changed.")] = None


def find_condition(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((each for each in conditions if each.type == type_), None)


def set_condition(conditions: Iterable[Condition], new: Condition, now: datetime) -> tuple[Condition, ...]:
    """Return `conditions` with `new` in its type's place, the order kept and a new type at the end.

    `new.last_transition_time` is ignored: the old one stays while the status is unchanged, else it is `now`.
    """
    kept = tuple(conditions)
    old = find_condition(kept, new.type)
    since = old.last_transition_time if old is not None and old.status == new.status else None
    new = replace(new, last_transition_time=since or now)
    if old is None:
        return (*kept, new)
    return tuple(new if each.type == new.type else each for each in kept)
