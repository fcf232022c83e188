"""Real worker processes for tests: started by the command line that users type, ended in every case."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from servers import free_port
from waiting import wait_for

TESTS = Path(__file__).parent


def _children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Worker:
    """`muster worker` as a process. Usable as a context manager: killed, with its children, at the end."""

    def __init__(self, app, pool="prefork", *arguments, script=None, **environment):
        """`script` replaces the command line's program; further words go behind it."""
        self.port = free_port()
        self._log = tempfile.NamedTemporaryFile(prefix="muster-worker-")  # noqa: SIM115 - closed at the end
        program = [sys.executable, "-m", "muster"] if script is None else [sys.executable, str(script)]
        self.process = subprocess.Popen(
            [
                *[*program, "-A", app, "worker", "-P", pool, "-l", "INFO"],
                *["--metrics-address", f"127.0.0.1:{self.port}", *arguments],
            ],
            env={**os.environ, "PYTHONPATH": f"{TESTS / 'apps'}:{TESTS}", **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self):
        return self.process.pid

    def children(self):
        """Return the processes that run its tasks, those of the prefork pool."""
        [template] = _children(self.pid)
        return _children(template)

    @property
    def log(self):
        return Path(self._log.name).read_text()

    def get(self, path):
        """Return (status, text) of an HTTP request to its probes; (0, why) when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_ready(self):
        wait_for(lambda: self.get("/readyz")[0] == 200 or self._died(), what="the worker is ready")
        return self

    def _died(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log[-20_000:]}")
        return False

    def metric(self, start):
        """Return the sum of all samples whose line begins with `start`."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def kill(self):
        """SIGKILL of the worker's own process, nothing else: what is left must see to itself."""
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout=30):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end within {timeout} s:\n{self.log}") from None

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is not None:  # pytest shows it beside the failure
            print(f"--- {self.process.args}, port {self.port}, exit code {self.process.poll()}:")
            print(self.log[-20_000:])
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()
