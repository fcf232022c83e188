"""Celery's exceptions under Celery's names: what tasks raise, and what results carry back.

MusterError
├── TaskError
│   ├── NotRegistered           no task of that name in the worker
│   ├── QueueNotFound
│   ├── ImproperlyConfigured
│   ├── EncodeError             arguments or a result that JSON cannot carry
│   ├── TimeoutError            AsyncResult.get waited long enough
│   ├── MaxRetriesExceededError
│   ├── TaskRevokedError        (also for expired tasks)
│   ├── WorkerLostError         the process that ran the task died
│   ├── TimeLimitExceeded       the hard limit; the process was killed
│   ├── Terminated
│   └── RemoteTaskError         a failure whose class is not one of these or a built-in
└── TaskPredicate               not failures: how a task says what becomes of it
    ├── Retry
    ├── Ignore
    └── Reject
SoftTimeLimitExceeded           raised inside the task at the soft limit
"""

import builtins
from datetime import datetime
from typing import Any

from muster.errors import MusterError


class TaskError(MusterError):
    """Base of what can go wrong with a task."""


class NotRegistered(TaskError):
    """Raised for a task name that the worker does not know."""


class ImproperlyConfigured(TaskError):
    """Raised when the application's configuration cannot work."""


class EncodeError(TaskError):
    """Raised for arguments, and result of a task whose return value, JSON cannot carry."""


class TimeoutError(TaskError, builtins.TimeoutError):  # noqa: A001 - Celery's name
    """Raised by `AsyncResult.get` when no result came in time."""


class MaxRetriesExceededError(TaskError):
    """Raised by `Task.retry` when the last retry has been used."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}


class TaskRevokedError(TaskError):
    """Result of a task that was revoked, or that expired before it ran."""


class WorkerLostError(TaskError):
    """Result of a task whose process died before it was done."""


class TimeLimitExceeded(TaskError):
    """Result of a task that was killed at its hard time limit."""


class Terminated(TaskError):
    """Result of a running task that was terminated on request."""


class RemoteTaskError(TaskError):
    """A task's failure whose class is not known here: `kind` names it, the arguments are its own."""

    def __init__(self, kind: str, *args: Any) -> None:
        super().__init__(*args)
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.args))})"


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task when its soft time limit is over."""


class TaskPredicate(MusterError):
    """Base of what a task raises to say what becomes of it."""


class Retry(TaskPredicate):
    """Raised by `Task.retry`: the task runs again, at `when` (a time, or seconds from now)."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: datetime | float | None = None,
        sig: Any = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.when = when
        self.sig = sig

    def __str__(self) -> str:
        if self.message:
            return self.message
        when = f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"
        return f"Retry {when}: {self.exc!r}" if self.exc else f"Retry {when}"


class Ignore(TaskPredicate):
    """Raised by a task to leave no result and no failure: it has seen to its state itself."""


class Reject(TaskPredicate):
    """Raised by a task to refuse its message: to the dead-letter place, or back to the queue."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue
