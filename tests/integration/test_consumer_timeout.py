"""A message that is held for longer than RabbitMQ's consumer_timeout, on a server where that is short."""

from collections.abc import Iterator

import pytest

from muster.errors import BrokerUnavailable
from muster.transports.amqp.kept import kept_queue
from muster.transports.amqp.transport import AmqpTransport
from muster.transports.base import Delivery, Settlement, Tick, Turn, Verdict
from rabbitmq import RabbitMQServer, VirtualHost
from waiting import stays, wait_for

pytestmark = pytest.mark.servers

TIMEOUT_SECONDS = 4
TYPES = ["classic", "quorum"]


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQServer]:
    """A server that lets nobody hold a message for longer than some seconds, and looks every second."""
    timeout = f"consumer_timeout = {1000 * TIMEOUT_SECONDS}\n"
    with RabbitMQServer(timeout, erlang="-rabbit channel_tick_interval 1000") as made:
        yield made


@pytest.fixture
def host(server: RabbitMQServer) -> Iterator[VirtualHost]:
    with server.virtual_host() as virtual_host:
        yield virtual_host


def transport(host: VirtualHost, worker: str, keep_after_seconds: float) -> AmqpTransport:
    return AmqpTransport(
        host.url,
        queues=["mail"],
        worker=worker,
        pool="mailers",
        lease_seconds=30,
        dead_letters={},
        keep_after_seconds=keep_after_seconds,
    )


def publish(host: VirtualHost, queue_type: str) -> None:
    host.declare("mail", **{"x-queue-type": queue_type})
    host.server.api(
        "POST",
        f"exchanges/{host.name}/amq.default/publish",
        properties={"delivery_mode": 2, "headers": {"id": "1", "task": "mail.send"}},
        routing_key="mail",
        payload="[[], {}, {}]",
        payload_encoding="string",
    )


def claim(worker: AmqpTransport) -> Delivery:
    [found] = wait_for(lambda: worker.turn(Turn(claim=1, run=1)).deliveries, what="the message")
    return found


def tick(worker: AmqpTransport, *held: Delivery) -> list[str]:
    """Do a worker's housekeeping; return the tags that are not its own any more."""
    return list(worker.tick(Tick(renew=[("mail", each.tag) for each in held])).gone)


def in_queue(host: VirtualHost, queue: str) -> int:
    """How many messages are in a queue, taken by somebody or not: the server says so some seconds later."""
    found = host.queue(queue)
    return found.get("messages_unacknowledged", 1) + found.get("messages_ready", 1)


def kept(host: VirtualHost) -> bool:
    """Whether a copy has taken a message's place, by the server's word: there may be another on its way."""
    copies = host.queue(kept_queue("one", "mail")).get("messages_unacknowledged", 0)
    return in_queue(host, "mail") == 0 and copies >= 1


@pytest.mark.parametrize("queue_type", TYPES)
def test_the_server_takes_away_what_is_not_renewed(host, queue_type):
    """What the others are compared with: the timeout is real."""
    publish(host, queue_type)
    worker = transport(host, "one", keep_after_seconds=1e6)
    held = claim(worker)

    def gone():
        try:
            return tick(worker, held)
        except BrokerUnavailable:
            return True

    wait_for(gone, what="the server to close the channel")
    worker.close()


@pytest.mark.parametrize("queue_type", TYPES)
def test_what_is_held_for_long_stays_ours(host, queue_type):
    """Several timeouts later it is still held, nobody else has been given it, and it can be settled."""
    publish(host, queue_type)
    worker, other = transport(host, "one", 1.0), transport(host, "other", 1.0)
    held = claim(worker)
    stays(
        lambda: not tick(worker, held) and not other.turn(Turn(claim=1)).deliveries,
        what="one has it and the other does not",
        seconds=4 * TIMEOUT_SECONDS,
        every_seconds=0.1,
    )
    assert worker.consumer.life == 1, "its channel was never closed"
    acked = Settlement(tag=held.tag, queue="mail", verdict=Verdict.ACK)
    assert worker.turn(Turn(settle=[acked])).settled == [True]
    for queue in ("mail", kept_queue("one", "mail")):
        wait_for(lambda queue=queue: in_queue(host, queue) == 0, what=f"nothing is left in {queue}")
    assert not other.turn(Turn(claim=1)).deliveries
    worker.close()
    other.close()


def test_what_a_lost_worker_kept_goes_back_to_its_queue(host):
    """It is a suspect: it had begun."""
    publish(host, "quorum")
    worker, other = transport(host, "one", 1.0), transport(host, "other", 1.0)
    held = claim(worker)

    def is_kept():
        assert not tick(worker, held)
        return kept(host)

    wait_for(is_kept, what="the copy is what is held")
    worker.consumer.line.close()
    found = wait_for(
        lambda: tick(other) == [] and other.turn(Turn(claim=1)).deliveries,
        what="the message to come back",
        timeout_seconds=60,
    )
    assert [each.suspect for each in found] == [True]
    worker.close()
    other.close()


def test_a_worker_that_has_lost_its_connection_gives_back_what_it_kept(host):
    """At once when it keeps anything again; it does not wait for its time to live."""
    publish(host, "quorum")
    worker = transport(host, "one", 1.0)
    held = claim(worker)
    wait_for(
        lambda: not tick(worker, held) and kept(host),
        what="the copy is what is held",
    )
    worker.consumer.line.close()
    assert tick(worker, held) == [held.tag]
    publish(host, "quorum")
    second = claim(worker)

    def come_back():
        assert not tick(worker, second)
        return worker.turn(Turn(claim=1)).deliveries

    [again] = wait_for(come_back, what="the first to come back", timeout_seconds=20)
    assert again.suspect
    worker.close()
