"""From a call to a message: what `apply_async`, retries, links and chains all go through.

Makes values only; `Muster.publish` and the executor see that they get to the broker. Header by header the
message is what Celery's `celery/app/amqp.py` (`as_task_v2`) sends. Its properties have one more, which says
when it was published.
"""

import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from muster.app import state
from muster.app.text import brief
from muster.core import routing
from muster.core.effects import Publication
from muster.exceptions import EncodeError
from muster.signals import before_task_publish
from muster.wire import values
from muster.wire.keys import RESERVED_PREFIXES
from muster.wire.message import pack

if TYPE_CHECKING:
    from muster.app.app import Muster
    from muster.app.task import Task

OPTIONS: Final = frozenset(
    {
        *(
            "task_id",
            "countdown",
            "eta",
            "expires",
            "retries",
            "queue",
            "routing_key",
            "exchange",
            "priority",
        ),
        *("link", "link_error", "chain", "chord", "group_id", "group_index", "root_id", "parent_id"),
        *("time_limit", "soft_time_limit", "shadow", "headers", "ignore_result", "argsrepr", "kwargsrepr"),
        *("reply_to", "replaced_task_nesting", "origin", "stamped_headers", "add_to_parent", "serializer"),
        *("retry", "retry_policy"),
    }
)
WITHOUT_EFFECT: Final = frozenset(
    {
        *(
            "producer",
            "publisher",
            "connection",
            "router",
            "route_name",
            "result_cls",
            "task_type",
            "declare",
        ),
        *("compression", "delivery_mode", "exchange_type", "mandatory", "immediate", "timeout"),
        *("confirm_timeout", "event_dispatcher", "expiration", "correlation_id", "immutable"),
    }
)
"""Options of Celery's for which there is nothing to do here; any other name is an error."""

_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_EMBED_TEXT: Final = f", {values.dumps(_EMBED)}]"
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What publishing needs of the configuration, read once after each change of it."""

    version: int
    default_queue: str
    default_priority: int | None
    replies: bool
    """Results are sent to a queue that a message names, instead of being stored."""
    routers: list[routing.Router]
    always_eager: bool
    retry: bool
    retry_policy: dict[str, Any]


class Draft(msgspec.Struct):
    """A message that is ready to go, with what the signals show of it."""

    task_id: str
    publication: Publication
    headers: dict[str, Any]
    body: tuple[Any, Any, dict[str, Any]]


def new_id() -> str:
    """Return a random UUID as text, as `str(uuid.uuid4())` does at twice the cost."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def _name_of_this_process() -> str:
    return f"gen{os.getpid()}@{socket.gethostname()}"


_origin = _name_of_this_process()


def _renamed() -> None:
    global _origin  # noqa: PLW0603 - one per process, and a fork makes a new one
    _origin = _name_of_this_process()


os.register_at_fork(after_in_child=_renamed)


def listed(value: Any) -> list[Any] | None:
    """Return one signature or many as a list, None for none."""
    if not value:
        return None
    return list(value) if isinstance(value, list | tuple) else [value]


def moment(value: Any, now: float) -> tuple[str | None, float]:
    """Return a time in a call as ISO text and Unix seconds. Numbers count from `now`; naive means UTC."""
    if isinstance(value, int | float):
        seconds = now + value
        return datetime.fromtimestamp(seconds, UTC).isoformat(), seconds
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise TypeError(f"a time is a datetime, an ISO 8601 text or a number of seconds, not {value!r}")
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value.isoformat(), value.timestamp()


def draft(
    app: "Muster", name: str, args: Any, kwargs: Any, options: dict[str, Any], task: "Task | None" = None
) -> Draft:
    """Return the message of one call. `options` are `apply_async`'s; those of `task` are among them already.

    Raises EncodeError when JSON cannot carry the arguments, TypeError or ValueError for impossible options.
    """
    sending = app.sending
    if sending.routers:
        options = {**routing.route(sending.routers, name, args, kwargs, options, task), **options}
    get = options.get
    task_id = get("task_id") or new_id()
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, list | tuple):
        raise TypeError(f"the positional arguments of {name} are a list or tuple, not {args!r}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"the keyword arguments of {name} are a mapping, not {kwargs!r}")
    if get("serializer") not in {None, "json"}:
        raise ValueError(f"serializer {options['serializer']!r} is not available: messages are JSON")

    root_id, parent_id = get("root_id"), get("parent_id")
    frame = state.sender()
    if frame is not None:  # a retry says None itself, and has the parent that it had
        if "root_id" not in options:
            root_id = frame.request.root_id or frame.request.id
        if "parent_id" not in options:
            parent_id = frame.request.id

    now = time.time()
    eta_text, eta = None, 0.0
    expires_text, expiration_ms = None, None
    countdown, expires = get("countdown"), get("expires")
    if countdown or get("eta") or expires is not None:
        if countdown:
            eta_text, eta = moment(countdown, now)
        elif get("eta"):
            eta_text, eta = moment(options["eta"], now)
        if expires is not None:
            expires_text, expires_at = moment(expires, now)
            expiration_ms = max(0, int((expires_at - now) * 1000))
        if eta <= now:
            eta = 0.0

    stamped = get("stamped_headers")
    body: tuple[Any, Any, dict[str, Any]] = (args, kwargs, _EMBED)
    if get("link") or get("link_error") or get("chain") or get("chord"):
        embed = {
            "callbacks": listed(get("link")),
            "errbacks": listed(get("link_error")),
            "chain": get("chain"),
            "chord": get("chord"),
        }
        body = (args, kwargs, embed)
        text = _dumps(name, body)
    else:
        text = _dumps(name, (args, kwargs))[:-1] + _EMBED_TEXT
    headers = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": get("shadow"),
        "eta": eta_text,
        "expires": expires_text,
        "group": get("group_id"),
        "group_index": get("group_index"),
        "retries": get("retries") or 0,
        "timelimit": (get("time_limit"), get("soft_time_limit")),
        "root_id": root_id or task_id,
        "parent_id": parent_id,
        "argsrepr": get("argsrepr") or brief(tuple(args), len(text)),
        "kwargsrepr": get("kwargsrepr") or brief(kwargs, len(text)),
        "origin": get("origin") or _origin,
        "ignore_result": get("ignore_result"),
        "replaced_task_nesting": get("replaced_task_nesting") or 0,
        "stamped_headers": stamped,
        "stamps": {header: get(header) for header in stamped} if stamped else {},
    }
    if get("headers"):
        headers.update(options["headers"])
    queue = get("queue")
    # with the default direct exchange a routing key is a queue's name
    queue = getattr(queue, "name", queue) or get("routing_key") or sending.default_queue
    if queue.startswith(RESERVED_PREFIXES):
        raise ValueError(f"a queue cannot be named {queue!r}: keys that begin so are the broker's own")
    priority = get("priority")
    if priority is None:
        priority = sending.default_priority or 0
    if before_task_publish.receivers:
        text = _announce(name, headers, body, queue)
    raw = pack(
        headers=headers,
        body=text,
        queue=queue,
        task_id=task_id,
        delivery_tag=os.urandom(16).hex(),
        priority=priority,
        reply_to=get("reply_to") or (sending.replies and app.reply_to) or "",
        expiration_ms=expiration_ms,
        published_at=int(now),  # AMQP's type: a fraction could not be moved on to a broker that speaks it
    )
    return Draft(task_id, Publication(queue, raw, priority, eta), headers, body)


def _dumps(name: str, body: tuple[Any, ...]) -> str:
    try:
        return values.dumps(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"the arguments of {name} cannot be sent: {error}") from error


def _announce(name: str, headers: dict[str, Any], body: tuple[Any, Any, dict[str, Any]], queue: str) -> str:
    """Send before_task_publish, whose receivers may change headers and arguments; return the body anew."""
    before_task_publish.send(
        sender=name,
        body=body,
        exchange="",
        routing_key=queue,
        declare=[],
        headers=headers,
        properties={"correlation_id": headers["id"]},
        retry_policy={},
    )
    return _dumps(name, body) if body[2] is not _EMBED else _dumps(name, body[:2])[:-1] + _EMBED_TEXT
