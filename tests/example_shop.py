"""The example shop on the kind cluster: its manifests as they are, orders through its web service, its books.

`tests/e2e` uses it wherever real tasks have to run. What the tasks themselves wrote down, outside Muster, is
read from the shop's own Redis and compared with what was sent.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import yaml

from kube import Cluster
from ledger import Ledger
from muster_operator.api.manifests import decode_object
from muster_operator.decide.load import Load
from muster_operator.decide.scaling import target
from muster_operator.model.history import History
from muster_operator.model.readings import Known
from waiting import wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"
API = "muster.dev/v1beta1"
POOL = "orders"
BATCH = 1000

SEND = """
import json, sys
from shop.tasks import app
name, calls = json.load(sys.stdin)
print(json.dumps([app.send_task(name, args, queue="orders").id for args in calls]))
"""


class Books(Ledger):
    """Starts and ends by task id, as the tasks wrote them."""

    def __init__(self, begun: list[str], ended: list[str]):
        self.lines = {"start": [line.split() for line in begun], "end": [line.split() for line in ended]}

    def _count(self, what):
        return Counter(line[0] for line in self.lines[what])

    @property
    def most_at_work(self):
        """How many pods were at work at one time: each from its first begin to its last end."""
        times = {}
        for line in (*self.lines["start"], *self.lines["end"]):
            times.setdefault(line[2].split("/")[0], []).append(float(line[1]))
        changes = [(min(at), 1) for at in times.values()] + [(max(at), -1) for at in times.values()]
        return max(accumulate(change for _, change in sorted(changes)))

    def begun_after(self, moment):
        """Return when each pod began its first task after a moment, in seconds of the epoch, by pod."""
        first = {}
        for _task, at, worker in self.lines["start"]:
            if float(at) >= moment:
                pod = worker.split("/")[0]
                first[pod] = min(float(at), first.get(pod, float("inf")))
        return first

    def workers_of(self, task_id):
        """Return `pod/pid` of each begin."""
        return [line[2] for line in self.lines["start"] if line[0] == task_id]


class Shop:
    """The shop in one namespace. Every test leaves it empty, with its pool as the example declares it."""

    def __init__(self, cluster: Cluster, namespace: str):
        self.cluster = cluster
        self.namespace = namespace

    # --- the cluster ---------------------------------------------------------------------------------------

    def kubectl(self, *arguments, stdin="", check=True):
        """Run kubectl in the shop's namespace and return its output."""
        return self.cluster.kubectl(self.namespace, *arguments, stdin=stdin, check=check)

    def open(self):
        """Apply the example's manifests and wait for its own pods.

        Its Schedule is suspended: the books are compared with what the tests send, on Fridays at six too.
        """
        for path in sorted((EXAMPLES / "web-service/manifests").glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                if manifest["kind"] == "Schedule":
                    manifest["spec"]["suspend"] = True
                self.cluster.apply(manifest, namespace=self.namespace)
        for name in ("statefulset/broker", "statefulset/books", "deployment/web"):
            self.kubectl("rollout", "status", name, "--timeout=180s")
        return self

    def pool_manifest(self):
        """Return the example's WorkerPool, to be changed and applied."""
        documents = yaml.safe_load_all((EXAMPLES / "web-service/manifests/2-muster.yaml").read_text())
        return next(each for each in documents if each["kind"] == "WorkerPool")

    def apply_pool(self, **spec):
        """Apply the example's pool with other fields of its spec, quicker to shrink; wait for it."""
        manifest = self.pool_manifest()
        manifest["spec"] |= spec
        manifest["spec"]["scaling"]["behavior"] = {"scaleDown": {"stabilizationSeconds": 5}}
        [stored] = self.cluster.apply(manifest, namespace=self.namespace)
        generation = stored["metadata"]["generation"]
        return self.wait_pool(
            lambda pool: pool["status"].get("observedGeneration") == generation and condition(pool) == "True",
            "is as declared",
        )

    def pool(self):
        return self.cluster.get("WorkerPool", POOL, namespace=self.namespace, api_version=API)

    def wait_pool(self, until, what, timeout_seconds=120):
        return wait_for(
            self.pool,
            until=lambda pool: pool.get("status") and until(pool),
            what=f"the pool {what}",
            timeout_seconds=timeout_seconds,
            every_seconds=0.2,
        )

    def pods(self):
        """Return the pool's pods that are not on their way out, by name."""
        found = self.cluster.list("Pod", namespace=self.namespace, labels=f"muster.dev/pool={POOL}")
        return {pod["metadata"]["name"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}

    def wait_size(self, size, timeout_seconds=120):
        """Wait until the pool wants and has so many workers, no more and no fewer."""
        self.wait_pool(
            lambda pool: pool["status"].get("desired") == size and len(self.pods()) == size,
            f"has {size} workers",
            timeout_seconds,
        )

    def wait_empty(self):
        """Wait until the pool is at zero."""
        self.wait_size(0)

    # --- tasks ---------------------------------------------------------------------------------------------

    def order(self, count, queue=POOL):
        """Place orders through the web service and return their ids."""
        ids = []
        while len(ids) < count:
            number = min(BATCH, count - len(ids))
            ids += self.http("POST", f"/orders?n={number}&queue={queue}")["ids"]
        return ids

    def http(self, verb, path):
        """Ask the web service, through the API server."""
        place = f"/api/v1/namespaces/{self.namespace}/services/web:80/proxy{path}"
        answer = self.cluster.api.rest_client.request(
            verb,
            self.cluster.api.configuration.host + place,
            headers={"Content-Type": "application/json"},
            body={} if verb == "POST" else None,
        )
        answer.read()
        return json.loads(answer.data)

    def send(self, task, *calls):
        """Send a task once for each tuple of arguments, from the web service's pod; return the ids."""
        text = json.dumps([task, [list(call) for call in calls]])
        return json.loads(self.kubectl("exec", "-i", "deploy/web", "--", "python", "-c", SEND, stdin=text))

    def result(self, task_id):
        return self.http("GET", f"/orders/{task_id}")

    # --- what was written down -----------------------------------------------------------------------------

    def redis(self, server, *arguments):
        """Run a command on the Redis called `broker` or `books`; return its lines."""
        answer = self.kubectl("exec", f"{server}-0", "--", "redis-cli", *arguments)
        return [line for line in answer.splitlines() if line]  # an empty list is printed as an empty line

    def books(self):
        return Books(
            self.redis("books", "lrange", "books:begun", "0", "-1"),
            self.redis("books", "lrange", "books:ended", "0", "-1"),
        )

    def ended(self):
        return int(self.redis("books", "llen", "books:ended")[0])

    def begun(self):
        return int(self.redis("books", "llen", "books:begun")[0])

    def wait_ended(self, ids, timeout_seconds=300):
        """Wait until every id has ended and return the books."""
        wait_for(
            self.ended,
            until=lambda count: count >= len(ids),
            what=f"{len(ids)} ends in the books",
            timeout_seconds=timeout_seconds,
            every_seconds=0.5,
        )
        return wait_for(
            self.books,
            until=lambda books: not books.check(ids).lost,
            what="the end of every task",
            timeout_seconds=timeout_seconds,
            every_seconds=1,
        )

    def extra_runs(self):
        """Return the broker's own count of starts beyond the first, by cause."""
        lines = self.redis("broker", "hgetall", "muster.extra_runs")
        counts = Counter()
        for key, count in zip(lines[::2], lines[1::2], strict=True):
            _queue, _task, cause = json.loads(key)
            counts[cause] += int(count)
        return counts

    def in_flight(self, pod):
        """Return how many messages the broker has down as being run by a pod's worker."""
        tags = self.redis("broker", "zrange", f"muster.running.{POOL}", "0", "-1")
        return sum(f":{pod['metadata']['uid']}:" in tag for tag in tags)

    def busy_pod(self):
        """Wait until a worker runs a task, and return its pod."""
        return wait_for(
            lambda: next((pod for pod in self.pods().values() if self.in_flight(pod)), None),
            what="a worker at work",
            timeout_seconds=90,
        )

    def lose(self, pod):
        """Take a pod away as its node's end would; return how many messages it had in flight.

        `kubectl delete --force` alone leaves a container its grace period, and one that is killed before its
        pod is deleted is started again. Frozen, it begins and ends nothing between the two.
        """
        pod = self.told_of_its_container(pod)
        self.cluster.freeze_container(pod)
        in_flight = self.in_flight(pod)
        self.kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
        self.cluster.end_container(pod)
        return in_flight

    def told_of_its_container(self, pod):
        """Return the pod once its status names its container: its tasks may be at work before that."""

        def read():
            found = json.loads(self.kubectl("get", "pod", pod["metadata"]["name"], "-o", "json"))
            assert "containerID" in found["status"].get("containerStatuses", [{}])[0]
            return found

        return wait_for(read, what=f"the kubelet to name the container of {pod['metadata']['name']}")

    def clear(self):
        """Empty the books, the broker's counts and its queue; the pool is as the example has it."""
        self.redis("books", "flushall")
        self.redis("broker", "del", "muster.extra_runs")

    @contextmanager
    def watched(self):
        """Collect the pool's decisions while the block runs: a list of `lastDecision`, oldest first."""
        script = [sys.executable, "-c", WATCH, str(self.cluster.kubeconfig), self.namespace, POOL]
        process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        seen = Decisions()
        try:
            yield seen
        finally:
            process.terminate()
            text, _ = process.communicate(timeout=20)
            seen.take(json.loads(line) for line in text.splitlines())


WATCH = """
import json, sys
from kubernetes import client, config, watch
api = client.CustomObjectsApi(config.new_client_from_config(sys.argv[1]))
ask = dict(group="muster.dev", version="v1beta1", namespace=sys.argv[2], plural="workerpools")
version = api.list_namespaced_custom_object(**ask)["metadata"]["resourceVersion"]
print("watching", flush=True)
while True:
    for event in watch.Watch().stream(api.list_namespaced_custom_object, resource_version=version, **ask):
        found = event["object"]
        version = found["metadata"]["resourceVersion"]
        if found["metadata"]["name"] == sys.argv[3]:
            print(json.dumps((found.get("status") or {}).get("lastDecision")), flush=True)
"""


class Decisions(list):
    """The decisions that a pool made, oldest first."""

    def take(self, found):
        """Keep those that differ from the one before."""
        for each in found:
            if each is not None and (not self or self[-1] != each):
                self.append(each)

    @property
    def path(self):
        return [f"{each['from']}→{each['to']} {each['reason']}" for each in self]


def recomputed(pool, decision):
    """Return the size that the decision function names for a decision's own inputs, which must add up."""
    inputs = decision["inputs"]
    started = max(inputs["running"], inputs["busy"])
    lost = max(0, inputs["claimed"] + inputs["running"] - started)
    assert inputs["neededSlots"] == started + inputs["ready"] + inputs["due"] + lost
    names = ("ready", "claimed", "running", "expired", "due", "busy")
    load = Load(slots=inputs["neededSlots"], **{name: inputs[name] for name in names})
    now = datetime.fromisoformat(decision["time"])
    return target(
        decode_object(pool).spec,
        Known(value=load, at=now),
        slots_per_worker=inputs["slotsPerWorker"],
        size=decision["from"],
        foreign_scaler=False,
        history=History(),
        now=now,
    ).replicas


def condition(pool, kind="Ready"):
    """Return a condition's status."""
    found = [each["status"] for each in pool["status"].get("conditions") or [] if each["type"] == kind]
    return found[0] if found else None


def seconds_since(moment: str) -> float:
    """Return the seconds between an API time and now."""
    return time.time() - datetime.fromisoformat(moment).timestamp()
