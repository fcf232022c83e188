"""What RabbitMQ's transport holds besides the facts of all: messages are pushed, and held by the connection.

On a real server, with a classic and a quorum queue. A connection that is closed here stands for a worker that
is lost: in both cases the server gives everything back and marks it as redelivered.
"""

import time

import pika
import pytest

from brokers import POOL, OnRabbitMQ, claim, hear_of_alarm, ids, message, one_worker, raws, settle, start
from muster.core.effects import Publication
from muster.errors import BrokerUnavailable
from muster.settings.environment import DeadLetter
from muster.settings.queues import QueueArguments
from muster.transports.amqp import consumer
from muster.transports.amqp.address import addresses
from muster.transports.amqp.line import Line, Parcel
from muster.transports.amqp.names import REASON_HEADER
from muster.transports.base import Sending, Settlement, Tick, Turn, Verdict
from muster.wire.message import peek
from waiting import wait_for

pytestmark = pytest.mark.servers


@pytest.fixture(params=["classic", "quorum"])
def broker(request, rabbitmq):
    made = OnRabbitMQ(rabbitmq, request.param)
    made.declare("mail", "other", "mail.dead")
    yield made
    made.close()


@pytest.fixture
def classic(rabbitmq):
    made = OnRabbitMQ(rabbitmq)
    made.declare("mail", "other", "mail.dead")
    yield made
    made.close()


def all_claimed(transport):
    """Return a function that keeps house, claims, and tells the ids of all that has come since."""
    found = []

    def claimed():
        transport.tick(Tick())
        found.extend(ids(transport.turn(Turn(claim=5)).deliveries))
        return found

    return claimed


def lose_connection(transport):
    """As when the worker's process, its node or the network is gone."""
    transport.consumer.line.close()


def ready(broker, count, queue="mail"):
    wait_for(lambda: broker.depth(queue).ready == count, what=f"{count} messages in queue {queue}")


# -- what is pushed


def test_no_more_is_pushed_than_can_be_held(broker):
    """What a worker has no place for stays in its queue, for others."""
    broker.publish(*(message(str(n)) for n in range(10)))
    one, two = broker.transport(worker="one"), broker.transport(worker="two")
    assert ids(claim(one, 3)) == ["0", "1", "2"]
    ready(broker, 7)
    assert ids(claim(two, 100)) == ["3", "4", "5", "6", "7", "8", "9"]


def test_more_is_pushed_as_soon_as_there_is_place(broker):
    """A settlement makes room for as much as it frees; a larger claim for more."""
    broker.publish(*(message(str(n)) for n in range(100)))
    transport = broker.transport()
    held = claim(transport, 2)
    for delivery in held:
        assert settle(transport, delivery, Verdict.ACK)
    assert len(claim(transport, 2)) == 2
    assert len(claim(transport, 50)) == 50
    ready(broker, 46)


def test_what_finds_no_place_goes_to_others_unmarked(broker):
    """It was pushed to a worker whose slots are taken by long tasks; it has not begun, and is not marked."""
    transport, other = broker.transport(), broker.transport(worker="other")
    assert claim(transport, 5) == []
    broker.publish(*(message(str(n)) for n in range(5)))
    assert len(claim(transport, 1)) == 1

    def given_back():
        transport.tick(Tick())
        return broker.depth().ready

    wait_for(given_back, until=lambda count: count == 4, what="four messages given back")
    found = claim(other, run=4)
    assert sorted(ids(found)) == ["1", "2", "3", "4"]
    assert all(delivery.running and not delivery.suspect for delivery in found)


def test_a_recalled_watch_has_nothing_more_pushed(broker):
    """A worker that drains: what was pushed and not claimed goes back as if it had never been here."""
    transport, other = broker.transport(), broker.transport(worker="other")
    watch = transport.watch(lambda: None)
    claim(transport, 3)
    broker.publish(message("1"), message("2"))
    ready(broker, 0)
    watch.recall()
    broker.publish(message("3"))
    transport.tick(Tick())
    ready(broker, 3)
    assert not any(delivery.suspect for delivery in claim(other))


def test_what_is_on_its_way_at_a_cancellation_is_ours_and_unmarked(broker):
    """However often a worker stops and goes on while messages stream to it, none looks as if it had run."""
    transport = broker.transport()
    watch = transport.watch(lambda: None)
    broker.publish(*(message(str(n)) for n in range(400)))
    found = []
    while len(found) < 400:
        taken = transport.turn(Turn(claim=20, run=20)).deliveries
        found += taken
        watch.recall()
        transport.turn(Turn(settle=[Settlement(tag=d.tag, queue="mail", verdict=Verdict.ACK) for d in taken]))
        transport.tick(Tick())
    assert sorted(ids(found), key=int) == [str(n) for n in range(400)]
    assert not any(delivery.suspect for delivery in found)


def test_consumers_that_have_ended_are_forgotten(classic, monkeypatch):
    """Also while an older one goes on: a queue that is idle beside a busy one costs no memory."""
    monkeypatch.setattr(consumer, "REMEMBERED", 3)
    transport = classic.transport("mail", "other")
    claim(transport, 1)
    ours = transport.consumer
    for _ in range(20):
        ours.cancel(["mail"])
        ours.consume(["mail"], 1)
    assert len(ours._all) == 3 + len(ours._active) == 5
    assert set(ours.line.channel.consumer_tags) == set(ours._all)
    classic.publish(message("1"), message("2", queue="other"), queue="mail")
    wait_for(all_claimed(transport), until=lambda seen: len(seen) == 2, what="what is pushed to the others")


def test_a_watch_tells_of_what_is_pushed(broker):
    """Its descriptor is readable then; told once, it is silent until it is armed again."""
    transport = broker.transport()
    watch = transport.watch(lambda: None)
    claim(transport, 5)
    watch.arm()
    assert not watch.look().come
    broker.publish(message("1"))
    wait_for(lambda: watch.look().come, what="the watch to tell")
    broker.publish(message("2"))
    ready(broker, 0)
    assert not watch.look().come
    assert sorted(ids(claim(transport))) == ["1", "2"]
    watch.close()


def test_a_watch_tells_of_what_has_come_in_another_call(broker):
    """Its descriptor has been read by then; who waits for it would wait for ever."""
    transport, told = broker.transport(), []
    watch = transport.watch(lambda: told.append(1))
    claim(transport, 5)
    watch.arm()
    broker.publish(message("1"))
    wait_for(lambda: transport.tick(Tick()) and told, what="the watch to tell")
    assert watch.look().come
    assert ids(claim(transport)) == ["1"]
    watch.close()


def test_what_was_given_back_is_told_of(broker):
    """The queue is not consumed until there is a claim, which has to come from somewhere."""
    transport = broker.transport()
    claim(transport, 5)
    broker.publish(message("1"))
    ready(broker, 0)
    assert (
        wait_for(lambda: transport.tick(Tick()).ready and broker.depth().ready, what="it is given back") == 1
    )
    assert ids(claim(transport, 5)) == ["1"]


def test_queues_are_served_in_order_of_preference(broker):
    """What is here of the first queue is claimed before what is here of the second."""
    transport = broker.transport("mail", "other")
    claim(transport, 4)
    broker.publish(message("a"), queue="other")
    broker.publish(message("b"))
    ready(broker, 0)
    ready(broker, 0, "other")
    assert ids(claim(transport)) == ["b", "a"]


def test_a_higher_priority_is_served_first(rabbitmq):
    """As with Celery on RabbitMQ, in a queue that knows priorities."""
    broker = OnRabbitMQ(rabbitmq)
    rabbitmq.declare("mail", **{"x-max-priority": 9})
    for priority in (0, 9, 5):
        broker.publish(message(str(priority)), priority=priority)
    assert ids(claim(broker.transport(), 3)) == ["9", "5", "0"]
    broker.close()


def test_what_is_given_back_and_what_was_delayed_keep_their_priority(rabbitmq):
    """A worker that leaves, and a message whose time has come, change nothing in who is served first."""
    broker = OnRabbitMQ(rabbitmq)
    rabbitmq.declare("mail", **{"x-max-priority": 9})
    for priority in (0, 5):
        broker.publish(message(str(priority)), priority=priority)
    broker.publish(message("9"), priority=9, eta=broker.now() + 1)
    leaving = broker.transport(worker="leaving")
    for delivery in claim(leaving, 2):
        assert settle(leaving, delivery, Verdict.RETURN)
    leaving.close()
    ready(broker, 3)
    assert ids(claim(broker.transport(), 3)) == ["9", "5", "0"]
    broker.close()


def test_many_queues_are_counted_at_once(broker):
    """Those that are not there are empty, and the line is as good as before."""
    names = [f"queue-{number}" for number in range(100)]
    broker.declare(*names[::2])
    for number in (0, 2, 98):
        broker.publish(*(message(str(n)) for n in range(number + 1)), queue=f"queue-{number}")
    observer = broker.make_observer()
    for _ in range(2):
        depths = observer.depths(names, horizon_seconds=0)
        assert {name: depth.ready for name, depth in depths.items() if depth.ready} == {
            "queue-0": 1,
            "queue-2": 3,
            "queue-98": 99,
        }
        assert depths.keys() == set(names)
    observer.close()


def test_what_is_acked_in_any_order_is_gone(broker):
    """One word for those before which nothing is open, one by one for the others: nothing is left."""
    broker.publish(*(message(str(n)) for n in range(30)))
    transport = broker.transport()
    held = claim(transport, 30)
    for part in (held[20:25], held[1:5], held[:1], held[10:20], held[25:], held[5:10]):
        turn = Turn(settle=[Settlement(tag=d.tag, queue="mail", verdict=Verdict.ACK) for d in part])
        assert all(transport.turn(turn).settled)
    transport.tick(Tick())
    lose_connection(transport)
    assert claim(broker.transport(worker="other")) == []


# -- queues that are not there


def test_a_queue_that_is_not_there_is_declared_as_celery_does(rabbitmq):
    """Durable and without arguments, where that is allowed."""
    broker = OnRabbitMQ(rabbitmq)
    assert claim(broker.transport("new")) == []
    found = rabbitmq.queue("new")
    assert (found["durable"], found["arguments"]) == (True, {})
    broker.close()


def test_a_queue_that_is_not_to_be_declared_is_waited_for(rabbitmq):
    """Then a TaskQueue declares it; the others are consumed meanwhile."""
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail")
    broker.publish(message("1"))
    transport = one_worker(rabbitmq.url, "late", "mail", declare_queues=False)
    claimed = all_claimed(transport)
    wait_for(claimed, until=lambda seen: seen == ["1"], what="the message of the queue that is there")
    broker.declare("late")
    broker.publish(message("2"), queue="late")
    wait_for(claimed, until=lambda seen: seen == ["1", "2"], what="the message of the other queue")
    transport.close()
    broker.close()


def test_a_queue_that_is_deleted_and_declared_again_is_consumed_again(broker):
    """What is in hand of other queues stays there."""
    transport = broker.transport("mail", "other")
    broker.publish(message("kept"), queue="other")
    watch = transport.watch(lambda: None)
    [kept] = claim(transport, 5)
    broker.virtual_host.server.api("DELETE", f"queues/{broker.virtual_host.name}/mail")

    def is_told():
        watch.look()
        return "mail" not in transport.consumer.consuming

    # a quorum queue of RabbitMQ 3.10 that is declared anew before that takes the old consumer for its own,
    # and pushes what it never hears of
    wait_for(is_told, what="the server to cancel the consumer")
    broker.declare("mail")
    broker.publish(message("new"))
    claimed = all_claimed(transport)
    wait_for(claimed, until=lambda seen: seen == ["new"], what="the message of the new queue")
    assert settle(transport, kept, Verdict.ACK)


# -- what becomes of a message


def test_what_is_returned_has_not_run(broker):
    """A copy, which the broker does not mark: it starts at once wherever it comes, and counts nothing."""
    broker.publish(message("1"))
    transport = broker.transport()
    for _ in range(25):  # more often than a quorum queue of RabbitMQ 4 would deliver it
        [delivery] = claim(transport, 1, run=1)
        assert (delivery.running, delivery.suspect, delivery.raw) == (True, False, message("1"))
        assert settle(transport, delivery, Verdict.RETURN)
    assert ids(claim(transport, 1)) == ["1"]


def test_a_lost_message_has_its_loss_noted(broker):
    """Its start has to be asked for, and it runs alone."""
    broker.publish(message("1"))
    transport = broker.transport()
    for losses in (1, 2):
        [delivery] = claim(transport, 1, run=1)
        assert settle(transport, delivery, Verdict.LOST, reason="WorkerLost")
        [delivery] = claim(transport, 1, run=1)
        seen = peek(delivery.raw)
        assert (delivery.running, seen.losses, seen.cause) == (False, losses, "WorkerLost")
        assert settle(transport, delivery, Verdict.RETURN)


def test_what_a_lost_connection_held_is_suspect(broker):
    """RabbitMQ does not say whether it had begun: it is handed out to be asked for, without a loss."""
    broker.publish(message("running"), message("claimed"))
    transport, other = broker.transport(), broker.transport(worker="other")
    assert len(claim(transport, 2, run=1)) == 2
    lose_connection(transport)
    found = claim(other, run=2)
    assert sorted(ids(found)) == ["claimed", "running"]
    assert [(d.running, d.suspect, peek(d.raw).losses) for d in found] == [(False, True, 0)] * 2


def test_only_what_was_started_is_blamed_for_lost_workers(broker):
    """A suspect's starts are counted on the broker; what lay beside it comes back without a loss."""
    broker.publish(message("poison"), message("beside"))
    claim(first := broker.transport(worker="first"), 2, run=2)
    lose_connection(first)
    for losses in range(3):
        transport = broker.transport(worker=f"worker {losses}")
        found = {peek(d.raw).id: d for d in claim(transport, 2)}
        seen = {name: peek(delivery.raw) for name, delivery in found.items()}
        assert (seen["poison"].losses, seen["beside"].losses) == (losses, 0)
        assert seen["poison"].cause == ("WorkerLost" if losses else "")
        assert start(transport, found["poison"])
        lose_connection(transport)


def test_what_a_suspect_has_cost_goes_with_its_copies(broker):
    """A loss that the worker itself sees adds to those that were counted on the broker."""
    broker.publish(message("1"))
    for number in range(3):
        transport = broker.transport(worker=str(number))
        [delivery] = claim(transport, 1, run=1)
        assert delivery.running or start(transport, delivery)
        lose_connection(transport)
    transport = broker.transport()
    [delivery] = claim(transport, 1)
    assert peek(delivery.raw).losses == 2
    assert start(transport, delivery)
    assert settle(transport, delivery, Verdict.LOST, reason="TimeLimit")
    [delivery] = claim(transport, 1)
    assert (peek(delivery.raw).losses, peek(delivery.raw).cause) == (3, "TimeLimit")


def test_a_suspect_that_ends_well_is_forgotten(broker):
    """Another message of that task begins without a loss, and no count is left on the broker."""
    broker.publish(message("1"))
    lose = broker.transport(worker="lost")
    claim(lose, 1, run=1)
    lose_connection(lose)
    transport = broker.transport()
    [delivery] = claim(transport, 1)
    assert start(transport, delivery)
    assert settle(transport, delivery, Verdict.ACK)

    def counts():
        names = broker.virtual_host.server.api("GET", f"queues/{broker.virtual_host.name}")
        return [each["name"] for each in names if each["name"].startswith("muster.begun.")]

    wait_for(counts, until=lambda names: not names, what="the count to be forgotten")


def test_a_suspect_that_is_returned_stays_one(broker):
    """Whether it had run is still not known, and it is not blamed for having been held."""
    broker.publish(message("1"))
    transport = broker.transport()
    claim(transport, 1)
    lose_connection(transport)
    for _ in range(3):
        [delivery] = claim(transport, 1, run=1)
        assert (delivery.suspect, delivery.running, peek(delivery.raw).losses) == (True, False, 0)
        assert settle(transport, delivery, Verdict.RETURN)


def test_the_tags_of_a_lost_connection_are_worth_nothing(broker):
    """Whoever has the messages now settles them."""
    broker.publish(message("1"))
    transport = broker.transport()
    [delivery] = claim(transport, 1, run=1)
    lose_connection(transport)
    assert list(transport.tick(Tick(renew=[("mail", delivery.tag)])).gone) == [delivery.tag]
    for verdict in set(Verdict) - {Verdict.ACKED}:
        publish = [Publication("other", message("2"))]
        assert not settle(transport, delivery, verdict, eta=broker.now() + 9, publish=publish)
    assert broker.depth("other").ready == 0
    assert not start(transport, delivery)
    assert ids(claim(broker.transport(worker="other"), 1) or claim(transport, 1)) == ["1"]


def test_an_early_ack_is_answered_as_at_first(broker):
    """Said again because its answer got lost, even over another connection: the message is nobody else's."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    first, second = claim(transport, 2, run=2)
    assert settle(transport, first, Verdict.ACK_EARLY)
    assert settle(transport, first, Verdict.ACK_EARLY)
    lose_connection(transport)
    assert settle(transport, first, Verdict.ACK_EARLY)
    assert not settle(transport, second, Verdict.ACK_EARLY)
    assert ids(claim(transport, 5)) == ["2"]


def test_what_is_due_soon_waits_in_our_hands(broker):
    """On the broker it would wait for whole seconds; its time is told, and it is claimed then as it was."""
    broker.publish(message("1"))
    transport = broker.transport()
    [delivery] = claim(transport, 1, run=1)
    eta = broker.now() + 0.2
    assert settle(transport, delivery, Verdict.DEFER, eta=eta)
    assert transport.tick(Tick()).next_eta == pytest.approx(eta)
    assert claim(transport, 5) == []
    broker.elapse(0.2)
    [again] = claim(transport, 5, run=1)
    assert (again.raw, again.running, again.suspect) == (message("1"), True, False)
    assert again.tag != delivery.tag
    assert settle(transport, again, Verdict.ACK)


def test_what_is_due_later_waits_on_the_broker(broker):
    """It is nobody's meanwhile; rounded up to a second, it comes back."""
    broker.publish(message("1"))
    transport = broker.transport()
    [delivery] = claim(transport, 1)
    eta = broker.now() + 2.5
    assert settle(transport, delivery, Verdict.DEFER, eta=eta)
    assert broker.depth().waiting is None, "some wait, and nobody can say for which queue"
    found = []

    def claimed():
        found.extend(transport.turn(Turn(claim=5, run=5)).deliveries)
        return found

    wait_for(claimed, what="the message that waits", timeout_seconds=20)
    assert broker.now() >= eta
    assert (ids(found), found[0].running) == (["1"], True)
    assert broker.depth().waiting == 0


def test_dead_letters_carry_what_came_and_why(broker):
    """Whatever bytes it was, they are there unchanged, with reason, sentence and queue."""
    properties = pika.BasicProperties(
        content_type="application/x-odd", headers={"who": "me"}, type="odd", app_id="other"
    )
    line = Line(addresses(broker.url, heartbeat_seconds=0))
    line.open()
    line.publish([Parcel("", "mail", b"\x00not a task\xff", properties)], 10)
    line.close()
    transport = broker.transport()
    [delivery] = wait_for(lambda: transport.turn(Turn(claim=1)).deliveries, what="the odd message")
    assert settle(transport, delivery, Verdict.DEAD, reason="MalformedMessage", text="not a task message")
    [found] = broker.virtual_host.messages("mail.dead")
    assert found["payload"] == "AG5vdCBhIHRhc2v/"
    headers = found["properties"].pop("headers")
    assert headers["who"] == "me"
    assert (headers[REASON_HEADER], headers["x-muster-text"]) == ("MalformedMessage", "not a task message")
    assert headers["x-muster-queue"] == "mail"
    assert (found["properties"]["type"], found["properties"]["app_id"]) == ("odd", "other")


def test_dead_letters_have_a_place_with_bounds(rabbitmq):
    """Where no TaskQueue has made one, the first dead letter does."""
    broker = OnRabbitMQ(rabbitmq)
    places = {"mail": DeadLetter(name="graveyard", max_age=60, max_length=2)}
    transport = broker.transport(dead_letters=places)
    broker.publish(*(message(str(n)) for n in range(3)))
    for delivery in claim(transport, 3):
        assert settle(transport, delivery, Verdict.DEAD, reason="Rejected", text="no")
    assert rabbitmq.queue("graveyard")["arguments"] == {"x-max-length": 2, "x-message-ttl": 60_000}
    assert [peek(raw).id if raw.startswith(b"{") else raw for *_, raw in broker.dead("graveyard")] == [
        b'[["x"],{"n":1},{}]'
    ] * 2
    broker.close()


def test_a_queue_that_is_not_there_is_declared_with_its_arguments(rabbitmq):
    """Each with its own, where the application's settings have some, else with those of all others."""
    arguments = {"mail": {"x-max-priority": 5}, "web": {"x-queue-type": "quorum"}}
    transport = one_worker(
        rabbitmq.url,
        "mail",
        "web",
        queue_arguments=QueueArguments(own={"mail": arguments["mail"]}, others=arguments["web"]),
    )
    assert claim(transport) == []
    assert {name: rabbitmq.queue(name)["arguments"] for name in arguments} == arguments
    transport.close()


# -- what a task sends


def test_what_nobody_can_receive_is_an_error_to_the_task(rabbitmq):
    """Mandatory publishing: the sender is told, and the others of the same turn are sent."""
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail")
    transport = one_worker(rabbitmq.url, create_missing_queues=False)
    sendings = [
        Sending("good", [Publication("mail", message("1"))]),
        Sending("bad", [Publication("nowhere", message("2"))]),
        Sending("late", [Publication("nowhere", message("3"), 0, broker.now() + 50)]),
    ]
    unsent = transport.turn(Turn(send=sendings)).unsent
    assert set(unsent) == {"bad", "late"}
    assert "there is no queue 'nowhere'" in unsent["bad"]
    transport.turn(Turn(send=sendings[:1]))
    ready(broker, 1)
    transport.close()
    broker.close()


def test_what_amqp_cannot_carry_is_an_error_to_the_task(classic):
    """And to nobody else: the worker goes on, and the others of the same turn are sent."""
    transport = classic.transport()
    odd = [
        Sending("priority", [Publication("mail", message("1"), 300)]),
        Sending("name", [Publication("q" * 300, message("2"))]),
        Sending("number", [Publication("mail", message("3", big=2**70))]),
        Sending("good", [Publication("mail", message("4"))]),
    ]
    unsent = transport.turn(Turn(send=odd)).unsent
    assert set(unsent) == {"priority", "name", "number"}
    assert all("AMQP" in each for each in unsent.values())
    assert ids(claim(transport, 5)) == ["4"]


def test_a_channel_that_has_been_closed_is_made_anew(classic):
    """What it held has gone back, and is claimed over the next one."""
    classic.publish(message("1"))
    transport = classic.transport()
    [delivery] = claim(transport, 1)
    transport.consumer.line.channel.close()
    assert list(transport.tick(Tick(renew=[("mail", delivery.tag)])).gone) == [delivery.tag]
    assert ids(claim(transport, 5)) == ["1"]


def test_the_next_message_of_a_task_that_nobody_can_receive_is_not_lost(rabbitmq):
    """The task has run: what it has published goes to the dead letters of its queue, and it is acked."""
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail", "mail.dead")
    broker.publish(message("1"))
    transport = one_worker(rabbitmq.url, create_missing_queues=False)
    [delivery] = wait_for(lambda: transport.turn(Turn(claim=1)).deliveries, what="the message")
    assert settle(transport, delivery, Verdict.ACK, publish=[Publication("nowhere", message("2"))])
    [(reason, text, queue, _)] = broker.dead("mail.dead")
    assert (reason, queue) == ("UnroutableMessage", "mail")
    assert "'nowhere'" in text
    transport.close()
    assert broker.depth().ready == 0
    broker.close()


def test_a_full_queue_makes_a_settlement_wait(rabbitmq):
    """Neither it nor what it publishes is lost: it is said again until there is room."""
    broker = OnRabbitMQ(rabbitmq)
    broker.declare("mail")
    rabbitmq.declare("full", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    broker.publish(message("1"))
    broker.publish(message("in the way"), queue="full")
    transport = broker.transport()
    [delivery] = claim(transport, 1, run=1)
    following = [Publication("other", message("2")), Publication("full", message("3"))]
    settlement = Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.ACK, publish=following)
    for _ in range(2):
        assert list(transport.turn(Turn(settle=[settlement])).settled) == [None]
    assert len(rabbitmq.messages("full")) == 1
    assert list(transport.turn(Turn(settle=[settlement])).settled) == [True]
    assert broker.depth("other").ready == 1, "what was delivered before is not sent again"
    broker.close()


def test_a_memory_alarm_keeps_nobody_from_finishing(own_rabbitmq_server):
    """Acknowledgements go on, which is what the server needs; what has to be published waits for it."""
    server = own_rabbitmq_server
    with server.virtual_host() as virtual_host:
        broker = OnRabbitMQ(virtual_host)
        broker.declare("mail", "other")
        broker.publish(message("plain"), message("chain"))
        transport = broker.transport()
        plain, chain = claim(transport, 2, run=2)
        transport.turn(Turn(send=[Sending("before", [Publication("other", message("0"))])]))
        server.control("set_vm_memory_high_watermark", "0.0001")
        settlements = [
            Settlement(tag=plain.tag, queue="mail", verdict=Verdict.ACK),
            Settlement(
                tag=chain.tag, queue="mail", verdict=Verdict.ACK, publish=[Publication("other", message("2"))]
            ),
        ]
        sending = Sending("during", [Publication("other", message("3"))])
        hear_of_alarm(transport)
        turned = transport.turn(Turn(settle=settlements, send=[sending]))
        assert (list(turned.settled), dict(turned.unsent)) == ([True, None], {"during": ""})
        server.control("set_vm_memory_high_watermark", "0.6")

        def again():
            return transport.turn(Turn(settle=settlements[1:], send=[sending]))

        done = wait_for(
            again, until=lambda turned: turned.settled == [True], what="the server to take messages"
        )
        assert not done.unsent
        assert broker.depth("other").ready == 3
        broker.close()


def test_what_is_put_off_in_a_memory_alarm_waits_once(own_rabbitmq_server):
    """Its copy is under way when the server stops listening: neither lost with it nor sent twice."""
    server = own_rabbitmq_server
    with server.virtual_host() as virtual_host:
        broker = OnRabbitMQ(virtual_host)
        broker.declare("mail")
        broker.publish(message("1"))
        transport = broker.transport()
        [delivery] = claim(transport, 1, run=1)
        server.control("set_vm_memory_high_watermark", "0.0001")
        # nothing has told us of the alarm yet: the server speaks of it to who publishes
        settlement = Settlement(tag=delivery.tag, queue="mail", verdict=Verdict.DEFER, eta=broker.now() + 3)
        for _ in range(3):
            assert list(transport.turn(Turn(settle=[settlement])).settled) == [None]
        server.control("set_vm_memory_high_watermark", "0.6")
        wait_for(
            lambda: transport.turn(Turn(settle=[settlement])).settled == [True], what="the server to listen"
        )
        claimed = all_claimed(transport)
        assert wait_for(claimed, what="the message to come back") == ["1"]
        assert broker.depth().waiting == 0
        assert claim(transport, 5) == []
        broker.close()


def test_what_nobody_renews_is_given_back_unmarked(classic):
    """After an outage of the other connection alone: it has not begun, and nothing says that it may have."""
    classic.publish(message("kept"), message("forgotten"))
    transport = classic.transport()
    kept, _ = claim(transport, 2)
    transport.tick(Tick(renew=[(kept.queue, kept.tag)], reconcile=True))
    [again] = claim(transport, 5)
    assert (ids([again]), again.suspect) == (["forgotten"], False)
    assert settle(transport, kept, Verdict.ACK)


# -- reports, mailbox, revocations


def test_a_control_message_reaches_a_connected_worker(classic):
    """In order; a worker that is not connected is said not to be."""
    observer = classic.observer()
    one = classic.transport(worker="one")
    one.tick(Tick())
    observer.send("one", b"first")
    observer.send("one", b"second")
    found = []
    wait_for(lambda: found.extend(one.tick(Tick()).commands) or len(found) == 2, what="both messages")
    assert found == [b"first", b"second"]
    with pytest.raises(BrokerUnavailable, match="worker two is not connected"):
        observer.send("two", b"nobody")


def test_revocations_are_read_from_the_beginning_by_each_worker(classic):
    """By those that are there, those that come later, and after a lost connection only what is new."""
    observer = classic.observer()
    one, told = classic.transport(worker="one"), []

    def tell(transport):
        told.extend(transport.tick(Tick()).revoked)
        return told

    tell(one)
    observer.revoke(["first", "second"])
    wait_for(lambda: tell(one) == ["first", "second"], what="the revocations")
    lose_connection(one)
    observer.revoke(["third"])
    wait_for(lambda: tell(one) == ["first", "second", "third"], what="the third one, once")
    late = classic.transport(worker="late")
    told.clear()
    wait_for(lambda: sorted(tell(late)) == ["first", "second", "third"], what="all of them")


def test_reports_are_heard_while_somebody_listens(classic):
    """With their age, by pool; what a worker holds by queue counts into the depth."""
    observer = classic.observer()
    assert observer.reports(POOL, max_age_seconds=30) == []
    report = (
        b'{"worker":"one","pool":"shop/mail","hostname":"h","pid":1,"pool_type":"solo","queues":["mail"],'
        b'"slots":1,"busy":1,"claimed":2,"hands":{"mail":[2,1]},"extra_runs":[["mail","t","WorkerLost",3]]}'
    )
    began = time.monotonic()
    classic.transport(worker="one").tick(Tick(report=report))
    [(age, found)] = wait_for(lambda: observer.reports(POOL, max_age_seconds=30), what="the report")
    assert found == report
    assert 0 <= age <= time.monotonic() - began
    assert observer.reports("shop/other", max_age_seconds=30) == []
    depth = observer.depths(["mail"], horizon_seconds=0)["mail"]
    assert (depth.claimed, depth.running) == (2, 1)
    assert observer.extra_runs() == {("mail", "t", "WorkerLost"): 3}


def test_an_observer_knows_its_server(classic):
    """By the words of the server itself."""
    facts = classic.observer().server()
    assert facts.type == "RabbitMQ"
    assert facts.version.startswith(("3.", "4."))


def test_a_queue_is_removed_only_when_nothing_is_lost_by_it(classic):
    """Neither messages nor a consumer's work."""
    observer = classic.observer()
    classic.publish(message("1"))
    assert not observer.remove_queue("mail", "mail.dead")
    transport = classic.transport()
    [delivery] = claim(transport, 1)
    assert not observer.remove_queue("mail", "mail.dead"), "somebody consumes it"
    settle(transport, delivery, Verdict.ACK)
    transport.close()
    assert wait_for(lambda: observer.remove_queue("mail", "mail.dead"), what="the consumer to be gone")
    assert raws(claim(classic.transport(worker="new"))) == []
