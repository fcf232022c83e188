"""What a beat has done and does, as plain numbers: written by its loop, read by its metrics."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

LAG_BUCKETS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
"""Upper bounds in seconds; 2 s and 10 s are what taking over costs after a good end and after a kill."""


@dataclass(kw_only=True)
class Tally:
    """Counts since the start. Labels are (queue, task)."""

    leads: bool = False
    schedules: int = 0
    refused: int = 0
    """Schedules that cannot be ticked as they stand."""
    ticks: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    lag_counts: list[int] = field(default_factory=lambda: [0] * (len(LAG_BUCKETS) + 1))
    lag_sum_seconds: float = 0.0

    def ticked(self, queue: str, task: str, lag_seconds: float) -> None:
        """Count a tick that the broker has, `lag_seconds` after its due time."""
        self.ticks[queue, task] += 1
        self.lag_counts[bisect_left(LAG_BUCKETS, lag_seconds)] += 1
        self.lag_sum_seconds += max(0.0, lag_seconds)
