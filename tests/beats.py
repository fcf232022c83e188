"""Real beat processes for tests: started by the command line that users type, ended in every case."""

import os
import subprocess
import sys
import tempfile

from servers import free_port
from workers import TESTS, Worker


class Beat(Worker):
    """`muster beat` as a process, with what tests ask of a worker process too."""

    def __init__(self, *arguments, script=None, **environment):
        """`script` replaces the command line's program; `arguments` go before and behind `beat`."""
        self.port = free_port()
        self._log = tempfile.NamedTemporaryFile(prefix="muster-beat-")  # noqa: SIM115 - closed at the end
        program = [sys.executable, "-m", "muster"] if script is None else [sys.executable, str(script)]
        self.process = subprocess.Popen(
            [*program, "beat", *arguments, "--metrics-address", f"127.0.0.1:{self.port}"],
            env={**os.environ, "PYTHONPATH": f"{TESTS / 'apps'}:{TESTS}", **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def leads(self):
        return self.metric("muster_beat_leader") == 1

    def send_signal(self, number):
        self.process.send_signal(number)
