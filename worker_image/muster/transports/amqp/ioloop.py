"""The I/O loop that pika is given: one that goes round once when somebody asks, and never by itself.

Lines are driven by it. Its descriptor stays the same whatever connections come and go, so a worker's own
loop can wait for it beside all else. It is what pika calls a selector-based I/O loop
(`pika.adapters.utils.selector_ioloop_adapter.AbstractSelectorIOLoop`), but for `start` and `stop`, which
are for who lets it run; and it knows nothing of AMQP.
"""

import contextlib
import heapq
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_MOST_EVENTS: Final = 16


class _Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback


class OnDemandLoop:
    """See the module. For one thread, but for `add_callback`."""

    READ = select.EPOLLIN
    WRITE = select.EPOLLOUT
    ERROR = select.EPOLLERR

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int, int], object]] = {}
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._callbacks: deque[Callable[[], object]] = deque()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self.add_handler(self._wake_reader.fileno(), self._woken, self.READ)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `go_round` has something to do at once."""
        return self._epoll.fileno()

    def go_round(self, seconds: float) -> None:
        """Do what there is to do, waiting no longer than so for the first of it."""
        if self._callbacks:
            seconds = 0.0
        elif self._timers:
            seconds = min(seconds, max(0.0, self._timers[0][0] - time.monotonic()))
        for descriptor, events in self._epoll.poll(seconds, _MOST_EVENTS):
            handler = self._handlers.get(descriptor)  # another one may have taken it away
            if handler is not None:
                ended = self.READ if events & select.EPOLLHUP else 0  # the end is heard by reading
                handler(descriptor, events | ended)
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    # what pika calls

    def call_later(self, delay: float, callback: Callable[..., Any]) -> object:
        """Call it once, after so many seconds."""
        timer = _Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), timer))
        return timer

    def remove_timeout(self, timeout_handle: Any) -> None:
        """Do not call it."""
        timeout_handle.callback = None

    def add_callback(self, callback: Callable[..., Any]) -> None:
        """Call it in the loop's own thread, soon. Safe from any thread: names are looked up in one."""
        self._callbacks.append(callback)
        with contextlib.suppress(OSError):  # it is full, so it wakes; or closed, so nobody is there
            self._wake_writer.send(b".")

    def _woken(self, _descriptor: int, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Call `handler` when something happens on a descriptor."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def update_handler(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self._epoll.modify(fd, events)

    def remove_handler(self, fd: int) -> None:
        """Watch it no more."""
        del self._handlers[fd]
        with contextlib.suppress(OSError):  # closed already
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Give up the descriptors."""
        self._handlers.clear()
        self._epoll.close()
        self._wake_reader.close()
        self._wake_writer.close()
