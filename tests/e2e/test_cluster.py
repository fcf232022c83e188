"""The cluster itself: what every other end-to-end test takes for granted."""

import pytest

from kube import ApiException, Cluster
from waiting import wait_for

UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
UNPRIVILEGED_POD = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
# A Service's rules reach the nodes within a second or two of its endpoints, so a client tries again.
PING = r"""
import socket, time
deadline = time.monotonic() + 60
while True:
    try:
        with socket.create_connection(("redis", 6379), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            print(connection.recv(64).decode().strip())
            break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.2)
"""


def workers(cluster: Cluster) -> list[str]:
    return sorted(
        n["metadata"]["name"] for n in cluster.list("Node", labels="!node-role.kubernetes.io/control-plane")
    )


def pod(
    name: str, *, image: str, command: list[str], node: str | None = None, restart: str = "Never"
) -> dict:
    container = {"name": name, "image": image, "command": command, "securityContext": UNPRIVILEGED}
    container |= {"volumeMounts": [{"name": "data", "mountPath": "/data"}], "workingDir": "/data"}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "securityContext": UNPRIVILEGED_POD,
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    }


def finished(seen: dict | None) -> bool:
    return seen is not None and seen["status"]["phase"] in ("Succeeded", "Failed")


def ready(seen: dict | None) -> bool:
    conditions = (seen or {}).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_one_control_plane_and_two_workers_are_ready(cluster: Cluster):
    """The cluster has the three nodes of kind-config.yaml, each of them Ready."""
    conditions = {
        node["metadata"]["name"]: {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"]
        for node in cluster.list("Node")
    }
    assert conditions == {f"{cluster.name}-{node}": "True" for node in ("control-plane", "worker", "worker2")}


def test_a_restricted_pod_runs_to_completion_on_a_worker_node(cluster: Cluster, namespace: str):
    """python:3.13-slim runs under the restricted level on a worker node, and what it prints can be read."""
    program = "import platform; print('running on Python', platform.python_version())"
    cluster.apply(
        pod("hello", image="python:3.13-slim", command=["python", "-c", program]), namespace=namespace
    )
    done = cluster.wait_for_object("Pod", "hello", finished, namespace=namespace, timeout_seconds=180)
    assert done["status"]["phase"] == "Succeeded"
    assert done["spec"]["nodeName"] in workers(cluster)
    assert cluster.logs("hello", namespace=namespace).startswith("running on Python 3.13.")


def test_a_privileged_pod_is_refused(cluster: Cluster, namespace: str):
    """The test namespaces enforce the restricted level, so a pod that asks for more is not admitted."""
    wanting = pod("root", image="python:3.13-slim", command=["true"])
    wanting["spec"]["securityContext"] = {}
    with pytest.raises(ApiException, match="violates PodSecurity"):
        cluster.apply(wanting, namespace=namespace)


def proxies(cluster: Cluster, node: str) -> list[dict]:
    found = cluster.list("Pod", namespace="kube-system", labels="k8s-app=kube-proxy")
    return [each for each in found if each["spec"].get("nodeName") == node]


def test_a_service_name_reaches_redis_on_the_other_node(cluster: Cluster, namespace: str):
    """A pod on one worker node resolves a Service by name and gets PONG from redis:8 on the other node; also
    after the node's kube-proxy has started anew and read its own rules back, as it does every hour."""
    here, there = workers(cluster)
    redis = ["redis-server", "--save", "", "--protected-mode", "no"]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis"},
        "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379}]},
    }
    cluster.apply([service, pod("redis", image="redis:8", command=redis, node=there)], namespace=namespace)

    def ping(name: str) -> None:
        made = pod(
            name, image="python:3.13-slim", command=["python", "-c", PING], node=here, restart="OnFailure"
        )
        cluster.apply(made, namespace=namespace)
        done = cluster.wait_for_object("Pod", name, finished, namespace=namespace, timeout_seconds=180)
        assert done["status"]["phase"] == "Succeeded"
        assert done["spec"]["nodeName"] == here
        assert cluster.logs(name, namespace=namespace).strip() == "+PONG"

    ping("before")
    [old] = proxies(cluster, here)
    cluster.delete("Pod", old["metadata"]["name"], namespace="kube-system")
    wait_for(
        lambda: [each for each in proxies(cluster, here) if ready(each)],
        until=lambda found: [each["metadata"]["uid"] for each in found] not in ([], [old["metadata"]["uid"]]),
        what="the node's new kube-proxy",
        timeout_seconds=60,
    )
    ping("after")
