"""Deployments whose pods are processes of this computer: what controllers and the kubelet do in a cluster.

`dev.session` hands over what the plans say and calls `sync` on every pass. Replicas become processes with the
environment of the pod template; a process that ends is started again, later each time; surplus ones go in the
order of a ReplicaSet, by SIGTERM and, when the grace period is over, by SIGKILL. Why a size is what it is,
this module does not know.
"""

import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from muster_operator.api.names import (
    ANNOTATION_DELETION_COST,
    BEAT_CONTAINER,
    LABEL_POOL,
    LABEL_ROLE,
    ROLE_BEAT,
    ROLE_WORKER,
    WORKER_CONTAINER,
)
from muster_operator.decide.drain import is_active, replica_set_order
from muster_operator.model.readings import Unknown
from muster_operator.model.world import PodPhase, PodView

from .container import ContainerError, Surroundings, command, environment
from .manifests import Key
from .probe import Probe
from .processes import Keeper, Process, ended_how, last_line

FIRST_RESTART: Final = timedelta(seconds=0.5)
LAST_RESTART: Final = timedelta(seconds=30)
DEFAULT_GRACE_SECONDS: Final = 30
"""Kubernetes' own."""
HEALTHY_AFTER: Final = timedelta(seconds=60)
"""A process that ran for so long has left earlier failures behind."""


def restart_delay(failures: int) -> timedelta:
    """Return how long to wait before the next start, after so many ends in a row: twice as long each time."""
    factor: int = 2 ** min(failures - 1, 16)
    return min(LAST_RESTART, FIRST_RESTART * factor)


def surplus(pods: Iterable[PodView], replicas: int) -> list[str]:
    """Return the names of the pods that a ReplicaSet of this size deletes, first the first to go."""
    active = [pod for pod in pods if is_active(pod)]
    return [pod.name for pod in replica_set_order(active)[: max(0, len(active) - replicas)]]


@dataclass
class _Pod:
    name: str
    uid: str
    deployment: Key
    pool: Key | None
    """None: it is beat's."""
    created_at: datetime
    grace: timedelta
    """Between SIGTERM and SIGKILL."""
    log: Path
    annotations: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    probe: Probe | None = None
    started_at: datetime | None = None
    start_at: datetime | None = None
    """Not before then; None: at once."""
    failures: int = 0
    trouble: str = ""
    kill_at: datetime | None = None
    """Set while it terminates."""


@dataclass
class _Deployment:
    name: str
    uid: str
    created_at: datetime
    manifest: dict[str, Any]
    replicas: int

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.manifest["metadata"].get("labels") or {}
        return labels

    @property
    def pod(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.manifest["spec"]["template"]["spec"]
        return spec


class Pods:
    """All Deployments of this computer and their pods."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        logs: Path,
        base_environment: Mapping[str, str],
        secrets: Callable[[str], Mapping[str, Mapping[str, str]]],
        secret_folders: Callable[[str], Mapping[str, str]],
    ) -> None:
        """`base_environment` lies under that of each container; the other two answer for a namespace."""
        self._keeper = keeper
        self._logs = logs
        self._base = dict(base_environment)
        self._secrets = secrets
        self._secret_folders = secret_folders
        self._deployments: dict[Key, _Deployment] = {}
        self._pods: dict[Key, _Pod] = {}
        self._numbers: dict[Key, int] = {}
        self._ended: dict[Key, int] = {}
        self._events: list[str] = []

    # what plans ask for

    def apply(self, manifest: Mapping[str, Any], now: datetime) -> None:
        """Create a Deployment, or let it be as the manifest says."""
        key = _key_of(manifest)
        replicas = int(manifest["spec"].get("replicas", 1))
        known = self._deployments.get(key)
        if known is None:
            self._deployments[key] = _Deployment(
                name=key[1],
                uid=str(uuid.uuid4()),
                created_at=now,
                manifest=dict(manifest),
                replicas=replicas,
            )
        else:
            known.manifest, known.replicas = dict(manifest), replicas

    def scale(self, deployment: Key, replicas: int) -> None:
        """Set the replicas of a Deployment, if there is one."""
        if deployment in self._deployments:
            self._deployments[deployment].replicas = replicas

    def mark(self, pod: Key, uid: str, annotations: Mapping[str, str]) -> None:
        """Replace a pod's annotations, if it still is the one."""
        found = self._pods.get(pod)
        if found is not None and found.uid == uid:
            found.annotations = dict(annotations)

    def delete_pod(self, pod: Key, uid: str, now: datetime) -> None:
        """Let a pod go, if it still is the one."""
        found = self._pods.get(pod)
        if found is not None and uid in {"", found.uid}:
            self._let_go(found, now)

    def delete_deployment(self, deployment: Key, now: datetime) -> None:
        """Remove a Deployment; its pods go."""
        if self._deployments.pop(deployment, None) is not None:
            for pod in self._pods.values():
                if pod.deployment == deployment:
                    self._let_go(pod, now)

    # what is

    def objects(self) -> dict[str, list[dict[str, Any]]]:
        """Return every Deployment and Pod, by kind, as the API server of a cluster would show it."""
        return {
            "Deployment": [self._deployment_object(key) for key in self._deployments],
            "Pod": [_pod_object(pod) for pod in self._pods.values()],
        }

    def ended_tasks(self, namespace: str, pool: str) -> int:
        """Return how many tasks the pool's workers are done with, since the start of all this."""
        present = (
            pod.probe.ended
            for pod in self._pods.values()
            if pod.probe is not None and pod.pool == (namespace, pool)
        )
        return self._ended.get((namespace, pool), 0) + sum(present)

    def running(self) -> int:
        """Return how many processes there are."""
        return sum(pod.process is not None for pod in self._pods.values())

    def troubles(self) -> tuple[str, ...]:
        """Return what is wrong with pods now, each in a line that names the log."""
        return tuple(
            f"{pod.name}: {pod.trouble}; log: {pod.log}" for pod in self._pods.values() if pod.trouble
        )

    def take_events(self) -> list[str]:
        """Return what has happened since the last call, a line each."""
        events, self._events = self._events, []
        return events

    # what is done

    def sync(self, now: datetime) -> None:
        """Bring the processes to what the Deployments say."""
        for pod in list(self._pods.values()):
            self._look_after(pod, now)
        for key, deployment in self._deployments.items():
            views = [_view(pod) for pod in self._pods.values() if pod.deployment == key]
            for name in surplus(views, deployment.replicas):
                self._let_go(self._pods[key[0], name], now)
            missing = deployment.replicas - sum(is_active(view) for view in views)
            for _ in range(missing):
                self._start(self._new_pod(key, now), now)

    def end_all(self) -> None:
        """End every process at once: what ran comes back when its lease ends."""
        for pod in self._pods.values():
            if pod.process is not None:
                pod.process.kill()
            self._forget_process(pod)
        self._pods.clear()
        self._deployments.clear()

    def _deployment_object(self, key: Key) -> dict[str, Any]:
        deployment = self._deployments[key]
        manifest = deployment.manifest
        return {
            **manifest,
            "metadata": {
                **manifest["metadata"],
                "uid": deployment.uid,
                "generation": 1,
                "creationTimestamp": deployment.created_at.isoformat(),
            },
            "spec": {**manifest["spec"], "replicas": deployment.replicas},
            "status": {
                "observedGeneration": 1,
                "replicas": sum(pod.deployment == key and pod.kill_at is None for pod in self._pods.values()),
            },
        }

    def _look_after(self, pod: _Pod, now: datetime) -> None:
        code = pod.process.exit_code() if pod.process is not None else None
        if pod.process is not None and code is None:
            if pod.kill_at is not None and now >= pod.kill_at:
                self._events.append(f"{pod.name}: killed, since its grace period is over; log: {pod.log}")
                pod.process.kill()
            elif pod.failures and pod.started_at and now - pod.started_at > HEALTHY_AFTER:
                pod.failures = 0
            if pod.probe is not None and pod.probe.ready:
                pod.trouble = ""
            return
        if code is not None:
            self._forget_process(pod)
        if pod.kill_at is not None or pod.deployment not in self._deployments:
            del self._pods[pod.deployment[0], pod.name]
            return
        if code is not None:
            pod.failures += 1
            pod.start_at = now + restart_delay(pod.failures)
            said = last_line(pod.log)
            self._note(pod, ended_how(code) + (f" ({said})" if said and code > 0 else ""))
        if pod.start_at is None or now >= pod.start_at:
            self._start(pod, now)

    def _new_pod(self, deployment: Key, now: datetime) -> _Pod:
        number = self._numbers[deployment] = self._numbers.get(deployment, 0) + 1
        name = f"{deployment[1]}-{number}"
        labels, template = self._deployments[deployment].labels, self._deployments[deployment].pod
        pod = _Pod(
            name=name,
            uid=str(uuid.uuid4()),
            deployment=deployment,
            pool=(deployment[0], labels[LABEL_POOL]) if labels.get(LABEL_ROLE) == ROLE_WORKER else None,
            created_at=now,
            grace=timedelta(
                seconds=int(template.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))
            ),
            log=self._logs / f"{name}.log",
        )
        self._pods[deployment[0], name] = pod
        return pod

    def _start(self, pod: _Pod, now: datetime) -> None:
        deployment = self._deployments[pod.deployment]
        container = deployment.pod["containers"][0]
        namespace = pod.deployment[0]
        address = f"127.0.0.1:{_free_port()}"
        around = Surroundings(
            secrets=self._secrets(namespace),
            secret_folders=self._secret_folders(namespace),
            fields={
                "metadata.uid": pod.uid,
                "metadata.name": pod.name,
                "metadata.namespace": namespace,
            },
            metrics_address=address,
        )
        try:
            variables = environment(container, list(deployment.pod.get("volumes") or ()), around)
            pod.process = self._keeper.start(
                command(container), environment={**self._base, **variables}, log=pod.log
            )
        except (ContainerError, OSError) as error:
            pod.failures += 1
            pod.start_at = now + restart_delay(pod.failures)
            self._note(pod, str(error))
            return
        pod.started_at = now
        pod.probe = Probe(address)

    def _note(self, pod: _Pod, trouble: str) -> None:
        """Keep what is wrong, and tell it once."""
        if pod.trouble != trouble:
            self._events.append(f"{pod.name}: {trouble}; it is started again; log: {pod.log}")
        pod.trouble = trouble

    def _let_go(self, pod: _Pod, now: datetime) -> None:
        if pod.kill_at is not None:
            return
        pod.kill_at = now + pod.grace
        if pod.process is not None:
            pod.process.terminate()

    def _forget_process(self, pod: _Pod) -> None:
        if pod.probe is not None:
            pod.probe.stop()
            if pod.pool is not None:
                self._ended[pod.pool] = self._ended.get(pod.pool, 0) + pod.probe.ended
        pod.process = pod.probe = None


def _view(pod: _Pod) -> PodView:
    """Return what a ReplicaSet looks at; what the worker says of itself is none of that."""
    return PodView(
        name=pod.name,
        uid=pod.uid,
        deployment=pod.deployment[1],
        created_at=pod.created_at,
        phase=PodPhase.PENDING if pod.started_at is None else PodPhase.RUNNING,
        process=pod.process is not None,
        ready=_is_ready(pod),
        terminating=pod.kill_at is not None,
        deletion_cost=int(pod.annotations.get(ANNOTATION_DELETION_COST, "0")),
        report=Unknown(reason="NotObservedYet", at=pod.created_at),
    )


def _is_ready(pod: _Pod) -> bool:
    return pod.probe is not None and pod.probe.ready and pod.kill_at is None


def _pod_object(pod: _Pod) -> dict[str, Any]:
    state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
    if pod.process is not None and pod.started_at is not None:
        state = {"running": {"startedAt": pod.started_at.isoformat()}}
    elif pod.trouble:
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": pod.trouble}}
    role = ROLE_BEAT if pod.pool is None else ROLE_WORKER
    metadata: dict[str, Any] = {
        "name": pod.name,
        "namespace": pod.deployment[0],
        "uid": pod.uid,
        "creationTimestamp": pod.created_at.isoformat(),
        "labels": {LABEL_ROLE: role} | ({LABEL_POOL: pod.pool[1]} if pod.pool is not None else {}),
        "annotations": dict(pod.annotations),
        # no ReplicaSet stands between here; its name would be the Deployment's with one more part
        "ownerReferences": [{"kind": "ReplicaSet", "name": f"{pod.deployment[1]}-1"}],
    }
    if pod.kill_at is not None:
        metadata["deletionTimestamp"] = pod.kill_at.isoformat()
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "status": {
            "phase": "Pending" if pod.started_at is None else "Running",
            "conditions": [{"type": "Ready", "status": "True" if _is_ready(pod) else "False"}],
            "containerStatuses": [{"name": WORKER_CONTAINER if pod.pool else BEAT_CONTAINER, "state": state}],
        },
    }


def _key_of(manifest: Mapping[str, Any]) -> Key:
    metadata = manifest["metadata"]
    return str(metadata["namespace"]), str(metadata["name"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
