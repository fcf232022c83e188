"""From TaskQueues to the queues of a virtual host, and from a queue that was found to what is wrong with it.

Arguments carry only what no policy can: a client that declares a queue must name each of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from muster_operator.api.brokers import Column
from muster_operator.api.taskqueue import QueueType, TaskQueue
from muster_operator.model.rabbitmq import UNCLAIMED, Arguments, QueueDeclaration, VirtualHost
from muster_operator.model.readings import Known

TYPE: Final = "x-queue-type"
PRIORITIES: Final = "x-max-priority"
GROUP_SIZE: Final = "x-quorum-initial-group-size"
OLDEST: Final = (3, 10)
"""Quorum queues have a message TTL from this version on, and headers exchanges look at the broker's own."""

Version = tuple[int, int]
PRECONDITION_FAILED: Final = 406
ACCESS_REFUSED: Final = 403


def version_of(text: str) -> Version:
    """Return the first two numbers of a version; of one that cannot be read, the oldest that we know."""
    parts = text.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return OLDEST


def type_of(queue: TaskQueue) -> QueueType:
    """Return what a TaskQueue is on RabbitMQ."""
    return QueueType.QUORUM if queue.spec.type is None else queue.spec.type


def column_of(queue: TaskQueue, version: Version) -> Column:
    """Return the broker that it is on, as the table of fields has it."""
    if type_of(queue) is QueueType.CLASSIC:
        return Column.CLASSIC_3 if version < (4, 0) else Column.CLASSIC_4
    return Column.QUORUM_3 if version < (4, 0) else Column.QUORUM_4


def arguments_of(queue: TaskQueue, default_type: str) -> Arguments:
    """Return the arguments of a queue's declaration where `default_type` is the virtual host's."""
    spec = queue.spec
    priorities = {PRIORITIES: spec.max_priority} if spec.max_priority is not None else {}
    return {**_dead_letter_arguments_of(queue, default_type), **priorities}


def _dead_letter_arguments_of(queue: TaskQueue, default_type: str) -> Arguments:
    """Return what its dead letters' queue has of the queue's arguments: nobody is served there first."""
    spec = queue.spec
    if type_of(queue) is QueueType.CLASSIC:
        return {TYPE: "classic"} if default_type not in {"", "undefined", "classic"} else {}
    size = {GROUP_SIZE: spec.ha.replicas} if spec.ha is not None else {}
    return {TYPE: "quorum", **size}


def wanted_queues(queues: Iterable[TaskQueue], default_type: str) -> tuple[QueueDeclaration, ...]:
    """Return what shall be there, by name. Where two want one name, the TaskQueue's own queue has it.

    Dead letters lie in a queue of the same type as that of the first, by age, that sends any there.
    """
    ordered = sorted(queues, key=seniority)
    arguments: dict[str, Arguments] = {}
    senders: dict[str, list[str]] = {}
    for queue in ordered:
        arguments.setdefault(queue.queue_name, arguments_of(queue, default_type))
    for queue in ordered:
        arguments.setdefault(queue.dead_letter_name, _dead_letter_arguments_of(queue, default_type))
        senders.setdefault(queue.dead_letter_name, []).append(queue.queue_name)
    if ordered:
        arguments[UNCLAIMED] = {TYPE: "quorum"}
    return tuple(
        QueueDeclaration(name=name, arguments=arguments[name], dead_letters_of=tuple(senders.get(name, ())))
        for name in sorted(arguments)
    )


def seniority(queue: TaskQueue) -> tuple[float, str, str]:
    """Return what sorts TaskQueues by age."""
    created = queue.metadata.creation_timestamp
    age = created.timestamp() if created is not None else float("inf")
    return age, queue.metadata.namespace, queue.metadata.name


def default_type_of(host: VirtualHost) -> str:
    """Return the virtual host's default type; empty when it is not known."""
    return host.management.value.default_type if isinstance(host.management, Known) else ""


def mismatch(wanted: QueueDeclaration, host: VirtualHost) -> str:
    """Return how a queue that is there differs from its declaration; empty when it does not.

    The size of a group counts for its first moment only: members come and go afterwards.
    """
    if wanted.name not in host.there:
        return ""
    if isinstance(host.management, Known):
        found = host.management.value.queues.get(wanted.name)
        if found is None or _plain(found.arguments) == _plain(wanted.arguments):
            return ""
        return f"it has {_shown(found.arguments)}, and {_shown(wanted.arguments)} is wanted"
    answer = host.answers.get(wanted.name)
    if answer is not None and answer.code == PRECONDITION_FAILED:
        return f"{_shown(answer.declaration.arguments)} is wanted, and the server says: {answer.words}"
    return ""


def refused(wanted: QueueDeclaration, host: VirtualHost) -> tuple[int, str] | None:
    """Return the server's code and words for not declaring a queue; None when it has not refused."""
    answer = host.answers.get(wanted.name)
    if answer is None or answer.code in {0, PRECONDITION_FAILED}:
        return None
    return answer.code, answer.words


def undeclared(wanted: Iterable[QueueDeclaration], host: VirtualHost) -> tuple[QueueDeclaration, ...]:
    """Return what has to be declared now: what is not there, not led to, or not known to be as wanted.

    What is there with other arguments is left alone; what the server has refused is asked for again when the
    adapter has forgotten the refusal.
    """
    return tuple(each for each in wanted if _is_due(each, host))


def _is_due(wanted: QueueDeclaration, host: VirtualHost) -> bool:
    answer = host.answers.get(wanted.name)
    if (host.asked is not None and wanted.name not in host.asked) or (answer is not None and answer.code):
        return False
    if wanted.name not in host.there or not host.led:
        return True
    if isinstance(host.management, Known):
        found = host.management.value.queues.get(wanted.name)
        if found is None or mismatch(wanted, host):
            return False
        return not found.dead_letters_of.issuperset(wanted.dead_letters_of)
    return answer is None or answer.declaration != wanted


def _plain(arguments: Arguments) -> Mapping[str, Any]:
    """Return the arguments without what says nothing: a queue that names no type is classic."""
    return {k: v for k, v in arguments.items() if k != GROUP_SIZE and (k, v) != (TYPE, "classic")}


def _shown(arguments: Arguments) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in sorted(arguments.items())) + "}"
