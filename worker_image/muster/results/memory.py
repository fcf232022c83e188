"""The result store inside one process: for tests and for the simulation. It survives nothing.

The rule that a ready state stays is that of `muster/wire/lua/result.lua`.
"""

import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from muster.core.effects import StoredResult
from muster.wire.result import READY_STATES


class _Kept(msgspec.Struct, frozen=True):
    result: StoredResult
    expires_at: float


def _stays(known: StoredResult, new: StoredResult) -> bool:
    """Whether what stands there is not replaced."""
    if known.status not in READY_STATES:
        return False
    return known.status == "SUCCESS" or known.retries >= new.retries


class MemoryResults:
    """See `muster.results.base.ResultStore`. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[str, _Kept] = {}

    def store(self, results: Sequence[StoredResult]) -> None:
        """Store documents and tell those who wait for them."""
        with self._changed:
            now = self._clock()
            for result in results:
                known = self._find(result.task_id, now)
                if known is not None and _stays(known, result):
                    continue
                expires_at = now + result.expires_seconds if result.expires_seconds else 0.0
                self._kept[result.task_id] = _Kept(result, expires_at)
            self._changed.notify_all()

    def _find(self, task_id: str, now: float) -> StoredResult | None:
        kept = self._kept.get(task_id)
        if kept is None or 0 < kept.expires_at <= now:
            self._kept.pop(task_id, None)
            return None
        return kept.result

    def get(self, task_id: str) -> bytes | None:
        """Return a document, or None."""
        with self._changed:
            found = self._find(task_id, self._clock())
            return None if found is None else found.document

    def _ready(self, task_id: str) -> bytes | None:
        found = self._find(task_id, self._clock())
        return found.document if found is not None and found.status in READY_STATES else None

    def wait(self, task_id: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first document in a ready state, or None when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ready(task_id), timeout_seconds)

    def forget(self, task_id: str) -> None:
        """Remove a document."""
        with self._changed:
            self._kept.pop(task_id, None)

    def close(self) -> None:
        """Nothing to give up."""
