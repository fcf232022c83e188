"""The three RabbitMQ nodes of `examples/rabbitmq-cluster` on the kind cluster, with WorkerPools and a client.

The nodes' disks are folders of the cluster's worker nodes, so that they outlive pods as disks do, also where
nobody makes disks. The tasks are the example shop's, and so are the books that they keep.
"""

import contextlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from example_shop import API, EXAMPLES, Books, condition
from kube import Cluster
from waiting import wait_for

MANIFESTS = EXAMPLES / "rabbitmq-cluster/manifests"
NODES = ("rabbitmq-0", "rabbitmq-1", "rabbitmq-2")
QUEUE = "orders"
MEMBERS = len(NODES)
SHOP = "muster-shop:1.0"
FOLDER = "/var/lib/muster-tests"

SEND = """
import json, os, sys, time, uuid
from muster.errors import BrokerUnavailable
from shop.tasks import app
queue, task, arguments, count, pause, stop = json.load(sys.stdin)
told = {"confirmed": [], "doubtful": [], "longest_wait": [0, 0]}
before = None
for number in range(count):
    if os.path.exists(stop):
        break
    task_id = str(uuid.uuid4())
    try:
        app.send_task(task, [f"{number}", *arguments], queue=queue, task_id=task_id, retry=False)
        told["confirmed"].append(task_id)
        confirmed, longest = time.time(), told["longest_wait"]
        if before and confirmed - before > longest[1] - longest[0]:
            told["longest_wait"] = [before, confirmed]
        before = confirmed + pause
    except BrokerUnavailable:  # sent again it would be two messages, and run twice without anybody's blame
        told["doubtful"].append(task_id)
    time.sleep(pause)
print(json.dumps(told))
"""
BEHIND = """
cat > "$0.in"
(setsid python -c "$1" < "$0.in" > "$0.told" 2> "$0.error"; echo $? > "$0.code") > /dev/null 2>&1 &
"""
"""A shell's command that returns at once: a silent stream from a pod is cut before long."""

ASK = """
import base64, os, sys, urllib.request
from urllib.parse import urlsplit
url = urlsplit(os.environ["MANAGEMENT_URL"])
login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
request = urllib.request.Request(
    f"http://{url.hostname}:{url.port}/api/{sys.argv[1]}", headers={"Authorization": f"Basic {login}"}
)
with urllib.request.urlopen(request, timeout=10) as answer:
    print(answer.read().decode())
"""

METRICS = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9540/metrics').read().decode())"
)

Manifest = dict[str, Any]


@contextlib.contextmanager
def disks(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Disks for the claims of the three nodes, on the cluster's workers in turn; removed at the end."""
    found = cluster.list("Node", labels="!node-role.kubernetes.io/control-plane")
    workers = sorted(node["metadata"]["name"] for node in found)
    places = {name: workers[number % len(workers)] for number, name in enumerate(NODES)}
    for name, worker in places.items():
        cluster.on_node(worker, "mkdir", "-p", f"{FOLDER}/{namespace}/{name}")
        cluster.apply(_disk(namespace, name, worker))
    try:
        yield
    finally:
        for name in NODES:
            cluster.delete("PersistentVolume", f"{namespace}-{name}")
        for worker in workers:
            cluster.on_node(worker, "rm", "-rf", f"{FOLDER}/{namespace}")


def _disk(namespace: str, name: str, worker: str) -> dict:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [worker]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "standard",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": f"data-{name}"},
            "local": {"path": f"{FOLDER}/{namespace}/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


class RabbitMQNodes:
    """The nodes in one namespace, and who uses them."""

    def __init__(self, cluster: Cluster, namespace: str):
        self.cluster = cluster
        self.namespace = namespace

    def open(self) -> None:
        """Apply the example, the books and a client; wait until all are ready.

        The operator declares the queue over the first of the nodes, which therefore leads it.
        """
        self.cluster.apply(MANIFESTS / "1-rabbitmq.yaml", namespace=self.namespace)
        redis = yaml.safe_load_all((EXAMPLES / "web-service/manifests/1-redis.yaml").read_text())
        self.cluster.apply(
            [each for each in redis if each["metadata"]["name"] in ("redis", "books")],
            namespace=self.namespace,
        )
        self.cluster.apply(_client(), namespace=self.namespace)
        for name in ("statefulset/rabbitmq", "statefulset/books", "deployment/client"):
            self.kubectl("rollout", "status", name, "--timeout=240s")
        wait_for(self.members, until=lambda m: m == sorted(NODES), what="three members", timeout_seconds=60)
        manifest = yaml.safe_load((MANIFESTS / "2-muster.yaml").read_text())
        self.declare(manifest["metadata"]["name"], ha={"replicas": MEMBERS})

    def declare(self, name: str, **spec: object) -> None:
        """Apply the example's TaskQueue under a name, with more in its spec; wait until it is as declared."""
        manifest = yaml.safe_load((MANIFESTS / "2-muster.yaml").read_text())
        manifest["metadata"]["name"] = name
        manifest["spec"] |= spec
        self.cluster.apply(manifest, namespace=self.namespace)
        for kind in ("Ready", "PolicyInSync"):
            self.wait_condition("TaskQueue", name, kind, "True")

    def wait_condition(
        self,
        kind: str,
        name: str,
        type_: str,
        status: str,
        *,
        generation: int = 0,
    ) -> str:
        """Wait for an object's condition, of a generation at least; return its message."""

        def has_it(seen: Manifest | None) -> bool:
            found = (seen or {}).get("status", {})
            return found.get("observedGeneration", 0) >= generation and condition(seen, type_) == status

        seen = self.cluster.wait_for_object(
            kind,
            name,
            lambda seen: seen and "status" in seen and has_it(seen),
            namespace=self.namespace,
            api_version=API,
            timeout_seconds=120,
        )
        return next(each["message"] for each in seen["status"]["conditions"] if each["type"] == type_)

    def apply_pools(self, workers: Mapping[str, int]) -> None:
        """Let so many workers take each queue's tasks, in a pool of its name; wait until they do."""
        for name, count in workers.items():
            [stored] = self.cluster.apply(_worker_pool(name, count), namespace=self.namespace)
            generation = stored["metadata"]["generation"]
            self.wait_condition("WorkerPool", name, "Ready", "True", generation=generation)
        wait_for(
            lambda: {name: self._ready(name) for name in workers},
            until=lambda ready: ready == workers,
            what=f"{workers} workers",
            timeout_seconds=120,
        )

    def _ready(self, pool: str) -> int | None:
        """Return how many workers of a pool are ready; None while others are on their way out."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels=f"muster.dev/pool={pool}")
        return sum(map(_is_ready, found)) if all(map(_is_ready, found)) else None

    def close(self) -> None:
        """Remove pools and queues while their operator is there."""
        for kind in ("WorkerPool", "TaskQueue"):
            self.kubectl("delete", kind, "--all", "--timeout=120s")

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace and return its output. Raises ConnectionError."""
        return self.cluster.kubectl(self.namespace, *arguments)

    # --- the nodes -----------------------------------------------------------------------------------------

    def ask(self, path: str):
        """Ask the management API from the client's pod. Raises ConnectionError when it does not answer."""
        return json.loads(self.kubectl("exec", "deploy/client", "--", "python", "-c", ASK, path))

    def members(self) -> list[str]:
        """Return the names of the nodes that run as one cluster."""
        return sorted(pod_of(node["name"]) for node in self.ask("nodes") if node["running"])

    def queue(self, name: str = QUEUE) -> dict:
        """Return what the management API says of a queue: leader, members, online and more."""
        return self.ask(f"queues/%2F/{name}")

    def policy(self, queue: str = QUEUE) -> dict:
        """Return the policy in effect for a queue."""
        return self.queue(queue).get("effective_policy_definition") or {}

    def lose(self, name: str) -> str:
        """Take a node away as its machine's end would, its disk stays; return the lost pod's UID.

        Frozen first, since a pod deleted by force leaves its container a while, beside the one that follows.
        """
        pod = self.cluster.get("Pod", name, namespace=self.namespace)
        assert pod is not None
        self.cluster.freeze_container(pod)
        self.kubectl("delete", "pod", name, "--force", "--grace-period=0")
        self.cluster.end_container(pod)
        return pod["metadata"]["uid"]

    @contextlib.contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Let a node and the others not hear each other; everybody else reaches all of them."""
        pods = {each: self.cluster.get("Pod", each, namespace=self.namespace) for each in NODES}
        address = {each: pod["status"]["podIP"] for each, pod in pods.items() if pod is not None}
        rules = [
            ["FORWARD", "-s", one, "-d", other, "-j", "DROP"]
            for each in NODES
            if each != name
            for one, other in ((address[name], address[each]), (address[each], address[name]))
        ]
        machines = sorted({pod["spec"]["nodeName"] for pod in pods.values() if pod is not None})
        for machine in machines:
            for rule in rules:
                self.cluster.on_node(machine, "iptables", "-I", *rule)
        try:
            yield
        finally:
            for machine in machines:
                for rule in rules:
                    self.cluster.on_node(machine, "iptables", "-D", *rule)

    @contextlib.contextmanager
    def kept_away(self, name: str) -> Iterator[None]:
        """Let no pod start on a node's machine: one that is lost meanwhile stays away."""
        pod = self.cluster.get("Pod", name, namespace=self.namespace)
        assert pod is not None
        machine = pod["spec"]["nodeName"]
        self.kubectl("cordon", machine)
        try:
            yield
        finally:
            self.kubectl("uncordon", machine)

    def clear(self) -> None:
        """Empty the books."""
        self.kubectl("exec", "books-0", "--", "redis-cli", "flushall")

    def wait_back(self, name: str, lost: str) -> None:
        """Wait until another pod has taken the lost one's place and is ready."""
        self.cluster.wait_for_object(
            "Pod",
            name,
            lambda pod: pod and pod["metadata"]["uid"] != lost and _is_ready(pod),
            namespace=self.namespace,
            timeout_seconds=240,
        )

    # --- workers and tasks ---------------------------------------------------------------------------------

    def workers(self, pool: str = QUEUE) -> set[str]:
        """Return the names of a pool's pods."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels=f"muster.dev/pool={pool}")
        return {pod["metadata"]["name"] for pod in found}

    def restarted(self) -> dict[str, str]:
        """Return the end of the log of each worker's container that was followed by another, by pod."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels=f"muster.dev/pool={QUEUE}")
        return {
            pod["metadata"]["name"]: self.cluster.logs(
                pod["metadata"]["name"], namespace=self.namespace, previous=True
            )[-2000:]
            for pod in found
            if pod["status"]["containerStatuses"][0]["restartCount"]
        }

    def extra_runs(self) -> int:
        """Return how many extra runs the workers have counted."""
        lines = [
            line
            for worker in self.workers()
            for line in self.kubectl("exec", worker, "--", "python", "-c", METRICS).splitlines()
        ]
        return sum(int(float(x.split()[-1])) for x in lines if x.startswith("muster_task_extra_runs_total"))

    def sending(
        self, count: int, seconds: float, *, queue: str = QUEUE, pause_seconds: float = 0
    ) -> "Sending":
        """Begin to send so many tasks one after another, each of which takes so long; pause after each."""
        place = f"/tmp/{secrets.token_hex(4)}"
        given = json.dumps([queue, "shop.tasks.pack", [seconds], count, pause_seconds, f"{place}.stop"])
        self.cluster.kubectl(
            self.namespace,
            *("exec", "-i", "deploy/client", "--", "sh", "-c", BEHIND, place, SEND),
            stdin=given,
        )
        return Sending(self, place)

    def books(self) -> Books:
        """Return what the tasks have written down."""
        return Books(self._lines("books:begun"), self._lines("books:ended"))

    def wait_ended(self, task_ids: Iterable[str]) -> Books:
        """Wait until each of the tasks has ended; return the books."""
        return wait_for(
            self.books,
            until=lambda books: not books.check(task_ids).lost,
            what="the end of every confirmed task",
            timeout_seconds=180,
            every_seconds=1,
        )

    def _lines(self, key: str) -> list[str]:
        answer = self.kubectl("exec", "books-0", "--", "redis-cli", "lrange", key, "0", "-1")
        return [line for line in answer.splitlines() if line]

    def ended(self) -> int:
        """Return how many ends the tasks have written down."""
        return int(self.kubectl("exec", "books-0", "--", "redis-cli", "llen", "books:ended"))


class Sending:
    """A client that sends, in a process of its own in the client's pod."""

    def __init__(self, nodes: RabbitMQNodes, place: str):
        self._nodes = nodes
        self._place = place

    @property
    def goes_on(self) -> bool:
        return not self._read("code")

    def stop(self) -> None:
        """Let it end where it is."""
        self._nodes.kubectl("exec", "deploy/client", "--", "touch", f"{self._place}.stop")

    def told(self, timeout_seconds: float = 180) -> dict[str, Any]:
        """Wait for its end; return the ids that were `confirmed`, and the `doubtful` that got an error.

        `longest_wait`: begin and end, in seconds of the epoch, of the longest time between two confirms.
        """
        code = wait_for(
            lambda: self._read("code"),
            what="the client's end",
            timeout_seconds=timeout_seconds,
            every_seconds=0.5,
        )
        assert code == "0", self._read("error")
        return json.loads(self._read("told"))

    def _read(self, what: str) -> str:
        """Return what stands in one of its files; nothing while that is not there."""
        command = f"cat {self._place}.{what} 2> /dev/null || true"
        return self._nodes.kubectl("exec", "deploy/client", "--", "sh", "-c", command).strip()


def pod_of(node: str) -> str:
    """Return the pod's name for a node's, such as rabbit@rabbitmq-0.rabbitmq-nodes."""
    return node.partition("@")[2].partition(".")[0]


def _is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _from_secret(name: str, key: str) -> dict:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "broker", "key": key}}}


def _worker_pool(name: str, workers: int) -> Manifest:
    """Return the example shop's WorkerPool for the queue of that name, with a fixed size."""
    documents = yaml.safe_load_all((EXAMPLES / "web-service/manifests/2-muster.yaml").read_text())
    manifest = next(each for each in documents if each["kind"] == "WorkerPool")
    manifest["metadata"]["name"] = name
    del manifest["spec"]["results"]
    manifest["spec"] |= {"queues": [name], "replicas": workers, "scaling": {"mode": "Fixed"}}
    return manifest


def _client() -> Manifest:
    """Return a pod in which clients are started."""
    container = {
        "name": "client",
        "image": SHOP,
        "command": ["python", "-c", "import signal; signal.pause()"],
        "env": [_from_secret("CELERY_BROKER_URL", "url"), _from_secret("MANAGEMENT_URL", "managementUrl")],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "client"},
        "spec": {
            "selector": {"matchLabels": {"app": "client"}},
            "template": {"metadata": {"labels": {"app": "client"}}, "spec": pod},
        },
    }
