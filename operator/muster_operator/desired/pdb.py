"""The PodDisruptionBudget of a pool: how many of its workers a node drain may take at once.

It covers every version. A draining worker is not ready and would use the budget up, so unready pods may
always be evicted: their grace period lets them finish what runs.
"""

from typing import Any

from muster_operator.api.names import ROLE_WORKER, pool_labels
from muster_operator.api.workerpool import WorkerPool

from .metadata import common_labels, owner_reference, stamped

MAX_UNAVAILABLE = "25%"
"""Kubernetes rounds it up, so that a pool of one worker can be moved too."""


def pod_disruption_budget(pool: WorkerPool) -> dict[str, Any]:
    """Return the manifest."""
    labels = pool_labels(pool.metadata.name)
    return stamped(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {
                "name": pool.metadata.name,
                "namespace": pool.metadata.namespace,
                "labels": {
                    **common_labels(instance=pool.metadata.name, component=ROLE_WORKER),
                    **labels,
                },
                "ownerReferences": [owner_reference("WorkerPool", pool.metadata, controller=True)],
            },
            "spec": {
                "maxUnavailable": MAX_UNAVAILABLE,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": dict(labels)},
            },
        }
    )
