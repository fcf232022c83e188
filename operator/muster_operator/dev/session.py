"""One run of `muster dev`: look, decide, carry out, show, until it is time to leave.

`dev.command` makes it of what the user asked for. The decisions are the operator's own plans; what they ask
for, `dev.pods` and `dev.brokers` carry out here.
"""

import os
import queue
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from muster.errors import BrokerUnavailable, ConfigurationError
from muster.settings.urls import mask
from muster_operator.api.conditions import ConditionStatus, ConditionType, Reason, find_condition
from muster_operator.api.names import content_hash
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.decide.conditions.workerpool import declared_problem, taking_tasks
from muster_operator.decide.drain import is_active, is_leaving
from muster_operator.decide.load import fresh_reports
from muster_operator.decide.plan import plan_beat, plan_schedule, plan_task_queue, plan_worker_pool
from muster_operator.decide.plan.schedule import timing_line
from muster_operator.desired.beat import beat_name
from muster_operator.model.actions import (
    Action,
    Apply,
    Delete,
    MarkPod,
    Plan,
    PutSchedule,
    RemoveSchedule,
    Scale,
    SendDrain,
    SetStatus,
)
from muster_operator.model.history import History, RuntimeEstimate
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import (
    BeatSnapshot,
    PodView,
    QueueReading,
    QueueSnapshot,
    QueueView,
    ScheduleSnapshot,
    SecretView,
    Snapshot,
)
from muster_operator.ports import BrokerView, ScopeView

from .brokers import Broker
from .manifests import Declared, Key
from .picture import Picture, PoolRow, QueueRow, ScheduleRow, rate_per_second
from .pods import Pods
from .processes import Keeper, Process

PASS_SECONDS: Final = 0.25
PATIENCE: Final = timedelta(seconds=5)
"""How long workers have to hear of the end by their mailboxes, before they hear of it by SIGTERM."""
IDLE_FOR: Final = timedelta(seconds=2)
INTERRUPTED: Final = 130
DATABASE = "muster.db"


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


@dataclass
class _PoolMemory:
    history: History = field(default_factory=History)
    runtime: RuntimeEstimate = field(default_factory=RuntimeEstimate)
    status_written_at: datetime | None = None
    totals: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=120))


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
        """`home` is a folder of our own: the embedded broker and the logs. Raises ConfigurationError."""
        self._wishes, self._keeper, self._show, self._clock = wishes, keeper, show, clock
        self._since = clock()
        self._home = home
        self._queues, self._given_pools = dict(declared.queues), declared.pools
        self._pools = dict(declared.pools)
        self._schedules = dict(declared.schedules)
        self._memory = {key: _PoolMemory() for key in self._pools}
        self._budgets: dict[Key, Mapping[str, Any]] = {}
        self._secrets = _with_embedded(declared, f"sqlite:///{home / DATABASE}")
        logs, scratch = home / "logs", home / "tmp"
        for folder in (logs, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self._environment = _base_environment(declared.folders, scratch)
        folders = _write_secrets(self._secrets, home)
        self._pods = Pods(
            keeper,
            logs=logs,
            base_environment=self._environment,
            secrets=lambda namespace: _of_namespace(self._secrets, namespace),
            secret_folders=lambda namespace: _of_namespace(folders, namespace),
        )
        self._check(clock())
        self._brokers = self._connect()
        self._messages: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._command: Process | None = None
        self._ending_since: datetime | None = None
        self._idle_since: datetime | None = None
        self._code = 0
        self.failed = False
        """Whether something went wrong whose log may be wanted."""

    # the run

    def run(self) -> int:
        """Run until it is time to leave. Returns the exit code."""
        with self._signals():
            try:
                self._start_command()
                while not self._over():
                    self._pass()
                    self._listen()
                self._show.picture(self._picture(self._clock()))
            finally:
                self._pods.end_all()
                if self._command is not None:
                    self._command.kill()
                for broker in self._brokers.values():
                    broker.close()
        return self._code

    def _over(self) -> bool:
        if self._code == INTERRUPTED:
            return True
        ended = self._command is None or self._command.exit_code() is not None
        return self._ending_since is not None and ended and not self._pods.running()

    def _pass(self) -> None:
        now = self._clock()
        self._pods.sync(now)
        self._look_at_the_end(now)
        for plan in self._plans(now):
            self._carry_out(plan, now)
        self._pods.sync(now)
        for event in self._pods.take_events():
            self.failed = True
            self._show.event(event, now)
        self._show.picture(self._picture(now))

    def _listen(self) -> None:
        """Wait a moment for signals and for what the command says."""
        deadline = self._clock() + timedelta(seconds=PASS_SECONDS)
        while (left := (deadline - self._clock()).total_seconds()) > 0:
            try:
                kind, text = self._messages.get(timeout=left)
            except queue.Empty:
                return
            if kind == "line":
                self._show.line(text)
            elif self._ending_since is not None:
                self._code = INTERRUPTED
                return
            else:
                self._end(self._clock())
                return

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, _frame: Any) -> None:
            self._messages.put(("signal", signal.Signals(number).name))

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # the end

    def _look_at_the_end(self, now: datetime) -> None:
        if self._ending_since is not None:
            if now - self._ending_since > PATIENCE:
                for namespace in {key[0] for key in self._pools}:
                    for deployment in self._pods.deployments(namespace):
                        self._pods.delete_deployment((namespace, deployment.name), now)
            return
        code = self._command.exit_code() if self._command is not None else None
        if code is not None:
            self._code = code if code >= 0 else 128 - code
            self.failed = self.failed or self._code != 0
            self._end(now)
        elif self._wishes.limit is not None and now - self._since >= self._wishes.limit:
            self._end(now)
        elif self._wishes.until_idle and self._command is None:
            if not self._is_idle():
                self._idle_since = None
            elif self._idle_since is None:
                self._idle_since = now
            elif now - self._idle_since >= IDLE_FOR:
                self._end(now)

    def _end(self, now: datetime) -> None:
        """Begin to leave: no more ticks, and every pool goes to zero as one that is paused."""
        self._ending_since = now
        if self._command is not None:
            self._command.terminate()
        self._pools = {
            key: replace(pool, spec=replace(pool.spec, paused=True)) for key, pool in self._pools.items()
        }

    def _is_idle(self) -> bool:
        for view in self._views().values():
            for reading in view.queues.values():
                if not isinstance(reading, Known):
                    return False
                value = reading.value
                if value.ready or value.claimed or value.running or value.waiting:
                    return False
        return True

    # the command beside

    def _start_command(self) -> None:
        if not self._wishes.run:
            return
        urls = self._urls()
        environment = {**self._environment, **urls}
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        )
        program = shutil.which(self._wishes.run[0], path=environment["PATH"])
        if program is None:
            raise ConfigurationError(f"--run: there is no program {self._wishes.run[0]}; correct its name")
        self._command = self._keeper.start([program, *self._wishes.run[1:]], environment=environment)
        threading.Thread(target=self._read_output, args=(self._command,), daemon=True).start()

    def _read_output(self, process: Process) -> None:
        assert process.output is not None
        for line in process.output:
            self._messages.put(("line", line.decode(errors="replace").rstrip("\n")))

    def _urls(self) -> dict[str, str]:
        """Return the variables by which a client of the first queue's broker finds it and its results."""
        found: dict[str, str] = {}
        for key, task_queue in self._queues.items():
            url = self._secrets.get((key[0], task_queue.spec.broker.secret_ref.name), {}).get("url")
            if url:
                found |= {"MUSTER_BROKER_URL": url, "CELERY_BROKER_URL": url}
                break
        for key, pool in self._pools.items():
            if pool.spec.results is not None:
                url = self._secrets.get((key[0], pool.spec.results.secret_ref.name), {}).get("url")
                if url:
                    found |= {"MUSTER_RESULT_URL": url, "CELERY_RESULT_BACKEND": url}
                    break
        return found

    # what is seen

    def _connect(self) -> dict[Key, Broker]:
        brokers: dict[Key, Broker] = {}
        places = {(key[0], each.spec.broker.secret_ref.name) for key, each in self._queues.items()}
        for namespace, secret in sorted(places):
            url = self._secrets[namespace, secret].get("url")
            if not url:
                raise ConfigurationError(
                    f"Secret {secret}: the key url is missing; put the broker's URL there"
                )
            there = [
                each
                for key, each in self._queues.items()
                if key[0] == namespace and each.spec.broker.secret_ref.name == secret
            ]
            brokers[namespace, secret] = Broker(
                url,
                queues={each.queue_name: each.dead_letter_name for each in there},
                pools=[
                    f"{key[0]}/{key[1]}"
                    for key, pool in self._pools.items()
                    if key[0] == namespace and {each.metadata.name for each in there} & set(pool.spec.queues)
                ],
                scope=namespace,
                clock=self._clock,
            )
        return brokers

    def _check(self, now: datetime) -> None:
        """Refuse at the start what could only wait for ever: what is named and not declared."""
        for pool in self._pools.values():
            problem = declared_problem(self._snapshot(pool, {}, now))
            if problem is not None:
                raise ConfigurationError(f"WorkerPool {pool.metadata.name}: {problem.message}")
        for schedule in self._schedules.values():
            metadata, wanted = schedule.metadata, schedule.spec.queue
            if (metadata.namespace, wanted) not in self._queues:
                raise ConfigurationError(
                    f"Schedule {metadata.name}: spec.queue names TaskQueue {wanted}, which does not exist in "
                    f"namespace {metadata.namespace}; create it or correct the name"
                )

    def _views(self) -> dict[Key, BrokerView]:
        return {key: broker.view for key, broker in self._brokers.items()}

    def _plans(self, now: datetime) -> Iterator[Plan]:
        views = self._views()
        for task_queue in list(self._queues.values()):
            yield plan_task_queue(self._queue_snapshot(task_queue, views, now))
        for key, pool in list(self._pools.items()):
            plan = plan_worker_pool(self._snapshot(pool, views, now))
            self._memory[key].history, self._memory[key].runtime = plan.history, plan.runtime
            yield plan
        if self._ending_since is None:
            for schedule in list(self._schedules.values()):
                yield plan_schedule(self._schedule_snapshot(schedule, views, now))
        for namespace, secret in views:
            yield plan_beat(self._beat_snapshot(namespace, secret, views, now))

    def _snapshot(self, pool: WorkerPool, views: Mapping[Key, BrokerView], now: datetime) -> Snapshot:
        key = pool.metadata.namespace, pool.metadata.name
        memory = self._memory[key]
        queues = tuple(self._queue_view(key[0], name, views, now) for name in pool.spec.queues)
        first = next((each.task_queue for each in queues if each.task_queue is not None), None)
        secret = first.spec.broker.secret_ref.name if first is not None else ""
        view = views.get((key[0], secret))
        results = pool.spec.results
        return Snapshot(
            now=now,
            pool=pool,
            queues=queues,
            broker=view.facts if view else _unread(now),
            broker_secret=self._secret_view(key[0], secret, now),
            results_secret=self._secret_view(key[0], results.secret_ref.name, now) if results else None,
            pods=self._pods.pods(key[0], key[1], view.reports if view else {}, now),
            deployments=self._pods.deployments(key[0], key[1]),
            budget=self._budgets.get(key),
            history=memory.history,
            runtime=memory.runtime,
            status_written_at=memory.status_written_at,
        )

    def _queue_view(
        self, namespace: str, name: str, views: Mapping[Key, BrokerView], now: datetime
    ) -> QueueView:
        task_queue = self._queues.get((namespace, name))
        reading: Reading[QueueReading] = _unread(now)
        if task_queue is not None:
            view = views.get((namespace, task_queue.spec.broker.secret_ref.name))
            if view is not None:
                reading = view.queues[task_queue.queue_name]
        return QueueView(name=name, task_queue=task_queue, reading=reading)

    def _queue_snapshot(
        self, task_queue: TaskQueue, views: Mapping[Key, BrokerView], now: datetime
    ) -> QueueSnapshot:
        namespace, secret = task_queue.metadata.namespace, task_queue.spec.broker.secret_ref.name
        url = self._secrets.get((namespace, secret), {}).get("url")
        return QueueSnapshot(
            now=now,
            task_queue=task_queue,
            rivals=tuple(
                each
                for key, each in self._queues.items()
                if each is not task_queue
                and each.queue_name == task_queue.queue_name
                and self._secrets.get((key[0], each.spec.broker.secret_ref.name), {}).get("url") == url
            ),
            broker=views[namespace, secret].facts,
            broker_secret=self._secret_view(namespace, secret, now),
            reading=views[namespace, secret].queues[task_queue.queue_name],
        )

    def _schedule_snapshot(
        self, schedule: Schedule, views: Mapping[Key, BrokerView], now: datetime
    ) -> ScheduleSnapshot:
        metadata = schedule.metadata
        queue = self._queue_view(metadata.namespace, schedule.spec.queue, views, now)
        assert queue.task_queue is not None  # `_check` has seen to it
        secret = queue.task_queue.spec.broker.secret_ref.name
        scope: Reading[ScopeView] = views[metadata.namespace, secret].scopes[metadata.namespace]
        if isinstance(scope, Unknown):
            return ScheduleSnapshot(
                now=now, schedule=schedule, queue=queue, entry=scope, runs=scope, beat_running=scope
            )
        value, at = scope.value, scope.at
        return ScheduleSnapshot(
            now=now,
            schedule=schedule,
            queue=queue,
            entry=Known(value=value.entries.get(metadata.uid), at=at),
            runs=Known(value=value.runs.get(metadata.uid), at=at),
            beat_running=Known(value=value.beat_running, at=at),
            results_kept=any(
                pool.spec.results is not None and schedule.spec.queue in pool.spec.queues
                for key, pool in self._pools.items()
                if key[0] == metadata.namespace
            ),
        )

    def _beat_snapshot(
        self, namespace: str, secret: str, views: Mapping[Key, BrokerView], now: datetime
    ) -> BeatSnapshot:
        schedules = tuple(
            each
            for key, each in self._schedules.items()
            if self._ending_since is None
            and key[0] == namespace
            and self._queues[namespace, each.spec.queue].spec.broker.secret_ref.name == secret
        )
        name = beat_name(secret)
        scope = views[namespace, secret].scopes[namespace]
        entries: Reading[Mapping[str, str]] = (
            scope
            if isinstance(scope, Unknown)
            else Known(
                value={uid: entry.name if entry else "" for uid, entry in scope.value.entries.items()},
                at=scope.at,
            )
        )
        return BeatSnapshot(
            now=now,
            namespace=namespace,
            broker_secret=self._secret_view(namespace, secret, now),
            secret_name=secret,
            schedules=schedules,
            task_queues=tuple(self._queues[namespace, each.spec.queue] for each in schedules),
            entries=entries,
            deployment=next((each for each in self._pods.deployments(namespace) if each.name == name), None),
            image="muster",
        )

    def _secret_view(self, namespace: str, name: str, now: datetime) -> Reading[SecretView]:
        values = self._secrets.get((namespace, name))
        if values is None:
            return Unknown(reason=Reason.SECRET_NOT_FOUND, at=now, message="it does not exist")
        if not values.get("url"):
            return Unknown(reason=Reason.SECRET_INVALID, at=now, message="the key url is missing")
        return Known(
            value=SecretView(name=name, keys=frozenset(values), hash=content_hash(dict(values))), at=now
        )

    # what is done

    def _carry_out(self, plan: Plan, now: datetime) -> None:
        for action in plan.actions:
            try:
                self._do(action, now)
            except BrokerUnavailable:
                return  # the next pass plans it again; the reading says what is wrong

    def _do(self, action: Action, now: datetime) -> None:
        match action:
            case Apply(manifest=manifest):
                if manifest["kind"] == "Deployment":
                    self._pods.apply(manifest, now)
                else:
                    metadata = manifest["metadata"]
                    self._budgets[metadata["namespace"], metadata["name"]] = manifest
            case Scale():
                self._pods.scale((action.namespace, action.deployment), action.replicas)
            case MarkPod():
                self._pods.mark((action.namespace, action.pod), action.uid, action.annotations)
            case SendDrain() | PutSchedule() | RemoveSchedule():
                self._brokers[action.broker.namespace, action.broker.secret].carry_out(action)
            case Delete(kind="Pod"):
                self._pods.delete_pod((action.namespace, action.name), action.uid, now)
            case Delete(kind="Deployment"):
                self._pods.delete_deployment((action.namespace, action.name), now)
            case SetStatus():
                self._set_status(action, now)

    def _set_status(self, action: SetStatus, now: datetime) -> None:
        key = action.metadata.namespace, action.metadata.name
        if action.kind == "WorkerPool":
            self._pools[key] = replace(self._pools[key], status=action.status)  # type: ignore[arg-type]
            self._memory[key].status_written_at = now
        elif action.kind == "Schedule":
            self._schedules[key] = replace(self._schedules[key], status=action.status)  # type: ignore[arg-type]
        elif action.kind == "TaskQueue":
            self._queues[key] = replace(self._queues[key], status=action.status)  # type: ignore[arg-type]

    # what is shown

    def _picture(self, now: datetime) -> Picture:
        views = self._views()
        return Picture(
            now=now,
            since=self._since,
            title=self._wishes.title,
            broker=self._places(),
            queues=tuple(self._queue_row(each, views) for each in self._queues.values()),
            pools=tuple(self._pool_row(key, pool, views, now) for key, pool in self._pools.items()),
            schedules=tuple(self._schedule_row(each, views, now) for each in self._schedules.values()),
            troubles=self._pods.troubles(),
            draining=self._ending_since is not None,
        )

    def _places(self) -> str:
        urls = {mask(self._secrets[key]["url"]) for key in self._brokers}
        return f"{', '.join(sorted(urls))} · logs in {self._home / 'logs'}"

    def _queue_row(self, task_queue: TaskQueue, views: Mapping[Key, BrokerView]) -> QueueRow:
        name = task_queue.metadata.name
        view = views[task_queue.metadata.namespace, task_queue.spec.broker.secret_ref.name]
        reading = view.queues[task_queue.queue_name]
        state = find_condition(task_queue.status.conditions, ConditionType.READY)
        broken = state is not None and state.status is ConditionStatus.FALSE
        problem = state.message if state is not None and broken else ""
        if isinstance(reading, Unknown):
            unread = reading.reason == Reason.NOT_OBSERVED_YET
            return QueueRow(name=name, problem=problem or ("" if unread else reading.message))
        value = reading.value
        return QueueRow(
            name=name,
            ready=value.ready,
            running=value.claimed + value.running,
            waiting=value.waiting,
            dead=value.dead,
            oldest_seconds=value.oldest_age_seconds,
            problem=problem,
        )

    def _schedule_row(
        self, schedule: Schedule, views: Mapping[Key, BrokerView], now: datetime
    ) -> ScheduleRow:
        runs = self._schedule_snapshot(schedule, views, now).runs
        record = runs.value if isinstance(runs, Known) else None
        state = find_condition(schedule.status.conditions, ConditionType.READY)
        broken = state is not None and state.status is ConditionStatus.FALSE
        starting = state is not None and state.reason == Reason.BEAT_NOT_RUNNING
        return ScheduleRow(
            name=schedule.metadata.name,
            timing=timing_line(schedule.spec) or "",
            last_at=record.last_at if record else None,
            next_at=record.next_at if record and self._ending_since is None else None,
            suspended=schedule.spec.suspend,
            problem=state.message if state is not None and broken and not starting else "",
        )

    def _pool_row(
        self, key: Key, pool: WorkerPool, views: Mapping[Key, BrokerView], now: datetime
    ) -> PoolRow:
        seen = self._snapshot(pool, views, now)
        reports = fresh_reports([each for each in seen.pods if not each.terminating], now)
        memory = self._memory[key]
        done = self._pods.ended_tasks(*key)
        memory.totals.append((now, done))
        return PoolRow(
            name=key[1],
            desired=pool.status.desired or 0,
            ready=taking_tasks(seen.pods),
            leaving=_leaving(seen.pods),
            busy=sum(each.busy for each in reports),
            slots=sum(each.slots for each in reports),
            done=done,
            per_second=rate_per_second(tuple(memory.totals), now),
            decision=pool.status.last_decision,
        )


def _leaving(pods: Sequence[PodView]) -> int:
    return sum(1 for pod in pods if pod.terminating or (is_active(pod) and is_leaving(pod)))


def _unread(now: datetime) -> Unknown:
    return Unknown(reason=Reason.NOT_OBSERVED_YET, at=now, message="it has not been read yet")


def _with_embedded(declared: Declared, url: str) -> dict[Key, Mapping[str, str]]:
    """Return all Secrets: those declared, and the embedded broker for each that is named and is not."""
    secrets = dict(declared.secrets)
    named = [(key[0], each.spec.broker.secret_ref.name) for key, each in declared.queues.items()]
    named += [
        (key[0], each.spec.results.secret_ref.name)
        for key, each in declared.pools.items()
        if each.spec.results is not None
    ]
    for key in named:
        secrets.setdefault(key, {"url": url})
    return secrets


def _write_secrets(secrets: Mapping[Key, Mapping[str, str]], home: Path) -> dict[Key, str]:
    """Write certificates where workers can read them; return the folder of each Secret that has one."""
    folders: dict[Key, str] = {}
    for (namespace, name), values in secrets.items():
        for key, value in values.items():
            if key.endswith(".crt"):
                folder = home / "secrets" / namespace / name
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / key).write_text(value)
                folders[namespace, name] = str(folder)
    return folders


def _of_namespace(held: Mapping[Key, Any], namespace: str) -> dict[str, Any]:
    return {key[1]: value for key, value in held.items() if key[0] == namespace}


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
