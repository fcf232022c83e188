"""Limits of tasks and queues with real workers on a real Redis, told by their environment as in a cluster."""

import json

import pytest

from ledger import Ledger
from muster import Muster
from muster.core.rate import read_rate
from waiting import wait_for
from workers import Worker


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def app(redis_server):
    app = Muster("client", broker=redis_server.url, backend=redis_server.url)
    yield app
    app.close()


@pytest.fixture(params=["redis_server", "rabbitmq"])
def broker_url(request):
    return request.getfixturevalue(request.param).url


def assert_within(rate, times, late_seconds):
    """No window has more than the rate allows; a line of the ledger may be so late on a busy machine."""
    for first in range(len(times)):
        for last in range(first, len(times)):
            window = times[last] - times[first] + rate.tolerance_seconds + late_seconds
            assert last - first + 1 <= 1 + window / rate.interval_seconds


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_two_workers_together_keep_a_global_rate(broker_url, redis_server, ledger, pool):
    """20/s for all: forty tasks take two seconds, and a task without a limit does not wait for them."""
    environment = {
        "BROKER": broker_url,
        "RESULTS": redis_server.url,
        "LEDGER": str(ledger.path),
        "MUSTER_GLOBAL_RATE_LIMITS": json.dumps({"ledger.work": "20/s"}),
    }
    with Worker("ledger_app", pool, **environment) as one, Worker("ledger_app", pool, **environment) as two:
        one.wait_ready()
        two.wait_ready()
        with Muster("client", broker=broker_url, backend=redis_server.url) as client:
            for _ in range(40):
                client.send_task("ledger.work")
            free = client.send_task("ledger.early")
            free.get(timeout=20)
        assert len(ledger.starts) < 41
        wait_for(lambda: len(ledger.starts) == 41, what="every task has started")
        put_off = sum(worker.metric("muster_task_rate_limited_total") for worker in (one, two))
    limited = sorted(at for task_id, at in ledger.started_at.items() if task_id != free.id)
    assert_within(read_rate("20/s", whose=""), limited, late_seconds=1.0)
    assert put_off >= 30


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_that_cannot_keep_time_limits_says_so_once(redis_server, pool):
    """At its start: of its own and of its tasks'."""
    limits = ("--time-limit", "10", "--soft-time-limit", "5")
    with Worker("behaviour_app", pool, *limits, BROKER=redis_server.url) as worker:
        worker.wait_ready()
        wait_for(lambda: "b.hard, b.soft" in worker.log, what="the worker says so")
        assert worker.log.count("has no effect: the") == 2


def test_a_queues_bounds_of_dead_letters_reach_the_broker(redis_server, app):
    """Told as the operator tells them: of ten messages that are refused the last two are kept."""
    bounds = {"celery": {"name": "refused", "maxAge": 3600, "maxLength": 2}}
    environment = {"BROKER": redis_server.url, "MUSTER_DEAD_LETTERS": json.dumps(bounds)}
    with Worker("behaviour_app", "solo", **environment) as worker, redis_server.client() as client:
        worker.wait_ready()
        sent = [app.send_task("b.reject").id for _ in range(10)]
        counted = "muster_dead_letters_total"
        wait_for(lambda: worker.metric(counted), until=lambda count: count == 10, what="all are refused")
        kept = [json.loads(fields[b"message"])["headers"]["id"] for _, fields in client.xrange("refused")]
    assert kept == sent[-2:]
