"""Workers and clients behind HAProxy, in front of three RabbitMQ nodes: heartbeats and failover work."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from haproxy import HAProxy
from ledger import Ledger
from muster import Muster
from muster.errors import BrokerUnavailable
from rabbitmq import RabbitMQServer
from waiting import stays, wait_for
from workers import Worker

pytestmark = pytest.mark.servers

LEASE_SECONDS = 5
"""The worker's heartbeat."""
IDLE_SECONDS = 8
"""HAProxy closes what is idle for so long: more than a heartbeat, less than the worker is without work."""

PARTITIONS = "cluster_partition_handling = pause_minority\n"
"""As the example's nodes have it."""


@pytest.fixture
def nodes() -> Iterator[list[RabbitMQServer]]:
    """Three nodes that are one cluster."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RabbitMQServer(PARTITIONS))
        others = [stack.enter_context(RabbitMQServer(PARTITIONS, beside=first)) for _ in range(2)]
        wait_for(
            lambda: sum(node["running"] for node in first.api("GET", "nodes")),
            until=lambda running: running == 3,
            what="three nodes in one cluster",
        )
        yield [first, *others]


@pytest.fixture
def proxy(nodes: list[RabbitMQServer]) -> Iterator[HAProxy]:
    """HAProxy in front of them."""
    with HAProxy([node.port for node in nodes], idle_seconds=IDLE_SECONDS) as made:
        yield made


class Shop:
    """A quorum queue with a member on each node, and who sends and works through the proxy."""

    def __init__(self, nodes: list[RabbitMQServer], proxy: HAProxy, folder):
        self.nodes = nodes
        for queue in ("celery", "celery.dead"):
            nodes[0].api("PUT", f"queues/%2F/{queue}", durable=True, arguments={"x-queue-type": "quorum"})
        self.url = f"amqp://guest:guest@127.0.0.1:{proxy.port}//"
        self.results = f"sqlite:///{folder}/results.db"
        self.ledger = Ledger(folder / "ledger")
        self.app = Muster("client", broker=self.url, backend=self.results)
        self.confirmed: list[str] = []
        self.doubtful = 0

    def worker(self) -> Worker:
        return Worker(
            *["ledger_app", "prefork", "-c", "2", "--lease", str(LEASE_SECONDS)],
            BROKER=self.url,
            RESULTS=self.results,
            LEDGER=str(self.ledger.path),
        )

    def send(self) -> None:
        """Send one; of what gets an error nobody knows whether it has arrived."""
        try:
            self.confirmed.append(self.app.send_task("ledger.work", kwargs={"seconds": 0.02}).id)
        except BrokerUnavailable:
            self.doubtful += 1

    def connections(self, asked: RabbitMQServer) -> dict[str, RabbitMQServer]:
        """The worker's connections by name, with the node that each is on, by the word of one node."""
        by_name = {node.node: node for node in self.nodes}
        return {
            each["name"]: by_name[each["node"]]
            for each in asked.api("GET", "connections")
            if each.get("timeout") == LEASE_SECONDS
        }

    def sends_until(self, reached, what: str, timeout_seconds: float = 60) -> float:
        """Send until something is so; return after how many seconds."""
        begun = time.monotonic()

        def step() -> bool:
            self.send()
            return bool(reached())

        wait_for(step, what=what, timeout_seconds=timeout_seconds, every_seconds=0.02)
        return time.monotonic() - begun

    def more_ended(self, count: int = 20):
        """A question: whether so many of those that are sent from now on have ended."""
        begin = len(self.confirmed)
        return lambda: len(self.ledger.ends.keys() & set(self.confirmed[begin:])) >= count


def test_heartbeats_and_failover_work_behind_haproxy(nodes, proxy, tmp_path):
    """A worker without work keeps its connections for longer than HAProxy lets idle ones live. Its node is
    killed, then another one hangs: each time the same worker goes on, and all that was confirmed ends."""
    shop = Shop(nodes, proxy, tmp_path)
    with contextlib.closing(shop.app), shop.worker() as worker:
        worker.wait_ready()
        shop.sends_until(shop.more_ended(), "tasks end")
        before = wait_for(
            lambda: shop.connections(nodes[0]),
            until=lambda found: len(found) == 2,
            what="the worker's two connections",
        )
        stays(
            lambda: worker.get("/readyz")[0] == 200 and before.keys() == shop.connections(nodes[0]).keys(),
            what="the worker keeps its connections",
            seconds=1.5 * IDLE_SECONDS,
        )

        lost = next(iter(before.values()))  # the two may be on one node or on two
        cut = {name for name, node in before.items() if node is lost}
        other = next(node for node in nodes if node is not lost)
        lost.kill9()
        killed = shop.sends_until(shop.more_ended(), "tasks end without the node that was killed")
        lost.start()

        now = wait_for(
            lambda: shop.connections(other),
            until=lambda found: len(found) == 2 and not found.keys() & cut,
            what="the worker's new connections",
        )
        hangs = next(iter(now.values()))
        with hangs.frozen():
            hung = shop.sends_until(shop.more_ended(), "tasks end while a node hangs", timeout_seconds=90)
        wait_for(
            lambda: set(shop.confirmed) - shop.ledger.ends.keys(),
            until=lambda missing: not missing,
            what="the end of all that was confirmed",
            timeout_seconds=60,
        )
        assert worker.process.poll() is None
        verdict = shop.ledger.check(shop.confirmed)
        counted = worker.metric("muster_task_extra_runs_total")
        print(
            f"\n{len(shop.confirmed)} confirmed, {shop.doubtful} doubtful, {verdict.figures()}, "
            f"counted {counted:g}; 20 tasks had ended {killed:.1f} s after a kill, {hung:.1f} s after a hang"
        )
        assert verdict.extra_runs <= counted
        worker.terminate()
        assert worker.wait() == 0
