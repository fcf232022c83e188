"""A real HAProxy with the example's configuration, in front of RabbitMQ's nodes on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from servers import ServerMissingError, dying_with_parent, free_port
from waiting import wait_for

CONFIGURATION = Path(__file__).parents[1] / "examples/rabbitmq-cluster/haproxy.cfg"


class HAProxy:
    """HAProxy on a free loopback port. Usable as a context manager."""

    def __init__(self, nodes: Sequence[int], *, idle_seconds: int) -> None:
        """`nodes` are three ports; a connection that is idle for longer is closed, as many a balancer does.

        Raises `ServerMissingError`.
        """
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if program is None:
            raise ServerMissingError("haproxy is not on PATH: install HAProxy, or run `make test`")
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="muster-haproxy-")
        folder = Path(self._folder.name)
        self._log = folder / "log"
        (folder / "haproxy.cfg").write_text(
            CONFIGURATION.read_text()
            .replace("timeout client 3m", f"timeout client {idle_seconds}s")
            .replace("timeout server 3m", f"timeout server {idle_seconds}s")
        )
        self._command = [*dying_with_parent(), program, "-W", "-db", "-f", str(folder / "haproxy.cfg")]
        self._environment = {
            **os.environ,
            "LISTEN": f"127.0.0.1:{self.port}",
            **{f"NODE_{number}": f"127.0.0.1:{port}" for number, port in enumerate(nodes)},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        wait_for(self._answers, what=f"HAProxy on port {self.port}")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"HAProxy ended: {self.log()}")
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()
