"""What a setting's value may be, and the checks that some values need. Callers: `table` and `resolve`.

A kind turns what people write (in Python, in Django's settings, in an environment variable) into one form,
or raises ValueError whose text completes the sentence "<setting> …".
"""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec

from muster.core.rate import read_rate
from muster.errors import ConfigurationError
from muster.settings.queues import read_queues


class Kind(msgspec.Struct, frozen=True):
    """A form of value: what it is called in the reference, and how it is read."""

    name: str
    read: Callable[[Any], Any]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"must be a text, not {value!r}")


def _rate(value: Any) -> str:
    try:
        read_rate(value, whose="it")
    except ConfigurationError:
        raise ValueError(f"must be a rate such as 10/s, 100/m or 1000/h, not {value!r}") from None
    return str(value)


def _boolean(value: Any) -> bool:
    if value in (True, False):
        return bool(value)
    word = value.lower() if isinstance(value, str) else None
    if word in {"true", "yes", "on", "1"}:
        return True
    if word in {"false", "no", "off", "0"}:
        return False
    raise ValueError(f"must be true or false, not {value!r}")


def _integer(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(f"must be a whole number, not {value!r}")
    return number


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"must be a number, not {value!r}")
    return number


def _seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        number = _number(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"must be a number of seconds or a timedelta, not {value!r}")
    return number


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(part, str) for part in value):
        return tuple(sorted(value)) if isinstance(value, set | frozenset) else tuple(value)
    raise ValueError(f"must be a list of texts, not {value!r}")


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"must be a mapping, not {value!r}")


TEXT = Kind("text", _text)
RATE = Kind("rate such as 100/m", _rate)
BOOLEAN = Kind("true or false", _boolean)
INTEGER = Kind("whole number", _integer)
NUMBER = Kind("number", _number)
SECONDS = Kind("seconds", _seconds)
TEXTS = Kind("list of texts", _texts)
MAPPING = Kind("mapping", _mapping)
ANY = Kind("any", lambda value: value)

Check: TypeAlias = Callable[[Any], None]
"""Raises ValueError for a value that Muster cannot carry out; the text says what to do instead."""


def json_only(value: Any) -> None:
    """Refuse every serializer but JSON."""
    names = (value,) if isinstance(value, str) else value
    other = [name for name in names if name not in {"json", "application/json"}]
    if other:
        raise ValueError(
            f"names {', '.join(map(repr, other))}: Muster reads and writes JSON only; pass plain values, or "
            "give a class of yours a __json__() method"
        )


def protocol_2(value: Any) -> None:
    """Refuse to write the messages of Celery 3."""
    if value != 2:
        raise ValueError(f"is {value!r}: Muster writes protocol 2 (and reads 1 as well); leave it out")


def direct_exchange(value: Any) -> None:
    """Refuse exchanges that copy or match."""
    if value not in {"direct", ""}:
        raise ValueError(f"is {value!r}: Muster routes by queue name only; name queues in task_routes")


def queue_type(value: Any) -> None:
    """Allow RabbitMQ's two kinds of queues for tasks. Raises ValueError."""
    if value not in {"quorum", "classic"}:
        raise ValueError(f"must be 'quorum' or 'classic', not {value!r}")


def known_queues(value: Any) -> None:
    """Refuse queue lists without names or with exchanges that copy or match."""
    read_queues(value)


REDIS_OPTIONS: Mapping[str, str] = {
    "global_keyprefix": "prefix of every key on the broker",
    "unacked_key": "key of Celery's hash of unacknowledged messages",
    "unacked_index_key": "key of Celery's index of the same",
    "socket_timeout": "seconds until a silent server counts as gone",
    "socket_connect_timeout": "seconds for connecting",
    "socket_keepalive": "TCP keepalive",
    "confirm_timeout": "seconds for which a client waits for RabbitMQ to take a message; 10 by default",
    "health_check_interval": "seconds of idleness after which a connection is tried before use",
    "visibility_timeout": (
        "accepted: how long Celery's workers may hold a message; Muster's hold theirs by a lease"
    ),
}

_FIXED_OPTIONS: Mapping[str, Any] = {"priority_steps": [0, 3, 6, 9], "sep": "\x06\x16"}


def redis_options(value: Any) -> None:
    """Refuse options that would place messages where Muster does not look."""
    for name, fixed in _FIXED_OPTIONS.items():
        given = value.get(name, fixed)
        if (list(given) if isinstance(given, tuple) else given) != fixed:
            raise ValueError(f"sets {name} to {given!r}: Muster keeps to {fixed!r}; leave it out everywhere")
    if value.get("master_name"):
        raise ValueError("names a Sentinel master: Sentinel comes in a later version; name one server")
