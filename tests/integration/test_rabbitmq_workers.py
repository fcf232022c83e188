"""Real workers on a real RabbitMQ: killed, drained, and without their broker for a while.

What ran is read from the ledger that the tasks write themselves. Queues are classic and quorum.
"""

import contextlib
import os
import signal
import time

import pika
import pytest

from ledger import Ledger
from muster import Muster
from muster.transports.amqp.observer import AmqpObserver
from waiting import wait_for
from workers import Worker

pytestmark = pytest.mark.servers

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
TYPES = ["classic", "quorum"]


class Place:
    """A virtual host with a queue, results in a file, a ledger, a client and an observer."""

    def __init__(self, virtual_host, folder, queue_type):
        self.virtual_host = virtual_host
        for queue in ("celery", "celery.dead"):
            virtual_host.declare(queue, **{"x-queue-type": queue_type})
        self.ledger = Ledger(folder / "ledger")
        self.environment = {
            "BROKER": virtual_host.url,
            "RESULTS": f"sqlite:///{folder}/results.db",
            "LEDGER": str(self.ledger.path),
        }
        self.app = Muster("client", broker=virtual_host.url, backend=self.environment["RESULTS"])
        self.observer = AmqpObserver(virtual_host.url)
        self.sent = []

    def worker(self, pool, *arguments, **environment):
        return Worker("ledger_app", pool, *arguments, **self.environment, **environment)

    def send(self, count=1, task="ledger.work", **kwargs):
        ids = [self.app.send_task(task, kwargs=kwargs).id for _ in range(count)]
        self.sent += ids
        return ids

    def ended(self):
        return len(self.ledger.ends.keys() & set(self.sent))

    def wait_ended(self, timeout_seconds=90):
        wait_for(
            lambda: self.ended() >= len(self.sent), what="the end of all", timeout_seconds=timeout_seconds
        )

    def consumers(self):
        """How many consumers the queue has, one or more of each worker: right at once."""
        with pika.BlockingConnection(pika.URLParameters(self.virtual_host.url)) as connection:
            declared = connection.channel().queue_declare("celery", passive=True)
            return declared.method.consumer_count

    def unacknowledged(self):
        """How many messages somebody holds, by the server's own word (which is some seconds behind)."""
        found = self.virtual_host.queue("celery")
        return found.get("messages_unacknowledged", 1) + found.get("messages_ready", 1)

    def close(self):
        self.app.close()
        self.observer.close()


@pytest.fixture(params=TYPES)
def place(request, rabbitmq, tmp_path):
    made = Place(rabbitmq, tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_runs_what_a_client_sends(place, pool):
    """Plain tasks, retries that wait, and results; it holds two connections to the broker, and no more."""
    with place.worker(pool, "-c", "2") as worker:
        worker.wait_ready()
        place.send(200)
        place.wait_ended()
        results = [place.app.AsyncResult(task) for task in place.sent]
        assert {result.get(timeout=20) for result in results} == set(place.sent)
        assert place.ledger.check(place.sent).extra_runs == 0
        connections = wait_for(
            lambda: place.virtual_host.server.api("GET", f"vhosts/{place.virtual_host.name}/connections"),
            what="the server to list connections",
        )
        assert len(connections) <= 3, "two of the worker's, one of the client's"
        worker.terminate()
        assert worker.wait() == 0


def test_the_age_of_the_oldest_message_is_estimated(place, tmp_path):
    """It grows while nobody takes it; behind the one that a worker has taken stand younger ones."""
    go = tmp_path / "go"

    def oldest():
        return place.observer.depths(["celery"], horizon_seconds=0)["celery"].oldest

    assert oldest() is None
    place.send(1, until=str(go))
    began = time.monotonic()
    first = wait_for(oldest, until=lambda age: age is not None and age.seconds > 2, what="some age")
    assert first.source == "Estimated"
    assert first.seconds <= time.monotonic() - began
    place.send(3, seconds=0.01)
    with place.worker("threads", "-c", "1") as worker:
        younger = wait_for(
            oldest, until=lambda age: age is not None and age.seconds < 2, what="the first to be taken"
        )
        assert younger.seconds < time.monotonic() - began - 2
        go.touch()
        place.wait_ended()
        assert oldest() is None
        worker.terminate()
        assert worker.wait() == 0


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_thousand_tasks_at_once_need_three_connections(rabbitmq, tmp_path, pool):
    """Whatever runs at once, the worker holds two connections to the broker; one more is the client's."""
    rabbitmq.declare("thousand", **{"x-queue-type": "quorum"})
    results = f"sqlite:///{tmp_path}/results.db"
    go = tmp_path / "go"
    app = Muster("client", broker=rabbitmq.url, backend=results)
    with (
        contextlib.closing(app),
        Worker(
            *["green_app", pool, "-c", "1000", "-Q", "thousand"],
            BROKER=rabbitmq.url,
            RESULTS=results,
            POOL=pool,
            NAMES="127.0.0.1:9",  # nobody asks there
        ) as worker,
    ):
        worker.wait_ready()
        sent = [app.send_task("g.wait", (str(go),), queue="thousand") for _ in range(1000)]
        wait_for(lambda: worker.metric("muster_worker_busy_slots") == 1000, what="a thousand run")
        connections = wait_for(
            lambda: rabbitmq.server.api("GET", f"vhosts/{rabbitmq.name}/connections"),
            until=lambda found: len(found) >= 2,
            what="the server to list connections",
        )
        assert len(connections) <= 3
        go.touch()
        for each in sent:
            each.get(timeout=60)
        worker.terminate()
        assert worker.wait() == 0


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_connection_outlives_a_hub_that_is_kept(rabbitmq, tmp_path, pool):
    """For three and a half heartbeats nothing in the process runs, with another worker beside: the server
    hears of it all the same, and each task runs once."""
    for queue in ("kept", "kept.dead"):
        rabbitmq.declare(queue, **{"x-queue-type": "quorum"})
    results, ledger = f"sqlite:///{tmp_path}/results.db", tmp_path / "ledger"
    hired = ["green_app", pool, "--lease", "5", "-Q", "kept", "-c", "10"]
    given = {"BROKER": rabbitmq.url, "RESULTS": results, "POOL": pool, "NAMES": "127.0.0.1:9"}
    app = Muster("client", broker=rabbitmq.url, backend=results)
    with contextlib.closing(app), Worker(*hired, **given) as first, Worker(*hired, **given) as second:
        first.wait_ready()
        second.wait_ready()
        beside = [app.send_task("g.sleep", (0.5,), queue="kept") for _ in range(10)]
        kept = app.send_task("g.keep", (3.5 * 5, str(ledger)), queue="kept")
        for each in (*beside, kept):
            each.get(timeout=60)
        counted = [worker.metric("muster_task_extra_runs_total") for worker in (first, second)]
        assert counted == [0, 0]
    assert ledger.read_text().split() == [kept.id]


@pytest.mark.soak("RabbitMQ: a worker killed while it works loses nothing", repeat=True)
@pytest.mark.parametrize("pool", POOLS)
def test_what_a_killed_worker_held_runs_again(place, account, pool):
    """What ran and what lay beside it; each start beyond the first is counted, by those that come after."""
    with place.worker(pool, "-c", "2") as doomed:
        place.send(40, seconds=0.05)
        wait_for(lambda: place.ended() >= 4, what="it is at work")
        doomed.kill()
    with place.worker(pool, "-c", "2") as worker:
        place.wait_ended()
        verdict = place.ledger.check(place.sent)
        account(verdict, counted=worker.metric("muster_task_extra_runs_total"), kills=1)
        worker.terminate()
        assert worker.wait() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_poison_task_is_buried_and_those_beside_it_are_not_blamed(place, pool):
    """After its own count; those that were in the same hands each time run and are no dead letters."""
    environment = {"MUSTER_DELIVERY_LIMITS": '{"celery": 2}'}
    beside = place.send(20, seconds=0.01)
    [poison] = place.send(task="ledger.poison")
    beside += place.send(20, seconds=0.01)
    for _ in range(12):
        with place.worker(pool, "-c", "2", **environment) as worker:
            wait_for(
                lambda w=worker: w.process.poll() is not None or place.ended() >= 40,
                what="all others have run, or the worker is dead",
            )
            if worker.process.poll() is None:
                wait_for(
                    lambda: place.observer.depths(["celery"], horizon_seconds=0)["celery"].dead == 1,
                    what="the poison among the dead letters",
                )
                break
    assert place.ended() == 40
    [letter] = place.virtual_host.messages("celery.dead")
    headers = letter["properties"]["headers"]
    assert headers["id"] == poison
    assert headers["x-muster-reason"] == "DeliveryLimitExceeded"
    assert place.ledger.starts[poison] <= 3, "two that counted, and one before that nobody could be sure of"


@pytest.mark.soak("RabbitMQ: drains give back what has not begun, and nobody is blamed")
def test_drains_blame_nobody(place, account, times):
    """Workers come and go under load, with the lowest of limits: nothing is dead-lettered or runs twice."""
    drains = 5 * times
    with contextlib.ExitStack() as stack:
        steady = stack.enter_context(
            place.worker("threads", "-c", "2", MUSTER_DELIVERY_LIMITS='{"celery": 1}')
        )
        steady.wait_ready()
        for number in range(drains):
            pool = POOLS[number % len(POOLS)]
            with place.worker(pool, "-c", "2", MUSTER_DELIVERY_LIMITS='{"celery": 1}') as worker:
                worker.wait_ready()
                before = place.ended()
                place.send(60, seconds=0.002)
                wait_for(lambda b=before: place.ended() > b + 10, what="they are at work")
                worker.terminate()
                assert worker.wait() == 0
        place.wait_ended()
        verdict = place.ledger.check(place.sent)
        account(verdict, counted=steady.metric("muster_task_extra_runs_total"), drains=drains)
    assert verdict.extra_runs == 0
    assert place.observer.depths(["celery"], horizon_seconds=0)["celery"].dead == 0


@pytest.mark.soak("RabbitMQ: restarts of the broker lose nothing and restart nobody")
@pytest.mark.parametrize("queue_type", TYPES)
def test_restarts_of_the_broker_lose_nothing(
    own_rabbitmq_server, tmp_path, account, allowed, times, queue_type
):
    """Killed and back again, five times a type: the same workers go on, each within five seconds."""
    restarts = 5 * times
    server = own_rabbitmq_server
    slowest = 0.0
    with server.virtual_host() as virtual_host, contextlib.ExitStack() as stack:
        place = stack.enter_context(contextlib.closing(Place(virtual_host, tmp_path, queue_type)))
        workers = [stack.enter_context(place.worker(pool, "-c", "2")) for pool in POOLS]
        for worker in workers:
            worker.wait_ready()
        for _ in range(restarts):
            before = place.ended()
            place.send(60, seconds=0.02)
            wait_for(lambda b=before: place.ended() >= b + 5, what="they are at work")
            server.kill9()
            server.start()
            back = time.monotonic()
            for worker in workers:
                worker.wait_ready()
            wait_for(place.consumers, until=lambda count: count >= len(POOLS), what="all consume again")
            slowest = max(slowest, time.monotonic() - back)
            place.send(10)
            place.wait_ended()
        counted = sum(worker.metric("muster_task_extra_runs_total") for worker in workers)
        verdict = place.ledger.check(place.sent)
        account(verdict, counted=counted, restarts=restarts, slowest_return_seconds=slowest)
        assert [worker.process.poll() for worker in workers] == [None] * len(POOLS)
        assert slowest < allowed(5, beside=8)


def test_a_worker_that_stands_still_is_given_up_by_its_heartbeat(place):
    """Its connection is taken from it, so another runs what it held; it goes on, and runs nothing twice."""
    with place.worker("prefork", "-c", "1", "--lease", "5") as still:
        still.wait_ready()
        [task] = place.send(seconds=1)
        wait_for(lambda: place.ledger.starts[task] == 1, what="the task runs")
        os.kill(still.pid, signal.SIGSTOP)
        try:
            with place.worker("prefork", "-c", "1", "--lease", "5") as other:
                wait_for(lambda: place.ledger.starts[task] == 2, what="the other runs it", timeout_seconds=40)
                wait_for(
                    lambda: other.metric("muster_task_extra_runs_total") == 1,
                    what="the extra run to be counted",
                )
                place.wait_ended()
                os.kill(still.pid, signal.SIGCONT)
                wait_for(
                    lambda: "no longer ours when it was done" in still.log, what="it to learn of its loss"
                )
                still.wait_ready()
        finally:
            os.kill(still.pid, signal.SIGCONT)
    assert place.ledger.starts[task] == 2
