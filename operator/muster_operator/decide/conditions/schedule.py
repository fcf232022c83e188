"""The conditions of a Schedule. `plan` calls `for_schedule`."""

from datetime import datetime

from muster.core.cron import CronError, parse, zone_named
from muster_operator.api.conditions import Condition, ConditionType, Reason
from muster_operator.api.schedule import ConcurrencyPolicy, ScheduleSpec
from muster_operator.model.readings import Known, Unknown
from muster_operator.model.world import ScheduleSnapshot

from .broker import condition


def timing_problem(spec: ScheduleSpec, now: datetime) -> tuple[Reason, str] | None:
    """Return why the spec names no time, as reason and message; None when it does."""
    try:
        zone = zone_named(spec.time_zone)
    except CronError as error:
        return Reason.TIME_ZONE_UNKNOWN, f"spec.timeZone: {error}"
    if spec.schedule is None:
        return None
    try:
        coming = parse(spec.schedule, zone=zone).next_after(now)
    except CronError as error:
        return Reason.SCHEDULE_INVALID, f"spec.schedule: {error}"
    if coming is None:
        message = f"spec.schedule {spec.schedule!r} names a date that never comes; correct day and month"
        return Reason.SCHEDULE_INVALID, message
    return None


def for_schedule(seen: ScheduleSnapshot) -> tuple[Condition, ...]:
    """Return all conditions of the schedule."""
    return (_ready(seen), _paused(seen))


def _ready(seen: ScheduleSnapshot) -> Condition:
    kind, spec = ConditionType.READY, seen.schedule.spec
    problem = timing_problem(spec, seen.now)
    if problem is not None:
        return condition(kind, False, *problem)
    if seen.queue.task_queue is None:
        message = (
            f"spec.queue names TaskQueue {spec.queue}, which does not exist in namespace "
            f"{seen.schedule.metadata.namespace}; create it or correct the name"
        )
        return condition(kind, False, Reason.QUEUE_NOT_FOUND, message)
    if spec.concurrency_policy is ConcurrencyPolicy.FORBID and not seen.results_kept:
        message = (
            f"spec.concurrencyPolicy Forbid asks whether the last run has ended, and no WorkerPool that "
            f"works TaskQueue {spec.queue} keeps results; set spec.results there, or the policy to Allow"
        )
        return condition(kind, False, Reason.RESULTS_NEEDED, message)
    if isinstance(seen.entry, Unknown):
        unread = seen.entry.reason == Reason.NOT_OBSERVED_YET
        secret = seen.queue.task_queue.spec.broker.secret_ref.name
        message = f"Secret {secret}: {seen.entry.message or seen.entry.reason}"
        return condition(kind, None if unread else False, seen.entry.reason, message)
    if isinstance(seen.beat_running, Known) and not seen.beat_running.value and not spec.suspend:
        message = "no beat holds the election on this broker, so nothing is sent; see the Deployment of beat"
        return condition(kind, False, Reason.BEAT_NOT_RUNNING, message)
    return condition(kind, True, Reason.AS_DECLARED)


def _paused(seen: ScheduleSnapshot) -> Condition:
    if seen.schedule.spec.suspend:
        return condition(ConditionType.PAUSED, True, Reason.PAUSED_BY_SPEC, "spec.suspend is true")
    return condition(ConditionType.PAUSED, False, Reason.NOT_PAUSED)
