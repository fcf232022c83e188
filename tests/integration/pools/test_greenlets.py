"""What only pools of greenlets do: many jobs in one process, one hub for them, and what keeps it."""

import os
import signal

import pytest

from muster.errors import ConfigurationError
from muster.pools.base import PoolBroken, Returned
from muster.pools.green.parent import GreenPool
from pool_drivers import KINDS, has_begun, pool_starter
from pool_jobs import job, load

POOLS = ["gevent", "eventlet"]


@pytest.fixture(params=POOLS)
def start(request):
    """Start a pool and return its driver; it is stopped afterwards, and no process may be left."""
    yield from pool_starter(KINDS[request.param])


def test_all_jobs_share_one_process(start):
    """A hundred that wait half a second each are done together, in one."""
    driver = start(slots=100)
    driver.run([job(n, "sleep", seconds=0.5) for n in range(1, 101)], depth=1, seconds=5)
    driver.run([job(n, "pid") for n in range(101, 201)], depth=1)
    assert {driver.outcomes()[n].text for n in range(101, 201)} == set(map(str, driver.pids()))


def test_more_jobs_than_a_socket_holds_run_at_once(start, tmp_path):
    """Two thousand; none has to wait for another's end."""
    driver = start(slots=2000)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit([job(n, "append", file=str(ledger), until=str(go)) for n in range(1, 2001)])
    driver.until(lambda: has_begun(ledger) and len(ledger.read_text().splitlines()) == 2000)
    go.touch()
    driver.until(lambda: len(driver.outcomes()) == 2000)


def test_a_job_that_must_be_alone_runs_in_a_process_of_its_own(start, tmp_path):
    """Beside the others, which go on; two of them have two, and the common one is still the same."""
    driver = start(slots=10)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    [common] = driver.pids()
    held = {"file": str(ledger), "until": str(go)}
    driver.pool.submit([job(1, "append", **held), *(job(n, "append", alone=True, **held) for n in (2, 3))])
    driver.until(lambda: has_begun(ledger) and len(ledger.read_text().splitlines()) == 3)
    pids = dict(line.split() for line in ledger.read_text().splitlines())
    assert pids["1"] == str(common)
    assert len(set(pids.values())) == 3
    driver.run([job(4, "pid")], depth=1)
    assert driver.outcomes()[4].text == str(common)
    go.touch()
    driver.until(lambda: len(driver.outcomes()) == 4)


def test_a_poison_that_is_alone_takes_no_other_with_it(start, tmp_path):
    """Its process ends, and no other's job is lost."""
    driver = start(slots=10)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    driver.pool.submit(
        [job(1, "append", file=str(ledger), until=str(go)), job(2, "exit", code=7, alone=True)]
    )
    driver.until(lambda: 2 in driver.lost())
    go.touch()
    driver.until(lambda: 1 in driver.outcomes())
    assert set(driver.lost()) == {2}


def test_jobs_that_must_be_alone_leave_room_for_others(start):
    """However many there are, they take half of it."""
    driver = start(slots=10)
    driver.pool.submit([job(n, "sleep", seconds=60, alone=True) for n in range(1, 101)])
    assert driver.pool.room(1) == 5


def test_while_the_hub_is_kept_nothing_more_is_taken(start):
    """No room; what it has not read comes back, and runs when the hub comes round again."""
    driver = start(slots=10)
    driver.pool.submit([job(1, "keep", seconds=2.5)])
    driver.until(lambda: driver.pool.room(1) == 0)
    assert driver.runs() == {1}
    driver.pool.submit([job(2)])
    driver.pool.recall()
    driver.events.extend(driver.pool.collect())
    assert {e.number for e in driver.events if isinstance(e, Returned)} == {2}
    driver.until(lambda: driver.pool.room(1) == 10)
    assert set(driver.outcomes()) == {1}


@pytest.mark.parametrize("do", ["keep", "spin"])
def test_limits_interrupt_what_keeps_the_hub(start, do):
    """Soft and hard, in a call that was never patched and in plain computing; the process stays."""
    driver = start(slots=10)
    pids = driver.pids()
    driver.pool.submit([job(1, do, seconds=60, soft_limit=0.5)])
    driver.until(lambda: 1 in driver.outcomes(), seconds=5)
    assert driver.outcomes()[1].text == "soft"
    driver.pool.submit([job(2, do, seconds=60, hard_limit=0.5)])
    driver.until(lambda: 2 in driver.lost(), seconds=5)
    assert driver.lost()[2].by_limit
    assert driver.pids() == pids


def test_a_limit_that_nothing_else_can_keep_kills_the_process(start):
    """The interpreter is held in C: its job failed by its limit, its neighbour's process was lost."""
    driver = start(slots=10)
    driver.pool.submit([job(1, "sleep", seconds=60), job(2, "seize", seconds=60, hard_limit=0.5)])
    driver.until(lambda: len(driver.lost()) == 2, seconds=10)
    assert {number: lost.by_limit for number, lost in driver.lost().items()} == {1: False, 2: True}
    assert "because of another task" in driver.lost()[1].text
    driver.run([job(3)], depth=1)


def test_a_neighbours_limit_kills_nobody_else(start):
    """One keeps the hub for longer than the limit of another, which alone fails by it."""
    driver = start(slots=10)
    driver.pool.submit([job(1, "sleep", seconds=60, hard_limit=0.3), job(2, "keep", seconds=3)])
    driver.until(lambda: 2 in driver.outcomes() and 1 in driver.lost())
    assert driver.lost()[1].by_limit
    assert len(driver.lost()) == 1


def test_a_job_that_resists_its_end_gets_it_again(start, tmp_path):
    """It catches everything and goes on: a second later it is ended all the same."""
    driver = start(slots=10)
    ledger = tmp_path / "ledger"
    driver.pool.submit([job(1, "resist", file=str(ledger), hard_limit=0.3)])
    driver.until(lambda: 1 in driver.lost())
    assert ledger.read_text() == "resisted\n"
    assert driver.lost()[1].by_limit


def test_a_native_thread_publishes(start):
    """One that no library knows of waits for the answer as it can."""
    driver = start(slots=10)
    driver.pool.submit([job(1, "publish natively")])
    driver.until(lambda: 1 in driver.outcomes())
    assert driver.outcomes()[1].text == "published"


def test_a_thousand_that_publish_are_all_answered(start):
    """At once, while the hub is kept so that it reads none of the answers: none is lost."""
    driver = start(slots=1001)
    driver.answers = False
    driver.pool.submit([job(n, "publish") for n in range(1, 1001)])
    driver.until(lambda: len(driver.asked()) == 1000)
    driver.pool.submit([job(1001, "keep", seconds=0.5)])
    asked = driver.asked()
    for count in range(0, 1000, 10):
        driver.pool.published(asked[count : count + 10], "")
    driver.until(lambda: len(driver.outcomes()) == 1001)
    assert {driver.outcomes()[n].text for n in range(1, 1001)} == {"published"}


def test_the_hub_that_is_kept_is_told_of(start, caplog):
    """By the parent, whose log waits for nothing; again when it has lasted twice as long."""
    driver = start(slots=10)
    driver.run([job(1, "keep", seconds=2.6)], depth=1)
    told = [record.getMessage() for record in caplog.records if "keeps the hub" in record.getMessage()]
    assert len(told) == 2
    assert all(text.startswith("job 1 keeps the hub, for ") for text in told)
    assert "pool_jobs.py, line" in told[0]


def test_a_process_that_cannot_come_up_again_ends_the_pool(start):
    """The application is gone meanwhile: the worker is told, and must start anew."""
    driver = start(slots=2)
    driver.pool._load = b"no pickle"
    [pid] = driver.pids()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PoolBroken, match="does not come up"):
        driver.until(lambda: False)


def test_a_library_that_is_not_installed_is_named():
    """With how to install it."""
    with pytest.raises(ConfigurationError, match=r"pip install 'muster-tasks\[greenstuff\]'"):
        GreenPool(load, "greenstuff").load()
