"""What has been done on a virtual host is seen before the next look at it, and not done again."""

from dataclasses import replace

import pytest

from muster_operator.adapters.rabbitmq.reader import reflected
from muster_operator.decide.plan import plan_virtual_host
from muster_operator.model.actions import DeclareQueues, PutPolicy, RemovePolicy, SetDefaultQueueType
from muster_operator.model.rabbitmq import Answer, FoundQueue, Management, Policy, VirtualHost
from muster_operator.model.world import BrokerFacts, VirtualHostSnapshot
from worlds import NOW, known, queue_of

QUORUM = {"x-queue-type": "quorum"}
OURS = Policy(name="muster.us.old.1", pattern="^gone$", definition={}, priority=10, apply_to="queues")


def snapshot(host, queues):
    return VirtualHostSnapshot(
        now=NOW,
        namespace="shop",
        secret_name="broker",
        owner="us",
        broker=known(BrokerFacts(type="RabbitMQ", version="4.0.5")),
        task_queues=tuple(queues),
        virtual_host=known(host),
    )


def answers_of(action):
    return [Answer(declaration=each) for each in action.queues] if isinstance(action, DeclareQueues) else []


@pytest.mark.parametrize("count", [1, 400])
def test_a_plan_that_was_carried_out_is_not_made_again(count):
    """Of any kind of action: missing queues in parts, one with dead letters astray, policies, the default."""
    queues = [queue_of(f"queue-{number:03}", maxLength=5) for number in range(count)]
    astray = {"queue-000.dead": FoundQueue(arguments=QUORUM, dead_letters_of=frozenset({"another"}))}
    management = Management(
        queues=astray, policies=(OURS,), may_write_policies=True, may_set_default_type=True, user="joe"
    )
    before = snapshot(VirtualHost(there=frozenset(astray), management=known(management)), queues)
    actions = plan_virtual_host(before).actions
    kinds = {type(action) for action in actions}
    assert kinds == {DeclareQueues, PutPolicy, RemovePolicy, SetDefaultQueueType}
    assert sum(isinstance(action, DeclareQueues) for action in actions) == 1 + count // 250
    reading = before.virtual_host
    for action in actions:
        reading = reflected(reading, action, answers_of(action))
    assert plan_virtual_host(replace(before, virtual_host=reading)).actions == ()
    found = reading.value.management.value.queues["queue-000.dead"]
    assert found.dead_letters_of == {"another", "queue-000"}
