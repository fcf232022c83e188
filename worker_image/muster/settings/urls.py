"""URLs of brokers and result stores: which are known, what is wrong with one, and how it may be shown.

Callers: the settings' table, the command line, the environment's reader. It opens nothing.
"""

from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from muster.errors import ConfigurationError

_KNOWN = "redis://, rediss://, unix:// or sqlite:///"
_BROKERS = f"amqp://, amqps://, {_KNOWN}"
_CA_OPTIONS = {"rediss": "ssl_ca_certs", "amqps": "cacertfile"}
"""By scheme, the option of a URL that names the authorities to trust: redis-py's, and RabbitMQ's own."""
_RABBITMQ_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
_ESCAPE = "special characters in a password are written as %XX"
_RABBITMQ = (
    "is RabbitMQ's, where no results can be kept; use rpc:// to have them sent, redis:// or sqlite:///"
)
_SENTINEL = "is Redis Sentinel's, which comes in a later version; name one server with redis://"

_NOT_HERE = {
    **dict.fromkeys(_RABBITMQ_SCHEMES, _RABBITMQ),
    "redis+sentinel": _SENTINEL,
    "sentinel": _SENTINEL,
    "redis+socket": "is written unix:///path/to/redis.sock?db=0 here",
    "sqs": "is Amazon SQS's, for which there is no transport; use redis://",
    "memory": "cannot be shared by processes; use sqlite:///FILE, or task_always_eager in tests",
    "rpc": "is for results that go over the broker; a broker is amqp://, redis:// or sqlite:///",
    "db+sqlite": "is written sqlite:///FILE here",
    "cache+memory": "cannot be shared by processes; use sqlite:///FILE",
    "file": "is not supported; use sqlite:///FILE, which needs no server either",
}


class ServiceURL(msgspec.Struct, frozen=True):
    """A URL that Muster can use. `str()` shows it without its password."""

    url: str
    scheme: str

    def __str__(self) -> str:
        return mask(self.url)


def mask(url: str) -> str:
    """Return the URL with `***` for its password, and for all before the @ when in doubt."""
    servers = url.split(";")
    if len(servers) > 1 and all(_wrong_server(server.strip()) is None for server in servers):
        return ";".join(map(mask, servers))
    head, separator, rest = url.partition("://")
    if not separator:
        return f"***@{url.rpartition('@')[2]}" if "@" in url else url
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    shown = f"{user}:***" if colon and "/" not in user else "***"
    place, question, query = place.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    options = "&".join(
        name + equals + ("***" if "password" in name.lower() else value) for name, equals, value in pairs
    )
    return f"{head}://{shown + at if at else ''}{place}{question}{options}"


def _wrong(url: Any) -> str | None:
    """Return what is wrong with a URL, to follow its name in a sentence; None when it can be used."""
    if not isinstance(url, str):
        return f"is no text: write one URL that begins with {_KNOWN}"
    try:
        parts = urlsplit(url)
        scheme, place, path, port = parts.scheme, parts.netloc, parts.path, parts.port
    except ValueError:
        return f"has parts that cannot be told apart; its port is a number below 65536, and {_ESCAPE}"
    if scheme in _NOT_HERE:
        return _NOT_HERE[scheme]
    if scheme not in {"redis", "rediss", "unix", "sqlite"} or not url.startswith(f"{scheme}://"):
        return f"does not begin with {_KNOWN}"
    if ";" in url or "," in place:
        return "names several servers; name one"
    if scheme == "sqlite":
        if place or path in {"", "/"}:
            return "names no file; write sqlite:///relative.db or sqlite:////absolute.db"
    elif scheme == "unix":
        if not path:
            return "names no socket; write unix:///path/to/redis.sock?db=0"
    elif port == 0 or "@" in path:
        return f"has no usable host and port; {_ESCAPE}"
    elif path.strip("/") and not path.strip("/").isdecimal():
        return f"has {path.strip('/')!r} where the number of a database stands"
    return None


def _wrong_broker(url: Any) -> str | None:
    """Do the same for a broker's URL, which may name RabbitMQ, and several servers of it behind `;`."""
    if isinstance(url, str) and url.partition(":")[0] in _RABBITMQ_SCHEMES:
        wrongs = (_wrong_server(server) for server in map(str.strip, url.split(";")) if server)
        return next((wrong for wrong in wrongs if wrong), None)
    wrong = _wrong(url)
    return wrong and wrong.replace(_KNOWN, _BROKERS)


def _wrong_results(url: Any) -> str | None:
    """Do the same for where results are, which may be `rpc://`: with who has sent the task."""
    if isinstance(url, str) and url.partition(":")[0] == "rpc":
        return None if url == "rpc://" else "names a place; results over the broker are written rpc://"
    wrong = _wrong(url)
    return wrong and wrong.replace(_KNOWN, f"rpc://, {_KNOWN}")


def _checked(url: str, what: str, wrong: str | None) -> ServiceURL:
    if wrong:
        raise ConfigurationError(f"the {what} URL {mask(str(url))!r} {wrong}")
    return ServiceURL(url, urlsplit(url).scheme)


def parse_broker_url(url: str) -> ServiceURL:
    """Return the broker's URL. Raises ConfigurationError: what is wrong, without a password."""
    return _checked(url, "broker", _wrong_broker(url))


def parse_result_url(url: str) -> ServiceURL:
    """Return the result store's URL. Raises ConfigurationError as `parse_broker_url` does."""
    return _checked(url, "result backend", _wrong_results(url))


def with_ca_file(url: str, ca_file: str | None) -> str:
    """Return the URL, trusting the certificates in `ca_file` if it asks for TLS and names none."""
    option = _CA_OPTIONS.get(url.partition("://")[0])
    if not ca_file or option is None or f"{option}=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{option}={quote(ca_file)}"


def usable_results(value: Any) -> None:
    """Check a setting's value. Raises ValueError."""
    if wrong := _wrong_results(value):
        raise ValueError(f"{mask(str(value))!r} {wrong}")


def usable_broker(value: Any) -> None:
    """Check a setting's value. Raises ValueError."""
    if wrong := _wrong_broker(value):
        raise ValueError(f"{mask(str(value))!r} {wrong}")


def _wrong_server(url: str) -> str | None:
    """Return what is wrong with the URL of one RabbitMQ server."""
    try:
        parts = urlsplit(url)
        scheme, path, port = parts.scheme, parts.path, parts.port
    except ValueError:
        return f"has parts that cannot be told apart; its port is a number below 65536, and {_ESCAPE}"
    if scheme not in _RABBITMQ_SCHEMES or not url.startswith(f"{scheme}://"):
        return "stands beside RabbitMQ's servers and is none: write amqp:// or amqps:// before each"
    if port == 0 or "@" in path or "," in parts.netloc:
        return f"has no usable host and port; write several servers as amqp://one;amqp://two, and {_ESCAPE}"
    return None
