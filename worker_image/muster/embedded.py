"""The embedded database: one SQLite file that is broker, result store and beat's memory on one computer.

`transports.sqlite`, `results.sqlite` and beat open the same file through `Database`, so that one transaction
can cover a verdict, its messages and its result. Here stand the tables, their versions and how long rows are
kept; what rows mean, their owners know.

Safe against processes killed at any point: a transaction is in the file wholly or not at all (WAL;
`synchronous=NORMAL` gives up only what a power cut takes). Local files only: WAL needs shared memory.
"""

import contextlib
import os
import random
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from muster.core.effects import StoredResult
from muster.errors import BrokerRefused, BrokerUnavailable, ConfigurationError

PATIENCE_SECONDS: Final = 10.0
"""How long a transaction waits for the others; only a stopped process holds the file longer."""
FIRST_PAUSE_SECONDS: Final = 0.0005
LAST_PAUSE_SECONDS: Final = 0.003
WEEK_SECONDS: Final = 7 * 86400
REPORTS_KEPT_SECONDS: Final = 60
CONTROLS_KEPT_SECONDS: Final = 600
SENT_KEPT_SECONDS: Final = 86_400

_Done = TypeVar("_Done")

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # A message is in one row for all its life. `id` is its place in its queue, never used twice;
        # `state`: 0 ready, 1 claimed, 2 running, 3 waiting; `until`: end of the lease, or the ETA;
        # `claims` counts how often it was claimed, so that each delivery has its own name.
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            step INTEGER NOT NULL,
            state INTEGER NOT NULL,
            until REAL NOT NULL,
            claims INTEGER NOT NULL DEFAULT 0,
            worker TEXT NOT NULL DEFAULT '',
            raw BLOB NOT NULL
        )""",
        "CREATE INDEX messages_ready ON messages (queue, step, id) WHERE state = 0",
        "CREATE INDEX messages_held ON messages (queue, until, state) WHERE state IN (1, 2)",
        "CREATE INDEX messages_waiting ON messages (queue, until) WHERE state = 3",
        """CREATE TABLE dead_letters (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            place TEXT NOT NULL,
            at REAL NOT NULL,
            reason TEXT NOT NULL,
            text TEXT NOT NULL,
            queue TEXT NOT NULL,
            raw BLOB NOT NULL
        )""",
        "CREATE INDEX dead_letters_place ON dead_letters (place, id)",
        """CREATE TABLE extra_runs (
            queue TEXT NOT NULL,
            task TEXT NOT NULL,
            cause TEXT NOT NULL,
            runs INTEGER NOT NULL,
            PRIMARY KEY (queue, task, cause)
        ) WITHOUT ROWID""",
        """CREATE TABLE reports (
            pool TEXT NOT NULL,
            worker TEXT NOT NULL,
            at REAL NOT NULL,
            report BLOB NOT NULL,
            PRIMARY KEY (pool, worker)
        ) WITHOUT ROWID""",
        """CREATE TABLE controls (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            worker TEXT NOT NULL,
            at REAL NOT NULL,
            control BLOB NOT NULL
        )""",
        "CREATE INDEX controls_worker ON controls (worker)",
        "CREATE TABLE revoked (task_id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX revoked_at ON revoked (at)",
        # `expires_at` 0: kept for ever
        """CREATE TABLE results (
            task_id TEXT PRIMARY KEY,
            document BLOB NOT NULL,
            status TEXT NOT NULL,
            retries INTEGER NOT NULL,
            expires_at REAL NOT NULL
        )""",
        "CREATE INDEX results_expiry ON results (expires_at) WHERE expires_at > 0",
    ),
    (
        # One row a scope: who leads its beats with which fencing token and until when, and the number that
        # rises with each change of its schedules. `holder` '': nobody.
        """CREATE TABLE beats (
            scope TEXT PRIMARY KEY,
            holder TEXT NOT NULL DEFAULT '',
            term INTEGER NOT NULL DEFAULT 0,
            until REAL NOT NULL DEFAULT 0,
            revision INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        """CREATE TABLE schedules (
            scope TEXT NOT NULL,
            uid TEXT NOT NULL,
            revision INTEGER NOT NULL,
            entry BLOB NOT NULL,
            PRIMARY KEY (scope, uid)
        )""",
        "CREATE INDEX schedules_revision ON schedules (scope, revision)",
        # `run`: high-water mark and record, as `muster.wire.schedule.write_run` makes them
        """CREATE TABLE schedule_runs (
            scope TEXT NOT NULL,
            uid TEXT NOT NULL,
            run BLOB NOT NULL,
            PRIMARY KEY (scope, uid)
        )""",
    ),
    (
        # what a worker said last of all that is done once however often it is said
        """CREATE TABLE sent (
            worker TEXT NOT NULL,
            token TEXT NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (worker, token)
        ) WITHOUT ROWID""",
    ),
    (
        # how far the rates for all workers are used up: `muster.core.rate.Pace`
        """CREATE TABLE rates (
            task TEXT PRIMARY KEY,
            next_start REAL NOT NULL,
            next_place REAL NOT NULL
        ) WITHOUT ROWID""",
    ),
)
"""Each entry leads from one version of the tables to the next; a new need is a new entry at the end."""


def path_of(url: str) -> Path:
    """Return the file that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises ConfigurationError.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or parts.path in {"", "/"}:
        raise ConfigurationError(
            f"{url!r} names no file: write sqlite:///relative.db or sqlite:////absolute.db"
        )
    return Path(unquote(parts.path[1:]))


class Database:
    """One connection to the file, opened when it is first needed. Thread-safe: one user at a time.

    Before this process forks, the connection is closed: SQLite's locks belong to a process, and a child that
    inherited them would think it holds what it does not. Both processes then open it again when they need it.
    """

    def __init__(self, path: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._opened = 0
        with _forking:
            _databases.add(self)

    @property
    def opened(self) -> int:
        """How often a connection was opened: what was learnt from an earlier one no longer holds."""
        return self._opened

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that no other runs beside: committed at the end, undone by an exception.

        Raises BrokerUnavailable.
        """
        with self._transaction(_begin_writing) as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a view of one moment, which disturbs no writer. Raises BrokerUnavailable."""
        with self._transaction(_begin_reading) as connection:
            yield connection

    def data_version(self) -> tuple[int, int]:
        """Return a value that differs from the last when another connection has changed the file.

        It costs a look into shared memory. Raises BrokerUnavailable.
        """
        with self._lock, self._told():
            connection = self._connect()
            version = self._patiently(lambda: connection.execute("PRAGMA data_version").fetchone()[0])
            return self._opened, version

    def close(self) -> None:
        """Close the connection. It is opened again by whoever needs it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def before_fork(self) -> None:
        """Close the connection and let nobody open one, until the fork is done."""
        self._lock.acquire()
        if self._connection is not None and not self._connection.in_transaction:
            self.close()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads that may have waited here are not in this process."""
        self._lock = threading.RLock()
        if self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None

    @contextlib.contextmanager
    def _transaction(self, begin: Callable[[sqlite3.Connection], None]) -> Iterator[sqlite3.Connection]:
        with self._lock, self._told():
            connection = self._connect()
            self._patiently(lambda: begin(connection))
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # ours to mend
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            text = f"the database file {self.path} cannot be used: {error}"
            if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                text = (
                    f"the database file {self.path} was locked for more than {self._patience_seconds:g} s: "
                    "a process that uses it is stopped, or a tool holds a transaction open"
                )
            elif code == sqlite3.SQLITE_NOTADB:
                text = f"{self.path} is not a database file of ours: name another file, or move it away"
            elif code == sqlite3.SQLITE_CANTOPEN:
                text = f"the database file {self.path} cannot be opened: does its folder exist, may we write?"
            raise (BrokerRefused if code in _REFUSALS else BrokerUnavailable)(text) from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._patiently(lambda: _open(self.path))
            self._opened += 1
        return self._connection

    def _patiently(self, action: Callable[[], _Done]) -> _Done:
        """Do something that finds the file locked while others write, again and again until it is not.

        SQLite's own waiting grows to steps of 100 ms, in which others have the file a hundred times.
        """
        give_up_at: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                give_up_at = give_up_at or now + self._patience_seconds
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or now >= give_up_at:
                    raise
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, LAST_PAUSE_SECONDS)


_REFUSALS = {
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}


def _begin_writing(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


def _begin_reading(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()  # only now the view is taken
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise


def _make(path: Path) -> None:
    """Let the file be there, its owner's alone: arguments of tasks are private.

    It is made under another name, because closing a descriptor of the database itself would end the locks
    that this process holds on it by other connections (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # SQLite says it better; one that is there by now stays as it is
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            os.link(draft, path)
        finally:
            draft.unlink()


def _open(path: Path) -> sqlite3.Connection:
    _make(path)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise BrokerRefused(
                f"the database file {path} was made by a newer Muster (tables of version {version}, "
                f"this one knows {len(MIGRATIONS)}): use that one, or another file"
            )
        if version < len(MIGRATIONS):
            _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to our version. Any number of processes may do it at the same time."""
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise BrokerRefused(f"{path} is on a file system without shared memory: use a file on a local disk")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(version, len(MIGRATIONS))}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


# -- what several owners of tables share


def store_results(connection: sqlite3.Connection, results: Iterable[StoredResult], now: float) -> None:
    """Store documents; a ready state is never replaced by another run of the same retry.

    The rule is that of `muster/wire/lua/result.lua`. A document that has expired is not there any more.
    """
    connection.executemany(
        """INSERT INTO results (task_id, document, status, retries, expires_at) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (task_id) DO UPDATE SET document = excluded.document, status = excluded.status,
            retries = excluded.retries, expires_at = excluded.expires_at
        WHERE results.status NOT IN ('SUCCESS', 'FAILURE', 'REVOKED')
            OR (results.status != 'SUCCESS' AND results.retries < excluded.retries)
            OR (results.expires_at > 0 AND results.expires_at <= ?)""",
        (
            (
                result.task_id,
                result.document,
                result.status,
                result.retries,
                now + result.expires_seconds if result.expires_seconds else 0.0,
                now,
            )
            for result in results
        ),
    )


def clean(connection: sqlite3.Connection, now: float) -> None:
    """Remove what nobody will ask for any more. Called about once a minute by each worker."""
    connection.execute("DELETE FROM reports WHERE at < ?", (now - REPORTS_KEPT_SECONDS,))
    connection.execute("DELETE FROM rates WHERE next_start < ? AND next_place < ?", (now, now))
    connection.execute("DELETE FROM sent WHERE at < ?", (now - SENT_KEPT_SECONDS,))
    connection.execute("DELETE FROM controls WHERE at < ?", (now - CONTROLS_KEPT_SECONDS,))
    connection.execute("DELETE FROM revoked WHERE at < ?", (now - WEEK_SECONDS,))
    connection.execute("DELETE FROM results WHERE expires_at > 0 AND expires_at <= ?", (now,))


# -- forks

_forking = threading.Lock()
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forked: list[Database] = []
_inherited: list[sqlite3.Connection] = []
"""Connections that a child must not have: its parent forked inside a transaction. Left as they are."""


def _before_fork() -> None:
    _forking.acquire()
    _forked[:] = _databases
    for database in _forked:
        database.before_fork()


def _after_fork_in_parent() -> None:
    for database in _forked:
        database.after_fork_in_parent()
    _forked.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    for database in _forked:
        database.after_fork_in_child()
    _forked.clear()
    _forking.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
