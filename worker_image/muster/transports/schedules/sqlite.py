"""Beat's place in the embedded database; see `base`. The tables are described in `muster.embedded`.

Revisions and terms are this computer's microseconds, or one more than the last: they rise even when the file
was removed and made anew, so that nobody takes a new state for an old one.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from muster.embedded import Database, path_of
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
from muster.transports.sqlite import publish
from muster.wire.schedule import (
    RunRecord,
    ScheduleEntry,
    encode,
    read_entry,
    read_run,
    write_run,
)


class SQLiteSchedules:
    """See `base.ScheduleStore`. The time is this computer's, which all users of the file share."""

    def __init__(self, url: str, *, scope: str, clock: Callable[[], float] = time.time) -> None:
        """Raise ConfigurationError for a URL that names no file."""
        self._database = Database(path_of(url))
        self._scope = scope
        self._clock = clock

    # -- the election

    def acquire(self, holder: str, lease_seconds: float) -> Term | Leader:
        """Return a new term, or who leads instead."""
        with self._database.writing() as connection:
            now = self._clock()
            leader = self._leader(connection)
            # more than a lease can be left only where the clock was set back: nobody shall wait for that
            if leader is not None and leader.holder != holder and leader.seconds <= lease_seconds:
                return leader
            [(number,)] = connection.execute(
                """INSERT INTO beats (scope, holder, term, until) VALUES (?, ?, ?, ?)
                ON CONFLICT (scope) DO UPDATE SET holder = excluded.holder,
                    term = max(term + 1, excluded.term), until = excluded.until RETURNING term""",
                (self._scope, holder, int(now * 1e6), now + lease_seconds),
            ).fetchall()
            return Term(holder, number)

    def renew(self, term: Term, lease_seconds: float) -> bool:
        """Begin the lease anew; False when the term is over."""
        with self._database.writing() as connection:
            changed = connection.execute(
                "UPDATE beats SET until = ? WHERE scope = ? AND holder = ? AND term = ?",
                (self._clock() + lease_seconds, self._scope, term.holder, term.number),
            )
            return changed.rowcount > 0

    def release(self, term: Term) -> None:
        """End the term."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE beats SET holder = '', until = 0 WHERE scope = ? AND holder = ? AND term = ?",
                (self._scope, term.holder, term.number),
            )

    def leader(self) -> Leader | None:
        """Return who leads."""
        with self._database.reading() as connection:
            return self._leader(connection)

    def _leader(self, connection: sqlite3.Connection) -> Leader | None:
        now = self._clock()
        found = connection.execute(
            "SELECT holder, until FROM beats WHERE scope = ? AND holder != '' AND until > ?",
            (self._scope, now),
        ).fetchone()
        return None if found is None else Leader(found[0], found[1] - now)

    # -- the entries

    def put(self, entries: Sequence[ScheduleEntry]) -> None:
        """Write entries."""
        with self._database.writing() as connection:
            standing = dict(
                connection.execute("SELECT uid, entry FROM schedules WHERE scope = ?", (self._scope,))
            )
            written = [(one.uid, encode(one)) for one in entries]
            changed = [(uid, data) for uid, data in written if standing.get(uid) != data]
            if changed:
                revision = self._next_revision(connection)
                connection.executemany(
                    "INSERT OR REPLACE INTO schedules (scope, uid, revision, entry) VALUES (?, ?, ?, ?)",
                    ((self._scope, uid, revision, data) for uid, data in changed),
                )

    def remove(self, uids: Collection[str]) -> None:
        """Remove entries and their records."""
        rows = [(self._scope, uid) for uid in uids]
        with self._database.writing() as connection:
            removed = connection.executemany("DELETE FROM schedules WHERE scope = ? AND uid = ?", rows)
            connection.executemany("DELETE FROM schedule_runs WHERE scope = ? AND uid = ?", rows)
            if removed.rowcount > 0:
                self._next_revision(connection)

    def _next_revision(self, connection: sqlite3.Connection) -> int:
        [(revision,)] = connection.execute(
            """INSERT INTO beats (scope, revision) VALUES (?, ?) ON CONFLICT (scope) DO UPDATE
            SET revision = max(revision + 1, excluded.revision) RETURNING revision""",
            (self._scope, int(self._clock() * 1e6)),
        ).fetchall()
        return int(revision)

    def entries(self) -> dict[str, ScheduleEntry | None]:
        """Return all entries."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT uid, entry FROM schedules WHERE scope = ?", (self._scope,))
            return {uid: read_entry(data)[0] for uid, data in rows}

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those uids."""
        with self._database.reading() as connection:
            rows = _each(
                connection,
                "SELECT uid, run FROM schedule_runs WHERE scope = ? AND uid = ?",
                self._scope,
                uids,
            )
            return {uid: read_run(run) for uid, run in rows}

    # -- beat

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT revision FROM beats WHERE scope = ?", (self._scope,)
            ).fetchone()
            revision = found[0] if found else 0
            if revision == since:
                return Changes(revision=revision)
            put, malformed = [], {}
            for uid, revised, data in connection.execute(
                "SELECT uid, revision, entry FROM schedules WHERE scope = ? AND revision > ?",
                (self._scope, since if since < revision else 0),
            ):
                entry, wrong = read_entry(data)
                if entry is None:
                    malformed[uid] = wrong
                else:
                    put.append(Change(revised, entry))
            rows = connection.execute("SELECT uid FROM schedules WHERE scope = ?", (self._scope,))
            removed = sorted(set(known) - {uid for (uid,) in rows})
            return Changes(revision=revision, put=put, removed=removed, malformed=malformed)

    def advance(self, term: Term, advances: Sequence[Advance]) -> Sequence[Outcome]:
        """Carry out the steps in one transaction."""
        with self._database.writing() as connection:
            found = connection.execute(
                "SELECT holder, term FROM beats WHERE scope = ?", (self._scope,)
            ).fetchone()
            if found != (term.holder, term.number):
                return [NotLeader()] * len(advances)
            return [self._advance(connection, one) for one in advances]

    def _advance(self, connection: sqlite3.Connection, one: Advance) -> Outcome:
        key = (self._scope, one.uid)
        revised = connection.execute(
            "SELECT revision FROM schedules WHERE scope = ? AND uid = ?", key
        ).fetchone()
        if revised != (one.revision,):
            return Changed()
        found = connection.execute(
            "SELECT run FROM schedule_runs WHERE scope = ? AND uid = ?", key
        ).fetchone()
        record = read_run(found[0]) if found else RunRecord()
        if record.settled_at != one.after:
            return Superseded(record)
        if one.publication is not None:
            publish(connection, [one.publication], self._clock())
        connection.execute(
            "INSERT OR REPLACE INTO schedule_runs (scope, uid, run) VALUES (?, ?, ?)",
            (*key, write_run(one.record)),
        )
        return Done()

    def close(self) -> None:
        """Give up the connection."""
        self._database.close()


def _each(
    connection: sqlite3.Connection, query: str, scope: str, uids: Iterable[str]
) -> Iterable[tuple[str, bytes]]:
    for uid in uids:
        yield from connection.execute(query, (scope, uid))
