"""The operator's process: watches, pollers and clocks feed keys, a few workers go through them.

`python -m muster_operator` calls `run`. This is where all parts meet; none of them knows another.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from muster_operator.adapters.brokers import BrokerAdapter, utc_now
from muster_operator.adapters.cluster import ClusterClient
from muster_operator.adapters.connection import Connection
from muster_operator.adapters.lease import LeaseLeadership
from muster_operator.api.workerpool import WorkerPoolStatus
from muster_operator.decide.plan import (
    plan_beat,
    plan_schedule,
    plan_task_queue,
    plan_virtual_host,
    plan_worker_pool,
)
from muster_operator.errors import Conflicted, OperatorError
from muster_operator.model.actions import Action, Plan, SetStatus

from .execute import execute
from .keys import Key, KeyQueue
from .metrics import OperatorCollector, PoolFigures, pool_figures
from .observe import Memory, Observer
from .roll_call import roll_call
from .store import Store
from .watch import CALLED, watch

logger = logging.getLogger(__name__)

WORKERS: Final = 4
ROUND: Final = timedelta(seconds=30)
"""Every object is looked at so often, whatever has been missed. A pass without a change writes nothing."""
SECRETS_SECONDS: Final = 1.0
LIST_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 2.0
"""How long tasks may take to notice that they are cancelled."""
STALE: Final = timedelta(minutes=3)
"""When no pass has ended for so long the process is stuck: liveness says so."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the operator is told. `namespaces` empty: the whole cluster."""

    namespaces: Sequence[str] = ()
    metrics_address: str = ":9540"
    image: str = "muster-worker"
    """The engine's image, for beat."""
    lease_namespace: str = ""
    """Where the Lease stands; empty: the operator's own namespace."""
    identity: str = ""


class Operator:
    """All of it."""

    def __init__(self, options: Options, connection: Connection) -> None:
        self._options = options
        self._connection = connection
        self._store = Store()
        self._queue = KeyQueue()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._watching = asyncio.Event()
        self._listed = asyncio.Event()
        self._doubt = asyncio.Event()
        """Set when objects may have gone unseen."""
        self._memories: dict[Key, Memory] = {}
        self._decisions: Counter[tuple[str, str, str]] = Counter()
        self._passes: Counter[tuple[str, str]] = Counter()
        self._figures: dict[Key, PoolFigures] = {}
        self._durations = Histogram(
            "muster_reconcile_duration_seconds",
            "From a snapshot to the last confirmed write",
            ["kind"],
            registry=None,
        )
        self._last_event_at = utc_now()
        self._last_pass_at = utc_now()
        self._lease = LeaseLeadership(
            namespace=options.lease_namespace or connection.namespace,
            identity=options.identity or f"{socket.gethostname()}-{os.getpid()}",
            clock=utc_now,
        )
        self.client = ClusterClient(
            connection,
            may_write=lambda: self._lease.leads(utc_now()),
            clock=utc_now,
            written=self._store.put,
        )

    def _changed(self, key: Key) -> None:
        self._last_event_at = utc_now()
        self._ask(key)

    def _ask(self, key: Key) -> None:
        self._queue.add(key, utc_now())
        self._wake.set()

    def _broker_changed(self, secret: tuple[str, str]) -> None:
        for key in self._store.on_broker(*secret):
            self._ask(key)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; then release the lease."""
        self._hear_signals()
        async with self.client, contextlib.AsyncExitStack() as stack:
            brokers = BrokerAdapter(
                self.client,
                clock=utc_now,
                changed=self._broker_changed,
                in_cluster=self._connection.token_file is not None,
                may_write=lambda: self._lease.leads(utc_now()),
            )
            stack.callback(brokers.close)
            place = self._options.lease_namespace or self._connection.namespace
            observer = Observer(
                self._store,
                brokers,
                image=self._options.image,
                owner=hashlib.sha256(place.encode()).hexdigest()[:6],
            )
            await self._serve(stack, brokers)
            tasks = [
                asyncio.create_task(self._lease.keep(self.client), name="lease"),
                asyncio.create_task(self._roll_calls(), name="roll calls"),
                asyncio.create_task(self._rounds(), name="rounds"),
                asyncio.create_task(self._look_at_brokers(observer, brokers), name="brokers"),
                *(
                    asyncio.create_task(self._work(observer, brokers), name=f"worker {number}")
                    for number in range(WORKERS)
                ),
                asyncio.create_task(
                    watch(
                        self._connection,
                        self._store,
                        self._changed,
                        listed=self._doubt.set,
                        namespaces=self._options.namespaces,
                        started=self._watching,
                        stop=self._stop,
                    ),
                    name="watch",
                ),
            ]
            stopping: asyncio.Task[Any] = asyncio.create_task(self._stop.wait(), name="stop")
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                failure = None if task.cancelled() else task.exception()
                if failure is not None:  # said at once: to leave may take a while
                    logger.error("%s failed, and so the operator ends", task.get_name(), exc_info=failure)
                elif not self._stop.is_set():
                    logger.warning("%s ended, and so the operator does", task.get_name())
            self._stop.set()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
            await self._lease.release(self.client)  # last: nothing of ours is written after it
            for task in done - {stopping}:
                if not task.cancelled() and task.exception() is not None:
                    raise task.exception() or RuntimeError(task.get_name())

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _roll_calls(self) -> None:
        """Hold one until everything is here, and then one after each doubt."""
        await self._watching.wait()
        while True:
            try:
                missing = await roll_call(
                    self.client,
                    self._store,
                    CALLED,
                    namespaces=self._options.namespaces,
                    changed=self._changed,
                )
            except OperatorError as error:
                logger.warning("what there is cannot be listed: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if missing:
                await asyncio.sleep(LIST_SECONDS)
                continue
            self._doubt.clear()
            self._listed.set()
            await self._doubt.wait()
            await asyncio.sleep(RETRY_SECONDS)  # a list comes object by object, and doubts in flocks

    async def _rounds(self) -> None:
        await self._listed.wait()
        self._hear_signals()  # once more: kopf has put its own handlers in their place
        while True:
            await self._lease.changed.wait()
            self._lease.changed.clear()
            for key in self._store.everything():
                self._ask(key)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lease.changed.wait(), ROUND.total_seconds())
            self._lease.changed.set()

    async def _look_at_brokers(self, observer: Observer, brokers: BrokerAdapter) -> None:
        """Keep Secrets read and pollers asking for what the resources name now."""
        await self._listed.wait()
        while True:
            for secret in await brokers.refresh(observer.secrets()):
                self._broker_changed(secret)
            brokers.ask(observer.demands())
            await asyncio.sleep(SECRETS_SECONDS)

    async def _work(self, observer: Observer, brokers: BrokerAdapter) -> None:
        await self._listed.wait()
        while True:
            now = utc_now()
            key = self._queue.take(now)
            if key is None:
                self._wake.clear()
                again = self._queue.next_at()
                pause = 1.0 if again is None else min(1.0, max(0.005, (again - now).total_seconds()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._last_pass_at = utc_now() if not len(self._queue) else self._last_pass_at
                continue
            if not self._lease.leads(now):
                self._memories.pop(key, None)  # what is not looked at all the time is not known all the time
                self._queue.done(key, now)  # the next leader's first round comes to it
                continue
            try:
                await self._pass(key, now, observer, brokers)
            except Exception:
                self._passes[key.kind, "error"] += 1
                pause_for = self._queue.failed(key, utc_now())
                logger.exception("a pass over %s failed; the next is in %s", _text(key), pause_for)
            self._last_pass_at = utc_now()
            await asyncio.sleep(
                0
            )  # a pass that writes nothing waits for nothing, and the lease must be renewed

    async def _pass(self, key: Key, now: datetime, observer: Observer, brokers: BrokerAdapter) -> None:
        began = time.monotonic()
        memory = self._memories.setdefault(key, Memory())
        if self._holds_up_its_namespace(key):
            memory.namespace_terminating = await self.client.is_terminating(key.namespace)
        plan = self._plan(key, now, observer, memory)
        if plan is None:
            self._memories.pop(key, None)
            self._queue.done(key, now)
            return
        outcome = await execute(plan, cluster=self.client, brokers=brokers, memory=memory, now=now)
        for action in outcome.confirmed:
            self._count(key, action, now)
        self._durations.labels(key.kind).observe(time.monotonic() - began)
        if isinstance(outcome.failure, Conflicted):
            self._doubt.set()
        if outcome.failure is not None:
            self._passes[key.kind, "failed"] += 1
            self._queue.failed(key, utc_now())
        else:
            self._passes[key.kind, "done"] += 1
            self._queue.done(key, now, again_at=plan.requeue_at)

    def _holds_up_its_namespace(self, key: Key) -> bool:
        """Whether the object is to go and waits for us."""
        metadata = (self._store.get(key.kind, key.namespace, key.name) or {}).get("metadata") or {}
        return "deletionTimestamp" in metadata and bool(metadata.get("finalizers"))

    def _count(self, key: Key, action: Action, now: datetime) -> None:
        """Count a decision when the status that tells it is written."""
        if not isinstance(action, SetStatus) or not isinstance(action.status, WorkerPoolStatus):
            return
        decision = action.status.last_decision
        if decision is not None and decision.time == now:
            direction = "up" if decision.to > decision.from_ else "down"
            self._decisions[f"{key.namespace}/{key.name}", direction, decision.reason] += 1

    def _plan(self, key: Key, now: datetime, observer: Observer, memory: Memory) -> Plan | None:
        match key.kind:
            case "WorkerPool":
                pool = observer.worker_pool(key, now, memory)
                if pool is None:
                    self._figures.pop(key, None)
                    return None
                self._figures[key] = pool_figures(pool)
                return plan_worker_pool(pool)
            case "TaskQueue":
                queue = observer.task_queue(key, now, memory)
                return None if queue is None else plan_task_queue(queue)
            case "Schedule":
                schedule = observer.schedule(key, now, memory)
                return None if schedule is None else plan_schedule(schedule)
            case "VirtualHost":
                host = observer.virtual_host(key, now)
                return None if host is None else plan_virtual_host(host)
            case _:
                return plan_beat(observer.beat(key, now, memory))

    # probes and metrics

    async def _serve(self, stack: contextlib.AsyncExitStack, brokers: BrokerAdapter) -> None:
        registry = CollectorRegistry()
        registry.register(self._durations)
        registry.register(
            OperatorCollector(
                self._store,
                figures=self._figures,
                views=brokers.views,
                requests=self.client.requests,
                decisions=self._decisions,
                passes=self._passes,
                leads=lambda: self._lease.leads(utc_now()),
                last_event_at=lambda: self._last_event_at,
            )
        )

        async def livez(_: web.Request) -> web.Response:
            age = utc_now() - self._last_pass_at
            if len(self._queue) and age > STALE and self._listed.is_set():
                return web.Response(status=503, text=f"no pass has ended for {age}\n")
            return web.Response(text="ok\n")

        async def readyz(_: web.Request) -> web.Response:
            if not self._listed.is_set():
                return web.Response(status=503, text="the watches have not listed everything yet\n")
            return web.Response(text="ok\n")

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(
                body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"}
            )

        application = web.Application()
        application.add_routes(
            [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]
        )
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = self._options.metrics_address.rpartition(":")
        await web.TCPSite(runner, host or None, int(port)).start()


def _text(key: Key) -> str:
    return f"{key.kind} {key.namespace}/{key.name}"


def run(options: Options, connection: Connection) -> None:
    """Run the operator in this process until it is told to stop."""

    async def main() -> None:
        await Operator(options, connection).run()

    asyncio.run(main())
