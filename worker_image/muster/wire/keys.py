"""Names of the places on Redis: Celery's own and Muster's. Nowhere else is a key spelled.

Called by the Redis transport, results, beat and the operator's readers. Celery's names and the order of
priorities are kombu's (`transport/redis.py`): priority 0 is served first, each queue has one list per
step, and the base list is step 0.
"""

from bisect import bisect_right
from typing import Final

import msgspec

PRIORITY_STEPS: Final = (0, 3, 6, 9)
SEPARATOR: Final = "\x06\x16"
RESERVED_PREFIXES: Final = ("muster.", "unacked", "_kombu.", "celery-task-meta-", "celery-taskset-meta-")
"""A queue may not begin with these: its list would be one of our own or Celery's keys."""


def priority_step(priority: int | None) -> int:
    """Return the step that a message of this priority waits in: the highest one not above it."""
    if not priority or priority < 0:
        return 0
    return PRIORITY_STEPS[bisect_right(PRIORITY_STEPS, priority) - 1]


class RedisKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Every key of one broker database. `prefix` is Celery's `global_keyprefix`."""

    prefix: str = ""
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"

    @property
    def unacked(self) -> str:
        """Hash tag → JSON `[message, exchange, routing key]` of every message in some worker's hands."""
        return self.prefix + self.unacked_key

    @property
    def unacked_index(self) -> str:
        """Sorted set of tags by the time of their claim; Celery's workers restore the old ones."""
        return self.prefix + self.unacked_index_key

    def queue(self, name: str, step: int = 0) -> str:
        """List of the waiting messages of one priority step; the right end is next."""
        return f"{self.prefix}{name}{SEPARATOR}{step}" if step else self.prefix + name

    def queues(self, name: str) -> list[str]:
        """The lists of all steps, first served first."""
        return [self.queue(name, step) for step in PRIORITY_STEPS]

    def claimed(self, name: str) -> str:
        """Sorted set of tags prefetched and not yet started, by lease deadline (Redis TIME, seconds)."""
        return f"{self.prefix}muster.claimed.{name}"

    def running(self, name: str) -> str:
        """Sorted set of tags handed to a pool, by lease deadline (Redis TIME, seconds)."""
        return f"{self.prefix}muster.running.{name}"

    def eta(self, name: str) -> str:
        """Sorted set of tags that wait for their time, by that time (Unix seconds)."""
        return f"{self.prefix}muster.eta.{name}"

    def dead(self, dead_letter: str) -> str:
        """Stream of dead letters: fields `reason`, `text`, `queue`, `message`."""
        return self.prefix + dead_letter

    def served(self, name: str) -> str:
        """Present while some Muster worker has consumed this queue in the last week."""
        return f"{self.prefix}muster.served.{name}"

    def control(self, worker: str) -> str:
        """List of control messages for one worker, the left end is the oldest."""
        return f"{self.prefix}muster.control.{worker}"

    def reports(self, pool: str) -> str:
        """Hash worker id → `<Redis TIME seconds> <report JSON>` of one pool."""
        return f"{self.prefix}muster.reports.{pool}"

    def rate(self, task: str) -> str:
        """Hash `next_start`, `next_place` (Redis TIME, s): how far a rate for all workers is used up."""
        return f"{self.prefix}muster.rate.{task}"

    def sent(self, worker: str) -> str:
        """Set of what a worker said last of all that is done once however often it is said."""
        return f"{self.prefix}muster.sent.{worker}"

    @property
    def revoked(self) -> str:
        """Sorted set of revoked task ids by the time of the call (Redis TIME, seconds)."""
        return self.prefix + "muster.revoked"

    @property
    def extra_runs(self) -> str:
        """Hash JSON `[queue, task, cause]` → number of starts beyond the first."""
        return self.prefix + "muster.extra_runs"

    def beat(self, scope: str) -> str:
        """Hash of one scope's beats: `holder` leads with the fencing token `term`, by a lease `until`.

        Times are Redis TIME, seconds. Its `revision` rises with each change of the scope's entries.
        """
        return f"{self.prefix}muster.beat.{scope}"

    def schedules(self, scope: str) -> str:
        """Hash uid → entry of one schedule (`muster.wire.schedule.ScheduleEntry`, JSON)."""
        return f"{self.prefix}muster.schedules.{scope}"

    def schedule_revisions(self, scope: str) -> str:
        """Sorted set of the uids of the scope by the revision at which the entry was written."""
        return f"{self.prefix}muster.schedule_revisions.{scope}"

    def schedule_runs(self, scope: str) -> str:
        """Hash uid → high-water mark and record, as `muster.wire.schedule.write_run` makes them."""
        return f"{self.prefix}muster.schedule_runs.{scope}"

    def result(self, task_id: str) -> str:
        """Result document of a task; also the channel on which it is announced."""
        return f"{self.prefix}celery-task-meta-{task_id}"
