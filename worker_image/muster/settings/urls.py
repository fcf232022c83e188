"""URLs of brokers and result stores: which are known, what is wrong with one, and how it may be shown.

Callers: the settings' table, the command line, the environment's reader. It opens nothing.
"""

from urllib.parse import unquote, urlsplit

import msgspec

from muster.errors import ConfigurationError

_KNOWN = "redis://, rediss://, unix:// or sqlite:///"

_NOT_YET = {
    "amqp": "RabbitMQ comes in the next version",
    "amqps": "RabbitMQ comes in the next version",
    "pyamqp": "RabbitMQ comes in the next version",
    "redis+sentinel": "Redis Sentinel comes in a later version; name one server with redis://",
    "sentinel": "Redis Sentinel comes in a later version; name one server with redis://",
    "redis+socket": "a socket's URL is written unix:///path/to/redis.sock?db=0",
    "sqs": "Muster has no transport for Amazon SQS",
    "memory": "workers are processes of their own and need sqlite:///FILE at least; "
    "task_always_eager runs tasks in the caller",
    "rpc": "results over the broker's reply queues are Celery's; Muster keeps them in Redis or SQLite",
    "db+sqlite": "Muster's own SQLite store is written sqlite:///FILE",
    "cache+memory": "a cache inside one process cannot be read by another",
    "file": "results as files are not kept; sqlite:///FILE needs no server",
}


class ServiceURL(msgspec.Struct, frozen=True):
    """A URL that Muster can use. `str()` shows it without its password."""

    url: str
    scheme: str

    def __str__(self) -> str:
        return mask(self.url)


def mask(url: str) -> str:
    """Return the URL with `***` for its password, and for all before an @ that cannot be told apart."""
    head, separator, rest = url.partition("://")
    if not separator:
        return f"***@{url.rpartition('@')[2]}" if "@" in url else url
    place, slash, path = rest.partition("/")
    if "@" in path and "@" not in place:  # a password with a bare slash
        place, slash, path = (
            rest.rpartition("@")[0] + "@" + rest.rpartition("@")[2].partition("/")[0],
            "/",
            "",
        )
    credentials, at, host = place.rpartition("@")
    user, colon, _ = credentials.partition(":")
    shown = f"{user}{colon}***" if colon else ("***" if credentials else "")
    path = _mask_query(path)
    return f"{head}://{shown}{at}{host}{slash}{path}"


def _mask_query(path: str) -> str:
    path, question, query = path.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    return (
        path
        + question
        + "&".join(
            name + equals + ("***" if "password" in name.lower() else value) for name, equals, value in pairs
        )
    )


def _parse(url: str, what: str) -> ServiceURL:
    if not url or not isinstance(url, str):
        raise ConfigurationError(f"the {what} URL is empty: write one that begins with {_KNOWN}")
    if ";" in url or "," in url.partition("://")[2].partition("/")[0].rpartition("@")[2]:
        raise ConfigurationError(f"the {what} URL {mask(url)!r} names several servers: write one URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        text = str(error) if "@" not in str(error) else "its parts cannot be told apart"
        raise ConfigurationError(
            f"the {what} URL {mask(url)!r} is not well formed ({text}); special characters in a password are "
            "written as %XX"
        ) from None
    scheme = parts.scheme
    if scheme in _NOT_YET:
        raise ConfigurationError(f"the {what} URL {mask(url)!r} cannot be used: {_NOT_YET[scheme]}")
    if scheme not in {"redis", "rediss", "unix", "sqlite"}:
        raise ConfigurationError(f"the {what} URL {mask(url)!r} does not begin with {_KNOWN}")
    if not url.startswith(f"{scheme}://"):
        raise ConfigurationError(f"the {what} URL {mask(url)!r} lacks the two slashes after {scheme}:")
    if scheme == "sqlite":
        if parts.netloc or parts.path in {"", "/"}:
            raise ConfigurationError(
                f"the {what} URL {mask(url)!r} names no file: write sqlite:///relative.db or "
                "sqlite:////absolute.db"
            )
    elif scheme == "unix":
        if not parts.path:
            raise ConfigurationError(
                f"the {what} URL {mask(url)!r} names no socket: unix:///path/to/redis.sock"
            )
    else:
        database = parts.path.strip("/")
        if port == 0 or "@" in parts.path:
            raise ConfigurationError(
                f"the {what} URL {mask(url)!r} has no usable host and port; special characters in a password "
                "are written as %XX"
            )
        if database and not database.isdecimal():
            raise ConfigurationError(
                f"the {what} URL {mask(url)!r} has {unquote(database)!r} where a database's number stands"
            )
    return ServiceURL(url, scheme)


def parse_broker_url(url: str) -> ServiceURL:
    """Return the broker's URL. Raises ConfigurationError: what is wrong, without a password."""
    return _parse(url, "broker")


def parse_result_url(url: str) -> ServiceURL:
    """Return the result store's URL. Raises ConfigurationError as `parse_broker_url` does."""
    return _parse(url, "result backend")


def broker_url(value: str) -> None:
    """Check a setting's value. Raises ValueError."""
    _check(value, "broker")


def result_url(value: str) -> None:
    """Check a setting's value. Raises ValueError."""
    _check(value, "result backend")


def _check(value: str, what: str) -> None:
    try:
        _parse(value, what)
    except ConfigurationError as error:
        raise ValueError(f"cannot be used: {error}") from None
