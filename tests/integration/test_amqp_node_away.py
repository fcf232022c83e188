"""Two nodes of a real RabbitMQ, one of which is away with the classic queues that live on it."""

import contextlib
import time

import pytest

from brokers import OnRabbitMQ, claim, ids, message, one_worker
from muster.core.effects import Publication
from muster.errors import BrokerUnavailable, MessageRejected
from muster.transports.amqp.line import NOT_FOUND, Refusal
from muster.transports.amqp.observer import AmqpObserver
from muster.transports.amqp.publisher import AmqpPublisher
from muster.transports.base import Settlement, Tick, Turn, Verdict
from rabbitmq import RabbitMQServer
from resources import task_queue
from virtual_hosts import story
from waiting import wait_for

pytestmark = pytest.mark.servers


@pytest.fixture
def pair():
    """A node that stays, and one that is to go."""
    with RabbitMQServer() as stays, RabbitMQServer(beside=stays) as goes:
        wait_for(
            lambda: sum(node["running"] for node in stays.api("GET", "nodes")) == 2, what="two nodes as one"
        )
        yield stays, goes


def test_a_queue_whose_node_is_away_is_not_taken_for_empty(pair, caplog):
    """It is left out, which is told once, and others are read; alone it is an outage, in RabbitMQ's words."""
    stays, goes = pair
    with stays.virtual_host() as here:
        there = type(here)(goes, here.name)
        for host, queue in ((here, "mail"), (there, "far"), (here, "half"), (there, "half.dead")):
            with contextlib.closing(OnRabbitMQ(host)) as broker:
                broker.declare(queue)
                broker.publish(message("1"), queue=queue)
        goes.kill9()
        wait_for(lambda: not stays.api("GET", f"nodes/{goes.node}")["running"], what="the end of the node")
        with contextlib.closing(AmqpObserver(here.url)) as observer:
            many = [f"absent-{number}" for number in range(70)]  # these are asked for in another way
            for queues in (["mail", "far", "half", "absent"], ["mail", "far", "half", *many]):
                found = observer.depths(queues, horizon_seconds=0)
                assert set(found) == set(queues) - {"far", "half"}
                assert {queue: depth.ready for queue, depth in found.items() if depth.ready} == {"mail": 1}
            assert [each.message.split()[:2] for each in caplog.records] == [
                ["queue", "far"],
                ["queue", "half.dead"],
            ]
            with pytest.raises(BrokerUnavailable, match=r"home node .* is down or inaccessible"):
                observer.depths(["far"], horizon_seconds=0)
            with pytest.raises(BrokerUnavailable, match=r"home node .* is down or inaccessible"):
                observer.remove_queue("far", "far.dead")


def test_what_waits_is_not_known_while_a_node_is_away(pair):
    """Messages may stand in those of Celery's delayed queues that nobody can read now."""
    stays, goes = pair
    with stays.virtual_host() as here:
        broker = OnRabbitMQ(type(here)(goes, here.name))
        broker.declare("mail")
        broker.publish(message("1"), eta=broker.now() + 1000)
        broker.close()
        here.declare("other")
        goes.kill9()
        wait_for(lambda: not stays.api("GET", f"nodes/{goes.node}")["running"], what="the end of the node")
        with contextlib.closing(AmqpObserver(here.url)) as observer:
            assert observer.depths(["other"], horizon_seconds=0)["other"].waiting is None


def test_a_worker_goes_on_with_its_other_queues(pair):
    """What it cannot consume is waited for."""
    stays, goes = pair
    with stays.virtual_host() as here:
        for host, queue in ((here, "mail"), (type(here)(goes, here.name), "far")):
            with contextlib.closing(OnRabbitMQ(host)) as broker:
                broker.declare(queue)
                broker.publish(message(queue), queue=queue)
        goes.kill9()
        wait_for(lambda: not stays.api("GET", f"nodes/{goes.node}")["running"], what="the end of the node")
        with contextlib.closing(OnRabbitMQ(here)) as broker:
            transport = broker.transport("mail", "far")
            assert ids(wait_for(lambda: claim(transport, 1), what="the message")) == ["mail"]
            transport.tick(Tick())


@pytest.mark.parametrize("declares", [True, False])
@pytest.mark.parametrize("eta", [0, 60])
def test_what_is_sent_to_it_is_kept_and_sent_when_it_is_back(pair, declares, eta):
    """It is no queue that is missing: nothing is buried, and a client hears of an outage that passes."""
    stays, goes = pair
    with stays.virtual_host() as here:
        with contextlib.closing(OnRabbitMQ(type(here)(goes, here.name))) as broker:
            broker.declare("far")
        here.declare("mail", **{"x-queue-type": "classic"})
        here.declare("mail.dead", **{"x-queue-type": "classic"})
        publisher = AmqpPublisher(here.url, delayed_type="classic", create_missing_queues=declares)
        publisher.publish([Publication("mail", message("1"))])
        goes.kill9()
        wait_for(lambda: not stays.api("GET", f"nodes/{goes.node}")["running"], what="the end of the node")
        transport = one_worker(here.url, delayed_type="classic", create_missing_queues=declares)
        [delivery] = wait_for(lambda: claim(transport, 1), what="the message")
        far = Publication("far", message("2"), 0, time.time() + eta if eta else 0)
        settlement = Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.ACK, publish=[far])
        assert list(transport.turn(Turn(settle=[settlement])).settled) == [None]
        with pytest.raises(MessageRejected, match="the node that it lives on is away"):
            publisher.publish([far])
        publisher.close()
        assert here.messages("mail.dead") == []
        goes.start()
        wait_for(
            lambda: list(transport.turn(Turn(settle=[settlement])).settled) == [True], what="the queue's node"
        )
        transport.close()


def test_its_task_queue_says_that_it_cannot_be_read(pair):
    """The others of the virtual host are Ready; so is it when the node is back."""
    stays, goes = pair
    with stays.virtual_host() as here:
        with contextlib.closing(OnRabbitMQ(type(here)(goes, here.name))) as broker:
            broker.declare("far")

        async def told(keeper):
            keeper.secrets.put(url=here.url, managementUrl=stays.management_url)
            for name in ("far", "near"):
                keeper.put(task_queue(name, type="Classic"))
                await keeper.until_condition(name, "Ready", "True", "AsDeclared")
            goes.kill9()
            said = await keeper.until_condition("far", "Ready", "False", "BrokerError")
            assert "queue far: the node of RabbitMQ that it lives on is away" in said
            assert keeper.condition("near", "Ready")[0] == "True"
            goes.start()
            await keeper.until_condition("far", "Ready", "True", "AsDeclared")

        story(told)


def test_no_queue_and_no_node_are_told_apart():
    """AMQP has one code for both."""
    for text, absent in (
        ("NOT_FOUND - no queue 'mail' in vhost '/'", True),
        (
            "NOT_FOUND - home node 'a@b' of durable queue 'no queue' in vhost '/' is down or inaccessible",
            False,
        ),
    ):
        assert Refusal(NOT_FOUND, text).is_absence is absent
