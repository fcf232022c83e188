"""Beat's place on Redis; see `base`. What changes something is one script of `muster/transports/lua`.

Revisions and terms are Redis' own microseconds, or one more than the last: they rise even when the server
has lost its memory meanwhile, so that nobody takes a new state for an old one.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from muster.redis_client import outage
from muster.transports.redis import Server, publication_args
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
from muster.wire.schedule import (
    RunRecord,
    ScheduleEntry,
    encode,
    mark_text,
    read_entry,
    read_run,
    write_run,
)

AT_ONCE: Final = 500
"""Entries a call: a long one keeps the broker from its other work."""


class RedisSchedules:
    """See `base.ScheduleStore`."""

    def __init__(self, server: Server, *, scope: str) -> None:
        self._server = server
        self._scope = scope

    # -- the election

    def acquire(self, holder: str, lease_seconds: float) -> Term | Leader:
        """Return a new term, or who leads instead."""
        with outage(self._server.place):
            won, *rest = self._run("beat_acquire", holder, lease_seconds)
        if won:
            return Term(holder, int(rest[0]))
        return Leader(rest[0].decode(), float(rest[1]))

    def renew(self, term: Term, lease_seconds: float) -> bool:
        """Begin the lease anew; False when the term is over."""
        with outage(self._server.place):
            return bool(self._run("beat_renew", term.holder, str(term.number), lease_seconds))

    def release(self, term: Term) -> None:
        """End the term."""
        with outage(self._server.place):
            self._run("beat_release", term.holder, str(term.number))

    def leader(self) -> Leader | None:
        """Return who leads."""
        with outage(self._server.place):
            pipeline = self._server.client.pipeline(transaction=True)
            pipeline.hmget(self._server.keys.beat(self._scope), "holder", "until")
            pipeline.time()
            (holder, until), (seconds, micros) = pipeline.execute()
        left = float(until or 0) - seconds - micros / 1e6
        return Leader(holder.decode(), left) if holder is not None and left > 0 else None

    # -- the entries

    def put(self, entries: Sequence[ScheduleEntry]) -> None:
        """Write entries."""
        with outage(self._server.place):
            for batch in _batches(entries):
                self._run("schedules_put", [(one.uid, encode(one).decode()) for one in batch])

    def remove(self, uids: Collection[str]) -> None:
        """Remove entries and their records."""
        with outage(self._server.place):
            for batch in _batches(uids):
                self._run("schedules_remove", batch)

    def entries(self) -> dict[str, ScheduleEntry | None]:
        """Return all entries."""
        with outage(self._server.place):
            found: Any = self._server.client.hgetall(self._server.keys.schedules(self._scope))
        return {uid.decode(): read_entry(data)[0] for uid, data in found.items()}

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those uids."""
        key = self._server.keys.schedule_runs(self._scope)
        found: dict[str, RunRecord] = {}
        with outage(self._server.place):
            for batch in _batches(uids):
                values: Any = self._server.client.hmget(key, batch)
                found |= {
                    uid: read_run(value)
                    for uid, value in zip(batch, values, strict=True)
                    if value is not None
                }
        return found

    # -- beat

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed."""
        with outage(self._server.place):
            revision = self._revision()
            if revision == since:
                return Changes(revision=revision)
            return self._changes(since if revision > since else 0, known)

    def _revision(self) -> int:
        return int(self._server.client.hget(self._server.keys.beat(self._scope), "revision") or 0)

    def _changes(self, since: int, known: Collection[str]) -> Changes:
        keys = self._server.keys
        pipeline = self._server.client.pipeline(transaction=True)
        pipeline.hget(keys.beat(self._scope), "revision")
        pipeline.zrangebyscore(keys.schedule_revisions(self._scope), f"({since}", "+inf", withscores=True)
        pipeline.hlen(keys.schedules(self._scope))
        revision, revised, number = pipeline.execute()
        put: list[Change] = []
        malformed: dict[str, str] = {}
        for batch in _batches(revised):
            values: Any = self._server.client.hmget(keys.schedules(self._scope), [uid for uid, _ in batch])
            for (uid, score), data in zip(batch, values, strict=True):
                # None: removed a moment ago. An entry that was changed a moment ago stands under its old
                # revision here, so that no step of it is carried out before it is read once more.
                if data is None:
                    continue
                entry, wrong = read_entry(data)
                if entry is None:
                    malformed[uid.decode()] = wrong
                else:
                    put.append(Change(int(score), entry))
        # nothing has left exactly if those known before and those told now are as many as stand there
        removed: list[str] = []
        if len({*known, *(uid.decode() for uid, _ in revised)}) != number:
            standing: Any = self._server.client.hkeys(keys.schedules(self._scope))
            removed = sorted(set(known) - {uid.decode() for uid in standing})
        return Changes(revision=int(revision or 0), put=put, removed=removed, malformed=malformed)

    def advance(self, term: Term, advances: Sequence[Advance]) -> Sequence[Outcome]:
        """Carry out the steps in one script."""
        steps = [
            (
                one.uid,
                str(one.revision),
                mark_text(one.after),
                write_run(one.record).decode(),
                () if one.publication is None else publication_args(one.publication),
            )
            for one in advances
        ]
        with outage(self._server.place):
            outcomes = self._run("beat_advance", term.holder, str(term.number), steps)
        return [_OUTCOMES.get(outcome) or Superseded(read_run(outcome)) for outcome in outcomes]

    def close(self) -> None:
        """Give up the connection."""
        self._server.close()

    def _run(self, name: str, *args: Any) -> Any:
        return self._server.run(name, (self._scope, *args))


_OUTCOMES: Final[dict[Any, Outcome]] = {b"done": Done(), b"changed": Changed(), b"not leader": NotLeader()}


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, AT_ONCE)):
        yield batch
