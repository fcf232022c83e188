"""What holds for a task: its own attributes, over what the worker was told.

`app.loading` makes one TaskPolicy per registered task (in prefork the application's process sends the table
up to the parent, which never imports user code); `effective` joins it with the worker's defaults.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from muster.core.rate import Rate, read_rate


class TaskPolicy(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a task says of itself. None: the task does not say, the worker's default holds."""

    acks_late: bool | None = None
    reject_on_worker_lost: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    hard_limit: float | None = None
    """Seconds."""
    soft_limit: float | None = None
    """Seconds."""
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    track_started: bool | None = None
    rate_limit: str | None = None
    """In Celery's notation, as `core.rate.read_rate` reads it."""


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker was told of rates, in Celery's notation by task name."""

    each: Mapping[str, str] = {}
    """In each worker."""
    together: Mapping[str, str] = {}
    """In all workers of the broker together."""
    default: str | None = None
    """In each worker, for a task of which nobody says anything else."""
    ignore_tasks: bool = False
    """Neither what tasks say of themselves nor the default holds (`worker_disable_rate_limits`)."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is effective for one task on one worker. Limits are seconds, 0 for none."""

    acks_late: bool = True
    reject_on_worker_lost: bool = True
    acks_on_failure_or_timeout: bool = True
    hard_limit: float = 0.0
    soft_limit: float = 0.0
    ignore_result: bool = False
    store_errors_even_if_ignored: bool = False
    track_started: bool = False
    rate: Rate | None = None
    """Of starts in this worker."""
    global_rate: Rate | None = None
    """Of starts in all workers of the broker together."""


NO_RATE_LIMITS: Final = RateLimits()


def effective(
    task: TaskPolicy, default: Policy, *, name: str = "", limits: RateLimits = NO_RATE_LIMITS
) -> Policy:
    """Return the policy of the task `name`, with the worker's defaults where the task says nothing.

    Raises ConfigurationError for a rate that is none.
    """
    said = {
        field: value
        for field in task.__struct_fields__
        if field != "rate_limit" and (value := getattr(task, field)) is not None
    }
    together = read_rate(limits.together.get(name), whose=f"the global rate limit of {name}")
    return msgspec.structs.replace(default, rate=_rate(task, name, limits), global_rate=together, **said)


def _rate(task: TaskPolicy, name: str, limits: RateLimits) -> Rate | None:
    if task.rate_limit is not None and not limits.ignore_tasks:
        return read_rate(task.rate_limit, whose=f"rate_limit of the task {name}")
    if name in limits.each:
        return read_rate(limits.each[name], whose=f"the rate limit of {name}")
    if limits.ignore_tasks:
        return None
    return read_rate(limits.default, whose="task_default_rate_limit")


def without_effect(tasks: Mapping[str, TaskPolicy], limits: RateLimits) -> list[str]:
    """Return a sentence for each rate that the worker was told in vain."""
    found = []
    for name, text in limits.each.items():
        own = tasks[name].rate_limit if name in tasks else None
        if own is not None and not limits.ignore_tasks:
            found.append(f"the rate limit {text} of {name} has no effect: the task itself says {own}")
    unknown = sorted({*limits.each, *limits.together} - tasks.keys())
    return [
        *found,
        *(f"there is a rate limit of {name}, and no such task in this worker" for name in unknown),
    ]
