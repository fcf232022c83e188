"""From a container of a pod template to a command and an environment for a process of this computer.

`dev.pods` calls it for every process that it starts. It resolves what the kubelet resolves (values of
Secrets, fields of the pod, mounted Secrets) and knows no process, file or broker.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXECUTABLE = (sys.executable, "-m", "muster")
"""What the image's entry point is: the same program, in this interpreter."""

METRICS_ADDRESS = "MUSTER_METRICS_ADDRESS"


class ContainerError(Exception):
    """Raised when a container cannot run here; says what is missing, as a pod's trouble."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container finds where it runs."""

    secrets: Mapping[str, Mapping[str, str]]
    """Name → decoded values, of the pod's namespace."""
    secret_folders: Mapping[str, str]
    """Name of a Secret → the folder that holds a file for each of its keys."""
    fields: Mapping[str, str]
    """Of the pod: `metadata.uid` and the like."""
    metrics_address: str
    """Where this process serves its metrics: in a cluster each pod has an address of its own, here none."""


def command(container: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line."""
    program = list(container.get("command") or EXECUTABLE)
    return [*program, *(str(each) for each in container.get("args") or ())]


def environment(
    container: Mapping[str, Any], volumes: list[Mapping[str, Any]], around: Surroundings
) -> dict[str, str]:
    """Return the variables of the container's `env`. Raises ContainerError."""
    mounts = _mounted_secrets(container, volumes, around)
    found: dict[str, str] = {}
    for variable in container.get("env") or ():
        name = str(variable["name"])
        if name == METRICS_ADDRESS:
            found[name] = around.metrics_address
        elif "valueFrom" in variable:
            value = _value_from(name, variable["valueFrom"] or {}, around)
            if value is not None:
                found[name] = value
        else:
            found[name] = _moved(str(variable.get("value") or ""), mounts)
    return found


def _value_from(name: str, source: Mapping[str, Any], around: Surroundings) -> str | None:
    """Return the value, or None for an optional one that is not there."""
    if "fieldRef" in source:
        path = str(source["fieldRef"].get("fieldPath"))
        if path in around.fields:
            return around.fields[path]
        raise ContainerError(f"variable {name}: no process here has the field {path}")
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        values = around.secrets.get(str(reference.get("name")), {})
        value = values.get(str(reference.get("key")))
        if value is None and not reference.get("optional"):
            raise ContainerError(
                f"variable {name}: Secret {reference.get('name')} has no key {reference.get('key')}"
            )
        return value
    kinds = ", ".join(source) or "nothing"
    raise ContainerError(f"variable {name}: its value comes from {kinds}, which only a cluster has")


def _mounted_secrets(
    container: Mapping[str, Any], volumes: list[Mapping[str, Any]], around: Surroundings
) -> dict[str, str]:
    secrets = {
        str(volume.get("name")): str(volume["secret"].get("secretName"))
        for volume in volumes
        if volume.get("secret")
    }
    return {
        str(mount["mountPath"]): around.secret_folders[secrets[str(mount.get("name"))]]
        for mount in container.get("volumeMounts") or ()
        if secrets.get(str(mount.get("name"))) in around.secret_folders
    }


def _moved(value: str, mounts: Mapping[str, str]) -> str:
    """Return a path below a mount as what it is here; any other value as it stands."""
    for inside, here in mounts.items():
        if value.startswith(f"{inside}/"):
            return here + value[len(inside) :]
    return value
