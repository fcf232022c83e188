"""The environment of a worker: what the operator and `muster dev` tell it, and how that is written.

The operator writes it with `to_environment`, the worker reads it with `from_environment`; both follow one
table, `VARIABLES`, which docs/reference/environment.md explains. The URLs come from Secrets, so that the
operator leaves them out of its values and refers to the Secret instead. An empty variable counts as absent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

from muster.errors import ConfigurationError
from muster.settings import quantities

Prefetch: TypeAlias = int | Literal["Auto"]

SOLO_IS_ONE: Final = (
    "a solo worker runs one task at a time: leave concurrency and autoscale out, or choose another type"
)
AUTOSCALE_BEGINS_WITHIN: Final = (
    "concurrency is where autoscale begins: it must lie between autoscale.min and autoscale.max"
)
"""What manifests and workers are told alike."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where a queue's dead letters go, and how many of them are kept for how many seconds."""

    name: str
    max_age: float = 604_800.0
    max_length: int = 100_000


class QueueLimits(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"message_ttl": "messageTTL", "max_length": "maxLength"},
    forbid_unknown_fields=True,
):
    """What a queue holds: messages not older than `message_ttl` seconds, at most `max_length` of them."""

    message_ttl: float | None = None
    max_length: int | None = None
    overflow: Literal["DropHead", "RejectPublish"] | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """What a worker was told; None or empty: nothing was said. The variables' notes describe the fields."""

    app: str | None = None
    broker_url: str | None = None
    broker_ca_file: str | None = None
    result_url: str | None = None
    result_ca_file: str | None = None
    result_expires_seconds: float | None = None
    queues: tuple[str, ...] = ()
    pool: str | None = None
    concurrency: int | None = None
    autoscale: tuple[int, int] | None = None
    """(most, fewest)"""
    autoscale_keepalive_seconds: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child_bytes: int | None = None
    max_age_seconds: float | None = None
    acks_late: bool | None = None
    prefetch: Prefetch | None = None
    lease_seconds: float | None = None
    reject_on_worker_lost: bool | None = None
    soft_time_limit_seconds: float | None = None
    time_limit_seconds: float | None = None
    rate_limits: Mapping[str, str] = field(default_factory=dict)
    global_rate_limits: Mapping[str, str] = field(default_factory=dict)
    delivery_limits: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, DeadLetter] = field(default_factory=dict)
    queue_limits: Mapping[str, QueueLimits] = field(default_factory=dict)
    declare_queues: bool | None = None
    create_missing_queues: bool | None = None
    drain_timeout_seconds: float | None = None
    pool_name: str | None = None
    worker_id: str | None = None
    metrics_address: str | None = None
    log_level: str | None = None
    log_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable: its name, the field it carries, and how the value is written and read."""

    name: str
    field: str
    form: str
    note: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]
    """Raises ValueError whose text completes "MUSTER_… "."""
    celery: str = ""
    """Celery's variable for the same, read when ours is absent."""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _write_list(items: tuple[Any, ...]) -> str:
    return ",".join(map(str, items))


def _read_list(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _read_map(of: Any, what: str) -> Callable[[str], Mapping[str, Any]]:
    def read(text: str) -> Mapping[str, Any]:
        try:
            found: dict[str, Any] = msgspec.json.decode(text, type=dict[str, of])
        except msgspec.DecodeError as error:
            raise ValueError(f"must be a JSON object of {what} ({error}), not {text!r}") from None
        return found

    return read


def _write_map(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        for word in words:
            if word.lower() == text.lower():
                return word
        raise ValueError(f"must be one of {', '.join(words)}, not {text!r}")

    return read


_truth = _word("true", "false")
_acks = _word("Late", "Early")


def read_prefetch(text: str) -> Prefetch:
    if text.lower() == "auto":
        return "Auto"
    try:
        return quantities.count(text, least=0)
    except ValueError:
        raise ValueError(f"must be Auto or a whole number, not {text!r}") from None


def read_autoscale(text: str) -> tuple[int, int]:
    most, comma, fewest = text.partition(",")
    if not comma or not most.isdecimal() or not fewest.isdecimal() or not 1 <= int(fewest) <= int(most):
        raise ValueError(f"must be MOST,FEWEST such as 8,2, not {text!r}")
    return int(most), int(fewest)


def _read_address(text: str) -> str:
    quantities.address(text)
    return text


def _text(
    name: str, attribute: str, form: str, note: str, read: Callable[[str], str] = str, celery: str = ""
) -> Variable:
    return Variable(name=name, field=attribute, form=form, note=note, write=str, read=read, celery=celery)


def _boolean(name: str, field: str, note: str) -> Variable:
    return Variable(
        name=name,
        field=field,
        form="true or false",
        note=note,
        write=lambda value: "true" if value else "false",
        read=lambda text: _truth(text) == "true",
    )


def _seconds(name: str, attribute: str, note: str, celery: str = "") -> Variable:
    return Variable(
        name=name,
        field=f"{attribute}_seconds",
        form="seconds, or a duration such as 5m",
        note=note,
        write=_number,
        read=quantities.seconds,
        celery=celery,
    )


def _map(name: str, attribute: str, of: Any, what: str, example: str, note: str) -> Variable:
    return Variable(
        name=name,
        field=attribute,
        form=f"JSON object, {example}",
        note=note,
        write=_write_map,
        read=_read_map(of, what),
    )


def _count(name: str, attribute: str, note: str) -> Variable:
    return Variable(
        name=name, field=attribute, form="whole number", note=note, write=str, read=quantities.count
    )


VARIABLES: tuple[Variable, ...] = (
    _text("MUSTER_APP", "app", "module or module:attribute", "The application, as in `muster -A`."),
    _text("MUSTER_BROKER_URL", "broker_url", "URL", "The broker; from a Secret.", celery="CELERY_BROKER_URL"),
    _text(
        "MUSTER_BROKER_CA_FILE", "broker_ca_file", "file", "Certificates that may have signed the broker's."
    ),
    _text(
        "MUSTER_RESULT_URL",
        "result_url",
        "URL",
        "The result store; from a Secret. Absent: the application decides, or results are ignored.",
        celery="CELERY_RESULT_BACKEND",
    ),
    _text("MUSTER_RESULT_CA_FILE", "result_ca_file", "file", "The same for the result store."),
    _seconds("MUSTER_RESULT_EXPIRES", "result_expires", "How long a result is kept; 0: for ever."),
    Variable(
        name="MUSTER_QUEUES",
        field="queues",
        form="names with commas between",
        note="The queues' names on the broker, in order of preference.",
        write=_write_list,
        read=_read_list,
    ),
    _text("MUSTER_POOL", "pool", "prefork, threads, gevent, … or module:Class", "How tasks run at once."),
    _count(
        "MUSTER_CONCURRENCY",
        "concurrency",
        "Tasks at once; where MUSTER_AUTOSCALE begins. Absent: by pool and CPU limit, or the fewest.",
    ),
    Variable(
        name="MUSTER_AUTOSCALE",
        field="autoscale",
        form="MOST,FEWEST",
        note="Bounds of the slots inside the worker, in the order of Celery's --autoscale.",
        write=_write_list,
        read=read_autoscale,
    ),
    _seconds(
        "MUSTER_AUTOSCALE_KEEPALIVE",
        "autoscale_keepalive",
        "Slots that were not needed for so long are given back.",
        celery="AUTOSCALE_KEEPALIVE",
    ),
    _count("MUSTER_MAX_TASKS_PER_CHILD", "max_tasks_per_child", "A child is replaced after so many tasks."),
    Variable(
        name="MUSTER_MAX_MEMORY_PER_CHILD",
        field="max_memory_per_child_bytes",
        form="bytes, or a quantity such as 300Mi",
        note="A child above this size is replaced after its task.",
        write=str,
        read=quantities.size_bytes,
    ),
    _seconds("MUSTER_MAX_AGE", "max_age", "A child older than this is replaced after its task."),
    Variable(
        name="MUSTER_ACKS",
        field="acks_late",
        form="Late or Early",
        note="Acknowledge after the task, or at its start.",
        write=lambda late: "Late" if late else "Early",
        read=lambda text: _acks(text) == "Late",
    ),
    Variable(
        name="MUSTER_PREFETCH",
        field="prefetch",
        form="Auto or a whole number",
        note="Most messages taken ahead for each slot.",
        write=str,
        read=read_prefetch,
    ),
    _seconds("MUSTER_LEASE", "lease", "A worker that is silent for this long loses its messages."),
    _boolean(
        "MUSTER_DECLARE_QUEUES",
        "declare_queues",
        "On RabbitMQ: whether queues that it consumes and that are not there are declared, and those of "
        "their dead letters; else it waits for them, as TaskQueues declare them.",
    ),
    _boolean(
        "MUSTER_CREATE_MISSING_QUEUES",
        "create_missing_queues",
        "On RabbitMQ: whether a queue that a task or beat sends to and that is not there is declared. "
        "Absent: the application's task_create_missing_queues.",
    ),
    _boolean(
        "MUSTER_REJECT_ON_WORKER_LOST",
        "reject_on_worker_lost",
        "With late acks: the task of a lost worker runs again; else it is recorded as failed.",
    ),
    _seconds("MUSTER_SOFT_TIME_LIMIT", "soft_time_limit", "The task gets SoftTimeLimitExceeded."),
    _seconds("MUSTER_TIME_LIMIT", "time_limit", "The process that runs the task is killed."),
    _map(
        "MUSTER_RATE_LIMITS",
        "rate_limits",
        str,
        "rates by task name",
        '{"shop.send":"100/m"}',
        "Most starts of a task in this worker.",
    ),
    _map(
        "MUSTER_GLOBAL_RATE_LIMITS",
        "global_rate_limits",
        str,
        "rates by task name",
        '{"shop.send":"100/m"}',
        "Most starts of a task in all workers together.",
    ),
    _map(
        "MUSTER_DELIVERY_LIMITS",
        "delivery_limits",
        int,
        "whole numbers by queue",
        '{"mail":5}',
        "Lost workers after which a message of the queue goes to the dead letters.",
    ),
    _map(
        "MUSTER_DEAD_LETTERS",
        "dead_letters",
        DeadLetter,
        "places by queue",
        '{"mail":{"name":"mail.dead","maxAge":604800,"maxLength":100000}}',
        "The dead-letter place of each queue. Absent: the queue's name with .dead after it.",
    ),
    _map(
        "MUSTER_QUEUE_LIMITS",
        "queue_limits",
        QueueLimits,
        "limits by queue",
        '{"mail":{"messageTTL":3600,"maxLength":100000,"overflow":"DropHead"}}',
        "What the queues hold. Absent: everything.",
    ),
    _seconds("MUSTER_DRAIN_TIMEOUT", "drain_timeout", "How long a leaving worker may finish its tasks."),
    _text("MUSTER_POOL_NAME", "pool_name", "namespace/name", "The WorkerPool that the worker reports for."),
    _text("MUSTER_WORKER_ID", "worker_id", "text", "The pod's UID, by the downward API."),
    _text(
        "MUSTER_METRICS_ADDRESS",
        "metrics_address",
        "HOST:PORT or :PORT",
        "Where /metrics, /livez and /readyz are served. Absent: nowhere.",
        _read_address,
    ),
    _text(
        "MUSTER_LOG_LEVEL",
        "log_level",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL",
        "As `--loglevel`.",
        _word("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    ),
    _text("MUSTER_LOG_FORMAT", "log_format", "text or json", "As `--log-format`.", _word("text", "json")),
)


def to_environment(values: WorkerEnvironment) -> dict[str, str]:
    """Return the variables that say `values`, in the table's order. What was not said is not in it."""
    found = ((variable, getattr(values, variable.field)) for variable in VARIABLES)
    return {variable.name: variable.write(value) for variable, value in found if _is_said(value)}


def from_environment(environment: Mapping[str, str]) -> WorkerEnvironment:
    """Return what `environment` says. Raises ConfigurationError that names the variable and its form.

    Other variables are ignored, those beginning with MUSTER_ too: Kubernetes makes some up from the
    names of Services.
    """
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        names = [name for name in (variable.name, variable.celery) if name and environment.get(name)]
        if not names:
            continue
        try:
            values[variable.field] = variable.read(environment[names[0]])
        except ValueError as error:
            raise ConfigurationError(f"environment: {names[0]} {error}") from None
    return WorkerEnvironment(**values)


def _is_said(value: Any) -> bool:
    return value is not None and value not in ((), {})
