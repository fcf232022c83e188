"""The eventlet pool's process, `python -m muster.pools.eventlet`: patched first, then all else is imported.

Started by `green.parent`; the only file that knows eventlet. Importing it patches nothing.
"""

from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.hubs

from muster.pools.green import natives  # noqa: F401 - before anything is patched: it holds the originals


class Eventlet:
    """See `muster.pools.green.child.Library`."""

    def spawn(self, function: Callable[..., None], *args: Any) -> None:
        """Run it in a greenlet of its own, soon."""
        eventlet.spawn_n(function, *args)

    def current(self) -> Any:
        """Return the calling greenlet."""
        return eventlet.getcurrent()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Callable[[], object]:
        """Have the hub call it after so many seconds. Returns what cancels that."""
        cancel: Callable[[], object] = eventlet.hubs.get_hub().schedule_call_global(seconds, function).cancel
        return cancel

    def wait_readable(self, descriptor: int) -> None:
        """Return when there is something to read."""
        eventlet.hubs.trampoline(descriptor, read=True)


if __name__ == "__main__":
    eventlet.monkey_patch()

    from muster.pools.green.child import main

    main(Eventlet())
