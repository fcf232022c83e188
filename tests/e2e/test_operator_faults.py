"""The operator when something goes wrong: brokers, the API server, itself, other people's hands.

It runs as a process of this computer, for namespaces of its own, on a Redis beside it. Pods sleep in
place of a worker; where it matters what workers do, `PretendWorkers` report it.
"""

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_proxy import ApiProxy
from kube import Cluster
from operators import OperatorProcess
from pretend_workers import PretendWorkers
from resources import API_VERSION, task_queue, worker_pool
from servers import RedisServer
from waiting import wait_for

ASLEEP = {
    "spec": {
        "securityContext": {"runAsUser": 10001},
        "containers": [
            {
                "name": "worker",
                "command": ["sh", "-c"],
                "args": ["trap 'exit 0' TERM; while :; do sleep 1; done"],
                "startupProbe": None,
                "livenessProbe": None,
                "readinessProbe": None,
            }
        ],
    }
}
"""A pod template without Muster's engine: such a pod is ready as soon as it runs."""
AT_ONCE = {"behavior": {"scaleDown": {"stabilizationSeconds": 0}}}
GOES_ON = "On the cluster: an operator killed, or cut off from the API server, goes on where it was"


def of_condition(seen: dict[str, Any] | None, kind: str) -> tuple[str, str] | None:
    """Return status and reason of a condition of an object; None while there is none."""
    for each in ((seen or {}).get("status") or {}).get("conditions") or []:
        if each["type"] == kind:
            return each["status"], each["reason"]
    return None


def started(kubeconfig: Path, namespace: str, identity: str = "one") -> OperatorProcess:
    """Return an operator that is ready and leads."""
    return OperatorProcess(kubeconfig, namespace, identity=identity).wait_ready().wait_leading()


def secret(url: str, name: str = "broker") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"url": url}}


def sleeping_pool(name: str, queues: list[str], **spec: Any) -> dict[str, Any]:
    spec = {"pool": {"type": "prefork", "concurrency": 1}, "template": ASLEEP} | spec
    return worker_pool(name, image="python:3.13-slim", queues=queues, **spec)


class World:
    """A namespace, an operator that sees to it, and a Redis."""

    def __init__(
        self, cluster: Cluster, namespace: str, operator: OperatorProcess, server: RedisServer
    ) -> None:
        self.cluster, self.namespace, self.operator, self.server = cluster, namespace, operator, server

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.cluster.apply(manifests, namespace=self.namespace)

    def get(self, kind: str, name: str, api_version: str = API_VERSION) -> dict[str, Any] | None:
        return self.cluster.get(kind, name, namespace=self.namespace, api_version=api_version)

    def change(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Merge into the spec of an object."""
        resource = self.cluster.dynamic.resources.get(api_version=API_VERSION, kind=kind)
        self.cluster.dynamic.patch(
            resource,
            body={"spec": spec},
            name=name,
            namespace=self.namespace,
            content_type="application/merge-patch+json",
        )

    def delete(self, kind: str, name: str, api_version: str = API_VERSION) -> None:
        self.cluster.delete(kind, name, namespace=self.namespace, api_version=api_version)

    def wait_condition(
        self, kind: str, name: str, condition: str, *wanted: str, timeout_seconds: float = 30
    ) -> dict[str, Any]:
        """Wait until the condition has the status and, if given, the reason that are wanted."""
        return self.cluster.wait_for_object(
            kind,
            name,
            lambda seen: (of_condition(seen, condition) or ())[: len(wanted)] == wanted,
            namespace=self.namespace,
            api_version=API_VERSION,
            timeout_seconds=timeout_seconds,
        )

    def deployments(self, pool: str) -> list[dict[str, Any]]:
        return self.cluster.list(
            "Deployment", namespace=self.namespace, api_version="apps/v1", labels=f"muster.dev/pool={pool}"
        )

    def deployment(self, pool: str) -> dict[str, Any]:
        """Wait until the pool has one Deployment, and return it."""
        [found] = wait_for(
            lambda: self.deployments(pool), until=lambda seen: len(seen) == 1, what=f"Deployment of {pool}"
        )
        return found

    def wait_replicas(self, pool: str, count: int, *, timeout_seconds: float = 30) -> dict[str, Any]:
        wait_for(
            lambda: [each["spec"]["replicas"] for each in self.deployments(pool)],
            until=lambda seen: seen == [count],
            what=f"{count} replicas of {pool}",
            timeout_seconds=timeout_seconds,
        )
        return self.deployments(pool)[0]

    def push(self, queue: str, count: int) -> None:
        """Put so many messages into a queue."""
        with self.server.client() as client:
            client.lpush(queue, *[json.dumps({"body": "", "n": number}) for number in range(count)])

    def clear(self, queue: str) -> None:
        with self.server.client() as client:
            client.delete(queue)

    def pods(self, pool: str) -> list[dict[str, Any]]:
        return self.cluster.list("Pod", namespace=self.namespace, labels=f"muster.dev/pool={pool}")

    def events(self, reason: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self.cluster.list("Event", namespace=self.namespace, api_version="events.k8s.io/v1")
            if event.get("reason") == reason
        ]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis for this module; tests have queues of their own on it."""
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def world(crds: Cluster, server: RedisServer) -> Iterator[World]:
    """One operator and namespace for the tests that need nothing of their own; objects have own names."""
    cluster, namespace = crds, f"operator-{secrets.token_hex(3)}"
    cluster.create_namespace(namespace)
    cluster.apply(secret(server.url), namespace=namespace)
    with started(cluster.kubeconfig, namespace) as operator:
        yield World(cluster, namespace, operator, server)
        print(operator.log[-3000:])
    cluster.delete_namespace(namespace)


@pytest.fixture
def own(cluster: Cluster, crds: Cluster, namespace: str, own_redis_server: RedisServer) -> Iterator[World]:
    """An operator, namespace and Redis of this test's own, to be broken."""
    cluster.apply(secret(own_redis_server.url), namespace=namespace)
    with started(cluster.kubeconfig, namespace) as operator:
        yield World(cluster, namespace, operator, own_redis_server)
        print(operator.log[-3000:])


def test_manifests_become_a_deployment_and_a_budget(world: World):
    """A pool has one Deployment named after its content and a PodDisruptionBudget, both owned by it."""
    world.apply(task_queue("made"), sleeping_pool("made", ["made"]))
    pool = world.wait_condition("WorkerPool", "made", "Ready", "True")
    deployment = world.deployment("made")
    name = deployment["metadata"]["name"]
    assert (
        name == pool["status"]["deployment"] == f"made-{deployment['metadata']['labels']['muster.dev/hash']}"
    )
    assert deployment["spec"]["replicas"] == 0
    budget = world.get("PodDisruptionBudget", "made", "policy/v1")
    for child in (deployment, budget):
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("WorkerPool", pool["metadata"]["uid"])
    template = deployment["spec"]["template"]["spec"]
    assert template["automountServiceAccountToken"] is False
    assert template["terminationGracePeriodSeconds"] == 615
    queue = world.wait_condition("TaskQueue", "made", "Ready", "True")
    assert of_condition(queue, "BrokerReachable") == ("True", "AsDeclared")
    assert of_condition(queue, "EvictionPolicyUnsafe") == ("False", "AsDeclared")
    assert (queue["status"]["depth"], queue["status"]["type"]) == (0, "Redis")


@pytest.mark.soak("On the cluster: only idle workers are taken away", repeat=0.3)
def test_only_workers_that_do_nothing_are_taken_away(world: World):
    """A shrinking pool tells its idle workers to drain and takes those, never one that runs a task."""
    world.apply(
        task_queue("shrink"),
        sleeping_pool(
            "shrink", ["shrink"], scaling={"maxReplicas": 4, "target": {"utilization": 100}} | AT_ONCE
        ),
    )
    world.wait_condition("WorkerPool", "shrink", "ScalingActive", "True", "LoadKnown")
    world.push("shrink", 4)
    world.wait_replicas("shrink", 4)
    with PretendWorkers(
        world.cluster, world.namespace, "shrink", url=world.server.url, queue="shrink"
    ) as workers:
        names = wait_for(
            lambda: set(workers.pods().values()),
            until=lambda seen: len(seen) == 4,
            what="four pods",
            timeout_seconds=90,
        )
        busy = set(sorted(names)[:2])
        workers.busy |= busy
        figure = f'muster_pool_busy_slots{{pool="{world.namespace}/shrink"}}'
        wait_for(lambda: world.operator.metric(figure) == 2, what="the operator has heard of the busy two")
        world.clear("shrink")
        world.wait_replicas("shrink", 2, timeout_seconds=60)
        left = wait_for(
            lambda: set(workers.pods().values()), until=lambda seen: len(seen) == 2, what="two pods"
        )
        assert left == busy
        assert not busy & workers.draining
        workers.busy.clear()
        world.wait_replicas("shrink", 0, timeout_seconds=60)
        assert workers.draining == names


def test_an_unreadable_queue_takes_nothing_away(own: World):
    """While Redis is away the size stays; when it is back, scaling goes on by itself."""
    own.apply(
        task_queue("mail"),
        sleeping_pool("mail", ["mail"], scaling={"maxReplicas": 5, "target": {"utilization": 100}} | AT_ONCE),
    )
    own.wait_condition("WorkerPool", "mail", "ScalingActive", "True", "LoadKnown")
    own.push("mail", 2)
    own.wait_replicas("mail", 2)
    own.server.kill9()
    own.wait_condition("WorkerPool", "mail", "ScalingActive", "False", "LoadUnknown")
    own.wait_condition("TaskQueue", "mail", "Ready", "False", "BrokerUnreachable")
    assert own.deployment("mail")["spec"]["replicas"] == 2
    own.server.start()
    own.push("mail", 1)
    own.wait_replicas("mail", 3)
    own.wait_condition("TaskQueue", "mail", "Ready", "True")
    own.cluster.wait_for_object(
        "WorkerPool",
        "mail",
        lambda seen: (decision := seen["status"]["lastDecision"])["from"] == 2 and decision["to"] == 3,
        namespace=own.namespace,
        api_version=API_VERSION,
    )


def test_each_broken_secret_has_a_reason_of_its_own_and_heals(world: World):
    """Missing, without a URL, wrong password, unreachable, of another broker; and then right."""
    name = "vault"
    world.apply(
        task_queue("vault", broker={"secretRef": {"name": name}}),
        sleeping_pool("vault", ["vault"]),
    )
    world.wait_condition("TaskQueue", "vault", "BrokerReachable", "False", "SecretNotFound")
    seen = world.wait_condition("WorkerPool", "vault", "Ready", "False", "SecretNotFound")
    message = next(c["message"] for c in seen["status"]["conditions"] if c["type"] == "Ready")
    assert name in message
    assert "create it" in message or "needs the key url" in message

    with world.server.client() as client:
        client.acl_setuser("app", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    place = f"127.0.0.1:{world.server.port}/0"
    for url, reason in (
        ("", "SecretInvalid"),
        (f"redis://app:wrong-and-secret@{place}", "AuthFailed"),
        ("redis://127.0.0.1:1/0", "BrokerUnreachable"),
        ("amqp://guest:guest@127.0.0.1:1/", "BrokerUnreachable"),
    ):
        world.apply(secret(url, name))
        world.wait_condition("TaskQueue", "vault", "BrokerReachable", "False", reason)
        world.wait_condition("WorkerPool", "vault", "Ready", "False", reason)
    world.apply(secret(f"redis://app:right@{place}", name))
    world.wait_condition("TaskQueue", "vault", "Ready", "True")
    world.wait_condition("WorkerPool", "vault", "Ready", "True")
    for shown in (
        world.operator.log,
        str(world.cluster.list("Event", namespace=world.namespace)),
        str(world.get("TaskQueue", "vault")),
        world.operator._get("/metrics"),
    ):
        assert "wrong-and-secret" not in shown


def test_children_changed_or_deleted_by_hand_come_back(world: World):
    """What the operator applied is restored; what others added stays."""
    world.apply(task_queue("drift"), sleeping_pool("drift", ["drift"]))
    name = world.deployment("drift")["metadata"]["name"]
    apps = {"api_version": "apps/v1", "namespace": world.namespace}

    def grace(seen: dict[str, Any] | None) -> int | None:
        return seen and seen["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")

    resource = world.cluster.dynamic.resources.get(api_version="apps/v1", kind="Deployment")
    world.cluster.dynamic.patch(
        resource,
        name=name,
        namespace=world.namespace,
        content_type="application/merge-patch+json",
        body={
            "metadata": {"annotations": {"somebody": "else"}},
            "spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}},
        },
    )
    seen = world.cluster.wait_for_object("Deployment", name, lambda seen: grace(seen) == 615, **apps)
    assert seen["metadata"]["annotations"]["somebody"] == "else"
    world.delete("Deployment", name, "apps/v1")
    world.delete("PodDisruptionBudget", "drift", "policy/v1")
    before = seen["metadata"]["uid"]
    world.cluster.wait_for_object(
        "Deployment", name, lambda seen: seen is not None and seen["metadata"]["uid"] != before, **apps
    )
    world.cluster.wait_for_object(
        "PodDisruptionBudget", "drift", bool, namespace=world.namespace, api_version="policy/v1"
    )


def test_a_refused_template_shows_the_api_servers_words_and_the_old_version_stays(world: World):
    """The pool keeps its Deployment, tells what was refused, does not try on and on, and heals."""
    world.apply(task_queue("strict"), sleeping_pool("strict", ["strict"]))
    world.wait_condition("WorkerPool", "strict", "Ready", "True")
    first = world.deployment("strict")["metadata"]["name"]
    bad = json.loads(json.dumps(ASLEEP))
    bad["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes"
    world.change("WorkerPool", "strict", {"template": bad})
    seen = world.wait_condition("WorkerPool", "strict", "TemplateRejected", "True", "RejectedByAPIServer")
    assert "Sometimes" in json.dumps(seen["status"]["conditions"])
    assert world.deployment("strict")["metadata"]["name"] == first
    wait_for(lambda: world.events("RejectedByAPIServer"), what="the event")
    good = json.loads(json.dumps(ASLEEP))
    good["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    world.change("WorkerPool", "strict", {"template": good})
    world.wait_condition("WorkerPool", "strict", "TemplateRejected", "False", "Accepted")
    world.wait_condition("WorkerPool", "strict", "Ready", "True")
    wait_for(lambda: world.deployment("strict")["metadata"]["name"] != first, what="the new version alone")


def test_an_exceeded_quota_is_told_in_the_api_servers_words(own: World):
    """Pods that a quota forbids show in the pool's condition, and nothing loops."""
    own.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "few"},
            "spec": {"hard": {"pods": "1"}},
        },
        task_queue("mail"),
        sleeping_pool("mail", ["mail"], scaling={"maxReplicas": 5, "target": {"utilization": 100}}),
    )
    own.wait_condition("WorkerPool", "mail", "ScalingActive", "True", "LoadKnown")
    own.push("mail", 3)
    own.wait_replicas("mail", 3)
    seen = own.wait_condition("WorkerPool", "mail", "Ready", "False", "WorkersNotReady")
    assert "exceeded quota: few" in json.dumps(seen["status"]["conditions"])


def test_no_object_carries_a_key_of_kopf(world: World):
    """Neither annotations nor finalizers nor managed fields of the framework are on any object."""
    world.apply(task_queue("clean", deletionPolicy="Delete"), sleeping_pool("clean", ["clean"]))
    world.wait_condition("WorkerPool", "clean", "Ready", "True")
    world.cluster.wait_for_object(
        "TaskQueue",
        "clean",
        lambda seen: seen["metadata"].get("finalizers") == ["muster.dev/queue"],
        namespace=world.namespace,
        api_version=API_VERSION,
    )
    for api_version, kind in (
        (API_VERSION, "TaskQueue"),
        (API_VERSION, "WorkerPool"),
        (API_VERSION, "Schedule"),
        ("apps/v1", "Deployment"),
        ("policy/v1", "PodDisruptionBudget"),
        ("v1", "Pod"),
        ("v1", "Event"),
    ):
        found = world.cluster.list(kind, namespace=world.namespace, api_version=api_version)
        assert "kopf" not in json.dumps(found, default=str).lower()
    world.delete("TaskQueue", "clean")
    world.cluster.wait_for_object(
        "TaskQueue", "clean", lambda seen: seen is None, namespace=world.namespace, api_version=API_VERSION
    )


def test_a_queue_that_is_to_go_goes_only_when_it_is_empty(world: World):
    """deletionPolicy Delete: an empty queue is removed, one with messages stays with an event."""
    for name in ("empty", "full"):
        world.apply(task_queue(name, deletionPolicy="Delete"))
        world.wait_condition("TaskQueue", name, "Ready", "True")
    world.push("full", 2)
    gone = {"namespace": world.namespace, "api_version": API_VERSION}
    for name in ("empty", "full"):
        wait_for(lambda n=name: world.get("TaskQueue", n)["metadata"].get("finalizers"), what="the finalizer")
        world.delete("TaskQueue", name)
        world.cluster.wait_for_object("TaskQueue", name, lambda seen: seen is None, **gone)
    [event] = wait_for(lambda: world.events("QueueRetained"), what="the event")
    assert "full" in event["note"]
    with world.server.client() as client:
        assert client.llen("full") == 2


def test_the_younger_of_two_taskqueues_for_one_queue_yields(world: World):
    """Two TaskQueues for one real queue: the older owns it, the other says Conflict, until it is alone."""
    world.apply(task_queue("elder", queueName="shared"))
    world.wait_condition("TaskQueue", "elder", "Ready", "True")
    # creation times have whole seconds
    born = world.get("TaskQueue", "elder")["metadata"]["creationTimestamp"]
    wait_for(lambda: _now(world.cluster) > born, what="the next second")
    world.apply(task_queue("younger", queueName="shared"))
    world.wait_condition("TaskQueue", "younger", "Conflict", "True", "OwnedByOlder")
    assert of_condition(world.get("TaskQueue", "elder"), "Conflict") == ("False", "AsDeclared")
    world.delete("TaskQueue", "elder")
    world.wait_condition("TaskQueue", "younger", "Ready", "True")


def _now(cluster: Cluster) -> str:
    probe = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "probe-of-time"}}
    resource = cluster.dynamic.resources.get(api_version="v1", kind="Namespace")
    made = cluster.dynamic.create(resource, body=probe, dry_run="All")
    return made.to_dict()["metadata"]["creationTimestamp"]


def test_a_steady_cluster_costs_the_api_server_the_lease(
    cluster: Cluster, namespace: str, server: RedisServer
):
    """With pools, queues and workers that change nothing, no request is made but the Lease's renewals."""
    cluster.apply(secret(server.url), namespace=namespace)
    with ApiProxy(cluster) as proxy, started(proxy.kubeconfig, namespace) as operator:
        world = World(cluster, namespace, operator, server)
        for number in range(3):
            name = f"steady-{number}"
            world.apply(task_queue(name), sleeping_pool(name, [name], scaling={"minReplicas": 1}))
        with PretendWorkers(cluster, namespace, "steady-0", url=server.url, queue="steady-0"):
            for number in range(3):
                world.wait_condition("WorkerPool", f"steady-{number}", "Ready", "True", timeout_seconds=90)
            # a figure of a status may wait 30 s for its turn
            wait_for(lambda: _is_quiet(proxy, 31), what="the end of all changes", timeout_seconds=180)
            before = len(proxy.asked)
            began = time.monotonic()
            wait_for(lambda: time.monotonic() - began > 35, what="a whole round", timeout_seconds=40)
            asked = proxy.asked[before:]
    others = [each for each in asked if "/leases/" not in each.path and not each.watch]
    print(f"{len(asked)} requests in 35 s: {[(each.verb, each.path) for each in others]}")
    assert others == []
    assert 8 <= len([each for each in asked if not each.watch]) <= 14


def _is_quiet(proxy: ApiProxy, seconds: float) -> bool:
    """Whether nothing but the Lease is asked for, for so long."""
    before, began = len(proxy.asked), time.monotonic()
    while time.monotonic() - began < seconds:
        if any("/leases/" not in each.path for each in proxy.asked[before:]):
            return False
        time.sleep(0.1)
    return True


@pytest.mark.soak(GOES_ON, repeat=0.3)
def test_an_operator_that_was_killed_converges(own: World):
    """SIGKILL, changes while nobody looks, start: the cluster comes to what the manifests and loads say."""
    own.apply(
        task_queue("mail"),
        sleeping_pool("mail", ["mail"], scaling={"maxReplicas": 5, "target": {"utilization": 100}} | AT_ONCE),
        task_queue("gone"),
        sleeping_pool("gone", ["gone"]),
    )
    own.wait_condition("WorkerPool", "mail", "Ready", "True")
    own.wait_condition("WorkerPool", "gone", "Ready", "True")
    own.push("mail", 2)
    own.operator.kill()
    own.push("mail", 1)
    own.delete("WorkerPool", "gone")
    own.apply(task_queue("new"), sleeping_pool("new", ["new"], scaling={"minReplicas": 1}))
    with started(own.cluster.kubeconfig, own.namespace, identity="another"):
        own.wait_replicas("mail", 3)
        own.wait_replicas("new", 1)
        wait_for(lambda: not own.deployments("gone"), what="no Deployment of the deleted pool")
        assert len(own.deployments("mail")) == 1


@pytest.mark.soak(GOES_ON, repeat=0.3)
def test_the_operator_survives_an_outage_of_the_api_server(
    cluster: Cluster, crds: Cluster, namespace: str, own_redis_server: RedisServer
):
    """While the API server is away nothing ends; when it is back the operator goes on where it was."""
    cluster.apply(secret(own_redis_server.url), namespace=namespace)
    with ApiProxy(cluster) as proxy, started(proxy.kubeconfig, namespace) as operator:
        world = World(cluster, namespace, operator, own_redis_server)
        world.apply(
            task_queue("outage"),
            sleeping_pool("outage", ["outage"], scaling={"maxReplicas": 5, "target": {"utilization": 100}}),
        )
        world.wait_condition("WorkerPool", "outage", "ScalingActive", "True", "LoadKnown")
        proxy.outage()
        wait_for(lambda: operator.metric("muster_operator_leader") == 0.0, what="the end of the lease")
        world.push("outage", 2)
        assert world.deployment("outage")["spec"]["replicas"] == 0
        proxy.resume()
        world.wait_replicas("outage", 2, timeout_seconds=60)
        world.change("WorkerPool", "outage", {"scaling": {"minReplicas": 3}})
        world.wait_replicas("outage", 3)
        assert operator.process.poll() is None


def test_a_namespace_goes_with_everything_in_it(
    cluster: Cluster, namespace: str, own_redis_server: RedisServer
):
    """Deletion of a namespace ends soon, with a queue to be deleted, running pods and the broker away."""
    server = own_redis_server
    cluster.apply(secret(server.url), namespace=namespace)
    with started(cluster.kubeconfig, namespace) as operator:
        world = World(cluster, namespace, operator, server)
        world.apply(
            task_queue("mail", deletionPolicy="Delete"),
            sleeping_pool("mail", ["mail"], scaling={"minReplicas": 1}, drain={"timeout": "1s"}),
        )
        world.wait_condition("WorkerPool", "mail", "Ready", "True")
        assert world.get("TaskQueue", "mail")["metadata"]["finalizers"] == ["muster.dev/queue"]
        server.kill9()
        began = time.monotonic()
        cluster.delete_namespace(namespace, timeout_seconds=90)
        print(f"the namespace was gone after {time.monotonic() - began:.0f} s")
        assert operator.process.poll() is None
