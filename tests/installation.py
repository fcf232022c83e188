"""Muster installed on the kind cluster by its own chart, as `make install` does it."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kube import Cluster
from waiting import wait_for

ROOT = Path(__file__).parents[1]
NAMESPACE = "muster-system"
RELEASE = "muster"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    output: str


def fresh(prefix: str) -> str:
    """Return a namespace's name that nobody had before."""
    return f"{prefix}-{secrets.token_hex(3)}"


class Installation:
    """One release of the chart."""

    def __init__(self, cluster: Cluster, *, shop: str):
        self.cluster = cluster
        self.shop = shop
        """The namespace that the operator sees to."""

    def upgrade(self, *arguments: str) -> None:
        """Build and load the images where they have changed; install or upgrade."""
        command = [ROOT / "tests/cluster/install", "--set", f"watch.namespaces={{{self.shop}}}", *arguments]
        environment = {**os.environ, "MUSTER_CLUSTER": self.cluster.name}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"Muster was not installed:\n{done.stdout}\n{self.cluster.describe(NAMESPACE)}"
            )

    def serve(self, *namespaces: str) -> None:
        """Let the operator see to these namespaces beside the shop's, with all else as it is."""
        served = ",".join((self.shop, *namespaces))
        values = ["--reuse-values", "--set", f"watch.namespaces={{{served}}}"]
        done = self.helm("upgrade", RELEASE, str(ROOT / "helm/muster"), *values, "--wait", "--timeout", "3m")
        if done.code:
            raise RuntimeError(f"Muster was not upgraded:\n{done.output}\n{self.cluster.describe(NAMESPACE)}")

    @contextlib.contextmanager
    def served_namespace(self, name: str) -> Iterator[str]:
        """Make a namespace that the operator sees to as well, and let it go at the end.

        Whoever makes objects there removes those that wait for the operator.
        """
        self.cluster.create_namespace(name)
        try:
            self.serve(name)
            yield name
        finally:
            self.serve()
            self.cluster.delete_namespace(name, timeout_seconds=180)

    def helm(self, *arguments: str) -> Done:
        """Run helm for the release's namespace."""
        command = [str(self.cluster.tools / "helm"), *arguments, "--namespace", NAMESPACE]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return Done(code=done.returncode, output=done.stdout)

    def remove(self) -> None:
        """Uninstall, and remove the namespace."""
        self.helm("uninstall", RELEASE, "--wait", "--ignore-not-found")
        self.cluster.delete_namespace(NAMESPACE)

    def operators(self) -> dict[str, dict]:
        """Return the operator's pods that are not on their way out, by name."""
        found = self.cluster.list("Pod", namespace=NAMESPACE, labels="app.kubernetes.io/component=operator")
        return {p["metadata"]["name"]: p for p in found if not p["metadata"].get("deletionTimestamp")}

    def restart_operator(self) -> str:
        """Kill the operator's pod and wait until another leads; return its name."""
        old = self.operators()
        for name in old:
            self.cluster.delete("Pod", name, namespace=NAMESPACE, gracePeriodSeconds=0)

        def leader() -> str:
            lease = self.cluster.get(
                "Lease", "muster-operator", namespace=NAMESPACE, api_version="coordination.k8s.io/v1"
            )
            return (lease or {}).get("spec", {}).get("holderIdentity") or ""

        return wait_for(
            leader,
            until=lambda name: name and name not in old,
            what="another operator leads",
            timeout_seconds=60,
        )
