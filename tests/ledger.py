"""The ledger that tasks write by themselves, and the checker that compares it with what was sent."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the tasks that were sent."""

    lost: frozenset[str]
    """Sent and never ended."""
    unexpected: frozenset[str]
    """Ended and never sent."""
    extra_runs: int
    """Starts beyond the first of each."""
    unfinished: frozenset[str]
    """Started and never ended."""


class Ledger:
    """Starts and ends by task id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _count(self, what: str) -> Counter:
        if not self.path.exists():
            return Counter()
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return Counter(line[1] for line in lines if line[0] == what)

    @property
    def starts(self) -> Counter:
        return self._count("start")

    @property
    def ends(self) -> Counter:
        return self._count("end")

    @property
    def started_at(self) -> dict[str, float]:
        """When each task started last, in monotonic seconds."""
        lines = [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return {line[1]: float(line[3]) for line in lines if line[0] == "start"}

    def pid_of(self, task_id: str) -> int:
        """Return the process of the last start."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return int([line for line in lines if line[:2] == ["start", task_id]][-1][2])

    def check(self, sent) -> Verdict:
        """Compare with the ids that were sent."""
        starts, ends = self.starts, self.ends
        sent = frozenset(sent)
        return Verdict(
            lost=sent - ends.keys(),
            unexpected=frozenset(ends) - sent,
            extra_runs=sum(starts.values()) - len(starts),
            unfinished=frozenset(starts) - ends.keys(),
        )
