"""Real pools for tests: what each is made of, and who turns its crank as the worker's loop does."""

import threading
from collections import deque
from pathlib import Path

from muster.pools.base import Lost, Outcome, PoolSettings, Publish
from muster.pools.green.parent import GreenPool
from muster.pools.prefork import PreforkPool
from muster.pools.threads import ThreadsPool
from pool_jobs import load
from waiting import wait_for


class Prefork:
    """The prefork pool; its slots are its children."""

    make = PreforkPool

    @staticmethod
    def made(pool):
        return set(pool._children)

    @staticmethod
    def pids(pool):
        """Return the processes that run tasks; 0 for one that is not there yet."""
        return {child.pid for child in pool._children.values()}

    @classmethod
    def up(cls, pool, slots):
        return len(cls.pids(pool)) == slots and all(cls.pids(pool))

    @classmethod
    def all_pids(cls, pool):
        return {pool._template_pid, *cls.pids(pool)} - {0}


class Threads:
    """The threads pool; its slots are threads of this process."""

    make = ThreadsPool

    @staticmethod
    def made(_pool):
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("slot ")}


class Green:
    """A pool of greenlets; its slots are a number."""

    library = ""

    @classmethod
    def make(cls, load):
        return GreenPool(load, cls.library)

    @staticmethod
    def made(pool):
        return set() if pool._stopping else set(range(pool.slots))

    @staticmethod
    def pids(pool):
        return {child.process.pid for child in pool._children()}

    @classmethod
    def up(cls, pool, slots):
        return all(child.ready for child in pool._children())

    all_pids = pids


class Gevent(Green):
    """The gevent pool."""

    library = "gevent"


class Eventlet(Green):
    """The eventlet pool."""

    library = "eventlet"


KINDS = {kind.__name__.lower(): kind for kind in (Prefork, Threads, Gevent, Eventlet)}


class Driver:
    """Starts a pool, and turns its crank until something is so."""

    def __init__(self, kind, slots, **settings):
        self.kind = kind
        self.pool = kind.make(load)
        assert self.pool.load() == b"hello"
        self.pool.start(PoolSettings(slots=slots, **settings), lambda: None)
        self.events = []
        self.answers = True

    def until(self, condition, what="it is so", seconds=20):
        def crank():
            if condition():
                return True
            self.pool.check()
            fresh = self.pool.collect()
            self.events.extend(fresh)
            if self.answers:
                self.pool.published([event.token for event in fresh if isinstance(event, Publish)], "")
            return False

        try:
            wait_for(crank, what=what, timeout_seconds=seconds, every_seconds=0.001)
        except TimeoutError as error:
            raise AssertionError(f"{error}; events: {self.events}") from None

    def run(self, jobs, depth, seconds=20):
        """Submit jobs as there is room, until each has an outcome."""
        jobs = deque(jobs)
        wanted = len(self.outcomes()) + len(jobs)

        def crank():
            room = self.pool.room(depth)
            self.pool.submit([jobs.popleft() for _ in range(min(room, len(jobs)))])
            return len(self.outcomes()) >= wanted

        self.until(crank, seconds=seconds)

    def outcomes(self):
        return {e.number: e for e in self.events if isinstance(e, Outcome)}

    def asked(self):
        return [event.token for event in self.events if isinstance(event, Publish)]

    def lost(self):
        return {e.number: e for e in self.events if isinstance(e, Lost)}

    def runs(self):
        return {run.number for run in self.pool.running()}

    def made(self):
        return self.kind.made(self.pool)

    def pids(self):
        return self.kind.pids(self.pool)


def has_begun(ledger):
    """Whether a job has written its line: the file is there a moment before."""
    return ledger.exists() and ledger.stat().st_size > 0


def wait_gone(pids, seconds=5):
    wait_for(
        lambda: [pid for pid in pids if alive(pid)],
        until=lambda left: not left,
        what="the processes to be gone",
        timeout_seconds=seconds,
        every_seconds=0.005,
    )


def alive(pid):
    return state(pid) not in ("Z", "")


def state(pid):
    """Return the letter that Linux gives a process's state; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def pool_starter(kind):
    """Yield a function that starts a pool and returns its driver; each is stopped, and none may be left."""
    drivers = []

    def begin(slots=2, **settings):
        driver = Driver(kind, slots, **settings)
        driver.until(lambda: kind.up(driver.pool, slots))
        drivers.append((driver, kind.all_pids(driver.pool)))
        return driver

    yield begin
    for driver, before in drivers:
        pids = before | kind.all_pids(driver.pool)
        driver.pool.stop()
        wait_gone(pids)
