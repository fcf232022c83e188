"""`Task.request`: what a running task can know of its own message, under Celery's names.

The executor makes one for each message by adopting the decoded headers as the object's attributes, so
it costs no copying; eager runs and direct calls make their own.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.core.effects import Publication

_NOT_CUSTOM = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})


class Context:
    """The request of one run. Custom headers are attributes too, and stand together in `headers`."""

    # slots, because the headers of a message become the object's attributes: none of them reaches these
    __slots__ = ("__dict__", "has_retried", "pending_publications", "sent_results", "source_queue")

    args: Any = None
    callbacks: list[Any] | None = None
    called_directly: bool = True
    chain: list[Any] | None = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: dict[str, Any] | None = None
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager: bool = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    replaced_task_nesting: int = 0
    reply_to: str | None = None
    retries: int = 0
    root_id: str | None = None
    shadow: str | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    taskset: str | None = None
    timelimit: Any = None
    utc: bool | None = None

    sent_results: list[Any] | None
    pending_publications: "list[Publication] | None"
    """Where the executor collects what must be published before the message is acked; None elsewhere."""
    source_queue: str | None
    """The queue that the message came from."""
    has_retried: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent_results = None
        self.pending_publications = None
        self.source_queue = None
        self.has_retried = False
        self.update(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes as `dict.update` sets keys."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget everything but the defaults."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or `default`."""
        return getattr(self, key, default)

    @property
    def headers(self) -> dict[str, Any] | None:
        """The message's custom headers, None when it has none."""
        given = self.__dict__.get("headers")
        if isinstance(given, Mapping):
            return dict(given)
        custom = {
            name: value
            for name, value in self.__dict__.items()
            if name not in _NOT_CUSTOM and not hasattr(Context, name)
        }
        return custom or None

    @property
    def children(self) -> list[Any]:
        """Results of the tasks that this run has sent."""
        if self.sent_results is None:
            self.sent_results = []
        return self.sent_results

    @property
    def redelivered(self) -> bool:
        """Whether the message had been delivered before."""
        return bool((self.delivery_info or {}).get("redelivered"))

    @property
    def time_limit(self) -> float | None:
        """Hard time limit of the message, seconds."""
        return self.timelimit[0] if self.timelimit else None

    @property
    def soft_time_limit(self) -> float | None:
        """Soft time limit of the message, seconds."""
        return self.timelimit[1] if self.timelimit else None

    @property
    def task(self) -> str | None:
        """Name of the task."""
        return self.__dict__.get("task")

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options for `apply_async` that lead to a message like this one."""
        limits = self.timelimit or (None, None)
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "time_limit": limits[0],
            "soft_time_limit": limits[1],
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamped_headers and self.stamps:
            options["stamped_headers"] = self.stamped_headers
            options.update({name: self.stamps.get(name) for name in self.stamped_headers})
        return options

    def __repr__(self) -> str:
        return f"<Context: {self.id} retries={self.retries}>"
