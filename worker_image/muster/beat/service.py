"""A beat process from start to end: load, connect, lead or stand by, leave. Called by `muster beat`."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from muster import signals
from muster.app.app import Muster
from muster.beat.compose import composer
from muster.beat.loop import BeatLoop, LoopSettings
from muster.beat.options import BeatOptions
from muster.beat.own import own_entries, scope_of, writer
from muster.beat.unfinished import NoResults, ResultRuns, Runs
from muster.errors import ConfigurationError
from muster.settings.queues import queue_arguments
from muster.settings.urls import mask, parse_broker_url, parse_result_url, with_ca_file
from muster.transports.connect import connect_schedules
from muster.transports.schedules.base import ScheduleStore

logger = logging.getLogger("muster.beat")

Connect = Callable[[Muster, str], ScheduleStore]


def connect(app: Muster, scope: str) -> ScheduleStore:
    """Return the scope's place on the application's broker. Raises ConfigurationError."""
    settings = app.conf.settings
    return connect_schedules(
        settings.broker_url,
        scope=scope,
        options=settings.broker_transport_options,
        delayed_type=settings.broker_native_delayed_delivery_queue_type,
        create_missing_queues=settings.task_create_missing_queues,
        queue_arguments=queue_arguments(settings),
    )


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    app: Muster
    scope: str
    own: str
    """The application's name in uids and scope; empty when somebody else writes the entries."""


def run(options: BeatOptions, *, connect: Connect = connect) -> int:
    """Run a beat until it is told to leave. Returns the exit code. Raises ConfigurationError."""
    loaded = _load(options)
    app, settings = loaded.app, loaded.app.conf.settings
    store = connect(app, loaded.scope)
    loop = BeatLoop(
        LoopSettings(
            scope=loaded.scope,
            holder=options.holder,
            retry_on_startup=settings.broker_connection_retry_on_startup is not False,
        ),
        store=store,
        compose=composer(app),
        published=app.published,
        runs=_runs(options, app),
        prepare=writer(app, loaded.own) if loaded.own else None,
    )
    signals.beat_init.send(sender=loop)
    try:
        with _serving_health(options, loop), _signals(loop):
            logger.info(
                "beat %s serves scope %s on broker %s",
                options.holder,
                loaded.scope,
                mask(settings.broker_url),
            )
            loop.run()
    finally:
        store.close()
        app.close()
    return 0


def _load(options: BeatOptions) -> _Loaded:
    """Return the application with what beat was told over its head. Raises ConfigurationError."""
    if options.app:
        from muster.app.loading import import_modules, load

        app = load(options.app)
    else:
        app = Muster("muster", set_as_current=False)
    app.conf.override(_overrides(options))
    broker_url = app.conf.settings.broker_url
    if not broker_url:
        raise ConfigurationError(
            "no broker: say which with -b URL, in MUSTER_BROKER_URL or in the application's broker_url"
        )
    parse_broker_url(broker_url)
    app.conf.override({"broker_url": with_ca_file(broker_url, options.broker_ca_file)})
    if not options.app:
        return _Loaded(app=app, scope=options.scope, own="")
    import_modules(app, options.app)
    app.set_current()
    own = app.main or options.app
    if not own_entries(app, own, datetime.now(UTC)):
        logger.warning("the application %s has an empty beat_schedule: nothing will be sent", own)
    return _Loaded(app=app, scope=scope_of(own), own=own)


def _overrides(options: BeatOptions) -> dict[str, Any]:
    said: dict[str, Any] = {
        "broker_url": options.broker_url,
        "task_create_missing_queues": options.create_missing_queues,
        "result_backend": options.result_url,
        "result_expires": options.result_expires_seconds,
    }
    return {setting: value for setting, value in said.items() if value not in {"", None}}


def _runs(options: BeatOptions, app: Muster) -> Runs:
    settings = app.conf.settings
    if not settings.result_backend or parse_result_url(settings.result_backend).scheme == "rpc":
        return NoResults()
    from muster.results.connect import connect_results

    url = with_ca_file(settings.result_backend, options.result_ca_file)
    kept_seconds = app.result_expires_seconds
    return ResultRuns(
        connect_results(url, settings.result_backend_transport_options),
        kept=timedelta(seconds=kept_seconds) if kept_seconds else None,
    )


@contextmanager
def _serving_health(options: BeatOptions, loop: BeatLoop) -> Iterator[None]:
    if not options.metrics_address:
        yield
        return
    from muster.beat.metrics import BeatCollector
    from muster.health import HealthServer

    server = HealthServer(options.metrics_address, loop, BeatCollector(loop))
    server.serve_in_background()
    try:
        yield
    finally:
        server.close()


@contextmanager
def _signals(loop: BeatLoop) -> Iterator[None]:
    """TERM, INT and QUIT leave, USR1 prints all stacks."""

    def leave(_number: int, _frame: Any) -> None:
        loop.leave()

    def stacks(_number: int, _frame: Any) -> None:
        import faulthandler

        faulthandler.dump_traceback(file=sys.stderr)

    before: Mapping[int, Any] = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGTERM, leave),
            (signal.SIGINT, leave),
            (signal.SIGQUIT, leave),
            (signal.SIGUSR1, stacks),
        )
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
