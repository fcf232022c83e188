"""Messages that Celery's own workers hold: left alone while they may live, given back when they are lost."""

import os
import time

import celery
import kombu
import pytest

from muster.transports.base import Tick, Turn
from muster.transports.redis import RedisTransport, Server
from muster.wire.keys import RedisKeys
from muster.wire.message import peek

pytestmark = pytest.mark.servers


def consumed_by_a_lost_celery_worker(url, count):
    """Let kombu take `count` messages in a process that then dies without a word."""
    child = os.fork()
    if not child:
        connection = kombu.Connection(url)
        taken = []
        queue = kombu.Queue("q", exchange=kombu.Exchange("q"), routing_key="q")
        with connection.Consumer([queue], callbacks=[lambda _, m: taken.append(m)], accept=["json"]):
            while len(taken) < count:
                connection.drain_events(timeout=10)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def claims(redis_server):
    """Two messages, one with a priority, in the hands of a Celery worker that is gone."""
    app = celery.Celery(broker=redis_server.url)
    ids = [app.send_task("t", queue="q").id, app.send_task("t", queue="q", priority=5).id]
    app.close()
    consumed_by_a_lost_celery_worker(redis_server.url, 2)
    return ids


def transport(url, visibility_timeout_seconds):
    return RedisTransport(
        Server(url, RedisKeys()),
        queues=["q"],
        worker="w",
        pool="p",
        lease_seconds=30,
        dead_letters={},
        visibility_timeout_seconds=visibility_timeout_seconds,
    )


def test_a_celery_workers_claim_is_left_alone_within_its_visibility_timeout(redis_server, claims):
    """Neither our ticks nor our claims touch it: that worker may still run the task."""
    ours = transport(redis_server.url, 3600)
    ours.tick(Tick())
    assert ours.restore_foreign(time.time()) == 0
    assert ours.turn(Turn(claim=5)).deliveries == []
    ours.close()


def test_a_lost_celery_workers_claim_comes_back_when_its_time_is_over(redis_server, claims):
    """Each once, marked as redelivered, into the list of its own priority."""
    ours, other = transport(redis_server.url, 0), transport(redis_server.url, 0)
    now = time.time() + 1
    assert ours.restore_foreign(now) == 2
    assert other.restore_foreign(now) == 0
    deliveries = ours.turn(Turn(claim=5)).deliveries
    assert [peek(d.raw).id for d in deliveries] == claims
    assert [d.tag.split(":")[1] for d in deliveries] == ["0", "3"]
    assert all(b'"redelivered":true' in d.raw for d in deliveries)
    ours.close()
    other.close()
