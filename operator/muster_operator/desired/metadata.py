"""What all children have in common: labels, owner, and the hash of what was applied."""

from collections.abc import Mapping
from typing import Any

from muster_operator.api.names import (
    ANNOTATION_APPLIED,
    API_VERSION,
    LABEL_COMPONENT,
    LABEL_INSTANCE,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_PART_OF,
    content_hash,
)
from muster_operator.api.objects import ObjectMeta

Json = dict[str, Any]


def common_labels(*, instance: str, component: str) -> dict[str, str]:
    """Return Kubernetes' recommended labels for a child of `instance`."""
    return {
        LABEL_NAME: "muster",
        LABEL_INSTANCE: instance[:63].rstrip("-."),
        LABEL_COMPONENT: component,
        LABEL_PART_OF: "muster",
        LABEL_MANAGED_BY: "muster-operator",
    }


def owner_reference(kind: str, owner: ObjectMeta, *, controller: bool) -> Json:
    """Return the reference that lets the garbage collector remove a child after its owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": controller,
    }


def stamped(manifest: Mapping[str, Any]) -> Json:
    """Return the manifest with the hash of all of it but spec.replicas, which another decision owns."""
    spec = {key: value for key, value in manifest.get("spec", {}).items() if key != "replicas"}
    metadata = dict(manifest["metadata"])
    mark = content_hash({**manifest, "spec": spec})
    metadata["annotations"] = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: mark}
    return {**manifest, "metadata": metadata}
