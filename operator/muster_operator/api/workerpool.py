"""WorkerPool: workers of one application on some queues, how many, and how they come and go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from muster.settings.environment import AUTOSCALE_BEGINS_WITHIN, SOLO_IS_ONE

from .conditions import Condition
from .kind import AGE, READY, REASON, Column, Kind, Scale, condition_column
from .meta import IntOrString, JsonObject, Prop, Word, rule
from .names import MAX_NAME
from .objects import (
    CRON_PATTERN,
    CRON_SENTENCE,
    NAME_PATTERN,
    ZONE_PATTERN,
    ZONE_SENTENCE,
    ObjectMeta,
    SecretRef,
    Source,
)

SECOND = timedelta(seconds=1)

RATE_PATTERN = r"^[0-9]+([.][0-9]+)?(/[smh])?$"
RATE_SENTENCE = "a rate is a number a second, minute or hour, such as 10/s, 100/m or 1000/h"


class PoolType(Word):
    """How a worker runs several tasks at once."""

    PREFORK = "prefork"
    THREADS = "threads"
    GEVENT = "gevent"
    EVENTLET = "eventlet"
    SOLO = "solo"
    ASYNCIO = "asyncio"


class Acks(Word):
    """When a message is acknowledged."""

    LATE = "Late", "After the task: a lost worker's task runs again."
    EARLY = "Early", "At the task's start: a lost worker's task is lost."


class ScalingMode(Word):
    """Who chooses the number of workers."""

    MANAGED = "Managed", "Muster, by load."
    FIXED = "Fixed", "spec.replicas, as written."
    EXTERNAL = (
        "External",
        "Whoever writes spec.replicas through the scale subresource: an HPA, KEDA or a person.",
    )


class PolicyType(Word):
    """What a scaling policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(Word):
    """Which of several scaling policies holds."""

    MAX = "Max", "The one that allows the largest change."
    MIN = "Min", "The one that allows the smallest change."
    DISABLED = "Disabled", "No change in this direction."


class FallbackBehavior(Word):
    """What holds while the load cannot be read."""

    HOLD = "Hold", "The size stays, or rises to minReplicas and the floors."
    STATIC = "Static", "The size rises to fallback.replicas; it never falls while the load is unknown."
    AT_LEAST = "AtLeast", "As Hold, and at least fallback.replicas."


@dataclass(frozen=True, kw_only=True)
class Results:
    """Where results are kept."""

    secret_ref: Annotated[SecretRef, Prop("The Secret whose key url names the result store.")]
    expires: Annotated[timedelta, Prop("Results older than this are removed.", at_least=SECOND)] = timedelta(
        days=1
    )


@dataclass(frozen=True, kw_only=True)
class Autoscale:
    """Bounds of the slots inside one worker. They grow at once and shrink when idle."""

    min: Annotated[int, Prop("Fewest slots.", minimum=1, maximum=10_000)]
    max: Annotated[int, Prop("Most slots.", minimum=1, maximum=10_000)]

    @rule("self.min <= self.max", "autoscale.min must not be above autoscale.max", field="min")
    def bounds_are_in_order(self) -> bool:
        return self.min <= self.max


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How one worker runs tasks."""

    type: Annotated[PoolType | None, Prop("How several tasks run at once; prefork by default.")] = None
    custom_pool: Annotated[
        str | None,
        Prop(
            "A pool of your own as module:Class, instead of type.",
            pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$",
            sentence="customPool is written module:Class",
            max_length=253,
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        Prop(
            "Tasks at once in one worker. By default the CPU limit rounded up; 10 for threads, 100 for "
            "gevent, eventlet and asyncio, 1 for solo.",
            minimum=1,
            maximum=10_000,
        ),
    ] = None
    autoscale: Annotated[Autoscale | None, Prop("Lets the slots of a worker follow its load.")] = None
    max_tasks_per_child: Annotated[
        int | None, Prop("A child process is replaced after so many tasks.", minimum=1, maximum=1_000_000_000)
    ] = None
    max_memory_per_child: Annotated[
        str | None,
        Prop(
            "A child process above this size is replaced after its task.",
            pattern=r"^[0-9]+(Ki|Mi|Gi|k|M|G)?$",
            sentence="a size is written like 300Mi or 2Gi",
            max_length=20,
        ),
    ] = None
    max_age: Annotated[
        timedelta | None, Prop("A child process older than this is replaced after its task.", at_least=SECOND)
    ] = None

    @property
    def effective_type(self) -> PoolType | None:
        """The type after the default; None for a pool of the user's own."""
        return None if self.custom_pool else self.type or PoolType.PREFORK

    @rule(
        "!has(self.customPool) || !has(self.type)",
        "customPool stands instead of type: leave one of them out",
        field="customPool",
    )
    def one_way_to_run(self) -> bool:
        return self.custom_pool is None or self.type is None

    @rule(
        """!has(self.type) || self.type != 'solo'
           || (!has(self.autoscale) && (!has(self.concurrency) || self.concurrency == 1))""",
        SOLO_IS_ONE,
        field="concurrency",
    )
    def solo_is_one(self) -> bool:
        return self.type is not PoolType.SOLO or (self.autoscale is None and self.concurrency in {None, 1})

    @rule(
        """!has(self.autoscale) || !has(self.concurrency)
           || (self.autoscale.min <= self.concurrency && self.concurrency <= self.autoscale.max)""",
        AUTOSCALE_BEGINS_WITHIN,
        field="concurrency",
    )
    def autoscale_begins_within_its_bounds(self) -> bool:
        if self.autoscale is None or self.concurrency is None:
            return True
        return self.autoscale.min <= self.concurrency <= self.autoscale.max

    @rule(
        """!has(self.type) || self.type == 'prefork'
           || !(has(self.maxTasksPerChild) || has(self.maxMemoryPerChild) || has(self.maxAge))""",
        "maxTasksPerChild, maxMemoryPerChild and maxAge replace child processes, and only prefork has these",
        field="type",
    )
    def only_prefork_has_children(self) -> bool:
        bounds = (self.max_tasks_per_child, self.max_memory_per_child, self.max_age)
        return self.type in {None, PoolType.PREFORK} or bounds == (None, None, None)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How messages are taken and given back."""

    acks: Annotated[Acks, Prop("When a message is acknowledged.")] = Acks.LATE
    prefetch: Annotated[
        IntOrString,
        Prop(
            "Most messages taken ahead for each slot, 1 to 10000. How many it is follows the measured "
            "runtime: none behind a task of 1 ms or more, so that no task waits behind a long one."
        ),
    ] = "Auto"
    lease: Annotated[
        timedelta,
        Prop(
            "A worker that is silent for this long loses its messages.",
            at_least=SECOND,
            at_most=timedelta(hours=1),
        ),
    ] = timedelta(seconds=30)
    reject_on_worker_lost: Annotated[
        bool, Prop("With late acks: the task of a lost worker runs again; else it is recorded as failed.")
    ] = True

    @rule(
        "type(self.prefetch) == int ? self.prefetch >= 1 && self.prefetch <= 10000 : self.prefetch == 'Auto'",
        "prefetch is Auto or a number of messages from 1 to 10000",
        field="prefetch",
    )
    def prefetch_is_auto_or_a_number(self) -> bool:
        return 1 <= self.prefetch <= 10_000 if isinstance(self.prefetch, int) else self.prefetch == "Auto"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long tasks may run and how often they may start."""

    soft_time_limit: Annotated[
        timedelta | None, Prop("The task gets SoftTimeLimitExceeded.", at_least=SECOND)
    ] = None
    time_limit: Annotated[timedelta | None, Prop("The task is killed.", at_least=SECOND)] = None
    rate: Annotated[
        Mapping[str, str],
        Prop(
            "Most starts of a task in each worker, such as 100/m, by task name.",
            pattern=RATE_PATTERN,
            sentence=RATE_SENTENCE,
            max_length=32,
            max_items=256,
        ),
    ] = field(default_factory=dict)
    global_rate: Annotated[
        Mapping[str, str],
        Prop(
            "Most starts of a task in all workers together, by task name.",
            pattern=RATE_PATTERN,
            sentence=RATE_SENTENCE,
            max_length=32,
            max_items=256,
        ),
    ] = field(default_factory=dict)

    @rule(
        "!has(self.softTimeLimit) || !has(self.timeLimit) || self.softTimeLimit < self.timeLimit",
        "softTimeLimit must be shorter than timeLimit, or the task is killed before it is told to stop",
        field="softTimeLimit",
    )
    def told_before_killed(self) -> bool:
        if self.soft_time_limit is None or self.time_limit is None:
            return True
        return self.soft_time_limit < self.time_limit


@dataclass(frozen=True, kw_only=True)
class Target:
    """What Managed scaling aims at."""

    utilization: Annotated[int, Prop("Percent of the slots that shall be busy.", minimum=1, maximum=100)] = 80
    latency: Annotated[
        timedelta | None,
        Prop(
            "How long a message may wait before it starts; not looked at by default.",
            at_least=timedelta(milliseconds=100),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ScalingPolicy:
    """A bound on the change within a period."""

    type: Annotated[PolicyType, Prop("What value counts.")]
    value: Annotated[int, Prop("So many, at most.", minimum=1, maximum=100_000)]
    period_seconds: Annotated[int, Prop("Within so many seconds.", minimum=1, maximum=1800)]


@dataclass(frozen=True, kw_only=True)
class ScalingRules:
    """How fast the size may change in one direction."""

    stabilization_seconds: Annotated[
        int, Prop("The size follows the most careful wish of so many past seconds.", minimum=0, maximum=3600)
    ] = 0
    select_policy: Annotated[SelectPolicy, Prop("Which of several policies holds.")] = SelectPolicy.MAX
    policies: Annotated[
        tuple[ScalingPolicy, ...], Prop("Bounds on the change; none by default.", max_items=16)
    ] = ()


@dataclass(frozen=True, kw_only=True)
class ScaleDownRules(ScalingRules):
    """How fast the size may fall."""

    stabilization_seconds: Annotated[
        int, Prop("The size follows the most careful wish of so many past seconds.", minimum=0, maximum=3600)
    ] = 60


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """How fast the size may change."""

    scale_up: Annotated[ScalingRules, Prop("On the way up.")] = field(default_factory=ScalingRules)
    scale_down: Annotated[ScaleDownRules, Prop("On the way down.")] = field(default_factory=ScaleDownRules)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A time in which the pool is never smaller than so many; of several the highest holds."""

    schedule: Annotated[
        str,
        Prop("When it begins, as a cron line.", pattern=CRON_PATTERN, sentence=CRON_SENTENCE, max_length=100),
    ]
    until: Annotated[
        str,
        Prop("When it ends, as a cron line.", pattern=CRON_PATTERN, sentence=CRON_SENTENCE, max_length=100),
    ]
    time_zone: Annotated[
        str,
        Prop(
            "The zone of both lines, such as Europe/Berlin.",
            pattern=ZONE_PATTERN,
            sentence=ZONE_SENTENCE,
            max_length=64,
        ),
    ] = "Etc/UTC"
    replicas: Annotated[int, Prop("Fewest workers in that time.", minimum=1, maximum=10_000)]

    @rule(
        "self.schedule != self.until",
        "until must name another time than schedule, or the floor never holds",
        field="until",
    )
    def it_lasts(self) -> bool:
        return self.schedule != self.until


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What holds while the load cannot be read."""

    after: Annotated[timedelta, Prop("How long it must have been unreadable.", at_least=SECOND)] = timedelta(
        seconds=30
    )
    behavior: Annotated[FallbackBehavior, Prop("What holds then.")] = FallbackBehavior.HOLD
    replicas: Annotated[int | None, Prop("The size for Static and AtLeast.", minimum=0, maximum=10_000)] = (
        None
    )

    @rule(
        "self.behavior == 'Hold' || has(self.replicas)",
        "fallback.behavior Static and AtLeast name a size: set fallback.replicas",
        field="behavior",
    )
    def a_size_is_named(self) -> bool:
        return self.behavior is FallbackBehavior.HOLD or self.replicas is not None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How many workers there are."""

    mode: Annotated[ScalingMode, Prop("Who chooses the size.")] = ScalingMode.MANAGED
    min_replicas: Annotated[int, Prop("Fewest workers.", minimum=0, maximum=10_000)] = 0
    max_replicas: Annotated[int, Prop("Most workers.", minimum=1, maximum=10_000)] = 10
    target: Annotated[Target, Prop("What Managed scaling aims at.")] = field(default_factory=Target)
    behavior: Annotated[Behavior, Prop("How fast the size may change.")] = field(default_factory=Behavior)
    floors: Annotated[tuple[Floor, ...], Prop("Times in which more workers stand ready.", max_items=16)] = ()
    fallback: Annotated[Fallback, Prop("What holds while the load cannot be read.")] = field(
        default_factory=Fallback
    )

    @rule(
        "self.minReplicas <= self.maxReplicas",
        "minReplicas must not be above maxReplicas",
        field="minReplicas",
    )
    def bounds_are_in_order(self) -> bool:
        return self.min_replicas <= self.max_replicas

    @rule(
        "!has(self.floors) || self.floors.all(floor, floor.replicas <= self.maxReplicas)",
        "a floor's replicas must not be above maxReplicas",
        field="floors",
    )
    def floors_lie_below_the_ceiling(self) -> bool:
        return all(floor.replicas <= self.max_replicas for floor in self.floors)

    @rule(
        "!has(self.fallback.replicas) || self.fallback.replicas <= self.maxReplicas",
        "fallback.replicas must not be above maxReplicas",
        field="fallback.replicas",
    )
    def the_fallback_lies_below_the_ceiling(self) -> bool:
        return (self.fallback.replicas or 0) <= self.max_replicas

    @rule(
        "self.mode == 'Managed' || !has(self.floors) || size(self.floors) == 0",
        "floors hold in mode Managed only: in Fixed and External spec.replicas is the size",
        field="floors",
    )
    def floors_are_for_managed_pools(self) -> bool:
        return self.mode is ScalingMode.MANAGED or not self.floors

    @rule(
        "self.mode == 'Managed' || self.fallback.behavior == 'Hold'",
        "fallback holds in mode Managed only: in Fixed and External spec.replicas is the size",
        field="fallback.behavior",
    )
    def fallbacks_are_for_managed_pools(self) -> bool:
        return self.mode is ScalingMode.MANAGED or self.fallback.behavior is FallbackBehavior.HOLD


@dataclass(frozen=True, kw_only=True)
class Drain:
    """How workers leave."""

    timeout: Annotated[
        timedelta,
        Prop("How long a leaving worker may finish its tasks.", at_least=SECOND, at_most=timedelta(days=7)),
    ] = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class WorkerPoolSpec:
    """What the pool shall be."""

    image: Annotated[
        str, Prop("The image with the application and Muster's engine.", min_length=1, max_length=512)
    ]
    app: Annotated[str, Prop("The application: what muster -A takes.", min_length=1, max_length=253)]
    queues: Annotated[
        tuple[str, ...],
        Prop(
            "Names of TaskQueues in order of preference, all on one broker.",
            min_items=1,
            max_items=64,
            pattern=NAME_PATTERN,
            sentence="must be the name of a TaskQueue in this namespace",
            max_length=253,
        ),
    ]
    results: Annotated[Results | None, Prop("Where results are kept; without it they are ignored.")] = None
    pool: Annotated[Pool, Prop("How one worker runs tasks.")] = field(default_factory=Pool)
    delivery: Annotated[Delivery, Prop("How messages are taken and given back.")] = field(
        default_factory=Delivery
    )
    limits: Annotated[Limits, Prop("How long tasks may run and how often they may start.")] = field(
        default_factory=Limits
    )
    replicas: Annotated[
        int, Prop("The size in the modes Fixed and External; Managed ignores it.", minimum=0, maximum=10_000)
    ] = 1
    scaling: Annotated[Scaling, Prop("How many workers there are.")] = field(default_factory=Scaling)
    drain: Annotated[Drain, Prop("How workers leave.")] = field(default_factory=Drain)
    paused: Annotated[bool, Prop("Nothing is started, running tasks finish, the pool goes to zero.")] = False
    template: Annotated[JsonObject, Prop("A pod template that is merged over Muster's own.")] = field(
        default_factory=dict
    )

    @rule(
        "self.queues.all(queue, self.queues.exists_one(other, other == queue))",
        "queues names a TaskQueue twice: each has one place in the order of preference",
        field="queues",
    )
    def queues_are_named_once(self) -> bool:
        return len(set(self.queues)) == len(self.queues)

    @rule(
        "!has(self.limits.timeLimit) || self.drain.timeout >= self.limits.timeLimit",
        "drain.timeout must be at least limits.timeLimit: a grace period below the hard limit would kill "
        "tasks that are still allowed to run",
        field="drain.timeout",
    )
    def draining_outlasts_the_hard_limit(self) -> bool:
        return self.limits.time_limit is None or self.drain.timeout >= self.limits.time_limit

    @rule(
        """!has(self.pool.type) || !(self.pool.type in ['threads', 'solo'])
           || !(has(self.limits.timeLimit) || has(self.limits.softTimeLimit))""",
        "limits.timeLimit and limits.softTimeLimit interrupt a task in a process of its own, and threads and "
        "solo have none: use prefork",
        field="limits",
    )
    def a_limited_task_has_its_own_process(self) -> bool:
        limits = (self.limits.time_limit, self.limits.soft_time_limit)
        return self.pool.type not in {PoolType.THREADS, PoolType.SOLO} or limits == (None, None)


@dataclass(frozen=True, kw_only=True)
class LastDecision:
    """The latest change of size, and why."""

    from_: Annotated[int, Prop("Replicas before.", minimum=0)]
    to: Annotated[int, Prop("Replicas after.", minimum=0)]
    reason: Annotated[str, Prop("Why, in one CamelCase word.", max_length=128)]
    inputs: Annotated[JsonObject, Prop("What it was decided from.")] = field(default_factory=dict)
    time: Annotated[datetime, Prop("When.")]


@dataclass(frozen=True, kw_only=True)
class WorkerPoolStatus:
    """What the pool is. Figures are rounded and written rarely; live ones come from metrics."""

    observed_generation: Annotated[
        int | None, Prop("The generation that this status speaks of.", minimum=0)
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Prop("What is true of it.", list_type="map", list_map_keys=("type",), max_items=32),
    ] = ()
    replicas: Annotated[int | None, Prop("Pods that exist; what the scale subresource shows.", minimum=0)] = (
        None
    )
    selector: Annotated[
        str | None, Prop("Selects the pool's pods; for the scale subresource.", max_length=512)
    ] = None
    desired: Annotated[int | None, Prop("Workers that there shall be.", minimum=0)] = None
    ready: Annotated[int | None, Prop("Workers that take tasks.", minimum=0)] = None
    busy: Annotated[int | None, Prop("Slots that run a task.", minimum=0)] = None
    slots: Annotated[int | None, Prop("Slots of all ready workers.", minimum=0)] = None
    depth: Annotated[int | None, Prop("Messages that wait on its queues.", minimum=0)] = None
    in_flight: Annotated[int | None, Prop("Messages of its queues that workers hold.", minimum=0)] = None
    oldest_age: Annotated[timedelta | None, Prop("How long the oldest waiting message waits.")] = None
    oldest_age_source: Annotated[Source | None, Prop("How oldestAge was obtained.")] = None
    deployment: Annotated[str | None, Prop("The Deployment of the current version.", max_length=63)] = None
    last_decision: Annotated[LastDecision | None, Prop("The latest change of size, and why.")] = None


@dataclass(frozen=True, kw_only=True)
class WorkerPool:
    """Workers of one application on some queues: how they run, how many there are, how they leave."""

    metadata: ObjectMeta
    spec: WorkerPoolSpec
    status: WorkerPoolStatus = field(default_factory=WorkerPoolStatus)

    @rule(
        "size(self.metadata.name) <= 63",
        "a WorkerPool's name becomes a label's value: at most 63 characters",
    )
    def name_fits_a_label(self) -> bool:
        return len(self.metadata.name) <= MAX_NAME


WORKER_POOL = Kind(
    cls=WorkerPool,
    plural="workerpools",
    short_name="wp",
    columns=(
        READY,
        Column(name="Desired", path=".status.desired", type="integer"),
        Column(name="Workers", path=".status.ready", type="integer"),
        Column(name="Busy", path=".status.busy", type="integer"),
        Column(name="Depth", path=".status.depth", type="integer"),
        condition_column("Paused", "Paused"),
        Column(name="Pool", path=".spec.pool.type", wide=True),
        Column(name="Mode", path=".spec.scaling.mode", wide=True),
        Column(name="Oldest", path=".status.oldestAge", wide=True),
        Column(name="Decision", path=".status.lastDecision.reason", wide=True),
        REASON,
        AGE,
    ),
    scale=Scale(
        spec_replicas=".spec.replicas", status_replicas=".status.replicas", selector=".status.selector"
    ),
)
