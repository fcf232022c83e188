"""The Deployment of beat: one for each broker and namespace that has a Schedule.

Its name is made of the broker alone, so that a new image replaces it in place, the old pod first (Recreate).
Beat is elected by the broker all the same: two that overlap tick once.
"""

from collections.abc import Sequence
from typing import Any

from muster_operator.api.names import (
    ANNOTATION_SECRET_HASH,
    BEAT_CONTAINER,
    LABEL_BROKER,
    LABEL_ROLE,
    ROLE_BEAT,
    child_name,
    content_hash,
)
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.model.world import SecretView

from .env import BROKER_CA_DIRECTORY, RESULTS_CA_DIRECTORY, beat_env
from .metadata import common_labels, owner_reference, stamped
from .pod import certificates, container_security, metrics_ports, pod_security, probes, scratch

GRACE_SECONDS = 15
"""Enough to confirm the tick in hand and give the election up."""


def beat_name(secret: str) -> str:
    """Return the name of the Deployment that ticks for the broker of this Secret."""
    return child_name("muster-beat", secret)


def beat_deployment(
    namespace: str,
    *,
    broker: SecretView,
    image: str,
    owners: Sequence[TaskQueue],
    results: SecretView | None = None,
) -> dict[str, Any]:
    """Return the manifest. It goes with the last of `owners`, the TaskQueues that the Schedules name."""
    labels = {LABEL_ROLE: ROLE_BEAT, LABEL_BROKER: content_hash(broker.name)}
    common = common_labels(instance=broker.name, component=ROLE_BEAT)
    volumes, mounts = scratch()
    more_volumes, more_mounts = certificates("broker-ca", broker, BROKER_CA_DIRECTORY)
    secrets = [broker.hash]
    if results is not None:
        result_volumes, result_mounts = certificates("results-ca", results, RESULTS_CA_DIRECTORY)
        more_volumes, more_mounts = more_volumes + result_volumes, more_mounts + result_mounts
        secrets.append(results.hash)
    return stamped(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": beat_name(broker.name),
                "namespace": namespace,
                "labels": {**common, **labels},
                "ownerReferences": [
                    owner_reference("TaskQueue", owner.metadata, controller=False)
                    for owner in sorted(owners, key=lambda each: each.metadata.uid)
                ],
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "strategy": {"type": "Recreate"},
                "revisionHistoryLimit": 0,
                "template": {
                    "metadata": {
                        "labels": {**common, **labels},
                        "annotations": {ANNOTATION_SECRET_HASH: content_hash("".join(secrets))},
                    },
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "securityContext": pod_security(),
                        "terminationGracePeriodSeconds": GRACE_SECONDS,
                        "containers": [
                            {
                                "name": BEAT_CONTAINER,
                                "image": image,
                                "args": ["beat"],
                                "env": beat_env(namespace, broker=broker, results=results),
                                "ports": metrics_ports(),
                                "securityContext": container_security(),
                                "resources": {
                                    "requests": {"cpu": "10m", "memory": "64Mi"},
                                    "limits": {"memory": "256Mi"},
                                },
                                "volumeMounts": mounts + more_mounts,
                                **probes(),
                            }
                        ],
                        "volumes": volumes + more_volumes,
                    },
                },
            },
        }
    )
