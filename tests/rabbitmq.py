"""A real RabbitMQ as a plain process on loopback, with a node, a folder and a port mapper of its own.

Fixtures in `tests/conftest.py` start it; each test gets a virtual host of its own. The server's own HTTP API
says and changes what AMQP does not.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from servers import ServerMissingError, dying_with_parent, free_port
from waiting import wait_for

DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's program itself: the one on PATH gives up root for a user who could not read our folder."""


@dataclass(frozen=True)
class VirtualHost:
    """One virtual host, and the server's word on what is in it."""

    server: "RabbitMQServer"
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def queue(self, name: str) -> dict[str, Any]:
        """Return what the server says of a queue. Raises AssertionError when it is not there."""
        try:
            return self.server.api("GET", f"queues/{self.name}/{quote(name, safe='')}")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"queue {name}: {error}") from None

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take all messages out of a queue: `payload`, `properties`, `routing_key` and more of each."""
        path = f"queues/{self.name}/{quote(queue, safe='')}/get"
        found: list[dict[str, Any]] = []
        while part := self.server.api("POST", path, count=500, ackmode="ack_requeue_false", encoding="auto"):
            found += part  # thousands in one answer would take longer than one is waited for
        return found

    def declare(self, queue: str, **arguments: Any) -> None:
        """Declare a durable queue, as a TaskQueue would."""
        path = f"queues/{self.name}/{quote(queue, safe='')}"
        self.server.api("PUT", path, durable=True, arguments=arguments)


class RabbitMQServer:
    """A rabbitmq-server on free loopback ports. Usable as a context manager; ports stay across restarts."""

    def __init__(
        self, configuration: str = "", *, erlang: str = "", beside: "RabbitMQServer | None" = None
    ) -> None:
        """`configuration` is added to rabbitmq.conf, `erlang` to the arguments of Erlang.

        The server joins the cluster of the one `beside` it.

        Raises `ServerMissingError`.
        """
        program = str(DEBIAN) if DEBIAN.exists() else shutil.which("rabbitmq-server")
        if program is None:
            raise ServerMissingError("rabbitmq-server is not on PATH: install RabbitMQ, or run `make test`")
        self._program = program
        self.port, self._http, self._distribution, self._mapper_port = (free_port() for _ in range(4))
        self._folder = tempfile.TemporaryDirectory(prefix="muster-rabbitmq-")
        self._log = Path(self._folder.name) / "rabbitmq.log"
        self._beside = beside
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._begins_at = 0
        """Where in the log its present life begins."""
        self._numbers = itertools.count(1)
        folder = Path(self._folder.name)
        self.node = f"muster-{self.port}@localhost"
        cookie = secrets.token_hex(10)
        if beside is not None:
            self._mapper_port = beside._mapper_port
            cookie = (Path(beside._folder.name) / ".erlang.cookie").read_text()
            configuration += (
                "cluster_formation.peer_discovery_backend = classic_config\n"
                f"cluster_formation.classic_config.nodes.1 = {beside.node}\n"
            )
        (folder / ".erlang.cookie").write_text(cookie)
        (folder / ".erlang.cookie").chmod(0o400)
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._http}\n"
            "disk_free_limit.absolute = 50MB\nlog.console = true\nlog.file = false\n"
            f"{configuration}"
        )
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none -kernel net_ticktime 8 {erlang}",
        }

    def url(self, virtual_host: str = "/", user: str = "guest", password: str = "guest") -> str:
        """Return the broker URL of a virtual host."""
        name = "/" if virtual_host == "/" else quote(virtual_host, safe="")
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{name}"

    @property
    def management_url(self) -> str:
        """The URL of its HTTP API."""
        return f"http://127.0.0.1:{self._http}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server, with the data of its earlier life, and wait until it answers."""
        if self.running:
            return self
        if self._mapper is None and self._beside is None:
            epmd = shutil.which("epmd") or "epmd"
            self._mapper = subprocess.Popen(
                [*dying_with_parent(), epmd, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL,
            )
        self._begins_at = len(self.log())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*dying_with_parent(), self._program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder.name,  # where it leaves a dump when it is in doubt
                start_new_session=True,
            )
        try:
            wait_for(self._is_up, what=f"rabbitmq-server on port {self.port}", timeout_seconds=90)
        except BaseException:
            self.close()
            raise
        return self

    def _is_up(self) -> bool:
        """Whether it has come up in this life: ports and API answer before, with whatever is ready then."""
        if not self.running:
            raise RuntimeError(f"rabbitmq-server on port {self.port} ended: {self.log()[-2000:]}")
        return "Server startup complete" in self.log()[self._begins_at :]

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Ask the server's HTTP API. Raises `ConnectionError` while it does not answer."""
        token = "Basic Z3Vlc3Q6Z3Vlc3Q="  # guest, whom the server lets in from loopback
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._http}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body or method != "GET" else None,
            headers={"Authorization": token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise ConnectionError(str(error)) from error
        return json.loads(text) if text else {}

    @contextlib.contextmanager
    def virtual_host(self):
        """A virtual host of its own, removed at the end with all that is in it. Yields a `VirtualHost`."""
        name = f"test-{next(self._numbers)}"
        self.api("PUT", f"vhosts/{name}")
        self.api("PUT", f"permissions/{name}/guest", configure=".*", write=".*", read=".*")
        try:
            yield VirtualHost(self, name)
        finally:
            if self.running:
                self.api("DELETE", f"vhosts/{name}")

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl: for what the HTTP API cannot do, since it takes seconds."""
        program = Path(self._program).with_name("rabbitmqctl")
        done = subprocess.run(
            [program, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def stop(self) -> None:
        """Shut the server down in good order. One that is not running is fine."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self):
        """Stand still: ports take connections, nobody answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def _end(self, signal_number: int) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal_number)
        try:
            self._process.wait(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its helpers
            self._process = None

    def log(self) -> str:
        """What the server has printed in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """End the server and remove its folder."""
        try:
            self.kill9()  # what it has kept goes with its folder
        finally:
            if self._mapper is not None:
                self._mapper.kill()
                self._mapper.wait()
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()
