"""The parent's side of the gevent and eventlet pools: it runs no user code, and nothing in it is patched.

All jobs run in one process, a new interpreter (`green.child`), which starts each at once: so it is given no
more than there are slots, and what it has not read, because a task keeps its hub, is taken back. Those that
must be alone run one at a time in processes of their own, made when they are wanted. A process that is lost
is replaced while the loop goes on; it is killed where a hard limit cannot be kept otherwise.
"""

import contextlib
import importlib.util
import logging
import os
import pickle
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from muster.core import stall
from muster.errors import ConfigurationError
from muster.pools.base import (
    Event,
    Job,
    LoadExecutor,
    Lost,
    Outcome,
    PoolBroken,
    PoolSettings,
    Publish,
    Returned,
    Running,
    Started,
)
from muster.pools.frames import Reader, pair, send
from muster.pools.green import child as child_process
from muster.pools.page import Pulse, new_page_file
from muster.pools.processes import death, reap_orphans

logger = logging.getLogger("muster.worker")

CHECK_SECONDS: Final = 1.0
HELD_CHECK_SECONDS: Final = 0.1
"""How soon to see whether a hub that is kept comes round again."""
KILL_SECONDS: Final = 0.5
"""How long the end of killed processes is waited for; one that is in the kernel so long runs no more code."""
LEAVE_SECONDS: Final = 0.8
"""How long an idle process may take to leave when it is hung up on."""
ALONE: Final = 4
"""So many processes at most run jobs that must be alone."""
ALONE_IDLE_SECONDS: Final = 30.0
"""A process for those is ended when it had none for so long."""

_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_started = msgspec.msgpack.Decoder(Started).decode
_decode_lost = msgspec.msgpack.Decoder(Lost).decode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_request = msgspec.msgpack.Decoder(child_process.Request).decode
_encode = msgspec.msgpack.Encoder().encode


class _Given(msgspec.Struct):
    """A job that was handed over, and when."""

    job: Job
    at: float


class _Child:
    """The parent's view of one process. `alone`: it is for jobs that must be alone."""

    def __init__(self, library: str, load: bytes, *, alone: bool) -> None:
        self.alone = alone
        self.end, self.their_end = pair()
        self.asks, theirs = pair()
        descriptor = new_page_file()
        passed = (self.their_end.fileno(), theirs.fileno(), descriptor)
        try:
            # -P: it takes over our own sys.path, and must not find somebody's threading.py before it has
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    *(sys.executable, "-P", "-m", f"muster.pools.{library}"),
                    *map(str, (os.getpid(), *passed)),
                ],
                pass_fds=passed,
            )
        except OSError:
            for end in (self.end, self.their_end, self.asks):
                end.close()
            raise
        finally:
            theirs.close()
            self.pulse = Pulse(descriptor)
            os.close(descriptor)
        self.pidfd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # then it is asked for once a second
                self.pidfd = os.pidfd_open(self.process.pid)
        self.reader = Reader(self.end)
        self.thief = Reader(self.their_end)
        self.requests = Reader(self.asks)
        self.end.setblocking(False)
        self.ready = False
        self.full = False
        """Its socket takes no more for now."""
        self.jobs: dict[int, _Given] = {}
        """Handed over and not reported, in order."""
        self.finished = 0
        self.idle_since = time.monotonic()
        self.killed_for: frozenset[int] = frozenset()
        with contextlib.suppress(ConnectionError):  # it is dead already: that is told by others
            send(self.asks, _encode(child_process.Preparation(sys.path, sys.argv, load)))

    @property
    def held(self) -> bool:
        """Whether its hub does not come round."""
        return self.ready and time.monotonic() - self.pulse.beaten >= stall.HELD_SECONDS

    def give(self, job: Job) -> bool:
        """Hand a job over. Returns whether it could be."""
        try:
            send(self.end, _encode(job))
        except BlockingIOError:
            self.full = True
            return False
        except ConnectionError:
            return False  # it is dying
        self.jobs[job.number] = _Given(job, time.monotonic())
        return True

    def steal(self) -> list[Job]:
        """Take back what it has not read."""
        jobs: list[Job] = []
        with contextlib.suppress(BlockingIOError):
            while (received := self.thief.receive(socket.MSG_DONTWAIT)) is not None:
                job = _decode_job(received[0])
                self.jobs.pop(job.number, None)
                jobs.append(job)
        return jobs

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        for end in (self.end, self.their_end, self.asks):
            end.close()
        self.pulse.close()


class GreenPool:
    """See `muster.pools.base.Pool`. `library` is gevent or eventlet; `load` must be picklable."""

    isolates = True

    def __init__(self, load: LoadExecutor, library: str) -> None:
        self.slots = 0
        self._library = library
        self._load = pickle.dumps(load)
        self._selector = selectors.DefaultSelector()
        self._common: _Child | None = None
        self._singles: list[_Child] = []
        self._backlog: deque[Job] = deque()
        self._lonely: deque[Job] = deque()
        """Those that must be alone."""
        self._events: list[Event] = []
        self._asked: dict[int, tuple[_Child, int]] = {}
        """Token of a `Publish` → who asked, and the number of its request."""
        self._next_token = 1
        self._leaving: list[subprocess.Popen[bytes]] = []
        """Processes that were hung up on."""
        self._early_deaths = 0
        self._hire_at = 0.0
        self._stopping = False

    # the processes

    def load(self) -> bytes:
        """Start the process and wait for the application's greeting."""
        if importlib.util.find_spec(self._library) is None:
            raise ConfigurationError(
                f"the pool {self._library} needs the package {self._library}, which is not installed here: "
                f"pip install 'muster-tasks[{self._library}]'"
            )
        child = self._common = self._hire(alone=False)
        received = child.requests.receive()
        if received is not None and received[0][:1] == child_process.GREETING:
            child.ready = True
            return received[0][1:]
        status = child.process.wait()
        self.stop()
        if received is None:
            raise ConfigurationError(f"the application ended while it was being imported: {_how(status)}")
        raise ConfigurationError(received[0][1:].decode())

    def _hire(self, *, alone: bool) -> _Child:
        try:
            child = _Child(self._library, self._load, alone=alone)
        except OSError as error:
            raise PoolBroken(f"no process can be started for the {self._library} pool: {error}") from error
        register = self._selector.register
        register(child.end, selectors.EVENT_READ, partial(self._read, child))
        register(child.asks, selectors.EVENT_READ, partial(self._read_requests, child))
        if child.pidfd >= 0:
            register(child.pidfd, selectors.EVENT_READ, partial(self._look_after, child))
        return child

    def start(self, settings: PoolSettings, notify: Callable[[], None]) -> None:  # noqa: ARG002 - has a fileno
        """Begin to run jobs; the process is there."""
        assert self._common is not None
        self.slots = settings.slots
        self._common.asks.setblocking(False)

    def _children(self) -> list[_Child]:
        return [*([] if self._common is None else [self._common]), *self._singles]

    def _fill(self) -> float:
        """Make the processes that are missing. Returns the seconds until it is to be called again."""
        now = time.monotonic()
        if self._stopping:
            return CHECK_SECONDS
        if now < self._hire_at:
            return self._hire_at - now
        if self._common is None:
            self._common = self._hire(alone=False)
            self._common.asks.setblocking(False)
        wanted = self._lonely and all(child.jobs for child in self._singles)  # else one is free or coming up
        if wanted and len(self._singles) < min(ALONE, self.slots):
            single = self._hire(alone=True)
            single.asks.setblocking(False)
            self._singles.append(single)
        for child in [*self._singles]:
            if not (child.jobs or self._lonely) and now - child.idle_since >= ALONE_IDLE_SECONDS:
                self._dismiss(child)
        return CHECK_SECONDS

    def _dismiss(self, child: _Child) -> None:
        """Hang up on an idle process, which then ends."""
        self._forget(child)
        child.close()
        self._leaving.append(child.process)

    def _forget(self, child: _Child) -> None:
        for what in (child.end, child.asks, child.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(what)
        if child is self._common:
            self._common = None
        else:
            self._singles.remove(child)

    def _look_after(self, child: _Child) -> None:
        if child.process.poll() is not None and child in self._children():
            self._bury(child)

    def _bury(self, child: _Child) -> None:
        """See to the end of a process: what it had finished, what it was at, what it had not begun."""
        self._read(child)
        self._read_requests(child)
        self._take_back(child)
        how = _how(child.process.wait())
        for given in child.jobs.values():
            job = given.job
            if job.number in child.killed_for:
                text = f"the hard time limit of {job.hard_limit:g} s is over: its process was killed"
            elif child.killed_for:
                text = (
                    "its process was killed because of another task, which kept it beyond a hard time limit"
                )
            else:
                text = f"its process ended: {how}"
            self._events.append(Lost(job.number, text, job.number in child.killed_for))
        self._asked = {token: (by, n) for token, (by, n) in self._asked.items() if by is not child}
        self._forget(child)
        child.close()
        if self._stopping:
            return
        if not child.ready:
            raise PoolBroken(
                f"a process of the {self._library} pool ended while it imported the application: {how}; "
                "the worker must start anew"
            )
        # one that dies at once would be made again and again: each time a little later
        if child.finished or child.jobs:
            self._early_deaths = 0
        else:
            self._early_deaths += 1
            self._hire_at = time.monotonic() + min(10.0, 0.1 * 2**self._early_deaths)
        self._fill()

    # jobs

    def resize(self, slots: int) -> None:
        """Have so many slots: a number, by which jobs are handed over."""
        self.slots = slots
        self._dispatch()

    def room(self, depth: int) -> int:
        """Return how many more jobs may be submitted: none while nothing gets on.

        Jobs that must be alone take half of the room at most, so that they do not keep the others out.
        """
        common = self._common
        if common is None or not common.ready or common.held:
            return 0
        alone = len(self._lonely) + sum(len(child.jobs) for child in self._singles)
        taken = len(common.jobs) + len(self._backlog) + min(alone, max(1, self.slots // 2))
        return max(0, depth * self.slots - taken)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs over as there are slots; the others wait here."""
        for job in jobs:
            (self._lonely if job.alone else self._backlog).append(job)
        if self._lonely:
            self._fill()
        self._dispatch()

    def _dispatch(self) -> None:
        if self._stopping:
            return
        free = self.slots - sum(len(child.jobs) for child in self._children())
        for child in self._singles:
            if free > 0 and self._lonely and child.ready and not child.jobs and child.give(self._lonely[0]):
                self._lonely.popleft()
                free -= 1
        common, backlog = self._common, self._backlog
        if common is None or not common.ready:
            return
        was_full, common.full = common.full, False
        if not common.held:
            while backlog and free > 0 and common.give(backlog[0]):
                backlog.popleft()
                free -= 1
        if common.full != was_full:  # there is room in its socket again when it has read
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if common.full else 0)
            with contextlib.suppress(KeyError):  # it is dying
                self._selector.modify(common.end, events, partial(self._read, common))

    def _take_back(self, child: _Child) -> None:
        jobs = child.steal()
        (self._lonely if child.alone else self._backlog).extendleft(reversed(jobs))

    def collect(self) -> Sequence[Event]:
        """Read what the processes have sent."""
        self._read_all(0)
        if self._backlog or self._lonely or (self._common is not None and self._common.full):
            self._dispatch()
        events, self._events = self._events, []
        return events

    def fileno(self) -> int | None:
        """Return the selector's own descriptor: readable when any process has something to say."""
        return self._selector.fileno()

    def _read_all(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def _frames(self, child: _Child, end: socket.socket, reader: Reader) -> Iterator[bytes]:
        """Yield what has come from a process by one of its two ways."""
        while child in self._children():  # else it was buried a moment ago
            try:
                received = reader.receive()
            except (BlockingIOError, ConnectionError):
                return
            if received is None:  # it is dead, or about to be: that is told by others
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                return
            yield received[0]

    def _read(self, child: _Child) -> None:
        for frame in self._frames(child, child.end, child.reader):
            kind, content = frame[:1], frame[1:]
            if kind == child_process.OUTCOME:
                outcome = _decode_outcome(content)
                self._done(child, outcome, outcome.number)
            elif kind == child_process.STARTED:
                self._events.append(_decode_started(content))
            elif kind == child_process.LOST:
                lost = _decode_lost(content)
                self._done(child, lost, lost.number)
            else:
                logger.warning("%s", content.decode())

    def _done(self, child: _Child, event: Outcome | Lost, number: int) -> None:
        if child.jobs.pop(number, None) is None:
            return
        self._events.append(event)
        child.finished += 1
        if not child.jobs:
            child.idle_since = time.monotonic()

    def _read_requests(self, child: _Child) -> None:
        for frame in self._frames(child, child.asks, child.requests):
            kind, content = frame[:1], frame[1:]
            if kind == child_process.REQUEST:
                request = _decode_request(content)
                self._asked[self._next_token] = child, request.number
                self._events.append(Publish(self._next_token, request.publications))
                self._next_token += 1
            elif kind == child_process.GREETING:
                child.ready = True
                self._dispatch()
                self._fill()
            elif not self._stopping:
                raise PoolBroken(
                    f"a new process of the {self._library} pool does not come up: {content.decode()}"
                )

    def published(self, tokens: Sequence[int], error: str) -> None:
        """Answer those that wait for a publication."""
        answered: dict[int, tuple[_Child, list[int]]] = {}
        for token in tokens:
            if token in self._asked:  # else its process is gone
                child, number = self._asked.pop(token)
                answered.setdefault(id(child), (child, []))[1].append(number)
        for child, numbers in answered.values():
            with contextlib.suppress(OSError):  # it is dying
                send(child.asks, _encode(child_process.Answer(numbers, error)))

    def running(self) -> Sequence[Running]:
        """Return what was handed over and is not reported."""
        now = time.monotonic()
        return [Running(n, now - given.at) for child in self._children() for n, given in child.jobs.items()]

    def recall(self) -> None:
        """Take back everything that has not begun."""
        for child in self._children():
            self._take_back(child)
        self._events.extend(Returned(job.number) for job in (*self._lonely, *self._backlog))
        self._lonely.clear()
        self._backlog.clear()
        self._dispatch()  # nothing waits for room in a socket any more

    # what keeps it in order

    def check(self) -> float:
        """Enforce the limits that a process cannot, replace what died."""
        now = time.monotonic()
        again = CHECK_SECONDS
        for child in self._children():
            if child.held:
                self._see_to(child, now)
                again = HELD_CHECK_SECONDS
            if child.pidfd < 0:
                self._look_after(child)
        self._leaving = [process for process in self._leaving if process.poll() is None]
        again = min(again, self._fill())
        self._dispatch()
        ours = (*(child.process for child in self._children()), *self._leaving)
        reap_orphans(frozenset(process.pid for process in ours))
        return again

    def _see_to(self, child: _Child, now: float) -> None:
        """Take back what a held process has not read, and kill it if a limit can be kept by nothing else."""
        self._take_back(child)
        if child.killed_for:
            return
        pulse = child.pulse
        child.killed_for = stall.to_end(
            [stall.Limited(n, now - given.at, given.job.hard_limit) for n, given in child.jobs.items()],
            beaten=pulse.beaten,
            looked_at=pulse.looked_at,
            holder=pulse.holder,
            now=now,
        )
        if child.killed_for:
            child.process.kill()

    # the end

    def kill(self) -> bool:
        """Kill all processes, and read what they said before."""
        self._stopping = True
        children = self._children()
        for child in children:
            child.steal()  # from one that is held, or not up yet
            child.their_end.close()  # else its end would not be seen
            child.process.kill()
            if child.pidfd >= 0:
                self._selector.unregister(child.pidfd)  # their deaths are ours, and nobody's loss
        until = time.monotonic() + KILL_SECONDS
        while self._selector.get_map() and time.monotonic() < until:
            self._read_all(until - time.monotonic())
        for child in children:
            child.jobs.clear()
        self._backlog.clear()
        self._lonely.clear()
        return True

    def stop(self) -> None:
        """Hang up on the processes, kill those that would not hear it, and wait for them."""
        self._stopping = True
        for child in self._children():
            if child.jobs or child.held or not child.ready:
                child.process.kill()
            self._dismiss(child)
        until = time.monotonic() + LEAVE_SECONDS
        for process in self._leaving:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._leaving.clear()
        self._selector.close()


def _how(code: int) -> str:
    """Say how a process ended, from what `subprocess` says of it: a signal is negative."""
    return death(-code if code < 0 else code << 8)
