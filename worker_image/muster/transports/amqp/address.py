"""Where RabbitMQ is: from a broker URL, or several, to what pika connects with.

The URL is kombu's: `amqp://user:password@host:port/vhost`, more of them behind `;`, and an empty virtual
host or a second slash means `/`. Opens nothing.
"""

import ssl
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pika

from muster.errors import ConfigurationError

CONNECT_SECONDS: Final = 10.0
"""How long a server may take to answer at each step until the connection is there."""
REACH_SECONDS: Final = 3.0
"""How long one of several servers may take to be reached at all: there is another to ask."""
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def addresses(url: str, *, heartbeat_seconds: int) -> list[pika.ConnectionParameters]:
    """Return one address for each server that the URL names. Raises ConfigurationError.

    `heartbeat_seconds` holds where the URL's `heartbeat` does not say otherwise; 0: none.
    """
    urls = [each.strip() for each in url.split(";") if each.strip()]
    reach_seconds = REACH_SECONDS if len(urls) > 1 else CONNECT_SECONDS
    return [_address(each, heartbeat_seconds, reach_seconds) for each in urls]


def _address(url: str, heartbeat_seconds: int, reach_seconds: float) -> pika.ConnectionParameters:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = parts.hostname or "localhost"
    secure = parts.scheme == "amqps"
    try:
        return pika.ConnectionParameters(
            host=host,
            port=parts.port or (5671 if secure else 5672),
            virtual_host=virtual_host(parts.path),
            credentials=pika.PlainCredentials(
                unquote(parts.username or "guest"), unquote(parts.password or "guest")
            ),
            heartbeat=int(options.pop("heartbeat", heartbeat_seconds)),
            socket_timeout=reach_seconds,
            stack_timeout=CONNECT_SECONDS,
            ssl_options=_tls(host, options) if secure else None,
            tcp_options=_KEEPALIVE,
            client_properties={"product": "Muster"},
        )
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the broker URL cannot be used: {error}") from None


def virtual_host(path: str) -> str:
    """Return the virtual host that a URL's path names: `/` for none, as kombu has it."""
    return unquote(path[1:]) or "/"


def _tls(host: str, options: dict[str, str]) -> pika.SSLOptions:
    context = ssl.create_default_context(cafile=options.get("cacertfile"))
    if certificate := options.get("certfile"):
        context.load_cert_chain(certificate, options.get("keyfile"))
    return pika.SSLOptions(context, host)


def place_of(address: pika.ConnectionParameters) -> str:
    """Return host, port and virtual host, without user and password."""
    name = address.virtual_host
    return f"{address.host}:{address.port}" + ("" if name == "/" else f"/{name}")
