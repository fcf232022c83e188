"""Reaching a Redis server: how a client is made, and what its errors mean. For transports and results.

The settings are the same wherever we connect: bounded waits, and no repeating inside redis-py, because what
may be repeated is for the caller to decide.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from muster.errors import BrokerRefused, BrokerUnavailable

SOCKET_TIMEOUT_SECONDS: Final = 10.0


def new_client(url: str, **options: Any) -> redis.Redis:
    """Return a client. Raises ValueError for a URL that redis-py does not understand."""
    settings = {
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        # a Unix socket has no use for keepalive, and redis-py's connection for it no word
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        **options,
    }
    return redis.Redis.from_url(url, **settings)


def place_of(url: str) -> str:
    """Return host, port and database of a Redis URL, without user and password."""
    options: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{where}/{options.get('db', 0)}"


@contextmanager
def outage(place: str) -> Iterator[None]:
    """Turn redis-py's errors into ours. `place` names the server without a password."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerRefused(f"Redis at {place} refuses our credentials: {error}") from error
    except redis.ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise BrokerRefused(f"Redis at {place} refuses our credentials: {error}") from error
        raise BrokerUnavailable(f"Redis at {place} answers with an error: {error}") from error
    except (redis.RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis at {place} cannot be reached: {error}") from error
