"""The result store on Redis, in Celery's keys: its clients read our results, and we those of its workers.

A batch of results is one script, which keeps to the rule on ready states and announces each result on the
channel that bears its key's name.
"""

import os
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

import redis

from muster.core.effects import StoredResult
from muster.redis_client import new_client, outage, place_of
from muster.results.announcements import Announcements
from muster.wire.keys import RedisKeys
from muster.wire.lua import fragment

MAX_BATCH: Final = 500
"""Results a call: a script blocks the server, and Lua cannot unpack more than some 8,000 values."""


def _script() -> str:
    return fragment("result") + files(__package__).joinpath("lua/store.lua").read_text()


class RedisResults:
    """See `muster.results.base.ResultStore`. Survives a fork: a child gets connections of its own."""

    def __init__(self, url: str, *, prefix: str = "") -> None:
        """`prefix` is Celery's `global_keyprefix` of results."""
        self._url = url
        self._place = place_of(url)
        self._keys = RedisKeys(prefix=prefix)
        self._pid = 0
        self._script = _script()
        self._sha = ""
        self._client: redis.Redis
        self._announcements: Announcements

    def _connected(self) -> redis.Redis:
        if self._pid != os.getpid():
            self._client = new_client(self._url)
            self._announcements = Announcements(self._client, self._place)
            self._pid = os.getpid()
        return self._client

    def store(self, results: Sequence[StoredResult]) -> None:
        """Store documents and announce them; each batch at once or not at all."""
        with outage(self._place):
            client = self._connected()
            for start in range(0, len(results), MAX_BATCH):
                batch = results[start : start + MAX_BATCH]
                keys = [self._keys.result(result.task_id) for result in batch]
                values = [
                    part
                    for result in batch
                    for part in (result.document, result.status, result.retries, result.expires_seconds)
                ]
                if not self._sha:
                    self._sha = str(client.script_load(self._script))
                try:
                    client.evalsha(self._sha, len(keys), *keys, *values)
                except redis.exceptions.NoScriptError:  # the server was restarted, or its scripts flushed
                    client.eval(self._script, len(keys), *keys, *values)

    def get(self, task_id: str) -> bytes | None:
        """Return a document, or None."""
        with outage(self._place):
            found: bytes | None = self._connected().get(self._keys.result(task_id))  # type: ignore[assignment]
        return found

    def wait(self, task_id: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first document in a ready state, or None when the time is over.

        Goes on through an outage that is over before `announcements.PATIENCE_SECONDS`.
        """
        self._connected()
        return self._announcements.wait(self._keys.result(task_id), timeout_seconds)

    def forget(self, task_id: str) -> None:
        """Remove a document."""
        with outage(self._place):
            self._connected().delete(self._keys.result(task_id))

    def close(self) -> None:
        """Give up the connections."""
        if self._pid == os.getpid():
            self._announcements.close()
            self._client.close()
        self._pid = 0
