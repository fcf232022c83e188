"""`muster result`: shows what became of a task."""

from typing import Any, Final

import click

from muster.cli.application import application
from muster.cli.common import Form, shared, shared_options
from muster.settings import quantities
from muster.wire import values as wire_values

NOT_READY: Final = 3
TIME_OVER: Final = 124


@click.command()
@shared_options
@click.argument("task_id")
@click.option("-t", "--task", hidden=True, help="Celery's: the task's name, for result stores of its own.")
@click.option("--traceback", is_flag=True, help="Show the traceback of a failure instead.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Form("duration", quantities.seconds),
    default="0",
    help="Wait so long for it; by default not at all.",
)
@click.pass_context
def result(
    context: click.Context, /, task_id: str, traceback: bool, timeout_seconds: float, **values: Any
) -> int:
    """Print the result of a task: exit code 0 for a value, 1 for a failure, 3 when there is none yet."""
    values.pop("task")
    found = application(shared(context, values)).AsyncResult(task_id)
    if timeout_seconds:
        from muster.exceptions import TimeoutError as TimeIsOver

        try:
            found.get(timeout=timeout_seconds, propagate=False)
        except TimeIsOver:
            click.echo(f"muster: no result of {task_id} in {timeout_seconds:g} s: {found.state}", err=True)
            return TIME_OVER
    if not found.ready():
        click.echo(f"muster: no result of {task_id} yet: {found.state}", err=True)
        return NOT_READY
    if traceback:
        click.echo(found.traceback or "")
    elif found.successful():
        click.echo(wire_values.dumps(found.result))
    else:
        click.echo(f"{found.state}: {found.result!r}")
    return 0 if found.successful() else 1
