"""The cluster of this computer: objects in memory in place of the API server, processes in place of pods.

It is `ports.Cluster` and `ports.Objects` for `dev.session`, so that the operator's own observer and executor
work on it, and the Secrets for its broker adapter. It holds what it is told and decides nothing.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from muster_operator.api.codec import encode
from muster_operator.api.manifests import Resource, encode_object
from muster_operator.loop.store import Store
from muster_operator.model.actions import Action, Apply, Delete, Emit, MarkPod, Scale, SetStatus

from .manifests import Declared, Key
from .pods import Pods
from .processes import Keeper

Body = Mapping[str, Any]


class LocalCluster:
    """All objects and processes. `tell` gets each event that the operator would record."""

    def __init__(
        self,
        declared: Declared,
        secrets: Mapping[Key, Mapping[str, str]],
        keeper: Keeper,
        *,
        home: Path,
        base_environment: Mapping[str, str],
        clock: Callable[[], datetime],
        tell: Callable[[Emit], None],
    ) -> None:
        """`secrets` are all that are named, decoded; certificates and logs go below `home`."""
        self._secrets = secrets
        self._clock = clock
        self._tell = tell
        self._store = Store()
        resources: list[Resource] = [
            *declared.queues.values(),
            *declared.pools.values(),
            *declared.schedules.values(),
        ]
        for resource in resources:
            self._store.put(type(resource).__name__, encode_object(resource))
        logs = home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        folders = _write_certificates(secrets, home)
        self.pods = Pods(
            keeper,
            logs=logs,
            base_environment=base_environment,
            secrets=lambda namespace: _of_namespace(secrets, namespace),
            secret_folders=lambda namespace: _of_namespace(folders, namespace),
        )

    # ports.Objects, and Secrets

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object."""
        return self._store.get(kind, namespace, name)

    def of(self, kind: str, namespace: str | None = None) -> Sequence[Body]:
        """Return all of a kind, of one namespace or of all."""
        return self._store.of(kind, namespace)

    def namesakes(self, queue_name: str) -> Sequence[Body]:
        """See `ports.Objects`."""
        return self._store.namesakes(queue_name)

    async def secret(self, namespace: str, name: str) -> Body | None:
        """Return a Secret as the API server holds it, or None."""
        values = self._secrets.get((namespace, name))
        if values is None:
            return None
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}

    # ports.Cluster

    async def carry_out(self, action: Action) -> None:
        """Do one action that concerns the cluster."""
        now = self._clock()
        match action:
            case Apply(manifest=manifest) if manifest["kind"] == "Deployment":
                self.pods.apply(manifest, now)
            case Apply(manifest=manifest):
                self._store.put(manifest["kind"], manifest)
            case Scale():
                self.pods.scale((action.namespace, action.deployment), action.replicas)
            case MarkPod():
                self.pods.mark((action.namespace, action.pod), action.uid, action.annotations)
            case Delete(kind="Pod"):
                self.pods.delete_pod((action.namespace, action.name), action.uid, now)
            case Delete(kind="Deployment"):
                self.pods.delete_deployment((action.namespace, action.name), now)
            case SetStatus():
                self._change(
                    action.kind, action.metadata.namespace, action.metadata.name, status=encode(action.status)
                )
            case Emit():
                self._tell(action)
        self._show_pods()

    # what a person does in a cluster

    def pause(self) -> None:
        """Let every pool be paused and every Deployment go; nothing is ticked any more.

        The processes hear of it by SIGTERM, on which workers drain: that needs no broker.
        """
        for body in self._store.of("WorkerPool"):
            metadata = body["metadata"]
            self._change(
                "WorkerPool", metadata["namespace"], metadata["name"], spec={**body["spec"], "paused": True}
            )
        for body in self._store.of("Schedule"):
            self._store.drop("Schedule", body)
        for body in self._store.of("Deployment"):
            metadata = body["metadata"]
            self.pods.delete_deployment((metadata["namespace"], metadata["name"]), self._clock())
        self._show_pods()

    def sync(self) -> None:
        """Let the processes follow the Deployments, and the objects the processes."""
        self.pods.sync(self._clock())
        self._show_pods()

    def _change(self, kind: str, namespace: str, name: str, **parts: Any) -> None:
        body = self._store.get(kind, namespace, name)
        if body is not None:
            self._store.put(kind, {**body, **parts})

    def _show_pods(self) -> None:
        for kind, bodies in self.pods.objects().items():
            names = {(body["metadata"]["namespace"], body["metadata"]["name"]) for body in bodies}
            for gone in self._store.of(kind):
                if (gone["metadata"]["namespace"], gone["metadata"]["name"]) not in names:
                    self._store.drop(kind, gone)
            for body in bodies:
                self._store.put(kind, body)


def _write_certificates(secrets: Mapping[Key, Mapping[str, str]], home: Path) -> dict[Key, str]:
    """Write certificates where workers can read them; return the folder of each Secret that has one."""
    folders: dict[Key, str] = {}
    for (namespace, name), values in secrets.items():
        for key, value in values.items():
            if key.endswith(".crt"):
                folder = home / "secrets" / namespace / name
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / key).write_text(value)
                folders[namespace, name] = str(folder)
    return folders


def _of_namespace(held: Mapping[Key, Any], namespace: str) -> dict[str, Any]:
    return {key[1]: value for key, value in held.items() if key[0] == namespace}
