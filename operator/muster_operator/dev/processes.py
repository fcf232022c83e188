"""Processes of this computer: started in groups of their own, logged to a file each, and never left behind.

`dev.pods` runs workers and beat through it, `dev.session` the command of `--run`. However `muster dev` ends,
`dev.keeper` sees to the groups that are left. It knows no manifest and no broker.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

KEEPER = Path(__file__).with_name("keeper.py")
TAIL_BYTES = 4096


class Process:
    """One process and its group."""

    def __init__(self, popen: "subprocess.Popen[bytes]", keeper: "Keeper", log: Path | None) -> None:
        self._popen = popen
        self._keeper = keeper
        self.log = log
        """Where its output goes; None: to whoever reads `output`."""

    @property
    def pid(self) -> int:
        """Its id, which is its group's too."""
        return self._popen.pid

    @property
    def output(self) -> IO[bytes] | None:
        """Its standard output and error, when they are not logged."""
        return self._popen.stdout

    def exit_code(self) -> int | None:
        """Return None while it runs, then its exit code, negative for the signal that ended it.

        What it leaves behind in its group ends with it, as in a container.
        """
        code = self._popen.poll()
        if code is not None and self._keeper.forget(self.pid):
            _kill_group(self.pid)
        return code

    def terminate(self) -> None:
        """Ask it to leave."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def kill(self) -> None:
        """End it and its group at once, and wait until it is gone."""
        if self._popen.poll() is None:
            _kill_group(self.pid)
            self._popen.wait()
        self.exit_code()


class Keeper:
    """The other end of `dev.keeper`, and the processes that it keeps."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is removed at the end, unless it is spared."""
        self._popen = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", str(KEEPER), str(folder or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._groups: dict[int, Process] = {}

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path | None = None,
        folder: Path | None = None,
    ) -> Process:
        """Start a process with exactly this environment, its output appended to `log`. Raises OSError."""
        with contextlib.ExitStack() as files:
            output: int | IO[bytes] = subprocess.PIPE
            if log is not None:
                output = files.enter_context(log.open("ab"))
            popen = subprocess.Popen(  # noqa: S603 - the user's own manifests and --run
                list(arguments),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, self, log)
        self._groups[popen.pid] = process
        self._tell(f"+{popen.pid}")
        return process

    def forget(self, group: int) -> bool:
        """Take a process that has ended off the list; False if it was not on it any more."""
        if self._groups.pop(group, None) is None:
            return False
        self._tell(f"-{group}")
        return True

    def close(self) -> None:
        """End whatever is left, and the keeper."""
        for process in list(self._groups.values()):
            process.kill()
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
        self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spare(self) -> None:
        """Let the folder stay."""
        self._tell("=")

    def _tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it; we go on without
            self._popen.stdin.write(f"{line}\n".encode())
            self._popen.stdin.flush()


def last_line(log: Path) -> str:
    """Return the last line of a log that says something; empty when there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
    return ""


def ended_how(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
