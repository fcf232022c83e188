"""What RabbitMQ cannot carry, does not take, or lets nobody declare: it is buried or said.

The task that it comes of has run. So its message is acknowledged, what it and others sent besides is there,
and what goes nowhere is in the dead letters of the queue, with the reason.
"""

import json
from collections import Counter

import kombu
import pytest

from brokers import OnRabbitMQ, claim, ids, message, one_worker, settle
from muster.core.effects import Publication
from muster.errors import BrokerRefused
from muster.transports.amqp.address import addresses
from muster.transports.amqp.delayed import ENTRY, LEVELS, Exchange, Queue, layout
from muster.transports.amqp.line import Line
from muster.transports.amqp.outbox import declare_part
from muster.transports.base import Sending, Settlement, Tick, Turn, Verdict
from muster.wire.message import pack, peek
from rabbitmq import RabbitMQServer
from waiting import wait_for

pytestmark = pytest.mark.servers

LARGEST = 50_000


@pytest.fixture
def broker(rabbitmq):
    made = OnRabbitMQ(rabbitmq)
    made.declare("mail", "other", "mail.dead")
    yield made
    made.close()


@pytest.fixture(scope="module")
def small_server():
    """A server that takes no message of more than `LARGEST` bytes."""
    with RabbitMQServer(f"max_message_size = {LARGEST}\n") as server:
        yield server


@pytest.fixture
def small(small_server):
    with small_server.virtual_host() as virtual_host:
        made = OnRabbitMQ(virtual_host)
        made.declare("mail", "other", "mail.dead")
        yield made
        made.close()


def there(broker, queue):
    """Return the ids of a queue's messages, which are taken; what has lost its confirm may be there twice."""
    found = Counter(each["properties"]["headers"]["id"] for each in broker.virtual_host.messages(queue))
    assert max(found.values()) <= 2
    return found.keys()


def large():
    return pack(
        headers={"task": "shop.send", "id": "large"},
        body="x" * 2 * LARGEST,
        queue="other",
        task_id="large",
        delivery_tag="",
    )


@pytest.mark.parametrize("seconds", [7.5, 0.5])
def test_a_fraction_is_carried_as_it_is(broker, rabbitmq, seconds):
    """In both directions, between us and Celery's library: half a second is not cut to no limit at all."""
    with kombu.Connection(rabbitmq.url) as theirs:
        headers = {"task": "shop.work", "id": "1", "timelimit": [None, seconds]}
        theirs.Producer().publish([[], {}, {}], routing_key="mail", headers=headers)
        transport = broker.transport()
        [delivery] = wait_for(lambda: claim(transport, 1), what="the message")
        assert peek(delivery.raw).soft_limit == seconds
        assert settle(transport, delivery, Verdict.ACK, publish=[Publication("other", delivery.raw)])
        got = theirs.SimpleQueue("other", queue_opts={"passive": True, "no_declare": True}).get(timeout=10)
        assert got.headers["timelimit"] == [None, seconds]


def test_the_next_message_that_amqp_cannot_carry_is_buried_as_it_was_written(broker):
    """A number of more than 64 bits: the task that sent it has run, and its message is acknowledged."""
    broker.publish(message("1"))
    transport = broker.transport()
    [delivery] = wait_for(lambda: claim(transport, 1), what="the message")
    odd = message("2", big=2**70)
    assert settle(transport, delivery, Verdict.ACK, publish=[Publication("other", odd)])
    [(reason, text, queue, buried)] = broker.dead("mail.dead")
    assert (reason, queue, buried) == ("MalformedMessage", "mail", odd)
    assert "AMQP cannot carry it" in text


@pytest.mark.parametrize("eta", [0, 60])
def test_a_queue_that_we_may_not_declare_is_one_that_is_not_there(rabbitmq, eta):
    """Its message is buried, and what others of the same turn publish is sent once."""
    user, server = f"{rabbitmq.name}-limited", rabbitmq.server
    server.api("PUT", f"users/{user}", password="right", tags="")
    ours = r"^(mail|other|muster\.|celery_delayed_|amq\.gen).*"
    server.api("PUT", f"permissions/{rabbitmq.name}/{user}", configure=ours, write=".*", read=ours)
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail", "other", "mail.dead")
    broker.publish(message("1"), message("2"))
    broker.url = server.url(rabbitmq.name, user, "right")
    transport = broker.transport()
    one, two = wait_for(lambda: transport.turn(Turn(claim=2)).deliveries, what="both")
    at = broker.now() + eta if eta else 0
    settlements = [
        Settlement(
            tag=one.tag, queue="mail", verdict=Verdict.ACK, publish=[Publication("other", message("3"))]
        ),
        Settlement(
            tag=two.tag, queue="mail", verdict=Verdict.ACK, publish=[Publication("typo", message("4"), 0, at)]
        ),
    ]
    assert list(transport.turn(Turn(settle=settlements)).settled) == [True, True]
    assert len(rabbitmq.messages("other")) == 1
    [(reason, text, _, _)] = broker.dead("mail.dead")
    assert reason == "UnroutableMessage"
    assert "'typo'" in text
    broker.close()
    server.api("DELETE", f"users/{user}")


def test_a_message_that_is_too_large_costs_no_other(small):
    """The server closes the channel and does not say for which: the others are sent, that one is buried."""
    small.publish(message("1"), message("2"))
    transport = small.transport()
    one, two = wait_for(lambda: transport.turn(Turn(claim=2)).deliveries, what="both")
    few = [Publication("other", message(f"a{number}")) for number in range(20)]
    more = [Publication("other", message(f"b{number}")) for number in range(20)]
    settlements = [
        Settlement(tag=one.tag, queue="mail", verdict=Verdict.ACK, publish=few),
        Settlement(
            tag=two.tag, queue="mail", verdict=Verdict.ACK, publish=[Publication("other", large()), *more]
        ),
    ]
    turned = transport.turn(Turn(settle=settlements, send=[Sending("own", [Publication("other", large())])]))
    assert list(turned.settled) == [True, True]
    assert set(turned.unsent) == {"own"}
    assert "does not take it" in turned.unsent["own"]
    assert there(small, "other") == {f"{kind}{number}" for kind in "ab" for number in range(20)}
    [(reason, text, queue, body)] = small.dead("mail.dead")
    assert (reason, queue, body) == ("MessageRefused", "mail", b"")
    assert "bytes" in text
    assert transport.turn(Turn(claim=5)).deliveries == []


@pytest.mark.parametrize("declares", [True, False])
def test_what_is_too_large_and_has_no_queue_either_is_buried_once(small, small_server, declares):
    """Beside a small one for the same queue, which nobody may declare: each is in the dead letters, once."""
    user, host = "no-typo", small.virtual_host.name
    small_server.api("PUT", f"users/{user}", password="right", tags="")
    small_server.api(
        "PUT", f"permissions/{host}/{user}", configure="^(mail|muster|amq)", write=".*", read=".*"
    )
    small.publish(message("1"))
    transport = one_worker(small_server.url(host, user, "right"), create_missing_queues=declares)
    [delivery] = wait_for(lambda: transport.turn(Turn(claim=1)).deliveries, what="the message")
    nowhere = [Publication("typo", message("2")), Publication("typo", large())]
    assert settle(transport, delivery, Verdict.ACK, publish=nowhere)
    transport.close()
    reasons = [reason for reason, *_ in small.dead("mail.dead")]
    assert sorted(reasons) == ["MessageRefused", "UnroutableMessage"]
    small_server.api("DELETE", f"users/{user}")


def test_how_large_a_message_may_be_is_learnt(small):
    """The first that is too large costs a channel, and those beside it may come twice; the next does not."""
    transport = small.transport()
    for number in range(2):
        sendings = [
            Sending(
                f"{number}-{place}", [Publication("other", large() if place == 5 else message(str(place)))]
            )
            for place in range(10)
        ]
        assert set(transport.turn(Turn(send=sendings)).unsent) == {f"{number}-5"}
        if number == 0:
            assert there(small, "other") == {str(place) for place in range(10) if place != 5}
    assert len(small.virtual_host.messages("other")) == 9


def test_a_dead_letter_outlives_the_message_that_it_is_made_of(broker):
    """It was to expire in a second; who looks for it comes later."""
    broker.publish(message("1"))
    transport = one_worker(broker.url, create_missing_queues=False)
    [delivery] = wait_for(lambda: transport.turn(Turn(claim=1)).deliveries, what="the message")
    envelope = json.loads(message("2"))
    envelope["properties"]["expiration"] = "1000"
    nowhere = [Publication("nowhere", json.dumps(envelope).encode())]
    assert settle(transport, delivery, Verdict.ACK, publish=nowhere)
    [dead] = broker.virtual_host.messages("mail.dead")
    assert "expiration" not in dead["properties"]
    transport.close()


def test_a_client_is_told_that_its_message_is_too_large(small):
    """It is not tried again, and the others of the call are there."""
    publisher = small.make_publisher()
    with pytest.raises(BrokerRefused, match=r"does not take 1 of 3 messages: .*larger than"):
        publisher.publish([Publication("mail", raw) for raw in (message("1"), large(), message("2"))])
    publisher.close()
    assert there(small, "mail") == {"1", "2"}


@pytest.mark.parametrize("made", ["the entry alone", "all but the last binding"])
def test_a_place_to_wait_that_was_half_made_is_completed(rabbitmq, made):
    """Whoever made it was killed on the way: who comes next and finds the entry does not trust it blindly."""
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail")
    parts = [Exchange(ENTRY)] if made == "the entry alone" else list(layout("classic"))[:-2]
    line = Line(addresses(rabbitmq.url, heartbeat_seconds=0))
    line.open()
    for part in parts:
        declare_part(line, part)
    line.close()
    broker.publish(message("1"), eta=broker.now() + 0.5)
    transport = broker.transport()

    def come():
        transport.tick(Tick())
        return ids(transport.turn(Turn(claim=5)).deliveries)

    assert wait_for(come, what="the message that waits") == ["1"]
    broker.close()


def test_the_entry_of_the_place_to_wait_is_made_last():
    """Who finds it takes it for the sign that all is there: only what hangs on it comes after."""
    parts = list(layout("quorum"))
    entry = parts.index(Exchange(ENTRY))
    assert len(parts) - entry == 3
    assert [each.name for each in parts[:entry] if isinstance(each, Queue)] == [
        f"celery_delayed_{level}" for level in range(LEVELS)
    ]


def test_what_is_given_back_in_a_memory_alarm_is_there_once(own_rabbitmq_server):
    """The copies are under way when the server stops listening: the originals wait for their answer."""
    server = own_rabbitmq_server
    with server.virtual_host() as virtual_host:
        broker = OnRabbitMQ(virtual_host)
        broker.declare("mail")
        broker.publish(*(message(str(number)) for number in range(5)))
        transport = broker.transport()
        assert len(claim(transport, 5)) == 5
        server.control("set_vm_memory_high_watermark", "0.0001")
        # nothing has told us of the alarm yet: the server speaks of it to who publishes
        transport.tick(Tick(reconcile=True))
        server.control("set_vm_memory_high_watermark", "0.6")

        def all_back():
            transport.tick(Tick())
            return broker.depth().ready

        wait_for(all_back, until=lambda ready: ready == 5, what="each message, once")
        transport.close()
        given_back = [each["properties"]["headers"]["id"] for each in virtual_host.messages("mail")]
        assert sorted(given_back) == ["0", "1", "2", "3", "4"]
        broker.close()
