"""What the embedded broker holds beyond the contract of every transport."""

import subprocess
import sys
import textwrap
import threading

import pytest

from muster.core.effects import Publication, StoredResult
from muster.embedded import Database
from muster.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from muster.transports.base import Settlement, Tick, Turn, Verdict
from muster.transports.sqlite import SQLiteObserver, SQLitePublisher, SQLiteTransport


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'broker.db'}"


@pytest.fixture
def connect(url):
    made = []

    def connect(**options):
        settings = {
            "queues": ["mail"],
            "worker": "one",
            "pool": "pool",
            "lease_seconds": 30.0,
            "dead_letters": {},
        }
        made.append(SQLiteTransport(url, **{**settings, "results_joined": False, **options}))
        return made[-1]

    yield connect
    for transport in made:
        transport.close()


@pytest.fixture
def publisher(url):
    made = SQLitePublisher(url)
    yield made
    made.close()


@pytest.mark.parametrize("kind", [SQLitePublisher, lambda url: SQLiteObserver(url, {})])
def test_a_url_without_a_file_is_a_mistake_of_the_user(kind):
    """It is found when the connection is made, before anything is tried."""
    with pytest.raises(ConfigurationError, match="names no file"):
        kind("sqlite://")


def test_nothing_is_opened_before_it_is_needed(url, tmp_path):
    """Making a publisher touches no disk, so an application can be imported anywhere."""
    publisher = SQLitePublisher(url)
    assert list(tmp_path.iterdir()) == []
    publisher.publish([Publication("mail", b"{}")])
    assert (tmp_path / "broker.db").exists()
    publisher.close()


@pytest.mark.parametrize("joined", [True, False])
def test_results_are_stored_here_only_when_they_live_here(connect, publisher, tmp_path, joined):
    """With a result store elsewhere the worker's loop stores them; the broker's file has none."""
    publisher.publish([Publication("mail", b"{}")])
    transport = connect(results_joined=joined)
    [delivery] = transport.turn(Turn(claim=1)).deliveries
    result = StoredResult("1", b"{}", "SUCCESS", 0, 60)
    transport.turn(
        Turn(settle=[Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.ACK, result=result)])
    )
    database = Database(tmp_path / "broker.db")
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (int(joined),)
    database.close()


def test_a_call_that_fails_changes_nothing(connect, publisher, url):
    """A turn is one transaction: when its last part cannot be done, its first part has not been."""
    publisher.publish([Publication("mail", b"{}")])
    transport = connect()
    [delivery] = transport.turn(Turn(claim=1)).deliveries
    good = Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.ACK)
    bad = Settlement(
        tag="",
        queue="mail",
        verdict=Verdict.ACKED,
        publish=[Publication("mail", None)],  # type: ignore[arg-type]
    )
    with pytest.raises(BrokerUnavailable, match="NOT NULL"):
        transport.turn(Turn(settle=[good, bad]))
    assert list(transport.turn(Turn(settle=[good])).settled) == [True]
    observer = SQLiteObserver(url, {})
    assert observer.depths(["mail"], horizon_seconds=0)["mail"].claimed == 0
    observer.close()


def test_every_method_says_when_the_file_is_out_of_reach(tmp_path):
    """BrokerUnavailable, whichever is called; the watch wakes the loop, whose own call finds out."""
    url = f"sqlite:///{tmp_path / 'missing' / 'broker.db'}"
    transport = SQLiteTransport(
        url, queues=["mail"], worker="one", pool="p", lease_seconds=30, dead_letters={}, results_joined=True
    )
    publisher, observer = SQLitePublisher(url), SQLiteObserver(url, {})
    for call in (
        lambda: transport.turn(Turn(claim=1)),
        lambda: transport.tick(Tick()),
        lambda: publisher.publish([Publication("mail", b"{}")]),
        lambda: observer.depths(["mail"], horizon_seconds=0),
        lambda: observer.reports("p", max_age_seconds=9),
        lambda: observer.send("one", b"{}"),
        lambda: observer.revoke(["1"]),
        observer.extra_runs,
    ):
        with pytest.raises(BrokerRefused, match="does its folder exist"):
            call()
    notified = threading.Event()
    transport.watch(notified.set).arm()
    assert notified.wait(10)
    transport.close()


def test_the_broker_heals_when_the_file_can_be_reached_again(tmp_path):
    """Nobody has to be restarted."""
    url = f"sqlite:///{tmp_path / 'later' / 'broker.db'}"
    publisher = SQLitePublisher(url)
    with pytest.raises(BrokerUnavailable):
        publisher.publish([Publication("mail", b"{}")])
    (tmp_path / "later").mkdir()
    publisher.publish([Publication("mail", b"{}")])
    publisher.close()


def test_a_watch_sees_what_another_process_publishes(connect, url):
    """The file's version is the signal, whoever writes."""
    script = """
        import sys
        from muster.core.effects import Publication
        from muster.transports.sqlite import SQLitePublisher
        publisher = SQLitePublisher(sys.argv[1])
        sys.stdin.read()
        publisher.publish([Publication("mail", b"{}")])
        publisher.close()
    """
    transport = connect()
    transport.tick(Tick())
    notified = threading.Event()
    transport.watch(notified.set).arm()
    command = [sys.executable, "-c", textwrap.dedent(script), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert not notified.is_set()
        process.stdin.close()
        assert notified.wait(30)
    assert process.returncode == 0
    assert len(transport.turn(Turn(claim=9)).deliveries) == 1


def test_many_messages_may_be_in_one_call(connect, publisher):
    """Batches have no limit but memory."""
    publisher.publish([Publication("mail", b"{}")] * 5000)
    transport = connect()
    deliveries = transport.turn(Turn(claim=10_000, run=2500)).deliveries
    assert len(deliveries) == 5000
    assert sum(delivery.running for delivery in deliveries) == 2500
    transport.tick(Tick(renew=[(delivery.queue, delivery.tag) for delivery in deliveries]))
    settlements = [Settlement(tag=d.tag, queue=d.queue, verdict=Verdict.ACK) for d in deliveries]
    assert all(transport.turn(Turn(settle=settlements)).settled)


def test_a_transport_works_after_it_was_closed(connect, publisher):
    """Connections are opened when they are needed; what was in hand is still held."""
    publisher.publish([Publication("mail", b"{}")])
    transport = connect()
    [delivery] = transport.turn(Turn(claim=1)).deliveries
    transport.close()
    settlement = Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.ACK)
    assert list(transport.turn(Turn(settle=[settlement])).settled) == [True]
