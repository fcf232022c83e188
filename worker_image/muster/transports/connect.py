"""From a broker URL to a transport, publisher or observer. Callers: the worker, the application, beat.

A URL's scheme chooses the implementation, which is imported only then: an idle worker carries no more than
it uses.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from muster.errors import ConfigurationError
from muster.settings.environment import DeadLetter
from muster.settings.queues import AS_CELERY, QueueArguments
from muster.transports.base import Observer, Publisher, Transport
from muster.transports.schedules.base import ScheduleStore
from muster.wire.keys import RedisKeys

if TYPE_CHECKING:
    from muster.transports.redis import Server

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})
RABBITMQ_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})


def _scheme(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme in REDIS_SCHEMES or scheme == "sqlite":
        return scheme
    raise ConfigurationError(
        f"no transport for a broker URL that begins with {scheme or url.split('://', 1)[0]!r}: "
        "use amqp://, amqps://, redis://, rediss:// or sqlite:///"
    )


def is_rabbitmq(url: str) -> bool:
    """Whether a broker URL names RabbitMQ."""
    return urlsplit(url).scheme in RABBITMQ_SCHEMES


def redis_keys(options: Mapping[str, Any]) -> RedisKeys:
    """Return the names that Celery's `broker_transport_options` lead to."""
    return RedisKeys(
        prefix=options.get("global_keyprefix", ""),
        unacked_key=options.get("unacked_key", "unacked"),
        unacked_index_key=options.get("unacked_index_key", "unacked_index"),
    )


def _server(url: str, options: Mapping[str, Any], *, for_tasks: bool = False) -> "Server":
    from muster.transports.redis import Server

    passed_on = ("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval")
    try:
        return Server(
            url,
            redis_keys(options),
            {name: options[name] for name in passed_on if name in options},
            for_tasks=for_tasks,
        )
    except ValueError as error:
        raise ConfigurationError(f"the broker URL cannot be used: {error}") from None


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name one database, so that one transaction covers both."""
    if is_rabbitmq(one):
        return False
    if _scheme(one) == "sqlite" or urlsplit(other).scheme == "sqlite":
        return one == other
    from muster.redis_client import place_of

    return urlsplit(other).scheme == urlsplit(one).scheme and place_of(one) == place_of(other)


def connect_transport(
    url: str,
    *,
    queues: Sequence[str],
    worker: str,
    pool: str,
    lease_seconds: float,
    dead_letters: Mapping[str, DeadLetter],
    options: Mapping[str, Any],
    results_prefix: str | None,
    delayed_type: str = "quorum",
    create_missing_queues: bool = True,
    queue_arguments: QueueArguments = AS_CELERY,
    declare_queues: bool = True,
) -> Transport:
    """Return a worker's transport. `results_prefix`: key prefix of results in the same database, else None.

    `options` are Celery's `broker_transport_options`. What has a default is for RabbitMQ only; see
    `muster.transports.amqp.transport`. Raises ConfigurationError.
    """
    if is_rabbitmq(url):
        from muster.transports.amqp.transport import AmqpTransport

        return AmqpTransport(
            url,
            queues=queues,
            worker=worker,
            pool=pool,
            lease_seconds=lease_seconds,
            dead_letters=dead_letters,
            delayed_type=delayed_type,
            create_missing_queues=create_missing_queues,
            queue_arguments=queue_arguments,
            declare_queues=declare_queues,
        )
    if _scheme(url) == "sqlite":
        from muster.transports.sqlite import SQLiteTransport

        return SQLiteTransport(
            url,
            queues=queues,
            worker=worker,
            pool=pool,
            lease_seconds=lease_seconds,
            dead_letters=dead_letters,
            results_joined=results_prefix is not None,
        )
    from muster.transports.redis import RedisTransport

    return RedisTransport(
        _server(url, options, for_tasks=True),
        queues=queues,
        worker=worker,
        pool=pool,
        lease_seconds=lease_seconds,
        dead_letters=dead_letters,
        results=None if results_prefix is None else RedisKeys(prefix=results_prefix),
        visibility_timeout_seconds=float(options.get("visibility_timeout", 3600)),
    )


def connect_publisher(
    url: str,
    options: Mapping[str, Any],
    *,
    delayed_type: str = "quorum",
    create_missing_queues: bool = True,
    queue_arguments: QueueArguments = AS_CELERY,
    pool_limit: int = 0,
) -> Publisher:
    """Return a client's publisher. Raises ConfigurationError.

    What has a default is for RabbitMQ only; see `muster.transports.amqp.publisher`.
    """
    if is_rabbitmq(url):
        from muster.transports.amqp.outbox import CONFIRM_SECONDS
        from muster.transports.amqp.publisher import POOL_LIMIT, AmqpPublisher

        return AmqpPublisher(
            url,
            delayed_type=delayed_type,
            create_missing_queues=create_missing_queues,
            queue_arguments=queue_arguments,
            pool_limit=pool_limit or POOL_LIMIT,
            confirm_seconds=float(options.get("confirm_timeout") or CONFIRM_SECONDS),
        )
    if _scheme(url) == "sqlite":
        from muster.transports.sqlite import SQLitePublisher

        return SQLitePublisher(url)
    from muster.transports.redis import RedisPublisher

    return RedisPublisher(_server(url, options, for_tasks=True))


def connect_observer(url: str, options: Mapping[str, Any], dead_letters: Mapping[str, str]) -> Observer:
    """Return a reader of queues and reports. Raises ConfigurationError."""
    if is_rabbitmq(url):
        from muster.transports.amqp.observer import AmqpObserver

        return AmqpObserver(url, dead_letters)
    if _scheme(url) == "sqlite":
        from muster.transports.sqlite import SQLiteObserver

        return SQLiteObserver(url, dead_letters=dict(dead_letters))
    from muster.transports.redis import RedisObserver

    return RedisObserver(_server(url, options), dict(dead_letters))


def connect_schedules(
    url: str,
    *,
    scope: str,
    options: Mapping[str, Any] = MappingProxyType({}),
    delayed_type: str = "quorum",
    create_missing_queues: bool = True,
    queue_arguments: QueueArguments = AS_CELERY,
) -> ScheduleStore:
    """Return the schedules of a scope (a namespace) and their election. Raises ConfigurationError.

    What has a default besides `options` is for RabbitMQ only; see `muster.transports.schedules.amqp`.
    """
    if is_rabbitmq(url):
        from muster.transports.schedules.amqp import AmqpSchedules

        return AmqpSchedules(
            url,
            scope=scope,
            delayed_type=delayed_type,
            create_missing_queues=create_missing_queues,
            queue_arguments=queue_arguments,
        )
    if _scheme(url) == "sqlite":
        from muster.transports.schedules.sqlite import SQLiteSchedules

        return SQLiteSchedules(url, scope=scope)
    from muster.transports.schedules.redis import RedisSchedules

    return RedisSchedules(_server(url, options), scope=scope)
