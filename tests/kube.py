"""The kind cluster as the end-to-end tests see it.

`tests/e2e/conftest.py` makes one `Cluster` a session; tests apply manifests, read objects and logs, and wait.
It speaks through the official client's dynamic half, so that custom resources need no generated code, and it
knows nothing of Muster.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ApiException, NotFoundError

from waiting import wait_for

FIELD_MANAGER = "muster-tests"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

Manifest = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running kind cluster. Objects go in and come out as plain dictionaries in the API's own spelling."""

    name: str
    kubeconfig: Path
    tools: Path  # the folder that holds the `kind` of `make cluster`
    api: kubernetes_client.ApiClient
    dynamic: DynamicClient = field(repr=False)
    discovery: tempfile.TemporaryDirectory[str] = field(repr=False)

    @classmethod
    def connect(cls, folder: Path) -> "Cluster":
        """Connect to the cluster that `make cluster` described in `folder`.

        Raises `FileNotFoundError` when there is no such description, `ConnectionError` when nobody answers.
        """
        kubeconfig = folder / "kubeconfig"
        if not kubeconfig.is_file():
            raise FileNotFoundError(f"{kubeconfig} does not exist: run `make cluster`")
        api = kubernetes_config.new_client_from_config(str(kubeconfig))
        api.configuration.retries = False
        try:
            kubernetes_client.VersionApi(api).get_code(_request_timeout=10)
        except Exception as error:
            raise ConnectionError(
                f"{api.configuration.host} does not answer, run `make cluster`: {error}"
            ) from error
        # By default the client shares a temporary file of discovered kinds with other clusters' clients.
        discovery = tempfile.TemporaryDirectory(prefix="muster-discovery-")
        return cls(
            name=folder.name,
            kubeconfig=kubeconfig,
            tools=folder / "bin",
            api=api,
            dynamic=DynamicClient(api, cache_file=f"{discovery.name}/cache.json"),
            discovery=discovery,
        )

    def close(self) -> None:
        """Close the connections and remove the discovery cache."""
        self.api.close()
        self.discovery.cleanup()

    @property
    def core(self) -> kubernetes_client.CoreV1Api:
        """The typed core API, for what the dynamic client lacks (logs, evictions)."""
        return kubernetes_client.CoreV1Api(self.api)

    def kubectl_command(self, namespace: str) -> list[str]:
        """Return how kubectl is called for a namespace."""
        return [str(self.tools / "kubectl"), "--kubeconfig", str(self.kubeconfig), "--namespace", namespace]

    def kubectl(self, namespace: str, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl in a namespace and return its output. Raises `ConnectionError` if it fails."""
        done = subprocess.run(
            [*self.kubectl_command(namespace), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise ConnectionError(f"kubectl {' '.join(arguments)[:200]}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def apply(
        self, manifests: str | Path | Manifest | Iterable[Manifest], *, namespace: str | None = None
    ) -> list[dict[str, Any]]:
        """Apply YAML text, a file of it, one manifest or several, server-side; return what is stored.

        `namespace` is for manifests that name none. Raises the client's `ApiException` when refused.
        """
        return [self._apply(manifest, namespace) for manifest in _manifests(manifests)]

    def _apply(self, manifest: Manifest, namespace: str | None) -> dict[str, Any]:
        resource = self.dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        stored = self.dynamic.server_side_apply(
            resource,
            body=dict(manifest),
            name=manifest["metadata"]["name"],
            namespace=manifest["metadata"].get("namespace", namespace) if resource.namespaced else None,
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )
        return stored.to_dict()

    def get(
        self, kind: str, name: str, *, namespace: str | None = None, api_version: str = "v1"
    ) -> dict[str, Any] | None:
        """Return the object, or None when the server has none of that name."""
        resource = self.dynamic.resources.get(api_version=api_version, kind=kind)
        try:
            return self.dynamic.get(resource, name=name, namespace=namespace).to_dict()
        except NotFoundError:
            return None

    def list(
        self, kind: str, *, namespace: str | None = None, api_version: str = "v1", labels: str = ""
    ) -> list[dict[str, Any]]:
        """Return the objects of one kind, those with `labels` (a selector) only."""
        resource = self.dynamic.resources.get(api_version=api_version, kind=kind)
        return self.dynamic.get(resource, namespace=namespace, label_selector=labels).to_dict()["items"]

    def delete(
        self, kind: str, name: str, *, namespace: str | None = None, api_version: str = "v1", **options: Any
    ) -> None:
        """Ask for the object's deletion; one that is gone is fine. `options` are DeleteOptions' fields."""
        resource = self.dynamic.resources.get(api_version=api_version, kind=kind)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            self.dynamic.delete(resource, name=name, namespace=namespace, body=body)
        except NotFoundError:
            return

    def wait_for_object(
        self,
        kind: str,
        name: str,
        until: Callable[[dict[str, Any] | None], object],
        *,
        namespace: str | None = None,
        api_version: str = "v1",
        timeout_seconds: float = 60,
    ) -> Any:
        """Wait until `until(object or None)` is true and return the object; an error shows the last state."""
        return wait_for(
            lambda: self.get(kind, name, namespace=namespace, api_version=api_version),
            until=until,
            what=f"{kind} {namespace}/{name} in cluster {self.name}",
            timeout_seconds=timeout_seconds,
            every_seconds=0.2,
        )

    def logs(self, pod: str, *, namespace: str, previous: bool = False) -> str:
        """Return what the pod's only container has printed."""
        # As bytes: the client's own decoding turns a log that looks like JSON into a repr of Python objects.
        answer = self.core.read_namespaced_pod_log(pod, namespace, previous=previous, _preload_content=False)
        return answer.data.decode()

    def load_image(self, image: str) -> None:
        """Copy an image that was built on this machine to the worker nodes."""
        workers = [
            node["metadata"]["name"]
            for node in self.list("Node", labels="!node-role.kubernetes.io/control-plane")
        ]
        command = [
            str(self.tools / "kind"),
            "load",
            "docker-image",
            image,
            "--name",
            self.name,
            "--nodes",
            ",".join(workers),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{image} could not be loaded into cluster {self.name}: {done.stderr.strip()}")

    def on_node(self, node: str, *command: str) -> str:
        """Run a command on a node, which is a container of the engine, and return its output."""
        done = subprocess.run(
            ["docker", "exec", node, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConnectionError(f"{' '.join(command)} on {node}: {done.stdout.strip()}")
        return done.stdout

    def kill_container(self, pod: Manifest) -> None:
        """Send SIGKILL to the first process of a pod's first container; the kubelet starts it again."""
        self.on_node(pod["spec"]["nodeName"], *CTR, "kill", "--signal", "SIGKILL", container_id(pod))

    def freeze_container(self, pod: Manifest) -> None:
        """Let the processes of a pod's first container stand still, whatever signal comes."""
        self.on_node(pod["spec"]["nodeName"], *CTR, "pause", container_id(pod))

    def end_container(self, pod: Manifest) -> None:
        """End a frozen container for good: its pod is deleted by then, so nobody starts it again."""
        self.kill_container(pod)
        with contextlib.suppress(ConnectionError):  # where the kernel ends it although it is frozen
            self.on_node(pod["spec"]["nodeName"], *CTR, "resume", container_id(pod))

    def has_process(self, pod: Manifest) -> bool:
        """Whether the first container of a pod, which may be deleted by now, still has processes."""
        return container_id(pod) in self.on_node(pod["spec"]["nodeName"], *CTR, "ls", "--quiet").split()

    def create_namespace(self, name: str) -> None:
        """Create a namespace under the restricted pod security level and wait until pods can start in it."""
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        )
        self.wait_for_object("ServiceAccount", "default", bool, namespace=name)

    def delete_namespace(self, name: str, *, timeout_seconds: float = 120) -> None:
        """Delete a namespace and wait until it is gone; `TimeoutError` shows what holds it."""
        self.delete("Namespace", name)
        try:
            self.wait_for_object(
                "Namespace", name, lambda seen: seen is None, timeout_seconds=timeout_seconds
            )
        except TimeoutError as error:
            left = [pod["metadata"]["name"] for pod in self.list("Pod", namespace=name)]
            logs = [f"log of {pod}:\n{self.logs(pod, namespace=name)[-2000:]}" for pod in left]
            raise TimeoutError("\n".join([str(error), self.describe(name), *logs])) from None

    def describe(self, namespace: str) -> str:
        """Return the namespace's pods and latest events in a few lines, for the report of a failed test."""
        lines = []
        for pod in self.list("Pod", namespace=namespace):
            status = pod.get("status", {})
            lines.append(
                f"pod {pod['metadata']['name']}: {status.get('phase')} {status.get('containerStatuses', [])}"
            )
        events = sorted(
            self.list("Event", namespace=namespace), key=lambda event: event["metadata"]["creationTimestamp"]
        )
        for event in events[-30:]:
            about = event["involvedObject"]
            lines.append(
                f"event {about['kind']} {about['name']}: {event.get('reason')}: {event.get('message')}"
            )
        return "\n".join(lines)


CTR = ("ctr", "--namespace", "k8s.io", "tasks")


def container_id(pod: Manifest) -> str:
    """Return the container runtime's name of a pod's first container."""
    return pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")


def _manifests(given: str | Path | Manifest | Iterable[Manifest]) -> Iterable[Manifest]:
    match given:
        case Path():
            return [document for document in yaml.safe_load_all(given.read_text()) if document]
        case str():
            return [document for document in yaml.safe_load_all(given) if document]
        case Mapping():
            return [given]
        case _:
            return given


__all__ = ["FIELD_MANAGER", "RESTRICTED", "ApiException", "Cluster", "Manifest"]
