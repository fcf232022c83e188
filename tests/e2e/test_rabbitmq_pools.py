"""Every pool type on both of RabbitMQ's queue types: the example shop, on the RabbitMQ of the chart.

Five pools, each with a quorum and a classic queue. Orders come from the web service and from a stock Celery
client, which is told of quorum queues what their condition says.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from example_shop import API, EXAMPLES, Shop, condition
from installation import Installation, fresh
from rabbitmq_chart import apply_rabbitmq, broker_secret
from waiting import wait_for

WEB, CELERY = 10_000, 1_000
POOLS = ("prefork", "threads", "gevent", "eventlet", "solo")
TYPES = {"Quorum": "quorum", "Classic": "classic"}
QUEUES = {f"{pool}-{word}": kind for pool in POOLS for kind, word in TYPES.items()}
RESULTS = "redis://books:6379/1"


class FivePools(Shop):
    """The shop, whose orders are confirmed by five pools from ten queues."""

    def open(self) -> "FivePools":
        """Apply RabbitMQ and the shop; wait for them, and until every queue is as declared."""
        apply_rabbitmq(self.cluster, self.namespace)
        redis = yaml.safe_load_all((EXAMPLES / "web-service/manifests/1-redis.yaml").read_text())
        self.cluster.apply(
            [each for each in redis if each["metadata"]["name"] in ("redis", "books")],
            namespace=self.namespace,
        )
        self.cluster.apply([broker_secret(), self._results()], namespace=self.namespace)
        self.cluster.apply(EXAMPLES / "web-service/manifests/3-web.yaml", namespace=self.namespace)
        self.kubectl("set", "env", "deployment/web", f"CELERY_RESULT_BACKEND={RESULTS}")
        for name in ("statefulset/books", "deployment/web"):
            self.kubectl("rollout", "status", name, "--timeout=240s")
        self.cluster.apply(
            [
                {
                    "apiVersion": API,
                    "kind": "TaskQueue",
                    "metadata": {"name": name},
                    "spec": {"broker": {"secretRef": {"name": "broker"}}, "type": kind},
                }
                for name, kind in QUEUES.items()
            ],
            namespace=self.namespace,
        )
        for name in QUEUES:
            self.wait_ready("TaskQueue", name)
        return self

    def _results(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "results"},
            "stringData": {"url": RESULTS},
        }

    def wait_ready(self, kind: str, name: str) -> dict[str, Any]:
        """Wait until an object's Ready condition is true, and return it."""
        return self.cluster.wait_for_object(
            kind,
            name,
            lambda seen: seen and condition({"status": {}, **seen}) == "True",
            namespace=self.namespace,
            api_version=API,
        )

    def apply_pools(self) -> None:
        """Apply the five pools: two workers at most, no one waits for anything but its own load."""
        for kind in POOLS:
            manifest = self.pool_manifest()
            manifest["metadata"]["name"] = kind
            manifest["spec"]["queues"] = [f"{kind}-{word}" for word in TYPES.values()]
            manifest["spec"]["results"] = {"secretRef": {"name": "results"}, "expires": "1h"}
            manifest["spec"]["pool"] = {"type": kind}
            if kind == "prefork":
                manifest["spec"]["pool"]["concurrency"] = 2
            manifest["spec"]["scaling"] = {
                "maxReplicas": 2,
                "behavior": {"scaleDown": {"stabilizationSeconds": 5}},
            }
            self.cluster.apply(manifest, namespace=self.namespace)
        for kind in POOLS:
            self.wait_ready("WorkerPool", kind)

    def sizes(self) -> dict[str, int]:
        """Return the size that each pool is to have."""
        found = self.cluster.list("WorkerPool", namespace=self.namespace, api_version=API)
        return {each["metadata"]["name"]: each["status"]["desired"] for each in found}

    def celery(self, kind: str, count: int) -> None:
        """Begin to send so many orders by a stock Celery client to the queues of one type."""
        manifest = yaml.safe_load((EXAMPLES / "celery-client/manifests/job.yaml").read_text())
        manifest["metadata"]["name"] = f"celery-{TYPES[kind]}"
        [container] = manifest["spec"]["template"]["spec"]["containers"]
        given = {
            "COUNT": str(count),
            "QUEUES": ",".join(name for name, of in QUEUES.items() if of == kind),
            "RESULT_URL": RESULTS,
            **({"QUEUE_TYPE": "quorum"} if kind == "Quorum" else {}),
        }
        container["env"] = [each for each in container["env"] if each["name"] not in given]
        container["env"] += [{"name": name, "value": value} for name, value in given.items()]
        self.cluster.apply(manifest, namespace=self.namespace)

    def told_by_celery(self, kind: str) -> tuple[list[str], dict[str, int]]:
        """Wait for a client's end; return the ids that it sent, and what it says of their results."""
        name = f"celery-{TYPES[kind]}"
        job = self.cluster.wait_for_object(
            "Job",
            name,
            lambda seen: {"succeeded", "failed"} & (seen or {}).get("status", {}).keys(),
            namespace=self.namespace,
            api_version="batch/v1",
            timeout_seconds=300,
        )
        log = self.kubectl("logs", f"job/{name}")
        assert job["status"].get("succeeded") == 1, log
        sent, confirmed = (json.loads(line) for line in log.splitlines())
        return sent["sent"], confirmed

    def close(self) -> None:
        """Remove pools and queues while their operator is there."""
        for kind in ("WorkerPool", "TaskQueue"):
            self.kubectl("delete", kind, "--all", "--timeout=120s")


@pytest.fixture
def shop(muster_installed: Installation) -> Iterator[FivePools]:
    """The shop on RabbitMQ, in a namespace of its own that the operator sees to as well."""
    with muster_installed.served_namespace(fresh("rabbitmq-pools")) as name:
        found = FivePools(muster_installed.cluster, name)
        try:
            yield found.open()
        finally:
            with contextlib.suppress(ConnectionError):
                found.close()


@pytest.mark.soak("On the cluster: 11,000 tasks on RabbitMQ in five pools run once each", repeat=True)
def test_five_pools_on_quorum_and_classic_queues_run_each_task_once(shop: FivePools, account):
    """10,000 orders of the web service and 1,000 of Celery, over ten queues, begin and end once each; every
    pool goes from zero to workers and back."""
    told = shop.wait_ready("TaskQueue", "prefork-quorum")
    [said] = [
        each["message"]
        for each in told["status"]["conditions"]
        if each["type"] == "ClientsMustDeclareQuorum" and each["status"] == "True"
    ]
    assert 'task_create_missing_queue_type = "quorum"' in said
    shop.apply_pools()
    assert shop.sizes() == dict.fromkeys(POOLS, 0)
    begun = time.time()
    for kind in TYPES:
        shop.celery(kind, CELERY // len(TYPES))
    ids = [each for name in QUEUES for each in shop.order(WEB // len(QUEUES), name)]
    sent_seconds = time.time() - begun
    of_celery = {kind: shop.told_by_celery(kind) for kind in TYPES}
    for sent, confirmed in of_celery.values():
        assert confirmed == {"confirmed": CELERY // len(TYPES), "wrong": 0}
        ids += sent
    books = shop.wait_ended(ids)
    seconds = time.time() - begun
    account(books.check(ids))
    assert len(ids) == WEB + CELERY
    assert books.starts == books.ends == dict.fromkeys(ids, 1)
    wait_for(
        shop.sizes,
        until=lambda sizes: sizes == dict.fromkeys(POOLS, 0),
        what="every pool is at zero again",
        timeout_seconds=90,
    )
    workers = {pod for each in ids for pod in books.workers_of(each)}
    print(f"\nmeasured: sent in {sent_seconds:.1f} s, ended after {seconds:.1f} s, by {len(workers)} workers")
    assert {pod.rsplit("-", 3)[0] for pod in workers} == set(POOLS)
