"""Liveness, readiness and metrics of a worker or a beat over HTTP, for the kubelet and Prometheus.

`/livez`: the loop comes round. A broker that is away fails no probe of it: a restart would help nobody.
`/readyz`: the broker answers and we are not about to leave. `/metrics`: what the collector has. Served from
a native thread, which reads plain attributes of the loop and nothing else.
"""

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from muster.errors import ConfigurationError

STALE_SECONDS: Final = 30.0
"""A loop that has not come round for so long is stuck: it waits for the broker 10 s at most."""


class Watched(Protocol):
    """The loop whose health is served."""

    last_pass: float
    """When it last came round, by the monotonic clock."""
    connected: bool

    @property
    def draining(self) -> bool:
        """Whether it is about to leave."""


def render(collector: Collector) -> bytes:
    """Return the text exposition."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


def liveness(last_pass_age_seconds: float) -> tuple[int, str]:
    """Return HTTP status and text for the loop's age."""
    if last_pass_age_seconds > STALE_SECONDS:
        return 503, f"the loop has not come round for {last_pass_age_seconds:.0f} s\n"
    return 200, "ok\n"


def readiness(*, connected: bool, draining: bool) -> tuple[int, str]:
    """Return HTTP status and text for what it does."""
    if draining:
        return 503, "draining\n"
    return (200, "ok\n") if connected else (503, "the broker cannot be reached\n")


class _Handler(BaseHTTPRequestHandler):
    server_version = "muster"
    protocol_version = "HTTP/1.1"
    timeout = 10
    server: "HealthServer"

    def do_GET(self) -> None:
        loop = self.server.loop
        kind = "text/plain; charset=utf-8"
        match self.path.partition("?")[0]:
            case "/livez":
                status, text = liveness(time.monotonic() - loop.last_pass)
                body = text.encode()
            case "/readyz":
                status, text = readiness(connected=loop.connected, draining=loop.draining)
                body = text.encode()
            case "/metrics":
                status, body = 200, render(self.server.collector)
                kind = "text/plain; version=0.0.4; charset=utf-8"
            case _:
                status, body = 404, b"here are /livez, /readyz and /metrics\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: probes come every few seconds."""


class HealthServer(ThreadingHTTPServer):
    """The server; `port` is the real one when the address asked for any."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, loop: Watched, collector: Collector) -> None:
        host, _, port = address.rpartition(":")
        try:
            super().__init__((host.strip("[]"), int(port)), _Handler)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the metrics address {address!r} cannot be served: {error}; give HOST:PORT or :PORT"
            ) from None
        self.loop = loop
        self.collector = collector
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)
        self._closing = False

    def serve_in_background(self) -> None:
        """Serve from a thread of its own until `close`."""
        self._thread.start()

    def _serve(self) -> None:
        # `serve_forever` looks only every half second whether it shall end, and a leaving worker waits for it
        while not self._closing:
            self.handle_request()

    def close(self) -> None:
        """End the thread and give up the port."""
        self._closing = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(1.0)
        self.server_close()
