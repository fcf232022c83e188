"""The embedded broker of `muster dev`: one SQLite file, any number of processes on one computer.

Every call is one transaction, so a process killed at any point leaves each message in exactly one place.
The time is this computer's clock, which all users of a local file share. Rows and their states are described
in `muster.embedded`; a delivery's tag is `<row>.<number of the claim>`.

A message's place in its queue is when it entered. Coming back (returned, lost, lease over, due) it takes
that old place and so is served before those that entered later; only REQUEUE gives it a new one.
"""

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from muster.core.age import age, greatest
from muster.core.effects import Publication
from muster.core.rate import Pace, Rate, ask
from muster.embedded import Database, clean, path_of, store_results
from muster.errors import BrokerUnavailable
from muster.settings.environment import DeadLetter
from muster.transports.base import (
    Delivery,
    QueueDepth,
    Seen,
    ServerFacts,
    Settlement,
    Start,
    Tick,
    Ticked,
    Turn,
    Turned,
    Verdict,
)
from muster.transports.once import Once
from muster.wire.keys import PRIORITY_STEPS, priority_step
from muster.wire.losses import may_have_run, with_loss

READY, CLAIMED, RUNNING, WAITING = range(4)

CLEAN_EVERY_SECONDS: Final = 60.0
FIRST_LOOK_SECONDS: Final = 0.001
LAST_LOOK_SECONDS: Final = 0.015
"""A watch looks often just after it was armed, and ever more seldom down to this; see `SQLiteWatch`."""

_ACK: Final = "DELETE FROM messages WHERE id = ? AND claims = ? AND queue = ? AND state IN (1, 2)"
_HELD: Final = "SELECT state, raw FROM messages WHERE id = ? AND claims = ? AND queue = ? AND state IN (1, 2)"
_RENEW: Final = """UPDATE messages SET until = ?
    WHERE id = ? AND claims = ? AND queue = ? AND state IN (1, 2)"""

Clock = Callable[[], float]


def _key(tag: str, queue: str) -> tuple[int, int, str]:
    """Return row, claim and queue of a tag; of one that is none of ours, a row that never is."""
    row, _, number = tag.partition(".")
    if row.isascii() and row.isdecimal() and number.isascii() and number.isdecimal() and len(tag) < 36:
        return min(int(row), _NO_ROW), min(int(number), _NO_ROW), queue
    return -1, -1, queue


_NO_ROW: Final = 2**62


def publish(connection: sqlite3.Connection, publications: Iterable[Publication], now: float) -> None:
    """Put messages into their queues, within the transaction."""
    connection.executemany(
        "INSERT INTO messages (queue, step, state, until, raw) VALUES (?, ?, ?, ?, ?)",
        (
            (
                publication.queue,
                priority_step(publication.priority),
                WAITING if publication.eta > now else READY,
                publication.eta,
                publication.raw,
            )
            for publication in publications
        ),
    )


def _back(connection: sqlite3.Connection, rows: Iterable[int]) -> None:
    """Put messages back to their old places, as they came."""
    connection.executemany(
        "UPDATE messages SET state = 0, until = 0, worker = '' WHERE id = ?", ((row,) for row in rows)
    )


def _back_with_loss(connection: sqlite3.Connection, rows: Iterable[tuple[int, bytes]], cause: str) -> None:
    connection.executemany(
        "UPDATE messages SET state = 0, until = 0, worker = '', raw = ? WHERE id = ?",
        ((with_loss(raw, cause), row) for row, raw in rows),
    )


def _wait_until(connection: sqlite3.Connection, row: int, eta: float) -> None:
    connection.execute("UPDATE messages SET state = 3, until = ?, worker = '' WHERE id = ?", (eta, row))


def _is_ready(connection: sqlite3.Connection, queue: str) -> bool:
    found = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ? AND state = 0)", (queue,)
    )
    return bool(found.fetchone()[0])


def _end_dead_letters(connection: sqlite3.Connection, place: DeadLetter, now: float) -> None:
    """Remove the dead letters of a place that are too old or too many."""
    connection.execute(
        """DELETE FROM dead_letters WHERE place = :place AND (at < :oldest OR id <= (
            SELECT id FROM dead_letters WHERE place = :place ORDER BY id DESC LIMIT 1 OFFSET :kept))""",
        {"place": place.name, "oldest": now - place.max_age, "kept": place.max_length},
    )


class SQLiteTransport:
    """A worker's side; see `muster.transports.base.Transport`.

    `results_joined`: the result store is the same file, so that a turn stores results in its transaction.
    """

    def __init__(
        self,
        url: str,
        *,
        queues: Sequence[str],
        worker: str,
        pool: str,
        lease_seconds: float,
        dead_letters: Mapping[str, DeadLetter],
        results_joined: bool,
        clock: Clock = time.time,
    ) -> None:
        """Raise ConfigurationError for a URL that names no file."""
        self._database = Database(path_of(url))
        self._queues = list(dict.fromkeys(queues))
        self._worker = worker
        self._life = f"{worker}/{uuid.uuid4().hex[:12]}"
        """Names us as the holder of messages: a restarted container has the worker's name again."""
        self._pool = pool
        self._lease_seconds = lease_seconds
        self._dead_letters = {
            name: dead_letters.get(name) or DeadLetter(name=f"{name}.dead") for name in queues
        }
        self._results_joined = results_joined
        self._clock = clock
        self._clean_at = 0.0
        self._watches: list[SQLiteWatch] = []

    def turn(self, turn: Turn) -> Turned:
        """Carry out settlements and sendings, then starts, then the claim, in one transaction."""
        with self._database.writing() as connection:
            now = self._clock()
            if self._results_joined:
                results = [one.result for one in turn.settle if one.result is not None]
                store_results(connection, [*turn.store, *results], now)
            once = Once(lambda: self._said(connection))
            settled = [self._settle(connection, settlement, once, now) for settlement in turn.settle]
            for queue in {one.queue for one in turn.settle if one.verdict is Verdict.DEAD}:
                _end_dead_letters(connection, self._dead_letters[queue], now)
            for sending in turn.send:
                if once.is_new(sending.token):
                    publish(connection, sending.publications, now)
            if once.said:
                self._remember(connection, once.said, now)
            deadline = now + self._lease_seconds
            put_off: dict[str, float] = {}
            started = [self._start(connection, start, now, put_off) for start in turn.start]
            deliveries = self._claim(connection, turn, deadline) if turn.claim > 0 else []
        return Turned(settled=settled, started=started, put_off=put_off, deliveries=deliveries, now=now)

    def _said(self, connection: sqlite3.Connection) -> set[str]:
        return {
            token
            for (token,) in connection.execute("SELECT token FROM sent WHERE worker = ?", (self._worker,))
        }

    def _remember(self, connection: sqlite3.Connection, said: Iterable[str], now: float) -> None:
        connection.execute("DELETE FROM sent WHERE worker = ?", (self._worker,))
        connection.executemany(
            "INSERT OR IGNORE INTO sent (worker, token, at) VALUES (?, ?, ?)",
            ((self._worker, one, now) for one in said),
        )

    def _settle(self, connection: sqlite3.Connection, settlement: Settlement, once: Once, now: float) -> bool:
        verdict = settlement.verdict
        key = _key(settlement.tag, settlement.queue)
        if verdict is Verdict.ACKED:
            if settlement.publish and once.is_new(settlement.tag):
                publish(connection, settlement.publish, now)
            return True
        if verdict is Verdict.ACK_EARLY:
            acked = connection.execute(_ACK, key).rowcount > 0
            return once.ours(settlement.tag, acked_now=acked)
        if verdict is Verdict.ACK and not settlement.publish:
            return connection.execute(_ACK, key).rowcount > 0
        found = connection.execute(_HELD, key).fetchone()
        if found is None:
            return False
        row, raw = key[0], found[1]
        publish(connection, settlement.publish, now)
        match verdict:
            case Verdict.RETURN:
                _back(connection, [row])
            case Verdict.LOST:
                _back_with_loss(connection, [(row, raw)], settlement.reason)
            case Verdict.DEFER:
                _wait_until(connection, row, settlement.eta)
            case Verdict.REQUEUE:
                connection.execute(
                    """INSERT INTO messages (queue, step, state, until, claims, raw)
                    SELECT queue, step, 0, 0, claims, raw FROM messages WHERE id = ?""",
                    (row,),
                )
            case Verdict.DEAD:
                connection.execute(
                    """INSERT INTO dead_letters (place, at, reason, text, queue, raw)
                    VALUES (?, ?, ?, ?, ?, ?)""",
                    (
                        self._dead_letters[settlement.queue].name,
                        now,
                        settlement.reason,
                        settlement.text,
                        settlement.queue,
                        raw,
                    ),
                )
        if verdict in {Verdict.ACK, Verdict.REQUEUE, Verdict.DEAD}:
            connection.execute("DELETE FROM messages WHERE id = ?", (row,))
        return True

    def _start(
        self, connection: sqlite3.Connection, start: Start, now: float, put_off: dict[str, float]
    ) -> bool:
        key = _key(start.tag, start.queue)
        found = connection.execute(_HELD, key).fetchone()
        if found is None:
            return False
        if start.rate is not None and (until := self._pace(connection, start.task, start.rate, now)):
            put_off[start.tag] = until
            _wait_until(connection, key[0], until)
            return False
        if found[0] == RUNNING:  # a start whose answer got lost is asked for again
            return True
        connection.execute(
            "UPDATE messages SET state = 2, until = ? WHERE id = ?", (now + self._lease_seconds, key[0])
        )
        if start.extra_run:
            connection.execute(
                """INSERT INTO extra_runs (queue, task, cause, runs) VALUES (?, ?, ?, 1)
                ON CONFLICT (queue, task, cause) DO UPDATE SET runs = runs + 1""",
                msgspec.json.decode(start.extra_run, type=tuple[str, str, str]),
            )
        return True

    @staticmethod
    def _pace(connection: sqlite3.Connection, task: str, rate: Rate, now: float) -> float:
        """Let one more start of a task happen, or return until when it has to wait."""
        found = connection.execute(
            "SELECT next_start, next_place FROM rates WHERE task = ?", (task,)
        ).fetchone()
        pace, until = ask(rate, Pace(*found) if found else Pace(), now)
        connection.execute(
            "INSERT OR REPLACE INTO rates (task, next_start, next_place) VALUES (?, ?, ?)",
            (task, pace.next_start, pace.next_place),
        )
        return until

    def _claim(self, connection: sqlite3.Connection, turn: Turn, deadline: float) -> list[Delivery]:
        room, runs_left = turn.claim, turn.run
        deliveries = []
        changes = []
        for step in PRIORITY_STEPS:
            for queue in self._queues:
                if room <= 0:
                    break
                rows = connection.execute(
                    """SELECT id, claims, raw FROM messages WHERE queue = ? AND step = ? AND state = 0
                    ORDER BY id LIMIT ?""",
                    (queue, step, room),
                ).fetchall()
                room -= len(rows)
                for row, claims, raw in rows:
                    # what may have run before is counted when it starts, so it is never started here
                    running = runs_left > 0 and not may_have_run(raw)
                    runs_left -= running
                    changes.append((RUNNING if running else CLAIMED, deadline, self._life, row))
                    deliveries.append(Delivery(f"{row}.{claims + 1}", queue, raw, running))
        connection.executemany(
            "UPDATE messages SET state = ?, until = ?, worker = ?, claims = claims + 1 WHERE id = ?", changes
        )
        return deliveries

    def tick(self, tick: Tick) -> Ticked:
        """Renew leases, end expired ones of anybody, move due ETAs, report, read the mailbox."""
        with self._database.writing() as connection:
            now = self._clock()
            gone = self._renew(connection, tick, now + self._lease_seconds)
            if tick.reconcile:
                self._reconcile(connection, {_key(tag, queue) for queue, tag in tick.renew})
            etas = []
            ready = False
            for queue in self._queues:
                if not tick.spare:
                    self._end_leases(connection, queue, now)
                connection.execute(
                    "UPDATE messages SET state = 0, until = 0 WHERE queue = ? AND state = 3 AND until <= ?",
                    (queue, now),
                )
                [(eta,)] = connection.execute(
                    "SELECT min(until) FROM messages WHERE queue = ? AND state = 3", (queue,)
                )
                if eta is not None:
                    etas.append(eta)
                ready = ready or _is_ready(connection, queue)
            if tick.report is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO reports (pool, worker, at, report) VALUES (?, ?, ?, ?)",
                    (self._pool, self._worker, now, tick.report),
                )
            commands = connection.execute(
                "DELETE FROM controls WHERE worker = ? RETURNING id, control", (self._worker,)
            ).fetchall()
            revoked = connection.execute("SELECT task_id FROM revoked WHERE at > ?", (tick.revoked_after,))
            ticked = Ticked(
                now=now,
                next_eta=min(etas, default=None),
                commands=[control for _, control in sorted(commands)],
                revoked=[task_id for (task_id,) in revoked],
                gone=gone,
                ready=ready,
            )
            if now >= self._clean_at:
                for place in self._dead_letters.values():
                    _end_dead_letters(connection, place, now)
                clean(connection, now)
                self._clean_at = now + CLEAN_EVERY_SECONDS
        return ticked

    @staticmethod
    def _renew(connection: sqlite3.Connection, tick: Tick, deadline: float) -> list[str]:
        return [
            tag
            for queue, tag in tick.renew
            if connection.execute(_RENEW, (deadline, *_key(tag, queue))).rowcount == 0
        ]

    def _reconcile(self, connection: sqlite3.Connection, ours: set[tuple[int, int, str]]) -> None:
        for queue in self._queues:
            rows = connection.execute(
                "SELECT id, claims, queue FROM messages WHERE queue = ? AND state IN (1, 2) AND worker = ?",
                (queue, self._life),
            ).fetchall()
            _back(connection, (key[0] for key in rows if key not in ours))

    @staticmethod
    def _end_leases(connection: sqlite3.Connection, queue: str, now: float) -> None:
        over = connection.execute(
            "SELECT id, state, raw FROM messages WHERE queue = ? AND until <= ? AND state IN (1, 2)",
            (queue, now),
        ).fetchall()
        _back(connection, (row for row, state, _ in over if state == CLAIMED))
        _back_with_loss(
            connection, ((row, raw) for row, state, raw in over if state == RUNNING), "LeaseExpired"
        )

    def watch(self, notify: Callable[[], None]) -> "SQLiteWatch":
        """Return an unarmed watch over the queues."""
        watch = SQLiteWatch(Database(self._database.path), self._queues, notify)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        """Give up the connections."""
        for watch in self._watches:
            watch.close()
        self._database.close()


class SQLiteWatch:
    """Looks at the file's version from a thread of its own while armed, and sleeps while not.

    A look reads a number in shared memory, some microseconds. The first comes at once, the next after
    `FIRST_LOOK_SECONDS`, then ever more seldom down to one in `LAST_LOOK_SECONDS`.
    """

    allowed = 0

    def __init__(self, database: Database, queues: Sequence[str], notify: Callable[[], None]) -> None:
        self._database = database
        self._queues = queues
        self._notify = notify
        self._changed = threading.Condition()
        self._armed = False
        self._come = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watch SQLite", daemon=True)
        self._thread.start()

    def arm(self, claim: int = 0) -> None:  # noqa: ARG002 - nothing is far away here
        """Ask for one notification; nothing is claimed."""
        with self._changed:
            self._armed = True
            self._changed.notify_all()

    def fileno(self) -> None:
        """Return nothing: `notify` is called."""

    def look(self) -> Seen:
        """Return whether a message has come."""
        with self._changed:
            come, self._come = self._come, False
        return Seen(come=come)

    def recall(self) -> Seen:
        """Return whether a message has come: nothing was allowed."""
        return self.look()

    def reset(self) -> None:
        """Be unarmed."""
        with self._changed:
            self._armed = self._come = False

    def close(self) -> None:
        """Stop waiting; when this returns nothing is notified any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._armed or self._closed)
            if not self._wait_for_message():
                break
            with self._changed:
                fire, self._armed = self._armed and not self._closed, False
                self._come = self._come or fire
            if fire:
                self._notify()
        self._database.close()

    def _wait_for_message(self) -> bool:
        """Return True when a message is ready or the file is out of reach, False when we are closed."""
        seen = None
        delay = FIRST_LOOK_SECONDS
        while not self._closed:
            try:
                version = self._database.data_version()
                if version != seen and self._any_ready():
                    return True
            except BrokerUnavailable:
                # the loop's own call finds out what is wrong, and waits before the next
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, LAST_LOOK_SECONDS * 10)
                return not self._closed
            seen = version
            with self._changed:
                self._changed.wait_for(lambda: self._closed, delay)
            delay = min(delay * 1.2, LAST_LOOK_SECONDS)
        return False

    def _any_ready(self) -> bool:
        with self._database.reading() as connection:
            return any(
                connection.execute(
                    "SELECT 1 FROM messages WHERE queue = ? AND state = 0 LIMIT 1", (queue,)
                ).fetchone()
                for queue in self._queues
            )


class SQLitePublisher:
    """A client's side; see `muster.transports.base.Publisher`."""

    def __init__(self, url: str, clock: Clock = time.time) -> None:
        """Raise ConfigurationError for a URL that names no file."""
        self._database = Database(path_of(url))
        self._clock = clock

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues, in one transaction."""
        with self._database.writing() as connection:
            publish(connection, publications, self._clock())

    def close(self) -> None:
        """Give up the connection."""
        self._database.close()


class SQLiteObserver:
    """Reads queues and reports; see `muster.transports.base.Observer`."""

    def __init__(self, url: str, dead_letters: Mapping[str, str], clock: Clock = time.time) -> None:
        """Raise ConfigurationError for a URL that names no file."""
        self._database = Database(path_of(url))
        self.dead_letters = dead_letters
        self._clock = clock

    def depths(self, queues: Sequence[str], *, horizon_seconds: float) -> dict[str, QueueDepth]:
        """Return the depth of each queue, all of one moment."""
        with self._database.reading() as connection:
            now = self._clock()
            return {queue: self._depth(connection, queue, now, horizon_seconds) for queue in queues}

    def _depth(
        self, connection: sqlite3.Connection, queue: str, now: float, horizon_seconds: float
    ) -> QueueDepth:
        [(ready,)] = connection.execute(
            "SELECT count(*) FROM messages WHERE queue = ? AND state = 0", (queue,)
        )
        fronts = [
            connection.execute(
                "SELECT raw FROM messages WHERE queue = ? AND step = ? AND state = 0 ORDER BY id LIMIT 1",
                (queue, step),
            ).fetchone()
            for step in PRIORITY_STEPS
        ]
        [(held, running, expired)] = connection.execute(
            """SELECT count(*), total(state = 2), total(until <= ?) FROM messages
            WHERE queue = ? AND state IN (1, 2)""",
            (now, queue),
        )
        [(waiting, due)] = connection.execute(
            "SELECT count(*), total(until <= ?) FROM messages WHERE queue = ? AND state = 3",
            (now + horizon_seconds, queue),
        )
        [(dead,)] = connection.execute(
            "SELECT count(*) FROM dead_letters WHERE place = ?",
            (self.dead_letters.get(queue, f"{queue}.dead"),),
        )
        return QueueDepth(
            ready=ready,
            claimed=held - int(running),
            running=int(running),
            expired=int(expired),
            due=int(due),
            waiting=waiting,
            dead=dead,
            oldest=greatest(age(front[0], None, now) for front in fronts if front),
        )

    def reports(self, pool: str, *, max_age_seconds: float) -> list[tuple[float, bytes]]:
        """Return (age in seconds, report) of the pool's workers."""
        with self._database.reading() as connection:
            now = self._clock()
            rows = connection.execute(
                "SELECT at, report FROM reports WHERE pool = ? AND at >= ? ORDER BY worker",
                (pool, now - max_age_seconds),
            )
            return [(max(now - at, 0.0), report) for at, report in rows]

    def send(self, worker: str, control: bytes) -> None:
        """Put a control message into a worker's mailbox; unread it is gone after ten minutes."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO controls (worker, at, control) VALUES (?, ?, ?)",
                (worker, self._clock(), control),
            )

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker, at its next tick, that these tasks shall not run."""
        with self._database.writing() as connection:
            now = self._clock()
            connection.executemany(
                "INSERT OR REPLACE INTO revoked (task_id, at) VALUES (?, ?)", ((one, now) for one in task_ids)
            )

    def server(self) -> ServerFacts:
        """Return that it is a file, and SQLite's version."""
        return ServerFacts(type="SQLite", version=sqlite3.sqlite_version)

    def remove_queue(self, queue: str, dead_letter: str) -> bool:
        """Return whether nothing of either is left: a queue without messages takes no place in the file."""
        with self._database.reading() as connection:
            [held] = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ?)"
                " OR EXISTS (SELECT 1 FROM dead_letters WHERE place = ?)",
                (queue, dead_letter),
            ).fetchone()
        return not held

    def extra_runs(self) -> dict[tuple[str, str, str], int]:
        """Return the starts beyond the first by (queue, task, cause)."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT queue, task, cause, runs FROM extra_runs")
            return {(queue, task, cause): runs for queue, task, cause, runs in rows}

    def close(self) -> None:
        """Give up the connection."""
        self._database.close()
