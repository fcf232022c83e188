"""What holds for a worker: from its command line, its environment and its application, one set of options.

The command line resolves once without the application (which it must not import), the service again, by
`with_application`, when the application's process has told its settings. Pure: what the machine is and what
the environment says are arguments. Precedence: command line, environment (the manifest), application,
default. What single calls and tasks say goes before all of it and is seen to where they run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster import settings
from muster.core.autoscale import Bounds
from muster.core.policy import TaskPolicy
from muster.core.rate import read_rate
from muster.errors import ConfigurationError
from muster.settings import Settings
from muster.settings.environment import (
    AUTOSCALE_BEGINS_WITHIN,
    SOLO_IS_ONE,
    DeadLetter,
    Prefetch,
    QueueLimits,
    WorkerEnvironment,
)
from muster.settings.pools import CHILDREN, GREEN, LIMITS, PoolType, pool_type
from muster.settings.queues import QUEUE_SETTINGS, QueueArguments, queue_arguments, read_queues
from muster.settings.urls import mask, parse_broker_url, parse_result_url, with_ca_file
from muster.wire.keys import RESERVED_PREFIXES
from muster.worker.machine import Machine

_THREADS, _GREENLETS = 10, 100
_BY_POOL = "pool"
"""Origin of what the pool's type overrules."""
LEAST_LEASE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What `muster worker` was called with; None or empty: nothing was said."""

    app: str | None = None
    broker_url: str | None = None
    result_url: str | None = None
    queues: tuple[str, ...] = ()
    exclude_queues: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    pool: str | None = None
    concurrency: int | None = None
    autoscale: tuple[int, int] | None = None
    hostname: str | None = None
    soft_time_limit_seconds: float | None = None
    time_limit_seconds: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child_bytes: int | None = None
    max_age_seconds: float | None = None
    prefetch: Prefetch | None = None
    lease_seconds: float | None = None
    drain_timeout_seconds: float | None = None
    metrics_address: str | None = None
    log_level: str | None = None
    log_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class Told:
    """All that a worker was told before its application was imported."""

    command_line: CommandLine
    environment: WorkerEnvironment
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker needs to know. Seconds and counts are 0 where there is no limit; texts empty for none."""

    app: str
    include: tuple[str, ...]
    """Modules to import besides what the application names itself."""
    broker_url: str
    """Empty only before `with_application`."""
    broker_transport_options: Mapping[str, Any]
    delayed_delivery_type: str
    """RabbitMQ: of the queues in which messages wait for their time."""
    create_missing_queues: bool
    """RabbitMQ: whether a queue that a task sends to and that is not there is declared."""
    queue_arguments: QueueArguments
    """With which arguments a queue is declared that is not there, on RabbitMQ."""
    declare_queues: bool
    """RabbitMQ: whether a queue that it consumes and that is not there is declared, or waited for."""
    retry_on_startup: bool
    """Whether a broker that is away at the start is waited for."""
    result_backend: str
    result_backend_transport_options: Mapping[str, Any]
    result_expires_seconds: int
    queues: tuple[str, ...]
    """In order of preference."""
    dead_letters: Mapping[str, DeadLetter]
    """For every queue."""
    delivery_limit: int
    delivery_limits: Mapping[str, int]
    """For queues with a limit of their own."""
    queue_limits: Mapping[str, QueueLimits]
    rate_limits: Mapping[str, str]
    """Task → most starts in this worker."""
    global_rate_limits: Mapping[str, str]
    """Task → most starts in all workers together."""
    default_rate_limit: str
    disable_rate_limits: bool
    """Whether tasks' own limits and the default are left out."""
    pool: PoolType
    concurrency: int
    """Tasks at once; with `autoscale` in the beginning."""
    autoscale: tuple[int, int] | None
    """(most, fewest) tasks at once; None: always as many."""
    autoscale_keepalive_seconds: float
    max_tasks_per_child: int
    max_memory_per_child_bytes: int
    max_age_seconds: float
    acks_late: bool
    reject_on_worker_lost: bool
    acks_on_failure_or_timeout: bool
    ignore_result: bool
    store_errors_even_if_ignored: bool
    track_started: bool
    soft_time_limit_seconds: float
    time_limit_seconds: float
    prefetch: Prefetch
    lease_seconds: float
    drain_timeout_seconds: float
    max_message_bytes: int
    hostname: str
    worker_id: str
    pool_name: str
    metrics_address: str
    log_level: str
    log_format: str
    origins: Mapping[str, str] = field(repr=False)
    """Field → command line, environment, application (or another source of settings), pool or default."""
    told: Told = field(repr=False)

    @property
    def max_depth(self) -> int:
        """How many messages a slot may hold at most, the running one included; 0: by measured runtime."""
        return 0 if self.prefetch == "Auto" else self.prefetch + 1

    @property
    def bounds(self) -> Bounds | None:
        """Between which the pool's size follows its load; None: it does not."""
        if self.autoscale is None:
            return None
        most, fewest = self.autoscale
        return Bounds(fewest, most, self.autoscale_keepalive_seconds)

    def with_application(self, application: Settings) -> "WorkerOptions":
        """Return the options with what the application says. Raises ConfigurationError as `resolve` does."""
        return resolve(self.told, application)

    def overrides(self) -> dict[str, Any]:
        """Return what this worker was told over its application's head, as settings for `app.conf`.

        Tasks that publish and the executor then go by the same broker, queues and results as the worker.
        """
        return {
            setting: getattr(self, name)
            for name, setting in _OVERRIDES.items()
            if self.origins[name] in {"command line", "environment"}
        }

    def effective(self) -> dict[str, str]:
        """Return each option as text, for reports and people; nothing secret is in it."""
        hidden = {"origins", "told"}
        return {name: _shown(value) for name, value in vars(self).items() if name not in hidden}


_OVERRIDES = {
    "broker_url": "broker_url",
    "create_missing_queues": "task_create_missing_queues",
    "result_backend": "result_backend",
    "result_expires_seconds": "result_expires",
}


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return mask(value) if "://" in value else value
        case None:
            return ""
        case tuple():
            return ",".join(map(str, value))
        case DeadLetter():
            return f"{value.name} ({value.max_length} for {value.max_age:g} s)"
        case Mapping():
            return ", ".join(
                f"{key}: {'***' if 'password' in key else _shown(item)}" for key, item in value.items()
            )
        case float():
            return f"{value:g}"
        case _:
            return str(value)


class _Sources:
    """Picks each value from the first source that has it, and notes which."""

    def __init__(self, told: Told, application: Settings) -> None:
        self._told = (("command line", told.command_line), ("environment", told.environment))
        self._application = application
        self.origins: dict[str, str] = {}

    def pick(self, name: str, *, setting: str = "", option: str = "", default: Any = None) -> Any:
        """Return the value of the option `name`, called `option` where it was told, `setting` by Celery."""
        for source, values in self._told:
            value = getattr(values, option or name, None)
            if value is not None and value not in ((), {}):
                self.origins[name] = source
                return value
        if not setting:
            self.origins[name] = "default"
            return default
        self.origins[name] = self._application.origin(setting)
        value = getattr(self._application, setting)
        return default if value is None else value


APPLICATION_SETTINGS = (
    "broker_url",
    "broker_transport_options",
    "broker_native_delayed_delivery_queue_type",
    "task_create_missing_queues",
    *QUEUE_SETTINGS,
    "broker_connection_retry_on_startup",
    "result_backend",
    "result_backend_transport_options",
    "result_expires",
    "muster_delivery_limit",
    "task_default_rate_limit",
    "worker_disable_rate_limits",
    "worker_pool",
    "worker_concurrency",
    "muster_autoscale_keepalive",
    "worker_max_tasks_per_child",
    "worker_max_memory_per_child",
    "muster_max_age_per_child",
    "task_acks_late",
    "task_reject_on_worker_lost",
    "task_acks_on_failure_or_timeout",
    "task_ignore_result",
    "task_store_errors_even_if_ignored",
    "task_track_started",
    "task_soft_time_limit",
    "task_time_limit",
    "worker_disable_prefetch",
    "muster_lease",
    "muster_drain_timeout",
    "muster_max_message_bytes",
    "muster_metrics_address",
)
"""What `resolve` asks of an application; no other setting has to travel to the worker's own process."""


def told_by(application: Settings) -> dict[str, Any]:
    """Return what the application set of `APPLICATION_SETTINGS`, as plain values that can be sent on.

    `muster.settings.resolve` makes settings of it again.
    """
    plain = {name: value for name, value in application.given().items() if name in APPLICATION_SETTINGS}
    if plain.get("task_queues") is not None:
        named = read_queues(plain["task_queues"])
        plain["task_queues"] = {name: {"queue_arguments": arguments} for name, arguments in named.items()}
    return plain


def resolve(told: Told, application: Settings | None = None) -> WorkerOptions:
    """Return what holds. Raises ConfigurationError for what cannot work, and says what to do.

    Without an application what only it can say is left at its default, and no broker is asked for.
    """
    said = settings.resolve({}) if application is None else application
    sources = _Sources(told, said)
    pick = sources.pick
    app = pick("app")
    if not app:
        raise ConfigurationError("no application: say which with -A MODULE, or in MUSTER_APP")
    pool = pool_type(pick("pool", setting="worker_pool"))
    autoscale = pick("autoscale")
    hostname = node_name(pick("hostname", default=""), told.machine.host)
    queues = _queues(sources, told, said)
    broker_url = pick("broker_url", setting="broker_url", default="")
    if broker_url:
        parse_broker_url(broker_url)
        broker_url = with_ca_file(broker_url, told.environment.broker_ca_file)
    elif application is not None:
        raise ConfigurationError(
            "no broker: say which with -b URL, in MUSTER_BROKER_URL or in the application's broker_url"
        )
    result_backend = pick("result_backend", option="result_url", setting="result_backend", default="")
    if result_backend:
        parse_result_url(result_backend)
        result_backend = with_ca_file(result_backend, told.environment.result_ca_file)
    dead_letters = pick("dead_letters", default={})
    options = WorkerOptions(
        app=app,
        include=pick("include", default=()),
        broker_url=broker_url,
        broker_transport_options=pick("broker_transport_options", setting="broker_transport_options"),
        delayed_delivery_type=pick(
            "delayed_delivery_type", setting="broker_native_delayed_delivery_queue_type"
        ),
        create_missing_queues=pick("create_missing_queues", setting="task_create_missing_queues"),
        queue_arguments=_queue_arguments(sources, said),
        declare_queues=pick("declare_queues", default=True),
        retry_on_startup=pick("retry_on_startup", setting="broker_connection_retry_on_startup", default=True),
        result_backend=result_backend,
        result_backend_transport_options=pick(
            "result_backend_transport_options", setting="result_backend_transport_options"
        ),
        result_expires_seconds=int(pick("result_expires_seconds", setting="result_expires", default=0)),
        queues=queues,
        dead_letters={name: dead_letters.get(name) or DeadLetter(name=f"{name}.dead") for name in queues},
        delivery_limit=pick("delivery_limit", setting="muster_delivery_limit"),
        delivery_limits=pick("delivery_limits", default={}),
        queue_limits=pick("queue_limits", default={}),
        rate_limits=pick("rate_limits", default={}),
        global_rate_limits=pick("global_rate_limits", default={}),
        default_rate_limit=pick("default_rate_limit", setting="task_default_rate_limit", default=""),
        disable_rate_limits=pick("disable_rate_limits", setting="worker_disable_rate_limits"),
        pool=pool,
        concurrency=_concurrency(sources, pool, autoscale, told.machine.cpus),
        autoscale=autoscale,
        autoscale_keepalive_seconds=pick(
            "autoscale_keepalive_seconds", setting="muster_autoscale_keepalive", default=30.0
        ),
        max_tasks_per_child=pick("max_tasks_per_child", setting="worker_max_tasks_per_child", default=0),
        max_memory_per_child_bytes=_memory(sources, said),
        max_age_seconds=pick("max_age_seconds", setting="muster_max_age_per_child", default=0.0),
        acks_late=pick("acks_late", setting="task_acks_late"),
        reject_on_worker_lost=pick("reject_on_worker_lost", setting="task_reject_on_worker_lost"),
        acks_on_failure_or_timeout=pick(
            "acks_on_failure_or_timeout", setting="task_acks_on_failure_or_timeout"
        ),
        ignore_result=pick("ignore_result", setting="task_ignore_result"),
        store_errors_even_if_ignored=pick(
            "store_errors_even_if_ignored", setting="task_store_errors_even_if_ignored"
        ),
        track_started=pick("track_started", setting="task_track_started"),
        soft_time_limit_seconds=pick("soft_time_limit_seconds", setting="task_soft_time_limit", default=0.0),
        time_limit_seconds=pick("time_limit_seconds", setting="task_time_limit", default=0.0),
        prefetch=_prefetch(sources),
        lease_seconds=pick("lease_seconds", setting="muster_lease"),
        drain_timeout_seconds=pick("drain_timeout_seconds", setting="muster_drain_timeout"),
        max_message_bytes=pick("max_message_bytes", setting="muster_max_message_bytes"),
        hostname=hostname,
        worker_id=pick("worker_id", default=told.machine.unique),
        pool_name=pick("pool_name", default=hostname),
        metrics_address=pick("metrics_address", setting="muster_metrics_address", default=""),
        log_level=pick("log_level", default="INFO"),
        log_format=pick("log_format", default="text"),
        origins=sources.origins,
        told=told,
    )
    _check(options)
    return options


def _concurrency(sources: _Sources, pool: PoolType, autoscale: tuple[int, int] | None, cpus: int) -> int:
    if autoscale is not None:
        if pool is PoolType.SOLO:
            raise ConfigurationError(SOLO_IS_ONE)
        most, fewest = autoscale
        begin: int = sources.pick("concurrency", default=fewest)
        if not fewest <= begin <= most:
            raise ConfigurationError(AUTOSCALE_BEGINS_WITHIN)
        return begin
    said: int | None = sources.pick("concurrency", setting="worker_concurrency")
    if said is not None and said < 1:
        raise ConfigurationError(f"concurrency is {said}: it must be 1 or more")
    if pool is PoolType.SOLO:
        if said is not None and said > 1:
            sources.origins["concurrency"] = _BY_POOL
        return 1
    if pool in GREEN:
        return said or _GREENLETS
    return said or (cpus if pool is PoolType.PREFORK else _THREADS)


def _memory(sources: _Sources, application: Settings) -> int:
    told: int | None = sources.pick("max_memory_per_child_bytes")
    if told is not None:
        return told
    sources.origins["max_memory_per_child_bytes"] = application.origin("worker_max_memory_per_child")
    return (application.worker_max_memory_per_child or 0) * 1024  # Celery counts KiB


def _prefetch(sources: _Sources) -> Prefetch:
    told: Prefetch | None = sources.pick("prefetch")
    if told is not None:
        return told
    return 0 if sources.pick("prefetch", setting="worker_disable_prefetch") else "Auto"


def _queue_arguments(sources: _Sources, application: Settings) -> QueueArguments:
    origins = {application.origin(setting) for setting in QUEUE_SETTINGS} - {"default"}
    sources.origins["queue_arguments"] = ", ".join(sorted(origins)) or "default"
    return queue_arguments(application)


def _queues(sources: _Sources, told: Told, application: Settings) -> tuple[str, ...]:
    names = sources.pick("queues", default=())
    if not names and application.task_queues:
        names = list(read_queues(application.task_queues))
        sources.origins["queues"] = application.origin("task_queues")
    if not names:
        names = [application.task_default_queue]
        sources.origins["queues"] = application.origin("task_default_queue")
    excluded = set(told.command_line.exclude_queues)
    queues = tuple(name for name in dict.fromkeys(names) if name not in excluded)
    if not queues:
        raise ConfigurationError(f"no queue is left to consume: {', '.join(names)} are excluded by -X")
    for name in queues:
        if name.startswith(RESERVED_PREFIXES):
            raise ConfigurationError(
                f"the queue name {name!r} is reserved: no queue may begin with {', '.join(RESERVED_PREFIXES)}"
            )
    return queues


def _check(options: WorkerOptions) -> None:
    if options.lease_seconds < LEAST_LEASE_SECONDS:
        raise ConfigurationError(
            f"the lease is {options.lease_seconds:g} s: it must be {LEAST_LEASE_SECONDS:g} s or more, "
            "since it is renewed once a third of it and a short pause must not lose it"
        )
    for queue, place in options.dead_letters.items():
        if place.name in options.queues:
            raise ConfigurationError(
                f"the dead letters of queue {queue!r} would go to {place.name!r}, which this worker consumes "
                "too: name another place"
            )
    if 0 < options.time_limit_seconds <= options.soft_time_limit_seconds:
        raise ConfigurationError(
            f"the soft time limit, {options.soft_time_limit_seconds:g} s, must be shorter than the time "
            f"limit, {options.time_limit_seconds:g} s, or a task is killed before it is told to stop"
        )
    for name, text in options.rate_limits.items():
        read_rate(text, whose=f"the rate limit of {name}")
    for name, text in options.global_rate_limits.items():
        read_rate(text, whose=f"the global rate limit of {name}")
    read_rate(options.default_rate_limit or None, whose="task_default_rate_limit")


_SHOWN = 5
"""How many tasks of one trouble are named."""


def without_effect(options: WorkerOptions, tasks: Mapping[str, TaskPolicy]) -> list[str]:
    """Return a sentence for each thing that the worker or a task was told and that has no effect here."""
    found = _limits_without_effect(options, tasks)
    for what, said in (
        ("max-tasks-per-child", options.max_tasks_per_child),
        ("max-memory-per-child", options.max_memory_per_child_bytes),
        ("max-age-per-child", options.max_age_seconds),
    ):
        if said and options.pool not in CHILDREN:
            why = "keeps its process" if options.pool in GREEN else "has no child processes"
            found.append(f"{what} has no effect: the {options.pool} pool {why}; use prefork")
    if options.origins["concurrency"] == _BY_POOL:
        found.append(
            "concurrency has no effect: a solo worker runs one task at a time; use prefork or threads"
        )
    return found


def _limits_without_effect(options: WorkerOptions, tasks: Mapping[str, TaskPolicy]) -> list[str]:
    if options.pool in LIMITS:
        late = sorted(name for name, task in tasks.items() if _told_too_late(options, task))
        why = "the task is killed before it is told to stop; give it a time limit that is longer"
        return [f"the soft time limit of {_listed(late)} has no effect: {why}"] if late else []
    why = f"the {options.pool} pool cannot interrupt a task; use prefork"
    found = []
    for what, seconds in (
        ("time limit", options.time_limit_seconds),
        ("soft time limit", options.soft_time_limit_seconds),
    ):
        if seconds:
            found.append(f"the {what} of {seconds:g} s has no effect: {why}")
    limited = sorted(name for name, task in tasks.items() if task.hard_limit or task.soft_limit)
    if limited:
        found.append(f"the time limits that tasks have themselves, {_listed(limited)}, have no effect: {why}")
    return found


def _told_too_late(options: WorkerOptions, task: TaskPolicy) -> bool:
    hard = options.time_limit_seconds if task.hard_limit is None else task.hard_limit
    return 0 < hard <= (task.soft_limit or 0)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def node_name(text: str, host: str) -> str:
    """Return a worker's name from what `-n` was given: `%h` is the host, `%n` its first part, `%d` the rest.

    As with Celery, a name without @ is taken for the part after it, and without any the host is.
    """
    short, _, domain = host.partition(".")
    parts = {"%h": host, "%n": short, "%d": domain, "%i": "0", "%I": "", "%%": "%"}
    expanded, rest = "", text
    while rest:
        step = parts.get(rest[:2])
        expanded, rest = (expanded + rest[0], rest[1:]) if step is None else (expanded + step, rest[2:])
    name, at, place = expanded.rpartition("@")
    return f"{(name if at else '') or 'muster'}@{place or host}"
