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

    def start(code: str, *, ci: bool) -> subprocess.Popen[str]:
        (tmp_path / "test_it.py").write_text(code)
        environment = os.environ | {
            "PYTHONPATH": str(TESTS),
            "CI": "true" if ci else "",
            "TMPDIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", str(tmp_path)]
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
