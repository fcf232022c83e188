"""Beat's place in the broker inside one process; see `base`. For tests and the simulation."""

import threading
import time
from collections.abc import Callable, Collection, Sequence

from muster.transports.memory import MemoryBroker
from muster.transports.schedules.base import (
    Advance,
    Change,
    Changed,
    Changes,
    Done,
    Leader,
    NotLeader,
    Outcome,
    Superseded,
    Term,
)
from muster.wire.schedule import RunRecord, ScheduleEntry


class MemorySchedules:
    """See `base.ScheduleStore`. All beats of a scope share one object; `clock` gives Unix seconds."""

    def __init__(self, broker: MemoryBroker, *, clock: Callable[[], float] = time.time) -> None:
        self._publisher = broker.publisher()
        self._clock = clock
        self._lock = threading.RLock()
        self._term: Term | None = None
        self._until = 0.0
        self._last_number = 0
        self._revision = 0
        self._entries: dict[str, Change] = {}
        self._records: dict[str, RunRecord] = {}

    def acquire(self, holder: str, lease_seconds: float) -> Term | Leader:
        """Return a new term, or who leads instead."""
        with self._lock:
            leader = self.leader()
            if leader is not None and leader.holder != holder:
                return leader
            self._last_number += 1
            self._term = Term(holder, self._last_number)
            self._until = self._clock() + lease_seconds
            return self._term

    def renew(self, term: Term, lease_seconds: float) -> bool:
        """Begin the lease anew; False when the term is over."""
        with self._lock:
            if self._term != term:
                return False
            self._until = self._clock() + lease_seconds
            return True

    def release(self, term: Term) -> None:
        """End the term."""
        with self._lock:
            if self._term == term:
                self._term = None

    def leader(self) -> Leader | None:
        """Return who leads."""
        with self._lock:
            left = self._until - self._clock()
            return None if self._term is None or left <= 0 else Leader(self._term.holder, left)

    def put(self, entries: Sequence[ScheduleEntry]) -> None:
        """Write entries."""
        with self._lock:
            known = self._entries
            changed = [one for one in entries if one.uid not in known or known[one.uid].entry != one]
            if changed:
                self._revision += 1
                known.update({one.uid: Change(self._revision, one) for one in changed})

    def remove(self, uids: Collection[str]) -> None:
        """Remove entries and their records."""
        with self._lock:
            for uid in uids:
                self._records.pop(uid, None)
                if self._entries.pop(uid, None) is not None:
                    self._revision += 1

    def entries(self) -> dict[str, ScheduleEntry | None]:
        """Return all entries."""
        with self._lock:
            return {uid: change.entry for uid, change in self._entries.items()}

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those uids."""
        with self._lock:
            return {uid: self._records[uid] for uid in uids if uid in self._records}

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed."""
        with self._lock:
            put = [change for change in self._entries.values() if change.revision > since]
            removed = [uid for uid in known if uid not in self._entries]
            return Changes(revision=self._revision, put=put, removed=removed)

    def advance(self, term: Term, advances: Sequence[Advance]) -> Sequence[Outcome]:
        """Carry out the steps."""
        with self._lock:
            if self._term != term:
                return [NotLeader()] * len(advances)
            return [self._advance(one) for one in advances]

    def _advance(self, one: Advance) -> Outcome:
        change = self._entries.get(one.uid)
        if change is None or change.revision != one.revision:
            return Changed()
        record = self._records.get(one.uid, RunRecord())
        if record.settled_at != one.after:
            return Superseded(record)
        if one.publication is not None:
            self._publisher.publish([one.publication])
        self._records[one.uid] = one.record
        return Done()

    def close(self) -> None:
        """Nothing to give up."""
