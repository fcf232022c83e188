"""A process of greenlets: each job in one of its own, as they come. Patched before it imports this.

Started by `green.parent` as `python -m muster.pools.gevent` (or eventlet), a new interpreter, so that nothing
of the user's, or of Muster's, was imported before. It knows no broker: the worker's loop, with the leases,
lives in the parent, which no task can hold up. Of the greenlets' library it knows what `Library` says.

Beside the hub runs a native thread. It sees when the hub does not come round, finds by the hub's stack which
job keeps it, has the parent warn, and interrupts the job when its time is over.
"""

import contextlib
import itertools
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

import msgspec

from muster.core import stall
from muster.core.effects import Publication
from muster.errors import BrokerUnavailable, ConfigurationError
from muster.exceptions import SoftTimeLimitExceeded
from muster.pools.base import Job, Killed, Loaded, LoadExecutor, Lost, Started
from muster.pools.frames import Reader, send
from muster.pools.green import natives
from muster.pools.page import Pulse
from muster.pools.processes import die_with_parent, do_nothing

OUTCOME, STARTED, LOST, WARNING = b"O", b"S", b"L", b"W"
"""To the parent, on the pair of sockets by which jobs come."""
GREETING, FAILED, REQUEST = b"G", b"F", b"R"
"""To the parent, on the other pair."""

BEAT_SECONDS: Final = 0.1
"""How often the hub shows that it comes round, and how often it is looked at."""
STILL_SECONDS: Final = 0.3
"""A hub that has not come round for so long is not between two rounds."""
AGAIN_SECONDS: Final = 1.0
"""A job that goes on after its hard limit gets it raised again so often."""
FULL_SECONDS: Final = 0.001
"""How long to wait for room in a socket that is full."""


class Preparation(msgspec.Struct, array_like=True):
    """What a new interpreter needs to be as its parent is."""

    path: list[str]
    argv: list[str]
    load: bytes
    """The pickled function that loads the application."""


class Request(msgspec.Struct, frozen=True, array_like=True):
    """A greenlet asks to publish, and waits."""

    number: int
    publications: Sequence[Publication]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The parent's answer to requests; `error` is empty when they are published.

    One for all that were published together: while the hub is kept, few packets wait to be read.
    """

    numbers: Sequence[int]
    error: str


class Greenlet(Protocol):
    """One that has started."""

    def throw(self, error: BaseException, /) -> object:
        """Raise an error in it, now. Called from the hub."""


class Library(Protocol):
    """What is asked of gevent or eventlet besides what they have patched."""

    def spawn(self, function: Callable[..., None], *args: Any) -> None:
        """Run it in a greenlet of its own, soon."""

    def current(self) -> Greenlet:
        """Return the calling greenlet."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Callable[[], object]:
        """Have the hub call it after so many seconds. Returns what cancels that."""

    def wait_readable(self, descriptor: int) -> None:
        """Return when there is something to read."""


_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_encode = msgspec.msgpack.Encoder().encode


class _Run:
    """A job that runs, and its limits: raised by the hub's timers, or by a signal where it keeps the hub."""

    def __init__(self, job: Job, library: Library) -> None:
        self.job = job
        self._greenlet = library.current()
        self._later = library.call_later
        now = time.monotonic()
        self._soft_at = now + job.soft_limit if job.soft_limit else 0.0
        self._hard_at = now + job.hard_limit if job.hard_limit else 0.0
        self._soft_timer = self._later(job.soft_limit, self._soft) if job.soft_limit else None
        self._hard_timer = self._later(job.hard_limit, self._hard) if job.hard_limit else None

    def is_due(self, now: float) -> bool:
        """Whether one of its limits is over and was not raised yet."""
        return bool((self._soft_at and now >= self._soft_at) or (self._hard_at and now >= self._hard_at))

    def due(self, now: float) -> BaseException | None:
        """Return what is to be raised in it now, from inside it."""
        if self._hard_at and now >= self._hard_at:
            self._hard_at = now + AGAIN_SECONDS
            return Killed()
        if self._soft_at and now >= self._soft_at:
            self._soft_at = 0.0
            return SoftTimeLimitExceeded()
        return None

    def _soft(self) -> None:
        if self._soft_at:
            self._soft_at = 0.0
            self._greenlet.throw(SoftTimeLimitExceeded())

    def _hard(self) -> None:
        if not self._hard_at:
            return
        rest = self._hard_at - time.monotonic()
        if rest <= 0:
            self._hard_at += AGAIN_SECONDS - rest
        # before it is raised: the job may be over when `throw` returns, and have cancelled it
        self._hard_timer = self._later(rest if rest > 0 else AGAIN_SECONDS, self._hard)
        if rest <= 0:
            self._greenlet.throw(Killed())

    def end(self) -> None:
        """Raise nothing in it any more."""
        self._soft_at = self._hard_at = 0.0
        for cancel in (self._soft_timer, self._hard_timer):
            if cancel is not None:
                cancel()


class _Waiter:
    """One that waits for the parent's answer: a greenlet, or a native thread that a task has made."""

    def __init__(self, *, native: bool) -> None:
        self.error = ""
        if native:
            lock = natives.allocate_lock()
            lock.acquire()
            self.wait: Callable[[], object] = lock.acquire
            self.go: Callable[[], object] = lock.release
        else:
            event = threading.Event()
            self.wait, self.go = event.wait, event.set


class Child:
    """The process's hub with its greenlets, and the thread that watches it."""

    def __init__(
        self, library: Library, end: natives.socket, asks: natives.socket, pulse: Pulse, loaded: Loaded
    ) -> None:
        self._library = library
        self._end = end
        self._asks = asks
        self._pulse = pulse
        self._execute = loaded.execute
        self._waiters: dict[int, _Waiter] = {}
        self._numbers = itertools.count(1)
        self._hub_thread = natives.get_ident()
        signal.signal(signal.SIGUSR1, self._interrupt)
        loaded.enter(self.publish, self.started)

    def run(self) -> None:
        """Run jobs until the parent hangs up."""
        self._library.spawn(self._beat)
        self._library.spawn(self._read_answers)
        natives.start_new_thread(self._watch, ())
        receive = Reader(self._end).receive
        while True:
            self._library.wait_readable(self._end.fileno())
            with contextlib.suppress(BlockingIOError):
                while (received := receive()) is not None:
                    self._library.spawn(self._run, _decode_job(received[0]))
                return

    def _run(self, job: Job) -> None:
        run = _Run(job, self._library)
        try:
            try:
                outcome = self._execute(job)
            finally:
                run.end()
        except SoftTimeLimitExceeded as error:  # it came while the task's own code was not running
            outcome = self._execute.interrupted(job, error)
        except Killed:
            text = f"the hard time limit of {job.hard_limit:g} s is over: it was ended"
            self._send(self._end, LOST + _encode(Lost(job.number, text, by_limit=True)))
            return
        self._send(self._end, OUTCOME + _encode(outcome))

    def _send(self, end: natives.socket, frame: bytes) -> None:
        while True:
            try:
                send(end, frame)
            except BlockingIOError:
                pause = natives.sleep if natives.get_ident() != self._hub_thread else time.sleep
                pause(FULL_SECONDS)
            except ConnectionError:
                os._exit(1)  # the parent is gone, and with it the reason for this process
            else:
                return

    # what tasks say

    def started(self, event: Started) -> None:
        """Tell the parent that a run has begun."""
        self._send(self._end, STARTED + _encode(event))

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish through the parent and wait for its answer. Raises BrokerUnavailable.

        A limit may end the wait. The answer then comes all the same, and is passed over.
        """
        waiter = _Waiter(native=natives.get_ident() != self._hub_thread)
        number = next(self._numbers)
        self._waiters[number] = waiter
        try:
            self._send(self._asks, REQUEST + _encode(Request(number, publications)))
            waiter.wait()
        finally:
            self._waiters.pop(number, None)
        if waiter.error:
            raise BrokerUnavailable(waiter.error)

    def _read_answers(self) -> None:
        receive = Reader(self._asks).receive
        while True:
            self._library.wait_readable(self._asks.fileno())
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while (received := receive()) is not None:
                    answer = _decode_answer(received[0])
                    for number in answer.numbers:
                        waiter = self._waiters.pop(number, None)
                        if waiter is not None:
                            waiter.error = answer.error
                            waiter.go()
                os._exit(0)  # the parent has hung up

    # the hub is watched

    def _beat(self) -> None:
        while True:
            self._pulse.beat()
            time.sleep(BEAT_SECONDS)

    def _watch(self) -> None:
        """Look at the hub, again and again. In a native thread: nothing patched is to be called here."""
        hold: stall.Hold | None = None
        last = time.monotonic()
        while True:
            natives.sleep(BEAT_SECONDS)
            now = time.monotonic()
            frame = sys._current_frames().get(self._hub_thread)  # noqa: SLF001 - there is no other way
            run = _run_in(frame)
            job = 0 if run is None else run.job.number
            hold = stall.look(hold, job=job, beaten=self._pulse.beaten, last_look=last)
            last = now
            self._pulse.looked(0 if hold is None else hold.job)
            if hold is None:
                continue
            if run is not None and run.is_due(now) and now - self._pulse.beaten >= STILL_SECONDS:
                signal.pthread_kill(self._hub_thread, signal.SIGUSR1)
            if now >= hold.tell_at:
                self._tell(run, frame, now - hold.since)
                hold = stall.told(hold, now)

    def _tell(self, run: _Run | None, frame: FrameType | None, seconds: float) -> None:
        """Have the parent warn: a log here may wait for a greenlet that cannot run."""
        who = (
            "what no task does itself, such as a greenlet that one has left behind,"
            if run is None
            else self._execute.name(run.job)
        )
        where = "" if frame is None else f"; it is at {_place(frame)}"
        text = (
            f"{who} keeps the hub, for {seconds:.1f} s now, and no other task of this process goes on"
            f"{where}: let it call what gives way to others, or run it in a prefork pool"
        )
        self._send(self._end, WARNING + text.encode())

    def _interrupt(self, _signal: int, frame: FrameType | None) -> None:
        """Raise in the job that keeps the hub what is due. Called in it, wherever it is."""
        now = time.monotonic()
        if now - self._pulse.beaten < STILL_SECONDS:
            return  # the hub has come round meanwhile: its timers see to it
        run = _run_in(frame)
        error = None if run is None else run.due(now)
        if error is not None:
            raise error


_RUN: Final = Child._run.__code__  # noqa: SLF001 - by its frame a run is found on a stack


def _run_in(frame: FrameType | None) -> _Run | None:
    """Return the run to which a stack belongs, None for one of no task."""
    while frame is not None:
        if frame.f_code is _RUN:
            run: _Run | None = frame.f_locals.get("run")
            return run
        frame = frame.f_back
    return None


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"


def main(library: Library) -> NoReturn:
    """Be such a process; never returns. Its arguments are its parent's pid and three descriptors."""
    parent, *descriptors = map(int, sys.argv[1:5])
    die_with_parent(parent)
    signal.signal(signal.SIGINT, do_nothing)
    signal.signal(signal.SIGTERM, do_nothing)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    end, asks = (natives.socket(fileno=descriptor) for descriptor in descriptors[:2])
    pulse = Pulse(descriptors[2])
    code = 1
    try:
        loaded = _load(asks)
        end.setblocking(False)
        child = Child(library, end, asks, pulse, loaded)
        pulse.beat()  # from now on it is asked for
        send(asks, GREETING + loaded.greeting)
        asks.setblocking(False)
        child.run()
        code = 0
    except ConfigurationError as error:
        send(asks, FAILED + str(error).encode())
    except ConnectionError:
        code = 0  # the parent has hung up
    except BaseException as error:  # noqa: BLE001 - this is the process's last line
        traceback.print_exc()
        with contextlib.suppress(OSError):
            send(asks, FAILED + f"the application cannot be loaded: {error!r}; see above where".encode())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _load(asks: natives.socket) -> Loaded:
    received = Reader(asks).receive()
    if received is None:
        raise ConnectionAbortedError
    prepared = msgspec.msgpack.decode(received[0], type=Preparation)
    sys.path[:], sys.argv[:] = prepared.path, prepared.argv
    load: LoadExecutor = pickle.loads(prepared.load)  # noqa: S301 - our own parent has made it
    return load()
