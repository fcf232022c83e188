"""The environment of a worker: what the operator and `muster dev` tell it, and how that is written.

The operator writes it with `to_environment`, the worker reads it with `from_environment`; both follow one
table, `VARIABLES`, which is also the reference page. The URLs come from Secrets, so that the operator
leaves them out of its mapping and refers to the Secret instead. An empty variable counts as not set.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from muster.errors import ConfigurationError
from muster.settings import quantities

Prefetch: TypeAlias = int | Literal["Auto"]


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """What a worker was told; None or empty: nothing was said. The variables' notes describe the fields."""

    app: str | None = None
    broker_url: str | None = None
    result_url: str | None = None
    result_expires_seconds: float | None = None
    queues: tuple[str, ...] = ()
    pool: str | None = None
    concurrency: int | None = None
    autoscale: tuple[int, int] | None = None
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
    delivery_limits: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, str] = field(default_factory=dict)
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


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _write_list(names: tuple[str, ...]) -> str:
    plain = ",".join(names)
    return plain if _read_list(plain) == names else json.dumps(names)


def _read_list(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        return tuple(name for part in text.split(",") if (name := part.strip()))
    names = _json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"must be a list of names, not {text!r}")
    return tuple(names)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"must be JSON, not {text!r}") from None


def _mapping(of: type, what: str) -> Callable[[str], Mapping[str, Any]]:
    def read(text: str) -> Mapping[str, Any]:
        value = _json(text)
        if not isinstance(value, dict) or not all(type(item) is of for item in value.values()):
            raise ValueError(f"must be a JSON object of {what}, not {text!r}")
        return value

    return read


def _write_mapping(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(value.items())))


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        for word in words:
            if word.lower() == text.lower():
                return word
        raise ValueError(f"must be one of {', '.join(words)}, not {text!r}")

    return read


_truth = _word("true", "false")
_acks = _word("Late", "Early")


def _read_prefetch(text: str) -> Prefetch:
    if text.lower() == "auto":
        return "Auto"
    try:
        return quantities.count(text, least=0)
    except ValueError:
        raise ValueError(f"must be Auto or a whole number, not {text!r}") from None


def _read_autoscale(text: str) -> tuple[int, int]:
    least, dots, most = text.partition("..")
    if not dots or not least.isdecimal() or not most.isdecimal() or not 1 <= int(least) <= int(most):
        raise ValueError(f"must be MIN..MAX such as 2..8, not {text!r}")
    return int(least), int(most)


def _read_address(text: str) -> str:
    quantities.address(text)
    return text


def _text(name: str, attribute: str, form: str, note: str, read: Callable[[str], str] = str) -> Variable:
    return Variable(name=name, field=attribute, form=form, note=note, write=str, read=read)


def _seconds(name: str, attribute: str, note: str) -> Variable:
    return Variable(
        name=name,
        field=f"{attribute}_seconds",
        form="seconds, or a duration such as 5m",
        note=note,
        write=_number,
        read=quantities.seconds,
    )


def _count(name: str, attribute: str, note: str) -> Variable:
    return Variable(
        name=name, field=attribute, form="whole number", note=note, write=str, read=quantities.count
    )


VARIABLES: tuple[Variable, ...] = (
    _text("MUSTER_APP", "app", "module or module:attribute", "The application, as in `muster -A`."),
    _text("MUSTER_BROKER_URL", "broker_url", "URL", "The broker; from a Secret."),
    _text(
        "MUSTER_RESULT_URL",
        "result_url",
        "URL",
        "The result store; from a Secret. Not set: the application decides, or results are ignored.",
    ),
    _seconds("MUSTER_RESULT_EXPIRES", "result_expires", "How long a result is kept; 0: for ever."),
    Variable(
        name="MUSTER_QUEUES",
        field="queues",
        form="names with commas between, or a JSON list",
        note="The queues' names on the broker, in order of preference.",
        write=_write_list,
        read=_read_list,
    ),
    _text("MUSTER_POOL", "pool", "prefork, threads, solo, … or module:Class", "How tasks run at once."),
    _count("MUSTER_CONCURRENCY", "concurrency", "Tasks at once. Not set: by pool and CPU limit."),
    Variable(
        name="MUSTER_AUTOSCALE",
        field="autoscale",
        form="MIN..MAX",
        note="Bounds of the slots inside the worker.",
        write=lambda bounds: f"{bounds[0]}..{bounds[1]}",
        read=_read_autoscale,
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
        note="Messages taken ahead for each slot.",
        write=str,
        read=_read_prefetch,
    ),
    _seconds("MUSTER_LEASE", "lease", "A worker that is silent for this long loses its messages."),
    Variable(
        name="MUSTER_REJECT_ON_WORKER_LOST",
        field="reject_on_worker_lost",
        form="true or false",
        note="With late acks: the task of a lost worker runs again; else it is recorded as failed.",
        write=lambda value: "true" if value else "false",
        read=lambda text: _truth(text) == "true",
    ),
    _seconds("MUSTER_SOFT_TIME_LIMIT", "soft_time_limit", "The task gets SoftTimeLimitExceeded."),
    _seconds("MUSTER_TIME_LIMIT", "time_limit", "The process that runs the task is killed."),
    Variable(
        name="MUSTER_RATE_LIMITS",
        field="rate_limits",
        form='JSON object, {"shop.send": "100/m"}',
        note="Most starts of a task in this worker.",
        write=_write_mapping,
        read=_mapping(str, "rates by task name"),
    ),
    Variable(
        name="MUSTER_DELIVERY_LIMITS",
        field="delivery_limits",
        form='JSON object, {"mail": 5}',
        note="Lost workers after which a message of the queue goes to the dead letters.",
        write=_write_mapping,
        read=_mapping(int, "whole numbers by queue name"),
    ),
    Variable(
        name="MUSTER_DEAD_LETTER",
        field="dead_letters",
        form='JSON object, {"mail": "mail.dead"}',
        note="The dead-letter place of each queue. Not set: the queue's name with .dead after it.",
        write=_write_mapping,
        read=_mapping(str, "names by queue name"),
    ),
    _seconds("MUSTER_DRAIN_TIMEOUT", "drain_timeout", "How long a leaving worker may finish its tasks."),
    _text("MUSTER_POOL_NAME", "pool_name", "namespace/name", "The WorkerPool that the worker reports for."),
    _text("MUSTER_WORKER_ID", "worker_id", "text", "The pod's UID, by the downward API."),
    _text(
        "MUSTER_METRICS_ADDRESS",
        "metrics_address",
        "HOST:PORT or :PORT",
        "Where /metrics, /healthz and /readyz are served. Not set: nowhere.",
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
        text = environment.get(variable.name, "")
        if not text:
            continue
        try:
            values[variable.field] = variable.read(text)
        except ValueError as error:
            raise ConfigurationError(f"environment: {variable.name} {error}") from None
    return WorkerEnvironment(**values)


def _is_said(value: Any) -> bool:
    return value is not None and value not in ((), {})
