"""The three RabbitMQ nodes of `examples/rabbitmq-cluster` on the kind cluster, with workers and a client.

The nodes' disks are folders of the cluster's worker nodes, so that they outlive pods as disks do, also where
nobody makes disks. The tasks are the example shop's, and so are the books that they keep.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator

import yaml

from example_shop import API, EXAMPLES, Books, condition
from kube import Cluster
from waiting import wait_for

MANIFESTS = EXAMPLES / "rabbitmq-cluster/manifests"
NODES = ("rabbitmq-0", "rabbitmq-1", "rabbitmq-2")
QUEUE = "orders"
SHOP = "muster-shop:1.0"
FOLDER = "/var/lib/muster-tests"

SEND = """
import json, sys, time, uuid
from muster.errors import BrokerUnavailable
from shop.tasks import app
task, arguments, count, pause = json.load(sys.stdin)
told = {"confirmed": [], "doubtful": []}
for number in range(count):
    task_id = str(uuid.uuid4())
    try:
        app.send_task(task, [f"{number}", *arguments], queue="orders", task_id=task_id)
        told["confirmed"].append(task_id)
    except BrokerUnavailable:
        told["doubtful"].append(task_id)
    time.sleep(pause)
print(json.dumps(told))
"""

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

    def open(self, workers: int) -> None:
        """Apply the example, the books, a client and so many workers; wait until all are ready.

        The operator declares the queue over the first of the nodes, which therefore leads it.
        """
        self.cluster.apply(MANIFESTS / "1-rabbitmq.yaml", namespace=self.namespace)
        redis = yaml.safe_load_all((EXAMPLES / "web-service/manifests/1-redis.yaml").read_text())
        self.cluster.apply(
            [each for each in redis if each["metadata"]["name"] in ("redis", "books")],
            namespace=self.namespace,
        )
        self.cluster.apply(_deployment("client", CLIENT, 1), namespace=self.namespace)
        for name in ("statefulset/rabbitmq", "statefulset/books", "deployment/client"):
            self.kubectl("rollout", "status", name, "--timeout=240s")
        wait_for(self.members, until=lambda m: m == sorted(NODES), what="three members", timeout_seconds=60)
        self._has_queue()
        self.cluster.apply(_deployment("workers", WORKER, workers), namespace=self.namespace)
        self.kubectl("rollout", "status", "deployment/workers", "--timeout=180s")

    def _has_queue(self) -> None:
        """Wait until the example's TaskQueue says that its queue is there as declared."""
        self.cluster.apply(MANIFESTS / "2-muster.yaml", namespace=self.namespace)
        self.cluster.wait_for_object(
            "TaskQueue",
            QUEUE,
            lambda queue: queue and condition({"status": {}, **queue}) == "True",
            namespace=self.namespace,
            api_version=API,
        )

    def close(self) -> None:
        """Remove the TaskQueue while its operator is there."""
        self.cluster.delete("TaskQueue", QUEUE, namespace=self.namespace, api_version=API)
        self.cluster.wait_for_object(
            "TaskQueue", QUEUE, lambda queue: queue is None, namespace=self.namespace, api_version=API
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return its output. Raises ConnectionError."""
        with self._kubectl(*arguments) as process:
            output, error = process.communicate(stdin)
        if process.returncode:
            raise ConnectionError(f"kubectl {' '.join(arguments)[:200]}: {error.strip()}")
        return output

    def _kubectl(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(self.cluster.tools / "kubectl"), "--kubeconfig", str(self.cluster.kubeconfig)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, "--namespace", self.namespace, *arguments],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    # --- the nodes -----------------------------------------------------------------------------------------

    def ask(self, path: str):
        """Ask the management API from the client's pod. Raises ConnectionError when it does not answer."""
        return json.loads(self.kubectl("exec", "deploy/client", "--", "python", "-c", ASK, path))

    def members(self) -> list[str]:
        """Return the names of the nodes that run as one cluster."""
        return sorted(pod_of(node["name"]) for node in self.ask("nodes") if node["running"])

    def queue(self) -> dict:
        """Return what the management API says of the queue: leader, members, online and more."""
        return self.ask(f"queues/%2F/{QUEUE}")

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

    def policy(self) -> str:
        """Return the name of the policy in effect for the queue."""
        return self.queue().get("policy") or ""

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

    def workers(self) -> set[str]:
        """Return the names of the workers' pods."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels="app=workers")
        return {pod["metadata"]["name"] for pod in found}

    def restarted(self) -> dict[str, str]:
        """Return the end of the log of each worker's container that was followed by another, by pod."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels="app=workers")
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

    def sending(self, count: int, seconds: float, *, pause_seconds: float = 0) -> "Sending":
        """Begin to send so many tasks one after another, each of which takes so long; pause after each."""
        process = self._kubectl("exec", "-i", "deploy/client", "--", "python", "-c", SEND)
        assert process.stdin is not None
        process.stdin.write(json.dumps(["shop.tasks.pack", [seconds], count, pause_seconds]))
        process.stdin.close()
        process.stdin = None
        return Sending(process)

    def books(self) -> Books:
        """Return what the tasks have written down."""
        return Books(self._lines("books:begun"), self._lines("books:ended"))

    def _lines(self, key: str) -> list[str]:
        answer = self.kubectl("exec", "books-0", "--", "redis-cli", "lrange", key, "0", "-1")
        return [line for line in answer.splitlines() if line]

    def ended(self) -> int:
        """Return how many ends the tasks have written down."""
        return int(self.kubectl("exec", "books-0", "--", "redis-cli", "llen", "books:ended"))


class Sending:
    """A client that sends, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    @property
    def goes_on(self) -> bool:
        return self._process.poll() is None

    def told(self, timeout_seconds: float = 180) -> dict[str, list[str]]:
        """Wait for its end; return the ids that were `confirmed`, and the `doubtful` that got an error."""
        output, error = self._process.communicate(timeout=timeout_seconds)
        assert self._process.returncode == 0, error
        return json.loads(output)

    def close(self) -> None:
        """End it where it still goes on."""
        self._process.kill()
        self._process.wait()


def pod_of(node: str) -> str:
    """Return the pod's name for a node's, such as rabbit@rabbitmq-0.rabbitmq-nodes."""
    return node.partition("@")[2].partition(".")[0]


def _is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _from_secret(name: str, key: str) -> dict:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "broker", "key": key}}}


CLIENT = {
    "command": ["python", "-c", "import signal; signal.pause()"],
    "env": [_from_secret("CELERY_BROKER_URL", "url"), _from_secret("MANAGEMENT_URL", "managementUrl")],
}
WORKER = {
    "args": ["-A", "shop.tasks", "worker", "-P", "prefork", "-c", "2", "-Q", QUEUE],
    "env": [
        _from_secret("MUSTER_BROKER_URL", "url"),
        {"name": "BOOKS_URL", "value": "redis://books:6379/0"},
        {"name": "MUSTER_METRICS_ADDRESS", "value": ":9540"},
    ],
    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9540}, "periodSeconds": 1},
}


def _deployment(name: str, container: dict, replicas: int) -> dict:
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": name,
                "image": SHOP,
                "securityContext": security,
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                **container,
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }
