"""Queues as an application's settings have them: which there are, and how one that is missing is declared.

On RabbitMQ a queue's type and highest priority are fixed when it is declared, and whoever declares it
otherwise later is refused. So Muster's clients and workers declare what is missing with the arguments that
Celery's have with the same settings. Where there is a TaskQueue, the operator declares it. Settings, clients
and workers call this; it talks to no broker.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from muster.settings import Settings

Arguments = Mapping[str, Any]

QUEUE_SETTINGS: Final = (
    "task_queues",
    "task_default_queue",
    "task_default_queue_type",
    "task_create_missing_queue_type",
    "task_queue_max_priority",
)
"""What `queue_arguments` asks of an application."""


def _milliseconds(seconds: Any) -> int:
    return int(float(seconds) * 1000)


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], int]]]] = {
    "expires": ("x-expires", _milliseconds),
    "message_ttl": ("x-message-ttl", _milliseconds),
    "max_length": ("x-max-length", int),
    "max_length_bytes": ("x-max-length-bytes", int),
    "max_priority": ("x-max-priority", int),
}
"""What kombu's Queue says in words of its own, in seconds and numbers."""


def read_queues(value: Any) -> dict[str, dict[str, Any]]:
    """Return the arguments of each queue in `task_queues`, by its name.

    `value` is a mapping from names to options, or a list of names or of kombu's `Queue` objects. Raises
    ValueError for a queue without a name, and for exchanges that copy or match.
    """
    try:
        queues = value.items() if isinstance(value, Mapping) else [(_name(each), each) for each in value]
    except TypeError:
        queues = [(None, None)]
    found = {}
    for name, queue in queues:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"must be a mapping by queue name, or a list of names or Queue objects, not {value!r}"
            )
        said = _reader(queue)
        exchange = said("exchange")
        kind = said("exchange_type") or getattr(exchange, "type", "") or "direct"
        if kind != "direct":
            raise ValueError(
                f"binds {name} to a {kind} exchange: Muster routes by queue name only; "
                "send to each queue by name"
            )
        found[name] = dict(said("queue_arguments") or {})
        for option, (argument, read) in _OPTIONS.items():
            if said(option) is not None:
                found[name][argument] = read(said(option))
    return found


def _name(queue: Any) -> Any:
    return queue if isinstance(queue, str) else getattr(queue, "name", None)


def _reader(queue: Any) -> Callable[[str], Any]:
    """Return how to ask a queue for one of its options."""
    return queue.get if isinstance(queue, Mapping) else lambda option: getattr(queue, option, None)


@dataclass(frozen=True, kw_only=True)
class QueueArguments:
    """With which arguments a queue is declared that is not there; durable they all are."""

    own: Mapping[str, Arguments] = field(default_factory=dict)
    others: Arguments = field(default_factory=dict)

    def of(self, queue: str) -> dict[str, Any]:
        """Return the arguments of a queue."""
        return dict(self.own.get(queue, self.others))

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {', '.join(f'{key}={value}' for key, value in arguments.items()) or 'none'}"
            for name, arguments in (*self.own.items(), ("others", self.others))
        )


AS_CELERY: Final = QueueArguments()
"""What holds where no setting says anything."""


def queue_arguments(settings: "Settings") -> QueueArguments:
    """Return what follows from an application's settings.

    A quorum queue has no highest priority (RabbitMQ refuses the argument), so `task_queue_max_priority` is
    for the others.
    """
    highest = settings.task_queue_max_priority

    def complete(arguments: Arguments) -> Arguments:
        if highest is None or arguments.get("x-queue-type", "classic") != "classic":
            return arguments
        return {"x-max-priority": highest, **arguments}

    if settings.task_queues:
        own = read_queues(settings.task_queues)
    else:
        own = {settings.task_default_queue: _of_type(settings.task_default_queue_type)}
    return QueueArguments(
        own={name: complete(arguments) for name, arguments in own.items()},
        others=complete(_of_type(settings.task_create_missing_queue_type)),
    )


def _of_type(queue_type: str) -> dict[str, Any]:
    # without the argument RabbitMQ takes the virtual host's default, as it does for Celery's classic queues
    return {} if queue_type == "classic" else {"x-queue-type": queue_type}
