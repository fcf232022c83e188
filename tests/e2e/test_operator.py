"""The operator on a real API server and a real Redis: what it makes, what it says, what it costs.

It runs as a process of this computer. Its pools' image does not exist, so that their pods never start: what
workers do is shown by the main job's tests.
"""

import time

import pytest
import redis

from operators import OperatorProcess
from waiting import wait_for

API = "muster.dev/v1beta1"
REDIS = """
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  terminationGracePeriodSeconds: 1
  containers:
    - name: redis
      image: redis:8
      imagePullPolicy: IfNotPresent
      command: [redis-server, --protected-mode, "no", --requirepass, secret, --dir, /tmp]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {type: NodePort, selector: {app: redis}, ports: [{port: 6379}]}
"""


class World:
    """A namespace with a Redis, and makers of our resources."""

    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.namespace = namespace
        cluster.apply(REDIS, namespace=namespace)
        cluster.wait_for_object(
            "Pod", "redis", until=lambda p: p and _is_true(p, "Ready"), namespace=namespace
        )
        service = cluster.get("Service", "redis", namespace=namespace)
        node = cluster.list("Node")[0]
        address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        self.place = f"{address}:{service['spec']['ports'][0]['nodePort']}"
        self.url = f"redis://:secret@{self.place}/0"
        self.redis = redis.Redis.from_url(self.url)
        wait_for(self._answers, what="Redis answers through its Service")

    def _answers(self):
        try:
            return self.redis.ping()
        except redis.ConnectionError:
            return False

    def secret(self, url=None, name="broker"):
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name},
                "stringData": {"url": url or self.url},
            },
            namespace=self.namespace,
        )

    def resource(self, kind, name, **spec):
        self.cluster.apply(
            {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec},
            namespace=self.namespace,
        )

    def queue(self, name="mail", **spec):
        self.resource("TaskQueue", name, broker={"secretRef": {"name": "broker"}}, **spec)

    def pool(self, name="mail", **spec):
        defaults = {
            "image": "nowhere.invalid/shop:1",
            "app": "shop",
            "queues": ["mail"],
            "pool": {"type": "prefork", "concurrency": 2},
            "scaling": {"minReplicas": 0, "maxReplicas": 5},
        }
        self.resource("WorkerPool", name, **{**defaults, **spec})

    def push(self, count, queue="mail"):
        self.redis.lpush(queue, *[f'{{"n": {n}}}' for n in range(count)])

    def condition(self, kind, name, of):
        body = self.cluster.get(kind, name, api_version=API, namespace=self.namespace)
        found = [c for c in (body.get("status") or {}).get("conditions") or [] if c["type"] == of]
        return (found[0]["status"], found[0]["reason"], found[0]["message"]) if found else ("", "", "")

    def wait_condition(self, kind, name, of, reason):
        return wait_for(
            lambda: self.condition(kind, name, of),
            until=lambda found: found[1] == reason,
            what=f"{kind} {name} says {of}: {reason}",
        )

    def deployments(self):
        return self.cluster.list("Deployment", api_version="apps/v1", namespace=self.namespace)

    def replicas(self):
        return sum(deployment["spec"]["replicas"] for deployment in self.deployments())


def _is_true(body, condition):
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


@pytest.fixture
def world(cluster, namespace, crds):
    world = World(cluster, namespace)
    yield world
    world.redis.close()


@pytest.fixture
def operator(cluster, namespace):
    with OperatorProcess(cluster.kubeconfig, namespace) as operator:
        yield operator.wait_ready().wait_leading()
        print(operator.log)


def test_a_backlog_is_answered_in_one_step(world, operator):
    """From zero to the size that the backlog needs, within seconds, with the reason in the status."""
    world.secret()
    world.queue()
    world.pool(scaling={"minReplicas": 0, "maxReplicas": 10})
    world.wait_condition("TaskQueue", "mail", "Ready", "AsDeclared")
    world.wait_condition("WorkerPool", "mail", "Ready", "AsDeclared")
    assert world.cluster.list("PodDisruptionBudget", api_version="policy/v1", namespace=world.namespace)
    assert world.replicas() == 0
    began = time.monotonic()
    world.push(7)
    size = wait_for(world.replicas, until=lambda n: n > 0, what="replicas", every_seconds=0.02)
    seconds = time.monotonic() - began
    print(f"replicas requested {seconds:.2f} s after the backlog appeared")
    assert seconds < 10
    assert size == 5  # 7 messages on slots of which 80 % shall be busy, 2 a worker: 7 / 1.6, rounded up
    pool = wait_for(
        lambda: world.cluster.get("WorkerPool", "mail", api_version=API, namespace=world.namespace),
        until=lambda p: p["status"].get("lastDecision"),
        what="a decision in the status",
    )
    decision = pool["status"]["lastDecision"]
    assert (decision["from"], decision["to"]) == (0, size)
    assert decision["inputs"]["ready"] == 7


def test_each_trouble_with_the_broker_has_its_own_reason_and_heals(world, operator):
    """No Secret, no URL in it, a wrong password, nobody at the address: told apart, each with a remedy."""
    world.queue()
    world.pool()
    _, _, message = world.wait_condition("TaskQueue", "mail", "BrokerReachable", "SecretNotFound")
    assert "broker" in message
    world.secret("not a url")
    world.wait_condition("TaskQueue", "mail", "BrokerReachable", "SecretInvalid")
    world.secret(f"redis://:wrong@{world.place}/0")
    _, _, message = world.wait_condition("TaskQueue", "mail", "BrokerReachable", "AuthFailed")
    assert ":wrong@" not in message
    world.secret("redis://127.0.0.1:1/0")
    world.wait_condition("TaskQueue", "mail", "BrokerReachable", "BrokerUnreachable")
    world.wait_condition("WorkerPool", "mail", "Ready", "BrokerUnreachable")
    world.secret()
    world.wait_condition("TaskQueue", "mail", "Ready", "AsDeclared")
    world.wait_condition("WorkerPool", "mail", "Ready", "AsDeclared")


def test_a_steady_cluster_costs_the_lease_and_nothing_else(world, operator):
    """Ten quiet seconds: one PUT for each renewal; and no object carries a word of kopf's."""
    world.secret()
    world.queue()
    world.pool()
    world.wait_condition("WorkerPool", "mail", "Ready", "AsDeclared")
    wait_for(lambda: _quiet(operator), what="the last write of the beginning is done")
    before = operator.requests()
    time.sleep(10)  # a rate needs a time: the one thing here that is measured by it
    after = operator.requests()
    spent = {verb: after[verb] - before[verb] for verb in after}
    assert 0 < spent.pop("PUT") <= 5
    assert spent == {"GET": 0, "POST": 0, "PATCH": 0, "DELETE": 0}
    for kind, version in [("TaskQueue", API), ("WorkerPool", API), ("Deployment", "apps/v1")]:
        for body in world.cluster.list(kind, api_version=version, namespace=world.namespace):
            assert "kopf" not in str(body)


def _quiet(operator):
    before = operator.metric('muster_api_requests_total{verb="PATCH"}')
    time.sleep(2)  # a rate needs a time
    return operator.metric('muster_api_requests_total{verb="PATCH"}') == before


def test_an_unknown_load_moves_nothing(world, operator):
    """The broker goes away with a pool at work: the size stays, and the pool says why."""
    world.secret()
    world.queue()
    world.pool()
    world.push(4)
    size = wait_for(world.replicas, until=lambda n: n > 0, what="replicas")
    world.cluster.delete("Pod", "redis", namespace=world.namespace)
    world.wait_condition("WorkerPool", "mail", "ScalingActive", "LoadUnknown")
    assert world.replicas() == size


def test_hands_off_what_something_else_scales(world, operator):
    """A HorizontalPodAutoscaler on the pool's Deployment: said in a condition, and its number stays."""
    world.secret()
    world.queue()
    world.pool()
    [deployment] = wait_for(world.deployments, what="a Deployment")
    world.cluster.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "theirs"},
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": deployment["metadata"]["name"],
                },
                "minReplicas": 1,
                "maxReplicas": 2,
            },
        },
        namespace=world.namespace,
    )
    _, _, message = world.wait_condition("WorkerPool", "mail", "ScalingConflict", "ForeignScaler")
    assert "theirs" in message
    world.push(50)
    assert world.replicas() <= 2
    world.cluster.delete(
        "HorizontalPodAutoscaler", "theirs", api_version="autoscaling/v2", namespace=world.namespace
    )
    world.wait_condition("WorkerPool", "mail", "ScalingConflict", "AsDeclared")
    wait_for(world.replicas, until=lambda n: n == 5, what="the backlog's size")


def test_a_killed_operator_is_taken_over_from(world, cluster, operator):
    """SIGKILL in the middle: another one leads when the Lease is over, and does what was left to do."""
    world.secret()
    world.queue()
    world.pool()
    world.wait_condition("WorkerPool", "mail", "Ready", "AsDeclared")
    with OperatorProcess(cluster.kubeconfig, world.namespace, identity="two") as second:
        second.wait_ready()
        assert second.metric("muster_operator_leader") == 0
        world.push(9)
        operator.kill()
        began = time.monotonic()
        second.wait_leading()
        print(f"taken over {time.monotonic() - began:.1f} s after SIGKILL")
        wait_for(world.replicas, until=lambda n: n == 5, what="the backlog's size")
        with OperatorProcess(cluster.kubeconfig, world.namespace, identity="three") as third:
            third.wait_ready()
            began = time.monotonic()
            assert second.terminate() == 0
            third.wait_leading()
            print(f"taken over {time.monotonic() - began:.1f} s after SIGTERM")


def test_a_refused_pod_template_says_so_in_the_api_servers_words(world, operator):
    """What the API server refuses stands in the condition; once mended it heals."""
    world.secret()
    world.queue()
    many = {"name": "worker", "resources": {"limits": {"cpu": "many"}}}
    world.pool(template={"spec": {"containers": [many]}})
    _, _, message = world.wait_condition("WorkerPool", "mail", "TemplateRejected", "RejectedByAPIServer")
    assert "quantities" in message or "cpu" in message
    world.pool(template={"metadata": {"labels": {"mended": "yes"}}})
    world.wait_condition("WorkerPool", "mail", "TemplateRejected", "Accepted")


def test_twenty_pools_fit_into_the_memory(world, operator):
    """Resident memory stays below 110 MiB, and every pool gets its Deployment."""
    world.secret()
    for number in range(20):
        world.queue(f"q{number}")
        world.pool(f"p{number}", queues=[f"q{number}"])
    wait_for(
        world.deployments, until=lambda found: len(found) == 20, what="twenty Deployments", timeout_seconds=60
    )
    world.wait_condition("WorkerPool", "p19", "Ready", "AsDeclared")
    size = operator.resident_mib()
    print(f"operator with 20 pools: {size:.1f} MiB")
    assert size <= 110


def test_an_object_that_is_deleted_leaves_nothing(world, operator):
    """Pool and queue go with their children; deletionPolicy Delete removes the empty queue."""
    world.secret()
    world.queue(deletionPolicy="Delete")
    world.pool()
    world.wait_condition("WorkerPool", "mail", "Ready", "AsDeclared")
    world.redis.set("muster.served.mail", "w")
    for kind in ("WorkerPool", "TaskQueue"):
        world.cluster.delete(kind, "mail", api_version=API, namespace=world.namespace)
    wait_for(
        lambda: world.cluster.get("TaskQueue", "mail", api_version=API, namespace=world.namespace) is None,
        what="the TaskQueue is gone",
    )
    wait_for(lambda: not world.deployments(), what="the Deployment is gone")
    assert not world.redis.exists("muster.served.mail")
