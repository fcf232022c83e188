"""From TaskQueues to few policies: one for each distinct definition, its pattern listing the exact names.

RabbitMQ matches every queue against every policy, so that one policy a queue would be quadratic. A pattern
much longer than `LONGEST_PATTERN` is refused by the server: then a second policy follows.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from muster_operator.api.taskqueue import DeadLetter, Overflow, QueueType, TaskQueue
from muster_operator.model.rabbitmq import (
    DEAD_LETTERS,
    UNCLAIMED,
    Arguments,
    FoundQueue,
    Management,
    Policy,
)

from .queues import Version, seniority, type_of

PRIORITY: Final = 10
LONGEST_PATTERN: Final = 20_000
EVENTS: Final[Arguments] = {"message-ttl": 5_000, "expires": 60_000}
"""Of queues for Celery's events, which nobody reads when a monitor has gone: Celery's own defaults."""
_EVENTS_PATTERN: Final = r"^celeryev\."


def prefix(owner: str) -> str:
    """Return how the names of an operator's policies begin."""
    return f"muster.{owner}."


def definition_of(queue: TaskQueue, version: Version) -> Arguments:
    """Return the policy of a TaskQueue's own queue."""
    spec = queue.spec
    is_quorum = type_of(queue) is not QueueType.CLASSIC
    found: dict[str, Any] = {"dead-letter-exchange": DEAD_LETTERS, **_of_type(queue, version)}
    if spec.message_ttl is not None:
        found["message-ttl"] = _milliseconds(spec.message_ttl)
    if spec.max_length is not None:
        found["max-length"] = spec.max_length
        rejects = spec.overflow is Overflow.REJECT_PUBLISH
        found["overflow"] = "reject-publish" if rejects else "drop-head"
    if is_quorum and spec.message_ttl is not None and found.get("overflow") != "drop-head":
        # what expires is confirmed by the dead letters' queue before it is gone; needs this overflow
        found |= {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}
    if spec.consumer_timeout is not None and version >= (3, 12):
        found["consumer-timeout"] = _milliseconds(spec.consumer_timeout)
    return found


def dead_definition_of(queue: TaskQueue, version: Version) -> Arguments:
    """Return the policy of its dead letters."""
    return _bounds(queue.spec.dead_letter) | _of_type(queue, version)


def _bounds(dead: DeadLetter) -> dict[str, Any]:
    return {"message-ttl": _milliseconds(dead.max_age), "max-length": dead.max_length}


def _of_type(queue: TaskQueue, version: Version) -> dict[str, Any]:
    if type_of(queue) is not QueueType.CLASSIC:
        # a message that is given back is no poison; Muster counts what kills workers itself
        return {"delivery-limit": -1} if version >= (4, 0) else {}
    if queue.spec.ha is None or version >= (4, 0):
        return {}
    return {"ha-mode": "exactly", "ha-params": queue.spec.ha.replicas, "ha-sync-mode": "automatic"}


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def definitions(queues: Iterable[TaskQueue], version: Version) -> dict[str, Arguments]:
    """Return the wanted definition of each queue; a TaskQueue's own queue goes before dead letters."""
    ordered = sorted(queues, key=seniority)
    found: dict[str, Arguments] = {}
    for queue in ordered:
        found.setdefault(queue.queue_name, definition_of(queue, version))
    for queue in ordered:
        found.setdefault(queue.dead_letter_name, dead_definition_of(queue, version))
    if ordered:
        found[UNCLAIMED] = _bounds(DeadLetter()) | ({"delivery-limit": -1} if version >= (4, 0) else {})
    return found


def wanted_policies(queues: Iterable[TaskQueue], version: Version, owner: str) -> tuple[Policy, ...]:
    """Return the policies that shall be there, by name."""
    groups: dict[str, list[str]] = {}
    by_text: dict[str, Arguments] = {}
    for name, definition in definitions(queues, version).items():
        text = json.dumps(definition, sort_keys=True)
        by_text[text] = definition
        groups.setdefault(text, []).append(name)
    found = []
    for text, names in groups.items():
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        for number, pattern in enumerate(patterns(names), 1):
            found.append(
                Policy(
                    name=f"{prefix(owner)}{mark}.{number}",
                    pattern=pattern,
                    definition=by_text[text],
                    priority=PRIORITY,
                )
            )
    if found:
        name = f"{prefix(owner)}events"
        found.append(Policy(name=name, pattern=_EVENTS_PATTERN, definition=EVENTS, priority=PRIORITY))
    return tuple(sorted(found, key=lambda policy: policy.name))


def patterns(names: Iterable[str]) -> list[str]:
    """Return regular expressions that fit exactly these names, each not too long for the server."""
    found: list[str] = []
    some: list[str] = []
    length = 0
    for name in sorted(names):
        escaped = re.escape(name)
        if some and length + len(escaped) > LONGEST_PATTERN - 10:
            found.append(_pattern(some))
            some, length = [], 0
        some.append(escaped)
        length += len(escaped) + 1
    return [*found, _pattern(some)] if some else found


def _pattern(escaped: Iterable[str]) -> str:
    return rf"^(?:{'|'.join(escaped)})$"


def differences(
    wanted: Iterable[Policy], found: Iterable[Policy], owner: str
) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
    """Return the policies to write, and the names of those of ours to remove; all others are left alone."""
    there = {policy.name: policy for policy in found}
    wanted = tuple(wanted)
    put = tuple(policy for policy in wanted if there.get(policy.name) != policy)
    names = {policy.name for policy in wanted}
    return put, tuple(sorted(n for n in there if n.startswith(prefix(owner)) and n not in names))


def overridden(
    name: str, wanted: Arguments, found: FoundQueue, management: Management, owner: str
) -> tuple[str, str] | None:
    """Return which kind of policy (`policy`, `operator policy`) is in force in place of ours, and words.

    None when the effective definition is the wanted one, or is on its way: then nobody else's is in force.
    """
    wrong = {
        key: found.effective.get(key) for key, value in wanted.items() if found.effective.get(key) != value
    }
    more = {key: value for key, value in found.effective.items() if key not in wanted}
    if not wrong and not more:
        return None
    if found.policy and not found.policy.startswith(prefix(owner)):
        other = next((each for each in management.policies if each.name == found.policy), None)
        priority = f" (priority {other.priority})" if other is not None else ""
        return "policy", (
            f"policy {found.policy}{priority} is in force on queue {name} in place of Muster's: delete it, "
            f"give it a priority below {PRIORITY}, or let its pattern pass the queue over"
        )
    if found.operator_policy:
        changed = ", ".join(f"{key}: {value}" for key, value in sorted((wrong | more).items()))
        return "operator policy", (
            f"operator policy {found.operator_policy} changes queue {name} to {changed}: whoever runs the "
            f"broker must lift it, or the spec must ask for no more"
        )
    return None


def in_force(wanted: Arguments, found: FoundQueue) -> bool:
    """Return whether the effective definition is the wanted one."""
    return _same(wanted, found.effective)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return dict(one) == dict(other)
