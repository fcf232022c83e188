"""Messages that wait on RabbitMQ for their time: Celery's layout of queues that expire into the next.

A delay is written in binary, 28 bits. For each bit there is a queue in which a message stays for that bit's
worth of seconds, and an exchange that leads into the queue if the bit is set and past it if not; behind the
last stands one exchange for all that has waited. The names and arguments are those of kombu's
`native_delayed_delivery` (5.7), so that Celery's clients and workers use the same ones.

The publisher asks for a routing key, whoever declares queues for the parts. It talks to nobody.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

LEVELS: Final = 28
MAX_SECONDS: Final = 2**LEVELS - 1
"""8.5 years: what waits for longer comes back then, and is sent to wait again."""
DELIVERY_EXCHANGE: Final = "celery_delayed_delivery"

_DELAYS: Final = re.compile(rf"^(?:[01]\.){{{LEVELS}}}")


class Exchange(msgspec.Struct, frozen=True):
    """A topic exchange, durable."""

    name: str


class Queue(msgspec.Struct, frozen=True):
    """A queue, durable."""

    name: str
    arguments: dict[str, Any]


class QueueBinding(msgspec.Struct, frozen=True):
    """A queue gets what comes to an exchange with such a key."""

    queue: str
    exchange: str
    routing_key: str


class ExchangeBinding(msgspec.Struct, frozen=True):
    """An exchange gets what comes to another one with such a key."""

    destination: str
    source: str
    routing_key: str


Part = Exchange | Queue | QueueBinding | ExchangeBinding


def level_name(level: int) -> str:
    """Return the name of a level's queue and of its exchange."""
    return f"celery_delayed_{level}"


ENTRY: Final = level_name(LEVELS - 1)
"""The exchange to which a message that has to wait is published."""


def layout(queue_type: str) -> Iterator[Part]:
    """Yield the parts, each after those that it needs. `queue_type` is `quorum` or `classic`.

    The entry comes last, since who finds it takes it for the sign that all is there.
    """
    yield Exchange(DELIVERY_EXCHANGE)
    for level in range(LEVELS):
        name, after = level_name(level), level_name(level - 1) if level else DELIVERY_EXCHANGE
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": 2**level * 1000,
            "x-dead-letter-exchange": after,
        }
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        passed = "*." * (LEVELS - 1 - level)
        yield Queue(name, arguments)
        yield Exchange(name)
        yield QueueBinding(name, name, f"{passed}1.#")
        yield ExchangeBinding(after, name, f"{passed}0.#")


def return_of(queue: str) -> QueueBinding:
    """Return what leads a message that has waited into its queue, whatever exchange that has besides.

    With as many words before the queue's name as there are bits: behind Celery's own `#.`, what is meant for
    the queue `a.b` would come to a queue `b` as well.
    """
    return QueueBinding(queue, DELIVERY_EXCHANGE, "*." * LEVELS + queue)


def routing_key(seconds: float, queue: str) -> str:
    """Return the key under which a message waits for so long, rounded up, before it comes to its queue."""
    whole = min(MAX_SECONDS, max(1, math.ceil(seconds)))
    # one that comes from a retry may have waited already
    return ".".join(f"{whole:0{LEVELS}b}") + "." + _DELAYS.sub("", queue, count=1)
