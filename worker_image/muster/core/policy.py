"""What holds for a task: its own attributes, over what the worker was told.

`app.loading` makes one TaskPolicy per registered task (in prefork the application's process sends the table
up to the parent, which never imports user code); `effective` joins it with the worker's defaults.
"""

import msgspec


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


def effective(task: TaskPolicy, default: Policy) -> Policy:
    """Return the task's policy with the worker's defaults where the task says nothing."""
    said = {name: value for name in task.__struct_fields__ if (value := getattr(task, name)) is not None}
    return msgspec.structs.replace(default, **said)
