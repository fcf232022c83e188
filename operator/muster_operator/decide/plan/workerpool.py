"""The plan for a WorkerPool: which Deployments there are, how large, who leaves, and what its status says.

The order of the branches is the policy: a pool that cannot be built as its spec says keeps the workers that
it has and goes on being sized; a version that the API server refuses leaves the one before in charge;
something foreign that scales our Deployments makes us keep our hands off every number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from muster_operator.api.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAINING_SINCE,
    pool_labels,
    selector,
)
from muster_operator.api.workerpool import LastDecision, ScalingMode, WorkerPoolStatus
from muster_operator.decide import runtime
from muster_operator.decide.conditions import workerpool as pool_conditions
from muster_operator.decide.drain import DELETION_COST, is_active, is_leaving
from muster_operator.decide.load import QUEUE_MAX_AGE, REPORT_MAX_AGE, fresh_reports, needed_slots
from muster_operator.decide.scaling import Reason, Target, target
from muster_operator.decide.slots import slots_per_worker
from muster_operator.decide.status import merge_conditions, rounded, rounded_age, write
from muster_operator.decide.versions import Steps, size_versions
from muster_operator.desired.deployment import WorkerVersion, worker_version
from muster_operator.desired.difference import is_as_wanted
from muster_operator.desired.pdb import pod_disruption_budget
from muster_operator.model.actions import (
    Action,
    Apply,
    BrokerAddress,
    Delete,
    Emit,
    EventType,
    MarkPod,
    Plan,
    Scale,
    SendDrain,
    SetStatus,
)
from muster_operator.model.history import RuntimeEstimate
from muster_operator.model.readings import Known, fresh
from muster_operator.model.world import PodView, Rejection, Snapshot, WorkerView

from .common import RETRY_AFTER, earliest, may_try, rejection_of, timestamp, warnings

KIND = "WorkerPool"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All that a pass concluded of a pool, before it becomes actions."""

    target: Target
    steps: Steps
    version: WorkerVersion | None
    """None when the pool cannot be built as its spec says, for `problem`."""
    problem: pool_conditions.Problem | None
    rejection: Rejection | None
    current: str | None
    """The Deployment that carries the pool; None when there is none and can be none."""
    runtime: RuntimeEstimate


def decide_worker_pool(seen: Snapshot) -> Decision:
    """Return what the snapshot leads to."""
    spec, now = seen.pool.spec, seen.now
    problem = pool_conditions.declared_problem(seen)
    version = _version(seen) if problem is None else None
    rejection = rejection_of(version.manifest, seen.rejections) if version else None
    estimate = runtime.fold(seen.runtime, _workers(seen), now)
    load = needed_slots(
        seen.queues,
        seen.pods,
        runtime_seconds=estimate.seconds,
        latency=spec.scaling.target.latency,
        now=now,
    )
    decided = target(
        spec,
        load,
        slots_per_worker=slots_per_worker(spec, fresh_reports(seen.pods, now)),
        size=_size(seen),
        foreign_scaler=bool(seen.foreign_scalers),
        history=seen.history,
        now=now,
    )
    current = _current(seen, version, rejection)
    steps = Steps()
    if current is not None and not seen.foreign_scalers:
        steps = size_versions(
            current=current,
            deployments=seen.deployments,
            pods=seen.pods,
            replicas=decided.replicas,
            most=spec.scaling.max_replicas if spec.scaling.mode is ScalingMode.MANAGED else None,
            may_shrink=decided.may_shrink,
            now=now,
        )
    return Decision(
        target=decided,
        steps=steps,
        version=version,
        problem=problem,
        rejection=rejection,
        current=current,
        runtime=estimate,
    )


def plan_worker_pool(seen: Snapshot) -> Plan:
    """Return what to do for the pool now. A pool that is being deleted takes its children with it."""
    if seen.pool.metadata.deletion_timestamp is not None:
        return Plan(history=seen.history, runtime=seen.runtime)
    decision = decide_worker_pool(seen)
    status = _status(seen, decision)
    written = write(seen.pool.status, status, written_at=seen.status_written_at, now=seen.now)
    actions: list[Action] = [
        *_growing(seen, decision),
        *_leaving(seen, decision.steps),
        *_shrinking(seen, decision),
        *_budget(seen, decision),
    ]
    if written.status is not None:
        actions += _events(seen, status)
        actions.append(SetStatus(kind=KIND, metadata=seen.pool.metadata, status=written.status))
    retry_at = decision.rejection.at + RETRY_AFTER if decision.rejection else None
    return Plan(
        actions=tuple(actions),
        requeue_at=earliest(decision.target.changes_at, written.due_at, retry_at),
        history=decision.target.history,
        runtime=decision.runtime,
    )


def _version(seen: Snapshot) -> WorkerVersion | None:
    broker, results = seen.broker_secret, seen.results_secret
    queues = [queue.task_queue for queue in seen.queues if queue.task_queue is not None]
    if not isinstance(broker, Known) or not (results is None or isinstance(results, Known)):
        return None
    return worker_version(
        seen.pool, queues, broker=broker.value, results=results.value if results is not None else None
    )


def _workers(seen: Snapshot) -> dict[str, WorkerView]:
    return {pod.uid: pod.report.value for pod in seen.pods if isinstance(pod.report, Known)}


def _size(seen: Snapshot) -> int:
    """Return the size asked for so far; before the first status and under a foreign scaler, what there is."""
    if seen.pool.status.desired is not None and not seen.foreign_scalers:
        return seen.pool.status.desired
    asked = sum(deployment.replicas for deployment in seen.deployments)
    if seen.foreign_scalers:
        return asked
    return max(0, asked - sum(1 for pod in seen.pods if is_active(pod) and is_leaving(pod)))


def _current(seen: Snapshot, version: WorkerVersion | None, rejection: Rejection | None) -> str | None:
    """Return the Deployment that new workers belong to: the spec's own, or the newest if that cannot be."""
    names = {deployment.name for deployment in seen.deployments}
    if version is not None and (version.name in names or rejection is None):
        return version.name
    if not seen.deployments:
        return version.name if version is not None and may_try(rejection, seen.now) else None
    known = seen.pool.status.deployment
    return max(seen.deployments, key=lambda each: (each.name == known, each.created_at, each.name)).name


def _growing(seen: Snapshot, decision: Decision) -> list[Action]:
    """Create or mend the current Deployment, and raise replicas."""
    actions: list[Action] = []
    there = {deployment.name: deployment for deployment in seen.deployments}
    version, sizes = decision.version, decision.steps.replicas
    applied = None
    if version is not None and may_try(decision.rejection, seen.now):
        existing = there.get(version.name)
        hands_off = bool(seen.foreign_scalers)
        if existing is None and version.name in sizes:
            actions.append(Apply(manifest=version.with_replicas(sizes[version.name])))
            applied = version.name
        elif existing is not None and not is_as_wanted(version.manifest, existing.manifest):
            size = existing.replicas if hands_off else max(existing.replicas, sizes[version.name])
            actions.append(Apply(manifest=version.with_replicas(size)))
            applied = version.name
    for name, size in sorted(sizes.items()):
        if name in there and name != applied and size > there[name].replicas:
            actions.append(_scale(seen, name, size, down=False))
    return actions


def _leaving(seen: Snapshot, steps: Steps) -> list[Action]:
    """Mark those who leave, and tell them."""
    pool = seen.pool.metadata
    chosen_now = {ANNOTATION_DRAINING_SINCE: timestamp(seen.now)}
    actions: list[Action] = [_mark(seen, pod, chosen_now) for pod in steps.choose]
    for pod in steps.mark:
        since = timestamp(pod.draining_since or seen.now)
        marks = {ANNOTATION_DRAINING_SINCE: since, ANNOTATION_DELETION_COST: str(DELETION_COST)}
        actions.append(_mark(seen, pod, marks))
    address = _broker(seen)
    if address is not None:
        name = f"{pool.namespace}/{pool.name}"
        actions += [SendDrain(broker=address, pool=name, worker=pod.uid) for pod in steps.tell]
        actions += [SendDrain(broker=address, pool=name, worker=pod.uid, leave=True) for pod in steps.dismiss]
    return actions


def _shrinking(seen: Snapshot, decision: Decision) -> list[Action]:
    """Take away what is proven to do nothing."""
    there = {deployment.name: deployment for deployment in seen.deployments}
    namespace = seen.pool.metadata.namespace
    actions: list[Action] = [
        _scale(seen, name, size, down=True)
        for name, size in sorted(decision.steps.replicas.items())
        if name in there and size < there[name].replicas
    ]
    actions += [
        Delete(api_version="v1", kind="Pod", namespace=namespace, name=pod.name, uid=pod.uid)
        for pod in decision.steps.replace
    ]
    actions += [
        Delete(api_version="apps/v1", kind="Deployment", namespace=namespace, name=each.name, uid=each.uid)
        for each in decision.steps.finished
    ]
    return actions


def _budget(seen: Snapshot, decision: Decision) -> list[Action]:
    if decision.current is None:
        return []
    wanted = pod_disruption_budget(seen.pool)
    if not may_try(rejection_of(wanted, seen.rejections), seen.now):
        return []
    if seen.budget is not None and is_as_wanted(wanted, seen.budget):
        return []
    return [Apply(manifest=wanted)]


def _scale(seen: Snapshot, deployment: str, replicas: int, *, down: bool) -> Scale:
    namespace = seen.pool.metadata.namespace
    return Scale(namespace=namespace, deployment=deployment, replicas=replicas, down=down)


def _mark(seen: Snapshot, pod: PodView, annotations: dict[str, str]) -> MarkPod:
    namespace = seen.pool.metadata.namespace
    return MarkPod(namespace=namespace, pod=pod.name, uid=pod.uid, annotations=annotations)


def _broker(seen: Snapshot) -> BrokerAddress | None:
    for queue in seen.queues:
        if queue.task_queue is not None:
            secret = queue.task_queue.spec.broker.secret_ref.name
            return BrokerAddress(namespace=seen.pool.metadata.namespace, secret=secret)
    return None


def _status(seen: Snapshot, decision: Decision) -> WorkerPoolStatus:
    old, decided, now = seen.pool.status, decision.target, seen.now
    generation = seen.pool.metadata.generation
    active = [pod for pod in seen.pods if is_active(pod)]
    found = pool_conditions.for_pool(
        seen,
        decided,
        problem=decision.problem,
        rejection=decision.rejection,
        refusals=decision.version.refusals if decision.version else (),
    )
    status = WorkerPoolStatus(
        observed_generation=generation,
        conditions=merge_conditions(old.conditions, found, generation=generation, now=now),
        replicas=len(active),
        selector=selector(pool_labels(seen.pool.metadata.name)),
        desired=decided.replicas,
        ready=pool_conditions.taking_tasks(seen.pods),
        deployment=decision.current,
        last_decision=_last_decision(old, decided, _size(seen), now),
    )
    return _with_figures(status, seen, active)


def _with_figures(status: WorkerPoolStatus, seen: Snapshot, active: Sequence[PodView]) -> WorkerPoolStatus:
    """Return the status with its figures; one of which a part could not be read is left out."""
    reports = [fresh(pod.report, seen.now, REPORT_MAX_AGE) for pod in active if pod.ready or is_leaving(pod)]
    heard = [report.value for report in reports if isinstance(report, Known)]
    if len(heard) == len(reports):
        status = replace(
            status,
            busy=rounded(sum(worker.busy for worker in heard)),
            slots=rounded(sum(worker.slots for worker in heard if not worker.draining)),
        )
    readings = [fresh(queue.reading, seen.now, QUEUE_MAX_AGE) for queue in seen.queues]
    queues = [reading.value for reading in readings if isinstance(reading, Known)]
    if len(queues) < len(readings):
        return status
    ages = [queue for queue in queues if queue.oldest_age_seconds is not None]
    oldest = max(ages, key=lambda queue: queue.oldest_age_seconds or 0.0, default=None)
    return replace(
        status,
        depth=rounded(sum(queue.ready for queue in queues)),
        in_flight=rounded(sum(queue.claimed + queue.running for queue in queues)),
        oldest_age=rounded_age(oldest.oldest_age_seconds) if oldest else None,
        oldest_age_source=oldest.oldest_age_source if oldest else None,
    )


def _last_decision(old: WorkerPoolStatus, decided: Target, size: int, now: datetime) -> LastDecision | None:
    before = size if old.desired is None else old.desired
    if decided.replicas == before:
        return old.last_decision
    return LastDecision(
        from_=before, to=decided.replicas, reason=str(decided.reason), inputs=dict(decided.inputs), time=now
    )


def _events(seen: Snapshot, status: WorkerPoolStatus) -> list[Action]:
    metadata, old = seen.pool.metadata, seen.pool.status
    events: list[Action] = [*warnings(KIND, metadata, old.conditions, status.conditions)]
    decision = status.last_decision
    if decision is not None and decision != old.last_decision and decision.reason != Reason.SCALING_CONFLICT:
        inputs = ", ".join(f"{key} {value}" for key, value in decision.inputs.items())
        events.append(
            Emit(
                kind=KIND,
                metadata=metadata,
                type=EventType.NORMAL,
                reason="ScaledUp" if decision.to > decision.from_ else "ScaledDown",
                message=f"from {decision.from_} to {decision.to} workers: {decision.reason}"
                + (f" ({inputs})" if inputs else ""),
            )
        )
    return events
