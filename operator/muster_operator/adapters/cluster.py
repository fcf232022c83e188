"""The API server: server-side apply, status, deletion, events, Secrets by name, the Lease.

The loop hands actions in; what has returned is confirmed. Every request is counted, so that a test can see
that a steady cluster costs nothing. Errors are told apart by who must act (`errors`).
"""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import aiohttp

from muster_operator.api.codec import encode
from muster_operator.api.names import (
    API_VERSION,
    MANAGER,
    MANAGER_DRAIN,
    MANAGER_REPLICAS,
    MANAGER_STATUS,
)
from muster_operator.api.objects import ObjectMeta
from muster_operator.errors import ClusterUnavailable, Conflicted, Forbidden, NotLeading, Refused
from muster_operator.model.actions import (
    Action,
    Apply,
    Delete,
    Emit,
    MarkPod,
    Scale,
    SetFinalizer,
    SetStatus,
)

from .connection import Connection

RIGHTS: Final = (
    # server-side apply needs create where the object is not there yet
    *(("apps", "deployments", verb) for verb in ("create", "patch", "delete")),
    *(("policy", "poddisruptionbudgets", verb) for verb in ("create", "patch")),
    *(("", "pods", verb) for verb in ("patch", "delete")),
    *(("muster.dev", kind, "patch") for kind in ("taskqueues", "workerpools", "schedules")),
    *(("muster.dev", f"{kind}/status", "patch") for kind in ("taskqueues", "workerpools", "schedules")),
    ("", "secrets", "get"),
    ("", "namespaces", "get"),
    *(("events.k8s.io", "events", verb) for verb in ("create", "patch")),
)
"""(group, resource, verb) of what this module asks for."""
NAMES_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TIMEOUT: Final = aiohttp.ClientTimeout(total=20)
REPEAT_WITHIN: Final = timedelta(minutes=10)
"""An event that repeats within this time is counted on the one that stands there."""
MAX_EVENT_TEXT: Final = 1024

PLURALS: Final = {
    "Deployment": "deployments",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "TaskQueue": "taskqueues",
    "WorkerPool": "workerpools",
    "Schedule": "schedules",
    "Secret": "secrets",
    "Event": "events",
    "Lease": "leases",
    "Namespace": "namespaces",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
}


def path_of(api_version: str, kind: str, namespace: str | None, name: str = "") -> str:
    """Return the path of an object or, without a name, of its collection."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    place = f"/namespaces/{namespace}" if namespace and kind != "Namespace" else ""
    return f"{root}{place}/{PLURALS[kind]}" + (f"/{name}" if name else "")


class ClusterClient:
    """A client of one API server. Use it as an async context manager."""

    def __init__(
        self,
        connection: Connection,
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], datetime],
        written: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """`written` is told each object that an apply returns, so that the next pass sees its own writes."""
        self._written = written
        self._connection = connection
        self._may_write = may_write
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self.requests: Counter[str] = Counter()
        """Requests by verb."""
        self._events: dict[tuple[str, ...], _Sent] = {}
        self._instance = f"muster-operator-{uuid.uuid4().hex[:8]}"

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._connection.tls(), limit=16)
        self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        verb: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> dict[str, Any] | None:
        """Send one request; return the answer's object, None for 404. Raises what `errors` lists."""
        assert self._session is not None
        self.requests[verb] += 1
        headers = {**self._connection.authorization(), "Content-Type": content_type, "Accept": accept}
        try:
            async with self._session.request(
                verb, self._connection.server + path, json=body, params=query, headers=headers
            ) as answer:
                if answer.status == 404:
                    return None
                try:
                    document = await answer.json(content_type=None)
                except ValueError:
                    document = {"message": await answer.text()}
                if answer.status < 300:
                    found: dict[str, Any] = document
                    return found
                text = str((document or {}).get("message") or answer.reason)
                causes = ((document or {}).get("details") or {}).get("causes") or []
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"{verb} {path}: {error or type(error).__name__}") from error
        match answer.status:
            case 403 if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
                raise Conflicted(text)
            # an exceeded quota and other plug-ins answer so too; only RBAC speaks of a verb and a resource
            case 403 if " cannot " not in text or " resource " not in text:
                raise Refused(text)
            case 401 | 403:
                raise Forbidden(f"{verb} {path}: {text}")
            case 409:
                raise Conflicted(text)
            case 400 | 413 | 422:
                raise Refused(text)
            # a value that has not the form of its type, such as a quantity, is answered so
            case 500 if "unable to convert" in text:
                raise Refused(text)
            case _:
                raise ClusterUnavailable(f"{verb} {path}: {answer.status} {text}")

    async def write(self, verb: str, path: str, **more: Any) -> dict[str, Any] | None:
        """Send a request that changes something: only while we lead."""
        if not self._may_write():
            raise NotLeading(f"{verb} {path}: another operator leads")
        return await self.request(verb, path, **more)

    async def apply(self, manifest: Mapping[str, Any], manager: str, *, subresource: str = "") -> None:
        """Server-side apply; fields of ours that stand under another manager become ours."""
        metadata = manifest["metadata"]
        path = path_of(
            manifest["apiVersion"], manifest["kind"], metadata.get("namespace"), metadata["name"]
        ) + (f"/{subresource}" if subresource else "")
        found = await self.write(
            "PATCH",
            path,
            body=manifest,
            query={"fieldManager": manager, "force": "true"},
            content_type="application/apply-patch+yaml",
        )
        if found is None:
            raise Conflicted(f"{manifest['kind']} {metadata['name']} is gone")
        self._written(manifest["kind"], found)

    async def carry_out(self, action: Action) -> None:
        """Do one action; see `ports.Cluster`."""
        match action:
            case Apply(manifest=manifest):
                await self.apply(manifest, MANAGER)
            case Scale(namespace=namespace, deployment=name, replicas=replicas):
                await self.apply(
                    {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "metadata": {"name": name, "namespace": namespace},
                        "spec": {"replicas": replicas},
                    },
                    MANAGER_REPLICAS,
                )
            case MarkPod(namespace=namespace, pod=name, uid=uid, annotations=annotations):
                await self.apply(
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "metadata": {
                            "name": name,
                            "namespace": namespace,
                            "uid": uid,
                            "annotations": dict(annotations),
                        },
                    },
                    MANAGER_DRAIN,
                )
            case Delete():
                await self._delete(action)
            case SetFinalizer(kind=kind, metadata=metadata, finalizer=finalizer, present=present):
                finalizers = {"finalizers": [finalizer]} if present else {}
                await self.apply(_own(kind, metadata, finalizers), MANAGER)
            case SetStatus(kind=kind, metadata=metadata, status=status):
                await self.apply(
                    {**_own(kind, metadata, {}), "status": encode(status)},
                    MANAGER_STATUS,
                    subresource="status",
                )
            case Emit():
                await self._emit(action)
            case _:
                raise AssertionError(f"{type(action).__name__} is not for the cluster")

    async def _delete(self, action: Delete) -> None:
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if action.uid:
            body["preconditions"] = {"uid": action.uid}
        path = path_of(action.api_version, action.kind, action.namespace, action.name)
        await self.write("DELETE", path, body=body)

    async def listed(
        self, api_version: str, kind: str, *, namespace: str, selector: str
    ) -> tuple[int, dict[tuple[str, str], str]] | None:
        """Return the names and UIDs of all objects, from the API server's cache; see `loop.roll_call`."""
        query = {"resourceVersion": "0"} | ({"labelSelector": selector} if selector else {})
        found = await self.request(
            "GET", path_of(api_version, kind, namespace), query=query, accept=NAMES_ONLY
        )
        if found is None:
            return None
        metadata = [item["metadata"] for item in found.get("items") or []]
        uids = {(each.get("namespace", ""), each["name"]): each["uid"] for each in metadata}
        return int(found["metadata"]["resourceVersion"]), uids

    async def is_terminating(self, namespace: str) -> bool:
        """Return whether a namespace is being deleted; False when we may not know."""
        try:
            found = await self.request("GET", path_of("v1", "Namespace", None, namespace))
        except Forbidden:
            return False
        return found is None or "deletionTimestamp" in found["metadata"]

    async def secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Secret by its name; None when it does not exist."""
        return await self.request("GET", path_of("v1", "Secret", namespace, name))

    async def _emit(self, action: Emit) -> None:
        now = self._clock()
        metadata = action.metadata
        key = (metadata.uid, action.type, action.reason, action.message)
        sent = self._events.get(key)
        moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if sent is not None and now - sent.at < REPEAT_WITHIN:
            sent.count += 1
            counted = await self.write(
                "PATCH",
                path_of("events.k8s.io/v1", "Event", metadata.namespace, sent.name),
                body={"series": {"count": sent.count, "lastObservedTime": moment}},
                content_type="application/merge-patch+json",
            )
            if counted is not None:  # else somebody has deleted it
                return
        name = f"{metadata.name[:200]}.{uuid.uuid4().hex[:16]}"
        await self.write(
            "POST",
            path_of("events.k8s.io/v1", "Event", metadata.namespace),
            body={
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": metadata.namespace},
                "eventTime": moment,
                "type": str(action.type),
                "reason": action.reason,
                "note": action.message[:MAX_EVENT_TEXT],
                "action": "Reconcile",
                "reportingController": "muster.dev/operator",
                "reportingInstance": self._instance,
                "regarding": {
                    "apiVersion": API_VERSION,
                    "kind": action.kind,
                    "name": metadata.name,
                    "namespace": metadata.namespace,
                    "uid": metadata.uid,
                },
            },
        )
        self._events = {k: s for k, s in self._events.items() if now - s.at < REPEAT_WITHIN}
        self._events[key] = _Sent(name, now)


class _Sent:
    """An event that stands on the API server."""

    def __init__(self, name: str, at: datetime) -> None:
        self.name = name
        self.at = at
        self.count = 1


def _own(kind: str, metadata: ObjectMeta, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid, **more},
    }
