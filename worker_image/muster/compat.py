"""For projects that come from Celery: `from celery import …` becomes `from muster.compat import …`.

Only what really works is here; a name that is missing fails at the import, where it is seen. Signals stand in
`muster.signals`, exceptions in `muster.exceptions`, under Celery's names.
"""

import logging

from muster import signals
from muster.app.app import Muster, shared_task
from muster.app.publishing import new_id as uuid
from muster.app.result import AsyncResult, EagerResult, allow_join_result
from muster.app.schedules import crontab, schedule, solar
from muster.app.signature import Signature, chain, maybe_signature, signature
from muster.app.state import current_app, current_task
from muster.app.task import Task
from muster.exceptions import (
    EncodeError,
    Ignore,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    RemoteTaskError,
    Retry,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    TimeoutError,  # noqa: A004 - Celery's name
    WorkerLostError,
)

__all__ = [
    "AsyncResult",
    "Celery",
    "EagerResult",
    "EncodeError",
    "Ignore",
    "ImproperlyConfigured",
    "MaxRetriesExceededError",
    "NotRegistered",
    "Reject",
    "RemoteTaskError",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskError",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "allow_join_result",
    "chain",
    "crontab",
    "current_app",
    "current_task",
    "get_task_logger",
    "maybe_signature",
    "schedule",
    "shared_task",
    "signals",
    "signature",
    "solar",
    "subtask",
    "uuid",
]

Celery = Muster
subtask = signature


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of a module of tasks."""
    return logging.getLogger(name)
