"""What stands in a scope, as its log on RabbitMQ tells it: from records in order to what they lead to.

`amqp` reads the log and feeds it; every reader of one log comes to the same book. It decides what becomes of
beat's steps, and talks to nobody.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec

from muster.transports.schedules.base import Advance, Change, Changed, Changes, Done, Outcome, Superseded
from muster.wire.schedule import RunRecord, ScheduleEntry, read_entry
from muster.wire.schedule_log import Kept, Record, TermNote, TickRun

OVERHEAD_BYTES: Final = 200
"""What a message takes in a stream besides its body, about."""
_NO_RUN: Final = RunRecord()


class Standing(msgspec.Struct, frozen=True):
    """An entry that stands there."""

    put_at: int
    revision: int
    data: bytes
    entry: ScheduleEntry | None
    """None: it cannot be read, and `wrong` says why."""
    wrong: str


class _Run(msgspec.Struct, frozen=True):
    at: int
    record: RunRecord


class Book:
    """See the module. Offsets are those of the log; revisions are this reader's own count of changes."""

    def __init__(self, before: "Book | None" = None) -> None:
        """`before` is what its reader knew of the scope: what has not changed since is not told again."""
        self.entries: dict[str, Standing] = {}
        self.term: TermNote | None = None
        self.unsure: dict[str, RunRecord] = {}
        """uid → its record before the ticks of which nobody has said that they were confirmed."""
        self.revision: int = 0 if before is None else before.revision + 1
        self.next = 0
        self.first = 0
        self.size = 0
        """Bytes since `first`, about."""
        self._runs: dict[str, _Run] = {}
        self._gone: dict[str, int] = {}
        self._before = {} if before is None else dict(before.entries)

    # -- what the log says

    def take_record(self, offset: int, size: int, record: Record) -> None:
        """Take in a record."""
        for uid, data in record.put.items():
            if uid in self._gone and uid not in self.entries:
                self._runs.pop(uid, None)
            self._put(uid, offset, bytes(data))
        for uid in record.removed:
            self._gone[uid] = offset
            self._runs.pop(uid, None)
            self.unsure.pop(uid, None)
            self._before.pop(uid, None)
            if self.entries.pop(uid, None) is not None:
                self.revision += 1
        for kept in record.kept:
            self._keep(kept)
        if record.sure:
            self.unsure.clear()
        for uid, run in record.runs.items():
            self._runs[uid] = _Run(offset, run)
        if record.term is not None:
            self._lead(record.term)
        self._advance_to(offset, size, record.first)

    def take_tick(self, offset: int, size: int, tick: TickRun) -> None:
        """Take in a tick's message."""
        self.unsure.setdefault(tick.uid, self.record(tick.uid))
        self._runs[tick.uid] = _Run(offset, tick.run)
        self._advance_to(offset, size, tick.first)

    def _advance_to(self, offset: int, size: int, first: int | None) -> None:
        self.next = offset + 1
        self.size += size + OVERHEAD_BYTES
        if first is not None and first > self.first:
            self.first, self.size = first, 0
            self._gone = {uid: at for uid, at in self._gone.items() if at >= first}

    def _put(self, uid: str, offset: int, data: bytes) -> None:
        for known in (self.entries.get(uid), self._before.get(uid)):
            if known is not None and known.data == data:
                self.entries[uid] = msgspec.structs.replace(known, put_at=offset)
                return
        self.revision += 1
        entry, wrong = read_entry(data)
        self.entries[uid] = Standing(offset, self.revision, data, entry, wrong)

    def _keep(self, kept: Kept) -> None:
        uid = kept.uid
        if self._gone.get(uid, -1) > kept.put_at:
            return
        known = self.entries.get(uid)
        if known is None or known.put_at < kept.put_at:
            self._put(uid, kept.put_at, bytes(kept.entry))
        run = self._runs.get(uid)
        if kept.run is not None and (run is None or run.at < kept.run_at):
            self._runs[uid] = _Run(kept.run_at, kept.run)

    def _lead(self, term: TermNote) -> None:
        known = self.term
        if known is None or term.number > known.number or (term.number == known.number and term.over):
            self.term = term

    def forget_the_last(self) -> None:
        """Forget what its reader knew before: all that has changed since is told now."""
        self._before.clear()

    # -- what it comes to

    def record(self, uid: str) -> RunRecord:
        """Return what has come of a schedule."""
        run = self._runs.get(uid)
        return _NO_RUN if run is None else run.record

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those that stand here and have one."""
        return {uid: self._runs[uid].record for uid in uids if uid in self.entries and uid in self._runs}

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed since a revision, for who knows `known`."""
        if since == self.revision:
            return Changes(revision=since)
        since = since if since < self.revision else 0
        new = {uid: one for uid, one in self.entries.items() if one.revision > since}
        return Changes(
            revision=self.revision,
            put=[Change(one.revision, one.entry) for one in new.values() if one.entry is not None],
            removed=sorted(uid for uid in known if uid not in self.entries),
            malformed={uid: one.wrong for uid, one in new.items() if one.entry is None},
        )

    def judge(self, advances: Sequence[Advance]) -> list[Outcome]:
        """Return what becomes of beat's steps in their order; those that are Done are yet to be done."""
        ahead: dict[str, RunRecord] = {}
        outcomes: list[Outcome] = []
        for one in advances:
            standing = self.entries.get(one.uid)
            record = ahead.get(one.uid) or self.record(one.uid)
            if standing is None or standing.revision != one.revision:
                outcomes.append(Changed())
            elif record.settled_at != one.after:
                outcomes.append(Superseded(record))
            else:
                ahead[one.uid] = one.record
                outcomes.append(Done())
        return outcomes

    def kept(self) -> Iterator[Kept]:
        """Yield all that stands here, to be said again."""
        for uid, one in self.entries.items():
            run = self._runs.get(uid)
            data = msgspec.Raw(one.data)
            yield (
                Kept(uid, one.put_at, data)
                if run is None
                else Kept(uid, one.put_at, data, run.at, run.record)
            )
