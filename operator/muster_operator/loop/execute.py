"""Carries a plan out and says what was confirmed.

In order; a failure ends the plan, but for its events and its status, which tell what was decided. An event
that cannot be recorded ends nothing: a namespace that is being deleted takes none, and must not be held up by
that. What the API server refuses is remembered for the next pass, so that the same is not tried on and on.
"""

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, assert_never

from muster_operator.desired.difference import applied_hash
from muster_operator.errors import Conflicted, OperatorError, Refused
from muster_operator.model.actions import (
    Action,
    Apply,
    DeclareQueues,
    Delete,
    Emit,
    MarkPod,
    Plan,
    PutPolicy,
    PutSchedule,
    RemovePolicy,
    RemoveQueue,
    RemoveSchedule,
    Scale,
    SendDrain,
    SetDefaultQueueType,
    SetFinalizer,
    SetStatus,
)
from muster_operator.model.world import Rejection
from muster_operator.ports import Brokers, Cluster

from .observe import Memory

logger = logging.getLogger(__name__)

FOR_BROKERS: Final = (
    SendDrain,
    PutSchedule,
    RemoveSchedule,
    RemoveQueue,
    DeclareQueues,
    PutPolicy,
    RemovePolicy,
    SetDefaultQueueType,
)
SAID: Final = (Apply, Scale, Delete, *FOR_BROKERS)
"""What an operator's log tells: not the marks, events and statuses that can be seen on the objects."""


@dataclass
class Outcome:
    """What came of a plan."""

    confirmed: list[Action] = field(default_factory=list)
    failure: OperatorError | None = None
    """The first failure that asks for another pass soon."""


async def execute(
    plan: Plan, *, cluster: Cluster, brokers: Brokers, memory: Memory, now: datetime
) -> Outcome:
    """Carry out `plan`. Raises nothing that an adapter raises."""
    outcome = Outcome()
    ended = False
    for action in plan.actions:
        if ended and not isinstance(action, Emit | SetStatus):
            continue
        try:
            if isinstance(action, FOR_BROKERS):
                await brokers.carry_out(action)
            else:
                await cluster.carry_out(action)
        except OperatorError as error:
            # somebody else was quicker, which another look sees to
            level = logging.DEBUG if isinstance(error, Conflicted) else logging.WARNING
            what = "refused" if isinstance(error, Refused) else "not done"
            logger.log(level, "%s: %s: %s", _name(action), what, error)
            if isinstance(action, Emit):
                continue
            ended = True
            outcome.failure = outcome.failure or error
            if isinstance(error, Refused) and isinstance(action, Apply):
                _remember(action, str(error), memory, now)
            continue
        outcome.confirmed.append(action)
        if isinstance(action, SAID):
            logger.info("%s: done", _name(action))
        if isinstance(action, SetStatus):
            memory.status_written_at = now
        elif isinstance(action, Apply):
            memory.rejections.pop((action.manifest["kind"], action.manifest["metadata"]["name"]), None)
    memory.history = plan.history
    memory.runtime = plan.runtime
    return outcome


def _remember(action: Apply, text: str, memory: Memory, now: datetime) -> None:
    kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
    memory.rejections[kind, name] = Rejection(
        kind=kind, name=name, applied=applied_hash(action.manifest), message=text, at=now
    )


def _name(action: Action) -> str:
    match action:
        case Apply(manifest=manifest):
            metadata = manifest["metadata"]
            size = (manifest.get("spec") or {}).get("replicas")
            more = "" if size is None else f" with {size} replicas"
            return f"apply {manifest['kind']} {metadata.get('namespace')}/{metadata['name']}{more}"
        case Scale(namespace=namespace, deployment=name, replicas=replicas):
            return f"scale Deployment {namespace}/{name} to {replicas}"
        case Delete(kind=kind, namespace=namespace, name=name):
            return f"delete {kind} {namespace}/{name}"
        case SendDrain(pool=pool, worker=worker, leave=leave):
            return f"tell worker {worker} of {pool} to {'leave' if leave else 'drain'}"
        case PutSchedule(entry=entry):
            return f"write schedule {entry.name} for beat"
        case RemoveSchedule(uid=uid):
            return f"remove schedule {uid} from beat's set"
        case MarkPod(namespace=namespace, pod=name):
            return f"mark Pod {namespace}/{name}"
        case DeclareQueues(queues=queues):
            more = f" and {len(queues) - 3} more" if len(queues) > 3 else ""
            return f"declare queues {', '.join(each.name for each in queues[:3])}{more}"
        case PutPolicy(policy=policy):
            return f"write policy {policy.name}"
        case RemovePolicy(name=name):
            return f"remove policy {name}"
        case SetDefaultQueueType(type=type_):
            return f"set the virtual host's default queue type to {type_}"
        case RemoveQueue(queue=queue):
            return f"remove queue {queue} from its broker"
        case SetStatus(kind=kind, metadata=metadata) | SetFinalizer(kind=kind, metadata=metadata):
            what = "status" if isinstance(action, SetStatus) else "finalizer"
            return f"write the {what} of {kind} {metadata.namespace}/{metadata.name}"
        case Emit(kind=kind, metadata=metadata, reason=reason):
            return f"record event {reason} on {kind} {metadata.namespace}/{metadata.name}"
        case _:
            assert_never(action)
