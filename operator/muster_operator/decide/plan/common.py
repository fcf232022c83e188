"""What the plans share: rejected manifests, events for conditions, moments."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from muster_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason, find_condition
from muster_operator.api.objects import ObjectMeta
from muster_operator.desired.difference import applied_hash
from muster_operator.model.actions import Emit, EventType
from muster_operator.model.world import Rejection

RETRY_AFTER = timedelta(minutes=5)
"""What the API server refused is tried again after this time, or as soon as it is another manifest."""

_BAD: Mapping[str, ConditionStatus] = {
    ConditionType.READY: ConditionStatus.FALSE,
    ConditionType.BROKER_REACHABLE: ConditionStatus.FALSE,
    ConditionType.SCALING_CONFLICT: ConditionStatus.TRUE,
    ConditionType.TEMPLATE_REJECTED: ConditionStatus.TRUE,
    ConditionType.CONFLICT: ConditionStatus.TRUE,
    ConditionType.EVICTION_POLICY_UNSAFE: ConditionStatus.TRUE,
    ConditionType.LIMITS_ENFORCED: ConditionStatus.FALSE,
    ConditionType.POLICY_IN_SYNC: ConditionStatus.FALSE,
    ConditionType.QUEUE_MISMATCH: ConditionStatus.TRUE,
    ConditionType.UNCONFIRMED_PUBLISHERS_LOSE_TASKS: ConditionStatus.TRUE,
    ConditionType.UNDER_REPLICATED: ConditionStatus.TRUE,
    ConditionType.BROKER_ALARM: ConditionStatus.TRUE,
    ConditionType.CONSUMER_TIMEOUT_TOO_SHORT: ConditionStatus.TRUE,
}
_NORMAL_REASONS = frozenset({Reason.PROGRESSING})


def rejection_of(manifest: Mapping[str, Any], rejections: Iterable[Rejection]) -> Rejection | None:
    """Return the API server's refusal of this very manifest, or None."""
    kind, name, mark = manifest["kind"], manifest["metadata"]["name"], applied_hash(manifest)
    for rejection in rejections:
        if (rejection.kind, rejection.name, rejection.applied) == (kind, name, mark):
            return rejection
    return None


def may_try(rejection: Rejection | None, now: datetime) -> bool:
    """Return whether a manifest may be applied: it was not refused, or not lately."""
    return rejection is None or now >= rejection.at + RETRY_AFTER


def warnings(
    kind: str, metadata: ObjectMeta, old: Sequence[Condition], new: Sequence[Condition]
) -> tuple[Emit, ...]:
    """Return an event for each condition that turned bad, or bad for another reason; equal texts once."""
    events = {}
    for condition in new:
        if condition.status is not _BAD.get(condition.type) or condition.reason in _NORMAL_REASONS:
            continue
        before = find_condition(old, condition.type)
        if before and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        events[condition.reason] = Emit(
            kind=kind,
            metadata=metadata,
            type=EventType.WARNING,
            reason=condition.reason,
            message=condition.message,
        )
    return tuple(events.values())


def earliest(*moments: datetime | None) -> datetime | None:
    """Return the first of the moments that are set."""
    return min((moment for moment in moments if moment is not None), default=None)


def timestamp(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
