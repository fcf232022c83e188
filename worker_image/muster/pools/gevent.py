"""The gevent pool's process, `python -m muster.pools.gevent`: patched first, then all else is imported.

Started by `green.parent`; the only file that knows gevent. Importing it patches nothing.
"""

from collections.abc import Callable
from typing import Any, Final

import gevent
import gevent.monkey
import gevent.socket

from muster.pools.green import natives  # noqa: F401 - before anything is patched: it holds the originals


class Gevent:
    """See `muster.pools.green.child.Library`."""

    def spawn(self, function: Callable[..., None], *args: Any) -> None:
        """Run it in a greenlet of its own, soon."""
        gevent.spawn(function, *args)

    def current(self) -> Any:
        """Return the calling greenlet."""
        return gevent.getcurrent()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Callable[[], object]:
        """Have the hub call it after so many seconds. Returns what cancels that."""
        timer = gevent.get_hub().loop.timer(seconds)
        timer.start(function, update=True)  # counted from now, not from the hub's last round
        close: Callable[[], object] = timer.close
        return close

    def wait_readable(self, descriptor: int) -> None:
        """Return when there is something to read."""
        gevent.socket.wait_read(descriptor)


THREADS: Final = 100
"""So many names are looked up at once: gevent leaves each to a native thread, which is made when wanted."""

if __name__ == "__main__":
    gevent.monkey.patch_all()
    gevent.get_hub().threadpool.maxsize = THREADS

    from muster.pools.green.child import main

    main(Gevent())
