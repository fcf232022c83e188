"""The prefork pool with real processes, and everything that can happen to them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path

import pytest

from muster.errors import ConfigurationError
from muster.pools.base import Lost, Outcome, PoolSettings, Publish, Returned, Started
from muster.pools.prefork import PreforkPool
from muster.pools.prefork.template import LEAVE_SECONDS
from pool_jobs import job, load
from waiting import wait_for


class Driver:
    """Turns the pool's crank, as the worker's loop does, until something is so."""

    def __init__(self, pool):
        self.pool = pool
        self.events = []
        self.answers = True

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not so after {seconds} s; events: {self.events}"
            self.pool.check()
            fresh = self.pool.collect()
            self.events.extend(fresh)
            if self.answers:
                self.pool.published([event.token for event in fresh if isinstance(event, Publish)], "")
            time.sleep(0.001)

    def run(self, jobs, depth, seconds=20):
        """Submit jobs as there is room, until each has an outcome."""
        jobs = deque(jobs)
        wanted = len(self.outcomes()) + len(jobs)

        def crank():
            room = self.pool.room(depth)
            self.pool.submit([jobs.popleft() for _ in range(min(room, len(jobs)))])
            return len(self.outcomes()) >= wanted

        self.until(crank, seconds)

    def outcomes(self):
        return {e.number: e for e in self.events if isinstance(e, Outcome)}

    def asked(self):
        return [event.token for event in self.events if isinstance(event, Publish)]

    def lost(self):
        return {e.number: e for e in self.events if isinstance(e, Lost)}

    def pids(self):
        return {child.pid for child in self.pool._children.values()}


def has_begun(ledger):
    """Whether a job has written its line: the file is there a moment before."""
    return ledger.exists() and ledger.stat().st_size > 0


@pytest.fixture
def start(request):
    """Start a pool and return its driver; it is stopped afterwards, and no process may be left."""
    pools = []

    def begin(slots=2, **settings):
        pool = PreforkPool(load)
        assert pool.load() == b"hello"
        pool.start(PoolSettings(slots=slots, **settings), lambda: None)
        driver = Driver(pool)
        driver.until(lambda: len(driver.pids()) == slots and all(driver.pids()))
        pools.append((pool, driver.pids()))
        return driver

    yield begin
    for pool, pids in pools:
        template = pool._template_pid
        pids |= {child.pid for child in pool._children.values()}
        pool.stop()
        wait_gone({template, *pids} - {0})


def wait_gone(pids, seconds=5):
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.005)


def alive(pid):
    return state(pid) not in ("Z", "")


def state(pid):
    """Return the letter that Linux gives a process's state; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_each_job_is_reported_once(start):
    """A thousand jobs over two children: a thousand outcomes, none twice."""
    driver = start()
    driver.run([job(n) for n in range(1, 1001)], depth=64)
    assert Counter(e.number for e in driver.events) == dict.fromkeys(range(1, 1001), 1)


CHILD = "A prefork child stopped, killed or out of memory costs its own task only"


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


@pytest.mark.soak(CHILD, repeat=True)
def test_a_stopped_child_holds_up_only_the_job_it_runs(start, account, tmp_path):
    """SIGSTOP: what was given to the child and not begun is taken back and runs in the other."""
    driver = start(slots=2)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(1, "append", file=str(ledger), until=str(go))])
    driver.until(lambda: has_begun(ledger))
    pid = int(ledger.read_text().split()[1])
    os.kill(pid, signal.SIGSTOP)
    driver.pool.submit([job(n) for n in range(2, 42)])
    driver.until(lambda: len(driver.outcomes()) == 40)
    assert not driver.lost()
    go.touch()
    os.kill(pid, signal.SIGCONT)
    driver.until(lambda: 1 in driver.outcomes())
    account(children_stopped=1)


@pytest.fixture
def stop_child():
    """Return a function that stops an idle process; all go on at the end."""
    stopped = []

    def stop(pid):
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state(pid) == "T", what="it stands still")  # until then it could still read a job

    yield stop
    for pid in stopped:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("depth", [1, 64])
def test_a_stopped_idle_child_holds_up_nothing(start, stop_child, depth):
    """Whatever it is given runs in the other; when it goes on it is given jobs again, and no job is lost."""
    driver = start(slots=2)
    stopped, healthy = driver.pids()
    stop_child(stopped)
    driver.run([job(n, "pid") for n in range(1, 201)], depth, seconds=5)
    assert {outcome.text for outcome in driver.outcomes().values()} == {str(healthy)}
    os.kill(stopped, signal.SIGCONT)
    driver.until(lambda: driver.pool.room(1) == 2)
    driver.pool.submit([job(n, "pid") for n in (201, 202)])
    driver.until(lambda: len(driver.outcomes()) == 202)
    assert {driver.outcomes()[n].text for n in (201, 202)} == {str(stopped), str(healthy)}
    assert not driver.lost()


def test_a_stopped_idle_child_has_no_time_limit_run_out(start, stop_child):
    """Jobs with a limit that it was given run in the other one after another, each in its own time."""
    driver = start(slots=2)
    stop_child(min(driver.pids()))
    driver.pool.submit([job(n, "sleep", seconds=0.3, hard_limit=1) for n in range(1, 5)])
    driver.until(lambda: len(driver.outcomes()) == 4, seconds=5)
    assert not driver.lost()


def test_jobs_wait_while_all_children_are_stopped(start, stop_child):
    """None is lost and none given back; when the children go on, each job is run once."""
    driver = start(slots=3)
    for pid in driver.pids():
        stop_child(pid)
    driver.pool.submit([job(n, "pid") for n in range(1, 31)])
    driver.until(lambda: driver.pool.room(64) == 0)
    driver.pool.submit([job(n, "pid") for n in range(31, 41)])
    driver.until(lambda: all(child.silent for child in driver.pool._children.values()))
    assert driver.events == []
    assert not driver.pool.running()
    for pid in driver.pids():
        os.kill(pid, signal.SIGCONT)
    driver.until(lambda: len(driver.outcomes()) == 40)
    assert Counter(e.number for e in driver.events) == dict.fromkeys(range(1, 41), 1)


def test_children_that_stop_and_go_run_each_job_once(start, stop_child, tmp_path):
    """Children halted and continued at any moment: each job begins once and is reported once."""
    driver = start(slots=3)
    ledger, chance = tmp_path / "ledger", random.Random(0)
    jobs = deque(job(n, "append", file=str(ledger), until=str(tmp_path)) for n in range(1, 2001))
    for pid in driver.pids():
        stop_child(pid)

    def crank():
        for pid in driver.pids():
            os.kill(pid, signal.SIGCONT if chance.random() < 0.3 else signal.SIGSTOP)
        room = driver.pool.room(16)
        driver.pool.submit([jobs.popleft() for _ in range(min(room, len(jobs)))])
        return len(driver.outcomes()) == 2000

    driver.until(crank, seconds=60)
    assert Counter(e.number for e in driver.events) == dict.fromkeys(range(1, 2001), 1)
    begun = Counter(int(line.split()[0]) for line in ledger.read_text().splitlines())
    assert begun == dict.fromkeys(range(1, 2001), 1)


def test_a_child_that_does_not_begin_in_its_limit_is_replaced(start, stop_child):
    """The only child stands still: its job, blamed for nothing, runs in another one."""
    driver = start(slots=1)
    [pid] = driver.pids()
    stop_child(pid)
    driver.pool.submit([job(1, "pid", hard_limit=0.2)])
    driver.until(lambda: 1 in driver.outcomes())
    assert driver.outcomes()[1].text != str(pid)
    assert not driver.lost()


def test_jobs_behind_a_long_one_are_taken_back(start):
    """A job that turns out long does not keep the short ones behind it waiting."""
    driver = start(slots=2)
    driver.pool.submit([job(1, "sleep", seconds=3), *(job(n) for n in range(2, 50))])
    driver.until(lambda: len(driver.outcomes()) == 48, seconds=2)
    assert 1 not in driver.outcomes()


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


def test_what_a_waiting_thread_leaves_can_be_taken_back(start, tmp_path):
    """While a task waits for an answer, the jobs behind it are given to the other child."""
    driver = start(slots=2)
    driver.answers = False
    driver.pool.submit([job(1, "publish"), *(job(n) for n in range(2, 40))])
    driver.until(lambda: len(driver.outcomes()) == 38)
    assert 1 not in driver.outcomes()
    driver.pool.published(driver.asked(), "")
    driver.until(lambda: 1 in driver.outcomes())


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


def test_an_answer_for_a_task_that_is_gone_is_passed_over(start):
    """Tasks are killed while they wait, one with its child, one with the pool: nobody minds their answers."""
    driver = start(slots=2)
    driver.answers = False
    driver.pool.submit([job(1, "publish"), job(2, "publish")])
    driver.until(lambda: len(driver.asked()) == 2)
    [victim] = [child for child in driver.pool._children.values() if child.page.job == 1]
    os.kill(victim.pid, signal.SIGKILL)
    driver.until(lambda: 1 in driver.lost())
    driver.pool.published(driver.asked(), "")
    driver.until(lambda: 2 in driver.outcomes())
    driver.pool.submit([job(3, "publish")])
    driver.until(lambda: len(driver.asked()) == 3)
    assert driver.pool.kill()
    driver.pool.published(driver.asked()[2:], "")
    assert not driver.pool.collect()


def test_a_child_that_is_to_leave_still_publishes(start, tmp_path):
    """It is too large, so it gets no more jobs; what it runs is published and ends well."""
    driver = start(slots=1, max_memory_per_child_bytes=1)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(1, "wait and publish", file=str(ledger), until=str(go))])
    driver.until(lambda: ledger.exists() and all(c.retiring for c in driver.pool._children.values()))
    go.touch()
    driver.until(lambda: 1 in driver.outcomes())
    assert driver.outcomes()[1].text == "published"
    assert not driver.lost()


def test_kill_ends_what_runs_and_keeps_what_is_done(start, tmp_path):
    """It ends all children, a stopped one too; what was done before is reported, and nothing else."""
    driver = start(slots=3)
    never, ledger = tmp_path / "never", tmp_path / "ledger"
    driver.pool.submit([job(n, "append", file=str(ledger), until=str(never)) for n in (1, 2)])
    driver.until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 2)
    pids = driver.pids()
    os.kill(int(ledger.read_text().split()[1]), signal.SIGSTOP)
    driver.pool.submit([job(3)])
    wait_for(lambda: driver.pool._selector.select(0), what="its outcome is on its way")
    assert driver.pool.kill()
    wait_gone(pids, seconds=1)  # their files were closed before it returned, their entries may be there yet
    assert [event.number for event in driver.pool.collect()] == [3]
    assert not driver.pool.running()


def test_idle_children_leave_when_the_pool_stops():
    """All of them at once, and the template with them: nobody has to be waited for and killed."""
    for _ in range(5):
        pool = PreforkPool(load)
        pool.load()
        pool.start(PoolSettings(slots=4), lambda: None)
        Driver(pool).until(lambda p=pool: all(child.pid for child in p._children.values()))
        begin = time.monotonic()
        pool.stop()
        assert time.monotonic() - begin < LEAVE_SECONDS


def test_a_child_is_replaced_after_its_tasks(start):
    """max_tasks_per_child: four tasks, two children, and nothing lost."""
    driver = start(slots=1, max_tasks_per_child=2)
    for number in range(1, 5):
        driver.pool.submit([job(number, "pid")])
        driver.until(lambda n=number: n in driver.outcomes())
    pids = [driver.outcomes()[n].text for n in range(1, 5)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert not driver.lost()


def test_a_child_that_grew_is_replaced(start):
    """max_memory_per_child: a child above the limit leaves after its task."""
    driver = start(slots=1, max_memory_per_child_bytes=1)
    [before] = driver.pids()
    driver.until(lambda: driver.pids() not in (set(), {0}, {before}))
    driver.pool.submit([job(1)])
    driver.until(lambda: 1 in driver.outcomes())


def test_a_child_that_is_replaced_lets_its_task_publish(start, tmp_path):
    """A child that has become too large or old during a task waits for the task's end, whatever it does."""
    driver = start(slots=1, max_age_seconds=0.5)
    go = tmp_path / "go"
    driver.pool.submit([job(1, "publish", until=str(go))])
    driver.until(lambda: any(c.retiring and c.page.job for c in driver.pool._children.values()))
    go.touch()
    driver.until(lambda: 1 in driver.outcomes() or 1 in driver.lost())
    assert driver.outcomes()[1].text == "published"


def test_an_answer_is_not_taken_back(start, tmp_path):
    """Jobs are taken back from behind a published message's answer; the task that waits for it gets it."""
    driver = start(slots=1)
    driver.pool.submit([job(1, "publish")])
    wait_for(lambda: any(isinstance(e, Publish) for e in driver.pool.collect()), what="the task publishes")
    [child] = driver.pool._children.values()
    os.kill(child.pid, signal.SIGSTOP)
    driver.pool.published([child.number], "")
    driver.pool.submit([job(2)])
    driver.pool.recall()
    os.kill(child.pid, signal.SIGCONT)
    driver.until(lambda: 1 in driver.outcomes())


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


def test_a_job_that_must_be_alone_shares_its_child_with_none(start, tmp_path):
    """While it runs, its child is given nothing else."""
    driver = start(slots=1)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(1, "append", file=str(ledger), until=str(go), alone=True), job(2)])
    driver.until(lambda: has_begun(ledger))
    [child] = driver.pool._children.values()
    assert list(child.jobs) == [1]
    go.touch()
    driver.until(lambda: 2 in driver.outcomes())


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


def test_an_application_that_cannot_be_loaded_says_why():
    """The error of the template is raised in the parent, and no process stays."""

    def broken():
        raise ConfigurationError("there is no module shop")

    pool = PreforkPool(broken)
    with pytest.raises(ConfigurationError, match="there is no module shop"):
        pool.load()
    assert not alive(pool._template_pid)


ORPHANS = """
import sys, time
from pool_jobs import job, load
from muster.pools.base import PoolSettings
from muster.pools.prefork import PreforkPool
pool = PreforkPool(load)
pool.load()
pool.start(PoolSettings(slots=2), lambda: None)
pool.submit([job(1, "spin", seconds=60), job(2, "sleep", seconds=60)])
while len(pool.running()) < 2 or not all(child.pid for child in pool._children.values()):
    pool.collect()
    time.sleep(0.005)
print(pool._template_pid, *[child.pid for child in pool._children.values()], flush=True)
time.sleep(60)
"""


@pytest.mark.soak("No process outlives a killed parent", repeat=True)
def test_nothing_outlives_a_killed_parent(account):
    """SIGKILL of the parent: the template and both children, busy ones, are gone within a second."""
    tests = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    killed = time.monotonic()
    wait_gone(pids, seconds=1)
    account(parents_killed=1, longest_end_seconds=time.monotonic() - killed)
