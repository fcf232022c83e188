"""The objects that watches have seen last, stripped to what passes look at.

`watch` writes it, `observe` reads it. It decides nothing but which keys an event concerns.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muster_operator.api.names import LABEL_POOL, LABEL_ROLE, ROLE_BEAT, ROLE_WORKER

from .keys import Key

Body = Mapping[str, Any]


def stripped(kind: str, body: Body) -> dict[str, Any]:
    """Return the object without what no pass looks at, which is most of a pod."""
    metadata = {k: v for k, v in (body.get("metadata") or {}).items() if k != "managedFields"}
    kept: dict[str, Any] = {"metadata": metadata, "status": dict(body.get("status") or {})}
    for name in ("apiVersion", "kind"):
        if name in body:
            kept[name] = body[name]
    if kind == "Pod":
        status = kept["status"]
        kept["status"] = {
            k: status[k] for k in ("phase", "conditions", "containerStatuses", "reason") if k in status
        }
        kept["spec"] = {"nodeName": (body.get("spec") or {}).get("nodeName")}
    else:
        kept["spec"] = body.get("spec") or {}
    return kept


class Store:
    """Objects by kind, namespace and name; see `ports.Objects`."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._by_queue_name: dict[str, set[tuple[str, str]]] = {}
        """Where the TaskQueues are that name a queue: every event on one of a thousand asks for its own."""

    def put(self, kind: str, body: Body) -> None:
        """Take a state of an object, unless a later one is here: answers to writes overtake watches."""
        metadata = body["metadata"]
        place = (metadata.get("namespace", ""), metadata["name"])
        there = self._objects.setdefault(kind, {})
        if place not in there or not _is_older(metadata, there[place]["metadata"]):
            if kind == "TaskQueue":
                self._forget_name(place)
                self._by_queue_name.setdefault(_queue_name(body), set()).add(place)
            there[place] = stripped(kind, body)

    def drop(self, kind: str, body: Body) -> None:
        """Forget an object that is gone; another one that has its name by now stays."""
        metadata = body["metadata"]
        there = self._objects.get(kind, {})
        place = (metadata.get("namespace", ""), metadata["name"])
        held = there.get(place)
        if held is not None and held["metadata"].get("uid") == metadata.get("uid"):
            if kind == "TaskQueue":
                self._forget_name(place)
            del there[place]

    def _forget_name(self, place: tuple[str, str]) -> None:
        held = self._objects["TaskQueue"].get(place)
        if held is not None:
            name = _queue_name(held)
            self._by_queue_name[name].discard(place)
            if not self._by_queue_name[name]:
                del self._by_queue_name[name]

    def namesakes(self, queue_name: str) -> Sequence[Body]:
        """Return the TaskQueues of that queue name, on whatever broker."""
        there = self._objects.get("TaskQueue", {})
        return [there[place] for place in sorted(self._by_queue_name.get(queue_name, ()))]

    def unseen(self, kind: str, version: int, uids: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
        """Return which of the objects that were there at `version` have not come here yet, in any state."""
        there = self._objects.get(kind, {})
        return [
            place
            for place, uid in uids.items()
            if place not in there
            or (there[place]["metadata"].get("uid") != uid and _version(there[place]["metadata"]) <= version)
        ]

    def forget_absent(
        self, kind: str, namespace: str, version: int, uids: Mapping[tuple[str, str], str]
    ) -> Sequence[Body]:
        """Forget and return what was not there any more at `version`, in the namespace or, empty, in all."""
        gone = [
            body
            for place, body in self._objects.get(kind, {}).items()
            if namespace in {"", place[0]}
            and uids.get(place) != body["metadata"].get("uid")
            and _version(body["metadata"]) <= version
        ]
        for body in gone:
            self.drop(kind, body)
        return gone

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object."""
        return self._objects.get(kind, {}).get((namespace, name))

    def of(self, kind: str, namespace: str | None = None) -> Sequence[Body]:
        """Return all of a kind, of one namespace or of all."""
        return [
            body
            for (where, _), body in self._objects.get(kind, {}).items()
            if namespace is None or where == namespace
        ]

    def concerned(self, kind: str, body: Body) -> Iterator[Key]:
        """Yield the key of each pass that an event on this object concerns."""
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        labels = metadata.get("labels") or {}
        match kind:
            case "WorkerPool":
                yield Key(kind, namespace, name)
            case "TaskQueue":
                yield Key(kind, namespace, name)
                yield from self._users_of(namespace, name)
                for rival in self.namesakes(_queue_name(body)):
                    yield Key("TaskQueue", rival["metadata"]["namespace"], rival["metadata"]["name"])
                yield Key("Beat", namespace, _secret_of(body))
                yield Key("VirtualHost", namespace, _secret_of(body))
            case "Schedule":
                yield Key(kind, namespace, name)
                queue = self.get("TaskQueue", namespace, (body.get("spec") or {}).get("queue", ""))
                if queue is not None:
                    yield Key("Beat", namespace, _secret_of(queue))
            case "HorizontalPodAutoscaler":
                for pool in self.of("WorkerPool", namespace):
                    yield Key("WorkerPool", namespace, pool["metadata"]["name"])
            case _ if labels.get(LABEL_ROLE) == ROLE_BEAT:
                for secret in {_secret_of(queue) for queue in self.of("TaskQueue", namespace)}:
                    yield Key("Beat", namespace, secret)
            case _ if labels.get(LABEL_ROLE, ROLE_WORKER) == ROLE_WORKER and LABEL_POOL in labels:
                yield Key("WorkerPool", namespace, labels[LABEL_POOL])

    def _users_of(self, namespace: str, queue: str) -> Iterator[Key]:
        for pool in self.of("WorkerPool", namespace):
            if queue in (pool["spec"].get("queues") or []):
                yield Key("WorkerPool", namespace, pool["metadata"]["name"])
        for schedule in self.of("Schedule", namespace):
            if schedule["spec"].get("queue") == queue:
                yield Key("Schedule", namespace, schedule["metadata"]["name"])

    def on_broker(self, namespace: str, secret: str) -> Iterator[Key]:
        """Yield the keys of everything that works with the broker (or results) of a Secret."""
        queues = set()
        for queue in self.of("TaskQueue", namespace):
            if _secret_of(queue) == secret:
                name = queue["metadata"]["name"]
                queues.add(name)
                yield Key("TaskQueue", namespace, name)
        for pool in self.of("WorkerPool", namespace):
            spec = pool["spec"]
            results = ((spec.get("results") or {}).get("secretRef") or {}).get("name")
            if queues & set(spec.get("queues") or []) or results == secret:
                yield Key("WorkerPool", namespace, pool["metadata"]["name"])
        for schedule in self.of("Schedule", namespace):
            if schedule["spec"].get("queue") in queues:
                yield Key("Schedule", namespace, schedule["metadata"]["name"])
        if queues:
            yield Key("VirtualHost", namespace, secret)
            yield Key("Beat", namespace, secret)

    def everything(self) -> Iterator[Key]:
        """Yield every key: for a new leader and for the slow round."""
        for kind in ("TaskQueue", "WorkerPool", "Schedule"):
            for body in self.of(kind):
                yield Key(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        for queue in self.of("TaskQueue"):
            yield Key("Beat", queue["metadata"]["namespace"], _secret_of(queue))
            yield Key("VirtualHost", queue["metadata"]["namespace"], _secret_of(queue))


def _secret_of(queue: Body) -> str:
    name: str = queue["spec"]["broker"]["secretRef"]["name"]
    return name


def _queue_name(queue: Body) -> str:
    name: str = queue["spec"].get("queueName") or queue["metadata"]["name"]
    return name


def _version(metadata: Body) -> int:
    """Return the resource version as the number that it is (KEP-5504); 0 for what has none."""
    try:
        return int(metadata["resourceVersion"])
    except (KeyError, ValueError):
        return 0


def _is_older(one: Body, other: Body) -> bool:
    """Whether `one` is an earlier state of the same object."""
    same = "uid" in one and one["uid"] == other.get("uid")
    return same and 0 < _version(one) < _version(other)
