"""Every name that Muster gives to something in a cluster: group, labels, annotations, finalizers, children.

Whoever reads or writes an object takes the key from here, so that no key is ever spelled twice.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

GROUP = "muster.dev"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "muster"

LABEL_POOL = f"{GROUP}/pool"
"""On Deployments, pods and PDBs of a pool: the WorkerPool's name."""
LABEL_HASH = f"{GROUP}/hash"
"""On the same: the hash of what the pod is made of, which tells versions apart."""
LABEL_ROLE = f"{GROUP}/role"
"""`worker` or `beat`."""
LABEL_BROKER = f"{GROUP}/broker"
"""On beat's Deployment: the hash of the broker it ticks for."""
LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

ROLE_WORKER = "worker"
ROLE_BEAT = "beat"

ANNOTATION_APPLIED = f"{GROUP}/applied"
"""On children: hash of what was applied last, so that an equal apply is left out."""
ANNOTATION_SECRET_HASH = f"{GROUP}/secret-hash"
"""On pods: hash of the Secrets that they were started with, so that a rotation rolls them."""
ANNOTATION_DRAINING_SINCE = f"{GROUP}/draining-since"
"""On pods: when they were chosen to leave."""
ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own: the ReplicaSet deletes the pods with the lowest cost first."""

FINALIZER_QUEUE = f"{GROUP}/queue"
"""On TaskQueues with deletionPolicy Delete: something outside the cluster is to be removed."""

MANAGER = "muster"
"""Field manager of children and everything else that is not listed below."""
MANAGER_REPLICAS = "muster-scaler"
"""Field manager of the replicas of Deployments, and of nothing else."""
MANAGER_STATUS = "muster-status"
"""Field manager of the status of our own kinds."""
MANAGER_DRAIN = "muster-drain"
"""Field manager of the marks on pods that are to leave."""

LEASE = "muster-operator"

WORKER_CONTAINER = "worker"
BEAT_CONTAINER = "beat"

MAX_NAME = 63
"""Longest name that fits a label's value, which a pool's name becomes."""
HASH_LENGTH = 8


def content_hash(content: Any) -> str:
    """Return 8 characters of a-z and 2-7 that stand for a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).digest()
    return base64.b32encode(digest).decode()[:HASH_LENGTH].lower()


def child_name(owner: str, made_of: Any) -> str:
    """Return `<owner>-<hash of made_of>`, at most 63 characters and a valid DNS label.

    A longer owner is cut and dots become dashes; the hash then covers the owner too, so that no two owners
    share a child.
    """
    label = re.sub(r"[^a-z0-9-]", "-", owner)
    room = MAX_NAME - HASH_LENGTH - 1
    if label == owner and len(label) <= room:
        return f"{label}-{content_hash(made_of)}"
    return f"{label[:room].rstrip('-')}-{content_hash([owner, made_of])}"


def pool_labels(pool: str) -> Mapping[str, str]:
    """Return the labels that select all workers of a pool, of every version."""
    return {LABEL_POOL: pool, LABEL_ROLE: ROLE_WORKER}


def selector(labels: Mapping[str, str]) -> str:
    """Return labels as the text of a selector, sorted: what the scale subresource publishes."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
