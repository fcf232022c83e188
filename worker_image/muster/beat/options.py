"""What holds for a beat: from its command line, its environment and its application. Pure, but for the clock.

Precedence is the worker's: command line, environment, application, default.
"""

from dataclasses import dataclass

from muster.errors import ConfigurationError
from muster.settings.environment import WorkerEnvironment

SCOPE_VARIABLE = "MUSTER_BEAT_SCOPE"
"""Names the set of schedules on the broker, and the election for it; in a cluster the namespace."""


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What `muster beat` was called with; None: nothing was said."""

    app: str | None = None
    broker_url: str | None = None
    result_url: str | None = None
    scope: str | None = None
    metrics_address: str | None = None
    log_level: str | None = None
    log_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class BeatOptions:
    """What a beat needs to know before its application is imported. Texts are empty for none."""

    app: str
    """Empty: a scope is served whose entries somebody else writes."""
    scope: str
    """Empty: that of the application."""
    holder: str
    broker_url: str
    """Empty: the application says it."""
    broker_ca_file: str
    create_missing_queues: bool | None
    """RabbitMQ: whether a queue that is not there is declared; None: the application says it."""
    result_url: str
    result_ca_file: str
    result_expires_seconds: float | None
    metrics_address: str
    log_level: str
    log_format: str


def resolve(
    command_line: CommandLine, environment: WorkerEnvironment, scope: str, unique: str
) -> BeatOptions:
    """Return what holds. `scope` is the environment's, `unique` a name that no other beat has.

    Raises ConfigurationError.
    """
    app = command_line.app or environment.app or ""
    scope = command_line.scope or scope
    if app and scope:
        raise ConfigurationError(
            f"an application ({app}) and a scope ({scope}) are both named: with -A beat serves the "
            f"application's beat_schedule, with --scope or {SCOPE_VARIABLE} the Schedules of a namespace; "
            "name one of them"
        )
    if not app and not scope:
        raise ConfigurationError(
            "nothing to tick: name an application with a beat_schedule by -A MODULE, or the namespace whose "
            f"Schedules stand on the broker by --scope or {SCOPE_VARIABLE}"
        )
    broker_url = command_line.broker_url or environment.broker_url or ""
    if not app and not broker_url:
        raise ConfigurationError("no broker: say which with -b URL or in MUSTER_BROKER_URL")
    return BeatOptions(
        app=app,
        scope=scope,
        holder=environment.worker_id or unique,
        broker_url=broker_url,
        broker_ca_file=environment.broker_ca_file or "",
        create_missing_queues=environment.create_missing_queues,
        result_url=command_line.result_url or environment.result_url or "",
        result_ca_file=environment.result_ca_file or "",
        result_expires_seconds=environment.result_expires_seconds,
        metrics_address=command_line.metrics_address or environment.metrics_address or "",
        log_level=command_line.log_level or environment.log_level or "INFO",
        log_format=command_line.log_format or environment.log_format or "text",
    )
