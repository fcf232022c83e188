"""A page of memory that a child shares with the parent: which job it runs, and since when.

The child writes two words around each job; the parent reads them when it must know (time limits, a dead
child, reports), so a job's start costs no message. Each word is written in one store.
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
