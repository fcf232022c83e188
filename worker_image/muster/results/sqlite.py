"""The result store in the embedded database: results of `muster dev`, and of whoever has no server.

Processes that wait look often at first and then ever more seldom: a look is a read of shared memory
(`PRAGMA data_version`), and only a change of the file leads to a query.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from muster.core.effects import StoredResult
from muster.embedded import Database, path_of, store_results
from muster.wire.result import READY_STATES

FIRST_LOOK_SECONDS: Final = 0.001
LAST_LOOK_SECONDS: Final = 0.02


class SQLiteResults:
    """See `muster.results.base.ResultStore`."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        """Raise ConfigurationError for a URL that names no file."""
        self._database = Database(path_of(url))
        self._clock = clock
        self._stored = 0

    def store(self, results: Sequence[StoredResult]) -> None:
        """Store documents in one transaction."""
        with self._database.writing() as connection:
            store_results(connection, results, self._clock())
        self._stored += 1  # our own connection's changes do not show in its data_version

    def _find(self, task_id: str) -> tuple[bytes, str] | None:
        with self._database.reading() as connection:
            found: tuple[bytes, str] | None = connection.execute(
                """SELECT document, status FROM results
                WHERE task_id = ? AND (expires_at = 0 OR expires_at > ?)""",
                (task_id, self._clock()),
            ).fetchone()
        return found

    def get(self, task_id: str) -> bytes | None:
        """Return a document, or None."""
        found = self._find(task_id)
        return None if found is None else found[0]

    def wait(self, task_id: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first document in a ready state, or None when the time is over."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        seen: object = None
        pause = FIRST_LOOK_SECONDS
        while True:
            version = (self._database.data_version(), self._stored)
            if version != seen:
                found = self._find(task_id)
                if found is not None and found[1] in READY_STATES:
                    return found[0]
                seen = version
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, LAST_LOOK_SECONDS)

    def forget(self, task_id: str) -> None:
        """Remove a document."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM results WHERE task_id = ?", (task_id,))

    def close(self) -> None:
        """Give up the connection."""
        self._database.close()
