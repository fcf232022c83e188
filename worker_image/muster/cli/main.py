"""`muster`: finds the command, and turns errors into one line and an exit code.

Commands are imported when they are called, so that a worker carries nothing of the others and
`muster --version` answers at once. Those of other packages (the operator's `dev`) are found by
the entry point `muster.commands`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from muster.cli.common import Shared, shared_options
from muster.errors import BrokerRefused, ConfigurationError, MusterError
from muster.instead import COMMANDS as NOT_COMMANDS

COMMANDS: Final = {
    "beat": "muster.cli.beat:beat",
    "call": "muster.cli.call:call",
    "report": "muster.cli.report:report",
    "result": "muster.cli.result:result",
    "settings": "muster.cli.report:show_settings",
    "worker": "muster.cli.worker:worker",
}
"""Name → where the command is."""

EXIT_CODES: Final = {
    0: "it is done",
    1: "it failed",
    2: "something must be changed: a name, URL, option, setting, password or permission",
    3: "there is no result yet",
    124: "the time was over",
    130: "it was interrupted",
}

CELERY_ONLY: Final = {
    **NOT_COMMANDS,
    "amqp": "use rabbitmqadmin",
    "graph": "look at /metrics",
    "list": "look at the TaskQueues: kubectl get taskqueues",
    "logtool": "use --log-format json and a tool that reads JSON",
    "migrate": "let the old workers empty their queues before they leave",
    "multi": "start one worker for each process wanted, or a WorkerPool",
    "shell": "use python -i -m MODULE",
    "status": "look at the WorkerPools: kubectl get workerpools",
    "upgrade": "both new and old setting names are read",
}


class Commands(click.Group):
    """The group of all commands, each imported when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the alphabet's order."""
        return sorted({*COMMANDS, *(point.name for point in _entry_points())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command, importing it; None for a name that is not known."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name].partition(":")
            return _command(getattr(importlib.import_module(module), attribute))
        for point in _entry_points():
            if point.name == cmd_name:
                return _command(point.load())
        if cmd_name in CELERY_ONLY:
            raise click.UsageError(f"there is no command {cmd_name} here: {CELERY_ONLY[cmd_name]}")
        return None


def _command(found: Any) -> click.Command:
    if not isinstance(found, click.Command):
        raise TypeError(f"{found!r} is no click command")
    return found


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # 20 ms, for those commands only

    return entry_points(group="muster.commands")


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"muster {version('muster-tasks')}")
        context.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.option("-q", "--quiet", is_flag=True, help="Show less.")
@click.option("-C", "--no-color", is_flag=True, help="No colours.")
@click.option("--loader", hidden=True)
@click.option("--config", hidden=True)
@click.option("--skip-checks", is_flag=True, hidden=True)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and leave.",
)
@click.pass_context
def muster(context: click.Context, /, quiet: bool, no_color: bool, **values: Any) -> None:
    """Celery's world, run by Kubernetes."""
    for name, instead in (
        ("loader", "Muster has no loaders; name the application with -A"),
        ("config", "name the module in the application: app.config_from_object('…')"),
    ):
        if values.pop(name):
            raise click.UsageError(f"--{name} is not taken: {instead}")
    del values["skip_checks"]
    context.obj = Shared(quiet=quiet, **values)
    if no_color:
        context.color = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Errors that are nobody's expectation are raised."""
    try:
        code = muster.main(arguments, prog_name="muster", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "muster"
        return _say(f"{error.format_message()} (see {path} --help)", 2)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except (ConfigurationError, BrokerRefused) as error:
        return _say(str(error), 2)
    except MusterError as error:
        return _say(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def _say(text: str, code: int) -> int:
    click.echo(f"muster: {' '.join(text.split())}", err=True)
    return code
