"""The plan for a virtual host of RabbitMQ: queues to declare, policies to write and to remove.

One plan for all TaskQueues on it, because one policy covers many of them. First the queues, so that no policy
waits for a queue that the server refuses; a queue that is there otherwise is left alone, and its TaskQueue
says so.
"""

from muster_operator.api.taskqueue import QueueType, TaskQueue
from muster_operator.decide.rabbitmq.policies import differences, wanted_policies
from muster_operator.decide.rabbitmq.queues import (
    OLDEST,
    default_type_of,
    type_of,
    undeclared,
    version_of,
    wanted_queues,
)
from muster_operator.model.actions import (
    Action,
    BrokerAddress,
    DeclareQueues,
    Plan,
    PutPolicy,
    RemovePolicy,
    SetDefaultQueueType,
)
from muster_operator.model.rabbitmq import Management
from muster_operator.model.readings import Known
from muster_operator.model.world import VirtualHostSnapshot

DECLARED_AT_ONCE = 500
"""So many are declared before it is told which are there: the first are served while the last are made."""


def plan_virtual_host(seen: VirtualHostSnapshot) -> Plan:
    """Return what to do on the virtual host now."""
    if not isinstance(seen.broker, Known) or not isinstance(seen.virtual_host, Known):
        return Plan()
    version, host = version_of(seen.broker.value.version), seen.virtual_host.value
    if version < OLDEST:
        return Plan()
    queues = tuple(queue for queue in seen.task_queues if queue.spec.type is not QueueType.REDIS)
    broker = BrokerAddress(namespace=seen.namespace, secret=seen.secret_name)
    actions: list[Action] = []
    management = host.management.value if isinstance(host.management, Known) else None
    if management is not None and version >= (4, 0) and _may_default_to_quorum(queues, management):
        actions.append(SetDefaultQueueType(broker=broker, type="quorum"))
    missing = () if host.alarm else undeclared(wanted_queues(queues, default_type_of(host)), host)
    parts = [
        DeclareQueues(broker=broker, queues=missing[start : start + DECLARED_AT_ONCE])
        for start in range(0, len(missing), DECLARED_AT_ONCE)
    ]
    actions += parts[:1]  # with it, where dead letters go, which policies speak of
    remove: tuple[str, ...] = ()
    if management is not None and management.may_write_policies:
        wanted = wanted_policies(queues, version, seen.owner)
        put, remove = differences(wanted, management.policies, seen.owner)
        actions += [PutPolicy(broker=broker, policy=policy) for policy in put]
    actions += parts[1:]
    actions += [RemovePolicy(broker=broker, name=name) for name in remove]
    return Plan(actions=tuple(actions))


def _may_default_to_quorum(queues: tuple[TaskQueue, ...], management: Management) -> bool:
    """Return whether a client that names no type may be given a quorum queue.

    Not while a classic queue is there or wanted: whoever declares that without a type would be refused.
    """
    return (
        management.may_set_default_type
        and management.default_type in {"", "classic"}
        and not management.foreign_classic
        and bool(queues)
        and all(type_of(queue) is QueueType.QUORUM for queue in queues)
    )
