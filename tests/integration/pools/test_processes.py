"""Pools whose tasks run in processes of their own: the same facts for each, with everything real."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from muster.errors import ConfigurationError
from muster.pools.base import Returned, Started
from pool_drivers import KINDS, Driver, alive, has_begun, pool_starter, wait_gone
from pool_jobs import job, load_nothing
from waiting import wait_for

LEAVE_SECONDS = 0.8
"""What idle processes get to leave by themselves before they are killed."""
CHILD = "A process of tasks stopped, killed or out of memory costs the tasks in it only"


@pytest.fixture(params=["prefork", "gevent", "eventlet"])
def kind(request):
    """Name the pool."""
    return KINDS[request.param]


@pytest.fixture
def start(kind):
    """Start a pool and return its driver; it is stopped afterwards, and no process may be left."""
    yield from pool_starter(kind)


def test_each_job_is_reported_once(start):
    """A thousand jobs over two children: a thousand outcomes, none twice."""
    driver = start()
    driver.run([job(n) for n in range(1, 1001)], depth=64)
    assert Counter(e.number for e in driver.events) == dict.fromkeys(range(1, 1001), 1)


@pytest.mark.soak(CHILD, repeat=True)
def test_a_killed_child_loses_only_the_job_it_ran(start, account, tmp_path):
    """SIGKILL: the running job is lost, those behind it run elsewhere, the child is replaced."""
    driver = start(slots=1)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(1, "append", file=str(ledger), until=str(go)), *(job(n) for n in range(2, 12))])
    driver.until(lambda: has_begun(ledger))
    [pid] = driver.pids()
    os.kill(pid, signal.SIGKILL)
    driver.until(lambda: len(driver.outcomes()) == 10)
    assert set(driver.lost()) == {1}
    assert "SIGKILL" in driver.lost()[1].text
    assert driver.pids() != {pid}
    account(children_killed=1)


def test_the_hard_limit_kills_the_job_and_no_other(start):
    """The job over its hard limit is lost by that limit; its neighbour in the other child succeeds."""
    driver = start(slots=2)
    driver.pool.submit([job(1, "spin", seconds=30, hard_limit=0.3), job(2, "sleep", seconds=0.8)])
    driver.until(lambda: 1 in driver.lost() and 2 in driver.outcomes())
    assert driver.lost()[1].by_limit
    assert driver.outcomes()[2].state == "SUCCESS"


@pytest.mark.soak(CHILD, repeat=True)
def test_the_hard_limit_holds_for_a_stopped_child(start, account, tmp_path):
    """A child that does not run at all is killed at the limit too."""
    driver = start(slots=1)
    ledger = tmp_path / "ledger"
    driver.pool.submit([job(1, "append", file=str(ledger), until=str(tmp_path / "never"), hard_limit=0.5)])
    driver.until(lambda: has_begun(ledger))
    [pid] = driver.pids()
    os.kill(pid, signal.SIGSTOP)
    driver.until(lambda: 1 in driver.lost())
    assert driver.lost()[1].by_limit
    account(children_stopped=1)


def test_the_soft_limit_is_raised_in_the_task(start):
    """The task gets SoftTimeLimitExceeded once its time is over, and the child goes on."""
    driver = start(slots=1)
    driver.pool.submit([job(1, "sleep", seconds=30, soft_limit=0.2), job(2)])
    driver.until(lambda: 2 in driver.outcomes())
    assert driver.outcomes()[1].text == "soft"
    assert driver.outcomes()[2].state == "SUCCESS"


def test_a_soft_limit_never_hits_the_next_job(start):
    """A hundred jobs that end just about when their limit does: each one ends by itself or by its own."""
    driver = start(slots=2)
    driver.run([job(n, "sleep", seconds=0.02, soft_limit=0.02) for n in range(1, 101)], depth=1)
    assert not driver.lost()
    assert {outcome.text for outcome in driver.outcomes().values()} <= {"", "soft"}


def test_an_exit_in_a_task_is_a_lost_process(start):
    """os._exit in a task: lost, with the exit code in the text."""
    driver = start(slots=1)
    driver.pool.submit([job(1, "exit", code=7), job(2)])
    driver.until(lambda: 2 in driver.outcomes())
    assert "exit code 7" in driver.lost()[1].text


def test_large_messages_pass_both_ways(start):
    """A job and an outcome of 3 MiB travel through files, unharmed."""
    driver = start(slots=1)
    text = "ä" * (3 * 1024 * 1024)
    driver.pool.submit([job(1, "echo", text=text), job(2)])
    driver.until(lambda: 2 in driver.outcomes())
    assert driver.outcomes()[1].text == text


def test_a_task_publishes_through_the_parent(start):
    """The task waits for the parent's word; jobs that were on their way are run afterwards."""
    driver = start(slots=1)
    driver.pool.submit([job(1, "publish"), *(job(n) for n in range(2, 20))])
    driver.until(lambda: len(driver.outcomes()) == 19)
    assert driver.outcomes()[1].text == "published"


def test_a_thread_that_outlives_its_job_publishes(start, tmp_path):
    """It asks again and again while jobs run and publish: it takes no job and no answer of theirs."""
    driver = start(slots=1)
    go = tmp_path / "go"
    driver.pool.submit([job(1, "publish behind", until=str(go))])
    driver.until(lambda: len(driver.asked()) > 10)
    driver.run([job(n, ("nothing", "publish")[n % 2]) for n in range(2, 202)], depth=16)
    assert all(driver.outcomes()[n].text == ("", "published")[n % 2] for n in range(2, 202))
    asked = len(driver.asked())
    driver.until(lambda: len(driver.asked()) > asked + 10)
    go.touch()
    assert not driver.lost()


def test_an_answer_that_nobody_waits_for_is_passed_over(start):
    """The soft limit ends the wait for an answer; the next task that publishes gets its own."""
    driver = start(slots=1)
    driver.answers = False
    driver.pool.submit([job(1, "publish", soft_limit=0.1)])
    driver.until(lambda: 1 in driver.outcomes())
    assert driver.outcomes()[1].text == "soft"
    [late] = driver.asked()
    driver.pool.submit([job(2, "publish")])
    driver.until(lambda: len(driver.asked()) == 2)
    driver.pool.published([late], "late")
    driver.pool.published(driver.asked()[1:], "the broker is away")
    driver.until(lambda: 2 in driver.outcomes())
    assert driver.outcomes()[2].text == "the broker is away"
    assert not driver.lost()


def test_kill_ends_what_runs_and_keeps_what_is_done(start, tmp_path):
    """It ends all children, a stopped one too; what was done before is reported, and nothing else."""
    driver = start(slots=3)
    never, ledger = tmp_path / "never", tmp_path / "ledger"
    driver.pool.submit([job(n, "append", file=str(ledger), until=str(never)) for n in (1, 2)])
    driver.until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 2)
    pids = driver.pids()
    driver.pool.submit([job(3)])
    wait_for(lambda: driver.pool._selector.select(0), what="its outcome is on its way")
    os.kill(int(ledger.read_text().split()[1]), signal.SIGSTOP)
    assert driver.pool.kill()
    wait_gone(pids, seconds=1)  # their files were closed before it returned, their entries may be there yet
    assert [event.number for event in driver.pool.collect()] == [3]
    assert not driver.pool.running()


def test_idle_children_leave_when_the_pool_stops(kind):
    """All of them at once, and the template with them: nobody has to be waited for and killed."""
    for _ in range(5):
        driver = Driver(kind, 4)
        driver.until(lambda d=driver: kind.up(d.pool, 4))
        begin = time.monotonic()
        driver.pool.stop()
        assert time.monotonic() - begin < LEAVE_SECONDS


def test_a_child_tells_that_a_job_has_begun(start, tmp_path):
    """Its word comes while the job runs."""
    driver = start(slots=2)
    go = tmp_path / "go"
    driver.pool.submit([job(1, "begin", until=str(go))])
    driver.until(lambda: any(isinstance(event, Started) for event in driver.events))
    [event] = [each for each in driver.events if isinstance(each, Started)]
    assert (event.number, int(event.document) in driver.pids()) == (1, True)
    go.touch()
    driver.until(lambda: 1 in driver.outcomes())


def test_recall_gives_back_what_has_not_begun(start, tmp_path):
    """All jobs but the running one come back."""
    driver = start(slots=1)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(1, "append", file=str(ledger), until=str(go)), *(job(n) for n in range(2, 30))])
    driver.until(lambda: has_begun(ledger))
    driver.pool.recall()
    driver.events.extend(driver.pool.collect())
    assert {e.number for e in driver.events if isinstance(e, Returned)} == set(range(2, 30))
    go.touch()
    driver.until(lambda: 1 in driver.outcomes())


def test_an_application_that_cannot_be_loaded_says_why(kind):
    """The error of the process that imports it is raised in the parent, and no process stays."""
    pool = kind.make(load_nothing)
    with pytest.raises(ConfigurationError, match="there is no module shop"):
        pool.load()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


ORPHANS = """
import signal, sys
from pool_drivers import KINDS, Driver
from pool_jobs import job
kind = KINDS[sys.argv[1]]
driver = Driver(kind, 2)
driver.until(lambda: kind.up(driver.pool, 2))
driver.pool.submit([job(1, "spin", seconds=60), job(2, "sleep", seconds=60)])
driver.until(lambda: driver.runs() == {1, 2})
print(*kind.all_pids(driver.pool), flush=True)
signal.pause()
"""


@pytest.mark.soak("No process outlives a killed parent", repeat=True)
def test_nothing_outlives_a_killed_parent(account, kind):
    """SIGKILL of the parent: all processes below it, busy ones, are gone within a second."""
    tests = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, kind.__name__.lower()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    killed = time.monotonic()
    wait_gone(pids, seconds=1)
    account(parents_killed=1, longest_end_seconds=time.monotonic() - killed)
