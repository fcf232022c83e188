"""A rate of all workers on a real RabbitMQ: what holds besides the facts of all brokers' rates.

A connection that is closed in the middle stands for a worker that is lost.
"""

import threading
import time

import pika
import pytest

from brokers import OnRabbitMQ, claim, hear_of_alarm, ids, message, settle
from muster.core.rate import Pace, ask, read_rate
from muster.transports.amqp.address import addresses
from muster.transports.amqp.line import Line, Parcel
from muster.transports.amqp.paces import Paces, pace_queue
from muster.transports.base import Start, Tick, Turn, Verdict
from waiting import wait_for

pytestmark = pytest.mark.servers

TASK = "shop.send"
RATE = read_rate("100/h", whose="")
"""Ten at once, then one every 36 s, the first of them a second earlier."""


@pytest.fixture
def asker(rabbitmq):
    """A function that returns one more who asks, and its line."""
    lines = []

    def make(lost_after_seconds=60.0):
        line = Line(addresses(rabbitmq.url, heartbeat_seconds=60))
        line.open()
        lines.append(line)
        return Paces(line, confirm_seconds=10.0, lost_after_seconds=lost_after_seconds), line

    yield make
    for line in lines:
        line.close()


def told(paces, count, now, rate=RATE):
    """Ask until there is an answer: a pace in another's hand comes back."""
    return wait_for(lambda: paces.ask(TASK, [rate] * count, now), what="an answer")


def test_a_pace_is_one_for_all_and_outlives_who_asks(asker):
    """The second goes on where the first has been, whether that one is still there or not."""
    now = time.time()
    one, line = asker()
    assert told(one, 4, now) == [0.0] * 4
    line.close()
    two, _ = asker()
    pace, expected = Pace(), []
    for _ in range(4 + 9):
        pace, until = ask(RATE, pace, now)
        expected.append(until)
    assert told(two, 9, now) == pytest.approx(expected[4:])
    assert expected[-1] > now


def test_who_is_lost_with_the_pace_in_hand_leaves_it_to_others(asker):
    """Nobody starts anything meanwhile, and nothing of the allowance comes back."""
    now = time.time()
    one, line = asker()
    assert told(one, 10, now) == [0.0] * 10
    assert line.get(pace_queue(TASK)) is not None
    two, _ = asker()
    assert two.ask(TASK, [RATE], now) is None
    line.close()
    assert told(two, 1, now) == [pytest.approx(now + 35)]


def test_a_pace_that_is_lost_allows_nothing_ahead(asker, rabbitmq):
    """It may have been used up: starts come evenly from then on."""
    now = time.time()
    paces, line = asker(lost_after_seconds=0.5)
    assert told(paces, 1, now) == [0.0]
    line.ask(lambda done: line.channel.queue_purge(pace_queue(TASK), callback=done))
    assert told(paces, 2, now) == [0.0, pytest.approx(now + 36, abs=5)]


def test_no_more_than_one_pace_is_kept(asker, rabbitmq):
    """The newest: of two that were put into the queue, one is left."""
    now = time.time()
    paces, line = asker()
    told(paces, 10, now)
    queue = pace_queue(TASK)
    line.publish([Parcel("", queue, b'{"next_start": 0}', pika.BasicProperties())], 10.0)
    assert line.count(queue) == 1


def test_a_pace_that_was_put_in_by_hand_and_cannot_be_read_is_replaced(asker):
    """Starts go on, with a full allowance."""
    now = time.time()
    paces, line = asker()
    told(paces, 10, now)
    line.publish([Parcel("", pace_queue(TASK), b"fast", pika.BasicProperties())], 10.0)
    assert told(paces, 11, now)[9:] == [0.0, pytest.approx(now + 35)]


def test_a_queue_that_is_deleted_is_made_anew(asker):
    """An ask that finds it gone has no answer; the next has a full allowance."""
    now = time.time()
    paces, _ = asker()
    told(paces, 1, now)
    _, line = asker()
    line.ask(lambda done: line.channel.queue_delete(pace_queue(TASK), callback=done))
    assert paces.ask(TASK, [RATE], now) is None
    assert told(paces, 10, now) == [0.0] * 10


def test_long_names_of_tasks_have_queues_too():
    """AMQP's names have 255 bytes."""
    assert pace_queue(TASK) == "muster.pace.shop.send"
    one, other = (pace_queue("ü" * 200 + end) for end in "ab")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) < 255


def test_who_asks_at_once_never_has_more_than_the_rate(asker):
    """Four threads with connections of their own ask without a pause, for two at a time."""
    rate = read_rate("100/s", whose="")
    begun, started = time.time(), []

    def work(paces):
        while time.time() < begun + 3:
            now = time.time()
            answers = paces.ask(TASK, [rate, rate], now)
            started.extend(now for until in answers or () if not until)

    threads = [threading.Thread(target=work, args=asker()[:1]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started.sort()
    window = started[-1] - started[0] + rate.tolerance_seconds
    assert len(started) <= 1 + window / rate.interval_seconds + 1e-3
    assert len(started) > 100


# -- in a worker's turn


@pytest.fixture(params=["classic", "quorum"])
def broker(request, rabbitmq):
    made = OnRabbitMQ(rabbitmq, request.param)
    made.declare("mail", "mail.dead")
    yield made
    made.close()


def start_all(transport, deliveries, rate=RATE):
    return transport.turn(Turn(start=[Start(d.tag, d.queue, "", TASK, rate) for d in deliveries]))


def test_what_is_over_the_rate_waits_on_the_broker(broker):
    """It is refused, and nobody's until its time; the others run."""
    broker.publish(*(message(str(n)) for n in range(13)))
    transport = broker.transport()
    deliveries = claim(transport, run=100)
    turned = start_all(transport, deliveries)
    assert list(turned.started) == [True] * 10 + [False] * 3
    waits = [turned.put_off[d.tag] - turned.now for d in deliveries[10:]]
    assert waits == pytest.approx([35, 71, 107], abs=1e-4)
    depth = broker.depth()
    assert (depth.ready, depth.waiting) == (0, None)
    assert not settle(transport, deliveries[-1], Verdict.ACK), "it is not ours any more"
    assert all(settle(transport, each, Verdict.ACK) for each in deliveries[:10])


def test_what_is_due_soon_waits_here_and_comes_again(broker):
    """Unmarked, and its time is told."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    rate = read_rate("1/s", whose="")
    first, second = claim(transport)
    turned = start_all(transport, [first, second], rate)
    assert list(turned.started) == [True, False]
    assert transport.tick(Tick()).next_eta == pytest.approx(turned.put_off[second.tag])
    [again] = wait_for(lambda: claim(transport), what="it comes again")
    assert (ids([again]), again.suspect) == (["2"], False)
    assert list(start_all(transport, [again], rate).started) == [True]


def test_what_waits_here_is_one_message_however_often_it_comes(broker):
    """A delivery of what was put off says so: it has not left its queue again."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    rate = read_rate("2/s", whose="")
    deliveries = claim(transport)
    assert [each.again for each in deliveries] == [False, False]
    assert list(start_all(transport, deliveries, rate).started) == [True, False]
    [again] = wait_for(lambda: claim(transport), what="it comes again")
    assert again.again


def test_a_pace_that_may_not_be_asked_for_holds_up_its_task_only(rabbitmq, caplog):
    """As without the right to its queue: it is said once, and other tasks start."""
    made = OnRabbitMQ(rabbitmq)
    made.declare("mail", "mail.dead")
    server = rabbitmq.server
    server.api("PUT", f"permissions/{rabbitmq.name}/guest", configure="^mail", write=".*", read="^mail")
    made.publish(message("1"), message("2"))
    transport = made.transport()
    limited, free = claim(transport)
    for _ in range(2):
        starts = [Start(limited.tag, limited.queue, "", TASK, RATE), Start(free.tag, free.queue)]
        turned = transport.turn(Turn(start=starts))
        assert list(turned.started) == [False, True]
        [limited] = wait_for(lambda: claim(transport), what="it comes again")
    assert caplog.text.count("the rate of all workers cannot be kept") == 1
    server.api("PUT", f"permissions/{rabbitmq.name}/guest", configure=".*", write=".*", read=".*")
    made.close()


def test_what_is_put_off_in_an_alarm_is_not_forgotten(own_rabbitmq_server):
    """One whose copy is under way when another is put off stays in hand until the broker has it."""
    server = own_rabbitmq_server
    with server.virtual_host() as virtual_host:
        broker = OnRabbitMQ(virtual_host)
        broker.declare("mail")
        broker.publish(*(message(str(n)) for n in range(12)))
        transport = broker.transport()
        deliveries = claim(transport)
        assert list(start_all(transport, deliveries[:10]).started) == [True] * 10
        server.control("set_vm_memory_high_watermark", "0.0001")
        late, soon = deliveries[10:]
        transport._ask_rate = lambda _task, rates, now: [now + 5] * len(rates)
        assert transport.turn(Turn(start=[Start(late.tag, "mail", "", TASK, RATE)])).undone == 1
        transport._ask_rate = lambda _task, rates, now: [now + 0.2] * len(rates)
        assert transport.turn(Turn(start=[Start(soon.tag, "mail", "", TASK, RATE)])).undone == 1
        server.control("set_vm_memory_high_watermark", "0.6")
        wait_for(lambda: transport.tick(Tick()).undone == 0, what="the broker to take it back")
        found = []
        wait_for(
            lambda: (transport.tick(Tick()) and found.extend(ids(claim(transport)))) or len(found) >= 2,
            what="both come again",
        )
        assert sorted(found) == ["10", "11"]
        assert claim(transport) == []
        broker.close()


def test_while_the_broker_takes_no_messages_a_start_at_a_rate_waits(own_rabbitmq_server):
    """It stays in hand, with nothing sent, and starts when the alarm is over."""
    server = own_rabbitmq_server
    with server.virtual_host() as virtual_host:
        broker = OnRabbitMQ(virtual_host)
        broker.declare("mail")
        broker.publish(message("1"))
        transport = broker.transport()
        [delivery] = claim(transport)
        server.control("set_vm_memory_high_watermark", "0.0001")
        hear_of_alarm(transport)
        turned = start_all(transport, [delivery])
        assert list(turned.started) == [False]
        assert 0 < turned.put_off[delivery.tag] - turned.now < 1
        server.control("set_vm_memory_high_watermark", "0.6")

        def started():
            transport.tick(Tick())
            return any(start_all(transport, claim(transport)).started)

        wait_for(started, what="it starts")
        broker.close()
