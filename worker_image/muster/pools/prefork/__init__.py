"""The prefork pool: tasks run in child processes, which can be limited, killed and replaced.

Three roles (DESIGN: an I/O parent, a template, children). This module is the parent's side: it runs no
user code. It gives each child a few jobs over a socket of its own and takes back the ones not yet read when
their child is busy, stopped or dead, so that a bad task harms no other. A child that does not begin what it
holds is given nothing more until it shows life: by the job that it is left with, or by answering a probe.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

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
from muster.pools.page import Page, new_page_file
from muster.pools.prefork import child as child_process
from muster.pools.prefork import template
from muster.pools.processes import death, reap_orphans

STUCK_SECONDS: Final = 0.02
"""A child that has been at one job for so long gets the jobs behind it taken back."""
PATIENCE_SECONDS: Final = 0.64
"""A child that has not begun its next job for `STUCK_SECONDS` gets all taken back, and twice as long each
time after, up to so long: it may only have waited for a processor, and shall get on even on a machine
where all children wait that long."""
CHECK_SECONDS: Final = 1.0
KILL_SECONDS: Final = 0.5
"""How long the end of killed children is waited for; one that is in the kernel so long runs no more code."""

_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_request = msgspec.msgpack.Decoder(child_process.Request).decode
_decode_started = msgspec.msgpack.Decoder(Started).decode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_exited = msgspec.msgpack.Decoder(template.Exited).decode
_encode = msgspec.msgpack.Encoder().encode


class _Child:
    """The parent's view of one child."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.end, self.their_end = pair()
        self.end.setblocking(False)
        self.asks, self.their_asks = pair()
        self.asks.setblocking(False)
        self.descriptor = new_page_file()
        self.page = Page(self.descriptor)
        self.reader = Reader(self.end)
        self.thief = Reader(self.their_end)
        self.requests = Reader(self.asks)
        self.pid = 0
        self.pidfd = -1
        self.born = time.monotonic()
        self.jobs: dict[int, Job] = {}
        """Handed over and not reported, in order."""
        self.finished = 0
        self.alone = False
        self.retiring = False
        self.stuck = False
        """It has been at one job for long."""
        self.silent = False
        """It has not begun its next job for long."""
        self.patience = STUCK_SECONDS
        self.awaited = 0
        """The job that it was to begin when it was looked at last, and since when."""
        self.awaited_since = 0.0
        self.warned = 0
        self.killed_for = 0

    @property
    def free(self) -> bool:
        return not (self.alone or self.retiring or self.stuck or self.silent)

    def steal(self) -> list[Job]:
        """Take back what the child has not read."""
        jobs = []
        while True:
            try:
                received = self.thief.receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if received is None:
                break
            if received[0][:1] == child_process.JOB:
                job = _decode_job(received[0][1:])
                self.jobs.pop(job.number, None)
                jobs.append(job)
        if jobs:
            self.awaited = 0  # one of them may come again, and is waited for anew
        if not self.jobs:
            self.alone = False
        return jobs

    def probe(self) -> None:
        """Ask it to show life, in a packet that it reads when it would read a job."""
        with contextlib.suppress(OSError):  # it is dying: that is told by others
            send(self.end, child_process.PROBE)

    def was_born(self, pid: int) -> None:
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # dead already; the template's word on that follows
                self.pidfd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> bool:
        """Signal the child, never a stranger that got its pid after it died. Returns whether it was there."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif self.pid and not hasattr(os, "pidfd_open"):
                os.kill(self.pid, number)
            else:
                return False
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        for end in (self.end, self.their_end, self.asks, self.their_asks):
            end.close()
        self.page.close()
        os.close(self.descriptor)


class PreforkPool:
    """See `muster.pools.base.Pool`."""

    isolates = True

    def __init__(self, load: LoadExecutor) -> None:
        self.slots = 0
        self._load = load
        self._settings = PoolSettings(slots=0)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._backlog: deque[Job] = deque()
        self._events: list[Event] = []
        self._asked: dict[int, tuple[_Child, int]] = {}
        """Token of a `Publish` → who asked, and the number of its request."""
        self._next_token = 1
        self._next_child = 1
        self._early_deaths = 0
        self._respawn_at = 0.0
        self._measure_at = 0.0
        self._template_pid = 0
        self._control: socket.socket | None = None
        self._control_reader: Reader | None = None
        self._stopping = False

    def load(self) -> bytes:
        """Fork the template and wait for the application's greeting. Call it before any thread starts."""
        parent = os.getpid()
        ours, theirs = pair()
        self._template_pid = os.fork()
        if not self._template_pid:
            ours.close()
            template.main(theirs, self._load, parent)
        theirs.close()
        self._control, self._control_reader = ours, Reader(ours)
        received = self._control_reader.receive()
        if received is not None and received[0][:1] == template.GREETING:
            return received[0][1:]
        _, status = os.waitpid(self._template_pid, 0)
        ours.close()
        self._selector.close()
        if received is None:
            raise ConfigurationError(f"the application ended while it was being imported: {death(status)}")
        raise ConfigurationError(received[0][1:].decode())

    def start(self, settings: PoolSettings, notify: Callable[[], None]) -> None:  # noqa: ARG002 - has a fileno
        """Fork the children."""
        assert self._control is not None
        self._settings = settings
        self.slots = settings.slots
        self._control.setblocking(False)
        self._selector.register(self._control, selectors.EVENT_READ, self._read_template)
        self._fill()

    def fileno(self) -> int | None:
        """Return the selector's own descriptor: readable when any child has something to say."""
        return self._selector.fileno()

    def _spawn(self) -> None:
        assert self._control is not None
        child = _Child(self._next_child)
        self._next_child += 1
        request = _encode(template.Fork(child.number))
        try:
            send(
                self._control,
                request,
                (child.their_end.fileno(), child.their_asks.fileno(), child.descriptor),
            )
        except OSError as error:
            child.close()
            raise PoolBroken("the process that holds the application is gone") from error
        child.their_asks.close()
        self._children[child.number] = child
        self._selector.register(child.end, selectors.EVENT_READ, partial(self._read, child))
        self._selector.register(child.asks, selectors.EVENT_READ, partial(self._read_requests, child))

    def _fill(self) -> float:
        """Make the children that are missing. Returns the seconds until it is to be called again."""
        missing = 0 if self._stopping else self.slots - len(self._children)
        if missing <= 0:
            return CHECK_SECONDS
        pause = self._respawn_at - time.monotonic()
        if pause > 0:
            return pause
        for _ in range(missing):
            self._spawn()
        return CHECK_SECONDS

    def resize(self, slots: int) -> None:
        """Make children, or have some leave: those with the least to do, of these the oldest."""
        self.slots = slots
        staying = [child for child in self._children.values() if not child.retiring]
        staying.sort(key=lambda child: len(child.jobs))
        for child in staying[: max(0, len(staying) - slots)]:
            self._retire(child)
        self._fill()
        self._dispatch()

    def room(self, depth: int) -> int:
        """Return how many more jobs the children may hold."""
        free = sum(max(0, depth - len(child.jobs)) for child in self._children.values() if child.free)
        return max(0, free - len(self._backlog))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Spread jobs over the children, each to the one that holds the fewest."""
        self._backlog.extend(jobs)
        self._dispatch()

    def _dispatch(self) -> None:
        backlog = self._backlog
        while backlog:
            job = backlog[0]
            child = min(
                (c for c in self._children.values() if c.free and not (job.alone and c.jobs)),
                key=lambda c: len(c.jobs),
                default=None,
            )
            if child is None:
                return
            try:
                send(child.end, child_process.JOB + _encode(job))
            except (BlockingIOError, ConnectionError):
                return  # its socket is full, or it is dying: what is left waits for the next event
            backlog.popleft()
            child.jobs[job.number] = job
            child.alone = job.alone

    def collect(self) -> Sequence[Event]:
        """Read what the children and the template have sent."""
        self._read_all(0)
        if self._backlog and not self._stopping:
            self._dispatch()
        events, self._events = self._events, []
        return events

    def _read_all(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def _frames(self, child: _Child, end: socket.socket, reader: Reader) -> Iterator[bytes]:
        """Yield what has come from a child by one of its two ways."""
        while child.number in self._children:  # else it was buried a moment ago
            try:
                received = reader.receive()
            except (BlockingIOError, ConnectionError):
                return
            if received is None:  # the template's word on its death follows
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                return
            yield received[0]

    def _read(self, child: _Child) -> None:
        for frame in self._frames(child, child.end, child.reader):
            child.silent = False
            if frame == child_process.ALIVE:
                continue
            if frame[:1] == child_process.STARTED:
                self._events.append(_decode_started(frame[1:]))
                continue
            outcome = _decode_outcome(frame[1:])
            if child.jobs.pop(outcome.number, None) is not None:
                self._events.append(outcome)
            child.finished += 1
            child.stuck = False
            child.alone = False
            limit = self._settings.max_tasks_per_child
            if limit and child.finished + len(child.jobs) >= limit and not self._stopping:
                self._retire(child)

    def _read_requests(self, child: _Child) -> None:
        for frame in self._frames(child, child.asks, child.requests):
            request = _decode_request(frame)
            self._asked[self._next_token] = child, request.number
            self._events.append(Publish(self._next_token, request.publications))
            self._next_token += 1

    def _take_back(self, child: _Child) -> None:
        self._backlog.extendleft(reversed(child.steal()))
        if child.silent and not child.jobs:
            child.probe()  # nothing is left by which it could show life; an earlier probe was taken back too

    def published(self, tokens: Sequence[int], error: str) -> None:
        """Answer those that wait for a publication."""
        for token in tokens:
            child, number = self._asked.pop(token)
            with contextlib.suppress(OSError):  # it is gone
                send(child.asks, _encode(child_process.Answer(number, error)))

    def _read_template(self) -> None:
        assert self._control_reader is not None
        while True:
            try:
                received = self._control_reader.receive()
            except BlockingIOError:
                return
            except ConnectionError:
                received = None
            if received is None:
                if self._stopping:
                    return
                raise PoolBroken("the process that holds the application is gone; the worker must start anew")
            exited = _decode_exited(received[0][1:])
            child = self._children.get(exited.child)
            if child is None:
                continue
            if not exited.pid:
                child.was_born(exited.status)
            else:
                self._bury(child, exited.status)
                self._fill()

    def _bury(self, child: _Child, status: int) -> None:
        """See to a child's death: what it had finished, what it was at, what it had not begun."""
        self._read(child)
        self._read_requests(child)
        self._backlog.extendleft(reversed(child.steal()))
        current = child.page.job
        for number, job in child.jobs.items():
            if number == current:
                by_limit = child.killed_for == number
                text = (
                    f"the hard time limit of {job.hard_limit:g} s is over: its process was killed"
                    if by_limit
                    else f"its process ended: {death(status)}"
                )
                self._events.append(Lost(number, text, by_limit))
            else:
                self._backlog.appendleft(job)
        for end in (child.end, child.asks):
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
        child.close()
        del self._children[child.number]
        # a child that dies at once would be made again and again: each time a little later
        if child.finished or current or child.retiring:
            self._early_deaths = 0
        else:
            self._early_deaths += 1
            self._respawn_at = time.monotonic() + min(10.0, 0.1 * 2**self._early_deaths)

    def _retire(self, child: _Child) -> None:
        """Give the child no more jobs; it leaves after the one that it runs."""
        if child.retiring:
            return
        child.retiring = True
        self._take_back(child)
        with contextlib.suppress(OSError):
            child.end.shutdown(socket.SHUT_WR)

    def running(self) -> Sequence[Running]:
        """Return what the children's pages say."""
        return [
            Running(number, child.page.age_seconds())
            for child in self._children.values()
            if (number := child.page.job)
            in child.jobs  # else it is over, and the child stands before the next
        ]

    def recall(self) -> None:
        """Take back everything that no child has begun."""
        for child in self._children.values():
            self._take_back(child)
        self._events.extend(Returned(job.number) for job in self._backlog)
        self._backlog.clear()

    def check(self) -> float:
        """Enforce time limits, take jobs from where they do not get on, replace children."""
        again = CHECK_SECONDS
        now = time.monotonic()
        for child in self._children.values():
            again = min(again, self._check_jobs(child, now))
        if now >= self._measure_at:
            self._measure_at = now + CHECK_SECONDS
            for child in self._children.values():
                self._check_child(child, now)
        again = min(again, self._fill())
        self._dispatch()
        reap_orphans(frozenset({self._template_pid}))
        return again

    def _check_next(self, child: _Child, now: float) -> float:
        """See to a child that is at none of its jobs: it stands between two, or it does not run at all."""
        number, job = next(iter(child.jobs.items()))
        if child.awaited != number:
            child.awaited, child.awaited_since = number, now
        waited = now - child.awaited_since
        if job.hard_limit and waited >= job.hard_limit + CHECK_SECONDS:
            child.signal(signal.SIGKILL)  # nobody is to blame, and the job runs in another
        elif waited >= child.patience:
            child.silent = True
            if any(other.free for other in self._children.values()):
                child.patience = min(2 * child.patience, PATIENCE_SECONDS)
                self._take_back(child)
        limits = [limit for j in child.jobs.values() for limit in (j.soft_limit, j.hard_limit) if limit]
        return min([STUCK_SECONDS, *limits])

    def _check_jobs(self, child: _Child, now: float) -> float:
        if not child.jobs:
            return CHECK_SECONDS
        job = child.jobs.get(child.page.job)
        if job is None:
            return self._check_next(child, now)
        age = child.page.age_seconds()
        again = CHECK_SECONDS
        if len(child.jobs) > 1:
            if age >= STUCK_SECONDS:
                child.stuck = True
                self._take_back(child)
            else:
                again = STUCK_SECONDS - age
        if job.hard_limit:
            if age >= job.hard_limit:
                if child.signal(signal.SIGKILL):
                    child.killed_for = job.number
                return CHECK_SECONDS
            again = min(again, max(job.hard_limit - age, 0.001))
        if job.soft_limit and child.warned != job.number:
            if age >= job.soft_limit:
                child.warned = job.number
                child.signal(signal.SIGUSR1)
            else:
                again = min(again, max(job.soft_limit - age, 0.001))
        return again

    def _check_child(self, child: _Child, now: float) -> None:
        settings = self._settings
        if child.retiring or not child.pid:
            return
        too_old = settings.max_age_seconds and now - child.born >= settings.max_age_seconds
        if too_old or (
            settings.max_memory_per_child_bytes
            and _resident_bytes(child.pid) > settings.max_memory_per_child_bytes
        ):
            self._retire(child)

    def kill(self) -> bool:
        """Kill all children, and read what they said before."""
        assert self._control is not None
        self._stopping = True  # none is made any more, and no job goes to any
        self._selector.unregister(self._control)  # their deaths are ours, and nobody's loss
        for child in self._children.values():
            child.steal()  # from one that is not born yet
            child.their_end.close()  # else its end would not be seen
            child.signal(signal.SIGKILL)
        until = time.monotonic() + KILL_SECONDS
        while self._selector.get_map() and time.monotonic() < until:
            self._read_all(until - time.monotonic())
        for child in self._children.values():
            child.jobs.clear()
        return True

    def stop(self) -> None:
        """Hang up on the children, kill those that would not hear it, and wait for the template."""
        self._stopping = True
        for child in self._children.values():
            if child.jobs or child.silent:
                child.signal(signal.SIGKILL)
            child.close()
        self._children.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._template_pid, 0)
        self._selector.close()


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 where it cannot be told."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123 - once a second for each child
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
