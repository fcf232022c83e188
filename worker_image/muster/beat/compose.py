"""From a schedule's entry and a due time to the task message: the one that the application itself would send.

Called by beat's loop. Whoever makes it, the message of a due time has the same id; `expires` counts from the
due time, so that a tick that comes late does not live longer for it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeAlias

from muster.app.app import Muster
from muster.app.publishing import Draft, draft
from muster.app.task import refuse_unknown
from muster.errors import MusterError
from muster.exceptions import EncodeError
from muster.wire.schedule import ScheduleEntry

Compose: TypeAlias = Callable[[ScheduleEntry, datetime, str], Draft]


class CannotCompose(MusterError):
    """Raised when an entry makes no message. Says which, and what to change."""


def composer(app: Muster) -> Compose:
    """Return what makes messages as `app` does: with its routes, and with the options of its tasks."""

    def compose(entry: ScheduleEntry, due_at: datetime, task_id: str) -> Draft:
        """Return the message of `entry` for `due_at`. Raises CannotCompose."""
        options = {**entry.options, "task_id": task_id}
        if entry.queue is not None:
            options["queue"] = entry.queue
        try:
            if options.get("expires") is not None:
                options["expires"] = due_at + timedelta(seconds=options["expires"])
            refuse_unknown(entry.task, options)
            task = app.tasks.get(entry.task)
            if task is not None:
                options = {**task.execution_options(), **options}
            return draft(app, entry.task, entry.args, entry.kwargs, options, task)
        except (TypeError, ValueError, OverflowError, EncodeError) as error:
            raise CannotCompose(
                f"schedule {entry.name} makes no message: {error}; change the entry"
            ) from error

    return compose
