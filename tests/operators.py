"""The operator as a process of this computer, working on the kind cluster."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from servers import dying_with_parent, free_port
from waiting import wait_for


class OperatorProcess:
    """`python -m muster_operator` for some namespaces. Usable as a context manager; killed at the end."""

    def __init__(self, kubeconfig, *namespaces, identity="one"):
        self.port = free_port()
        self._log = tempfile.NamedTemporaryFile(prefix="muster-operator-")  # noqa: SIM115 - closed at the end
        self.process = subprocess.Popen(
            [
                *dying_with_parent(),
                *[sys.executable, "-m", "muster_operator", "--namespaces", ",".join(namespaces)],
                *["--metrics-address", f"127.0.0.1:{self.port}", "--lease-namespace", namespaces[0]],
                *["--identity", identity, "--beat-image", "muster-worker:dev"],
            ],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self):
        return Path(self._log.name).read_text()

    def wait_ready(self):
        wait_for(lambda: self._get("/readyz") or self._died(), what="the operator is ready")
        return self

    def wait_leading(self):
        wait_for(lambda: self.metric("muster_operator_leader") == 1 or self._died(), what="it leads")
        return self

    def _get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def _died(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the operator ended with {self.process.returncode}:\n{self.log}")
        return False

    def metric(self, start):
        """Return the sum of all samples whose line begins with `start`."""
        lines = self._get("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def requests(self):
        """Return the requests to the API server so far, by verb."""
        verbs = ("GET", "PUT", "POST", "PATCH", "DELETE")
        return {verb: self.metric(f'muster_api_requests_total{{verb="{verb}"}}') for verb in verbs}

    def resident_mib(self):
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self._log.close()
