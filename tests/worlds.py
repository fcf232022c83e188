"""Snapshots for the operator's decisions, and a small cluster in memory that carries plans out.

The makers build the smallest world in which a fact can be told. `Cluster` stands for what surrounds the
operator: a ReplicaSet that obeys replicas and deletion costs, workers that take tasks, drain and report, an
API server that keeps what is applied. It knows nothing of the decisions, so that its rules are a second
opinion on what they lead to.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from muster_operator.api.manifests import decode_manifest
from muster_operator.api.names import ANNOTATION_DELETION_COST, ANNOTATION_DRAINING_SINCE
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.decide.plan import plan_worker_pool
from muster_operator.model.actions import Apply, Delete, MarkPod, Plan, Scale, SendDrain, SetStatus
from muster_operator.model.history import History, RuntimeEstimate
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import (
    BrokerFacts,
    DeploymentView,
    PodPhase,
    PodView,
    QueueReading,
    QueueView,
    SecretView,
    Snapshot,
    WorkerView,
)
from resources import schedule, task_queue, worker_pool

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
REDIS = BrokerFacts(type="Redis", version="8.0.1", eviction_policy="noeviction")
SECRET = SecretView(name="broker", keys=frozenset({"url"}), hash="abcdefgh")


def seconds(count: float) -> timedelta:
    """A duration."""
    return timedelta(seconds=count)


def pool_of(name: str = "mail", *, generation: int = 1, **spec: Any) -> WorkerPool:
    """A WorkerPool as the API server holds it."""
    return _held(decode_manifest(worker_pool(name, **spec)), generation)


def queue_of(name: str = "mail", *, created_at: datetime = NOW, **spec: Any) -> TaskQueue:
    """A TaskQueue as the API server holds it."""
    queue = _held(decode_manifest(task_queue(name, **spec)), 1)
    return replace(queue, metadata=replace(queue.metadata, creation_timestamp=created_at))


def schedule_of(name: str = "report", *, created_at: datetime = NOW, **spec: Any) -> Schedule:
    """A Schedule as the API server holds it."""
    held = _held(decode_manifest(schedule(name, **spec)), 1)
    return replace(held, metadata=replace(held.metadata, creation_timestamp=created_at))


def _held(resource: Any, generation: int) -> Any:
    metadata = replace(
        resource.metadata,
        namespace="shop",
        uid=f"uid-of-{type(resource).__name__}-{resource.metadata.name}",
        generation=generation,
    )
    return replace(resource, metadata=metadata)


def known(value: Any, at: datetime = NOW) -> Known[Any]:
    """A reading of now."""
    return Known(value=value, at=at)


def unknown(reason: str = "BrokerUnreachable", at: datetime = NOW, message: str = "timed out") -> Unknown:
    """A reading that failed."""
    return Unknown(reason=reason, at=at, message=message)


def queue_view(
    name: str = "mail", *, reading: Reading[QueueReading] | None = None, at: datetime = NOW, **figures: Any
) -> QueueView:
    """A TaskQueue with figures, all 0 but for those given."""
    value = Known(value=QueueReading(**({"ready": 0} | figures)), at=at)
    return QueueView(name=name, task_queue=queue_of(name), reading=reading or value)


def worker(**fields: Any) -> WorkerView:
    """An idle worker with one slot."""
    return WorkerView(**({"slots": 1, "busy": 0} | fields))


def pod(name: str = "a", *, report: Reading[WorkerView] | None = None, **fields: Any) -> PodView:
    """A ready pod of Deployment `mail-1` whose worker is idle."""
    values: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "deployment": "mail-1",
        "created_at": NOW - timedelta(hours=1),
        "ready": True,
        "report": report or known(worker()),
    }
    return PodView(**(values | fields))


def pending(name: str = "p", **fields: Any) -> PodView:
    """A pod that waits for a node."""
    values = {"phase": PodPhase.PENDING, "process": False, "ready": False}
    return pod(name, report=unknown("NotObservedYet"), **(values | fields))


def deployment(name: str = "mail-1", replicas: int = 0, **fields: Any) -> DeploymentView:
    """A Deployment whose pods are all there."""
    values = {"created_at": NOW - timedelta(hours=1), "pods": replicas, "uid": f"uid-{name}"}
    return DeploymentView(name=name, replicas=replicas, **(values | fields))


def snapshot(pool: WorkerPool | None = None, **fields: Any) -> Snapshot:
    """A pool that nothing has been done for yet, on a Redis that answers, with an empty queue."""
    values: dict[str, Any] = {
        "now": NOW,
        "pool": pool or pool_of(),
        "queues": (queue_view(),),
        "broker": known(REDIS),
        "broker_secret": known(SECRET),
    }
    return Snapshot(**(values | fields))


@dataclass
class SimPod:
    """A pod and its worker."""

    name: str
    deployment: str
    created_at: datetime
    phase: PodPhase = PodPhase.PENDING
    process: bool = False
    ready: bool = False
    draining: bool = False
    tasks: list[datetime] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    report: Reading[WorkerView] = field(default_factory=lambda: unknown("NotObservedYet"))


class Cluster:
    """What surrounds the operator, with one WorkerPool in it. `busy_killed` and `lowered` are asserted."""

    def __init__(self, pool: WorkerPool, *, slots: int = 1) -> None:
        self.pool, self.slots, self.now = pool, slots, NOW
        self.deployments: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, SimPod] = {}
        self.budget: Mapping[str, Any] | None = None
        self.ready = 0
        self.broker_up = True
        self.down_since = NOW
        self.history, self.runtime = History(), RuntimeEstimate()
        self.status_written_at: datetime | None = None
        self.status_writes = 0
        self.busy_killed: list[str] = []
        self.lowered: list[tuple[int, int]] = []
        self._numbers = itertools.count(1)

    # what the operator sees and does

    def snapshot(self) -> Snapshot:
        """What the operator would see now."""
        reading: Reading[QueueReading] = Known(value=self._figures(), at=self.now)
        broker: Reading[BrokerFacts] = Known(value=REDIS, at=self.now)
        if not self.broker_up:
            reading = broker = unknown(at=self.down_since)
        return Snapshot(
            now=self.now,
            pool=self.pool,
            queues=(QueueView(name="mail", task_queue=queue_of(), reading=reading),),
            broker=broker,
            broker_secret=Known(value=SECRET, at=self.now),
            pods=tuple(self._view(each) for each in self.pods.values()),
            deployments=tuple(
                DeploymentView(
                    name=name,
                    uid=f"uid-{name}",
                    created_at=each["created_at"],
                    replicas=each["replicas"],
                    pods=sum(pod.deployment == name for pod in self.pods.values()),
                    manifest=each["manifest"],
                )
                for name, each in self.deployments.items()
            ),
            budget=self.budget,
            history=self.history,
            runtime=self.runtime,
            status_written_at=self.status_written_at,
        )

    def operate(self) -> Plan:
        """One pass of the operator."""
        plan = plan_worker_pool(self.snapshot())
        self.history, self.runtime = plan.history, plan.runtime
        for action in plan.actions:
            self._carry_out(action)
        self._replica_sets()
        return plan

    def restart_operator(self) -> None:
        """The operator forgets what it kept in memory."""
        self.history, self.runtime, self.status_written_at = History(), RuntimeEstimate(), None

    def _carry_out(self, action: Any) -> None:
        match action:
            case Apply(manifest=manifest) if manifest["kind"] == "Deployment":
                name = manifest["metadata"]["name"]
                held = self.deployments.setdefault(name, {"created_at": self.now})
                held |= {"manifest": manifest, "replicas": manifest["spec"]["replicas"]}
            case Apply(manifest=manifest):
                self.budget = manifest
            case Scale(deployment=name, replicas=replicas):
                self.lowered.append((self.deployments[name]["replicas"], replicas))
                self.deployments[name]["replicas"] = replicas
            case MarkPod(pod=name, annotations=annotations):
                if name in self.pods:
                    self.pods[name].annotations = dict(annotations)
            case SendDrain(worker=uid):
                for each in self.pods.values():
                    if f"uid-{each.name}" == uid and each.process and self.broker_up:
                        each.draining = True
            case Delete(kind="Pod", name=name):
                self._kill(name)
            case Delete(kind="Deployment", name=name):
                assert not any(each.deployment == name for each in self.pods.values())
                del self.deployments[name]
            case SetStatus(status=status):
                self.pool = replace(self.pool, status=status)
                self.status_written_at = self.now
                self.status_writes += 1
            case _:
                pass

    # Kubernetes

    def _replica_sets(self) -> None:
        for name, held in self.deployments.items():
            mine = [each for each in self.pods.values() if each.deployment == name]
            for _ in range(held["replicas"] - len(mine)):
                new = f"{name}-{next(self._numbers)}"
                self.pods[new] = SimPod(name=new, deployment=name, created_at=self.now)
            mine.sort(
                key=lambda each: (
                    each.phase is not PodPhase.PENDING,
                    each.ready,
                    int(each.annotations.get(ANNOTATION_DELETION_COST, "0")),
                    -each.created_at.timestamp(),
                )
            )
            for each in mine[: max(0, len(mine) - held["replicas"])]:
                self._kill(each.name)

    def _kill(self, name: str) -> None:
        gone = self.pods.pop(name, None)
        if gone is not None and gone.tasks:
            self.busy_killed.append(name)

    # workers

    def start_pods(self) -> None:
        """All pods get a node, start, and report."""
        for each in self.pods.values():
            if each.phase is PodPhase.PENDING:
                each.phase, each.process, each.ready = PodPhase.RUNNING, True, True

    def pass_time(self, elapsed: float) -> None:
        """Workers take tasks, drain and report."""
        self.now += seconds(elapsed)
        for each in self.pods.values():
            if not each.process:
                continue
            free = 0 if each.draining or not self.broker_up else self.slots - len(each.tasks)
            taken = min(free, self.ready)
            each.tasks += [self.now] * taken
            self.ready -= taken
            each.ready = not each.draining
            if self.broker_up:
                each.report = Known(value=self._worker(each), at=self.now)

    def end_tasks(self, count: int) -> None:
        """That many running tasks end, the oldest first."""
        running = sorted((start, each.name) for each in self.pods.values() for start in each.tasks)
        for start, name in running[:count]:
            self.pods[name].tasks.remove(start)

    def break_broker(self) -> None:
        """The broker stops answering."""
        self.broker_up, self.down_since = False, self.now

    def settle(self, passes: int = 200, *, step: float = 2) -> None:
        """Let time pass with everything healthy and every task ending, for so many passes."""
        self.broker_up = True
        for _ in range(passes):
            self.start_pods()
            self.pass_time(step)
            self.end_tasks(len(self.pods) * self.slots)
            self.operate()

    def _worker(self, each: SimPod) -> WorkerView:
        return WorkerView(
            slots=self.slots,
            busy=len(each.tasks),
            oldest_start_at=min(each.tasks, default=None),
            draining=each.draining,
            drained=each.draining and not each.tasks,
            ready=not each.draining,
        )

    def _figures(self) -> QueueReading:
        running = sum(len(each.tasks) for each in self.pods.values())
        return QueueReading(ready=self.ready, running=running)

    def _view(self, each: SimPod) -> PodView:
        since = each.annotations.get(ANNOTATION_DRAINING_SINCE)
        return PodView(
            name=each.name,
            uid=f"uid-{each.name}",
            deployment=each.deployment,
            created_at=each.created_at,
            phase=each.phase,
            process=each.process,
            ready=each.ready,
            draining_since=datetime.fromisoformat(since) if since else None,
            deletion_cost=int(each.annotations.get(ANNOTATION_DELETION_COST, "0")),
            report=each.report,
        )
