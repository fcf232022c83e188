"""A real worker on a real Redis, asked for everything that its users ask of it. Each fact on each pool."""

import base64
import json
import os
import socket
import time
from pathlib import Path

import pytest

from muster import Muster
from muster.exceptions import RemoteTaskError, TaskError, TaskRevokedError, TimeLimitExceeded
from muster.transports.connect import connect_observer
from waiting import wait_for
from workers import Worker

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
OWN_PROCESSES = {"prefork", "gevent", "eventlet"}
"""Pools that run tasks in processes of their own, which alone can be limited."""


@pytest.fixture(scope="module", params=POOLS)
def worker(request, _shared_redis_server):
    """One worker for all tests of this module and pool; each waits for its own task."""
    _shared_redis_server.flush()
    with Worker("behaviour_app", request.param, "-c", "2", BROKER=_shared_redis_server.url) as worker:
        worker.pool = request.param
        worker.url = _shared_redis_server.url
        yield worker.wait_ready()


@pytest.fixture(scope="module")
def app(worker):
    app = Muster("client", broker=worker.url, backend=worker.url)
    yield app
    app.close()


@pytest.fixture
def dead(worker):
    """Return a function that gives the dead letters that came since the test began."""
    with RedisClient(worker.url) as client:
        before = len(client.xrange("celery.dead"))
        yield lambda: client.xrange("celery.dead")[before:]


class RedisClient:
    def __init__(self, url):
        import redis

        self.client = redis.Redis.from_url(url)

    def __enter__(self):
        return self.client

    def __exit__(self, *_):
        self.client.close()


def run(app, name, *args, **options):
    return app.send_task(name, args=args, **options)


def test_a_result_comes_back(app):
    """The value that the task returned."""
    assert run(app, "b.add", 2, 3).get(timeout=20) == 5


@pytest.mark.parametrize("priority", [3, 6, 9])
def test_a_task_of_any_priority_wakes_an_idle_worker(app, priority):
    """Also the first of its priority, with nothing else in the queue."""
    result = app.send_task("b.add", args=(2, 3), priority=priority)
    assert result.get(timeout=20) == 5


def test_a_failure_comes_back_as_its_exception(app):
    """With its arguments and the traceback."""
    result = run(app, "b.fail", "no such shop")
    with pytest.raises(ValueError, match="no such shop"):
        result.get(timeout=20)
    assert result.failed()
    assert "no such shop" in result.traceback


def test_a_retry_runs_again_until_it_succeeds(app):
    """retry() with a countdown that waits in Redis; the result is that of the last run."""
    assert run(app, "b.retry", 2).get(timeout=20) == 2


def test_automatic_retries_end_with_the_error(app):
    """autoretry_for with backoff: after max_retries the exception itself is the result."""
    with pytest.raises(OSError, match="still away"):
        run(app, "b.flaky").get(timeout=20)


def test_countdown_is_kept_to_the_tenth_of_a_second(app):
    """Not earlier, and a fraction of a second later at most."""
    sent = time.time()
    started = run(app, "b.clock", countdown=1.0).get(timeout=20)
    assert 1.0 <= started - sent < 1.5


def test_an_expired_task_does_not_run(app):
    """Its result is REVOKED."""
    result = run(app, "b.add", 1, 1, countdown=0.5, expires=0.2)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)


def test_a_task_publishes_from_within(app):
    """Children that it sent are run too, whatever way the pool publishes."""
    ids = run(app, "b.calls", 20).get(timeout=20)
    assert [app.AsyncResult(task_id).get(timeout=20) for task_id in ids] == list(range(1, 21))


def test_a_task_that_is_tracked_is_started(app, worker, tmp_path):
    """STARTED while it runs, with the process that runs it and the worker's name; then its result."""
    result = run(app, "b.tracked", str(tmp_path / "go"))
    wait_for(lambda: result.state, until=lambda state: state == "STARTED", what="the task is tracked")
    told = result.result
    (tmp_path / "go").touch()
    pid = result.get(timeout=20)
    assert told == {"pid": pid, "hostname": f"muster@{socket.gethostname()}"}
    assert (pid == worker.pid) == (worker.pool not in OWN_PROCESSES)


def test_an_ignored_task_leaves_no_result(app, worker):
    """Ignore: acknowledged, nothing stored."""
    result = run(app, "b.ignore")
    run(app, "b.add", 1, 1).get(timeout=20)
    wait_for(lambda: quiet(worker.url), what="everything is acknowledged")
    assert result.state == "PENDING"


def quiet(url):
    observer = connect_observer(url, {}, {})
    try:
        depth = observer.depths(["celery"], horizon_seconds=0)["celery"]
    finally:
        observer.close()
    return not (depth.ready or depth.claimed or depth.running)


def test_a_rejected_message_goes_to_the_dead_letters(app, dead):
    """Reject without requeue: the dead letter has the message and who refused it."""
    task = run(app, "b.reject")
    wait_for(dead, what="a dead letter")
    [(_, fields)] = dead()
    assert fields[b"reason"] == b"RejectedByTask"
    assert json.loads(fields[b"message"])["headers"]["id"] == task.id


def test_what_json_cannot_carry_is_a_failure(app):
    """The task ran, its result cannot be stored: the caller learns why."""
    with pytest.raises(Exception, match="cannot be"):
        run(app, "b.unserializable").get(timeout=20)


def test_a_system_exit_in_a_task_is_its_failure(app):
    """And the worker goes on."""
    with pytest.raises((SystemExit, RemoteTaskError)):
        run(app, "b.leave").get(timeout=20)
    assert run(app, "b.add", 1, 1).get(timeout=20) == 2


def test_a_large_argument_arrives(app):
    """Two MiB, in and out of the pool."""
    assert run(app, "b.big", "x" * 2**21).get(timeout=20) == 2**21


def test_time_limits(app, worker):
    """The soft limit can be caught, the hard one ends the run and is its failure."""
    if worker.pool not in OWN_PROCESSES:
        return  # threads and solo say in the documentation that they have none
    assert run(app, "b.soft").get(timeout=20) == "cleaned up"
    with pytest.raises(TimeLimitExceeded):
        run(app, "b.hard").get(timeout=20)


def envelope(worker, app, **changes):
    """Return a real message with some of its fields changed."""
    with RedisClient(worker.url) as client:
        run(app, "b.add", 1, 1, queue="aside")
        message = json.loads(client.rpop("aside"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = message
        for parent in parents:
            target = target[parent]
        target[last.replace("_", "-") if last.startswith("content_") else last] = value
    return json.dumps(message)


def chord_body():
    body = [[1, 1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": {"task": "b.add"}}]
    return base64.b64encode(json.dumps(body).encode()).decode()


BAD = {
    "bytes that are no message": (b"\xff\x00not json", b"MalformedMessage"),
    "JSON that is no message": (b"[1, 2, 3]", b"MalformedMessage"),
    "an unknown task": ({"headers__task": "os.system"}, b"NotRegistered"),
    "a pickle": ({"content_type": "application/x-python-serialize"}, b"UnknownContentType"),
    "a body that is not base64": ({"body": "%%%"}, b"MalformedBody"),
    "a body that is not JSON": ({"body": base64.b64encode(b"{").decode()}, b"MalformedBody"),
    "a body of the wrong shape": ({"body": base64.b64encode(b"[1]").decode()}, b"MalformedBody"),
    "an ETA that is no time": ({"headers__eta": "tomorrow"}, b"MalformedHeaders"),
    "retries that are no number": ({"headers__retries": "many"}, b"MalformedMessage"),
    "a body compressed by bz2": ({"headers__compression": "application/x-bz2"}, b"CompressedBody"),
    "a chord": ({"body": chord_body()}, b"ChordUnsupported"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_message_is_buried_with_its_reason(app, worker, dead, kind):
    """It goes to the dead letters unharmed, and the worker runs the next task."""
    content, reason = BAD[kind]
    raw = content if isinstance(content, bytes) else envelope(worker, app, **content).encode()
    with RedisClient(worker.url) as client:
        client.lpush("celery", raw)
    wait_for(dead, what="a dead letter")
    [(_, fields)] = dead()
    assert fields[b"reason"] == reason
    assert fields[b"text"]
    assert fields[b"message"] == raw
    if isinstance(content, dict):  # who sent it learns why
        with pytest.raises(TaskError):
            app.AsyncResult(json.loads(raw)["headers"]["id"]).get(timeout=20)
    assert run(app, "b.add", 1, 1).get(timeout=20) == 2


def test_an_oversize_message_is_buried(app, worker, dead):
    """More than 16 MiB: the reason says how big it was and what to do instead."""
    result = run(app, "b.big", "x" * (13 * 2**20))
    wait_for(dead, what="a dead letter", timeout_seconds=60)
    [(_, fields)] = dead()
    assert fields[b"reason"] == b"OversizeMessage"
    with pytest.raises(TaskError, match="the limit is 16777216"):
        result.get(timeout=20)


def sent_commands(client):
    """Return how many commands of the kinds that a worker sends; what scripts do inside is not among them."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "blmove"))


def test_an_idle_worker_costs_two_commands_a_second(worker):
    """Counted by the server over five seconds of idleness, with four connections at most."""
    with RedisClient(worker.url) as client:
        wait_for(lambda: quiet(worker.url), what="nothing is in hand")
        before = sent_commands(client)
        time.sleep(5)  # a rate needs a time: the one thing here that is measured by it
        after = sent_commands(client)
        waits = [c for c in client.client_list() if c["cmd"] == "blmove"]
    assert 0 < (after - before) / 5 <= 2
    assert len(waits) <= 4


def test_an_idle_solo_worker_is_small(redis_server):
    """No more than 45 MiB of memory once it has run a task, with an application, probes and metrics."""
    with (
        Worker("behaviour_app", "solo", BROKER=redis_server.url) as worker,
        Muster("client", broker=redis_server.url, backend=redis_server.url) as client,
    ):
        worker.wait_ready()
        assert run(client, "b.add", 2, 3).get(timeout=20) == 5
        pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") <= 45 * 2**20
