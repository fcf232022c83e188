"""The main job on a real cluster: nothing is lost, nobody busy is stopped, the size follows the load.

Tasks come from the example's web service and from a stock Celery client; what ran is read from books that the
tasks keep themselves, in a Redis that Muster does not know. Each test prints what it measured.
"""

import json
import time

import pytest

from example_shop import EXAMPLES, Shop, recomputed
from installation import Installation
from waiting import wait_for

WEB, CELERY = 10_000, 1_000
DRAIN = ["--delete-emptydir-data", "--timeout=120s"]  # the only volume of a worker is its /tmp


def report(**figures):
    print("\nmeasured:", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))


@pytest.mark.soak("On the cluster: 11,000 tasks of two clients run once each, and the pool goes back to zero")
@pytest.mark.parametrize(
    "pool",
    [
        {"type": "prefork", "concurrency": 2},
        {"type": "threads", "concurrency": 2},
        {"type": "solo"},
    ],
    ids=lambda pool: pool["type"],
)
def test_eleven_thousand_tasks_from_two_clients_each_run_once(empty_shop: Shop, account, pool: dict):
    """10,000 orders of the web service and 1,000 of Celery begin and end once each; the pool goes from zero
    to the size that the decision function names and back to zero."""
    shop = empty_shop
    shop.apply_pool(pool=pool)
    assert not shop.pods()
    with shop.watched() as decisions:
        started = time.time()
        shop.cluster.apply(EXAMPLES / "celery-client/manifests/job.yaml", namespace=shop.namespace)
        try:
            ids = shop.order(WEB)
            ordered = time.time()
            job = shop.cluster.wait_for_object(
                "Job",
                "celery-client",
                lambda seen: {"succeeded", "failed"} & (seen or {}).get("status", {}).keys(),
                namespace=shop.namespace,
                api_version="batch/v1",
                timeout_seconds=300,
            )
            log = shop.kubectl("logs", "job/celery-client")
        finally:
            shop.cluster.delete(
                "Job",
                "celery-client",
                namespace=shop.namespace,
                api_version="batch/v1",
                propagationPolicy="Background",
            )
        assert job["status"].get("succeeded") == 1, log
        sent, confirmed = (json.loads(line) for line in log.splitlines())
        books = shop.wait_ended(ids + sent["sent"])
        ended = time.time()
        shop.wait_empty()
    account(books.check(ids + sent["sent"]), counted=sum(shop.extra_runs().values()))
    assert confirmed == {"confirmed": CELERY, "wrong": 0}
    assert books.starts == books.ends == dict.fromkeys(ids + sent["sent"], 1)
    assert shop.extra_runs() == {}
    up = next(each for each in decisions if each["from"] == 0)
    declared = shop.pool()
    assert [recomputed(declared, each) for each in decisions if each["to"] > each["from"]] == [
        each["to"] for each in decisions if each["to"] > each["from"]
    ]
    assert decisions[-1]["to"] == 0
    # more where a drained worker that was needed again had not ended its last task when its replacement began
    assert books.most_at_work >= max(each["to"] for each in decisions)
    report(
        pool=pool["type"],
        seconds_to_order=f"{ordered - started:.1f}",
        seconds_to_the_last_end=f"{ended - started:.1f}",
        decisions=decisions.path,
        most_pods_at_work=books.most_at_work,
        first_decision_from=up["inputs"],
    )


def test_replicas_are_requested_soon_after_a_backlog_appears(empty_shop: Shop):
    """From the first message of an empty queue to spec.replicas of the Deployment: 3 s is the aim."""
    shop = empty_shop
    shop.apply_pool()
    sent = time.time()
    ids = shop.order(1)

    def replicas():
        found = shop.cluster.list(
            "Deployment",
            namespace=shop.namespace,
            api_version="apps/v1",
            labels="muster.dev/pool=orders",
        )
        return sum(each["spec"]["replicas"] for each in found)

    wait_for(replicas, what="replicas are requested", timeout_seconds=30)
    seconds = time.time() - sent
    books = shop.wait_ended(ids)
    begun = float(books.lines["start"][0][1]) - sent
    report(seconds_to_replicas=f"{seconds:.2f}", seconds_to_the_first_begin=f"{begun:.2f}")
    assert seconds <= 10


@pytest.mark.soak("On the cluster: running tasks outlive shrinking and rolls", repeat=0.3)
@pytest.mark.parametrize("acks", ["Late", "Early"])
def test_running_tasks_outlive_a_shrinking_and_a_roll(empty_shop: Shop, account, acks: str):
    """Of four workers two fall idle: those two go. Then the pool may have one worker only, and its template
    changes: both that are left are busy for a minute, and leave when they have finished. Every task begins
    once and ends."""
    shop = empty_shop
    spec = {
        "pool": {"type": "prefork", "concurrency": 1},
        "delivery": {"acks": acks},
        "scaling": {"maxReplicas": 4, "target": {"utilization": 100}},
    }
    shop.apply_pool(**spec, paused=True)  # so that the pool sees all four at once
    short = shop.send("shop.tasks.pack", ("a", 15), ("b", 15))
    long = shop.send("shop.tasks.pack", ("c", 60), ("d", 60))
    shop.apply_pool(**spec)
    shop.wait_size(4)
    wait_for(shop.begun, until=lambda count: count == 4, what="all four run", timeout_seconds=60)
    busy = {shop.books().workers_of(each)[0].split("/")[0] for each in long}
    assert len(busy) == 2
    shop.wait_size(2, timeout_seconds=40)
    shrunk_while_running = shop.ended() == 2
    assert set(shop.pods()) == busy
    template = shop.pool_manifest()["spec"]["template"]
    template["metadata"] = {"annotations": {"example.com/rolled": "once"}}
    spec["scaling"] = {"maxReplicas": 1, "target": {"utilization": 100}}
    shop.apply_pool(**spec, template=template)
    after = shop.send("shop.tasks.pack", ("e", 1))
    books = shop.wait_ended(short + long + after, timeout_seconds=150)
    account(
        books.check(short + long + after),
        counted=sum(shop.extra_runs().values()),
        pools_shrunk=2,
        pools_rolled=1,
    )
    assert shrunk_while_running
    assert books.starts == books.ends == dict.fromkeys(short + long + after, 1)
    assert shop.extra_runs() == {}
    [new] = {each.split("/")[0] for each in books.workers_of(after[0])}
    report(acks=acks, kept=sorted(busy), ran_the_next=new)


def at_work(shop: Shop, ended: int) -> None:
    """Wait until so many tasks have ended."""
    wait_for(shop.ended, until=lambda count: count >= ended, what=f"{ended} ends", timeout_seconds=180)


@pytest.mark.soak("On the cluster: nothing is lost while everything breaks", repeat=0.3)
def test_nothing_is_lost_while_everything_breaks(empty_shop: Shop, account, muster_installed: Installation):
    """During 10,000 tasks a busy worker is deleted by force, Redis and the operator are killed, and a node is
    drained: every task ends. What ran twice is counted by the broker: no more than that worker had begun."""
    shop = empty_shop
    pool = {"type": "prefork", "concurrency": 2}
    shop.apply_pool(pool=pool, paused=True)
    ids = shop.order(WEB // 2)
    slow = shop.send("shop.tasks.pack", *[(f"parcel {number}", 3) for number in range(40)])
    ids += shop.order(WEB // 2)
    shop.apply_pool(pool=pool)
    at_work(shop, 500)
    busy = shop.busy_pod()
    in_flight = shop.lose(busy)
    at_kill = shop.ended()
    wait_for(lambda: not shop.cluster.has_process(busy), what="the end of the worker", timeout_seconds=60)
    at_work(shop, 2000)
    broker = shop.cluster.get("Pod", "broker-0", namespace=shop.namespace)
    shop.cluster.kill_container(broker)  # which is started again on the same disk
    at_work(shop, 4000)
    muster_installed.restart_operator()
    at_restart = shop.ended()
    node = wait_for(
        lambda: [p["spec"].get("nodeName") for p in shop.pods().values() if p["spec"].get("nodeName")],
        what="a node with workers",
        timeout_seconds=60,
    )[0]
    try:
        shop.kubectl("drain", node, "--pod-selector=muster.dev/pool=orders", *DRAIN)
        drained_at = shop.ended()
    finally:
        shop.kubectl("uncordon", node)
    books = shop.wait_ended(ids + slow, timeout_seconds=400)
    verdict = books.check(ids + slow)
    counted = shop.extra_runs()
    report(
        ended_at_kill=at_kill,
        in_flight_at_kill=in_flight,
        at_operator_restart=at_restart,
        at_node_drained=drained_at,
        extra_runs_in_the_books=verdict.extra_runs,
        extra_runs_counted=counted,
    )
    broken = {"pods_deleted_by_force": 1, "broker_restarts": 1, "operator_restarts": 1, "nodes_drained": 1}
    account(verdict, counted=sum(counted.values()), **broken)
    assert not verdict.unfinished
    assert sum(counted.values()) <= in_flight


@pytest.mark.soak("A process of tasks stopped, killed or out of memory costs the tasks in it only")
def test_a_child_out_of_memory_takes_its_own_task_only(empty_shop: Shop, account):
    """The kernel kills one of two children of a prefork worker: that task fails with its reason, the other's
    goes on, and the pod is never restarted."""
    shop = empty_shop
    template = shop.pool_manifest()["spec"]["template"]
    worker = template["spec"]["containers"][0]
    worker["resources"]["limits"]["memory"] = "192Mi"
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "glutton"},
        "data": {"glutton.py": GLUTTON},
    }
    shop.cluster.apply(code, namespace=shop.namespace)
    worker["volumeMounts"] = [{"name": "glutton", "mountPath": "/app/glutton"}]
    worker["env"].append({"name": "PYTHONPATH", "value": "/app:/app/glutton"})
    template["spec"]["volumes"] = [{"name": "glutton", "configMap": {"name": "glutton"}}]
    shop.apply_pool(
        pool={"type": "prefork", "concurrency": 2},
        app="glutton",
        template=template,
        delivery={"rejectOnWorkerLost": False},
        scaling={"minReplicas": 1, "maxReplicas": 1},
    )
    shop.wait_size(1)
    [packing] = shop.send("shop.tasks.pack", ("beside", 20))
    wait_for(shop.begun, what="the other child is at work", timeout_seconds=90)
    [eating] = shop.send("glutton.eat", (400,))
    lost = wait_for(
        lambda: shop.result(eating),
        until=lambda found: found["state"] == "FAILURE",
        what="the end of the task that ate",
        timeout_seconds=60,
    )
    assert shop.ended() == 0  # the other child is still at work
    books = shop.wait_ended([packing], timeout_seconds=60)
    [pod] = shop.pods().values()
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    report(error=lost["error"], restarts=restarts)
    account(books.check([packing]), children_out_of_memory=1)
    assert books.starts[packing] == 1
    assert restarts == 0
    shop.apply_pool()


GLUTTON = '''
"""The shop's tasks, and one that eats."""
from shop.tasks import app
from shop.books import books


@app.task(bind=True, name="glutton.eat")
def eat(self, mebibytes):
    eaten = []
    for _ in range(mebibytes):
        eaten.append(b"x" * 2**20)
    return len(eaten)
'''


@pytest.mark.soak(
    "On the cluster: the task of a pool's only worker, killed, runs again from zero", repeat=0.3
)
def test_the_task_of_the_only_worker_runs_again_after_it_was_killed(empty_shop: Shop, account):
    """The only worker is killed and deleted by force, the pool paused to zero: resumed, it comes back for the
    task that only a lost claim tells of."""
    shop = empty_shop
    alone = {"pool": {"type": "prefork", "concurrency": 1}, "scaling": {"minReplicas": 0, "maxReplicas": 1}}
    shop.apply_pool(**alone)
    [task] = shop.send("shop.tasks.pack", ("only", 15))
    wait_for(shop.begun, what="it runs", timeout_seconds=90)
    [worker] = shop.pods().values()
    shop.apply_pool(**alone, paused=True)
    shop.lose(worker)  # it may be on its way out by now, with its task running
    shop.wait_size(0)
    assert shop.ended() == 0
    killed = time.time()
    shop.apply_pool(**alone)
    books = shop.wait_ended([task], timeout_seconds=180)
    report(
        seconds_to_the_second_begin=f"{float(books.lines['start'][1][1]) - killed:.1f}",
        extra_runs=shop.extra_runs(),
    )
    account(books.check([task]), counted=sum(shop.extra_runs().values()), pods_deleted_by_force=1)
    assert books.starts == {task: 2}
    assert books.ends == {task: 1}
    assert sum(shop.extra_runs().values()) == 1
