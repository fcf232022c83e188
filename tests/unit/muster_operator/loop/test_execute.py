"""Plans carried out, on ports in memory that fail as told."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from muster_operator.api.workerpool import WorkerPoolStatus
from muster_operator.errors import ClusterUnavailable, Conflicted, Forbidden, NotLeading, Refused
from muster_operator.loop.execute import execute
from muster_operator.loop.observe import Memory
from muster_operator.model.actions import (
    Apply,
    BrokerAddress,
    Emit,
    EventType,
    Plan,
    Scale,
    SendDrain,
    SetFinalizer,
    SetStatus,
)
from muster_operator.model.history import History, RuntimeEstimate
from worlds import NOW, pool_of, seconds

POOL = pool_of()
BROKER = BrokerAddress(namespace="shop", secret="broker")
DRAIN = SendDrain(broker=BROKER, pool="shop/mail", worker="uid-a")
APPLY = Apply(
    manifest={
        "kind": "Deployment",
        "metadata": {"name": "mail-1", "namespace": "shop", "annotations": {"muster.dev/applied": "mark"}},
    }
)
GROW = Scale(namespace="shop", deployment="mail-1", replicas=3, down=False)
EVENT = Emit(
    kind="WorkerPool", metadata=POOL.metadata, type=EventType.NORMAL, reason="ScaledUp", message="from 0 to 3"
)
STATUS = SetStatus(kind="WorkerPool", metadata=POOL.metadata, status=WorkerPoolStatus(desired=3))
FINALIZER = SetFinalizer(
    kind="TaskQueue", metadata=POOL.metadata, finalizer="muster.dev/queue", present=False
)


@dataclass
class Port:
    """Does what it is told, but for what fails."""

    failures: dict = field(default_factory=dict)
    """By the id of the action."""
    done: list = field(default_factory=list)

    async def carry_out(self, action):
        if id(action) in self.failures:
            raise self.failures[id(action)]
        self.done.append(action)


def run(*actions, failing=None, error=None, memory=None):
    cluster, brokers = Port(), Port()
    for port in (cluster, brokers):
        if failing is not None:
            port.failures[id(failing)] = error
    memory = memory or Memory()
    plan = Plan(actions=actions, history=History(size=7), runtime=RuntimeEstimate(seconds=2.0))
    outcome = asyncio.run(execute(plan, cluster=cluster, brokers=brokers, memory=memory, now=NOW))
    return outcome, cluster.done, brokers.done, memory


def test_each_action_goes_to_the_port_that_it_concerns_in_order():
    """What concerns a broker goes there, all else to the cluster; all of it is confirmed."""
    outcome, cluster, brokers, memory = run(APPLY, DRAIN, GROW, EVENT, STATUS)
    assert (cluster, brokers) == ([APPLY, GROW, EVENT, STATUS], [DRAIN])
    assert outcome.confirmed == [APPLY, DRAIN, GROW, EVENT, STATUS]
    assert outcome.failure is None
    assert (memory.history.size, memory.runtime.seconds, memory.status_written_at) == (7, 2.0, NOW)


@pytest.mark.parametrize(
    "error",
    [ClusterUnavailable("away"), Conflicted("gone"), Forbidden("no"), NotLeading("no"), Refused("no")],
)
def test_a_failure_ends_the_plan_but_for_events_and_status(error):
    """Nothing is built on what is not confirmed; what was decided is told all the same."""
    outcome, cluster, brokers, _ = run(DRAIN, GROW, FINALIZER, EVENT, STATUS, failing=DRAIN, error=error)
    assert (cluster, brokers) == ([EVENT, STATUS], [])
    assert (outcome.confirmed, outcome.failure) == ([EVENT, STATUS], error)


@pytest.mark.parametrize(
    "error", [Conflicted("the namespace goes"), ClusterUnavailable("away"), Refused("no")]
)
def test_an_event_that_cannot_be_recorded_ends_nothing(error):
    """A namespace that is being deleted takes no events: our finalizer must come off all the same."""
    outcome, cluster, _, _ = run(EVENT, FINALIZER, failing=EVENT, error=error)
    assert cluster == [FINALIZER]
    assert (outcome.confirmed, outcome.failure) == ([FINALIZER], None)


def test_a_refusal_is_remembered_for_the_next_plan_until_an_apply_is_taken():
    """With the API server's words, the hash of what was refused, and the time."""
    _, _, _, memory = run(APPLY, STATUS, failing=APPLY, error=Refused("spec.x: must not be"))
    [rejection] = memory.rejections.values()
    assert (rejection.kind, rejection.name, rejection.applied) == ("Deployment", "mail-1", "mark")
    assert (rejection.message, rejection.at) == ("spec.x: must not be", NOW)
    run(APPLY, memory=memory)
    assert memory.rejections == {}


def test_an_apply_that_did_not_arrive_is_no_refusal():
    """Only the API server's word counts: an outage is tried again at once."""
    _, _, _, memory = run(APPLY, failing=APPLY, error=ClusterUnavailable("away"))
    assert memory.rejections == {}


def test_a_status_that_was_not_written_does_not_count_as_written():
    """So that the next pass writes it without waiting for its turn."""
    before = replace(Memory(), status_written_at=NOW - seconds(60))
    outcome, _, _, memory = run(STATUS, failing=STATUS, error=ClusterUnavailable("away"), memory=before)
    assert memory.status_written_at == NOW - seconds(60)
    assert isinstance(outcome.failure, ClusterUnavailable)
