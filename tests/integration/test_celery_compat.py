"""Celery 5.7 on the other side of the wire: each side reads what the other has written, on a real Redis.

`theirs` is a Celery application, `ours` a Muster one, both on the same server. What Celery would do with our
messages is asked of its own code (kombu's channel, `celery.worker.request.Request`, its result backend).
"""

import gc
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import celery
import celery.exceptions
import pytest
from celery.worker.request import Request

from muster import Muster, chain
from muster.app.execution import Execution
from muster.core.effects import StoredResult
from muster.exceptions import RemoteTaskError, TaskError, TaskRevokedError
from muster.pools.base import Job
from muster.wire.message import open_message, peek
from muster.wire.result import document as result_document
from waiting import wait_for
from workers import Worker

# what Celery itself does with redis-py, nothing of ours
pytestmark = [
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

NOON = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
VALUES = [None, 1, 1.5, "Grüße", [1], {"a": 1}, NOON, date(2026, 1, 2), Decimal("1.50"), UUID(int=7), b"\xff"]


def add(x, y, **_):
    return x + y


def echo(value=None, *_):
    return value


def fail(text):
    raise KeyError(text)


def again(self):
    raise self.retry(countdown=60, exc=ValueError("not yet"))


FUNCTIONS = {"shop.add": add, "shop.echo": echo, "shop.fail": fail}


@pytest.fixture
def theirs(redis_server):
    app = celery.Celery("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    for name, function in FUNCTIONS.items():
        app.task(function, name=name)
    app.task(again, name="shop.again", bind=True)
    app.finalize()
    yield app
    gc.collect()  # Celery's results unsubscribe when they are collected, which needs the server
    app.close()
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.backend.client.connection_pool.disconnect()


@pytest.fixture
def ours(redis_server):
    with Muster("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False) as app:
        for name, function in FUNCTIONS.items():
            app.task(name=name)(function)
        app.task(name="shop.again", bind=True)(again)
        yield app


def celery_request(app):
    """Take the next message as Celery's worker does; return its request and its (args, kwargs, embed)."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.message_to_python(channel.basic_get("celery", no_ack=True))
        return Request(message, app=app), message.decode()


def raw(redis_server, key="celery"):
    with redis_server.client() as client:
        [found] = client.lrange(key, 0, -1)
        client.delete(key)
        return found


def run(app, message, queue="celery"):
    """Run a message as a worker of ours does, and store its result; return the outcome."""
    outcome = Execution(app, hostname="worker@here")(Job(1, queue, message))
    if outcome.document:
        seen = peek(message)
        state = "FAILURE" if outcome.state == "REJECTED" else outcome.state
        app.results.store([StoredResult(seen.id, outcome.document, state, seen.retries, 60)])
    return outcome


def test_celery_reads_that_our_task_has_started(ours, theirs, redis_server):
    """STARTED with pid and hostname, as its own workers store it."""
    ours.task(name="shop.tracked", track_started=True)(lambda: None)
    sent = ours.tasks["shop.tracked"].delay()
    execute = Execution(ours, hostname="worker@here")
    events = []
    execute.tell_started = events.append
    execute(Job(1, "celery", raw(redis_server)))
    ours.results.store([StoredResult(sent.id, events[0].document, "STARTED", 0, 60)])
    found = theirs.AsyncResult(sent.id)
    assert (found.state, found.ready()) == ("STARTED", False)
    assert found.info == {"pid": os.getpid(), "hostname": "worker@here"}


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_a_message_that_celery_has_compressed_is_run(ours, theirs, redis_server, compression):
    """kombu's own two names for what the standard library can."""
    result = theirs.tasks["shop.add"].apply_async((2, 3), compression=compression)
    run(ours, raw(redis_server))
    assert result.get(timeout=5) == 5


def test_who_waits_for_a_chord_learns_that_there_is_none(ours, theirs, redis_server):
    """Its tasks are not run: each is a failure, which Celery's client raises for the whole chord."""
    task = theirs.task(add, name="b.add")
    with Worker("behaviour_app", "solo", BROKER=redis_server.url) as worker:
        worker.wait_ready()
        result = celery.chord([task.s(1, 1), task.s(2, 2)], app=theirs)(task.s(1))
        for child in result.parent.children:
            with pytest.raises(TaskError, match="part of a chord"):
                ours.AsyncResult(child.id).get(timeout=20)
            assert child.state == "FAILURE"


# -- our messages, read by Celery


def test_celery_reads_our_call(ours, theirs):
    """Name, id, arguments and routing of a plain call arrive."""
    result = ours.tasks["shop.add"].delay(2, y=3)
    request, (args, kwargs, embed) = celery_request(theirs)
    assert (request.type, request.id, request.root_id, request.parent_id) == (
        "shop.add",
        result.id,
        result.id,
        None,
    )
    assert (args, kwargs) == ([2], {"y": 3})
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert (request.argsrepr, request.kwargsrepr) == ("(2,)", "{'y': 3}")
    assert request.delivery_info == {
        "exchange": "",
        "routing_key": "celery",
        "priority": 0,
        "redelivered": False,
    }
    assert request.correlation_id == result.id


class PutNow:
    """A publisher that puts even what has an ETA into the list, as a Celery client does."""

    def __init__(self, server):
        self._server = server

    def publish(self, publications):
        with self._server.client() as client:
            for publication in publications:
                client.lpush(publication.queue, publication.raw)

    def close(self):
        """Nothing is kept open."""


def test_celery_reads_every_option_of_ours(ours, theirs, redis_server):
    """Times, limits, retries, headers, links and the rest are what Celery itself would have sent."""
    ours.publisher = PutNow(redis_server)
    ours.tasks["shop.add"].apply_async(
        (1, 2),
        eta=NOON,
        expires=NOON + timedelta(hours=1),
        time_limit=30,
        soft_time_limit=20,
        retries=2,
        headers={"tenant": "acme"},
        shadow="shop.add[vip]",
        ignore_result=True,
        root_id="root",
        parent_id="parent",
        group_id="group",
        argsrepr="(...)",
        link=ours.tasks["shop.echo"].s(),
        link_error=ours.tasks["shop.echo"].si("failed"),
    )
    request, (_, _, embed) = celery_request(theirs)
    assert (request.eta, request.expires) == (NOON, NOON + timedelta(hours=1))
    assert (request.time_limits, request.name) == ([30, 20], "shop.add[vip]")
    fields = request.request_dict
    assert (fields["retries"], fields["tenant"], fields["ignore_result"]) == (2, "acme", True)
    assert (request.root_id, request.parent_id, request.group, request.argsrepr) == (
        "root",
        "parent",
        "group",
        "(...)",
    )
    [link], [errback] = embed["callbacks"], embed["errbacks"]
    assert celery.signature(link, app=theirs).task == "shop.echo"
    assert celery.signature(errback, app=theirs).immutable


def test_celery_reads_every_type_of_ours(ours, theirs):
    """Values of each type that kombu's JSON carries arrive as they were."""
    ours.tasks["shop.echo"].delay(*VALUES)
    _, (args, _, _) = celery_request(theirs)
    assert args == VALUES


@pytest.mark.parametrize(("priority", "key"), [(0, "celery"), (3, "celery\x06\x163"), (9, "celery\x06\x169")])
def test_both_put_a_priority_into_the_same_list(ours, theirs, redis_server, priority, key):
    """The step of a priority is kombu's."""
    ours.send_task("shop.add", (1, 2), priority=priority)
    mine = open_message(raw(redis_server, key))
    theirs.send_task("shop.add", (1, 2), priority=priority)
    assert open_message(raw(redis_server, key)).priority == mine.priority == priority


def test_our_message_has_celerys_headers_and_properties(ours, theirs, redis_server):
    """The same call leaves the same fields with the same values, but for ids, origin and our stamp."""
    options = {"task_id": "one", "headers": {"tenant": "acme"}, "expires": NOON, "time_limit": 5}
    ours.tasks["shop.add"].apply_async((1, 2), ignore_result=False, **options)
    mine = envelope(raw(redis_server))
    theirs.tasks["shop.add"].apply_async((1, 2), **options)
    other = envelope(raw(redis_server))
    assert list(mine["headers"]) == list(other["headers"])
    assert time.time() - 10 < mine["properties"].pop("timestamp") <= time.time()
    for part, names in (("headers", {"origin"}), ("properties", {"reply_to", "delivery_tag", "expiration"})):
        assert mine[part].keys() == other[part].keys()
        assert {k: v for k, v in mine[part].items() if k not in names} == {
            k: v for k, v in other[part].items() if k not in names
        }
    assert mine["body"] == other["body"]
    assert abs(int(mine["properties"]["expiration"]) - int(other["properties"]["expiration"])) < 60_000
    assert (mine["content-type"], mine["content-encoding"]) == (
        other["content-type"],
        other["content-encoding"],
    )


def test_celery_keeps_our_stamp_with_the_message_and_to_itself(ours, theirs, redis_server):
    """What its worker gives back has it still; a retry is another message, and no header carries it on."""
    ours.tasks["shop.again"].apply_async(headers={"tenant": "acme"})
    with redis_server.client() as client:
        [sent] = client.lrange("celery", 0, -1)
    with theirs.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.message_to_python(channel.basic_get("celery"))
        request = Request(message, app=theirs)
        message.requeue()
    given_back = envelope(raw(redis_server))
    assert given_back["properties"]["timestamp"] == envelope(sent)["properties"]["timestamp"]
    task = theirs.tasks["shop.again"]
    task.push_request(**(request.request_dict | {"args": [], "kwargs": {}, "called_directly": False}))
    try:
        with pytest.raises(celery.exceptions.Retry):
            task.retry(countdown=0, exc=ValueError("not yet"))
    finally:
        task.pop_request()
    retried = envelope(raw(redis_server))
    assert (retried["headers"]["retries"], retried["headers"]["tenant"]) == (1, "acme")
    assert "timestamp" not in str(retried)


def envelope(message):
    return json.loads(message)


def test_celery_runs_our_chain(ours, theirs, redis_server):
    """The rest of our chain is what Celery's own worker takes its next call from."""
    add = ours.tasks["shop.add"]
    result = chain(add.s(1, 2), add.s(10), add.s(100)).delay()
    for value in (3, 13):
        request, (args, _, embed) = celery_request(theirs)
        assert sum(args) == value
        following = celery.signature(embed["chain"][-1], app=theirs)
        following.apply_async((value,), chain=embed["chain"][:-1], root_id=request.root_id)
    request, (args, _, embed) = celery_request(theirs)
    assert (sum(args), embed["chain"], request.id) == (113, [], result.id)


# -- Celery's messages, run by us


def test_we_run_celerys_call_and_it_reads_the_result(ours, theirs, redis_server):
    """A Celery client sends, we run, and its AsyncResult has the value."""
    theirs_result = theirs.tasks["shop.add"].delay(2, y=3)
    assert run(ours, raw(redis_server)).state == "SUCCESS"
    assert theirs_result.get(timeout=10) == 5
    assert theirs_result.successful()


def test_celery_reads_every_type_of_our_results(ours, theirs, redis_server):
    """Results of each type that kombu's JSON carries arrive as they were."""
    for value in VALUES:
        result = theirs.tasks["shop.echo"].delay(value)
        run(ours, raw(redis_server))
        assert result.get(timeout=10) == value


def test_celery_raises_what_our_task_raised(ours, theirs, redis_server):
    """A failure has its class, arguments and traceback on the other side."""
    result = theirs.tasks["shop.fail"].delay("lost")
    assert run(ours, raw(redis_server)).state == "FAILURE"
    with pytest.raises(KeyError, match="lost"):
        result.get(timeout=10)
    assert "def fail(text)" not in result.traceback
    assert "raise KeyError(text)" in result.traceback


def test_celery_sees_a_retry_and_its_cause(ours, theirs, redis_server):
    """A task that runs again is RETRY with the exception that was the reason; the next message follows."""
    result = theirs.tasks["shop.again"].delay()
    outcome = run(ours, raw(redis_server))
    assert (result.state, str(result.result)) == ("RETRY", "not yet")
    [following] = outcome.publish
    assert (peek(following.raw).id, peek(following.raw).retries) == (result.id, 1)
    with redis_server.client() as client:
        client.lpush("celery", following.raw)
    request, _ = celery_request(theirs)
    assert (request.id, request.request_dict["retries"]) == (result.id, 1)


def test_celery_is_told_of_an_unknown_task(ours, theirs, redis_server):
    """A client does not wait for ever for a task that no worker knows."""
    result = theirs.send_task("shop.missing")
    assert run(ours, raw(redis_server)).reason == "NotRegistered"
    with pytest.raises(celery.exceptions.NotRegistered):
        result.get(timeout=10)


def test_we_run_celerys_chain(ours, theirs, redis_server):
    """Each step sends the next, and Celery's result of the chain is that of the last."""
    add = theirs.tasks["shop.add"]
    result = celery.chain(add.s(1, 2), add.s(10), add.s(100)).delay()
    message = raw(redis_server)
    for _ in range(2):
        [following] = run(ours, message).publish
        message = following.raw
    assert run(ours, message).publish == []
    assert result.get(timeout=10) == 113


def test_we_follow_celerys_links(ours, theirs, redis_server):
    """A link gets the result, an errback of one argument the id of the failed task."""
    echo_it = theirs.tasks["shop.echo"]
    theirs.tasks["shop.add"].apply_async((1, 2), link=[echo_it.s(), echo_it.si("fixed")])
    called = [open_message(one.raw) for one in run(ours, raw(redis_server)).publish]
    assert [(one.task, one.args) for one in called] == [("shop.echo", [3]), ("shop.echo", ["fixed"])]
    failed = theirs.tasks["shop.fail"].apply_async(("x",), link_error=theirs.signature("shop.elsewhere"))
    [errback] = run(ours, raw(redis_server)).publish
    opened = open_message(errback.raw)
    assert (opened.task, opened.args, opened.headers["parent_id"]) == (
        "shop.elsewhere",
        [failed.id],
        failed.id,
    )


@pytest.mark.parametrize("kind", ["chord", "group in a chain", "group as a link"])
def test_what_we_cannot_run_yet_is_refused_before_it_runs(ours, theirs, redis_server, kind):
    """A chord or a group in a message goes to the dead letters with its reason; no half of it is run."""
    add = theirs.tasks["shop.add"]
    match kind:
        case "chord":
            celery.chord([add.s(1, 2), add.s(3, 4)], theirs.tasks["shop.echo"].s()).delay()
        case "group in a chain":
            celery.chain(add.s(1, 2), celery.group(add.s(1), add.s(2))).delay()
        case "group as a link":
            add.apply_async((1, 2), link=celery.group(add.s(1), add.s(2)))
    with redis_server.client() as client:
        messages = client.lrange("celery", 0, -1)
    assert messages
    for message in messages:
        outcome = run(ours, message)
        assert (outcome.state, outcome.document, outcome.publish) == ("REJECTED", b"", ())
        assert outcome.reason in {"ChordUnsupported", "GroupUnsupported"}


# -- results, the other way round


def test_we_read_celerys_results(ours, theirs):
    """Value, failure, retry and revocation that Celery's backend has stored are read as such."""
    backend = theirs.backend
    backend.store_result("1", VALUES, "SUCCESS")
    assert ours.AsyncResult("1").get(timeout=10) == VALUES
    backend.mark_as_failure("2", ValueError("bad"), traceback="Traceback ...")
    with pytest.raises(ValueError, match="bad"):
        ours.AsyncResult("2").get(timeout=10)
    assert ours.AsyncResult("2").traceback == "Traceback ..."
    backend.mark_as_retry("3", OSError(2, "gone"), traceback="")
    waiting = ours.AsyncResult("3")
    assert (waiting.state, waiting.ready(), repr(waiting.result)) == (
        "RETRY",
        False,
        "FileNotFoundError(2, 'gone')",
    )
    backend.mark_as_revoked("4", "revoked")
    with pytest.raises(TaskRevokedError, match="revoked"):
        ours.AsyncResult("4").get(timeout=10)


def test_a_class_of_the_users_own_comes_as_its_name_and_arguments(ours, theirs):
    """What is not in the table of exceptions is told, never looked up."""
    theirs.backend.mark_as_failure("1", celery.exceptions.ChordError("part"), traceback="")
    with pytest.raises(RemoteTaskError) as caught:
        ours.AsyncResult("1").get(timeout=10)
    assert (caught.value.kind, caught.value.args) == ("celery.exceptions.ChordError", ("part",))


def test_celery_waits_for_what_we_announce(ours, theirs):
    """Celery's client, which waits on the channel, is told of a result of ours."""
    with ThreadPoolExecutor() as pool, ours.results._connected().client() as client:
        found = pool.submit(theirs.AsyncResult("1").get, timeout=20)
        wait_for(client.pubsub_channels, what="Celery's subscription")
        document = result_document(task_id="1", status="SUCCESS", result=7, now=NOON)
        ours.results.store([StoredResult("1", document, "SUCCESS", 0, 60)])
        assert found.result(timeout=20) == 7


def test_we_wait_for_what_celery_announces(ours, theirs):
    """The other way: our client is told of a result of Celery's."""
    with ThreadPoolExecutor() as pool:
        found = pool.submit(ours.AsyncResult("1").get, timeout=20)
        theirs.backend.store_result("1", 7, "SUCCESS")
        assert found.result(timeout=20) == 7


def test_children_are_listed_for_celery(ours, theirs, redis_server):
    """A result lists the tasks that the run has sent, in Celery's form."""
    result = theirs.tasks["shop.add"].apply_async((1, 2), link=theirs.tasks["shop.echo"].s())
    [following] = run(ours, raw(redis_server)).publish
    result.get(timeout=10)
    assert [child.id for child in result.children] == [peek(following.raw).id]
    assert [child.id for child in ours.AsyncResult(result.id).children] == [peek(following.raw).id]
