"""RabbitMQ in the cluster: the example's three nodes, and workers that outlive the loss of one of them."""

import contextlib
import secrets
import time
from collections.abc import Iterator

import pytest

from installation import Installation
from kube import Cluster
from rabbitmq_nodes import NODES, RabbitMQNodes, disks, pod_of
from waiting import stays, wait_for

WORKERS = 3
PARTITION_SECONDS = 30


@pytest.fixture
def nodes(cluster: Cluster, muster_installed: Installation) -> Iterator[RabbitMQNodes]:
    """The three nodes of the example, a client and workers; the operator sees to that namespace as well."""
    name = f"rabbitmq-{secrets.token_hex(3)}"
    with disks(cluster, name):
        cluster.create_namespace(name)
        muster_installed.serve(name)
        found = RabbitMQNodes(muster_installed.cluster, name)
        try:
            found.open(WORKERS)
            yield found
        finally:
            found.close()
            muster_installed.serve()
            cluster.delete_namespace(name, timeout_seconds=180)


def all_members(nodes: RabbitMQNodes) -> dict:
    """Wait until the three nodes are one cluster again, and members of the queue; return the queue."""
    wait_for(nodes.members, until=lambda m: m == sorted(NODES), what="three nodes", timeout_seconds=120)
    queue = wait_for(
        nodes.queue,
        until=lambda queue: len(queue.get("online", ())) == 3,
        what="three members of the queue",
        timeout_seconds=120,
    )
    assert nodes.members() == sorted(pod_of(each) for each in queue["members"]) == sorted(NODES)
    return queue


def settle(nodes: RabbitMQNodes, told: dict, account, counted_before: int, **figures: float) -> str:
    """Send a little more, wait for the end of all that was confirmed, hold the books against it; return what
    is to be shown of it."""
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
    counted = nodes.extra_runs() - counted_before
    account(verdict, counted=counted, **figures)
    assert not last["doubtful"]
    at_work = {worker.split("/")[0] for task in last["confirmed"] for worker in books.workers_of(task)}
    assert at_work == nodes.workers()
    return (
        f"ledger: {verdict.figures()}, doubtful to the client {len(told['doubtful'])}, "
        f"of which ran {len(doubtful)}, extra runs counted {counted}"
    )


@pytest.mark.soak("On the cluster: a lost node and a partition of 30 s lose no task", repeat=0.3)
def test_nothing_is_lost_with_the_node_that_leads_the_queue(nodes: RabbitMQNodes, account):
    """Of three nodes the one that leads the queue, and that all are connected to, is lost while tasks are
    sent and run. Then the one that leads it now is cut off from the others for half a minute. Each task that
    was confirmed ends, all three are members again, and no worker has been started anew."""
    restarted = nodes.restarted()
    print(f"\nworkers that had been started anew before: {restarted or 'none'}")
    lose_the_leader(nodes, account)
    nodes.clear()
    cut_off_the_leader(nodes, account)
    assert nodes.restarted() == restarted


def lose_the_leader(nodes: RabbitMQNodes, account) -> None:
    """It is a member again after it, and every worker runs tasks."""
    before = all_members(nodes)
    leader = pod_of(before["leader"])
    connections = wait_for(
        lambda: nodes.ask("connections"),
        until=lambda found: len(found) >= 2 * WORKERS,
        what="two connections of each worker",
    )
    assert {pod_of(each["node"]) for each in connections} == {leader} == {NODES[0]}
    counted_before = nodes.extra_runs()
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
    after = all_members(nodes)
    shown = settle(nodes, told, account, counted_before, nodes_lost=1)
    print(
        f"\nmembers before: {before['members']}, led by {before['leader']}"
        f"\nmembers after: {after['members']}, led by {after['leader']}, policy {nodes.policy() or 'none'}"
        f"\n{leader} was lost after {ended_at_loss} ends; all was sent {sent_after:.1f} s later, "
        f"the node was back after {back_after:.1f} s"
        f"\n{shown}"
    )


def cut_off_the_leader(nodes: RabbitMQNodes, account) -> None:
    """Clients and workers reach all three. Tasks run again soon after the end of it, at the latest."""
    before = all_members(nodes)
    leader = pod_of(before["leader"])
    counted_before = nodes.extra_runs()
    with contextlib.closing(nodes.sending(3000, seconds=0.02, pause_seconds=0.01)) as sending:
        wait_for(nodes.ended, until=lambda count: count >= 100, what="100 ends", timeout_seconds=60)
        with nodes.cut_off(leader):
            begun = time.time()
            ended_at_cut = nodes.ended()
            stays(lambda: sending.goes_on, what="the client sends", seconds=PARTITION_SECONDS)
            ended_at_end = nodes.ended()
        healed = time.time()
        wait_for(nodes.ended, until=lambda count: count > ended_at_end, what="tasks end", every_seconds=0.5)
        again_after = time.time() - healed
        told = sending.told()
    after = all_members(nodes)
    whole_after = time.time() - begun - PARTITION_SECONDS
    shown = settle(nodes, told, account, counted_before, partitions=1)
    print(
        f"\nmembers before: {before['members']}, led by {before['leader']}"
        f"\nmembers after: {after['members']}, led by {after['leader']}, policy {nodes.policy() or 'none'}"
        f"\n{leader} was cut off for {PARTITION_SECONDS} s, {ended_at_end - ended_at_cut} tasks ended in it, "
        f"the next {again_after:.1f} s after; the cluster was whole {whole_after:.1f} s after"
        f"\n{shown}"
    )
