"""Results over a real RabbitMQ: Muster's and Celery's clients, and either one's workers."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import celery
import pytest

from lossy_proxy import LossyProxy
from muster import Muster, chain
from muster.app.results import connect_results
from muster.core.effects import StoredResult
from muster.errors import ConfigurationError
from muster.transports.amqp import replies
from muster.transports.amqp.replies import AmqpReplies
from servers import dying_with_parent
from waiting import stays, wait_for
from workers import TESTS, Worker

pytestmark = pytest.mark.servers


def stored(store, task_id="1", status="SUCCESS", retries=0, text=""):
    document = f'{{"status":"{status}","result":"{text}","retries":{retries},"task_id":"{task_id}"}}'
    return StoredResult(task_id, document.encode(), status, retries, 60, store.reply_to)


@pytest.fixture
def ours(rabbitmq):
    """A client of ours."""
    with Muster("shop", broker=rabbitmq.url, backend="rpc://", set_as_current=False) as app:
        yield app


@contextlib.contextmanager
def celery_worker(url):
    """A worker of Celery's, as a process."""
    with tempfile.NamedTemporaryFile(prefix="celery-worker-") as log:
        process = subprocess.Popen(
            [
                *dying_with_parent(),
                *[sys.executable, "-m", "celery", "-A", "rpc_app", "worker", "-P", "solo", "-l", "INFO"],
                *["--without-mingle", "--without-gossip"],
            ],
            env={**os.environ, "PYTHONPATH": str(TESTS / "apps"), "SIDE": "celery", "BROKER": url},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: "ready." in Path(log.name).read_text(), what="Celery's worker")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


@contextlib.contextmanager
def muster_worker(url, pool="prefork"):
    with Worker("rpc_app", pool, "-c", "2", SIDE="muster", BROKER=url) as worker:
        worker.wait_ready()
        yield worker
        worker.terminate()
        assert worker.wait() == 0, worker.log


@pytest.fixture(params=["muster", "celery"])
def worker(request, rabbitmq):
    with muster_worker(rabbitmq.url) if request.param == "muster" else celery_worker(rabbitmq.url):
        yield request.param


def test_our_client_gets_results_of_either_worker(ours, worker):
    """Values, exceptions, states on the way, retries and chains."""
    send = ours.send_task
    assert send("shop.add", (2, 3)).get(timeout=30) == 5
    with pytest.raises(KeyError, match="nothing"):
        send("shop.fail", ("nothing",)).get(timeout=30)
    assert send("shop.tell").get(timeout=30) == "told"
    assert send("shop.again").get(timeout=60) == 1
    three = chain(ours.signature("shop.add", (1, 1)), ours.signature("shop.add", (1,)))
    last = three.apply_async()
    assert last.get(timeout=30) == 3
    assert last.parent.get(timeout=30) == 2


def test_a_hundred_results_are_waited_for_by_ten_threads(ours, worker):
    """Each gets its own, over one connection."""
    sent = [ours.send_task("shop.add", (n, n)) for n in range(100)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(lambda one: one.get(timeout=60), sent)) == [2 * n for n in range(100)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celerys_client_gets_results_of_our_worker(rabbitmq, pool):
    """As from a worker of its own."""
    theirs = celery.Celery("shop", broker=rabbitmq.url, backend="rpc://", set_as_current=False)
    with muster_worker(rabbitmq.url, pool):
        assert theirs.send_task("shop.add", (2, 3)).get(timeout=30) == 5
        with pytest.raises(KeyError, match="nothing"):
            theirs.send_task("shop.fail", ("nothing",)).get(timeout=30)
        assert theirs.send_task("shop.again").get(timeout=60) == 1
        several = [theirs.send_task("shop.add", (n, n)) for n in range(20)]
        assert [one.get(timeout=30) for one in several] == [2 * n for n in range(20)]
    theirs.backend.result_consumer.stop()
    theirs.close()


@pytest.fixture
def client(rabbitmq):
    made = AmqpReplies(rabbitmq.url, kept_seconds=0)
    yield made
    made.close()


@pytest.fixture
def sender(rabbitmq):
    made = AmqpReplies(rabbitmq.url, kept_seconds=0)
    yield made
    made.close()


def test_states_on_the_way_are_seen_and_a_ready_one_stays(client, sender):
    """The newest that has come, until one is ready: another run of the same retry does not replace that."""
    client.listen()
    assert client.get("1") is None
    assert client.wait("1", 0.05) is None
    sender.store([stored(client, status="PROGRESS")])
    wait_for(lambda: client.get("1"), until=lambda found: found and b"PROGRESS" in found, what="the state")
    assert client.wait("1", 0.05) is None
    sender.store([stored(client, text="first"), stored(client, text="second"), stored(client, "2")])
    assert b"first" in client.wait("1", 30)
    assert client.wait("2", 30) is not None
    assert b"first" in client.get("1")
    client.forget("1")
    assert client.get("1") is None


def test_a_result_that_comes_while_others_wait_too(client, sender):
    """One reads for all, and whoever gives up takes nobody along."""
    client.listen()
    with ThreadPoolExecutor(20) as pool:
        short = [pool.submit(client.wait, "none", 0.1) for _ in range(5)]
        found = [pool.submit(client.wait, str(n % 10), 30) for n in range(15)]
        assert [one.result(timeout=30) for one in short] == [None] * 5
        sender.store([stored(client, str(n), text=f"<{n}>") for n in range(10)])
        for n, one in enumerate(found):
            assert f"<{n % 10}>".encode() in one.result(timeout=30)


def test_what_nobody_waits_for_is_dropped(client, sender):
    """Without a queue to reply to, and for a client that has gone, a worker goes on."""
    result = stored(client)
    client.close()
    sender.store([result, StoredResult("2", b"{}", "SUCCESS", 0, 60)])
    sender.store([])


def test_a_broken_connection_costs_no_result(rabbitmq, sender):
    """The queue stays for a while; what came meanwhile is there when the client is back."""
    with LossyProxy(rabbitmq.server.port) as proxy:
        far = AmqpReplies(rabbitmq.url.replace(str(rabbitmq.server.port), str(proxy.port)), kept_seconds=0)
        far.listen()
        with ThreadPoolExecutor() as pool:
            found = pool.submit(far.wait, "1", 60)
            proxy.cut()
            sender.store([stored(far)])
            assert found.result(timeout=60) is not None
        proxy.cut()
        sender.store([stored(far, "2")])
        far.listen()
        assert far.wait("2", 30) is not None
        far.close()


@pytest.mark.parametrize("messages", [0, 300])
@pytest.mark.parametrize("breaks", [False, True])
def test_who_sends_again_after_a_long_time_has_its_queue(rabbitmq, sender, monkeypatch, breaks, messages):
    """Meanwhile nobody has read the connection; what became of it stands behind the results that had come."""
    monkeypatch.setattr(replies, "SURE_SECONDS", 0.0)
    with LossyProxy(rabbitmq.server.port) as proxy:
        far = AmqpReplies(rabbitmq.url.replace(str(rabbitmq.server.port), str(proxy.port)), kept_seconds=0)
        far.listen()
        sender.store([stored(far, f"old-{n}", text="x" * 1000) for n in range(messages)])
        if breaks:
            proxy.cut()
        rabbitmq.server.api("DELETE", f"queues/{rabbitmq.name}/{far.reply_to}")
        far.listen()
        sender.store([stored(far)])
        assert far.wait("1", 10) is not None
        far.close()


def test_who_sends_again_after_a_restart_of_the_server_has_its_queue(own_rabbitmq_server):
    """Restarted while nobody read the connection, and its queue gone since, as after an hour."""
    with own_rabbitmq_server.virtual_host() as host:
        client, sender = (AmqpReplies(host.url, kept_seconds=0) for _ in range(2))
        client.listen()
        own_rabbitmq_server.stop()
        own_rabbitmq_server.start()
        own_rabbitmq_server.api("DELETE", f"queues/{host.name}/{client.reply_to}")
        client.listen()
        sender.store([stored(client)])
        assert client.wait("1", 10) is not None
        client.close()
        sender.close()


def test_the_queue_is_a_clients_own_and_goes_with_it(rabbitmq, client):
    """A UUID, as Celery's; nobody's arguments but its own; gone when the client closes in good order."""
    client.listen()
    queue = rabbitmq.queue(client.reply_to)
    assert (queue["durable"], queue["exclusive"]) == (True, False)
    assert queue["arguments"]["x-expires"] == 3_600_000
    name = client.reply_to
    client.close()
    with pytest.raises(AssertionError):
        rabbitmq.queue(name)


def test_a_forked_process_has_a_queue_of_its_own(client):
    """Its parent's results stay its parent's."""
    client.listen()
    name = client.reply_to
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, client.reply_to.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != name
    os.close(reader)
    os.close(writer)
    assert client.reply_to == name
    stays(lambda: client.get("1") is None, what="the parent still listens", seconds=0.2, every_seconds=0.05)


def test_on_another_broker_it_is_refused():
    """With what to do instead."""
    with pytest.raises(ConfigurationError, match=r"rpc:// sends results over the broker, which must be R"):
        connect_results("rpc://", {}, broker_url="redis://localhost", kept_seconds=0)
    with pytest.raises(ConfigurationError, match=r"results over the broker are written rpc://"):
        connect_results("rpc://host", {}, broker_url="amqp://localhost", kept_seconds=0)
