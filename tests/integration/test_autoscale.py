"""A real worker whose pool has bounds, on a real Redis: it grows with the load and shrinks when idle."""

from pathlib import Path

import pytest

from ledger import Ledger
from muster import Muster
from waiting import wait_for
from workers import Worker

KEEPALIVE_SECONDS = "0.5"
POOLS = ["prefork", "threads", "gevent", "eventlet"]


@pytest.fixture
def scene(redis_server, tmp_path):
    """A broker, a ledger and a client; `worker` starts a worker of one to four slots."""
    scene = Scene(redis_server.url, tmp_path)
    yield scene
    scene.app.close()


class Scene:
    def __init__(self, url, folder):
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.environment = {
            "BROKER": url,
            "LEDGER": str(self.ledger.path),
            "AUTOSCALE_KEEPALIVE": KEEPALIVE_SECONDS,
        }
        self.app = Muster("client", broker=url, backend=url)

    def worker(self, pool, *arguments):
        return Worker("ledger_app", pool, "--autoscale", "4,1", *arguments, **self.environment)

    def send(self, count, **kwargs):
        return [self.app.send_task("ledger.work", kwargs=kwargs).id for _ in range(count)]

    def running(self):
        return len(self.ledger.starts) - len(self.ledger.ends)


def children(worker):
    """How many processes the worker's template process has forked."""
    [template] = forked(worker.pid)
    return len(forked(template))


def forked(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_follows_its_load(scene, pool):
    """One slot at rest, four under load, every task once, one again: children are gone, and it works."""
    with scene.worker(pool).wait_ready() as worker:
        assert worker.metric("muster_worker_slots") == 4
        assert worker.metric("muster_worker_current_slots") == 1
        go = scene.folder / "go"
        sent = scene.send(40, until=str(go))
        wait_for(scene.running, until=lambda count: count == 4, what="four tasks run")
        assert worker.metric("muster_worker_current_slots") == 4
        if pool == "prefork":
            assert children(worker) == 4
        go.touch()
        wait_for(lambda: len(scene.ledger.ends) == 40, what="all have run")
        wait_for(lambda: worker.metric("muster_worker_current_slots") == 1, what="one slot is left")
        if pool == "prefork":
            wait_for(lambda: children(worker) == 1, what="one child is left")
        sent += scene.send(1)
        wait_for(lambda: len(scene.ledger.ends) == 41, what="the next one has run")
        verdict = scene.ledger.check(sent)
        assert (verdict.lost, verdict.unexpected, verdict.extra_runs) == (frozenset(), frozenset(), 0)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_pool_of_any_size_drains(scene, pool, size):
    """What runs is finished, what waits stays on the broker, the worker ends."""
    with scene.worker(pool).wait_ready() as worker:
        go = scene.folder / "go"
        scene.send(size, until=str(go))
        wait_for(scene.running, until=lambda count: count == size, what=f"{size} tasks run")
        assert worker.metric("muster_worker_current_slots") == size
        worker.terminate()
        wait_for(lambda: worker.get("/readyz")[0] == 503, what="it drains")
        scene.send(3)
        go.touch()
        assert worker.wait() == 0
        assert len(scene.ledger.ends) == size


def test_an_idle_pool_that_has_shrunk_drains(scene):
    """Four children, one child, none."""
    with scene.worker("prefork").wait_ready() as worker:
        scene.send(40, seconds=0.01)
        wait_for(lambda: len(scene.ledger.ends) == 40, what="all have run")
        wait_for(lambda: children(worker) == 1, what="one child is left")
        worker.terminate()
        assert worker.wait() == 0


def test_a_shrinking_pool_leaves_long_tasks_alone(scene):
    """Two of four tasks go on for several keepalives; their children stay, the idle ones leave."""
    with scene.worker("prefork").wait_ready() as worker:
        go = scene.folder / "go"
        sent = scene.send(2, until=str(go)) + scene.send(2, seconds=0.5)
        wait_for(lambda: len(scene.ledger.starts) == 4, what="four tasks run")
        wait_for(lambda: children(worker) == 2, what="two children are left")
        assert scene.running() == 2
        go.touch()
        wait_for(lambda: children(worker) == 1, what="one child is left")
        verdict = scene.ledger.check(sent)
        assert (verdict.lost, verdict.unexpected, verdict.extra_runs) == (frozenset(), frozenset(), 0)


def test_solo_has_no_bounds(scene):
    """It says so and ends."""
    with scene.worker("solo") as worker:
        assert worker.wait() != 0
        assert "a solo worker runs one task at a time" in worker.log
