"""Real servers as plain processes on loopback.

Fixtures in `tests/conftest.py` start them; a test that needs to kill, stop or restart a server asks for one
of its own. A server keeps what it has confirmed across a kill, as production's should.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import redis

from waiting import wait_for


class ServerMissingError(Exception):
    """The server's program is not on PATH; the message says how to get it."""


class RedisServer:
    """A redis-server on a free loopback port that writes every confirmed command to disk.

    Usable as a context manager. `url` stays the same across restarts.
    """

    def __init__(self, *, options: Sequence[str] = ()) -> None:
        """`options` are added to redis-server's command line. Raises `ServerMissingError`."""
        program = shutil.which("redis-server")
        if program is None:
            raise ServerMissingError(
                "redis-server is not on PATH: install Redis 7 or newer, or run `make test`"
            )
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory(prefix="muster-redis-")
        self._log = Path(self._folder.name) / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            *dying_with_parent(),
            *[program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name],
            *["--appendonly", "yes", "--appendfsync", "always", "--save", ""],
            *options,
        ]

    @property
    def pid(self) -> int:
        """The process id of the running server; raises `RuntimeError` when it is not running."""
        if not self.running:
            raise RuntimeError(f"the Redis server on port {self.port} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server, with the data of its earlier life, and wait until it answers."""
        if self.running:
            return self
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._answers, what=f"redis-server on port {self.port}", timeout_seconds=20)
        return self

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"redis-server on port {self.port} ended: {self.log()[-2000:]}")
        try:
            with self.client() as client:
                return client.ping()
        except (redis.ConnectionError, redis.TimeoutError) as error:  # also: still loading its data
            raise ConnectionError(str(error)) from error

    def stop(self) -> None:
        """Shut the server down in good order. One that is not running is fine."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, signal_number: int) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def restart(self) -> None:
        """Stop in good order and start again."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Remove all data, scripts and functions, and close everybody's connections."""
        with self.client() as client:
            client.flushall()
            client.script_flush()
            client.client_kill_filter(_type="normal", skipme=True)

    def client(self, **options: object) -> redis.Redis:
        """Return a new client; the caller closes it."""
        return redis.Redis.from_url(self.url, **options)

    def log(self) -> str:
        """What the server has printed in all its lives."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End the server and remove its folder."""
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


def _ports(process: str) -> Iterator[int]:
    """Yield ports below those of outgoing connections; each process of the tests has its own, in a ring."""
    first = 10_000 + 4_000 * (int(process.removeprefix("gw") or 0) % 5)
    start = random.randrange(4_000)
    for number in itertools.count(start):
        yield first + number % 4_000


_PORTS = _ports(os.environ.get("PYTEST_XDIST_WORKER", ""))


def free_port() -> int:
    """Return a loopback port that nobody listens on, and that nobody is given while a server starts on it."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ring has no end")


def dying_with_parent() -> list[str]:
    """Return a command prefix under which a program ends with us even if we are killed.

    Linux' parent-death signal comes when the *thread* that started the program ends: start servers from the
    main thread. Elsewhere than on Linux this is empty.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv and os.uname().sysname == "Linux" else []
