"""What the pods of workers and of beat have in common: the restricted profile, probes, certificates.

A pod of ours meets Kubernetes' restricted pod security standard, has no API token, and writes only to /tmp.
"""

from typing import Any

from muster_operator.model.world import SecretView

from .env import CA_KEY, METRICS_PORT

Json = dict[str, Any]

METRICS_PORT_NAME = "metrics"
START_SECONDS = 300
"""How long an application may take to import before its pod is restarted."""


def pod_security() -> Json:
    """Return the pod's security context."""
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> Json:
    """Return the container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def probes() -> Json:
    """Return the probes: alive while the consumer loop turns, ready while it consumes.

    A broker outage fails neither, so it restarts nothing; a slow import has START_SECONDS.
    """
    live = {"httpGet": {"path": "/livez", "port": METRICS_PORT_NAME}}
    return {
        "startupProbe": {
            **live,
            "periodSeconds": 2,
            "failureThreshold": START_SECONDS // 2,
            "timeoutSeconds": 2,
        },
        "livenessProbe": {**live, "periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 5},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": METRICS_PORT_NAME},
            "periodSeconds": 5,
            "failureThreshold": 2,
            "timeoutSeconds": 5,
        },
    }


def metrics_ports() -> list[Json]:
    """Return the container's ports: the one of metrics and probes."""
    return [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT, "protocol": "TCP"}]


def scratch() -> tuple[list[Json], list[Json]]:
    """Return volumes and mounts for the only place that is written to."""
    mount = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - the pod's own, seen by nobody else
    return [{"name": "tmp", "emptyDir": {}}], [mount]


def certificates(name: str, secret: SecretView | None, directory: str) -> tuple[list[Json], list[Json]]:
    """Return volumes and mounts for the certificates in a Secret; both empty when it has none."""
    if secret is None or CA_KEY not in secret.keys:
        return [], []
    volume = {
        "name": name,
        "secret": {"secretName": secret.name, "items": [{"key": CA_KEY, "path": CA_KEY}]},
    }
    return [volume], [{"name": name, "mountPath": directory, "readOnly": True}]
