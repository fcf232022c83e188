"""`muster beat`: from options to what a beat was told. What it then does is up to `muster.beat`."""

import os
import uuid
from typing import Any

import click

from muster.beat.options import SCOPE_VARIABLE, BeatOptions, CommandLine, resolve
from muster.cli.common import (
    Form,
    Shared,
    foreign_options,
    shared,
    shared_options,
    tell_without_effect,
)
from muster.logs import FORMATS, LEVELS, configure
from muster.settings import quantities
from muster.settings.environment import from_environment

REFUSED = {
    ("-S", "--scheduler"): "ticks come from beat_schedule, or from Schedule resources in a cluster",
    ("--detach",): "beat stays in the foreground; let a container, systemd or & keep it",
    ("-f", "--logfile"): "logs go to standard error; write 2> FILE",
    ("--pidfile",): "beat stays in the foreground; its id is known to whoever started it",
    ("--uid",): "start beat as that user",
    ("--gid",): "start beat as that group",
    ("--umask",): "set it before beat starts: umask MASK",
    ("--executable",): "run that Python: PYTHON -m muster beat",
}
"""Options of Celery's beat that would change what it does and cannot be honoured: what to do instead."""

WITHOUT_EFFECT = {
    ("-s", "--schedule"): "last runs are kept on the broker, where every beat finds them",
    ("--max-interval",): "beat wakes when the next tick is due, and sees changes within a second",
    ("--enable-remote-control",): "/livez, /readyz and /metrics tell how beat is",
    ("--no-enable-remote-control",): "there is none",
    ("-n", "--hostname"): "it would only name beat for remote control",
}
"""Options of Celery's beat that nothing here needs: why."""

_FLAGS = {"--detach", "--enable-remote-control", "--no-enable-remote-control"}


def _address(text: str) -> str:
    quantities.address(text)
    return text


@click.command()
@shared_options
@click.option(
    "--scope", metavar="NAME", help="Tick the Schedules of this namespace, which stand on the broker."
)
@click.option(
    "-l",
    "--loglevel",
    "log_level",
    type=click.Choice([*LEVELS, "FATAL"], case_sensitive=False),
    metavar="LEVEL",
    help="Least level that is logged: DEBUG, INFO, WARNING, ERROR or CRITICAL; by default INFO.",
)
@click.option("--log-format", type=click.Choice(FORMATS), metavar="FORMAT", help="Lines of text, or of json.")
@click.option(
    "--metrics-address", type=Form("host:port", _address), help="Serve /metrics, /livez and /readyz there."
)
@foreign_options(refused=REFUSED, without_effect=WITHOUT_EFFECT, flags=_FLAGS)
@click.pass_context
def beat(context: click.Context, /, **values: Any) -> int:
    """Send tasks when their schedules are due, until told to leave.

    Any number may run for one application or scope: one of them ticks.
    """
    said = shared(context, values)
    options = beat_options(said, values)
    configure("WARNING" if said.quiet and not values["log_level"] else options.log_level, options.log_format)
    tell_without_effect(context, WITHOUT_EFFECT)
    from muster.beat.service import run

    return run(options)


def beat_options(said: Shared, values: dict[str, Any]) -> BeatOptions:
    """Return the options of a beat in this process. `values` are the command's own, by their names."""
    told = {name: value for name, value in values.items() if value is not None}
    if told.get("log_level") == "FATAL":
        told["log_level"] = "CRITICAL"
    command_line = CommandLine(app=said.app, broker_url=said.broker, result_url=said.result_backend, **told)
    return resolve(
        command_line,
        from_environment(os.environ),
        scope=os.environ.get(SCOPE_VARIABLE, ""),
        unique=str(uuid.uuid4()),
    )
