"""The ledger that tasks write by themselves, and the checker that compares it with what was sent."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the tasks that were sent."""

    sent: frozenset[str]
    lost: frozenset[str]
    """Sent and never ended."""
    duplicated: frozenset[str]
    """Ended more than once."""
    unexpected: frozenset[str]
    """Ended and never sent."""
    extra_runs: int
    """Starts beyond the first of each."""
    unfinished: frozenset[str]
    """Started and never ended."""

    def figures(self) -> dict[str, int]:
        """Return how many there are of each."""
        return {
            "sent": len(self.sent),
            "lost": len(self.lost),
            "duplicated": len(self.duplicated),
            "unexpected": len(self.unexpected),
            "extra_runs": self.extra_runs,
        }


def compare(sent: Iterable[str], starts: Counter[str], ends: Counter[str]) -> Verdict:
    """Compare what started and ended with what was sent, by task id."""
    sent = frozenset(sent)
    return Verdict(
        sent=sent,
        lost=sent - ends.keys(),
        duplicated=frozenset(task for task, count in ends.items() if count > 1),
        unexpected=frozenset(ends) - sent,
        extra_runs=sum(starts.values()) - len(starts),
        unfinished=frozenset(starts) - ends.keys(),
    )


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

    @property
    def pids(self) -> set[int]:
        """The processes that tasks have run in."""
        return {int(line.split()[2]) for line in self.path.read_text().splitlines()}

    def pid_of(self, task_id: str) -> int:
        """Return the process of the last start."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return int([line for line in lines if line[:2] == ["start", task_id]][-1][2])

    def check(self, sent: Iterable[str]) -> Verdict:
        """Compare with the ids that were sent."""
        return compare(sent, self.starts, self.ends)
