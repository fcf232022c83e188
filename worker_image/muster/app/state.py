"""Which application and which task are current, in this process, thread, greenlet or coroutine.

The current task lives in a context variable, which threads, greenlets and asyncio tasks each have of their
own. The current application is one for the process: the last one that was made, unless it said otherwise.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from muster.app.app import Muster
    from muster.app.request import Context
    from muster.app.task import Task

T = TypeVar("T")


class Frame:
    """One task being run, and the one that runs it (a task called by a task)."""

    __slots__ = ("outer", "request", "task")

    def __init__(self, task: "Task", request: "Context", outer: "Frame | None") -> None:
        self.task = task
        self.request = request
        self.outer = outer


running: ContextVar[Frame | None] = ContextVar("running", default=None)


def frame_of(task: "Task") -> Frame | None:
    """Return the innermost run of this task, or None."""
    frame = running.get()
    while frame is not None and frame.task is not task:
        frame = frame.outer
    return frame


def sender() -> Frame | None:
    """Return the run of a message from inside which the caller is called, or None."""
    frame = running.get()
    while frame is not None and frame.request.called_directly:
        frame = frame.outer
    return frame


_current: "list[Muster]" = []
_finalizers: "list[Callable[[Muster], Any]]" = []


def set_current_app(app: "Muster") -> None:
    """Make this the application that `current_app` and shared tasks mean."""
    _current[:] = [app]


def get_current_app() -> "Muster":
    """Return the current application; without any, a default one is made."""
    if not _current:
        from muster.app.app import Muster

        Muster("default")
    return _current[0]


def on_finalize(make: "Callable[[Muster], Any]") -> None:
    """Have `make(app)` called when an application is finalized: how a shared task joins each of them."""
    _finalizers.append(make)


def finalizers() -> "Iterator[Callable[[Muster], Any]]":
    """What has been asked for with `on_finalize`."""
    return iter(tuple(_finalizers))


class Proxy(Generic[T]):
    """Stands for an object that is looked up at each use."""

    __slots__ = ("__weakref__", "_find")

    def __init__(self, find: Callable[[], T]) -> None:
        object.__setattr__(self, "_find", find)

    def _get_current_object(self) -> T:
        return cast("T", object.__getattribute__(self, "_find")())

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._get_current_object())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", self._get_current_object())(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())


def _task() -> "Task | None":
    frame = running.get()
    return None if frame is None else frame.task


current_app: "Muster" = cast("Muster", Proxy(get_current_app))
current_task: "Task | None" = cast("Task | None", Proxy(_task))
