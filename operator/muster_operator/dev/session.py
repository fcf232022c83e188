"""One run of `muster dev`: look, decide, carry out, show, until it is time to leave.

`dev.command` makes it of what the user asked for. Observer, plans, executor and broker readers are the
operator's own; `dev.cluster` stands in for the cluster. What is left to this module is when a pass is made,
the command that runs beside, and the end.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from muster.errors import ConfigurationError
from muster.settings.urls import mask
from muster_operator.adapters.brokers import BrokerAdapter
from muster_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason, find_condition
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.decide.conditions.workerpool import declared_problem, taking_tasks
from muster_operator.decide.drain import is_active, is_leaving
from muster_operator.decide.load import fresh_reports
from muster_operator.decide.plan import (
    plan_beat,
    plan_schedule,
    plan_task_queue,
    plan_virtual_host,
    plan_worker_pool,
)
from muster_operator.decide.plan.schedule import timing_line
from muster_operator.loop.execute import execute
from muster_operator.loop.keys import Key
from muster_operator.loop.observe import Memory, Observer
from muster_operator.model.actions import Emit, EventType, Plan
from muster_operator.model.readings import Known, Unknown
from muster_operator.model.world import PodView, QueueSnapshot, ScheduleSnapshot, Snapshot

from .cluster import LocalCluster
from .manifests import Declared
from .manifests import Key as Name
from .picture import Picture, PoolRow, QueueRow, ScheduleRow, rate_per_second
from .processes import Keeper, Process

PASS_SECONDS: Final = 0.5
"""Between two passes at most; news of a broker, a signal or the command's end make it less."""
DECLARED_WITHIN: Final = timedelta(seconds=15)
"""For so long the command beside waits for the queues at most."""
LAST_LOOK: Final = timedelta(seconds=2)
LAST_LINES_SECONDS: Final = 1.0
IDLE_FOR: Final = timedelta(seconds=2)
INTERRUPTED: Final = 130
DATABASE: Final = "muster.db"
LOGS: Final = "logs"
ENGINE: Final = "muster"
"""Stands where a cluster has the engine's image."""


class Show(Protocol):
    """Where a session is looked at."""

    def picture(self, picture: Picture) -> None:
        """Show how things are."""

    def event(self, text: str, at: datetime) -> None:
        """Tell what has happened."""

    def line(self, text: str) -> None:
        """Pass on a line of the command that runs beside."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asked for."""

    title: str
    run: tuple[str, ...] = ()
    """A command that runs beside; when it has ended, all is drained."""
    limit: timedelta | None = None
    until_idle: bool = False


class Session:
    """Everything that runs, from the first pass to the last process' end."""

    def __init__(
        self,
        declared: Declared,
        wishes: Wishes,
        *,
        home: Path,
        keeper: Keeper,
        show: Show,
        clock: Callable[[], datetime],
    ) -> None:
        """`home` is a folder of our own: the embedded broker, logs, temporary files."""
        self._declared, self._wishes, self._home = declared, wishes, home
        self._keeper, self._show, self._clock = keeper, show, clock
        self._since = clock()
        self._secrets = _with_embedded(declared, f"sqlite:///{home / DATABASE}")
        scratch = home / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        self._environment = _base_environment(declared.folders, scratch)
        self._cluster = LocalCluster(
            declared,
            self._secrets,
            keeper,
            home=home,
            base_environment=self._environment,
            clock=clock,
            tell=self._tell,
        )
        self._memories: dict[Key, Memory] = {}
        self._totals: dict[Name, deque[tuple[datetime, int]]] = {
            key: deque(maxlen=200) for key in declared.pools
        }
        self._runs: dict[Name, ScheduleRow] = {}
        self._waiting_command: list[str] = []
        """What is to run beside, until the queues are there."""
        self._command: Process | None = None
        self._output: threading.Thread | None = None
        self._ending = False
        self._idle_since: datetime | None = None
        self._code = 0
        self.failed = False
        """Whether something went wrong whose log may be wanted."""
        self.left_behind = 0
        """At the end: tasks in the embedded broker that have not ended."""

    # the run

    async def run(self) -> int:
        """Run until it is time to leave. Returns the exit code. Raises ConfigurationError."""
        self._woken = asyncio.Event()
        brokers = BrokerAdapter(self._cluster, clock=self._clock, changed=lambda _: self._woken.set())
        self._brokers = brokers
        self._observer = Observer(self._cluster, brokers, image=ENGINE)
        with self._signals():
            try:
                await self._read_brokers()
                self._check()
                self._find_command()
                while not self._over():
                    await self._pass()
                    await self._rest()
                if self._code != INTERRUPTED:
                    await self._look_once_more()
                if self._output is not None:  # its last lines come before the last picture
                    await asyncio.to_thread(self._output.join, LAST_LINES_SECONDS)
                self._show.picture(self._picture())
            finally:
                self._cluster.pods.end_all()
                if self._command is not None:
                    self._command.kill()
                brokers.close()
        return self._code

    def _over(self) -> bool:
        if self._code == INTERRUPTED:
            return True
        ended = self._command is None or self._command.exit_code() is not None
        return self._ending and ended and not self._cluster.pods.running()

    async def _look_once_more(self) -> None:
        """Wait for readings from after the end, so that what is shown last is how things are."""
        since = self._clock()
        deadline = since + LAST_LOOK
        names = list(self._declared.queues)
        while self._clock() < deadline:
            readings = [self._queue(name).reading for name in names]
            if all(isinstance(reading, Known) and reading.at >= since for reading in readings):
                break
            await self._rest()
        rows = [
            self._queue_row(name)
            for name, queue in self._declared.queues.items()
            if (name[0], queue.spec.broker.secret_ref.name) not in self._declared.secrets
        ]
        self.left_behind = sum((row.ready or 0) + (row.running or 0) + (row.waiting or 0) for row in rows)

    async def _pass(self) -> None:
        self._cluster.sync()
        self._look_at_the_end()
        await self._read_brokers()
        for key in self._keys():
            plan = self._plan(key)
            if plan is not None:
                await execute(
                    plan,
                    cluster=self._cluster,
                    brokers=self._brokers,
                    memory=self._memory(key),
                    now=self._clock(),
                )
        if self._waiting_command and not self._ending and not self._are_queues_awaited():
            self._start_command()
        self._cluster.sync()
        for event in self._cluster.pods.take_events():
            self.failed = True
            self._show.event(event, self._clock())
        self._show.picture(self._picture())

    async def _rest(self) -> None:
        """Wait for a moment, or for a broker to say something new."""
        try:
            await asyncio.wait_for(self._woken.wait(), PASS_SECONDS)
        except TimeoutError:
            return
        self._woken.clear()

    async def _read_brokers(self) -> None:
        await self._brokers.refresh(self._observer.secrets())
        self._brokers.ask(self._observer.demands())

    def _keys(self) -> list[Key]:
        kinds = ("TaskQueue", "WorkerPool", "Schedule")
        keys = [
            Key(kind, body["metadata"]["namespace"], body["metadata"]["name"])
            for kind in kinds
            for body in self._cluster.of(kind)
        ]
        secrets = list(self._observer.demands())
        hosts = [Key("VirtualHost", *secret) for secret in secrets]
        return [*hosts, *keys, *(Key("Beat", *secret) for secret in secrets)]

    def _memory(self, key: Key) -> Memory:
        return self._memories.setdefault(key, Memory())

    def _plan(self, key: Key) -> Plan | None:
        now, memory = self._clock(), self._memory(key)
        match key.kind:
            case "TaskQueue":
                queue = self._observer.task_queue(key, now, memory)
                return None if queue is None else plan_task_queue(queue)
            case "WorkerPool":
                pool = self._observer.worker_pool(key, now, memory)
                return None if pool is None else plan_worker_pool(pool)
            case "Schedule":
                schedule = self._observer.schedule(key, now, memory)
                return None if schedule is None else plan_schedule(schedule)
            case "VirtualHost":
                host = self._observer.virtual_host(key, now)
                return None if host is None else plan_virtual_host(host)
            case _:
                beat = self._observer.beat(key, now, memory)
                return None if beat is None else plan_beat(beat)

    def _tell(self, event: Emit) -> None:
        if event.type is EventType.WARNING and event.reason not in _STARTING:
            text = f"{event.kind} {event.metadata.name}: {event.reason}: {event.message}"
            self._show.event(text, self._clock())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    # the end

    def _leave(self) -> None:
        """Begin to leave; asked a second time, end at once."""
        if not self._ending:
            self._end()
        else:
            self._code = INTERRUPTED
        self._woken.set()

    def _look_at_the_end(self) -> None:
        now = self._clock()
        if self._ending:
            return
        code = self._command.exit_code() if self._command is not None else None
        if code is not None:
            self._code = code if code >= 0 else 128 - code
            self.failed = self.failed or self._code != 0
            self._end()
        elif self._wishes.limit is not None and now - self._since >= self._wishes.limit:
            self._end()
        elif self._wishes.until_idle and not self._wishes.run:
            if not self._is_idle():
                self._idle_since = None
            elif self._idle_since is None:
                self._idle_since = now
            elif now - self._idle_since >= IDLE_FOR:
                self._end()

    def _end(self) -> None:
        """Begin to leave: nothing is ticked any more, pools go to zero, and workers drain by SIGTERM."""
        self._ending = True
        if self._command is not None:
            self._command.terminate()
        self._cluster.pause()

    def _is_idle(self) -> bool:
        for key in self._declared.queues:
            seen = self._queue(key)
            if not isinstance(seen.reading, Known):
                return False
            value = seen.reading.value
            if value.ready or value.claimed or value.running or value.waiting:
                return False
        return True

    def _check(self) -> None:
        """Refuse at the start what could only wait for ever: what is named and not declared, or no broker."""
        for name in self._declared.queues:
            secret = self._queue(name).broker_secret
            if isinstance(secret, Unknown):
                wanted = self._declared.queues[name].spec.broker.secret_ref.name
                raise ConfigurationError(
                    f"TaskQueue {name[1]}: spec.broker.secretRef: Secret {wanted}: {secret.message}"
                )
        for name in self._declared.pools:
            problem = declared_problem(self._pool(name))
            if problem is not None:
                raise ConfigurationError(f"WorkerPool {name[1]}: {problem.message}")
        for (namespace, title), schedule in self._declared.schedules.items():
            wanted = schedule.spec.queue
            if (namespace, wanted) not in self._declared.queues:
                raise ConfigurationError(
                    f"Schedule {title}: spec.queue names TaskQueue {wanted}, which does not exist in "
                    f"namespace {namespace}; create it or correct the name"
                )

    # the command beside

    def _are_queues_awaited(self) -> bool:
        """Whether a queue is not there yet as it is declared: a client that came first would make another."""
        if self._clock() - self._since > DECLARED_WITHIN:
            return False
        ready = [
            find_condition(self._queue(name).task_queue.status.conditions, ConditionType.READY)
            for name in self._declared.queues
        ]
        return any(each is None or each.status is ConditionStatus.UNKNOWN for each in ready)

    def _command_path(self) -> str:
        return os.pathsep.join([str(Path(sys.executable).parent), self._environment.get("PATH", os.defpath)])

    def _find_command(self) -> None:
        """Find the program that runs beside. Raises ConfigurationError where there is none."""
        if self._wishes.run:
            name, *arguments = self._wishes.run
            program = shutil.which(name, path=self._command_path())
            if program is None:
                raise ConfigurationError(f"--run: there is no program {name}; correct its name")
            self._waiting_command = [program, *arguments]

    def _start_command(self) -> None:
        environment = {**self._environment, **self._urls(), "PATH": self._command_path()}
        self._command = self._keeper.start(self._waiting_command, environment=environment)
        self._waiting_command = []
        self._output = threading.Thread(
            target=self._pass_on, args=(self._command, asyncio.get_running_loop()), daemon=True
        )
        self._output.start()

    def _pass_on(self, process: Process, loop: asyncio.AbstractEventLoop) -> None:
        assert process.output is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads it any more
            for line in process.output:
                loop.call_soon_threadsafe(self._show.line, line.decode(errors="replace").rstrip("\n"))
            loop.call_soon_threadsafe(self._woken.set)

    def _urls(self) -> dict[str, str]:
        """Return the variables by which a client finds the first broker and the first result store."""
        found: dict[str, str] = {}
        for key, queue in list(self._declared.queues.items())[:1]:
            url = self._secrets[key[0], queue.spec.broker.secret_ref.name]["url"]
            found |= {"MUSTER_BROKER_URL": url, "CELERY_BROKER_URL": url}
        results = [
            (key[0], each.spec.results) for key, each in self._declared.pools.items() if each.spec.results
        ]
        for namespace, result in results[:1]:
            url = self._secrets[namespace, result.secret_ref.name]["url"]
            found |= {"MUSTER_RESULT_URL": url, "CELERY_RESULT_BACKEND": url}
        return found

    # what is shown

    def _queue(self, name: Name) -> QueueSnapshot:
        key = Key("TaskQueue", *name)
        seen = self._observer.task_queue(key, self._clock(), self._memory(key))
        assert seen is not None
        return seen

    def _pool(self, name: Name) -> Snapshot:
        key = Key("WorkerPool", *name)
        seen = self._observer.worker_pool(key, self._clock(), self._memory(key))
        assert seen is not None
        return seen

    def _schedule(self, name: Name) -> ScheduleSnapshot | None:
        key = Key("Schedule", *name)
        return self._observer.schedule(key, self._clock(), self._memory(key))

    def _picture(self) -> Picture:
        return Picture(
            now=self._clock(),
            since=self._since,
            title=self._wishes.title,
            broker=self._named_brokers(),
            logs=str(self._home / LOGS),
            queues=tuple(self._queue_row(name) for name in self._declared.queues),
            pools=tuple(self._pool_row(name) for name in self._declared.pools),
            schedules=tuple(self._schedule_row(name) for name in self._declared.schedules),
            troubles=self._cluster.pods.troubles(),
            draining=self._ending,
            ended=self._ending and not self._cluster.pods.running(),
        )

    def _named_brokers(self) -> str:
        names = {(key[0], each.spec.broker.secret_ref.name) for key, each in self._declared.queues.items()}
        given = {mask(self._secrets[key]["url"]) for key in names if key in self._declared.secrets}
        embedded = {"embedded broker"} if names - set(self._declared.secrets) else set()
        return ", ".join(sorted(given | embedded))

    def _queue_row(self, name: Name) -> QueueRow:
        seen = self._queue(name)
        problem = _problem(seen.task_queue.status.conditions)
        if isinstance(seen.reading, Unknown):
            return QueueRow(name=name[1], problem=problem)
        value = seen.reading.value
        return QueueRow(
            name=name[1],
            ready=value.ready,
            running=value.claimed + value.running,
            waiting=value.waiting,
            dead=value.dead,
            oldest_seconds=value.oldest_age_seconds,
            problem=problem,
        )

    def _pool_row(self, name: Name) -> PoolRow:
        seen, now = self._pool(name), self._clock()
        reports = fresh_reports([pod for pod in seen.pods if not pod.terminating], now)
        done = self._cluster.pods.ended_tasks(*name)
        totals = self._totals[name]
        totals.append((now, done))
        return PoolRow(
            name=name[1],
            desired=seen.pool.status.desired or 0,
            ready=taking_tasks(seen.pods),
            leaving=_leaving(seen.pods),
            busy=sum(each.busy for each in reports),
            slots=sum(each.slots for each in reports),
            done=done,
            per_second=rate_per_second(tuple(totals), now),
            decision=seen.pool.status.last_decision,
        )

    def _schedule_row(self, name: Name) -> ScheduleRow:
        schedule = self._declared.schedules[name]
        before = self._runs.get(name) or ScheduleRow(
            name=name[1], timing=timing_line(schedule.spec) or "", suspended=schedule.spec.suspend
        )
        seen = self._schedule(name)
        row = before
        if seen is None:  # we are leaving
            row = ScheduleRow(
                name=before.name, timing=before.timing, last_at=before.last_at, suspended=before.suspended
            )
        elif isinstance(seen.runs, Known) and seen.runs.value is not None:
            row = ScheduleRow(
                name=before.name,
                timing=before.timing,
                last_at=seen.runs.value.last_at,
                next_at=seen.runs.value.next_at,
                suspended=before.suspended,
                problem=_problem(seen.schedule.status.conditions),
            )
        self._runs[name] = row
        return row


_STARTING: Final = frozenset({Reason.NOT_OBSERVED_YET, Reason.BEAT_NOT_RUNNING})
"""Reasons that every start passes through; where they last, a process' own trouble says why."""


def _problem(conditions: Sequence[Condition]) -> str:
    """Return why an object is not Ready; empty when it is, or is about to be."""
    ready = find_condition(conditions, ConditionType.READY)
    if ready is None or ready.status is not ConditionStatus.FALSE or ready.reason in _STARTING:
        return ""
    return ready.message


def _leaving(pods: Sequence[PodView]) -> int:
    return sum(1 for pod in pods if pod.terminating or (is_active(pod) and is_leaving(pod)))


def _with_embedded(declared: Declared, url: str) -> dict[Name, Mapping[str, str]]:
    """Return all Secrets: those declared, and the embedded broker for each that is named and is not."""
    secrets = dict(declared.secrets)
    queues: Mapping[Name, TaskQueue] = declared.queues
    named = [(key[0], each.spec.broker.secret_ref.name) for key, each in queues.items()]
    pools: Mapping[Name, WorkerPool] = declared.pools
    named += [(key[0], each.spec.results.secret_ref.name) for key, each in pools.items() if each.spec.results]
    for key in named:
        secrets.setdefault(key, {"url": url})
    return secrets


def _base_environment(folders: Sequence[Path], scratch: Path) -> dict[str, str]:
    """Return what every process gets: this one's environment without what would speak to a worker.

    Modules are found from here and from the folders of the manifests; temporary files go to `scratch`.
    """
    ours = ("MUSTER_", "CELERY_")
    free = {"MUSTER_LOG_LEVEL", "MUSTER_LOG_FORMAT"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name in free}
    places = [str(Path.cwd()), *map(str, folders), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(places)),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
    }
