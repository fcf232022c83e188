"""`AsyncResult`: what became of a task, read from the result store. Users hold these; tasks may not wait.

Documents are Celery's (`muster.wire.result`), so results of its workers are read too, and exceptions come
back as `muster.app.failures` explains.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from muster.app import state
from muster.app.failures import rebuild
from muster.errors import ConfigurationError
from muster.exceptions import TaskRevokedError, TimeoutError  # noqa: A004 - Celery's name
from muster.wire.result import READY_STATES, load

if TYPE_CHECKING:
    from muster.app.app import Muster

_PENDING: Final[dict[str, Any]] = {"status": "PENDING", "result": None, "traceback": None, "children": []}
_FAILED: Final = frozenset({"FAILURE", "REVOKED"})
_EXCEPTION: Final = frozenset({"FAILURE", "REVOKED", "RETRY"})

_may_wait: ContextVar[bool] = ContextVar("may_wait", default=False)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Let a task wait for another's result here, although all slots may come to wait for each other."""
    token = _may_wait.set(True)
    try:
        yield
    finally:
        _may_wait.reset(token)


def _refuse_inside_a_task() -> None:
    frame = state.sender()
    if frame is not None and not frame.request.is_eager and not _may_wait.get():
        raise RuntimeError(
            "a task must not wait for another's result, or all slots may wait for each other: "
            "use a chain or link=, or allow_join_result() where it cannot happen"
        )


class AsyncResult:
    """The result of one task, by its id. Nothing is read before it is asked for."""

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        *,
        app: "Muster | None" = None,
        parent: "AsyncResult | None" = None,
    ) -> None:
        if not id or not isinstance(id, str):
            raise ValueError(f"a result is found by a task's id, not by {id!r}")
        self.id = id
        self.parent = parent
        self.ignored = False
        self._app = app
        self._final: dict[str, Any] | None = None

    @property
    def app(self) -> "Muster":
        """The application whose result store is read."""
        return self._app or state.get_current_app()

    @property
    def task_id(self) -> str:
        """The id, under Celery's other name."""
        return self.id

    def _keep(self, data: bytes | None) -> dict[str, Any]:
        if data is None:
            return _PENDING
        meta = load(data)
        if meta["status"] in READY_STATES:
            self._final = meta
        return meta

    def _meta(self) -> dict[str, Any]:
        if self._final is not None:
            return self._final
        if self.ignored:
            return _PENDING
        return self._keep(self.app.results.get(self.id))

    @property
    def state(self) -> str:
        """PENDING (nothing is known), STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a task's own word."""
        return str(self._meta()["status"])

    status = state

    @property
    def result(self) -> Any:
        """The task's return value, or its exception, or what a state of its own carries."""
        meta = self._meta()
        value = meta.get("result")
        if meta["status"] in _EXCEPTION and value is not None:
            return rebuild(value)
        return value

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failure, as text."""
        return self._meta().get("traceback")

    @property
    def children(self) -> "list[AsyncResult]":
        """Results of the tasks that this one has sent."""
        return [
            AsyncResult(child[0][0], app=self._app)
            for child in self._meta().get("children") or ()
            if isinstance(child, list | tuple) and child and isinstance(child[0], list | tuple) and child[0]
        ]

    @property
    def retries(self) -> int | None:
        """How many retries the task had behind it."""
        return self._meta().get("retries")

    @property
    def date_done(self) -> datetime | None:
        """When the task ended."""
        text = self._meta().get("date_done")
        return datetime.fromisoformat(text) if isinstance(text, str) else text

    @property
    def name(self) -> str | None:
        """The task's name, with `result_extended`; so are `args`, `kwargs`, `worker` and `queue`."""
        return self._meta().get("name")

    @property
    def args(self) -> Any:
        """See `name`."""
        return self._meta().get("args")

    @property
    def kwargs(self) -> Any:
        """See `name`."""
        return self._meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """See `name`."""
        return self._meta().get("worker")

    @property
    def queue(self) -> str | None:
        """See `name`."""
        return self._meta().get("queue")

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES

    def successful(self) -> bool:
        """Whether the task has ended well."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether the task has failed."""
        return self.state == "FAILURE"

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        follow_parents: bool = True,
        disable_sync_subtasks: bool = True,
        **_without_effect: Any,
    ) -> Any:
        """Wait until the task has ended and return its result, or raise its exception.

        `timeout` is in seconds. With `propagate=False` an exception is returned. In a chain a failed task
        before this one ends the wait; it is looked for every `interval` seconds. Raises TimeoutError,
        BrokerUnavailable, ConfigurationError when no result store is configured.
        """
        if self.ignored:
            return None
        if disable_sync_subtasks:
            _refuse_inside_a_task()
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._final is None:
            self._wait(deadline, timeout, interval, propagate and follow_parents)
        meta = self._meta()
        value = self.result
        if meta["status"] in _FAILED and propagate:
            raise value if isinstance(value, BaseException) else TaskRevokedError(value)
        if callback is not None:
            callback(self.id, value)
        return value

    wait = get

    def _wait(self, deadline: float | None, timeout: float | None, interval: float, follow: bool) -> None:
        store = self.app.results
        parents = list(self._parents()) if follow else []
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            slice_seconds = left if not parents else interval if left is None else min(interval, left)
            data = store.wait(self.id, slice_seconds)
            if data is not None:
                self._keep(data)
                return
            for parent in parents:
                if parent.state in _FAILED:
                    parent.get()
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"no result of task {self.id} within {timeout} s")

    def _parents(self) -> "Iterator[AsyncResult]":
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Return what is known of the result now; raise the exception of a task that has failed."""
        value = self.result
        if self.state in _FAILED and propagate:
            raise value
        if callback is not None:
            callback(self.id, value)
        return value

    def forget(self) -> None:
        """Remove the result from the store."""
        self._final = None
        self.app.results.forget(self.id)

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Have workers discard the task instead of running it; see `app.control.revoke`."""
        self.app.control.revoke(self.id, *args, **kwargs)

    def as_tuple(self) -> tuple[Any, None]:
        """Return the form that result documents list children in."""
        return (self.id, self.parent and self.parent.as_tuple()), None

    def then(self, *_: Any, **__: Any) -> None:
        """Raise: a result is waited for with `get`."""
        raise ConfigurationError("AsyncResult.then is not available: wait with get(), or use link=")

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> bool:
        return self.id == (other.id if isinstance(other, AsyncResult) else other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.id, self.parent)


def _restore(task_id: str, parent: AsyncResult | None) -> AsyncResult:
    return AsyncResult(task_id, parent=parent)


class EagerResult(AsyncResult):
    """The result of a task that ran in the caller's process (`apply`, `task_always_eager`)."""

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        value: Any,
        state: str,
        traceback: str | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(id)
        self._value = value
        self._final = {"status": state, "traceback": traceback, "retries": retries, "children": []}

    @property
    def result(self) -> Any:
        """The task's return value or exception, the object itself."""
        return self._value

    info = result

    def ready(self) -> bool:
        """Whether the task has ended: it has."""
        return True

    def get(self, timeout: float | None = None, propagate: bool = True, *_: Any, **__: Any) -> Any:  # noqa: ARG002
        """Return the result, or raise the exception."""
        if propagate and self.state in _FAILED:
            raise self._value
        return self._value

    wait = get

    def forget(self) -> None:
        """Do nothing: it is stored nowhere."""

    def revoke(self, *_: Any, **__: Any) -> None:
        """Count as revoked, though it has run."""
        self._value = TaskRevokedError("revoked")
        self._final = {"status": "REVOKED", "traceback": None, "retries": 0, "children": []}
