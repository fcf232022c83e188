"""Whole objects ↔ JSON: what a manifest file or the API server holds, as TaskQueue, WorkerPool or Schedule.

`muster dev` reads files through `decode_manifest`, the operator reads watch events through `decode_object`.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from .codec import InvalidObject, Problem, decode, encode
from .kind import Kind
from .names import API_VERSION, GROUP
from .schedule import SCHEDULE, Schedule
from .taskqueue import TASK_QUEUE, TaskQueue
from .workerpool import WORKER_POOL, WorkerPool

Resource: TypeAlias = TaskQueue | WorkerPool | Schedule

KINDS: tuple[Kind, ...] = (TASK_QUEUE, WORKER_POOL, SCHEDULE)


def decode_manifest(document: Any) -> Resource:
    """Return what a user wrote, checked as the API server checks it: InvalidObject says all that is wrong.

    Unknown fields, bounds, impossible combinations and kinds of other groups are refused.
    """
    kind, content = _kind_of(document)
    unread = {"apiVersion", "kind", "status"}
    content = {key: value for key, value in content.items() if key not in unread}
    metadata = content.get("metadata")
    if isinstance(metadata, Mapping):  # Kubernetes' own fields are Kubernetes' to check
        known = {"name", "namespace", "uid", "labels", "annotations", "generation"}
        content["metadata"] = {key: value for key, value in metadata.items() if key in known}
    resource: Resource = decode(kind.cls, content, strict=True)
    return resource


def decode_object(document: Any) -> Resource:
    """Return what the API server holds. Unknown fields are left out; InvalidObject if a type does not fit."""
    kind, content = _kind_of(document)
    resource: Resource = decode(kind.cls, content)
    return resource


def encode_object(resource: Resource) -> dict[str, Any]:
    """Return the object as the JSON of a manifest, apiVersion and kind included."""
    return {"apiVersion": API_VERSION, "kind": type(resource).__name__, **encode(resource)}


def _kind_of(document: Any) -> tuple[Kind, dict[str, Any]]:
    if not isinstance(document, Mapping):
        raise InvalidObject(
            (Problem("", "a manifest must be an object with apiVersion, kind, metadata and spec"),)
        )
    names = ", ".join(kind.name for kind in KINDS)
    if document.get("apiVersion") != API_VERSION:
        version = document.get("apiVersion")
        known = str(version).startswith(f"{GROUP}/")
        raise InvalidObject(
            (
                Problem(
                    "apiVersion", f"must be {API_VERSION}{'' if known else f' for {names}'}, not {version!r}"
                ),
            )
        )
    for kind in KINDS:
        if document.get("kind") == kind.name:
            return kind, dict(document)
    raise InvalidObject((Problem("kind", f"must be one of {names}, not {document.get('kind')!r}"),))
