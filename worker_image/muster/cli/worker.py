"""`muster worker`: from options to what a worker was told. What it then does is up to `muster.worker`."""

import os
from typing import Any

import click

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
from muster.settings.environment import WorkerEnvironment, from_environment, read_autoscale, read_prefetch
from muster.worker.machine import this_machine
from muster.worker.options import CommandLine, Told, WorkerOptions, resolve

_BEAT = "run `muster beat` beside the workers; it sees to it that only one ticks"

REFUSED = {
    ("-B", "--beat"): _BEAT,
    ("-s", "--schedule-filename", "--schedule"): _BEAT,
    ("--scheduler",): _BEAT,
    ("-D", "--detach"): "a worker stays in the foreground; let a container, systemd or & keep it",
    ("--purge", "--discard"): "no message is thrown away at a start; delete it on the broker if it must go",
    ("-f", "--logfile"): "logs go to standard error; write 2> FILE",
    ("--pidfile",): "a worker stays in the foreground; its id is known to whoever started it",
    ("--uid",): "start the worker as that user",
    ("--gid",): "start the worker as that group",
    ("--umask",): "set it before the worker starts: umask MASK",
    ("--executable",): "run that Python: PYTHON -m muster worker",
}
"""Options of Celery's worker that would change what it does and cannot be honoured: what to do instead."""

WITHOUT_EFFECT = {
    ("-E", "--task-events", "--events"): "task events are not sent; /metrics has counts and runtimes",
    ("--without-gossip",): "workers do not gossip",
    ("--without-mingle",): "workers do not wait for each other",
    ("--without-heartbeat",): "workers report over the broker once in 5 s",
    ("--heartbeat-interval",): "workers report over the broker once in 5 s",
    ("-O", "--optimization"): "a task is handed to a slot that is free",
    ("--prefetch-multiplier",): "prefetch follows the measured runtime; --prefetch N bounds it",
    ("-S", "--statedb"): "revoked ids are kept on the broker",
    ("--pool-start-method",): "children are forked from a process with one thread, which is safe",
}
"""Options of Celery's worker that nothing here needs: why."""

_FLAGS = {"-B", "-D", "--purge", "-E", "--without-gossip", "--without-mingle", "--without-heartbeat"}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _concurrency(text: str) -> int | None:
    return None if text == "auto" else quantities.count(text)


def _memory(text: str) -> int:
    """Celery's plain number counts KiB."""
    return quantities.size_bytes(text) * (1024 if text.isdecimal() else 1)


def _address(text: str) -> str:
    quantities.address(text)
    return text


_DURATION = Form("duration", quantities.seconds)
_NAMES = Form("names", _names)
_COUNT = Form("number", quantities.count)


@click.command()
@shared_options
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    help="The worker's name: %h is the host, %n its first part, %d its domain.",
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
    "-c",
    "--concurrency",
    type=Form("number", _concurrency),
    help="Tasks at once; by default by pool type and CPU limit.",
)
@click.option("-P", "--pool", metavar="POOL", help="prefork, threads, gevent, eventlet or solo.")
@click.option(
    "-Q", "--queues", type=_NAMES, help="Queues to consume, with commas between, in order of preference."
)
@click.option("-X", "--exclude-queues", type=_NAMES, help="Queues of the application not to consume.")
@click.option("-I", "--include", type=_NAMES, help="More modules to import.")
@click.option(
    "--autoscale",
    type=Form("most,fewest", read_autoscale),
    help="Tasks at once follow the load between these; -c says how many in the beginning.",
)
@click.option(
    "--time-limit",
    "time_limit_seconds",
    type=_DURATION,
    help="The task is ended; with prefork, gevent and eventlet.",
)
@click.option(
    "--soft-time-limit",
    "soft_time_limit_seconds",
    type=_DURATION,
    help="The task gets SoftTimeLimitExceeded; with prefork, gevent and eventlet.",
)
@click.option("--max-tasks-per-child", type=_COUNT, help="A child process is replaced after so many tasks.")
@click.option(
    "--max-memory-per-child",
    "max_memory_per_child_bytes",
    type=Form("size", _memory),
    help="KiB or a size such as 300Mi; a larger child is replaced after its task.",
)
@click.option(
    "--max-age-per-child",
    "max_age_seconds",
    type=_DURATION,
    help="An older child is replaced after its task.",
)
@click.option(
    "--prefetch",
    type=Form("number or auto", read_prefetch),
    help="Most messages taken ahead for each slot; how many, follows the measured runtime.",
)
@click.option("--disable-prefetch", is_flag=True, help="As --prefetch 0.")
@click.option(
    "--lease",
    "lease_seconds",
    type=_DURATION,
    help="A worker that is silent for so long loses its messages; 30s.",
)
@click.option(
    "--drain-timeout",
    "drain_timeout_seconds",
    type=_DURATION,
    help="How long tasks may finish when the worker is told to leave; 10m.",
)
@click.option(
    "--metrics-address", type=Form("host:port", _address), help="Serve /metrics, /livez and /readyz there."
)
@foreign_options(refused=REFUSED, without_effect=WITHOUT_EFFECT, flags=_FLAGS)
@click.pass_context
def worker(context: click.Context, /, **values: Any) -> int:
    """Run tasks from queues until told to leave."""
    said = shared(context, values)
    options = worker_options(said, values)
    configure("WARNING" if said.quiet and not values["log_level"] else options.log_level, options.log_format)
    tell_without_effect(context, WITHOUT_EFFECT)
    from muster.worker.service import run

    code: int = run(options)
    return code


def read_environment() -> WorkerEnvironment:
    """Return what the environment of this process says."""
    return from_environment(os.environ)


def worker_options(said: Shared, values: dict[str, Any]) -> WorkerOptions:
    """Return the options of a worker on this machine. `values` are the command's own, by their names."""
    told = {name: value for name, value in values.items() if value is not None and value is not False}
    if told.pop("disable_prefetch", False):
        told.setdefault("prefetch", 0)
    if told.get("log_level") == "FATAL":
        told["log_level"] = "CRITICAL"
    command_line = CommandLine(app=said.app, broker_url=said.broker, result_url=said.result_backend, **told)
    return resolve(Told(command_line=command_line, environment=read_environment(), machine=this_machine()))
