"""A thousand TaskQueues on one virtual host: ready within a minute of the operator's start."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from example_shop import API, condition
from installation import NAMESPACE, Installation, fresh
from kube import Cluster
from rabbitmq_chart import apply_rabbitmq, broker_secret
from waiting import stays, wait_for

MANY = 1000
READY_SECONDS = 60
SETTLED_SECONDS = 40
"""How long after its start an operator could still write that it does not know yet."""
POLICIES = 10
HOST = "many"
DEPLOYMENT = "deployment/muster"


class Broker:
    """The chart's RabbitMQ in a namespace of its own, with a virtual host that has no queue yet."""

    def __init__(self, installation: Installation, namespace: str):
        self.installation = installation
        self.cluster: Cluster = installation.cluster
        self.namespace = namespace

    def open(self) -> "Broker":
        """Apply RabbitMQ and its Secret, and make the virtual host."""
        apply_rabbitmq(self.cluster, self.namespace, mebibytes=2048)  # 2,000 quorum queues need more
        self.cluster.apply(broker_secret(HOST), namespace=self.namespace)
        self.control("add_vhost", HOST)
        self.control("set_permissions", "-p", HOST, "muster", ".*", ".*", ".*")
        return self

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl and return its output."""
        return self.cluster.kubectl(
            self.namespace, "exec", "muster-rabbitmq-0", "--", "rabbitmqctl", "--quiet", *arguments
        )

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the rows of one of rabbitmqctl's lists."""
        return json.loads(self.control(*arguments, "--formatter", "json"))

    def task_queues(self) -> list[dict[str, Any]]:
        return self.cluster.list("TaskQueue", namespace=self.namespace, api_version=API)

    def operator_runs(self, runs: bool) -> None:
        """Start or stop the operator; wait until it runs or is gone."""
        self.cluster.kubectl(NAMESPACE, "scale", DEPLOYMENT, f"--replicas={int(runs)}")
        wait_for(
            lambda: len(self.installation.operators()),
            until=lambda count: count == int(runs),
            what=f"{int(runs)} operators",
            timeout_seconds=60,
        )

    def operator_started_at(self) -> datetime:
        """Return when the operator's container was started."""

        def started() -> str:
            [pod] = self.installation.operators().values()
            [container] = pod["status"].get("containerStatuses") or [{"state": {}}]
            return container["state"].get("running", {}).get("startedAt", "")

        return datetime.fromisoformat(wait_for(started, what="the operator's container", timeout_seconds=60))

    def close(self) -> None:
        """Remove the queues while their operator is there."""
        self.cluster.kubectl(self.namespace, "delete", "TaskQueue", "--all", "--wait=false")
        wait_for(self.task_queues, until=lambda found: not found, what="the queues' end", timeout_seconds=120)


@pytest.fixture
def broker(muster_installed: Installation) -> Iterator[Broker]:
    with muster_installed.served_namespace(fresh("rabbitmq-many")) as name:
        found = Broker(muster_installed, name)
        try:
            yield found.open()
        finally:
            found.operator_runs(True)
            found.close()


def since_when(queues: list[dict[str, Any]]) -> list[datetime]:
    """Return since when each TaskQueue is Ready; all of them are."""
    found = [each for queue in queues for each in queue["status"]["conditions"] if each["type"] == "Ready"]
    assert {each["status"] for each in found} == {"True"}
    return [datetime.fromisoformat(each["lastTransitionTime"]) for each in found]


def test_a_thousand_task_queues_are_ready_within_a_minute_of_the_operators_start(broker: Broker, allowed):
    """Each with its dead letters, all with a few policies; and the virtual host's default is quorum then. The
    operator's next start turns none of them over."""
    broker.operator_runs(False)
    manifests = [
        {
            "apiVersion": API,
            "kind": "TaskQueue",
            "metadata": {"name": f"queue-{number:04}"},
            "spec": {
                "broker": {"secretRef": {"name": "broker"}},
                **({"maxLength": 1000} if number % 2 else {}),
            },
        }
        for number in range(MANY)
    ]
    broker.cluster.kubectl(
        broker.namespace,
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
    )
    broker.operator_runs(True)
    started = broker.operator_started_at()
    found = wait_for(
        broker.task_queues,
        until=lambda found: sum(condition({"status": {}, **each}) == "True" for each in found) == MANY,
        what=f"{MANY} TaskQueues ready",
        timeout_seconds=300,
        every_seconds=10,
    )
    seconds = (max(since_when(found)) - started).total_seconds()
    wait_for(
        lambda: [condition(queue, "PolicyInSync") for queue in broker.task_queues()].count("True"),
        until=lambda count: count == MANY,
        what="every policy in force",
        timeout_seconds=120,
        every_seconds=10,
    )
    queues = {each["name"]: each for each in broker.listed("list_queues", "-p", HOST, "name", "type")}
    policies = [each["name"] for each in broker.listed("list_policies", "-p", HOST)]
    [host] = [e for e in broker.listed("list_vhosts", "name", "default_queue_type") if e["name"] == HOST]
    print(
        f"\nmeasured: {MANY} TaskQueues ready after {seconds:.0f} s, {len(queues)} queues, "
        f"{len(policies)} policies"
    )
    assert {f"queue-{number:04}" for number in range(MANY)} <= queues.keys()
    assert {f"queue-{number:04}.dead" for number in range(MANY)} <= queues.keys()
    assert len(policies) <= POLICIES
    assert host["default_queue_type"] == "quorum"
    assert seconds <= allowed(READY_SECONDS, beside=3 * READY_SECONDS)
    before = since_when(broker.task_queues())
    broker.installation.restart_operator()
    stays(
        lambda: since_when(broker.task_queues()) == before,
        what="every TaskQueue is Ready as before",
        seconds=SETTLED_SECONDS,
        every_seconds=5,
    )
