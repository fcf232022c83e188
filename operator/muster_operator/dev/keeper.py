"""The keeper: a process that outlives `muster dev` just long enough to end what it has started.

`dev.processes` runs this file by its path, isolated, as the first of its processes, and tells it over a pipe
which process groups there are: `+ID` and `-ID`, a line each. When the pipe ends, because dev has ended in
whatever way, the keeper kills the groups that are left, removes the folder that it was given unless a line
`=` has spared it, and ends too. It works wherever there are process groups and needs nothing of the kernel's
own (Linux' death signal reaches no grandchildren).
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE_SECONDS = 5.0
"""How long killed processes may take to be gone before their folder is removed under them."""


def keep(lines: Iterable[str], folder: str) -> None:
    """Follow the lines to their end, then kill and remove what is left; `folder` is empty for none."""
    groups: set[int] = set()
    for line in lines:
        match line[:1]:
            case "+":
                groups.add(int(line[1:]))
            case "-":
                groups.discard(int(line[1:]))
            case "=":
                folder = ""
    until = time.monotonic() + PATIENCE_SECONDS
    while any([_kill(group) for group in groups]) and time.monotonic() < until:  # noqa: C419 - each of them
        time.sleep(0.02)
    if folder:  # nobody is left who could write to it
        shutil.rmtree(folder, ignore_errors=True)


def _kill(group: int) -> bool:
    """Kill a group; return whether somebody was in it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the end of the pipe ends it
    keep(sys.stdin, sys.argv[1])
