"""`python -m muster_operator`: the operator's process, told by options or the environment."""

import logging
import sys

import click

from muster.logs import LEVELS, configure
from muster_operator.adapters.connection import NoCluster, connection
from muster_operator.loop.run import Options, run


@click.command()
@click.option(
    "--namespaces",
    envvar="MUSTER_WATCH_NAMESPACES",
    default="",
    help="Namespaces to see to, with commas between; none: all.",
)
@click.option(
    "--metrics-address",
    envvar="MUSTER_METRICS_ADDRESS",
    default=":9541",
    help="Where /metrics, /livez and /readyz are served.",
)
@click.option(
    "--beat-image",
    envvar="MUSTER_BEAT_IMAGE",
    default="muster-worker",
    help="The engine's image, which beat runs from.",
)
@click.option(
    "--lease-namespace",
    envvar="POD_NAMESPACE",
    default="",
    help="Where the Lease stands; none: the operator's own namespace.",
)
@click.option(
    "--identity",
    envvar="POD_NAME",
    default="",
    help="Names this operator in the Lease; none: by host and process.",
)
@click.option(
    "--log-level",
    envvar="MUSTER_LOG_LEVEL",
    default="INFO",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="As the worker's.",
)
@click.option(
    "--log-format",
    envvar="MUSTER_LOG_FORMAT",
    default="text",
    type=click.Choice(["text", "json"]),
    help="As the worker's.",
)
def main(
    namespaces: str,
    metrics_address: str,
    beat_image: str,
    lease_namespace: str,
    identity: str,
    log_level: str,
    log_format: str,
) -> None:
    """Turn TaskQueues, WorkerPools and Schedules into running workers, until told to stop."""
    configure(log_level, log_format)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    options = Options(
        namespaces=tuple(name for part in namespaces.split(",") if (name := part.strip())),
        metrics_address=metrics_address,
        image=beat_image,
        lease_namespace=lease_namespace,
        identity=identity,
    )
    run(options, connection())


def _run() -> int:
    """Run the command; an error is one line, and its exit code."""
    name = "python -m muster_operator"
    try:
        main.main(prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        return _say(f"{error.format_message()} (see {name} --help)")
    except NoCluster as error:
        return _say(str(error))
    except (click.Abort, KeyboardInterrupt):
        return 130
    return 0


def _say(text: str) -> int:
    click.echo(f"muster-operator: {' '.join(text.split())}", err=True)
    return 2


sys.exit(_run())
