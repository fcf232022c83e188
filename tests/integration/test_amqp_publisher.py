"""Clients publish to a real RabbitMQ: what is confirmed is there, and what is not is an error.

Celery 5.7's own code reads what was sent, and waits where Celery would wait.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import celery
import pika
import pytest
from celery.worker.request import Request
from kombu import Queue
from kombu.transport import native_delayed_delivery as kombu_delays

from brokers import message
from lossy_proxy import LossyProxy
from muster import Muster
from muster.core.effects import Publication
from muster.errors import BrokerBlocked, BrokerRefused, BrokerUnavailable, UnroutableMessage
from muster.transports.amqp.address import addresses
from muster.transports.amqp.line import Line
from muster.transports.amqp.publisher import AmqpPublisher
from servers import free_port
from waiting import wait_for

pytestmark = pytest.mark.servers


@pytest.fixture
def publisher(rabbitmq):
    made = AmqpPublisher(rabbitmq.url)
    yield made
    made.close()


@pytest.fixture
def far(rabbitmq):
    """A publisher, the proxy that it goes through, and the virtual host."""
    with LossyProxy(rabbitmq.server.port) as proxy:
        publisher = AmqpPublisher(rabbitmq.url.replace(str(rabbitmq.server.port), str(proxy.port)))
        yield publisher, proxy, rabbitmq
        publisher.close()


def add(x, y):
    return x + y


def ids(found):
    return [one["properties"]["correlation_id"] for one in found]


def test_what_is_published_is_there(publisher, rabbitmq):
    """In order, persistent, with all headers; the queue is declared as Celery's clients do it."""
    publisher.publish([Publication("mail", message(str(number))) for number in range(3)])
    queue = rabbitmq.queue("mail")
    assert (queue["durable"], queue["arguments"], queue["auto_delete"]) == (True, {}, False)
    found = rabbitmq.messages("mail")
    assert ids(found) == ["0", "1", "2"]
    assert found[0]["properties"]["delivery_mode"] == 2
    assert found[0]["properties"]["headers"]["task"] == "shop.send"
    assert found[0]["payload"] == '[["x"],{"n":1},{}]'


def test_more_than_a_window_is_confirmed(publisher, rabbitmq):
    """A call with many messages waits for all their confirms."""
    publisher.publish([Publication("mail", message(str(number))) for number in range(2345)])
    assert len(rabbitmq.messages("mail")) == 2345


def test_an_empty_call_does_not_even_connect():
    """There is nobody at that address."""
    AmqpPublisher(f"amqp://127.0.0.1:{free_port()}//").publish([])


def test_a_priority_is_a_property(publisher, rabbitmq):
    """The queue sorts by it, if it was declared so."""
    rabbitmq.declare("mail", **{"x-max-priority": 9})
    for priority in (0, 9, 5):
        publisher.publish([Publication("mail", message(str(priority)), priority)])
    assert [one["properties"]["priority"] for one in rabbitmq.messages("mail")] == [9, 5, 0]


def test_without_a_queue_it_is_an_error(rabbitmq):
    """Where queues are somebody else's, the message is returned and the producer is told."""
    publisher = AmqpPublisher(rabbitmq.url, create_missing_queues=False)
    rabbitmq.declare("mail")
    with pytest.raises(UnroutableMessage, match=r"no queue 'elsewhere', and 1 messages are nowhere"):
        publisher.publish([Publication("mail", message("1")), Publication("elsewhere", message("2"))])
    assert ids(rabbitmq.messages("mail")) == ["1"]
    publisher.close()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task_create_missing_queue_type": "quorum"},
        {"task_queue_max_priority": 9},
        {"task_queues": {"mail": {"queue_arguments": {"x-queue-type": "quorum"}, "max_length": 100}}},
    ],
    ids=["nothing", "quorum", "priority", "of its own"],
)
@pytest.mark.parametrize("eta", [False, True], ids=["now", "later"])
def test_a_missing_queue_is_declared_as_celerys_clients_do(rabbitmq, settings, eta):
    """So that Celery's client of the same settings, whose declaration is the second, is not refused."""
    later = {"countdown": 0.1} if eta else {}
    theirs = celery.Celery("shop", broker=rabbitmq.url, set_as_current=False)
    theirs.conf.update(settings)
    with Muster("shop", broker=rabbitmq.url) as ours, theirs:
        ours.conf.update(settings)
        ours.send_task("shop.work", queue="mail", **later)
        theirs.send_task("shop.work", queue="mail")
        wait_for(lambda: rabbitmq.queue("mail").get("messages", 0) == 2, what="both messages")


def test_a_missing_quorum_queue_has_no_highest_priority(rabbitmq):
    """RabbitMQ would refuse it, and Celery's client with it."""
    with Muster("shop", broker=rabbitmq.url) as ours:
        ours.conf.update(task_create_missing_queue_type="quorum", task_queue_max_priority=9)
        ours.send_task("shop.work", queue="mail")
    assert rabbitmq.queue("mail")["arguments"] == {"x-queue-type": "quorum"}


def test_a_full_queue_is_an_error(publisher, rabbitmq):
    """RabbitMQ says so only to those who ask for confirms, which Celery's clients do not."""
    rabbitmq.declare("mail", **{"x-max-length": 5, "x-overflow": "reject-publish"})
    with pytest.raises(BrokerBlocked, match=r"rejects 1\d of 20 messages: a queue is full"):
        publisher.publish([Publication("mail", message(str(number))) for number in range(20)])
    assert len(rabbitmq.messages("mail")) >= 5
    publisher.publish([Publication("mail", message("after"))])
    assert ids(rabbitmq.messages("mail")) == ["after"]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("queue", ["mail", "mail.high"])
def test_a_message_waits_on_the_broker_for_its_time(rabbitmq, queue_type, queue):
    """In Celery's own queues, and comes to one of any exchange; only there, whatever names others have."""
    publisher = AmqpPublisher(rabbitmq.url, delayed_type=queue_type)
    publisher.publish([Publication(name, message("now")) for name in ("mail", "high", "mail.high")])
    before = time.time()
    publisher.publish([Publication(queue, message("later"), 0, before + 1.5)])
    assert ids(rabbitmq.messages(queue)) == ["now"]
    found = wait_for(lambda: rabbitmq.messages(queue), what="the message", every_seconds=0.1)
    assert time.time() - before >= 1.5
    assert ids(found) == ["later"]
    for other in {"mail", "high", "mail.high"} - {queue}:
        assert ids(rabbitmq.messages(other)) == ["now"]
    publisher.close()


@pytest.mark.parametrize("first", ["celery", "muster"])
def test_celery_and_we_share_the_queues_of_what_waits(rabbitmq, first):
    """Whoever declares them first, the other finds nothing to complain of."""
    app = celery.Celery("shop", broker=rabbitmq.url, set_as_current=False)
    publisher = AmqpPublisher(rabbitmq.url)

    def declare_theirs():
        with app.connection_for_write() as connection:
            kombu_delays.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")

    def declare_ours():
        publisher.publish([Publication("mail", message("1"), 0, time.time() + 600)])

    for declare in (declare_theirs, declare_ours) if first == "celery" else (declare_ours, declare_theirs):
        declare()
    names = {queue["name"] for queue in rabbitmq.server.api("GET", f"queues/{rabbitmq.name}")}
    assert len(names) == 29
    publisher.close()
    app.close()


def test_celery_reads_what_we_send(rabbitmq):
    """Its worker's own request has task, arguments, id and expiry as they were given."""
    theirs = celery.Celery("shop", broker=rabbitmq.url, set_as_current=False)
    theirs.task(
        add, name="shop.add", shared=False
    )  # else every application of Celery's in this process has it
    theirs.finalize()
    with Muster("shop", broker=rabbitmq.url) as ours:
        sent = ours.send_task("shop.add", (2,), {"y": 3}, queue="mail", priority=4)
        with theirs.connection_for_read() as connection:
            channel = connection.default_channel
            got = Queue("mail", channel=channel, no_declare=True).get()
            request = Request(got, app=theirs)
            assert (request.id, request.name) == (sent.id, "shop.add")
            assert got.decode()[:2] == [[2], {"y": 3}]
            assert got.properties["priority"] == 4
            got.ack()
    theirs.close()


def test_threads_publish_at_once(rabbitmq):
    """Over no more connections than they may have together; each message is there once."""
    publisher = AmqpPublisher(rabbitmq.url, pool_limit=3)
    publisher.publish([Publication("mail", message("first"))])

    def send(thread):
        for number in range(50):
            publisher.publish([Publication("mail", message(f"{thread}-{number}"))])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))
        found = ids(rabbitmq.messages("mail"))
    assert sorted(found) == sorted(["first", *(f"{t}-{n}" for t in range(8) for n in range(50))])
    assert len(publisher._pools[os.getpid()]._free) <= 3
    publisher.close()


def test_a_forked_process_has_connections_of_its_own(publisher, rabbitmq):
    """A child that published over its parent's would mix up both their answers."""
    publisher.publish([Publication("mail", message("parent"))])
    child = os.fork()
    if not child:
        status = 1
        try:
            publisher.publish([Publication("mail", message("child"))])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    publisher.publish([Publication("mail", message("parent again"))])
    assert ids(rabbitmq.messages("mail")) == ["parent", "child", "parent again"]


def test_a_connection_that_went_meanwhile_is_made_anew(far):
    """Nobody notices: nothing was on its way."""
    publisher, proxy, rabbitmq = far
    for number in range(3):
        publisher.publish([Publication("mail", message(str(number)))])
        proxy.cut()
    assert ids(rabbitmq.messages("mail")) == ["0", "1", "2"]


def test_a_call_that_is_interrupted_leaves_nothing_to_the_next(publisher, rabbitmq):
    """A time limit ends it between sending and confirm: its connection is given up, the next has another."""
    publisher.publish([Publication("mail", message("1"))])
    [line] = publisher._pools[os.getpid()]._free
    line._open_tags.add(10**6)  # sent, and never confirmed
    with publisher._line() as lent:
        assert lent is line
    assert not line.is_open
    publisher.publish([Publication("mail", message("2"))])
    assert ids(rabbitmq.messages("mail")) == ["1", "2"]


def test_a_channel_that_the_server_has_closed_is_no_error(publisher, rabbitmq):
    """While nobody looked, for a question of earlier: the next call has another."""
    publisher.publish([Publication("mail", message("1"))])
    [line] = publisher._pools[os.getpid()]._free
    line.channel.queue_declare("nowhere", passive=True)
    line._pump(0.0)
    wait_for(lambda: line.check() or True, until=lambda _: not line.is_open, what="the channel's end")
    publisher.publish([Publication("mail", message("2"))])
    assert ids(rabbitmq.messages("mail")) == ["1", "2"]


def test_a_confirm_that_got_lost_is_an_error(far):
    """Whether the message is there is not known, and said; the next call has a new connection."""
    publisher, proxy, rabbitmq = far
    publisher.publish([Publication("mail", message("1"))])
    proxy.lose_answer_to(b"shop.send")
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        publisher.publish([Publication("mail", message("2"))])
    publisher.publish([Publication("mail", message("3"))])
    assert ids(rabbitmq.messages("mail")) == ["1", "2", "3"]


def test_nobody_there():
    """One line, with the place and without the password."""
    publisher = AmqpPublisher(f"amqp://guest:hidden@127.0.0.1:{free_port()}//")
    with pytest.raises(BrokerUnavailable, match=r"RabbitMQ at 127\.0\.0\.1:\d+ cannot be reached") as caught:
        publisher.publish([Publication("mail", message())])
    assert "hidden" not in str(caught.value)
    assert not isinstance(caught.value, BrokerRefused)


def test_the_next_server_is_taken_when_one_is_away(rabbitmq):
    """Of several in the URL; it stays with the one that answers."""
    publisher = AmqpPublisher(f"amqp://127.0.0.1:{free_port()}//;{rabbitmq.url}")
    publisher.publish([Publication("mail", message())])
    assert ids(rabbitmq.messages("mail")) == ["1"]
    publisher.close()


def test_the_server_that_was_lost_is_asked_last(rabbitmq):
    """Its machine may be gone, where nothing answers; with the other lost it is its turn again."""
    port = rabbitmq.server.port
    with LossyProxy(port) as one, LossyProxy(port) as other:
        places = [rabbitmq.url.replace(f":{port}/", f":{proxy.port}/") for proxy in (one, other)]
        line = Line(addresses(";".join(places), heartbeat_seconds=0))
        line.open()
        for lost, next_one in ((one, other), (other, one)):
            assert line.place.startswith(f"127.0.0.1:{lost.port}")
            lost.cut()
            wait_for(lambda: not line.check(), what="the line to hear of its end")
            line.open()
            assert line.place.startswith(f"127.0.0.1:{next_one.port}")
        line.close()


def test_a_wrong_password_is_refused(rabbitmq):
    """It goes on failing until somebody changes something, so it is not tried again."""
    publisher = AmqpPublisher(rabbitmq.server.url(rabbitmq.name, password="hidden"))
    with pytest.raises(BrokerRefused, match="refuses our credentials") as caught:
        publisher.publish([Publication("mail", message())])
    assert "hidden" not in str(caught.value)


def test_a_missing_virtual_host_is_named(rabbitmq):
    """And nothing else is blamed."""
    publisher = AmqpPublisher(rabbitmq.server.url("nowhere"))
    with pytest.raises(BrokerRefused, match="no virtual host 'nowhere'"):
        publisher.publish([Publication("mail", message())])


def test_an_alarm_blocks_for_a_while(own_rabbitmq_server):
    """A server out of memory takes no messages: the call waits, then says so; afterwards all is as before."""
    with own_rabbitmq_server.virtual_host() as host:
        publisher = AmqpPublisher(host.url, confirm_seconds=2)
        publisher.publish([Publication("mail", message("before"))])
        own_rabbitmq_server.control("set_vm_memory_high_watermark", "0.0001")
        with pytest.raises(BrokerBlocked, match="takes no messages now: low on memory"):
            publisher.publish([Publication("mail", message("blocked"))])
        back = threading.Thread(
            target=own_rabbitmq_server.control, args=("set_vm_memory_high_watermark", "0.4")
        )
        patient = AmqpPublisher(host.url, confirm_seconds=30)
        back.start()
        patient.publish([Publication("mail", message("after")) for _ in range(1500)])
        back.join()
        with pika.BlockingConnection(pika.URLParameters(host.url)) as connection:
            counted = connection.channel().queue_declare("mail", passive=True).method.message_count
        # the one that told of the alarm may have come before its connection was given up
        assert counted - 1500 in {1, 2}, "a batch of three windows is only slower for it"
        patient.close()
        publisher.close()


def test_an_alarm_is_waited_for_once_and_for_as_long_as_the_application_says(own_rabbitmq_server):
    """`confirm_timeout` of broker_transport_options; the policy of retries is for a broker that is away."""
    options = {"confirm_timeout": 0.5}
    retries = {"max_retries": 100, "interval_start": 1}
    server = own_rabbitmq_server
    with Muster("shop", broker=server.url()) as app:
        app.conf.broker_transport_options = options
        app.send_task("shop.send", queue="mail")
        server.control("set_vm_memory_high_watermark", "0.0001")
        with pytest.raises(BrokerBlocked, match="low on memory"):
            app.send_task("shop.send", queue="mail", retry_policy=retries)
        server.control("set_vm_memory_high_watermark", "0.4")


def test_who_finds_no_free_connection_says_so(rabbitmq):
    """When all of `broker_pool_limit` are lent for longer than the publisher waits."""
    publisher = AmqpPublisher(rabbitmq.url, pool_limit=1, confirm_seconds=0.2)
    with publisher._line(), pytest.raises(BrokerUnavailable, match="all 1 connections of this process"):
        publisher.publish([Publication("mail", message())])
    publisher.publish([Publication("mail", message())])
    publisher.close()


def test_what_was_confirmed_survives_a_kill(own_rabbitmq_server):
    """On disk before it is confirmed; and the publisher goes on by itself."""
    app = Muster("shop", broker=own_rabbitmq_server.url())
    for number in range(5):
        app.send_task("shop.send", task_id=str(number), queue="mail")
    own_rabbitmq_server.kill9()
    with pytest.raises(BrokerUnavailable):
        app.send_task("shop.send", task_id="lost", queue="mail", retry=False)
    own_rabbitmq_server.start()
    app.send_task("shop.send", task_id="5", queue="mail")
    app.close()
    found = own_rabbitmq_server.api(
        "POST", "queues/%2F/mail/get", count=100, ackmode="ack_requeue_false", encoding="auto"
    )
    assert ids(found) == [str(number) for number in range(6)]
