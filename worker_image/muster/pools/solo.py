"""The solo pool: one task at a time, in the main thread; the worker's loop has a thread of its own.

So a task may run for hours in C code that lets go of the interpreter's lock, and its lease is renewed.
"""

from collections.abc import Callable

from muster.pools.base import PoolSettings
from muster.pools.threads import InProcessPool


class SoloPool(InProcessPool):
    """One slot, which is whoever calls `serve`."""

    def start(self, settings: PoolSettings, notify: Callable[[], None]) -> None:
        """Get ready; `serve` runs the tasks."""
        self._begin(settings, notify)
        self.slots = 1

    def resize(self, slots: int) -> None:
        """Stay as it is: one thread is one slot, and a worker with bounds is refused."""

    def serve(self) -> None:
        """Run tasks in the calling thread until the pool is stopped."""
        self._serve()
