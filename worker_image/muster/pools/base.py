"""The port to a pool: what the worker's loop asks of whatever runs its tasks.

Implementations: `prefork`, `green` (gevent and eventlet), `threads`, `solo`. A pool is given raw messages
and an executor that understands them; it knows nothing of brokers, acks or results. Its methods are called
from the loop's thread only; the pool calls `notify` (from any thread) when `collect` has something to give.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from muster.core.effects import Publication
from muster.errors import MusterError


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One message to run. Limits are seconds, 0 for none."""

    number: int
    queue: str
    raw: bytes
    soft_limit: float = 0.0
    hard_limit: float = 0.0
    alone: bool = False
    """Nothing else may run in its process meanwhile: an earlier run may have killed its worker."""


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How a run of a task ended."""

    number: int
    state: str
    """SUCCESS, FAILURE, RETRY, IGNORED, REJECTED (to the dead letters) or REQUEUED."""
    document: bytes = b""
    """Result document; empty when nothing is to be stored."""
    publish: Sequence[Publication] = ()
    """Messages that must be in their queues before this one is given up: retries, links, chains."""
    runtime_seconds: float = 0.0
    text: str = ""
    """One line for the log: the result's repr, or the exception."""
    reason: str = ""
    """REJECTED: a CamelCase reason for the dead-letter place."""


class Lost(msgspec.Struct, frozen=True):
    """A run that will never report: its process is gone. `by_limit`: we killed it at its hard limit."""

    number: int
    text: str
    by_limit: bool = False


class Returned(msgspec.Struct, frozen=True):
    """A job that the pool gives back; it never started."""

    number: int


class Running(msgspec.Struct, frozen=True):
    """A job that runs now, and for how many seconds."""

    number: int
    age_seconds: float


class Publish(msgspec.Struct, frozen=True):
    """Something that runs asks to publish; it waits until `Pool.published` is called with this token."""

    token: int
    publications: Sequence[Publication]


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A run has begun, of a task that wants this known."""

    number: int
    document: bytes
    """Result document, to be stored until the run's own takes its place."""


class PoolBroken(MusterError):
    """Raised by a pool that can run no task any more: the process that holds the application is gone."""


class Killed(BaseException):
    """Raised in a run by its pool to end it at its hard limit; it leaves the executor as it came."""


Event: TypeAlias = Outcome | Lost | Returned | Publish | Started


class Executor(Protocol):
    """Runs one message in this process. What the task raised is in the outcome; only `Killed` is raised."""

    def __call__(self, job: Job) -> Outcome:
        """Run the job's message to its end."""

    def interrupted(self, job: Job, error: BaseException) -> Outcome:
        """Return the outcome of a run that `error` ended just outside the task's own code."""

    def name(self, job: Job) -> str:
        """Return what the job is called in a log: its task and id. Safe from any thread; never raises."""


PublishFunction: TypeAlias = Callable[[Sequence[Publication]], None]
StartedFunction: TypeAlias = Callable[[Started], None]


class Loaded(msgspec.Struct, frozen=True):
    """The user's application, ready to run."""

    execute: Executor
    greeting: bytes
    """What the application tells the worker of itself; the pool carries it and does not look inside."""
    enter: Callable[[PublishFunction | None, StartedFunction], None]
    """Called once in each process that runs tasks, with how to publish from there (None: by itself) and how
    to say that a run has begun."""


LoadExecutor: TypeAlias = Callable[[], Loaded]
"""Imports the user's application; called where tasks are to run. Raises ConfigurationError."""


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool is told when it starts; 0 means without limit. The child settings are prefork's."""

    slots: int
    max_tasks_per_child: int = 0
    max_memory_per_child_bytes: int = 0
    max_age_seconds: float = 0.0


class Pool(Protocol):
    """A set of slots that run tasks."""

    slots: int
    """How many tasks may run at once now."""
    isolates: bool
    """Whether a job that runs alone has a process of its own, so that it does so beside others."""

    def load(self) -> bytes:
        """Load the application and return its greeting. Raises ConfigurationError when it cannot be."""

    def start(self, settings: PoolSettings, notify: Callable[[], None]) -> None:
        """Bring the slots up."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when `collect` has something; None: `notify` is called."""

    def room(self, depth: int) -> int:
        """Return how many more jobs may be submitted when each slot may hold `depth` of them."""

    def resize(self, slots: int) -> None:
        """Have so many slots from now on. More are made at once; fewer: what was submitted still runs."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs over; they are run in order, spread over the slots."""

    def collect(self) -> Sequence[Event]:
        """Return what has happened since the last call."""

    def published(self, tokens: Sequence[int], error: str) -> None:
        """Let tasks that asked to publish go on; with an error when `error` is not empty.

        A task may be gone by now, lost or killed while it waited. What it asked for before that is sent all
        the same; its answer is passed over.
        """

    def running(self) -> Sequence[Running]:
        """Return what runs now."""

    def recall(self) -> None:
        """Give back, by `collect`, what was submitted and has not started."""

    def check(self) -> float:
        """Enforce limits, replace what died. Returns the seconds until it wants to be called again."""

    def kill(self) -> bool:
        """Begin nothing more and end at once what runs; `collect` then gives what was reported before.

        Returns whether nothing runs any more: where False, only the end of this process ends it. What is
        given up comes back as no event. Nothing is submitted any more.
        """

    def stop(self) -> None:
        """End the slots; what still runs is killed where it can be."""
