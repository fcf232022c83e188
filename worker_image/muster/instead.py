"""What Celery asks of running workers and Muster does not have, and what to use instead.

The command line says it of Celery's commands, `app.control` of Celery's methods.
"""

from typing import Final

_TOLD: Final = "workers are told to leave by SIGTERM; the rest is in the WorkerPool"
_REPORTS: Final = "workers report to the operator; look at /metrics"

COMMANDS: Final = {
    "control": _TOLD,
    "inspect": _REPORTS,
    "purge": "use the broker's own tools",
    "events": "task events are not sent; look at /metrics",
}

CONTROL: Final = {
    **dict.fromkeys(
        (
            *("broadcast", "shutdown", "pool_grow", "pool_shrink", "pool_restart", "autoscale"),
            *("add_consumer", "cancel_consumer"),
        ),
        _TOLD,
    ),
    **dict.fromkeys(("inspect", "ping", "heartbeat", "election"), _REPORTS),
    **dict.fromkeys(("purge", "discard_all"), COMMANDS["purge"]),
    **dict.fromkeys(("enable_events", "disable_events"), COMMANDS["events"]),
    "rate_limit": "a task's rate_limit and limits.rate of the WorkerPool hold from a worker's start",
    "time_limit": "time limits are the task's, the call's and the WorkerPool's",
    "terminate": "a running task is ended by its time limit",
    "revoke_by_stamped_headers": "name the tasks: app.control.revoke(ids)",
}
"""Method of Celery's `app.control` → what to do."""
