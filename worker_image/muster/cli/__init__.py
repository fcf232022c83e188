"""The command line, one file per command group; others join by the entry point `muster.commands`."""

import os
import signal


def _leave(*_: object) -> None:
    os._exit(128 + signal.SIGTERM)


if os.getpid() == 1:
    # In a container the kernel drops a SIGTERM that has no handler yet, and it is sent once: a pod that is
    # deleted while it starts would work on until it is killed. Commands that finish something set their own.
    signal.signal(signal.SIGTERM, _leave)
