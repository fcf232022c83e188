"""Muster: a task engine that speaks Celery's wire format, made to be run by Kubernetes.

The public names are loaded when they are first used, so that importing a part of the package (the operator
reads the wire format) does not bring in the rest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.app.app import Muster, shared_task
    from muster.app.result import AsyncResult
    from muster.app.schedules import crontab, schedule, solar
    from muster.app.signature import Signature, chain, maybe_signature, signature
    from muster.app.state import current_app, current_task
    from muster.app.task import Task

__all__ = [
    "AsyncResult",
    "Muster",
    "Signature",
    "Task",
    "chain",
    "crontab",
    "current_app",
    "current_task",
    "maybe_signature",
    "schedule",
    "shared_task",
    "signature",
    "solar",
]

_HOMES = {
    "AsyncResult": "muster.app.result",
    "Muster": "muster.app.app",
    "Signature": "muster.app.signature",
    "Task": "muster.app.task",
    "chain": "muster.app.signature",
    "crontab": "muster.app.schedules",
    "current_app": "muster.app.state",
    "current_task": "muster.app.state",
    "maybe_signature": "muster.app.signature",
    "schedule": "muster.app.schedules",
    "shared_task": "muster.app.app",
    "signature": "muster.app.signature",
    "solar": "muster.app.schedules",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'muster' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
