"""Real workers of greenlets on a real Redis: a hundred and a thousand tasks at once, and bad neighbours."""

import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis

from muster import Muster
from muster.exceptions import TimeLimitExceeded
from muster.transports.connect import connect_observer
from waiting import wait_for
from workers import Worker

HUNDRED = 100
POOLS = ["gevent", "eventlet"]


class Names(socketserver.UDPServer):
    """A name server that answers, with one address, as soon as a hundred names are asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), None)
        self._asked = {}

    @property
    def place(self):
        return "{}:{}".format(*self.server_address)

    def finish_request(self, request, client_address):
        packet, _ = request
        end = packet.index(b"\0", 12) + 5
        self._asked[client_address, packet[:2]] = packet, end
        if len({question[12:end] for question, end in self._asked.values()}) < HUNDRED:
            return
        for (address, _), (question, end) in self._asked.items():
            ours = question[end - 4 : end - 2] == b"\0\x01"  # type A
            answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01" if ours else b""
            counts = b"\0\x01" + bytes([0, ours]) + b"\0\0\0\0"
            self.socket.sendto(question[:2] + b"\x81\x80" + counts + question[12:end] + answer, address)

    def shutdown_request(self, request):
        pass


class Pages(ThreadingHTTPServer):
    """A web server that answers as soon as a hundred requests wait."""

    daemon_threads = True
    request_queue_size = 2 * HUNDRED

    def __init__(self):
        barrier = threading.Barrier(HUNDRED)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                barrier.wait(60)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"page")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = "http://{}:{}/".format(*self.server_address)


@pytest.fixture(scope="module")
def serve():
    """Return a function that lets a server run until the end."""
    running = []

    def begin(server):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running.append((server, thread))
        return server

    yield begin
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module", params=POOLS)
def environment(request, _shared_redis_server, serve):
    """What a worker of each pool is told by the environment."""
    _shared_redis_server.flush()
    names = serve(Names())
    return {"BROKER": _shared_redis_server.url, "POOL": request.param, "NAMES": names.place}


@pytest.fixture(scope="module")
def hired(environment):
    """Return a function that starts a worker of this pool."""

    def hire(*arguments):
        return Worker("green_app", environment["POOL"], *arguments, **environment)

    return hire


@pytest.fixture(scope="module")
def worker(hired):
    """One worker, as it is when nothing is said of its size."""
    with hired() as worker:
        yield worker.wait_ready()


@pytest.fixture(scope="module")
def app(environment):
    app = Muster("client", broker=environment["BROKER"], backend=environment["BROKER"])
    yield app
    app.close()


@pytest.fixture
def redis_client(environment):
    with redis.Redis.from_url(environment["BROKER"]) as client:
        yield client


def send(app, name, *args, count=1, **options):
    return [app.send_task(name, args=args, **options) for _ in range(count)]


def results(sent, timeout=60):
    return [each.get(timeout=timeout) for each in sent]


def test_a_hundred_run_at_once_when_nothing_is_said(worker):
    """The default of these pools."""
    assert worker.metric("muster_worker_slots") == HUNDRED


def test_patched_before_any_other_import(app, worker, environment):
    """What the application imports by name at its top is the library's."""
    assert worker
    [modules] = results(send(app, "g.patched"))
    assert set(modules) == {environment["POOL"]}


def test_the_application_sees_the_command_line(app, worker):
    """sys.argv is the worker's own: applications ask it what they are run by."""
    assert worker
    assert "worker" in results(send(app, "g.argv"))[0]


def test_a_hundred_sleep_at_once(app, worker):
    """Two seconds each, and not two hundred together."""
    assert worker
    results(send(app, "g.sleep", 2, count=HUNDRED), timeout=20)


def test_a_hundred_requests_wait_at_once(app, worker, serve):
    """By urllib, from a server that answers none of them before it has all."""
    assert worker
    url = serve(Pages()).url
    assert results(send(app, "g.fetch", url, count=HUNDRED)) == ["page"] * HUNDRED


def test_a_hundred_names_are_looked_up_at_once(app, worker):
    """None is answered before all are asked for."""
    assert worker
    sent = [app.send_task("g.lookup", args=[f"n{n}.example"]) for n in range(HUNDRED)]
    assert results(sent) == ["192.0.2.1"] * HUNDRED


def test_a_hundred_wait_for_redis_at_once(app, worker, redis_client):
    """Each on a connection of its own, which the task has opened itself."""
    assert worker
    before = redis_client.info("clients")["blocked_clients"]
    sent = send(app, "g.pop", "green", count=HUNDRED)
    wait_for(
        lambda: redis_client.info("clients")["blocked_clients"] - before >= HUNDRED - 5,
        what="all wait",  # but for the worker's own waits, which end meanwhile
    )
    redis_client.rpush("green", *["value"] * HUNDRED)
    assert results(sent) == ["value"] * HUNDRED


def test_a_hundred_programs_run_at_once(app, worker, tmp_path):
    """Each waits for the same word, which comes when all of them are there."""
    assert worker
    ledger, word = tmp_path / "ledger", tmp_path / "word"
    os.mkfifo(word)
    script = f"echo here >> {ledger}; read it < {word}; echo done"
    sent = send(app, "g.run", "sh", "-c", script, count=HUNDRED)
    wait_for(ledger.exists, what="one is there")
    wait_for(lambda: len(ledger.read_text().splitlines()) == HUNDRED, what="all are there")
    with word.open("w") as file:
        file.write("\n" * HUNDRED)
        file.flush()
        assert results(sent) == ["done\n"] * HUNDRED


def test_who_keeps_the_hub_is_named(app, worker, tmp_path):
    """A call that nobody has patched, for over a second: a warning with the task, its id and the line."""
    [sent] = send(app, "g.keep", 1.6, str(tmp_path / "ledger"))
    sent.get(timeout=20)
    wait_for(lambda: f"g.keep[{sent.id}] keeps the hub, for 1." in worker.log, what="the warning")
    line = next(line for line in worker.log.splitlines() if "keeps the hub" in line)
    assert "WARNING" in line
    assert "green_app.py, line" in line


def test_a_short_stop_of_the_hub_is_not_told(app, worker, tmp_path):
    """Half a second is nobody's business."""
    [sent] = send(app, "g.keep", 0.5, str(tmp_path / "ledger"))
    sent.get(timeout=20)
    assert f"{sent.id}] keeps the hub" not in worker.log


def test_leases_outlive_a_hub_that_is_kept(app, hired, environment, tmp_path):
    """For three leases and a half nothing in the process runs, with two workers: every task runs once."""
    observer = connect_observer(environment["BROKER"], {}, {})
    ledger = tmp_path / "ledger"
    lease = ("--lease", "1", "-Q", "kept", "-c", "10")
    before = sum(observer.extra_runs().values())
    with hired(*lease) as first, hired(*lease) as second:
        first.wait_ready()
        second.wait_ready()
        beside = send(app, "g.sleep", 0.5, count=10, queue="kept")
        kept = send(app, "g.keep", 3.5, str(ledger), queue="kept")
        results([*beside, *kept])
        assert "lease of" not in first.log + second.log
    assert ledger.read_text().split() == [kept[0].id]
    assert sum(observer.extra_runs().values()) == before
    observer.close()


def test_a_limit_ends_a_task_that_keeps_the_interpreter(app, hired):
    """In C, for half a minute: its process is killed, its result says why, and its neighbour runs again."""
    with hired("-c", "10", "-Q", "seized") as worker:
        worker.wait_ready()
        [beside] = send(app, "g.sleep", 3, queue="seized")
        wait_for(lambda: worker.metric("muster_worker_busy_slots") == 1, what="one runs")
        [seized] = send(app, "g.seize", 30, queue="seized", time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            seized.get(timeout=20)
        assert beside.get(timeout=30) is None
        assert worker.metric("muster_task_extra_runs_total") == 1
        assert "because of another task" in worker.log


def test_a_thousand_tasks_need_three_connections(app, hired, redis_client, tmp_path):
    """They run at once; the worker holds three, and one more for each priority on which it waits."""
    before = {client["id"] for client in redis_client.client_list()}
    with hired("-c", "1000", "-Q", "thousand") as worker:
        worker.wait_ready()
        sent = send(app, "g.wait", str(tmp_path / "go"), count=1000, queue="thousand")
        wait_for(lambda: worker.metric("muster_worker_busy_slots") == 1000, what="a thousand run")
        theirs = [each for each in redis_client.client_list() if each["id"] not in before]
        waits = [each for each in theirs if each["cmd"] == "blmove"]
        assert len(waits) <= 4
        assert len(theirs) - len(waits) <= 3 + 1  # one is the client's, which awaits results
        worker.terminate()
        wait_for(lambda: "draining: 1000 tasks run" in worker.log, what="it drains")
        (tmp_path / "go").touch()
        assert worker.wait() == 0
        results(sent)
