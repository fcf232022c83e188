"""The rules of the test suite itself, shown on small suites that use its conftest."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import wait_for

TESTS = Path(__file__).parents[1]


@pytest.fixture
def suite(tmp_path: Path):
    """A function that starts pytest on a suite of one file, with our conftest and CI as given."""
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  servers: x\n  e2e: x\nxfail_strict = true\n")
    running = []

    def start(code: str, *options: str, ci: bool) -> subprocess.Popen[str]:
        (tmp_path / "test_it.py").write_text(code)
        environment = os.environ | {
            "PYTHONPATH": str(TESTS),
            "CI": "true" if ci else "",
            "TMPDIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options, str(tmp_path)]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


SKIPPING = """
import pytest

def test_skips():
    pytest.skip("the server is missing")

@pytest.mark.skip(reason="some day")
def test_is_marked():
    pass

@pytest.fixture
def missing():
    pytest.skip("the cluster is missing")

def test_asks(missing):
    pass

@pytest.mark.xfail(reason="a known difference")
def test_is_known_to_fail():
    assert False
"""


def test_a_skip_is_a_failure_in_ci(suite):
    """In CI each skipped test is reported as failed, with its reason; an expected failure is not."""
    process = suite(SKIPPING, ci=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 xfailed" in output
    assert " skipped" not in output.splitlines()[-1]
    for reason in ("the server is missing", "some day", "the cluster is missing"):
        assert f"CI skips nothing: {reason}" in output


def test_a_skip_is_a_skip_on_a_laptop(suite):
    """Without CI a missing server only skips what needs it."""
    process = suite(SKIPPING, ci=False)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "3 skipped, 1 xfailed" in output


def test_a_module_that_skips_itself_is_an_error_in_ci(suite):
    """`importorskip` and its like do not hide a module from CI."""
    process = suite("import pytest\npytest.skip('no such library', allow_module_level=True)\n", ci=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "CI skips nothing" in output


SOAKING = """
import pytest
from pathlib import Path
from ledger import Ledger

@pytest.mark.soak("Nothing is lost")
def test_counts(account, times):
    account(restarts=10 * times, longest_end_seconds=0.5)

@pytest.mark.soak("Nothing is lost", repeat=True)
def test_rounds(account):
    account(kills=1, longest_end_seconds=1.5)

@pytest.mark.soak("Drains are kind", repeat=0.3)
def test_fails(account, tmp_path):
    path = tmp_path / "ledger"
    path.write_text("start a 1 0\\nend a 1 1\\nstart a 1 3\\nend a 1 4\\nend x 1 5\\n")
    account(Ledger(path).check(["a", "b"]), counted=1, drains=7)

@pytest.mark.soak("The rest")
def test_is_left_out():
    pass

def test_is_no_soak():
    pass
"""


def test_a_soak_reports_what_its_tests_account_for(suite, tmp_path: Path):
    """The counts follow `--times`; figures are added up; a loss fails and is told, as is what did not run."""
    report = tmp_path / "reports" / "soak.md"
    options = ["-m", "soak", "-k", "not left_out", "--times", "3", "--soak-report", str(report)]
    output, _ = suite(SOAKING, *options, ci=True).communicate(timeout=60)
    assert "1 failed, 4 passed, 2 deselected" in output
    rows = [line.split("|")[1:-1] for line in report.read_text().splitlines() if line[:1] == "|"]
    told = {row[0].strip(): [cell.strip() for cell in row[1:-1]] for row in rows}
    nothing = [""] * 6
    done = "restarts 30, longest end seconds 1.5, kills 3"
    assert told["Nothing is lost"] == ["4 of 4 passed", done, *nothing]
    assert told["Drains are kind"] == ["0 of 1 passed, 1 failed", "drains 7", "2", "1", "1", "1", "1", "1"]
    assert told["The rest"] == ["0 of 1 passed, 1 not run", "", *nothing]
    text = report.read_text()
    assert "| tests | 5 of 6 ran, 1 failed |" in text
    assert "| tasks lost | 1 |" in text
    assert "-m `soak`, -k `not left_out`" in text
    assert "- `test_it.py::test_fails`" in text


def test_a_soak_whose_time_is_over_says_what_it_left_out(suite, tmp_path: Path):
    """`--minutes 0`: no test begins, and none counts as run."""
    report = tmp_path / "soak.md"
    suite(SOAKING, "--minutes", "0", "--soak-report", str(report), ci=True).communicate(timeout=60)
    assert "| tests | 0 of 4 ran, 0 failed |" in report.read_text()
    assert "--minutes `0.0`" in report.read_text()


WAITING = """
import threading

def test_waits(own_redis_server, tmp_path_factory):
    from pathlib import Path
    Path("server").write_text(f"{own_redis_server.pid} {own_redis_server._folder.name}")
    threading.Event().wait()
"""


@pytest.mark.servers
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_server(suite, tmp_path: Path, signal_number: signal.Signals):
    """A Redis server ends with the pytest that started it, and takes its folder along unless killed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not on PATH")
    process = suite(WAITING, ci=True)
    note = tmp_path / "server"
    pid, folder = wait_for(lambda: note.exists() and note.read_text(), what="the inner test's server").split()
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    wait_for(lambda: not alive(int(pid)), what=f"the end of redis-server {pid}")
    assert Path(folder).exists() == (signal_number == signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1] not in ("", "Z")
