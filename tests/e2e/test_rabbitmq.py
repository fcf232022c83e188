"""RabbitMQ in the cluster: the example's three nodes, WorkerPools that outlive the loss of one of them, and
scale-ins that blame nothing."""

import time
from collections.abc import Iterator

import pytest

from installation import Installation, fresh
from kube import Cluster
from rabbitmq_nodes import MEMBERS, NODES, QUEUE, RabbitMQNodes, disks, pod_of
from waiting import stays, wait_for

WORKERS = 3
PARTITION_SECONDS = 30
CONSUMES_AGAIN_SECONDS = 5
SCALE_INS = 3
MOST_TASKS = 100_000


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, muster_installed: Installation) -> Iterator[RabbitMQNodes]:
    """The three nodes of the example and a client; the operator sees to that namespace as well."""
    name = fresh("rabbitmq")
    with disks(cluster, name), muster_installed.served_namespace(name):
        found = RabbitMQNodes(muster_installed.cluster, name)
        try:
            found.open()
            yield found
        finally:
            found.close()


def all_members(nodes: RabbitMQNodes) -> dict:
    """Wait until the three nodes are one cluster again, and members of the queue; return the queue."""
    wait_for(nodes.members, until=lambda m: m == sorted(NODES), what="three nodes", timeout_seconds=120)
    queue = wait_for(
        nodes.queue,
        until=lambda queue: len(queue.get("online", ())) == MEMBERS,
        what="three members of the queue",
        timeout_seconds=120,
    )
    assert nodes.members() == sorted(pod_of(each) for each in queue["members"]) == sorted(NODES)
    return queue


def settle(nodes: RabbitMQNodes, told: dict, account, counted_before: int, **figures: float) -> str:
    """Send a little more, wait for the end of all that was confirmed, hold the books against it; return what
    is to be shown of it."""
    last = nodes.sending(150, seconds=0.1).told()
    confirmed = [*told["confirmed"], *last["confirmed"]]
    books = nodes.wait_ended(confirmed)
    doubtful = {*told["doubtful"], *last["doubtful"]} & books.ends.keys()
    verdict = books.check([*confirmed, *doubtful])
    counted = nodes.extra_runs() - counted_before
    account(verdict, counted=counted, **figures)
    assert not last["doubtful"]
    at_work = {worker.split("/")[0] for task in last["confirmed"] for worker in books.workers_of(task)}
    assert at_work == nodes.workers()
    assert nodes.policy()["delivery-limit"] == -1
    assert nodes.policy()["dead-letter-exchange"] == "muster.dead"
    return (
        f"ledger: {verdict.figures()}, doubtful to the client {len(told['doubtful'])}, "
        f"of which ran {len(doubtful)}, extra runs counted {counted}"
    )


@pytest.mark.soak("On the cluster: a lost node and a partition of 30 s lose no task", repeat=0.3)
def test_nothing_is_lost_with_the_node_that_leads_the_queue(nodes: RabbitMQNodes, account, allowed):
    """Of three nodes the one that leads the queue, and that workers are connected to, is lost while tasks are
    sent and run. Then the one that leads it now is cut off from the others for half a minute. Each task that
    was confirmed ends, all three are members again, and no worker has been started anew."""
    nodes.clear()
    nodes.apply_pools({QUEUE: WORKERS})
    workers, restarted = nodes.workers(), nodes.restarted()
    print(f"\nworkers that had been started anew before: {restarted or 'none'}")
    lose_the_leader(nodes, account, allowed)
    nodes.clear()
    cut_off_the_leader(nodes, account, allowed)
    assert (nodes.workers(), nodes.restarted()) == (workers, restarted)


def consumed_again(nodes: RabbitMQNodes, moment: float) -> float:
    """Return how many seconds after a moment the last of the workers has begun a task."""
    begun = nodes.books().begun_after(moment)
    assert begun.keys() == nodes.workers()
    return max(begun.values()) - moment


def lose_the_leader(nodes: RabbitMQNodes, account, allowed) -> None:
    """The TaskQueue says so, until it is a member again; every worker runs tasks as soon as clients send."""
    before = all_members(nodes)
    leader = pod_of(before["leader"])
    connections = wait_for(
        lambda: nodes.ask("connections"),
        until=lambda found: len(found) >= 2 * WORKERS,
        what="two connections of each worker",
    )
    # most mostly: one that did not answer at once has led its client to the next
    assert leader in {pod_of(each["node"]) for each in connections}
    nodes.wait_condition("TaskQueue", QUEUE, "UnderReplicated", "False")
    counted_before = nodes.extra_runs()
    sending = nodes.sending(2000, seconds=0.02)
    wait_for(nodes.ended, until=lambda count: count >= 100, what="100 ends", timeout_seconds=60)
    ended_at_loss = nodes.ended()
    with nodes.kept_away(leader):
        lost_at = time.time()
        lost = nodes.lose(leader)
        assert sending.goes_on
        told = sending.told()
        sent_after = time.time() - lost_at
        said = nodes.wait_condition("TaskQueue", QUEUE, "UnderReplicated", "True")
        assert f"queue {QUEUE} has {MEMBERS - 1} of {MEMBERS} members online" in said
        said_after = time.time() - lost_at
    nodes.wait_back(leader, lost)
    back_after = time.time() - lost_at
    after = all_members(nodes)
    nodes.wait_condition("TaskQueue", QUEUE, "UnderReplicated", "False")
    waited, returned = told["longest_wait"]
    assert returned > lost_at
    again_after = consumed_again(nodes, returned)
    shown = settle(nodes, told, account, counted_before, nodes_lost=1)
    print(
        f"\nmembers before: {before['members']}, led by {before['leader']}"
        f"\nmembers after: {after['members']}, led by {after['leader']}, policy {nodes.policy()}"
        f"\n{leader} was lost after {ended_at_loss} ends; the client waited {returned - waited:.1f} s for a "
        f"confirm, all workers were at work {again_after:.1f} s after that; all was sent {sent_after:.1f} s "
        f"after the loss, UnderReplicated was True after {said_after:.1f} s, the node back after "
        f"{back_after:.1f} s"
        f"\n{shown}"
    )
    assert again_after <= allowed(CONSUMES_AGAIN_SECONDS, beside=2 * CONSUMES_AGAIN_SECONDS)


def cut_off_the_leader(nodes: RabbitMQNodes, account, allowed) -> None:
    """Clients and workers reach all three. Every worker is at work soon after its end, at the latest."""
    before = all_members(nodes)
    leader = pod_of(before["leader"])
    counted_before = nodes.extra_runs()
    sending = nodes.sending(MOST_TASKS, seconds=0.02, pause_seconds=0.01)
    wait_for(nodes.ended, until=lambda count: count >= 100, what="100 ends", timeout_seconds=60)
    with nodes.cut_off(leader):
        begun = time.time()
        ended_at_cut = nodes.ended()
        stays(lambda: sending.goes_on, what="the client sends", seconds=PARTITION_SECONDS, every_seconds=2)
        ended_at_end = nodes.ended()
    healed = time.time()
    stays(lambda: sending.goes_on, what="the client sends", seconds=2 * CONSUMES_AGAIN_SECONDS)
    sending.stop()
    told = sending.told()
    after = all_members(nodes)
    whole_after = time.time() - begun - PARTITION_SECONDS
    shown = settle(nodes, told, account, counted_before, partitions=1)
    again_after = consumed_again(nodes, healed)
    waited, returned = told["longest_wait"]
    print(
        f"\nmembers before: {before['members']}, led by {before['leader']}"
        f"\nmembers after: {after['members']}, led by {after['leader']}, policy {nodes.policy()}"
        f"\n{leader} was cut off for {PARTITION_SECONDS} s, {ended_at_end - ended_at_cut} tasks ended in it; "
        f"the client waited {returned - waited:.1f} s for a confirm; all workers were at work "
        f"{again_after:.1f} s after, the cluster was whole {whole_after:.1f} s after"
        f"\n{shown}"
    )
    assert again_after <= allowed(CONSUMES_AGAIN_SECONDS, beside=2 * CONSUMES_AGAIN_SECONDS)


@pytest.mark.soak("On the cluster: scale-ins blame no message on RabbitMQ 4")
def test_scale_ins_blame_no_message(nodes: RabbitMQNodes, account, times: int):
    """Pools go from three workers to one, again and again, while short tasks stream in, so that each worker
    has taken some ahead: every task runs once, on a quorum queue of RabbitMQ 4 and on a classic one, and a
    delivery limit of one buries none."""
    nodes.clear()
    pools = {"packers-quorum": "Quorum", "packers-classic": "Classic"}
    for name, kind in pools.items():
        nodes.declare(name, type=kind, deliveryLimit=1)
    nodes.apply_pools(dict.fromkeys(pools, 1))
    clients = [nodes.sending(MOST_TASKS, seconds=0, queue=name, pause_seconds=0.005) for name in pools]
    for workers in (WORKERS, 1) * SCALE_INS * times:
        nodes.apply_pools(dict.fromkeys(pools, workers))
        assert all(client.goes_on for client in clients)
    for client in clients:
        client.stop()
    told = [client.told() for client in clients]
    assert not any(each["doubtful"] for each in told)
    confirmed = [task_id for each in told for task_id in each["confirmed"]]
    books = nodes.wait_ended(confirmed)
    account(books.check(confirmed), scale_ins=SCALE_INS * times * len(pools))
    at_work = {worker.split("/")[0] for task in confirmed for worker in books.workers_of(task)}
    print(f"\n{len(confirmed)} tasks by {len(at_work)} workers")
    assert books.starts == books.ends == dict.fromkeys(confirmed, 1)
    assert len(at_work) == len(pools) * (1 + (WORKERS - 1) * SCALE_INS * times)
    for name, kind in pools.items():
        assert nodes.queue(f"{name}.dead")["messages"] == 0
        assert nodes.policy(name).get("delivery-limit") == (-1 if kind == "Quorum" else None)
