"""What the pools with processes of their own share: how those end, and that none is left behind.

Called by `prefork` and `green`. Knows nothing of jobs.
"""

import ctypes
import os
import signal
import sys
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (elsewhere than on Linux: do nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def do_nothing(_signal: int, _frame: Any) -> None:
    """Leave a signal to the parent, which is told too. Not SIG_IGN: that one programs would inherit."""


def death(status: int) -> str:
    """Say how a process ended, from its wait status."""
    if not os.WIFSIGNALED(status):
        return f"exit code {os.waitstatus_to_exitcode(status)}"
    name = signal.Signals(os.WTERMSIG(status)).name
    hint = " (out of memory, if nobody sent it: look at the memory limit)" if name == "SIGKILL" else ""
    return f"{name}{hint}"


def reap_orphans(ours: frozenset[int]) -> None:
    """Wait for what tasks leave behind: the first process of a container inherits it.

    `ours` are the children that somebody else waits for. Does nothing in any other process.
    """
    if os.getpid() != 1:
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, 0)
