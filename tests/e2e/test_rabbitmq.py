"""RabbitMQ in the cluster: the example's three nodes, and workers that outlive the loss of one of them."""

import contextlib
import secrets
import time
from collections.abc import Iterator

import pytest

from installation import Installation
from kube import Cluster
from rabbitmq_nodes import NODES, RabbitMQNodes, disks, pod_of
from waiting import wait_for

WORKERS = 3


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace with disks for three nodes."""
    name = f"rabbitmq-{secrets.token_hex(3)}"
    with disks(cluster, name):
        cluster.create_namespace(name)
        yield name
        cluster.delete_namespace(name, timeout_seconds=180)


@pytest.fixture
def nodes(namespace: str, muster_installed: Installation) -> Iterator[RabbitMQNodes]:
    """The three nodes of the example, a client and workers; the operator sees to that namespace as well."""
    muster_installed.serve(namespace)
    found = RabbitMQNodes(muster_installed.cluster, namespace)
    try:
        found.open(WORKERS)
        yield found
    finally:
        found.close()
        muster_installed.serve()


@pytest.mark.soak("On the cluster: the loss of the node that leads a quorum queue loses no task", repeat=0.3)
def test_nothing_is_lost_with_the_node_that_leads_the_queue(nodes: RabbitMQNodes, account):
    """Of three nodes the one that leads the queue, and that all are connected to, is lost while tasks are
    sent and run. Each task that was confirmed ends, the node is a member again, and every worker runs tasks
    again without having been started anew."""
    before = wait_for(nodes.queue, until=lambda queue: len(queue.get("online", ())) == 3, what="3 members")
    leader = pod_of(before["leader"])
    connections = wait_for(
        lambda: nodes.ask("connections"),
        until=lambda found: len(found) >= 2 * WORKERS,
        what="two connections of each worker",
    )
    assert {pod_of(each["node"]) for each in connections} == {leader} == {NODES[0]}
    restarted = nodes.restarted()
    with contextlib.closing(nodes.sending(2000, seconds=0.02)) as sending:
        wait_for(nodes.ended, until=lambda count: count >= 100, what="100 ends", timeout_seconds=60)
        ended_at_loss = nodes.ended()
        lost = nodes.lose(leader)
        lost_at = time.time()
        assert sending.goes_on
        told = sending.told()
    sent_after = time.time() - lost_at
    nodes.wait_back(leader, lost)
    back_after = time.time() - lost_at
    after = wait_for(
        nodes.queue,
        until=lambda queue: len(queue.get("online", ())) == 3,
        what="three members of the queue are there again",
        timeout_seconds=120,
    )
    assert nodes.members() == sorted(pod_of(each) for each in after["members"]) == sorted(NODES)
    with contextlib.closing(nodes.sending(150, seconds=0.1)) as sending:
        last = sending.told()
    confirmed = [*told["confirmed"], *last["confirmed"]]
    books = wait_for(
        nodes.books,
        until=lambda books: not books.check(confirmed).lost,
        what="the end of every confirmed task",
        timeout_seconds=180,
        every_seconds=1,
    )
    doubtful = {*told["doubtful"], *last["doubtful"]} & books.ends.keys()
    verdict = books.check([*confirmed, *doubtful])
    extra_runs = nodes.extra_runs()
    print(
        f"\nmembers before: {before['members']}, led by {before['leader']}"
        f"\nmembers after: {after['members']}, led by {after['leader']}"
        f"\n{leader} was lost after {ended_at_loss} ends; all was sent {sent_after:.1f} s later, "
        f"the node was back after {back_after:.1f} s"
        f"\nledger: {verdict.figures()}, doubtful to the client {len(told['doubtful'])}, "
        f"of which ran {len(doubtful)}, extra runs counted {extra_runs}"
        f"\nworkers that had been started anew before the loss: {restarted or 'none'}"
    )
    account(verdict, counted=extra_runs, nodes_lost=1)
    assert not last["doubtful"]
    at_work = {worker.split("/")[0] for task in last["confirmed"] for worker in books.workers_of(task)}
    assert at_work == nodes.workers()
    assert nodes.restarted() == restarted
