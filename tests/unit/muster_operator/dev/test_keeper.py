"""Facts about the keeper: whatever ends `muster dev`, what it has started ends too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from muster_operator.dev.processes import KEEPER, Keeper
from waiting import wait_for

STARTER = """
import os, sys, signal
from pathlib import Path
from muster_operator.dev.processes import Keeper
keeper = Keeper(Path(sys.argv[1]))
child = "import os, signal\\nif not os.fork(): signal.pause()\\nsignal.pause()"
process = keeper.start([sys.executable, "-c", child], environment=dict(os.environ), log=Path(sys.argv[2]))
print(process.pid, keeper._popen.pid, flush=True)
signal.pause()
"""


def in_group(group):
    """Return the processes of a group that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_killed_starter_leaves_nothing(tmp_path):
    """SIGKILL of the one who started them: the group with its grandchildren, the keeper and the folder go."""
    folder = tmp_path / "folder"
    folder.mkdir()
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    with starter:
        group, keeper = map(int, starter.stdout.readline().split())
        wait_for(lambda: len(in_group(group)) == 2, what="the process has its child")
        starter.kill()
    wait_for(lambda: not in_group(group), what="the group is gone")
    wait_for(lambda: not in_group(keeper), what="the keeper is gone")
    wait_for(lambda: not folder.exists(), what="the folder is gone")


def test_signals_do_not_end_the_keeper():
    """Only the end of its pipe does."""
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(KEEPER), ""], stdin=subprocess.PIPE, start_new_session=True
    )
    with keeper:
        ignored = 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGINT - 1)
        wait_for(lambda: signals_ignored(keeper.pid) & ignored == ignored, what="its handlers stand")
        keeper.send_signal(signal.SIGTERM)
        keeper.send_signal(signal.SIGINT)
    assert keeper.returncode == 0


def signals_ignored(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)


def test_a_folder_that_is_spared_stays(tmp_path):
    """Logs are kept when something went wrong."""
    folder = tmp_path / "folder"
    folder.mkdir()
    keeper = Keeper(folder)
    keeper.spare()
    keeper.close()
    assert folder.exists()


def test_closing_ends_what_is_left(tmp_path):
    """A normal end as well; a process that has ended before is on no list any more."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Keeper(folder) as keeper:
        process = keeper.start(
            [sys.executable, "-c", "import signal; signal.pause()"],
            environment=dict(os.environ),
            log=tmp_path / "log",
        )
        short = keeper.start([sys.executable, "-c", ""], environment=dict(os.environ), log=tmp_path / "log")
        assert wait_for(short.exit_code, until=lambda code: code is not None, what="it has ended") == 0
        assert list(keeper._groups) == [process.pid]
    assert process.exit_code() == -signal.SIGKILL
    assert not folder.exists()
