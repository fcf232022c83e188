"""From the watched objects and the brokers' views to a snapshot: all that a plan may look at.

Reads, decides nothing. What a watch has not shown yet is not there; what a broker has not said is Unknown.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from muster_operator.api.codec import InvalidObject
from muster_operator.api.conditions import Reason
from muster_operator.api.manifests import decode_object
from muster_operator.api.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAINING_SINCE,
    LABEL_POOL,
    WORKER_CONTAINER,
)
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.decide.rabbitmq.queues import seniority
from muster_operator.desired.beat import beat_name
from muster_operator.model.history import History, RuntimeEstimate
from muster_operator.model.rabbitmq import VirtualHost
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import (
    BeatSnapshot,
    DeploymentView,
    ForeignScaler,
    PodPhase,
    PodView,
    QueueReading,
    QueueSnapshot,
    QueueView,
    Rejection,
    ScheduleSnapshot,
    SecretView,
    Snapshot,
    VirtualHostSnapshot,
    WorkerView,
)
from muster_operator.ports import Brokers, BrokerView, Demand, Objects, QueueAsk

from .keys import Key

logger = logging.getLogger(__name__)

Body = Mapping[str, Any]
_NOT_YET: Final = Reason.NOT_OBSERVED_YET


@dataclass
class Memory:
    """What one key's passes hand on to each other. Forgetting it only delays."""

    history: History = field(default_factory=History)
    runtime: RuntimeEstimate = field(default_factory=RuntimeEstimate)
    status_written_at: datetime | None = None
    first_seen_at: datetime | None = None
    rejections: dict[tuple[str, str], Rejection] = field(default_factory=dict)
    namespace_terminating: bool = False
    """Whether the object's namespace is on its way out; looked up for what holds it up."""


class Observer:
    """Builds snapshots. `image` is the engine's, for beat; `owner` marks what is ours on shared brokers."""

    def __init__(self, objects: Objects, brokers: Brokers, *, image: str, owner: str = "dev") -> None:
        self._objects = objects
        self._brokers = brokers
        self._image = image
        self._owner = owner
        self._read: dict[tuple[str, str, str], tuple[Body, Any]] = {}
        """Each object's latest state, and what it is in Python: decoding takes longer than a decision."""
        self._by_name: dict[str, list[TaskQueue]] = {}
        """The TaskQueues for which a name on a broker means something, as of the last look at all of them."""

    # what shall be read of brokers

    def demands(self) -> dict[tuple[str, str], Demand]:
        """Return, by Secret, all that the resources ask to be read of its broker."""
        self._forget_what_is_gone()
        queues: dict[tuple[str, str], list[QueueAsk]] = {}
        by_name: dict[str, list[TaskQueue]] = {}
        pools: dict[tuple[str, str], list[str]] = {}
        scopes: dict[tuple[str, str], set[str]] = {}
        for body in self._objects.of("TaskQueue"):
            queue = self._decoded(body, TaskQueue)
            if queue is not None:
                ask = QueueAsk(queue=queue.queue_name, dead_letter=queue.dead_letter_name)
                for name in (queue.queue_name, queue.dead_letter_name):
                    by_name.setdefault(name, []).append(queue)
                queues.setdefault(_secret_of(queue), []).append(ask)
        self._by_name = by_name
        for body in self._objects.of("WorkerPool"):
            metadata = body["metadata"]
            for name in (body.get("spec") or {}).get("queues") or []:
                found = self._task_queue(metadata["namespace"], name)
                if found is not None:
                    pools.setdefault(_secret_of(found), []).append(
                        f"{metadata['namespace']}/{metadata['name']}"
                    )
        for body in self._objects.of("Schedule"):
            namespace = body["metadata"]["namespace"]
            found = self._task_queue(namespace, (body.get("spec") or {}).get("queue", ""))
            if found is not None:
                scopes.setdefault(_secret_of(found), set()).add(namespace)
        # a set of schedules whose last Schedule is gone must be looked at once more
        for body in self._objects.of("Deployment"):
            namespace = body["metadata"]["namespace"]
            for key in queues:
                if key[0] == namespace and beat_name(key[1]) == body["metadata"]["name"]:
                    scopes.setdefault(key, set()).add(namespace)
        return {
            key: Demand(
                queues=tuple(sorted(asks, key=lambda ask: ask.queue)),
                pools=tuple(sorted(set(pools.get(key, ())))),
                scopes=tuple(sorted(scopes.get(key, ()))),
            )
            for key, asks in queues.items()
        }

    def secrets(self) -> set[tuple[str, str]]:
        """Return every Secret that the resources name."""
        found = set(self.demands())
        for body in self._objects.of("WorkerPool"):
            results = (body.get("spec") or {}).get("results") or {}
            if results:
                found.add((body["metadata"]["namespace"], results["secretRef"]["name"]))
        return found

    # snapshots

    def worker_pool(self, key: Key, now: datetime, memory: Memory) -> Snapshot | None:
        """Return the pool's snapshot; None when there is no such pool (any more)."""
        body = self._objects.get("WorkerPool", key.namespace, key.name)
        pool = self._decoded(body, WorkerPool)
        if pool is None:
            return None
        queues = tuple(self._queue_view(key.namespace, name, now) for name in pool.spec.queues)
        named = [queue.task_queue for queue in queues if queue.task_queue is not None]
        unread: Unknown = Unknown(reason=_NOT_YET, at=now, message="no TaskQueue names it yet")
        broker, broker_secret = BrokerView(facts=unread), unread
        if named:
            secret = named[0].spec.broker.secret_ref.name
            broker = self._brokers.view(key.namespace, secret)
            broker_secret = self._brokers.secret(key.namespace, secret)  # type: ignore[assignment]
        results = None
        if pool.spec.results is not None:
            results = self._brokers.secret(key.namespace, pool.spec.results.secret_ref.name)
        deployments = tuple(_deployment(each) for each in self._of_pool("Deployment", key))
        budgets = self._of_pool("PodDisruptionBudget", key)
        return Snapshot(
            now=now,
            pool=pool,
            queues=queues,
            broker=broker.facts,
            broker_secret=broker_secret,
            results_secret=results,
            pods=tuple(self._pod(each, broker, now) for each in self._of_pool("Pod", key)),
            deployments=deployments,
            budget=budgets[0] if budgets else None,
            foreign_scalers=self._foreign_scalers(key.namespace, {each.name for each in deployments}),
            rejections=tuple(memory.rejections.values()),
            history=memory.history,
            runtime=memory.runtime,
            status_written_at=memory.status_written_at,
        )

    def task_queue(self, key: Key, now: datetime, memory: Memory) -> QueueSnapshot | None:
        """Return the queue's snapshot."""
        queue = self._task_queue(key.namespace, key.name)
        if queue is None:
            return None
        secret = queue.spec.broker.secret_ref.name
        view = self._view(key.namespace, queue, now)
        memory.first_seen_at = memory.first_seen_at or now
        return QueueSnapshot(
            now=now,
            task_queue=queue,
            rivals=self._rivals(queue),
            broker=self._brokers.view(key.namespace, secret).facts,
            broker_secret=self._brokers.secret(key.namespace, secret),
            reading=view,
            virtual_host=self._brokers.view(key.namespace, secret).virtual_host,
            pools=self._pools_of(key.namespace, key.name),
            neighbours=self._neighbours(queue),
            owner=self._owner,
            namespace_terminating=memory.namespace_terminating,
            first_seen_at=memory.first_seen_at,
            status_written_at=memory.status_written_at,
        )

    def virtual_host(self, key: Key, now: datetime) -> VirtualHostSnapshot | None:
        """Return the snapshot of the virtual host that the Secret `key.name` names; None where there is none.

        Whichever Secret is asked for, the first one of those that name it and can do most is who writes.
        """
        place = self._brokers.endpoint(key.namespace, key.name)
        if not place or self._brokers.view(key.namespace, key.name).virtual_host is None:
            return None
        here = [
            queue
            for body in self._objects.of("TaskQueue")
            if (queue := self._decoded(body, TaskQueue))
            and self._brokers.endpoint(*_secret_of(queue)) == place
        ]
        secrets = sorted({_secret_of(queue) for queue in here} | {(key.namespace, key.name)})
        # one whose managementUrl is wrong must not keep those from their policies that have a right one
        writer = max(secrets, key=lambda each: _can_write(self._brokers.view(*each).virtual_host))
        view = self._brokers.view(*writer)
        owners: dict[str, TaskQueue] = {}
        for queue in sorted(here, key=seniority):
            owners.setdefault(queue.queue_name, queue)
        unread = Unknown(reason=_NOT_YET, at=now, message="the virtual host has not been read yet")
        return VirtualHostSnapshot(
            now=now,
            namespace=writer[0],
            secret_name=writer[1],
            owner=self._owner,
            broker=view.facts,
            task_queues=tuple(each for each in owners.values() if each.metadata.deletion_timestamp is None),
            virtual_host=view.virtual_host or unread,
        )

    def schedule(self, key: Key, now: datetime, memory: Memory) -> ScheduleSnapshot | None:
        """Return the schedule's snapshot."""
        schedule = self._decoded(self._objects.get("Schedule", key.namespace, key.name), Schedule)
        if schedule is None:
            return None
        queue = self._queue_view(key.namespace, schedule.spec.queue, now)
        unread = Unknown(reason=_NOT_YET, at=now, message="the broker has not been read yet")
        entry: Reading[Any] = unread
        runs: Reading[Any] = unread
        running: Reading[bool] = unread
        if queue.task_queue is not None:
            broker = self._brokers.view(key.namespace, queue.task_queue.spec.broker.secret_ref.name)
            scope = broker.scopes.get(key.namespace, unread)
            if isinstance(scope, Known):
                uid = schedule.metadata.uid
                entry = Known(value=scope.value.entries.get(uid), at=scope.at)
                runs = Known(value=scope.value.runs.get(uid), at=scope.at)
                running = Known(value=scope.value.beat_running, at=scope.at)
            else:
                entry = runs = running = scope
        return ScheduleSnapshot(
            now=now,
            schedule=schedule,
            queue=queue,
            entry=entry,
            runs=runs,
            beat_running=running,
            results_kept=self._results_kept(key.namespace, schedule.spec.queue),
            status_written_at=memory.status_written_at,
        )

    def beat(self, key: Key, now: datetime, memory: Memory) -> BeatSnapshot:
        """Return the snapshot of one namespace's beat on the broker of the Secret `key.name`."""
        here = [
            q
            for body in self._objects.of("TaskQueue", key.namespace)
            if (q := self._decoded(body, TaskQueue))
        ]
        queues = {q.metadata.name: q for q in here if q.spec.broker.secret_ref.name == key.name}
        schedules = [
            s
            for body in self._objects.of("Schedule", key.namespace)
            if (s := self._decoded(body, Schedule)) and s.spec.queue in queues
        ]
        unread = Unknown(reason=_NOT_YET, at=now, message="the broker has not been read yet")
        scope = self._brokers.view(key.namespace, key.name).scopes.get(key.namespace, unread)
        entries: Reading[Mapping[str, str]] = unread
        if isinstance(scope, Known):
            names = {uid: entry.name if entry else "" for uid, entry in scope.value.entries.items()}
            entries = Known(value=names, at=scope.at)
        deployment = self._objects.get("Deployment", key.namespace, beat_name(key.name))
        return BeatSnapshot(
            now=now,
            namespace=key.namespace,
            broker_secret=self._brokers.secret(key.namespace, key.name),
            secret_name=key.name,
            schedules=tuple(schedules),
            task_queues=tuple(queues[name] for name in sorted({s.spec.queue for s in schedules})),
            entries=entries,
            deployment=_deployment(deployment) if deployment is not None else None,
            image=self._image,
            results_secret=self._results_of(key.namespace, {s.spec.queue for s in schedules}),
            rejections=tuple(memory.rejections.values()),
        )

    # parts

    def _decoded(self, body: Body | None, kind: type[Any]) -> Any:
        if body is None:
            return None
        metadata = body["metadata"]
        place = (kind.__name__, metadata.get("namespace", ""), metadata["name"])
        before = self._read.get(place)
        if before is not None and before[0] is body:
            return before[1]
        try:
            found: Any = decode_object(body)
        except InvalidObject as error:  # from before a rule of the schema, which refuses its next change
            logger.warning("%s %s/%s is passed over: %s", *place, error)
            found = None
        self._read[place] = body, found
        return found

    def _forget_what_is_gone(self) -> None:
        for place in [place for place in self._read if self._objects.get(*place) is None]:
            del self._read[place]

    def _of_pool(self, kind: str, key: Key) -> list[Body]:
        return [
            body
            for body in self._objects.of(kind, key.namespace)
            if (body["metadata"].get("labels") or {}).get(LABEL_POOL) == key.name
        ]

    def _task_queue(self, namespace: str, name: str) -> TaskQueue | None:
        found: TaskQueue | None = self._decoded(self._objects.get("TaskQueue", namespace, name), TaskQueue)
        return found

    def _queue_view(self, namespace: str, name: str, now: datetime) -> QueueView:
        queue = self._task_queue(namespace, name)
        if queue is None:
            missing = Unknown(reason=Reason.QUEUE_NOT_FOUND, at=now, message=f"there is no TaskQueue {name}")
            return QueueView(name=name, task_queue=None, reading=missing)
        return QueueView(name=name, task_queue=queue, reading=self._view(namespace, queue, now))

    def _view(self, namespace: str, queue: TaskQueue, now: datetime) -> Reading[QueueReading]:
        view = self._brokers.view(namespace, queue.spec.broker.secret_ref.name)
        found = view.queues.get(queue.queue_name)
        if found is not None:
            return found
        if isinstance(view.facts, Unknown):
            return view.facts
        return Unknown(reason=_NOT_YET, at=now, message="the queue has not been read yet")

    def _rivals(self, queue: TaskQueue) -> tuple[TaskQueue, ...]:
        mine = self._brokers.endpoint(*_secret_of(queue))
        namesakes = (self._decoded(body, TaskQueue) for body in self._objects.namesakes(queue.queue_name))
        return tuple(
            other
            for other in namesakes
            if other is not None
            and other.metadata.uid != queue.metadata.uid
            and mine
            and self._brokers.endpoint(*_secret_of(other)) == mine
        )

    def _neighbours(self, queue: TaskQueue) -> tuple[TaskQueue, ...]:
        """Return the others on the same broker to which one of the two names means something too."""
        mine = self._brokers.endpoint(*_secret_of(queue))
        found = {
            other.metadata.uid: other
            for name in (queue.queue_name, queue.dead_letter_name)
            for other in self._by_name.get(name, ())
        }
        return tuple(
            other
            for uid, other in found.items()
            if uid != queue.metadata.uid
            and other.metadata.deletion_timestamp is None
            and mine
            and self._brokers.endpoint(*_secret_of(other)) == mine
        )

    def _pools_of(self, namespace: str, name: str) -> tuple[WorkerPool, ...]:
        found = (
            self._decoded(body, WorkerPool)
            for body in self._objects.of("WorkerPool", namespace)
            if name in (body["spec"].get("queues") or [])
        )
        return tuple(pool for pool in found if pool is not None)

    def _pod(self, body: Body, broker: BrokerView, now: datetime) -> PodView:
        metadata, status = body["metadata"], body.get("status") or {}
        annotations = metadata.get("annotations") or {}
        container: Mapping[str, Any] = next(
            (c for c in status.get("containerStatuses") or [] if c["name"] == WORKER_CONTAINER), {}
        )
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        trouble = ""
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            trouble = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        elif ended:
            trouble = f"{ended.get('reason', 'Ended')}: exit code {ended.get('exitCode')}"
        unscheduled = _condition(status, "PodScheduled")
        if unscheduled.get("status") == "False":
            trouble = f"{unscheduled.get('reason')}: {unscheduled.get('message', '')}"
        owner: Mapping[str, Any] = next(
            (o for o in metadata.get("ownerReferences") or [] if o["kind"] == "ReplicaSet"), {}
        )
        unread: Reading[WorkerView] = Unknown(reason=_NOT_YET, at=now, message="no report has come yet")
        return PodView(
            name=metadata["name"],
            uid=metadata["uid"],
            # a Deployment names its ReplicaSets after itself, with one more part
            deployment=owner.get("name", "").rpartition("-")[0],
            created_at=_instant(metadata["creationTimestamp"]),
            phase=PodPhase(status.get("phase", "Unknown")),
            process="running" in state,
            ready=_condition(status, "Ready").get("status") == "True",
            terminating="deletionTimestamp" in metadata,
            deleted_at=_deleted_at(metadata),
            trouble=trouble,
            draining_since=_maybe_instant(annotations.get(ANNOTATION_DRAINING_SINCE)),
            deletion_cost=_number(annotations.get(ANNOTATION_DELETION_COST)),
            report=broker.reports.get(metadata["uid"], unread),
        )

    def _foreign_scalers(self, namespace: str, deployments: set[str]) -> tuple[ForeignScaler, ...]:
        found = []
        for body in self._objects.of("HorizontalPodAutoscaler", namespace):
            target = (body.get("spec") or {}).get("scaleTargetRef") or {}
            if target.get("kind") != "Deployment" or target.get("name") not in deployments:
                continue
            metadata = body["metadata"]
            # an HPA that something made, such as KEDA's ScaledObject, is that one's
            owners = metadata.get("ownerReferences") or [
                {"kind": "HorizontalPodAutoscaler", "name": metadata["name"]}
            ]
            found.append(ForeignScaler(kind=owners[0]["kind"], name=owners[0]["name"], target=target["name"]))
        return tuple(found)

    def _results_of(self, namespace: str, queues: set[str]) -> Reading[SecretView] | None:
        """Return the Secret of the first pool, by name, that works one of the queues and keeps results."""
        for body in sorted(self._objects.of("WorkerPool", namespace), key=lambda b: b["metadata"]["name"]):
            spec = body.get("spec") or {}
            if queues & set(spec.get("queues") or []) and spec.get("results"):
                return self._brokers.secret(namespace, spec["results"]["secretRef"]["name"])
        return None

    def _results_kept(self, namespace: str, queue: str) -> bool:
        return any(
            queue in (body["spec"].get("queues") or []) and body["spec"].get("results")
            for body in self._objects.of("WorkerPool", namespace)
        )


def _can_write(reading: Reading[VirtualHost] | None) -> int:
    """Return how much can be done by who has read this: nothing, queues, policies read, and written too."""
    if not isinstance(reading, Known):
        return 0
    management = reading.value.management
    if not isinstance(management, Known):
        return 1
    return 3 if management.value.may_write_policies else 2


def _secret_of(queue: TaskQueue) -> tuple[str, str]:
    return queue.metadata.namespace, queue.spec.broker.secret_ref.name


def _deployment(body: Body) -> DeploymentView:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    failure = _condition(status, "ReplicaFailure")
    return DeploymentView(
        name=metadata["name"],
        uid=metadata["uid"],
        created_at=_instant(metadata["creationTimestamp"]),
        replicas=spec.get("replicas", 1),
        pods=status.get("replicas", 0),
        settled=status.get("observedGeneration", 0) >= metadata.get("generation", 0),
        trouble=failure.get("message", "") if failure.get("status") == "True" else "",
        manifest=body,
    )


def _deleted_at(metadata: Mapping[str, Any]) -> datetime | None:
    """Return when a deletion was asked for: the timestamp is the end of the grace period."""
    end = _maybe_instant(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return None if end is None else end - grace


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or [] if c["type"] == kind), {})


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _maybe_instant(text: str | None) -> datetime | None:
    try:
        return None if text is None else _instant(text)
    except ValueError:  # somebody else wrote it
        return None


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
