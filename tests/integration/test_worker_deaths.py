"""A worker is killed at each step of a task's life: the task runs again, and its end is recorded once."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
import redis

from ledger import Ledger
from lossy_proxy import LossyProxy
from muster import Muster
from muster.transports.base import Verdict
from muster.transports.connect import connect_observer
from muster.wire.keys import RedisKeys
from muster.wire.message import peek
from servers import RedisServer
from waiting import wait_for
from workers import TESTS, Worker

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
OWN_PROCESSES = {"prefork", "gevent", "eventlet"}
"""Pools that run tasks in processes of their own."""
LEASE = ("--lease", "1")


@pytest.fixture
def place(own_redis_server, tmp_path):
    """A broker of our own, results in another database, a ledger."""
    return Place(own_redis_server, tmp_path)


class Place:
    def __init__(self, server, folder, results_database=0):
        self.server = server
        self.ledger = Ledger(folder / "ledger")
        self.folder = folder
        self.environment = {
            "BROKER": server.url,
            "RESULTS": server.url.rsplit("/", 1)[0] + f"/{results_database}",
            "LEDGER": str(self.ledger.path),
        }
        self.observer = connect_observer(server.url, {}, {})

    def send(self, task="ledger.work", count=1, args=(), **kwargs):
        """Send with Muster's client; return the ids."""
        app = Muster("client", broker=self.environment["BROKER"], backend=self.environment["RESULTS"])
        try:
            return [app.send_task(task, args=args, kwargs=kwargs).id for _ in range(count)]
        finally:
            app.close()

    def result(self, task_id):
        with redis.Redis.from_url(self.environment["RESULTS"]) as client:
            found = client.get(f"celery-task-meta-{task_id}")
        return None if found is None else json.loads(found)

    def depth(self, queue="celery"):
        return self.observer.depths([queue], horizon_seconds=0)[queue]

    def empty(self):
        depth = self.depth()
        return not (depth.ready or depth.claimed or depth.running or depth.waiting)

    def losses(self):
        """Return the waiting messages that were lost before: id → (how often, why)."""
        with redis.Redis.from_url(self.server.url) as client:
            messages = [peek(raw) for raw in client.lrange("celery", 0, -1)]
        return {message.id: (message.losses, message.cause) for message in messages if message.losses}

    def leases(self):
        """Return when the leases of running tasks end, by the broker's clock."""
        with redis.Redis.from_url(self.server.url) as client:
            return [end for _, end in client.zrange(RedisKeys().running("celery"), 0, -1, withscores=True)]

    def extra_runs(self):
        return sum(self.observer.extra_runs().values())


@contextlib.contextmanager
def stopped(pid):
    """Have an idle process stand still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        state = Path(f"/proc/{pid}/stat")
        wait_for(lambda: state.read_text().rsplit(")", 1)[1].split()[0] == "T", what="it stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def faulty(place, pool, fault):
    script = TESTS / "apps" / "faulty_worker.py"
    return Worker("ledger_app", pool, "-c", "1", *LEASE, script=script, FAULT=fault, **place.environment)


STEPS = ["claimed", "handed over", "before ack", "after ack"]
KILLED = "A worker killed at any step of a task's life: it runs again and is recorded once"
DRAINED = "A drain ends no running task, and gives back what has not begun"


@pytest.mark.soak(KILLED, repeat=True)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("fault", "results_database"),
    # in one database the result and the ack are one step
    [*((step, 0) for step in STEPS), *((step, 1) for step in [*STEPS, "result written"])],
    ids=lambda value: {0: "joined results", 1: "separate results"}.get(value, value),
)
def test_a_task_outlives_its_worker(own_redis_server, tmp_path, account, pool, fault, results_database):
    """Killed at this step, the worker takes nothing with it; the next one records the task once."""
    place = Place(own_redis_server, tmp_path, results_database)
    with faulty(place, pool, fault) as doomed:
        [task] = place.send()
        assert doomed.wait() == -9
    with Worker("ledger_app", pool, "-c", "1", *LEASE, **place.environment):
        wait_for(place.empty, what="the task is done with", timeout_seconds=20)
        wait_for(lambda: (place.result(task) or {}).get("status") == "SUCCESS", what="its result is there")
    account(place.ledger.check([task]), counted=place.extra_runs(), kills=1)
    assert place.extra_runs() == (fault != "after ack")


@pytest.mark.soak(KILLED, repeat=True)
@pytest.mark.parametrize("pool", POOLS)
def test_a_running_task_outlives_its_worker(place, account, pool):
    """The only worker is killed while the task runs: it runs again elsewhere, and that is counted."""
    go = place.folder / "go"
    [task] = place.send(until=str(go))
    with Worker("ledger_app", pool, "-c", "2", *LEASE, **place.environment) as doomed:
        wait_for(lambda: place.ledger.starts[task] == 1, what="the task runs", timeout_seconds=20)
        doomed.kill()
    assert place.depth().running == 1
    go.touch()
    with Worker("ledger_app", pool, "-c", "2", *LEASE, **place.environment) as next_one:
        wait_for(place.empty, what="the task is done with", timeout_seconds=20)
        assert next_one.metric("muster_task_extra_runs_total") == 1
    assert place.result(task)["status"] == "SUCCESS"
    verdict = place.ledger.check([task])
    account(verdict, counted=place.extra_runs(), kills=1)
    assert verdict.extra_runs == place.extra_runs() == 1


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_outlives_the_answer_to_its_early_ack(place, pool):
    """The broker has given the message up and the worker does not hear of it: the task runs, once."""
    with LossyProxy(place.server.port) as proxy:
        place.environment["BROKER"] = proxy.url
        with Worker("ledger_app", pool, "-c", "1", **place.environment) as worker:
            proxy.lose_answer_to(b"\xa6celery" + bytes([Verdict.ACK_EARLY]))
            [task] = place.send("ledger.early")
            wait_for(
                lambda: (place.result(task) or {}).get("status") == "SUCCESS", what="its result is there"
            )
            assert proxy.lost == 1
            assert "lease" not in worker.log
    assert place.ledger.starts == place.ledger.ends == {task: 1}
    assert place.empty()


@pytest.mark.soak(
    "A process of tasks stopped, killed or out of memory costs the tasks in it only", repeat=True
)
def test_a_killed_child_costs_only_its_own_task(place, account):
    """SIGKILL of one prefork child: its task runs again at once, without waiting for a lease."""
    go = place.folder / "go"
    tasks = place.send(count=2, until=str(go))
    with Worker("ledger_app", "prefork", "-c", "2", **place.environment) as worker:
        wait_for(lambda: len(place.ledger.starts) == 2, what="both run", timeout_seconds=20)
        os.kill(place.ledger.pid_of(tasks[0]), 9)
        wait_for(lambda: place.ledger.starts[tasks[0]] == 2, what="it runs again")
        go.touch()
        wait_for(place.empty, what="both are done with")
        assert worker.metric("muster_task_lost_total") == 1
    account(place.ledger.check(tasks), counted=place.extra_runs(), children_killed=1)
    assert place.ledger.starts == {tasks[0]: 2, tasks[1]: 1}
    assert place.extra_runs() == 1


def test_a_stopped_idle_child_holds_up_no_task(place):
    """SIGSTOP of one child while it idles: all tasks run in the other, each within its time limit."""
    with Worker("ledger_app", "prefork", "-c", "2", **place.environment) as worker:
        first = place.send(count=20)
        wait_for(lambda: len(place.ledger.ends) == 20 and place.empty(), what="both children are there")
        with stopped(worker.children()[0]):
            tasks = place.send(count=200)
            slow = place.send("ledger.limited", count=4, seconds=0.5)
            wait_for(place.empty, what="all are done with", timeout_seconds=20)
            assert all(place.result(task)["status"] == "SUCCESS" for task in [*tasks, *slow])
    verdict = place.ledger.check([*first, *tasks, *slow])
    assert not verdict.lost
    assert verdict.extra_runs == 0


def test_tasks_wait_while_all_children_are_stopped(place):
    """Their leases are renewed, nobody else runs them, and they go on with the children."""
    with Worker("ledger_app", "prefork", "-c", "2", *LEASE, **place.environment) as worker:
        place.send()
        wait_for(lambda: len(place.ledger.ends) == 1 and place.empty(), what="the worker works")
        first, second = worker.children()
        with stopped(first), stopped(second):
            tasks = place.send(count=10)
            begin = min(wait_for(place.leases, what="a task is in hand"))
            wait_for(place.leases, until=lambda ends: min(ends) > begin + 2, what="leases are renewed")
            depth = place.depth()
            assert (depth.expired, depth.ready + depth.claimed + depth.running) == (0, 10)
            assert worker.get("/livez")[0] == 200
        wait_for(place.empty, what="all are done with")
    assert [place.ledger.starts[task] for task in tasks] == [1] * 10
    assert place.extra_runs() == 0


def test_a_thread_that_outlives_its_task_sends_tasks(place):
    """What it sends runs, and so does everything else, in the one child that there is."""
    with Worker("ledger_app", "prefork", "-c", "1", **place.environment) as worker:
        place.send("ledger.behind", count=3, args=[100])
        tasks = place.send(count=100)
        wait_for(lambda: len(place.ledger.ends) == 400, what="all have run", timeout_seconds=20)
        wait_for(place.empty, what="all are done with")
        assert worker.metric("muster_task_lost_total") == 0
    assert not place.ledger.check(tasks).lost
    assert len(place.ledger.pids) == 1


def test_a_soft_limit_ends_a_wait_for_the_broker(place):
    """A task that sends while the broker is away goes on at its limit, and its child with the next task."""
    go = place.folder / "go"
    with Worker("ledger_app", "prefork", "-c", "1", **place.environment) as worker:
        [task] = place.send("ledger.calls", until=str(go))
        wait_for(lambda: place.ledger.starts[task] == 1, what="it runs", timeout_seconds=20)
        place.server.stop()
        go.touch()
        wait_for(lambda: place.ledger.ends[task] == 1, what="its limit ends it")
        place.server.start()
        place.send(count=10)
        place.send("ledger.behind", args=[10])
        wait_for(lambda: len(place.ledger.ends) >= 21, what="the others have run", timeout_seconds=20)
        wait_for(place.empty, what="all are done with")
        assert worker.metric("muster_task_lost_total") == 0
    assert len(place.ledger.pids) == 1


def test_a_poison_task_is_buried_and_takes_no_other_with_it(place):
    """Each run kills its process: after five it goes to the dead letters, the tasks beside it succeed."""
    [poison] = place.send("ledger.poison")
    others = place.send(count=30)
    with Worker("ledger_app", "prefork", "-c", "2", **place.environment):
        wait_for(place.empty, what="all are done with", timeout_seconds=60)
        wait_for(
            lambda: (place.result(poison) or {}).get("status") == "FAILURE", what="its failure is recorded"
        )
    assert place.result(poison)["result"]["exc_type"] == "WorkerLostError"
    assert place.ledger.starts[poison] == 5
    assert all(place.ledger.starts[task] == 1 for task in others)
    assert place.depth().dead == 1


def test_a_result_store_that_is_away_is_no_outage_of_the_broker(place):
    """Tasks run, the worker stays ready, one warning names the store, and no result is lost."""
    with RedisServer() as store:
        place.environment["RESULTS"] = store.url
        with Worker("ledger_app", "threads", "-c", "2", **place.environment) as worker:
            worker.wait_ready()
            store.stop()
            tasks = place.send(count=5)
            wait_for(lambda: place.ledger.ends.total() == 5, what="all have run")
            wait_for(lambda: "the result store: Redis at" in worker.log, what="the warning about the store")
            more = place.send("ledger.early")
            wait_for(lambda: place.ledger.ends[more[0]] == 1, what="the next one runs")
            assert worker.get("/readyz")[0] == 200
            assert place.depth().running == 5
            store.start()
            wait_for(place.empty, what="all are done with")
            wait_for(lambda: "the result store answers" in worker.log, what="the end of it is told")
            for task in tasks + more:
                wait_for(lambda task=task: place.result(task), what="its result is there")
            assert worker.log.count("the result store: ") == 1
            assert "the broker" not in worker.log
    assert set(place.ledger.starts.values()) == {1}


def test_a_worker_is_ready_when_the_broker_has_let_it_in(place):
    """With a wrong password it says what to put right, and is not called ready before it is."""
    with place.server.client() as admin:
        admin.config_set("requirepass", "right")
        place.environment["BROKER"] = place.server.url.replace("//", "//:wrong@")
        with Worker("ledger_app", "threads", "-c", "2", **place.environment) as worker:
            wait_for(lambda: "user and password in its URL" in worker.log, what="the refusal is told")
            assert " ready: " not in worker.log
            assert worker.get("/readyz")[0] == 503
            admin.config_set("requirepass", "wrong")
            worker.wait_ready()
            wait_for(lambda: " ready: threads with 2 slots" in worker.log, what="it says that it is ready")
            assert "wrong" not in worker.log


@pytest.mark.soak(DRAINED, repeat=0.3)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("task", ["ledger.work", "ledger.early"], ids=["late acks", "early acks"])
def test_sigterm_lets_running_tasks_finish(place, account, pool, task):
    """What runs is finished and recorded, what waits stays in the queue, the exit code is 0."""
    [first, *_] = place.send(task, count=5, seconds=0.5)
    with Worker("ledger_app", pool, "-c", "1", **place.environment) as worker:
        wait_for(lambda: place.ledger.starts[first] == 1, what="it runs", timeout_seconds=20)
        worker.terminate()
        assert worker.wait() == 0
    account(place.ledger.check([first]), counted=place.extra_runs(), drains=1)
    assert place.ledger.ends == {first: 1}
    assert place.result(first)["status"] == "SUCCESS"
    depth = place.depth()
    assert (depth.ready, depth.claimed, depth.running) == (4, 0, 0)


LEAVES = {"ColdShutdown": ((), 130), "DrainTimeout": (("--drain-timeout", "1"), 124)}
"""Cause → the worker's options, and its exit code."""


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("cause", LEAVES)
def test_a_task_that_is_given_up_runs_no_more(place, pool, cause):
    """At the second signal, or when the drain takes too long: it is ended, and goes back with one loss.

    Its end is never recorded. A child is gone before the message waits again, a process that runs its tasks
    itself right after.
    """
    go = place.folder / "go"
    options, code = LEAVES[cause]
    tasks = place.send(count=3, until=str(go))
    with Worker("ledger_app", pool, "-c", "1", *options, **place.environment) as worker:
        give_up(place, worker, tasks[0], cause)
        wait_for(lambda: place.depth().ready == 3, what="it waits again", every_seconds=0.001)
        if pool in OWN_PROCESSES:
            go.touch()  # nobody is there any more to see it
        assert worker.wait(1) == code
    go.touch()
    assert not place.ledger.ends
    assert place.losses() == {tasks[0]: (1, cause)}
    with Worker("ledger_app", pool, "-c", "1", **place.environment):
        wait_for(place.empty, what="all are done with", timeout_seconds=20)
    assert place.ledger.ends == dict.fromkeys(tasks, 1)
    assert place.extra_runs() == 1


@pytest.mark.parametrize("pool", POOLS)
def test_an_early_acknowledged_task_that_is_given_up_ends(place, pool):
    """It does not come back, and it keeps no process."""
    go = place.folder / "go"
    tasks = place.send("ledger.early", count=3, until=str(go))
    with Worker("ledger_app", pool, "-c", "1", **place.environment) as worker:
        give_up(place, worker, tasks[0], "ColdShutdown")
        assert worker.wait(2) == 130
    go.touch()
    assert place.depth().ready == 2
    assert place.losses() == {}
    assert not place.ledger.ends


def give_up(place, worker, task, cause):
    """Have the worker leave while it runs the task, until the task is given up."""
    wait_for(lambda: place.ledger.starts[task] == 1, what="it runs", timeout_seconds=20)
    worker.terminate()
    wait_for(lambda: "draining: 1 tasks run" in worker.log, what="it drains")
    if cause == "ColdShutdown":
        worker.terminate()


def test_a_drain_by_message_keeps_the_process(place):
    """A worker told to drain reports that it is drained and waits for its end: its pod must not restart."""
    from muster.wire import control, report

    go = place.folder / "go"
    [task] = place.send(until=str(go))
    pool_name = ("MUSTER_POOL_NAME", "here/pool")
    environment = {**place.environment, pool_name[0]: pool_name[1], "MUSTER_WORKER_ID": "w1"}

    def reported():
        found = place.observer.reports("here/pool", max_age_seconds=10)
        return report.decode(found[0][1]) if found else None

    with Worker("ledger_app", "prefork", "-c", "1", **environment) as worker:
        wait_for(lambda: place.ledger.starts[task] == 1, what="it runs", timeout_seconds=20)
        wait_for(lambda: reported() is not None and reported().busy == 1, what="it is reported")
        place.observer.send("w1", control.encode(control.Control(method="drain")))
        wait_for(lambda: reported().draining and not reported().drained, what="the drain is reported")
        place.send(count=1)
        assert worker.get("/readyz")[0] == 503
        assert worker.get("/livez")[0] == 200
        go.touch()
        wait_for(lambda: reported().drained, what="it is drained")
        assert worker.process.poll() is None
        assert place.depth().ready == 1
        worker.terminate()
        assert worker.wait() == 0


def test_a_worker_that_is_told_to_leave_by_message_ends(place):
    """As by SIGTERM: what runs is finished first. A SIGTERM after it is the first, and gives nothing up."""
    from muster.wire import control

    go = place.folder / "go"
    [task] = place.send(until=str(go))
    with Worker("ledger_app", "prefork", "-c", "1", MUSTER_WORKER_ID="w1", **place.environment) as worker:
        wait_for(lambda: place.ledger.starts[task] == 1, what="it runs", timeout_seconds=20)
        place.observer.send("w1", control.encode(control.Control(method="leave")))
        wait_for(lambda: "draining: 1 tasks run" in worker.log, what="it drains")
        worker.terminate()
        wait_for(lambda: "SIGTERM" in worker.log, what="the signal is heard")
        go.touch()
        assert worker.wait() == 0
    assert place.ledger.ends[task] == 1


@pytest.mark.soak(DRAINED)
def test_drains_in_a_row_lose_nothing(place, account, times):
    """Twenty drains and one under load, of each pool, beside those that follow: every task runs once."""
    tasks, rounds = [], 7 * times
    with contextlib.ExitStack() as stack:

        def hire():
            hired = [Worker("ledger_app", pool, "-c", "2", **place.environment) for pool in POOLS]
            return [stack.enter_context(worker) for worker in hired]

        leaving = hire()
        for _ in range(rounds):
            staying = hire()
            for worker in (*leaving, *staying):
                worker.wait_ready()
            done = len(place.ledger.ends)
            tasks += place.send(count=20, seconds=0.05) + place.send("ledger.early", count=20, seconds=0.05)
            wait_for(lambda d=done: len(place.ledger.ends) >= d + 5, what="they are at work")
            for worker in leaving:
                worker.terminate()
            assert [worker.wait() for worker in leaving] == [0] * len(POOLS)
            leaving = staying
        wait_for(place.empty, what="all are done with", timeout_seconds=60)
        # what was acknowledged early is done with before it ends
        wait_for(lambda: len(place.ledger.ends) >= len(tasks), what="all have ended")
    verdict = place.ledger.check(tasks)
    account(verdict, counted=place.extra_runs(), drains=rounds * len(POOLS))
    assert verdict.extra_runs == place.extra_runs() == 0


def test_the_ledger_sees_a_loss(tmp_path, account):
    """The checker itself: fed a loss, a stranger and a second run, it names each, and the account fails."""
    path = Path(tmp_path / "ledger")
    path.write_text("start a 1 0\nend a 1 1\nstart b 1 2\nstart a 1 3\nend a 1 4\nend x 1 5\n")
    verdict = Ledger(path).check(["a", "b"])
    assert verdict.lost == {"b"}
    assert verdict.duplicated == {"a"}
    assert verdict.unexpected == {"x"}
    assert verdict.extra_runs == 1
    assert verdict.unfinished == {"b"}
    with pytest.raises(AssertionError):
        account(verdict, counted=1)


@pytest.mark.parametrize(
    ("sent", "counted"), [("ab", 1), ("a", 0), ("", 1)], ids=["lost", "uncounted", "unexpected"]
)
def test_each_fault_fails_the_account(tmp_path, account, sent, counted):
    """A loss, an extra run that nobody counted and a task that nobody sent fail, each by itself."""
    path = Path(tmp_path / "ledger")
    path.write_text("start a 1 0\nend a 1 1\nstart a 1 3\nend a 1 4\n")
    with pytest.raises(AssertionError):
        account(Ledger(path).check(sent), counted=counted)
