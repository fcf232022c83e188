"""Looks at a worker over HTTP, as the kubelet and Prometheus do: is it ready, how many runs has it ended.

`dev.pods` keeps one for each process. A worker that does not answer is not ready; it holds nobody else up,
because each probe has a thread of its own.
"""

import contextlib
import http.client
import re
import threading
from typing import Final

EVERY_SECONDS: Final = 0.4
TIMEOUT_SECONDS: Final = 2.0

_ENDED: Final = re.compile(
    r"^muster_task_(?:succeeded|failed|rejected|expired)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE
)


def ended_tasks(exposition: str) -> int:
    """Return how many tasks the worker is done with, from its metrics in Prometheus' text format."""
    return round(sum(float(value) for value in _ENDED.findall(exposition)))


class Probe:
    """What was seen last at `host:port`."""

    def __init__(self, address: str) -> None:
        self.ready = False
        self.ended = 0
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe {address}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what was seen stays, but for the readiness."""
        self._stopped.set()
        self.ready = False

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        while not self._stopped.wait(EVERY_SECONDS):
            ready = False
            try:
                ready = self._get(connection, "/readyz")[0] == http.HTTPStatus.OK
                self.ended = max(self.ended, ended_tasks(self._get(connection, "/metrics")[1]))
            except (OSError, http.client.HTTPException):
                connection.close()
            self.ready = ready and not self._stopped.is_set()
        with contextlib.suppress(OSError):
            connection.close()

    @staticmethod
    def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
