"""The plan for a Schedule: its entry in the broker-side set that beat reads, and its runs in its status.

There is no finalizer: an entry without a Schedule is removed by `plan_beat`, whenever the operator comes to
see it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from muster.core.schedule import succeeding
from muster.wire.schedule import ScheduleEntry, SolarEntry, encode
from muster_operator.api.durations import format_duration
from muster_operator.api.schedule import CatchUp, ConcurrencyPolicy, Run, ScheduleSpec, ScheduleStatus
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.decide.conditions import schedule as schedule_conditions
from muster_operator.decide.status import merge_conditions, write
from muster_operator.model.actions import Action, BrokerAddress, Plan, PutSchedule, RemoveSchedule, SetStatus
from muster_operator.model.readings import Known
from muster_operator.model.world import ScheduleSnapshot

from .common import warnings

KIND = "Schedule"

_CATCH_UP: Mapping[CatchUp, Literal["None", "Last", "All"]] = {
    CatchUp.NONE: "None",
    CatchUp.LAST: "Last",
    CatchUp.ALL: "All",
}
_CONCURRENCY: Mapping[ConcurrencyPolicy, Literal["Allow", "Forbid"]] = {
    ConcurrencyPolicy.ALLOW: "Allow",
    ConcurrencyPolicy.FORBID: "Forbid",
}


def plan_schedule(seen: ScheduleSnapshot) -> Plan:
    """Return what to do for the schedule now."""
    metadata, old = seen.schedule.metadata, seen.schedule.status
    actions: list[Action] = _entry_actions(seen)
    if metadata.deletion_timestamp is not None:
        return Plan(actions=tuple(actions))
    status = _status(seen)
    written = write(old, status, written_at=seen.status_written_at, now=seen.now)
    if written.status is not None:
        actions += warnings(KIND, metadata, old.conditions, status.conditions)
        actions.append(SetStatus(kind=KIND, metadata=metadata, status=written.status))
    return Plan(actions=tuple(actions), requeue_at=written.due_at)


def wanted_entry(seen: ScheduleSnapshot) -> ScheduleEntry | None:
    """Return the entry that shall stand on the broker; None: none shall, because the spec names no time."""
    schedule, queue = seen.schedule, seen.queue.task_queue
    if schedule.metadata.deletion_timestamp is not None or queue is None:
        return None
    if schedule_conditions.timing_problem(schedule.spec, seen.now) is not None:
        return None
    before = seen.entry.value if isinstance(seen.entry, Known) else None
    return succeeding(_entry(seen, queue), before, seen.now)


def _entry(seen: ScheduleSnapshot, queue: TaskQueue) -> ScheduleEntry:
    metadata, spec = seen.schedule.metadata, seen.schedule.spec
    options, solar = spec.options, spec.solar
    created_at = metadata.creation_timestamp or seen.now
    given = {
        "priority": options.priority,
        "expires": options.expires.total_seconds() if options.expires is not None else None,
        "headers": dict(options.headers) or None,
    }
    return ScheduleEntry(
        uid=metadata.uid,
        name=f"{metadata.namespace}/{metadata.name}",
        task=spec.task,
        args=tuple(spec.args),
        kwargs=dict(spec.kwargs),
        queue=queue.queue_name,
        options={name: value for name, value in given.items() if value is not None},
        cron=spec.schedule,
        every_seconds=spec.every.total_seconds() if spec.every is not None else None,
        solar=SolarEntry(event=str(solar.event), latitude=solar.latitude, longitude=solar.longitude)
        if solar is not None
        else None,
        time_zone=spec.time_zone,
        suspended=spec.suspend,
        starting_deadline_seconds=spec.starting_deadline_seconds,
        catch_up=_CATCH_UP[spec.catch_up],
        concurrency_policy=_CONCURRENCY[spec.concurrency_policy],
        generation=metadata.generation,
        created_at=created_at,
        since=created_at,
    )


def _entry_actions(seen: ScheduleSnapshot) -> list[Action]:
    """Bring the broker's entry to what it shall be; without a TaskQueue there is no broker to write to."""
    queue = seen.queue.task_queue
    if queue is None or not isinstance(seen.entry, Known):
        return []
    namespace = seen.schedule.metadata.namespace
    broker = BrokerAddress(namespace=namespace, secret=queue.spec.broker.secret_ref.name)
    wanted = wanted_entry(seen)
    stands = seen.entry.value
    if wanted is stands or (wanted and stands and encode(wanted) == encode(stands)):
        return []
    if wanted is None:
        return [RemoveSchedule(broker=broker, uid=seen.schedule.metadata.uid)]
    return [PutSchedule(broker=broker, entry=wanted)]


def _status(seen: ScheduleSnapshot) -> ScheduleStatus:
    schedule, old = seen.schedule, seen.schedule.status
    generation = schedule.metadata.generation
    found = schedule_conditions.for_schedule(seen)
    last, coming, missed = old.last_run, old.next_run, old.missed
    if isinstance(seen.runs, Known) and seen.runs.value is not None:
        runs = seen.runs.value
        last = _run(runs.last_at, runs.last_id) or last
        coming = _run(runs.next_at, runs.next_id)
        missed = runs.missed
    if schedule.spec.suspend:
        coming = None
    return ScheduleStatus(
        observed_generation=generation,
        conditions=merge_conditions(old.conditions, found, generation=generation, now=seen.now),
        timing=timing_line(schedule.spec),
        last_run=last,
        next_run=coming,
        missed=missed,
    )


def _run(time: datetime | None, task_id: str | None) -> Run | None:
    return None if time is None else Run(time=time, task_id=task_id or "")


def timing_line(spec: ScheduleSpec) -> str | None:
    """Return when it runs, in one line: the cron line, `every 30s`, or `sunset at 52.5, 13.4`."""
    if spec.schedule is not None:
        return spec.schedule
    if spec.every is not None:
        return f"every {format_duration(spec.every)}"
    if spec.solar is not None:
        return f"{spec.solar.event} at {spec.solar.latitude:g}, {spec.solar.longitude:g}"
    return None
