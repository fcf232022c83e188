"""What a worker has counted: plain numbers that the loop raises and reports and metrics read.

The loop's thread alone writes; other threads read whole numbers, which is safe without a lock.
"""

from bisect import bisect_left
from typing import Final

BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the runtime histogram, seconds."""


class TaskTally:
    """Counts of one task in one queue since the worker started."""

    __slots__ = (
        "buckets",
        "expired",
        "extra",
        "failed",
        "lost",
        "rate_limited",
        "rejected",
        "retried",
        "runtime",
        "succeeded",
    )

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.retried = 0
        self.rejected = 0
        self.expired = 0
        self.lost = 0
        self.rate_limited = 0
        self.runtime = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.extra: dict[str, int] = {}
        """Starts beyond the first, by cause."""

    def ran(self, state: str, runtime_seconds: float) -> None:
        """Count one ended run."""
        if state == "SUCCESS":
            self.succeeded += 1
        elif state == "FAILURE":
            self.failed += 1
        elif state == "RETRY":
            self.retried += 1
        else:
            self.rejected += 1
        self.runtime += runtime_seconds
        self.buckets[bisect_left(BUCKETS, runtime_seconds)] += 1


class Tally:
    """All counts of one worker."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, str], TaskTally] = {}
        """(queue, task) → counts."""
        self.taken: dict[str, int] = {}
        """Queue → messages that came into our hands."""
        self.dead: dict[tuple[str, str], int] = {}
        """(queue, reason) → dead letters."""

    def task(self, queue: str, task: str) -> TaskTally:
        """Return the counts of a task, new ones at first sight."""
        found = self.tasks.get((queue, task))
        if found is None:
            found = self.tasks[queue, task] = TaskTally()
        return found

    def buried(self, queue: str, reason: str) -> None:
        """Count one dead letter."""
        self.dead[queue, reason] = self.dead.get((queue, reason), 0) + 1
