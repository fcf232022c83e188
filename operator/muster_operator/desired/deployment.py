"""The Deployment of one version of a pool.

`decide.plan` builds it on every pass and compares it with what stands in the cluster. Its name holds the hash
of what the pod is made of: another template is another Deployment, so two versions stand side by side, the
old one is drained worker by worker (`decide.versions`), and Kubernetes' own rolling update, which would stop
busy workers, never runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from muster_operator.api.names import (
    ANNOTATION_SECRET_HASH,
    LABEL_HASH,
    ROLE_WORKER,
    WORKER_CONTAINER,
    child_name,
    content_hash,
    pool_labels,
)
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.model.world import SecretView

from .env import BROKER_CA_DIRECTORY, RESULTS_CA_DIRECTORY, worker_env
from .metadata import common_labels, owner_reference, stamped
from .pod import certificates, container_security, metrics_ports, pod_security, probes, scratch
from .template import Refusal, merge_template

Json = dict[str, Any]

_SECOND = timedelta(seconds=1)
GRACE_MARGIN_SECONDS = 15
"""Between the end of the drain timeout and SIGKILL: to hand messages back and say goodbye."""


@dataclass(frozen=True, kw_only=True)
class WorkerVersion:
    """One version of a pool: its Deployment without replicas, and what of the user's template is left out."""

    name: str
    manifest: Json
    refusals: tuple[Refusal, ...]

    def with_replicas(self, replicas: int) -> Json:
        """Return the manifest with the number of replicas, which every apply carries.

        Without it the first apply would start one pod, and the field would go back to 1 whenever no other
        manager holds it.
        """
        return {**self.manifest, "spec": {**self.manifest["spec"], "replicas": replicas}}


def worker_version(
    pool: WorkerPool, queues: Sequence[TaskQueue], *, broker: SecretView, results: SecretView | None
) -> WorkerVersion:
    """Return the version of the pool that its spec, its queues and its Secrets make."""
    template, refusals = merge_template(
        _template(pool, queues, broker=broker, results=results), pool.spec.template
    )
    name = child_name(pool.metadata.name, template)
    mark = content_hash(template)
    labels = {**pool_labels(pool.metadata.name), LABEL_HASH: mark}
    template["metadata"]["labels"] = {**template["metadata"]["labels"], **labels}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": pool.metadata.namespace,
            "labels": {**common_labels(instance=pool.metadata.name, component=ROLE_WORKER), **labels},
            "ownerReferences": [owner_reference("WorkerPool", pool.metadata, controller=True)],
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
            "revisionHistoryLimit": 0,
            "template": template,
        },
    }
    return WorkerVersion(name=name, manifest=stamped(manifest), refusals=refusals)


def _template(
    pool: WorkerPool, queues: Sequence[TaskQueue], *, broker: SecretView, results: SecretView | None
) -> Json:
    volumes, mounts = scratch()
    for name, secret, directory in (
        ("broker-ca", broker, BROKER_CA_DIRECTORY),
        ("results-ca", results, RESULTS_CA_DIRECTORY),
    ):
        more_volumes, more_mounts = certificates(name, secret, directory)
        volumes += more_volumes
        mounts += more_mounts
    secrets = {"broker": broker.hash} | ({"results": results.hash} if results else {})
    return {
        "metadata": {
            "labels": common_labels(instance=pool.metadata.name, component=ROLE_WORKER),
            "annotations": {ANNOTATION_SECRET_HASH: content_hash(secrets)},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Always",
            "securityContext": pod_security(),
            "terminationGracePeriodSeconds": grace_seconds(pool),
            "containers": [
                {
                    "name": WORKER_CONTAINER,
                    "image": pool.spec.image,
                    "args": ["worker"],
                    "env": worker_env(pool, queues, broker=broker, results=results),
                    "ports": metrics_ports(),
                    "securityContext": container_security(),
                    "volumeMounts": mounts,
                    **probes(),
                }
            ],
            "volumes": volumes,
        },
    }


def grace_seconds(pool: WorkerPool) -> int:
    """Return the time between SIGTERM and SIGKILL: the drain timeout, rounded up, and a margin."""
    return -(-pool.spec.drain.timeout // _SECOND) + GRACE_MARGIN_SECONDS
