"""Pools whose size changes while they run: the same facts for each that has them, with real slots."""

import random
from collections import Counter

import pytest

from muster.pools.base import Outcome
from pool_drivers import KINDS, Driver
from pool_jobs import job
from waiting import wait_for


@pytest.fixture(params=KINDS)
def resizable(request):
    """Start a pool with so many slots; it is stopped afterwards."""
    begun = []

    def begin(slots):
        begun.append(Driver(KINDS[request.param], slots))
        return begun[-1]

    yield begin
    for driver in begun:
        driver.pool.stop()
        wait_for(driver.made, until=lambda made: not made, what="all slots are gone")


def done(driver):
    assert all(isinstance(event, Outcome) for event in driver.events)
    return Counter(event.number for event in driver.events)


def waiting_jobs(tmp_path, *numbers):
    """Jobs that run until the file `go` is there."""
    return [
        job(number, "append", file=str(tmp_path / "ledger"), until=str(tmp_path / "go")) for number in numbers
    ]


def test_a_pool_that_grows_runs_more_at_once(resizable, tmp_path):
    """What waits behind a full pool starts as soon as there are more slots."""
    driver = resizable(1)
    driver.pool.submit(waiting_jobs(tmp_path, 1))
    driver.until(lambda: driver.runs() == {1}, "the only slot is busy")
    assert driver.pool.room(1) == 0
    driver.pool.resize(3)
    assert (driver.pool.slots, driver.pool.room(1)) == (3, 2)
    driver.pool.submit(waiting_jobs(tmp_path, 2, 3))
    driver.until(lambda: driver.runs() == {1, 2, 3}, "three run at once")
    (tmp_path / "go").touch()
    driver.until(lambda: done(driver) == {1: 1, 2: 1, 3: 1}, "all have run once")


def test_a_pool_that_shrinks_ends_idle_slots(resizable):
    """Of four, one is left, and it works."""
    driver = resizable(4)
    driver.until(lambda: len(driver.made()) == 4, "four slots")
    driver.pool.resize(1)
    assert (driver.pool.slots, driver.pool.room(1)) == (1, 1)
    driver.until(lambda: len(driver.made()) == 1, "one slot is left")
    driver.pool.submit([job(1)])
    driver.until(lambda: done(driver) == {1: 1}, "it works")


def test_a_pool_that_shrinks_leaves_running_tasks_alone(resizable, tmp_path):
    """Three run on to their ends in a pool of one, and what was behind them runs after them in that one."""
    driver = resizable(3)
    driver.pool.submit(waiting_jobs(tmp_path, 1, 2, 3))
    driver.until(lambda: driver.runs() == {1, 2, 3}, "three run at once")
    driver.pool.submit(waiting_jobs(tmp_path, 4, 5))
    driver.pool.resize(1)
    assert driver.pool.room(1) == 0
    assert driver.runs() == {1, 2, 3}
    (tmp_path / "go").touch()
    driver.until(lambda: sum(done(driver).values()) == 5, "all have run")
    driver.until(lambda: len(driver.made()) == 1, "one slot is left")
    assert done(driver) == dict.fromkeys(range(1, 6), 1)


def test_a_pool_that_grows_again_keeps_slots_that_were_to_end(resizable, tmp_path):
    """Made smaller and larger again during three tasks, it has three slots, never more."""
    driver = resizable(3)
    driver.pool.submit(waiting_jobs(tmp_path, 1, 2, 3))
    driver.until(lambda: driver.runs() == {1, 2, 3}, "three run at once")
    driver.pool.resize(1)
    driver.pool.resize(3)
    assert len(driver.made()) == 3
    (tmp_path / "go").touch()
    driver.until(lambda: done(driver) == {1: 1, 2: 1, 3: 1}, "all have run once")
    driver.until(lambda: driver.pool.room(1) == 3, "three slots are free")
    assert len(driver.made()) == 3


def test_no_job_is_lost_however_often_the_size_changes(resizable):
    """Two thousand jobs while the pool goes up and down between one and five: each runs once."""
    driver = resizable(1)
    dice = random.Random(7)
    jobs = [job(number) for number in range(1, 2001)]
    most = 0

    def crank():
        nonlocal most
        driver.pool.resize(dice.randint(1, 5))
        room = driver.pool.room(8)
        driver.pool.submit(jobs[:room])
        del jobs[:room]
        most = max(most, len(driver.runs()))
        return sum(done(driver).values()) == 2000

    driver.until(crank, "all have run")
    assert set(done(driver).values()) == {1}
    assert most <= 5
