"""Beat's agenda: from entries, run records and `now` to the ticks to send and the time to wake next.

The beat service feeds it what it reads from the broker, asks `wake`, carries out the steps in their order,
each in one transaction with the election's fencing token and the mark, and reports what became of each. The
agenda knows no broker, clock or task; all that it remembers can be had again from entries and records, so a
new leader begins with an empty one.

A heap holds each schedule under the time at which it must be looked at next. A wake looks at the due ones
only: with 10,000 schedules of which one is due it looks at one. A schedule that changes gets a new place;
its old one is left behind and passed over when its time comes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from muster.core.schedule import (
    ConcurrencyPolicy,
    Due,
    Reason,
    Schedule,
    Unknown,
    due,
    first_open,
    schedule_of,
)
from muster.wire.schedule import RunRecord, ScheduleEntry, tick_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Send the task of `entry` for `due_at` under `task_id`, and write `record` in the same step.

    Only if the mark on the broker is before `due_at`; else another beat has done it.
    """

    entry: ScheduleEntry
    due_at: datetime
    task_id: str
    record: RunRecord
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Settle:
    """Send nothing and write `record`: due times up to its mark are missed for good."""

    entry: ScheduleEntry
    record: RunRecord
    reason: Reason


Step: TypeAlias = Send | Settle


@dataclass(frozen=True, kw_only=True, slots=True)
class Wake:
    """What is to be done at one wake, in this order, and when the next one is."""

    steps: tuple[Step, ...]
    wake_at: datetime | None
    """None: not before an entry changes or a step is reported. May lie in the past after a late wake."""
    looked_at: int
    """Schedules that were evaluated: the cost of the wake."""


class _Place(NamedTuple):
    """A schedule's place in the heap; `turn` tells the valid one from those left behind."""

    ask_at: datetime
    uid: str
    turn: int


@dataclass(kw_only=True, slots=True)
class _Scheduled:
    entry: ScheduleEntry
    schedule: Schedule
    record: RunRecord
    turn: int
    unreported: int = 0
    """Steps handed out by the last wake and not reported yet; meanwhile the schedule has no place."""


class Agenda:
    """The schedules of one beat by the time at which each must be looked at. Not for several threads."""

    def __init__(self) -> None:
        self._scheduled: dict[str, _Scheduled] = {}
        self._heap: list[_Place] = []
        self._turn = 0

    def __len__(self) -> int:
        """Return the number of schedules."""
        return len(self._scheduled)

    def entry(self, uid: str) -> ScheduleEntry | None:
        """Return the entry with that uid."""
        known = self._scheduled.get(uid)
        return None if known is None else known.entry

    def record(self, uid: str) -> RunRecord:
        """Return what has come of the schedule with that uid, as far as steps were reported."""
        known = self._scheduled.get(uid)
        return RunRecord() if known is None else known.record

    def put(self, entry: ScheduleEntry, record: RunRecord | None = None) -> RunRecord:
        """Take in a new or changed entry, with what the broker holds of its runs.

        Without `record` a known schedule keeps its own. Returns the record with its next due time as it is
        now; where that differs from what the broker holds it is to be written there, for people to see.
        Raises ScheduleError, and takes nothing in, when the entry cannot be scheduled: what stood there
        before goes on.
        """
        known = self._scheduled.get(entry.uid)
        if record is None:
            record = RunRecord() if known is None else known.record
        if known is not None and known.entry == entry and known.record == record:
            return record
        schedule = schedule_of(entry)
        next_at = _first_look(schedule, record)
        record = replace(record, next_at=next_at, next_id=_tick_id(entry, next_at))
        self._scheduled[entry.uid] = scheduled = _Scheduled(
            entry=entry, schedule=schedule, record=record, turn=0
        )
        self._place(scheduled, next_at)
        return record

    def drop(self, uid: str) -> None:
        """Forget a schedule; an unknown uid is fine."""
        self._scheduled.pop(uid, None)

    def asks(self, now: datetime) -> dict[str, str]:
        """Return uid → task id of the runs that `wake` at `now` must know to be finished or not."""
        return {
            place.uid: last_id
            for place in self._due_places(now)
            if (known := self._scheduled[place.uid]).schedule.concurrency_policy is ConcurrencyPolicy.FORBID
            and (last_id := known.record.last_id) is not None
        }

    def wake(self, now: datetime, running: Mapping[str, bool | Unknown] | None = None) -> Wake:
        """Return what is to be done at `now`, and remember what was handed out.

        `running` answers `asks`: whether the run with that id is unfinished. A schedule that forbids
        overlapping runs and has no answer there counts as unknown.
        """
        steps: list[Step] = []
        looked_at = 0
        while (place := self._first_place()) is not None and place.ask_at <= now:
            heappop(self._heap)
            looked_at += 1
            known = self._scheduled[place.uid]
            found = due(
                known.schedule,
                known.record.settled_at,
                now,
                running=_running(known.record, (running or {}).get(place.uid)),
            )
            handed_out = _steps(known, found)
            if handed_out:
                known.unreported = len(handed_out)
                steps += handed_out
            elif found.ask_at is not None:
                self._place(known, found.ask_at)
        steps.sort(key=_order)
        return Wake(steps=tuple(steps), wake_at=self.wake_at, looked_at=looked_at)

    def done(self, step: Step) -> None:
        """Report that the broker has confirmed `step`."""
        known = self._scheduled.get(step.entry.uid)
        if known is None:
            return
        known.record = step.record
        known.unreported = max(0, known.unreported - 1)
        if known.unreported == 0:
            self._place(known, _first_look(known.schedule, known.record))

    def failed(self, step: Step, retry_at: datetime) -> None:
        """Report that `step` was not carried out: from `retry_at` on its due time is looked at again.

        The later steps of its schedule must not be carried out then: ticks are sent in their order.
        """
        known = self._scheduled.get(step.entry.uid)
        if known is not None:
            known.unreported = 0
            self._place(known, retry_at)

    def superseded(self, step: Step, record: RunRecord) -> None:
        """Report that `step` was refused because the broker holds `record`, which is further on.

        As after a failure, the later steps of its schedule must not be carried out.
        """
        known = self._scheduled.get(step.entry.uid)
        if known is not None:
            known.record = record
            known.unreported = 0
            self._place(known, _first_look(known.schedule, record))

    @property
    def wake_at(self) -> datetime | None:
        """When the next schedule must be looked at; None: not before something changes."""
        place = self._first_place()
        return None if place is None else place.ask_at

    def _place(self, scheduled: _Scheduled, ask_at: datetime | None) -> None:
        self._turn += 1
        scheduled.turn = self._turn
        if ask_at is not None:
            heappush(self._heap, _Place(ask_at, scheduled.entry.uid, self._turn))
        # Entries that change often, far from their time, would leave places behind without end.
        if len(self._heap) > 64 + 2 * len(self._scheduled):
            self._heap = [place for place in self._heap if self._is_valid(place)]
            heapify(self._heap)

    def _first_place(self) -> _Place | None:
        while self._heap and not self._is_valid(self._heap[0]):
            heappop(self._heap)
        return self._heap[0] if self._heap else None

    def _is_valid(self, place: _Place) -> bool:
        known = self._scheduled.get(place.uid)
        return known is not None and known.turn == place.turn

    def _due_places(self, now: datetime) -> list[_Place]:
        """Return the places up to `now`, walking only that part of the heap."""
        found, open_indexes = [], [0]
        while open_indexes:
            index = open_indexes.pop()
            if index < len(self._heap) and self._heap[index].ask_at <= now:
                if self._is_valid(self._heap[index]):
                    found.append(self._heap[index])
                open_indexes += [2 * index + 1, 2 * index + 2]
        return found


def _first_look(schedule: Schedule, record: RunRecord) -> datetime | None:
    """Return the first due time that is not settled, which is when a schedule must be looked at."""
    return None if schedule.suspended else schedule.timing.next_after(first_open(schedule, record.settled_at))


def _tick_id(entry: ScheduleEntry, due_at: datetime | None) -> str | None:
    return None if due_at is None else tick_id(entry.uid, due_at)


def _running(record: RunRecord, answer: bool | Unknown | None) -> bool | Unknown:
    if record.last_id is None:
        return False
    return Unknown(reason="not asked") if answer is None else answer


def _steps(known: _Scheduled, found: Due) -> list[Step]:
    """Return the steps that carry out `found`, each with the record that is true once it is done."""
    if found.settled_at is None:
        return []
    record = replace(
        known.record,
        missed=known.record.missed + found.missed,
        next_at=found.next_at,
        next_id=_tick_id(known.entry, found.next_at),
    )
    if not found.ticks:
        return [
            Settle(
                entry=known.entry,
                record=replace(record, settled_at=found.settled_at),
                reason=found.reason,
            )
        ]
    return [
        Send(
            entry=known.entry,
            due_at=tick,
            task_id=(task_id := tick_id(known.entry.uid, tick)),
            record=replace(record, settled_at=tick, last_at=tick, last_id=task_id),
            reason=found.reason,
        )
        for tick in found.ticks
    ]


def _order(step: Step) -> tuple[datetime, str]:
    """Order steps by due time; those of one schedule keep their own order."""
    at = step.due_at if isinstance(step, Send) else step.record.settled_at
    assert at is not None
    return at, step.entry.uid
