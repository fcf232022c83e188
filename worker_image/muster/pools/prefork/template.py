"""The template: imports the application once, forks the children from it, tells the parent when one dies.

Single-threaded, so that forking is safe, and without a broker connection. It lives as long as its parent:
the kernel ends it with the parent, and the children with it.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import Final, NoReturn

import msgspec

from muster.errors import ConfigurationError
from muster.pools.base import Loaded, LoadExecutor
from muster.pools.frames import Reader, send
from muster.pools.page import Page
from muster.pools.prefork.child import Child
from muster.pools.processes import die_with_parent, do_nothing

GREETING, FAILED, EXITED = b"G", b"F", b"X"

LEAVE_SECONDS: Final = 0.8


class Fork(msgspec.Struct, array_like=True):
    """The parent asks for a child; the descriptors of its two socket ends and its page come along."""

    child: int


class Exited(msgspec.Struct, array_like=True):
    """A child is gone, with this wait status. `pid` 0: it was just born, `status` is its pid."""

    child: int
    pid: int
    status: int


class Template:
    """The template's loop over its control socket."""

    def __init__(self, control: socket.socket, loaded: Loaded) -> None:
        self._control = control
        self._reader = Reader(control)
        self._loaded = loaded
        self._children: dict[int, int] = {}
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, do_nothing)

    def run(self) -> None:
        """Fork on request and report deaths, until the parent hangs up."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                selector.select()
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
                if not self._serve():
                    self._end_children()
                    return

    def _end_children(self) -> None:
        """Give idle children, which have been hung up on as well, a moment to leave by themselves."""
        until = time.monotonic() + LEAVE_SECONDS
        while self._children and time.monotonic() < until:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake, selectors.EVENT_READ)
                selector.select(until - time.monotonic())
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            self._reap()
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _serve(self) -> bool:
        while True:
            try:
                received = self._reader.receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            if received is None:
                return False
            frame, descriptors = received
            self._fork(msgspec.msgpack.decode(frame, type=Fork).child, *descriptors)

    def _fork(self, child: int, end: int, asks: int, page: int) -> None:
        template = os.getpid()
        pid = os.fork()
        if not pid:
            self._become_child(template, end, asks, page)
        for descriptor in (end, asks, page):
            os.close(descriptor)
        self._children[pid] = child
        send(self._control, EXITED + msgspec.msgpack.encode(Exited(child, 0, pid)))

    def _become_child(self, template: int, end: int, asks: int, page: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(template)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            ends = socket.socket(fileno=end), socket.socket(fileno=asks)
            Child(*ends, Page(page), self._loaded).run()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        except BaseException:  # noqa: BLE001 - this is the process's last line
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:  # else a process that the application itself started
                # a parent that has hung up asks no more; `run` sees that, and waits for the other children
                with contextlib.suppress(ConnectionError):
                    send(self._control, EXITED + msgspec.msgpack.encode(Exited(child, pid, status)))


def main(control: socket.socket, load: LoadExecutor, parent: int) -> NoReturn:
    """Be the template; never returns. Runs in a process just forked from the parent."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, do_nothing)
    signal.signal(signal.SIGTERM, do_nothing)
    code = 1
    try:
        loaded = load()
        gc.collect()
        gc.freeze()  # what was imported stays shared between the children
        send(control, GREETING + loaded.greeting)
        Template(control, loaded).run()
        code = 0
    except ConfigurationError as error:
        send(control, FAILED + str(error).encode())
    except ConnectionError:
        code = 0  # the parent has hung up
    except BaseException as error:  # noqa: BLE001 - this is the process's last line
        traceback.print_exc()
        send(control, FAILED + f"the application cannot be loaded: {error!r}; see above where".encode())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
