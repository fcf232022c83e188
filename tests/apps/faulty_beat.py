"""A beat that kills itself at its tick number FAULT_AT: FAULT says whether before or after the broker has it.

Otherwise it is the real one. "after" is the moment at which the broker has carried the tick out and beat has
not heard of it.
"""

import os
import signal
import sys

from muster.beat import service
from muster.cli.main import main

FAULT, FAULT_AT = os.environ["FAULT"], int(os.environ["FAULT_AT"])


class FaultyStore:
    """The real store, but for one moment."""

    def __init__(self, real):
        self._real = real
        self._ticks = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def advance(self, term, advances):
        self._ticks += any(one.publication is not None for one in advances)
        if self._ticks == FAULT_AT and FAULT == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        outcomes = self._real.advance(term, advances)
        if self._ticks == FAULT_AT and FAULT == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes


real_run, real_connect = service.run, service.connect
service.run = lambda options: real_run(
    options, connect=lambda app, scope: FaultyStore(real_connect(app, scope))
)
sys.argv[0] = "muster"
main()
