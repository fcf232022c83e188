"""A worker process from its start to its end: load, connect, run the loop, leave.

Called by `muster worker` with options that know nothing of the application yet; its own settings join them
when the application has been imported, in the template process for prefork and here for the others.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from muster import logs
from muster import settings as muster_settings
from muster.app.results import connect_results
from muster.core.effects import Publication
from muster.core.policy import Policy, RateLimits, TaskPolicy, effective
from muster.core.policy import without_effect as rates_without_effect
from muster.pools.base import (
    Loaded,
    LoadExecutor,
    Pool,
    PoolBroken,
    PoolSettings,
    PublishFunction,
    StartedFunction,
)
from muster.results.base import ResultStore
from muster.settings.pools import GREEN, PoolType
from muster.transports.base import Transport
from muster.transports.connect import connect_transport, same_database
from muster.worker.loop import WorkerLoop
from muster.worker.options import WorkerOptions, told_by, without_effect
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally

logger = logging.getLogger("muster.worker")

EXIT_FAILURE = 1


class Greeting(msgspec.Struct):
    """What the application tells the worker of itself, over the pool."""

    tasks: dict[str, TaskPolicy]
    settings: dict[str, Any]


class _ThroughParent:
    """The publisher of a process that runs tasks: the worker's own has the connection."""

    def __init__(self, publish: PublishFunction) -> None:
        self._publish = publish

    def publish(self, publications: Sequence[Publication]) -> None:
        self._publish(publications)

    def close(self) -> None:
        """Nothing of ours to close."""


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be imported, and what it is told: all that a process needs to run its tasks."""

    app: str
    include: tuple[str, ...]
    overrides: dict[str, Any]
    hostname: str
    log_level: int
    log_format: str


def load(application: Application) -> Loaded:
    """Import the application: in the process that calls it, and only then. Raises ConfigurationError."""
    from muster import signals
    from muster.app.loading import load_executor

    execute, policies, app = load_executor(
        application.app,
        overrides=application.overrides,
        include=application.include,
        hostname=application.hostname,
    )

    def enter(publish: PublishFunction | None, started: StartedFunction) -> None:
        execute.tell_started = started
        if publish is not None:
            app.publisher = _ThroughParent(publish)
        signals.worker_process_init.send(sender=None)

    greeting = Greeting(policies, told_by(app.conf.settings))
    return Loaded(execute, msgspec.msgpack.encode(greeting), enter)


def load_anew(application: Application) -> Loaded:
    """Do so in a new interpreter, which has yet to learn how we log."""
    logs.configure(logging.getLevelName(application.log_level), application.log_format)
    return load(application)


def loader(options: WorkerOptions) -> LoadExecutor:
    """Return what loads the application of these options; it can be pickled."""
    application = Application(
        app=options.app,
        include=options.include,
        overrides=options.overrides(),
        hostname=options.hostname,
        log_level=logging.getLogger().level,
        log_format=options.log_format,
    )
    return partial(load_anew if options.pool in GREEN else load, application)


def _make_pool(options: WorkerOptions) -> Pool:
    load_application = loader(options)
    match options.pool:
        case PoolType.PREFORK:
            from muster.pools.prefork import PreforkPool

            return PreforkPool(load_application)
        case PoolType.GEVENT | PoolType.EVENTLET:
            from muster.pools.green.parent import GreenPool

            return GreenPool(load_application, str(options.pool))
        case PoolType.THREADS:
            from muster.pools.threads import ThreadsPool

            return ThreadsPool(load_application)
        case PoolType.SOLO:
            from muster.pools.solo import SoloPool

            return SoloPool(load_application)


def _default_policy(options: WorkerOptions) -> Policy:
    return Policy(
        acks_late=options.acks_late,
        reject_on_worker_lost=options.reject_on_worker_lost,
        acks_on_failure_or_timeout=options.acks_on_failure_or_timeout,
        hard_limit=options.time_limit_seconds,
        soft_limit=options.soft_time_limit_seconds,
        ignore_result=options.ignore_result,
        store_errors_even_if_ignored=options.store_errors_even_if_ignored,
        track_started=options.track_started,
    )


def _rate_limits(options: WorkerOptions) -> RateLimits:
    return RateLimits(
        each=options.rate_limits,
        together=options.global_rate_limits,
        default=options.default_rate_limit or None,
        ignore_tasks=options.disable_rate_limits,
    )


def connect(options: WorkerOptions) -> tuple[Transport, ResultStore | None]:
    """Return the transport and, when results live elsewhere, their store."""
    joined = bool(options.result_backend) and same_database(options.broker_url, options.result_backend)
    prefix = str(options.result_backend_transport_options.get("global_keyprefix", ""))
    transport = connect_transport(
        options.broker_url,
        queues=options.queues,
        worker=options.worker_id,
        pool=options.pool_name,
        lease_seconds=options.lease_seconds,
        dead_letters=options.dead_letters,
        options=options.broker_transport_options,
        results_prefix=prefix if joined else None,
        delayed_type=options.delayed_delivery_type,
        create_missing_queues=options.create_missing_queues,
        queue_arguments=options.queue_arguments,
        declare_queues=options.declare_queues,
    )
    if joined or not options.result_backend:
        return transport, None
    results = connect_results(
        options.result_backend,
        options.result_backend_transport_options,
        broker_url=options.broker_url,
        kept_seconds=0,  # it reads none
    )
    return transport, results


Connect = Callable[[WorkerOptions], tuple[Transport, ResultStore | None]]


def run(options: WorkerOptions, *, connect: Connect = connect) -> int:
    """Run a worker until it is told to leave. Returns the exit code. Raises ConfigurationError."""
    pool = _make_pool(options)
    greeting = msgspec.msgpack.decode(pool.load(), type=Greeting)
    try:
        options = options.with_application(muster_settings.resolve(greeting.settings))
        default, limits = _default_policy(options), _rate_limits(options)
        policies = {
            name: effective(task, default, name=name, limits=limits) for name, task in greeting.tasks.items()
        }
        transport, results = connect(options)
    except BaseException:
        pool.stop()
        raise
    loop = WorkerLoop(
        _loop_settings(options),
        transport=transport,
        pool=pool,
        policies=policies,
        default_policy=default,
        results=results,
        stores_results=bool(options.result_backend),
        tally=Tally(),
    )
    try:
        with _serving_health(options, loop):
            pool.start(_pool_settings(options), loop.wake)
            vain = [*without_effect(options, greeting.tasks), *rates_without_effect(greeting.tasks, limits)]
            for sentence in vain:
                logger.warning("%s", sentence)
            with _signals(loop):
                return _run(options, pool, loop)
    finally:
        pool.stop()
        transport.close()
        if results is not None:
            results.close()


def _run(options: WorkerOptions, pool: Pool, loop: WorkerLoop) -> int:
    if options.pool is not PoolType.SOLO:
        try:
            loop.run()
        except PoolBroken as error:
            logger.critical("%s", error)
            return EXIT_FAILURE
        return loop.exit_code
    # solo runs tasks in this, the main thread, so the loop gets a native one of its own
    failure: list[BaseException] = []

    def run_loop() -> None:
        try:
            loop.run()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            failure.append(error)
        finally:
            pool.stop()

    thread = threading.Thread(target=run_loop, name="worker loop", daemon=True)
    thread.start()
    pool.serve()  # type: ignore[attr-defined]
    thread.join()
    if failure:
        raise failure[0]
    return loop.exit_code


def _pool_settings(options: WorkerOptions) -> PoolSettings:
    return PoolSettings(
        slots=options.concurrency,
        max_tasks_per_child=options.max_tasks_per_child,
        max_memory_per_child_bytes=options.max_memory_per_child_bytes,
        max_age_seconds=options.max_age_seconds,
    )


def _loop_settings(options: WorkerOptions) -> LoopSettings:
    return LoopSettings(
        worker=options.worker_id,
        pool_name=options.pool_name,
        pool_type=str(options.pool),
        hostname=options.hostname,
        queues=options.queues,
        broker=muster_settings.urls.mask(options.broker_url),
        lease_seconds=options.lease_seconds,
        delivery_limits=options.delivery_limits,
        delivery_limit=options.delivery_limit,
        result_expires_seconds=options.result_expires_seconds,
        drain_timeout_seconds=options.drain_timeout_seconds,
        max_message_bytes=options.max_message_bytes,
        max_depth=options.max_depth,
        autoscale=options.bounds,
        retry_on_startup=options.retry_on_startup,
        effective=options.effective(),
    )


@contextmanager
def _serving_health(options: WorkerOptions, loop: WorkerLoop) -> Iterator[None]:
    if not options.metrics_address:
        yield
        return
    from muster.health import HealthServer
    from muster.worker.metrics import WorkerCollector

    collector = WorkerCollector(loop, options.pool_name)
    server = HealthServer(options.metrics_address, loop, collector)
    server.serve_in_background()
    try:
        yield
    finally:
        server.close()


@contextmanager
def _signals(loop: WorkerLoop) -> Iterator[None]:
    """Celery's: TERM and INT drain and leave, a second one or QUIT leaves at once, USR1 prints all stacks."""

    def leave(number: int, _frame: Any) -> None:
        logger.warning("%s: draining; once more ends at once", signal.Signals(number).name)
        loop.leave()

    def leave_at_once(_number: int, _frame: Any) -> None:
        loop.leave()
        loop.leave()

    def stacks(_number: int, _frame: Any) -> None:
        import faulthandler

        faulthandler.dump_traceback(file=sys.stderr)

    before: Mapping[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
        signal.SIGINT: signal.signal(signal.SIGINT, leave),
        signal.SIGQUIT: signal.signal(signal.SIGQUIT, leave_at_once),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, stacks),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
