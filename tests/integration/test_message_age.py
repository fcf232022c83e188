"""How long messages wait on a real Redis: what Celery's clients send is followed from reading to reading."""

import time

import celery
import pytest

from muster import Muster
from muster.core.age import Source
from muster.core.effects import Publication
from muster.transports.base import Turn
from muster.transports.connect import connect_observer, connect_publisher, connect_transport
from waiting import wait_for


@pytest.fixture
def observer(redis_server):
    made = connect_observer(redis_server.url, {}, {})
    yield made
    made.close()


@pytest.fixture
def theirs(redis_server):
    app = celery.Celery("shop", broker=redis_server.url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def worker(redis_server):
    made = connect_transport(
        redis_server.url,
        queues=["mail"],
        worker="one",
        pool="shop/mail",
        lease_seconds=60.0,
        dead_letters={},
        options={},
        results_prefix=None,
    )
    yield made
    made.close()


def oldest(observer, queue="mail"):
    found = observer.depths([queue], horizon_seconds=0)[queue].oldest
    return found and (found.source is Source.MEASURED, found.seconds)


def waited(observer, seconds, queue="mail"):
    """Read until the oldest message is seen to have waited for so long."""
    wait_for(lambda: oldest(observer, queue)[1], until=lambda age: age >= seconds, what=f"{seconds} s of age")


def test_celerys_messages_are_followed(observer, theirs, worker):
    """Each batch between two readings has an age of its own; taken, the next one's counts."""
    assert oldest(observer) is None
    for _ in range(3):
        theirs.send_task("shop.send", queue="mail")
    began = time.monotonic()
    assert oldest(observer) == (False, 0)
    waited(observer, 0.3)
    for _ in range(2):
        theirs.send_task("shop.send", queue="mail")
    assert oldest(observer)[1] <= time.monotonic() - began
    waited(observer, 0.5)
    worker.turn(Turn(claim=2, run=2))
    assert oldest(observer)[1] >= 0.5
    worker.turn(Turn(claim=1, run=1))
    assert 0 < oldest(observer)[1] <= time.monotonic() - began - 0.3
    worker.turn(Turn(claim=2, run=2))
    assert oldest(observer) is None


def test_what_is_not_there_any_more_makes_nothing_old(observer, theirs, redis_server):
    """A list that was emptied and filled again between two readings begins anew."""
    theirs.send_task("shop.send", queue="mail")
    assert oldest(observer) == (False, 0)
    waited(observer, 0.2)
    with redis_server.client() as client:
        client.delete("mail")
    theirs.send_task("shop.send", queue="mail")
    assert oldest(observer) == (False, 0)


def test_every_priority_is_followed_by_itself(observer, theirs):
    """The one that waits longest counts, in whichever list it is."""
    theirs.send_task("shop.send", queue="mail", priority=9)
    assert oldest(observer) == (False, 0)
    waited(observer, 0.3)
    theirs.send_task("shop.send", queue="mail")
    assert oldest(observer)[1] >= 0.3


def test_clients_of_both_kinds_may_share_a_queue(observer, theirs, redis_server, worker):
    """A message that says since when it waits is believed; one that does not has been followed meanwhile."""
    with Muster("shop", broker=redis_server.url, set_as_current=False) as ours:
        ours.send_task("shop.send", queue="mail")
    theirs.send_task("shop.send", queue="mail")
    measured, seconds = oldest(observer)
    assert measured
    assert seconds < 10
    waited(observer, seconds + 0.3)
    worker.turn(Turn(claim=1, run=1))
    measured, seconds = oldest(observer)
    assert not measured
    assert seconds >= 0.3


def test_what_a_message_holds_does_not_matter(observer, redis_server):
    """No text, no JSON: it is found again byte by byte."""
    with redis_server.client() as client:
        client.lpush("mail", b"\xff\xfe\x00")
        assert oldest(observer) == (False, 0)
        client.lpush("mail", b"{}", b"\x00" * 10_000)
    waited(observer, 0.2)
    assert observer.depths(["mail"], horizon_seconds=0)["mail"].ready == 3


def test_reading_goes_on_when_the_server_has_forgotten_the_script(observer, theirs, redis_server):
    """As after a restart or a failover; what has been seen stays known."""
    theirs.send_task("shop.send", queue="mail")
    assert oldest(observer) == (False, 0)
    waited(observer, 0.2)
    with redis_server.client() as client:
        client.script_flush()
    assert oldest(observer)[1] >= 0.2


def test_a_reading_is_one_round_trip_whatever_the_number_of_queues(observer, redis_server):
    """A hundred queues cost the server a hundred scripts in one go, and no command that writes."""
    queues = [f"queue-{number}" for number in range(100)]
    publisher = connect_publisher(redis_server.url, {})
    publisher.publish([Publication(queue, b"{}") for queue in queues])
    publisher.close()
    observer.depths(queues, horizon_seconds=0)
    with redis_server.client() as client:
        client.config_resetstat()
        reads = client.info("stats")["total_reads_processed"]
        observer.depths(queues, horizon_seconds=0)
        reads = client.info("stats")["total_reads_processed"] - reads
        calls = {
            name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()
        }
    assert calls["evalsha"] == 100
    assert set(calls) <= {
        *("evalsha", "time", "exists", "zcard", "zcount", "xlen", "llen", "lindex", "lpos", "info"),
        *("config|resetstat", "config"),
    }
    assert reads < 20
