"""The threads pool and what it shares with solo: tasks run in this process, beside the worker's loop.

Python threads can be neither killed nor interrupted: time limits do not hold here (prefork's do), and the
worker says so at its start.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from muster.pools.base import (
    Event,
    Job,
    Loaded,
    LoadExecutor,
    Outcome,
    PoolSettings,
    Returned,
    Running,
    Started,
)


class InProcessPool:
    """Slots that take jobs from one queue of this process; see `muster.pools.base.Pool`."""

    isolates = False

    def __init__(self, load: LoadExecutor) -> None:
        self.slots = 0
        self._load = load
        self._loaded: Loaded | None = None
        self._notify: Callable[[], None] = lambda: None
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._starts: dict[int, float] = {}
        """Running job → when it started (monotonic)."""
        self._alone = False
        self._surplus = 0
        """How many slots are to end, each when it is next free."""
        self._stopping = False

    def load(self) -> bytes:
        """Import the application here."""
        self._loaded = self._load()
        return self._loaded.greeting

    def _begin(self, settings: PoolSettings, notify: Callable[[], None]) -> None:
        assert self._loaded is not None
        self.slots = settings.slots
        self._notify = notify
        self._loaded.enter(None, self._started)

    def _started(self, event: Started) -> None:
        self._events.append(event)
        self._notify()

    def fileno(self) -> int | None:
        """Return None: `notify` is called."""
        return None

    def room(self, depth: int) -> int:
        """Return how many more jobs may be queued."""
        return max(0, depth * self.slots - len(self._jobs) - len(self._starts))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; a slot takes each when it is free."""
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify(len(jobs))

    def _serve(self) -> None:
        """Run jobs until the pool stops: the body of each slot."""
        assert self._loaded is not None
        execute = self._loaded.execute
        while (job := self._take()) is not None:
            outcome = execute(job)
            self._report(job, outcome)

    def _may_take(self) -> bool:
        if self._stopping or self._surplus:
            return True
        if not self._jobs or self._alone:
            return False
        return not (self._jobs[0].alone and self._starts)

    def _take(self) -> Job | None:
        with self._changed:
            if not self._may_take():
                self._changed.wait_for(self._may_take)
            if self._stopping:
                return None
            if self._surplus:
                self._surplus -= 1
                return None
            job = self._jobs.popleft()
            self._alone = job.alone
            self._starts[job.number] = time.monotonic()
            return job

    def _report(self, job: Job, outcome: Outcome) -> None:
        with self._changed:
            del self._starts[job.number]
            self._events.append(outcome)
            if job.alone:
                self._alone = False
            if job.alone or (self._jobs and self._jobs[0].alone):
                self._changed.notify_all()
        self._notify()

    def collect(self) -> Sequence[Event]:
        """Return the outcomes since the last call."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def published(self, tokens: Sequence[int], error: str) -> None:
        """Do nothing: tasks of this process publish by themselves."""

    def running(self) -> Sequence[Running]:
        """Return what runs now."""
        now = time.monotonic()
        with self._changed:
            return [Running(number, now - start) for number, start in self._starts.items()]

    def recall(self) -> None:
        """Take back everything that no slot has taken."""
        with self._changed:
            self._events.extend(Returned(job.number) for job in self._jobs)
            self._jobs.clear()
        self._notify()

    def check(self) -> float:
        """Return when to be called again: a long job among short ones gets those behind it taken back."""
        now = time.monotonic()
        with self._changed:
            if len(self._starts) >= self.slots and self._jobs:
                if min(now - start for start in self._starts.values()) > 0.02:  # every slot is stuck
                    self._events.extend(Returned(job.number) for job in self._jobs)
                    self._jobs.clear()
                return 0.02
        return 1.0

    def kill(self) -> bool:
        """Begin nothing more. Returns whether nothing runs: a thread cannot be killed."""
        self.stop()
        with self._changed:
            return not self._starts

    def stop(self) -> None:
        """End the idle slots. A task that still runs ends with the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


class ThreadsPool(InProcessPool):
    """Each slot is a thread."""

    def __init__(self, load: LoadExecutor) -> None:
        super().__init__(load)
        self._numbers = itertools.count()

    def start(self, settings: PoolSettings, notify: Callable[[], None]) -> None:
        """Start the threads."""
        self._begin(settings, notify)
        self._make(settings.slots)

    def _make(self, slots: int) -> None:
        for _ in range(slots):
            # daemons: a task that never ends must not keep a process that has been told to leave
            threading.Thread(target=self._serve, name=f"slot {next(self._numbers)}", daemon=True).start()

    def resize(self, slots: int) -> None:
        """Start threads, or have as many end as are too many, each after the task that it runs."""
        with self._changed:
            ending = self._surplus + self.slots - slots
            self.slots = slots
            self._surplus = max(0, ending)
            self._changed.notify_all()
        self._make(-ending)
