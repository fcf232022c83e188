"""From a measured load to a number of workers.

`plan` calls this on every pass. It knows no broker, no pod and no clock: what it needs is in its arguments,
and what it concludes is in its result, with the reason and the inputs that users read in
`status.lastDecision`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from muster_operator.api.conditions import Reason as ConditionReason
from muster_operator.api.workerpool import FallbackBehavior, Scaling, ScalingMode, WorkerPoolSpec
from muster_operator.model.history import History
from muster_operator.model.readings import Reading, Unknown

from . import stabilize
from .floors import FloorNow, floor_at
from .load import Load


class Reason(StrEnum):
    """Why a pool has the size it has. These words are API: status.lastDecision and events show them."""

    STEADY = "Steady"
    """The size is what the load asks for."""
    LOAD_ROSE = "LoadRose"
    """The load asks for more workers."""
    LOAD_FELL = "LoadFell"
    """The load has asked for fewer workers for the whole stabilization window."""
    FLOOR = "Floor"
    """A floor holds and asks for more than the load."""
    MINIMUM = "Minimum"
    """minReplicas asks for more than the load."""
    MAXIMUM = "Maximum"
    """maxReplicas allows fewer workers than there were."""
    SCALE_UP_LIMITED = "ScaleUpLimited"
    """behavior.scaleUp allows no more workers now."""
    SCALE_DOWN_LIMITED = "ScaleDownLimited"
    """behavior.scaleDown lets no more workers go now."""
    WITHIN_WINDOW = "WithinStabilizationWindow"
    """The load asks for another size, and not yet for the whole stabilization window."""
    LOAD_UNKNOWN = "LoadUnknown"
    """The load cannot be read: the size stays."""
    FALLBACK = "Fallback"
    """The load could not be read for longer than fallback.after."""
    PAUSED = "Paused"
    """spec.paused is set."""
    FIXED = "Fixed"
    """spec.replicas in mode Fixed."""
    EXTERNAL = "External"
    """spec.replicas in mode External."""
    SCALING_CONFLICT = "ScalingConflict"
    """Something else scales the Deployments: hands off."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size to ask for, and why."""

    replicas: int
    reason: Reason
    may_shrink: bool
    """False: no worker may be taken away now, whatever was decided before."""
    limited: ConditionReason = ConditionReason.WITHIN_LIMITS
    """Whether the size that the load asks for lies outside the bounds."""
    inputs: Mapping[str, int | float | str] = field(default_factory=dict)
    history: History
    changes_at: datetime | None = None
    """When this may come out differently with nothing but time passing."""


def target(
    spec: WorkerPoolSpec,
    load: Reading[Load],
    *,
    slots_per_worker: int,
    size: int,
    foreign_scaler: bool,
    history: History,
    now: datetime,
) -> Target:
    """Return the size to ask for at `now`; `size` is the one that was asked for so far."""
    rules = spec.scaling.behavior
    history = stabilize.record_size(
        history, size, stabilize.longest_period(rules.scale_up, rules.scale_down), now
    )
    if foreign_scaler:
        return _told(size, Reason.SCALING_CONFLICT, history, may_shrink=False)
    if spec.paused:
        return _told(0, Reason.PAUSED, history)
    match spec.scaling.mode:
        case ScalingMode.FIXED:
            return _told(spec.replicas, Reason.FIXED, history)
        case ScalingMode.EXTERNAL:
            return _told(spec.replicas, Reason.EXTERNAL, history)
        case ScalingMode.MANAGED:
            floor = floor_at(spec.scaling.floors, now)
            if isinstance(load, Unknown):
                return _unknown(spec.scaling, load, floor, size=size, history=history, now=now)
            return _managed(
                spec.scaling,
                load.value,
                floor,
                slots_per_worker=slots_per_worker,
                size=size,
                history=history,
                now=now,
            )
        case _:
            assert_never(spec.scaling.mode)


def _told(replicas: int, reason: Reason, history: History, *, may_shrink: bool = True) -> Target:
    """Return a size that the load has no part in; the load's past is forgotten."""
    history = replace(history, since=None, wishes=())
    return Target(replicas=replicas, reason=reason, may_shrink=may_shrink, history=history)


def _unknown(
    scaling: Scaling, load: Unknown, floor: FloorNow, *, size: int, history: History, now: datetime
) -> Target:
    """Hold, or follow the fallback; never below what there is, from zero as from any size."""
    fallback = scaling.fallback
    least = min(max(scaling.min_replicas, floor.replicas), scaling.max_replicas)
    falls_back_at = load.at + fallback.after
    named = min(fallback.replicas or 0, scaling.max_replicas)
    if fallback.behavior is FallbackBehavior.HOLD or now < falls_back_at:
        replicas, reason = max(size, least), Reason.LOAD_UNKNOWN
    elif fallback.behavior is FallbackBehavior.STATIC:
        replicas, reason = max(size, named), Reason.FALLBACK
    else:
        replicas, reason = max(size, least, named), Reason.FALLBACK
    waits = fallback.behavior is not FallbackBehavior.HOLD and now < falls_back_at
    return Target(
        replicas=replicas,
        reason=reason,
        may_shrink=False,
        inputs={"unknown": load.reason, "least": least},
        history=stabilize.record_wish(history, None, timedelta(0), now),
        changes_at=_earliest(floor.changes_at, falls_back_at if waits else None),
    )


def _managed(
    scaling: Scaling,
    load: Load,
    floor: FloorNow,
    *,
    slots_per_worker: int,
    size: int,
    history: History,
    now: datetime,
) -> Target:
    up, down = scaling.behavior.scale_up, scaling.behavior.scale_down
    up_window = timedelta(seconds=up.stabilization_seconds)
    down_window = timedelta(seconds=down.stabilization_seconds)
    most = scaling.max_replicas
    least = min(max(scaling.min_replicas, floor.replicas), most)
    wanted = -(-load.slots * 100 // (slots_per_worker * scaling.target.utilization))
    history = stabilize.record_wish(history, wanted, max(up_window, down_window), now)

    replicas, reason, waits_until = size, Reason.STEADY, None
    if wanted > size:
        steady = stabilize.lowest(history, up_window, now) if up_window else wanted
        allowed = stabilize.up_limit(up, size, history, now)
        replicas = max(size, steady if allowed is None else min(steady, allowed))
        reason = Reason.LOAD_ROSE if steady > size else Reason.WITHIN_WINDOW
        if allowed is not None and steady > allowed:
            reason = Reason.SCALE_UP_LIMITED
    elif wanted < size:
        steady = stabilize.highest(history, down_window, now) if down_window else wanted
        allowed = stabilize.down_limit(down, size, history, now)
        if not stabilize.covered(history, down_window, now) or steady >= size:
            reason = Reason.WITHIN_WINDOW
            waits_until = now + max(down_window / 10, timedelta(seconds=1))
        else:
            replicas = max(steady, allowed)
            reason = Reason.SCALE_DOWN_LIMITED if allowed > steady else Reason.LOAD_FELL
    if replicas < least:
        replicas, reason = least, Reason.FLOOR if floor.replicas > scaling.min_replicas else Reason.MINIMUM
    elif replicas > most:
        replicas, reason = most, Reason.MAXIMUM
    limited = ConditionReason.WITHIN_LIMITS
    if wanted > most:
        limited = ConditionReason.AT_MAXIMUM
    elif wanted < least:
        limited = ConditionReason.AT_MINIMUM
    return Target(
        replicas=replicas,
        reason=reason,
        may_shrink=True,
        limited=limited,
        inputs=_inputs(load, slots_per_worker=slots_per_worker, wanted=wanted, least=least, most=most),
        history=history,
        changes_at=_earliest(floor.changes_at, waits_until),
    )


def _inputs(
    load: Load, *, slots_per_worker: int, wanted: int, least: int, most: int
) -> dict[str, int | float | str]:
    inputs: dict[str, int | float | str] = {
        "ready": load.ready,
        "claimed": load.claimed,
        "running": load.running,
        "expired": load.expired,
        "due": load.due,
        "busy": load.busy,
        "neededSlots": load.slots,
        "slotsPerWorker": slots_per_worker,
        "wanted": wanted,
        "least": least,
        "most": most,
    }
    if load.runtime_seconds is not None:
        inputs["runtimeSeconds"] = round(load.runtime_seconds, 3)
    return inputs


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
