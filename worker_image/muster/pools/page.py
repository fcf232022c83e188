"""Pages of memory that a child shares with the parent: what it does, without a message for it.

`Page` is a prefork child's: two words around each job, which the parent reads when it must know (time limits,
a dead child, reports). `Pulse` is that of a process of greenlets. Each word is written in one store.
"""

import mmap
import os
import tempfile
import time

_SIZE = mmap.PAGESIZE


def new_page_file() -> int:
    """Return a descriptor of an anonymous file, one page long, to be mapped by both."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("muster-page")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE)
    return descriptor


class Page:
    """The mapped page. `job` is the number of the running job, 0 for none."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._map).cast("q")

    def begin(self, job: int) -> None:
        """Say that a job starts now."""
        self._words[1] = time.monotonic_ns()
        self._words[0] = job

    def end(self) -> None:
        """Say that no job runs."""
        self._words[0] = 0

    @property
    def job(self) -> int:
        """Number of the job that runs, 0 for none."""
        return self._words[0]

    def age_seconds(self) -> float:
        """Return how long the job has been running. The monotonic clock is one for all processes."""
        return (time.monotonic_ns() - self._words[1]) / 1e9

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()


class Pulse:
    """The page of a process whose tasks share one hub: whether that comes round, and who keeps it if not.

    The hub writes at each of its rounds, a native thread beside it each time it has looked at the hub. The
    parent reads: where both are still, nothing in that process runs.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._map).cast("q")
        self.beat()
        self.looked(0)

    def beat(self) -> None:
        """Say that the hub has come round."""
        self._words[0] = time.monotonic_ns()

    def looked(self, holder: int) -> None:
        """Say that the thread has looked, and which job keeps the hub: 0 for none that is known."""
        self._words[2] = holder
        self._words[1] = time.monotonic_ns()

    @property
    def beaten(self) -> float:
        """When the hub came round last. The monotonic clock is one for all processes."""
        return self._words[0] / 1e9

    @property
    def looked_at(self) -> float:
        """When the thread looked last."""
        return self._words[1] / 1e9

    @property
    def holder(self) -> int:
        """Number of the job that kept the hub then, 0 for none that is known."""
        return self._words[2]

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
