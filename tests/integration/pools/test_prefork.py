"""The prefork pool's children, one beside another: replaced, stopped and continued, and what they hold."""

import os
import random
import signal
from collections import Counter, deque

import pytest

from muster.pools.base import Publish
from pool_drivers import Prefork, alive, has_begun, pool_starter, state
from pool_jobs import job
from waiting import wait_for


@pytest.fixture
def start():
    """Start a pool and return its driver; it is stopped afterwards, and no process may be left."""
    yield from pool_starter(Prefork)


CHILD = "A process of tasks stopped, killed or out of memory costs the tasks in it only"


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


def test_what_a_waiting_thread_leaves_can_be_taken_back(start, tmp_path):
    """While a task waits for an answer, the jobs behind it are given to the other child."""
    driver = start(slots=2)
    driver.answers = False
    driver.pool.submit([job(1, "publish"), *(job(n) for n in range(2, 40))])
    driver.until(lambda: len(driver.outcomes()) == 38)
    assert 1 not in driver.outcomes()
    driver.pool.published(driver.asked(), "")
    driver.until(lambda: 1 in driver.outcomes())


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
