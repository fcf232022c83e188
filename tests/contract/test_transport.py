"""What every broker must hold: one suite, run on memory, SQLite and a real Redis, and where messages are not
pushed only, on a real RabbitMQ too; what holds there besides is in `test_amqp_transport`.

Each clause of `muster.transports.base` is a fact here. Time is the broker's: memory and SQLite are given a
clock that the test moves, on Redis the test waits until the server's own clock has moved.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from brokers import POOL, claim, message, raws, settle, start
from muster.core.effects import Publication, StoredResult
from muster.core.rate import Pace, Rate, ask, read_rate
from muster.settings.environment import DeadLetter
from muster.transports.base import Sending, Settlement, Start, Tick, Turn, Verdict
from muster.wire.message import peek

LONG, SHORT = 60.0, 0.05
"""Lease lengths, in seconds: one that never ends within a test, one that is soon over."""


# -- claims


def test_what_is_published_is_claimed_once_and_in_order(any_broker):
    """Messages come out as they are, in the order they went in, each to one claimant only."""
    sent = [message(str(n)) for n in range(10)]
    any_broker.publish(*sent)
    one, two = any_broker.transport(worker="one"), any_broker.transport(worker="two")
    assert raws(claim(one, 4)) == sent[:4]
    assert raws(claim(two, 4)) == sent[4:8]
    assert raws(claim(one, 4)) == sent[8:]
    assert claim(two, 4) == []


def test_two_claims_have_different_tags(any_broker):
    """A tag names one delivery: claimed again, the same message has another."""
    any_broker.publish(message())
    transport = any_broker.transport()
    [first] = claim(transport)
    assert settle(transport, first, Verdict.RETURN)
    [second] = claim(transport)
    assert second.raw == first.raw
    assert second.tag != first.tag


def test_an_empty_turn_takes_nothing(any_broker):
    """A turn without a claim leaves the queue alone, and tells the broker's time."""
    any_broker.publish(message())
    before = any_broker.now()
    turned = any_broker.transport().turn(Turn())
    assert list(turned.deliveries) == []
    assert before <= turned.now <= any_broker.now()
    assert any_broker.depth().ready == 1


def test_a_claim_takes_only_from_its_queues(any_broker):
    """Queues that a worker does not consume are none of its business."""
    any_broker.publish(message(), queue="other")
    assert claim(any_broker.transport("mail")) == []
    [delivery] = claim(any_broker.transport("mail", "other"))
    assert delivery.queue == "other"


def test_lower_priority_numbers_are_served_first(broker):
    """As in Celery on Redis, 0 comes before 9, whatever came first."""
    for priority in (9, 3, 6, 0):
        broker.publish(message(str(priority)), priority=priority)
    assert [peek(d.raw).id for d in claim(broker.transport())] == ["0", "3", "6", "9"]


def test_queues_are_served_in_order_of_preference_within_a_priority(broker):
    """The priority decides first, then the order of the worker's queues."""
    broker.publish(message("low in mail"), queue="mail", priority=9)
    broker.publish(message("in other"), queue="other")
    broker.publish(message("in mail"), queue="mail")
    transport = broker.transport("mail", "other")
    assert [peek(d.raw).id for d in claim(transport)] == ["in mail", "in other", "low in mail"]


def test_claims_beyond_run_are_claimed_and_not_running(broker):
    """`run` messages of a claim count as running at once, the others wait for their start."""
    broker.publish(*(message(str(n)) for n in range(5)))
    deliveries = claim(broker.transport(), 5, run=2)
    assert [delivery.running for delivery in deliveries] == [True, True, False, False, False]
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running) == (0, 3, 2)


def test_a_message_is_opaque(broker):
    """What is no JSON goes through unharmed: it is the worker that judges it."""
    odd = [b"not json", b"[1, 2]", b'"text"', b"{broken", b'{"x-muster-losses":"?"}', b" ", "ü".encode()]
    broker.publish(*odd)
    transport = broker.transport()
    deliveries = claim(transport)
    assert raws(deliveries) == odd
    assert all(settle(transport, delivery, Verdict.RETURN) for delivery in deliveries)
    assert sorted(raws(claim(transport))) == sorted(odd)


def test_a_message_that_is_no_json_object_survives_a_lost_worker(broker):
    """There is no place for a loss on it; it comes back as it was, and is not damaged further."""
    odd = [b"not json", b"[1, 2]", b" ", b'"text"']
    broker.publish(*odd)
    transport = broker.transport()
    for delivery in claim(transport, run=2):
        assert settle(transport, delivery, Verdict.LOST, reason="WorkerLost")
    assert sorted(raws(claim(transport))) == sorted(odd)


# -- starts


def test_a_start_moves_a_claim_to_running_and_says_whether_it_was_ours(broker):
    """Starting is a change on the broker, confirmed by it; what was returned cannot be started."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    first, second = claim(transport)
    assert start(transport, first)
    assert (broker.depth().claimed, broker.depth().running) == (1, 1)
    assert settle(transport, second, Verdict.RETURN)
    assert not start(transport, second)
    assert broker.depth().running == 1


def test_a_start_of_what_was_lost_starts_nothing(broker):
    """A worker that slept through its lease is told before it runs anything."""
    broker.publish(message())
    slow, other = broker.transport(worker="slow", lease_seconds=SHORT), broker.transport(worker="other")
    [delivery] = claim(slow)
    broker.elapse(2 * SHORT)
    other.tick(Tick())
    assert not start(slow, delivery)
    assert (broker.depth().ready, broker.depth().running) == (1, 0)


def test_an_extra_run_is_counted_once_with_its_start(broker):
    """A start that carries an extra run raises its count by one; a start that fails raises nothing."""
    broker.publish(message())
    transport = broker.transport()
    [first] = claim(transport)
    assert settle(transport, first, Verdict.LOST, reason="WorkerLost")
    [second] = claim(transport, run=1)
    assert not second.running
    extra = '["mail","shop.send","WorkerLost"]'
    assert broker.observer().extra_runs() == {}
    assert start(transport, second, extra)
    assert broker.observer().extra_runs() == {("mail", "shop.send", "WorkerLost"): 1}
    assert start(transport, second, extra), "its answer may have been lost: it is ours to run"
    assert not start(transport, first, extra)
    assert broker.observer().extra_runs() == {("mail", "shop.send", "WorkerLost"): 1}


def test_what_may_have_run_is_handed_out_claimed(broker):
    """A message with a loss never counts as running at once: its start must count the extra run."""
    transport = broker.transport()
    broker.publish(message("lost"))
    [delivery] = claim(transport, run=1)
    settle(transport, delivery, Verdict.LOST, reason="WorkerLost")
    broker.publish(message("new"), message("newer"))
    assert [(peek(d.raw).id, d.running) for d in claim(transport, run=1)] == [
        ("lost", False),
        ("new", True),
        ("newer", False),
    ]


def test_settlements_starts_and_claims_of_one_turn_happen_in_that_order(broker):
    """What a settlement of this turn returns or publishes can be claimed by the same turn."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    first, second = claim(transport)
    turned = transport.turn(
        Turn(
            settle=[
                Settlement(
                    tag=first.tag,
                    queue="mail",
                    verdict=Verdict.ACK,
                    publish=[Publication("mail", message("3"))],
                )
            ],
            start=[Start(second.tag, "mail"), Start(first.tag, "mail")],
            claim=5,
            run=5,
        )
    )
    assert list(turned.settled) == [True]
    assert list(turned.started) == [True, False]
    assert [(peek(d.raw).id, d.running) for d in turned.deliveries] == [("3", True)]


RATE = read_rate("100/h", whose="")
"""Ten at once, then one every 36 s, the first of them a second earlier."""


def start_at_a_rate(transport, deliveries, rate=RATE, task="shop.send"):
    """Ask for all starts in one turn."""
    return transport.turn(Turn(start=[Start(d.tag, d.queue, "", task, rate) for d in deliveries]))


@pytest.mark.parametrize("run", [0, 100])
def test_what_is_over_the_rate_of_all_workers_waits_on_the_broker(broker, run):
    """The start is refused, and the message is nobody's until its time; the others run."""
    broker.publish(*(message(str(n)) for n in range(13)))
    transport = broker.transport()
    deliveries = claim(transport, run=run)
    turned = start_at_a_rate(transport, deliveries)
    assert list(turned.started) == [True] * 10 + [False] * 3
    waits = [turned.put_off[d.tag] - turned.now for d in deliveries[10:]]
    assert waits == pytest.approx([35, 71, 107], abs=1e-4)
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running, depth.waiting) == (0, 0, 10, 3)
    assert transport.tick(Tick()).next_eta == pytest.approx(turned.now + 35, abs=1e-3)
    assert not settle(transport, deliveries[-1], Verdict.ACK), "it is not ours any more"


def test_all_workers_together_keep_a_rate(any_broker):
    """Two workers that take what they get never start more than the rate in any window, and lose no time."""
    rate = read_rate("20/s", whose="")
    any_broker.publish(*(message(str(n)) for n in range(12)))
    workers = [any_broker.transport(worker=name) for name in ("one", "two")]
    begin, started = any_broker.now(), []
    while len(started) < 12:
        for worker in workers:
            worker.tick(Tick())
            deliveries = claim(worker, 4)
            turned = start_at_a_rate(worker, deliveries, rate)
            started += [turned.now] * sum(turned.started)
        assert any_broker.now() < begin + 30
        any_broker.elapse(0.01)
    for first in range(12):
        for last in range(first, 12):
            most = 1 + (started[last] - started[first] + rate.tolerance_seconds) / rate.interval_seconds
            assert last - first + 1 <= most + 1e-3


def test_a_rate_is_counted_as_the_decision_says(any_broker):
    """Every broker computes what `core.rate` computes, start by start, and remembers it between turns."""
    transport, pace = any_broker.transport(), Pace()
    for texts in (["1/m", "60/m", "7/s"], ["7/s", "7/s"], ["60/m"]):
        rates = [read_rate(text, whose="") for text in texts]
        any_broker.publish(*(message(str(n)) for n in range(len(rates))))
        deliveries = claim(transport)
        starts = [Start(d.tag, d.queue, "", "t", r) for d, r in zip(deliveries, rates, strict=True)]
        turned = transport.turn(Turn(start=starts))
        for delivery, rate in zip(deliveries, rates, strict=True):
            pace, until = ask(rate, pace, turned.now)
            assert turned.put_off.get(delivery.tag, 0.0) == pytest.approx(until, abs=1e-4)


def test_rates_of_two_tasks_are_two(any_broker):
    """One that is used up holds nobody else up, nor does a start without a rate."""
    any_broker.publish(*(message(str(n)) for n in range(4)))
    transport = any_broker.transport()
    first, second, third, fourth = claim(transport)
    rate = read_rate("1/h", whose="")
    assert list(start_at_a_rate(transport, [first, second], rate, "one").started) == [True, False]
    assert list(start_at_a_rate(transport, [third], rate, "two").started) == [True]
    assert start(transport, fourth)


def test_a_start_at_a_rate_that_is_not_ours_uses_nothing_up(any_broker):
    """What was settled or lost takes no other message's turn."""
    any_broker.publish(message("1"), message("2"))
    transport = any_broker.transport()
    first, second = claim(transport)
    assert settle(transport, first, Verdict.ACK)
    rate = read_rate("1/h", whose="")
    assert list(start_at_a_rate(transport, [first, second], rate).started) == [False, True]


def test_what_is_put_off_comes_back_as_it_was_and_counts_its_extra_run_then(broker):
    """An extra run is counted by the start that happens."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    rate = Rate(0.3, 0.0)
    held = claim(transport)
    for delivery in held:
        assert settle(transport, delivery, Verdict.LOST, reason="WorkerLost")
    extra = '["mail","shop.send","WorkerLost"]'
    starts = [Start(d.tag, d.queue, extra, "t", rate) for d in claim(transport)]
    assert list(transport.turn(Turn(start=starts)).started) == [True, False]
    assert sum(broker.observer().extra_runs().values()) == 1
    broker.elapse(0.4)
    transport.tick(Tick())
    [again] = claim(transport)
    assert peek(again.raw).losses == 1
    assert list(transport.turn(Turn(start=[Start(again.tag, again.queue, extra, "t", rate)])).started) == [
        True
    ]
    assert sum(broker.observer().extra_runs().values()) == 2


# -- settlements


@pytest.mark.parametrize("running", [False, True])
def test_an_acked_message_is_gone(any_broker, running):
    """ACK ends a message's life, whether it was claimed or running."""
    any_broker.publish(message())
    transport = any_broker.transport()
    [delivery] = claim(transport, run=int(running))
    assert settle(transport, delivery, Verdict.ACK)
    depth = any_broker.depth()
    assert (depth.ready, depth.claimed, depth.running, depth.waiting, depth.dead) == (0, 0, 0, 0, 0)


def test_a_returned_message_is_served_next_as_it_came(broker):
    """RETURN: nothing has happened to it, so nothing is noted on it."""
    broker.publish(message("1"), message("2"), message("3"))
    transport = broker.transport()
    first, _ = claim(transport, 2)
    assert settle(transport, first, Verdict.RETURN)
    assert raws(claim(transport)) == [message("1"), message("3")]


def test_a_returned_message_keeps_its_priority(broker):
    """It goes back to where it came from, not before what is more urgent."""
    broker.publish(message("low"), priority=9)
    transport = broker.transport()
    [low] = claim(transport)
    broker.publish(message("high"))
    assert settle(transport, low, Verdict.RETURN)
    broker.publish(message("low too"), priority=9)
    assert [peek(d.raw).id for d in claim(transport)] == ["high", "low", "low too"]


def test_a_lost_message_is_served_next_with_the_loss_noted(broker):
    """LOST: one loss more, with its cause, readable by `peek`; the rest of the message is untouched."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    [first] = claim(transport, 1, run=1)
    assert settle(transport, first, Verdict.LOST, reason="WorkerLost")
    [again] = claim(transport, 1)
    seen = peek(again.raw)
    assert (seen.id, seen.losses, seen.cause) == ("1", 1, "WorkerLost")
    assert again.raw.endswith(message("1")[1:])


def test_losses_add_up(any_broker):
    """Each lost worker is one more, and the last cause stands."""
    any_broker.publish(message())
    transport = any_broker.transport()
    for losses, cause in enumerate(("WorkerLost", "TimeLimit", "LeaseExpired"), 1):
        [delivery] = claim(transport)
        assert start(transport, delivery)
        assert settle(transport, delivery, Verdict.LOST, reason=cause)
        [delivery] = claim(transport)
        assert (peek(delivery.raw).losses, peek(delivery.raw).cause) == (losses, cause)
        assert settle(transport, delivery, Verdict.RETURN)


def test_losses_add_up_on_what_a_celery_worker_has_written_again(broker):
    """kombu keeps our fields and puts blanks between: the count goes on, and the extra run is seen."""
    transport = broker.transport()
    broker.publish(b'{"x-muster-losses": 2, "x-muster-cause": "WorkerLost", ' + message()[1:])
    [delivery] = claim(transport, run=1)
    assert not delivery.running
    assert settle(transport, delivery, Verdict.LOST, reason="LeaseExpired")
    [delivery] = claim(transport)
    assert (peek(delivery.raw).losses, peek(delivery.raw).cause) == (3, "LeaseExpired")


@pytest.mark.parametrize("places", [{}, {"mail": DeadLetter(name="graveyard")}])
def test_a_dead_message_goes_to_the_dead_letter_place_with_its_reason(broker, places):
    """DEAD: the message stays as it is, with the reason and a sentence, in the place of its queue."""
    broker.publish(b"not json")
    transport = broker.transport(dead_letters=places)
    [delivery] = claim(transport)
    assert settle(transport, delivery, Verdict.DEAD, reason="MalformedMessage", text="not a task message")
    place = places["mail"].name if places else "mail.dead"
    assert broker.dead(place) == [("MalformedMessage", "not a task message", "mail", b"not json")]
    assert claim(transport) == []
    if not places:
        assert broker.depth().dead == 1


def bury(transport, *ids):
    deliveries = claim(transport)
    settle_all = [
        Settlement(tag=each.tag, queue=each.queue, verdict=Verdict.DEAD, reason="Rejected")
        for each in deliveries
    ]
    assert all(transport.turn(Turn(settle=settle_all)).settled)
    assert [peek(each.raw).id for each in deliveries] == list(ids)


def test_no_more_dead_letters_are_kept_than_the_queue_says(broker):
    """Beyond a place's `max_length` the oldest are removed, within a turn and from one turn to the next."""
    transport = broker.transport(dead_letters={"mail": DeadLetter(name="mail.dead", max_length=2)})
    for ids in (("1",), ("2", "3", "4", "5"), ("6",)):
        broker.publish(*(message(each) for each in ids))
        bury(transport, *ids)
        assert broker.depth().dead <= 2
    assert [peek(raw).id for _, _, _, raw in broker.dead("mail.dead")] == ["5", "6"]


def test_dead_letters_are_kept_no_longer_than_the_queue_says(broker):
    """Those older than `max_age` are removed when another joins them, and by a worker's housekeeping."""
    places = {"mail": DeadLetter(name="mail.dead", max_age=SHORT)}
    transport = broker.transport(dead_letters=places)
    for each in ("1", "2"):
        broker.publish(message(each))
        bury(transport, each)
        broker.elapse(2 * SHORT)
    assert [peek(raw).id for _, _, _, raw in broker.dead("mail.dead")] == ["2"]
    broker.transport(worker="two", dead_letters=places).tick(Tick())
    assert broker.depth().dead == 0


def test_a_turn_stores_what_it_carries_of_tasks_that_go_on(broker):
    """Without a settlement, and before the results of those that it settles."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    _, second = claim(transport)
    begun = [
        StoredResult(each, b'{"status":"STARTED","task_id":"%b"}' % each.encode(), "STARTED", 0, 60)
        for each in ("1", "2")
    ]
    done = StoredResult("2", b'{"status":"SUCCESS","task_id":"2"}', "SUCCESS", 0, 60)
    settlement = Settlement(tag=second.tag, queue="mail", verdict=Verdict.ACK, result=done)
    assert transport.turn(Turn(store=begun, settle=[settlement])).settled == [True]
    assert broker.result("1") == begun[0].document
    assert broker.result("2") == done.document
    assert broker.depth().claimed == 1


def test_a_requeued_message_is_served_after_the_others(any_broker):
    """REQUEUE: as it came, behind what waits."""
    any_broker.publish(message("1"), message("2"))
    transport = any_broker.transport()
    [first] = claim(transport, 1, run=1)
    assert settle(transport, first, Verdict.REQUEUE)
    assert raws(claim(transport)) == [message("2"), message("1")]


def test_a_deferred_message_waits_on_the_broker_until_it_is_due(broker):
    """DEFER: nobody holds it and no lease ends; when its time has come a tick puts it back as it was."""
    broker.publish(message())
    transport = broker.transport()
    [delivery] = claim(transport)
    eta = broker.now() + 0.5
    assert settle(transport, delivery, Verdict.DEFER, eta=eta)
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running, depth.waiting) == (0, 0, 0, 1)
    assert transport.tick(Tick()).next_eta == pytest.approx(eta, abs=1e-4)
    assert claim(transport) == []
    broker.elapse(0.6)
    assert transport.tick(Tick()).next_eta is None
    assert raws(claim(transport)) == [message()]


def test_what_a_settlement_publishes_is_there_when_it_is_confirmed(any_broker):
    """The next message of a chain goes into its queue together with the verdict."""
    any_broker.publish(message())
    transport = any_broker.transport()
    [delivery] = claim(transport)
    following = [Publication("mail", message("2")), Publication("other", message("3"))]
    assert settle(transport, delivery, Verdict.ACK, publish=following)
    assert raws(claim(transport)) == [message("2")]
    assert any_broker.depth("other").ready == 1


def test_a_settlement_publishes_before_its_verdict(any_broker):
    """A retry that is published while the old message goes behind it keeps that order."""
    any_broker.publish(message("1"))
    transport = any_broker.transport()
    [delivery] = claim(transport)
    assert settle(transport, delivery, Verdict.REQUEUE, publish=[Publication("mail", message("2"))])
    assert raws(claim(transport)) == [message("2"), message("1")]


def test_a_result_is_stored_with_its_settlement(broker):
    """Result and verdict are one step, so no crash falls between them."""
    broker.publish(message())
    transport = broker.transport()
    [delivery] = claim(transport)
    document = b'{"status":"SUCCESS","result":1,"task_id":"1"}'
    assert settle(transport, delivery, Verdict.ACK, result=StoredResult("1", document, "SUCCESS", 0, 3600))
    assert broker.result("1") == document


def test_a_settlement_whose_lease_is_gone_publishes_nothing_but_offers_its_result(broker):
    """Somebody else has the message now and will publish; but work that was done is not thrown away."""
    broker.publish(message())
    slow, other = broker.transport(worker="slow", lease_seconds=SHORT), broker.transport(worker="other")
    [delivery] = claim(slow, run=1)
    broker.elapse(2 * SHORT)
    other.tick(Tick())
    document = b'{"status":"SUCCESS","result":1,"task_id":"1"}'
    for verdict in set(Verdict) - {Verdict.ACKED}:
        assert not settle(
            slow,
            delivery,
            verdict,
            eta=broker.now() + 9,
            publish=[Publication("mail", message("2"))],
            result=StoredResult("1", document, "SUCCESS", 0, 3600),
        )
    assert broker.result("1") == document
    depth = broker.depth()
    assert (depth.ready, depth.waiting, depth.dead) == (1, 0, 0)
    assert [peek(d.raw).losses for d in claim(other)] == [1]


def test_a_settlement_counts_once(any_broker):
    """Said twice, because an answer was lost, it says False and does nothing the second time."""
    any_broker.publish(message())
    transport = any_broker.transport()
    [delivery] = claim(transport)
    following = [Publication("other", message("2"))]
    assert settle(transport, delivery, Verdict.ACK, publish=following)
    assert not settle(transport, delivery, Verdict.ACK, publish=following)
    assert any_broker.depth("other").ready == 1


@pytest.mark.parametrize("running", [False, True])
def test_an_early_ack_is_answered_as_at_first_however_often_it_is_said(broker, running):
    """ACK_EARLY: the message is nobody's any more, so the worker whose answer got lost must hear "ours"."""
    broker.publish(message("1"), message("2"))
    transport = broker.transport()
    first, second = claim(transport, run=2 * running)
    assert settle(transport, first, Verdict.ACK_EARLY)
    depth = broker.depth()
    assert (depth.ready, depth.claimed + depth.running, depth.waiting, depth.dead) == (0, 1, 0, 0)
    transport.tick(Tick(renew=[(d.queue, d.tag) for d in (first, second)], reconcile=True))
    transport.turn(Turn(claim=1))
    both = [Settlement(tag=d.tag, queue=d.queue, verdict=Verdict.ACK_EARLY) for d in (first, second)]
    sending = Sending("beside", [Publication("other", message("3"))])
    for _ in range(3):
        assert list(transport.turn(Turn(settle=both, send=[sending])).settled) == [True, True]
    assert claim(transport) == []
    assert broker.depth("other").ready == 1
    assert not start(transport, first)
    assert not settle(transport, first, Verdict.RETURN)


def test_an_early_ack_of_what_was_lost_starts_nothing(broker):
    """Who has the message now will run it: the answer is no, and stays no when it is asked for again."""
    broker.publish(message())
    slow, other = broker.transport(worker="slow", lease_seconds=SHORT), broker.transport(worker="other")
    [delivery] = claim(slow)
    broker.elapse(2 * SHORT)
    other.tick(Tick())
    for _ in range(3):
        assert not settle(slow, delivery, Verdict.ACK_EARLY)
    [theirs] = claim(other)
    assert settle(other, theirs, Verdict.ACK_EARLY)
    assert not settle(slow, delivery, Verdict.ACK_EARLY)
    assert not settle(slow, theirs, Verdict.ACK_EARLY), "what another worker said is not what this one said"


def test_what_a_run_publishes_goes_out_beside_its_early_ack(any_broker):
    """That the ack was said is remembered apart: the publications of the same message are new."""
    any_broker.publish(message("1"))
    transport = any_broker.transport()
    [delivery] = claim(transport, run=1)
    assert settle(transport, delivery, Verdict.ACK_EARLY)
    for _ in range(2):
        assert settle(transport, delivery, Verdict.ACKED, publish=[Publication("mail", message("2"))])
    assert raws(claim(transport)) == [message("2")]


def test_after_an_early_ack_results_and_publications_are_carried_out(broker):
    """ACKED: the message has gone already; what else the run brought is not lost, and not doubled."""
    broker.publish(message("1"))
    transport = broker.transport()
    [delivery] = claim(transport, run=1)
    assert settle(transport, delivery, Verdict.ACK_EARLY)
    document = b'{"status":"SUCCESS","result":1,"task_id":"1"}'
    for _ in range(3):  # the answers may have got lost
        assert settle(
            transport,
            delivery,
            Verdict.ACKED,
            publish=[Publication("mail", message("2"))],
            result=StoredResult("1", document, "SUCCESS", 0, 3600),
        )
    assert broker.result("1") == document
    assert raws(claim(transport)) == [message("2")]


def test_what_a_task_asks_to_publish_is_sent_once(broker):
    """A sending that is said again, because its answer got lost, is done once; another one is another."""
    broker.transport("later").tick(Tick())
    transport, other = broker.transport(worker="one"), broker.transport(worker="two")
    first = Sending("first", [Publication("mail", message("1")), Publication("mail", message("2"))])
    second = Sending("second", [Publication("later", message("3"), 0, broker.now() + 500)])
    transport.turn(Turn(send=[first]))
    other.turn(Turn(send=[Sending("theirs", [Publication("mail", message("4"))])]))
    transport.turn(Turn(send=[first, second]))
    transport.turn(Turn())
    transport.turn(Turn(send=[first, second]))
    assert raws(claim(transport)) == [message("1"), message("2"), message("4")]
    assert broker.depth("later").waiting == 1
    transport.turn(Turn(send=[Sending("third", first.publications)]))
    assert raws(claim(transport)) == [message("1"), message("2")]


def test_a_turn_sends_before_it_claims(broker):
    """So an idle worker starts at once what its own tasks have sent."""
    turned = broker.transport().turn(Turn(send=[Sending("1", [Publication("mail", message())])], claim=1))
    assert raws(turned.deliveries) == [message()]


def test_a_tag_that_never_was_is_not_ours(any_broker):
    """Nothing can be settled, started or renewed by guessing."""
    any_broker.publish(message())
    transport = any_broker.transport()
    for tag in ("", "nonsense", "1", "1.1", "muster:0:one:999999", "-1.0", "ü"):
        turned = transport.turn(
            Turn(settle=[Settlement(tag=tag, queue="mail", verdict=Verdict.ACK)], start=[Start(tag, "mail")])
        )
        assert (list(turned.settled), list(turned.started)) == ([False], [False])
        assert list(transport.tick(Tick(renew=[("mail", tag)])).gone) == [tag]
    assert any_broker.depth().ready == 1


# -- leases


def test_any_workers_tick_ends_expired_leases(broker):
    """Claimed messages come back as they were, running ones with a loss; their old tags are worth nothing."""
    broker.publish(message("1"), message("2"))
    lost, other = broker.transport(worker="lost", lease_seconds=SHORT), broker.transport(worker="other")
    held = claim(lost, run=1)
    broker.elapse(2 * SHORT)
    assert broker.depth().expired == 2
    other.tick(Tick())
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running, depth.expired) == (2, 0, 0, 0)
    found = {peek(d.raw).id: peek(d.raw) for d in claim(other)}
    assert (found["1"].losses, found["1"].cause) == (1, "LeaseExpired")
    assert (found["2"].losses, found["2"].cause) == (0, "")
    assert not any(settle(lost, delivery, Verdict.ACK) for delivery in held)
    assert broker.depth().claimed == 2


def test_a_tick_that_spares_ends_no_lease(broker):
    """After an outage the holders come back one by one; whoever does still has what it held."""
    broker.publish(message("1"), message("2"))
    holder, other = broker.transport(worker="holder", lease_seconds=SHORT), broker.transport(worker="other")
    held = claim(holder, run=1)
    broker.elapse(2 * SHORT)
    other.tick(Tick(spare=True))
    assert broker.depth().expired == 2
    assert not holder.tick(Tick(spare=True, renew=[(each.queue, each.tag) for each in held])).gone
    assert (broker.depth().claimed, broker.depth().running, broker.depth().expired) == (1, 1, 0)


def test_a_start_begins_a_new_lease(broker):
    """A message that waited long for its start is not lost right after it."""
    broker.publish(message())
    short, long = broker.transport(lease_seconds=SHORT), broker.transport(lease_seconds=LONG)
    [delivery] = claim(short)
    broker.elapse(2 * SHORT)
    assert start(long, delivery)
    broker.transport(worker="other").tick(Tick())
    assert (broker.depth().running, broker.depth().expired) == (1, 0)


def test_a_renewed_lease_holds(broker):
    """Until somebody has ended it a lease can be renewed, even when it is over; then it stays ours."""
    broker.publish(message("1"), message("2"))
    short, long = broker.transport(lease_seconds=SHORT), broker.transport(lease_seconds=LONG)
    held = claim(short, run=1)
    broker.elapse(2 * SHORT)
    assert list(long.tick(Tick(renew=[(d.queue, d.tag) for d in held])).gone) == []
    broker.transport(worker="other").tick(Tick())
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running, depth.expired) == (0, 1, 1, 0)
    assert all(settle(short, delivery, Verdict.ACK) for delivery in held)


def test_a_tick_names_the_tags_that_were_lost(broker):
    """`gone` is how a worker learns that somebody else has what it holds."""
    broker.publish(message("1"), message("2"))
    short = broker.transport(worker="short", lease_seconds=SHORT)
    lost, settled = claim(short)
    assert settle(short, settled, Verdict.ACK)
    broker.elapse(2 * SHORT)
    broker.transport(worker="other").tick(Tick())
    gone = short.tick(Tick(renew=[("mail", lost.tag), ("mail", settled.tag)])).gone
    assert set(gone) == {lost.tag, settled.tag}


def test_a_lease_that_is_not_over_is_left_alone(broker):
    """A tick ends no lease of a living worker."""
    broker.publish(message())
    one, two = broker.transport(worker="one"), broker.transport(worker="two")
    [delivery] = claim(one)
    two.tick(Tick())
    assert settle(one, delivery, Verdict.ACK)


def test_closing_gives_nothing_back_at_once(broker):
    """What a closed worker held comes back when its lease ends, not before."""
    broker.publish(message())
    transport = broker.transport(worker="closed", lease_seconds=SHORT)
    claim(transport)
    transport.close()
    assert broker.depth().claimed == 1
    broker.elapse(2 * SHORT)
    other = broker.transport(worker="other")
    other.tick(Tick())
    assert raws(claim(other)) == [message()]


def test_reconciling_gives_back_what_was_claimed_in_an_answer_that_got_lost(broker):
    """Nobody has those messages in hand, so they come back as they were; what is renewed stays."""
    broker.publish(*(message(str(n)) for n in range(5)))
    one, two = broker.transport(worker="one"), broker.transport(worker="two")
    [kept] = claim(one, 1, run=1)
    claim(one, 2, run=1)  # the answer that got lost
    [foreign] = claim(two, 1)
    ticked = one.tick(Tick(renew=[(kept.queue, kept.tag)], reconcile=True))
    assert list(ticked.gone) == []
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running) == (3, 1, 1)
    found = claim(one)
    assert {peek(d.raw).id for d in found} == {"1", "2", "4"}
    assert {peek(d.raw).losses for d in found} == {0}
    assert settle(one, kept, Verdict.ACK)
    assert settle(two, foreign, Verdict.ACK)


def test_a_worker_that_comes_again_under_its_name_begins_anew(broker):
    """A restarted container has the name of the one before, and neither takes the other's messages."""
    broker.publish(*(message(str(n)) for n in range(4)))
    before, after = broker.transport(worker="one", lease_seconds=1.0), broker.transport(worker="one")
    earlier, later = claim(before, 2, run=1), claim(after, 2, run=1)
    assert len({delivery.tag for delivery in earlier + later}) == 4
    after.tick(Tick(renew=[(d.queue, d.tag) for d in later], reconcile=True))
    depth = broker.depth()
    assert (depth.ready, depth.claimed, depth.running) == (0, 2, 2)
    assert all(settle(after, delivery, Verdict.ACK) for delivery in later)
    broker.elapse(1.1)
    after.tick(Tick())
    assert {(peek(d.raw).id, peek(d.raw).losses) for d in claim(after)} == {("0", 1), ("1", 0)}


# -- waiting for a time


def test_a_publication_with_an_eta_waits_on_the_broker(broker):
    """It can be claimed by nobody until it is due; the tick that finds it due puts it into its queue."""
    transport = broker.transport()
    transport.tick(Tick())
    eta = broker.now() + 0.5
    broker.publish(message("later"), eta=eta)
    broker.publish(message("now"))
    assert raws(claim(transport)) == [message("now")]
    ticked = transport.tick(Tick())
    assert ticked.next_eta == pytest.approx(eta, abs=1e-4)
    broker.elapse(0.6)
    transport.tick(Tick())
    assert raws(claim(transport)) == [message("later")]


def test_a_message_due_again_keeps_its_priority(broker):
    """Waiting does not make a message more urgent."""
    transport = broker.transport()
    transport.tick(Tick())
    broker.publish(message("low"), priority=9, eta=broker.now() + 0.2)
    broker.elapse(0.3)
    broker.publish(message("high"))
    transport.tick(Tick())
    assert [peek(d.raw).id for d in claim(transport)] == ["high", "low"]


def test_the_next_eta_is_the_earliest_of_our_queues(broker):
    """So a worker can sleep until then, and queues that are not its own do not wake it."""
    transport = broker.transport("mail", "other")
    transport.tick(Tick())
    broker.transport("foreign").tick(Tick())
    now = broker.now()
    assert transport.tick(Tick()).next_eta is None
    for queue, seconds in (("mail", 70), ("other", 50), ("foreign", 30)):
        broker.publish(message(), queue=queue, eta=now + seconds)
    assert transport.tick(Tick()).next_eta == pytest.approx(now + 50, abs=1e-4)


def test_a_settlement_can_publish_with_an_eta(broker):
    """A retry with a countdown is published to wait, in the step that acks the failed run."""
    broker.publish(message("1"))
    transport = broker.transport()
    transport.tick(Tick())
    [delivery] = claim(transport)
    again = Publication("mail", message("again"), eta=broker.now() + 0.3)
    assert settle(transport, delivery, Verdict.ACK, publish=[again])
    assert (broker.depth().ready, broker.depth().waiting) == (0, 1)
    broker.elapse(0.4)
    transport.tick(Tick())
    assert raws(claim(transport)) == [message("again")]


def test_a_loss_stays_noted_while_a_message_waits(broker):
    """What is known of a message is on the message, wherever it is."""
    broker.publish(message())
    transport = broker.transport()
    [delivery] = claim(transport)
    assert settle(transport, delivery, Verdict.LOST, reason="WorkerLost")
    [delivery] = claim(transport)
    assert settle(transport, delivery, Verdict.DEFER, eta=broker.now() + 0.1)
    broker.elapse(0.2)
    transport.tick(Tick())
    assert [peek(d.raw).losses for d in claim(transport)] == [1]


# -- reports, mailbox, revocations


def test_revocations_are_told_by_time(broker):
    """A tick returns the ids revoked after the time that the worker knows of."""
    transport = broker.transport()
    observer = broker.observer()
    observer.revoke(["first"])
    ticked = transport.tick(Tick())
    assert list(ticked.revoked) == ["first"]
    broker.elapse(0.01)
    observer.revoke(["second"])
    assert list(transport.tick(Tick(revoked_after=ticked.now)).revoked) == ["second"]
    assert sorted(broker.transport(worker="new").tick(Tick()).revoked) == ["first", "second"]


def test_control_messages_reach_their_worker_once_and_in_order(broker):
    """A mailbox is read by one worker and empty afterwards."""
    observer = broker.observer()
    observer.send("one", b"first")
    observer.send("one", b"second")
    observer.send("two", b"other")
    one = broker.transport(worker="one")
    assert list(one.tick(Tick()).commands) == [b"first", b"second"]
    assert list(one.tick(Tick()).commands) == []
    assert list(broker.transport(worker="two").tick(Tick()).commands) == [b"other"]


def test_reports_are_read_with_their_age(broker):
    """A worker's last report stands until it is too old to be asked for; a tick without one changes none."""
    one, two = broker.transport(worker="one"), broker.transport(worker="two")
    one.tick(Tick(report=b'{"n":0}'))
    one.tick(Tick(report=b'{"n":1}'))
    broker.elapse(0.3)
    two.tick(Tick(report=b'{"n":2}'))
    one.tick(Tick())
    observer = broker.observer()
    found = {report: age for age, report in observer.reports(POOL, max_age_seconds=30)}
    assert set(found) == {b'{"n":1}', b'{"n":2}'}
    assert found[b'{"n":2}'] < found[b'{"n":1}']
    assert 0.29 <= found[b'{"n":1}'] < 30
    assert [report for _, report in observer.reports(POOL, max_age_seconds=found[b'{"n":2}'] + 0.2)] in (
        [b'{"n":2}'],
        [],  # the broker's clock went on by 0.2 s between the two calls
    )
    assert observer.reports("shop/other", max_age_seconds=30) == []


# -- many at once


def test_a_publisher_serves_many_threads(any_broker):
    """Threads of a web server share one publisher; each message arrives once."""
    publisher = any_broker.publisher()

    def send(thread):
        for number in range(25):
            publisher.publish([Publication("mail", message(f"{thread}-{number}"))])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))
    found = [peek(d.raw).id for d in claim(any_broker.transport(), 1000)]
    assert sorted(found) == sorted(f"{thread}-{number}" for thread in range(8) for number in range(25))


def test_publications_of_one_call_may_go_to_many_queues_and_times(broker):
    """One call, one confirmation, whatever its messages ask for."""
    broker.transport("mail", "other").tick(Tick())
    broker.publisher().publish(
        [
            Publication("mail", message("1"), 9),
            Publication("other", message("2")),
            Publication("mail", message("3"), 0, broker.now() + 500),
            Publication("mail", message("4")),
        ]
    )
    broker.publisher().publish([])
    assert [peek(d.raw).id for d in claim(broker.transport("mail", "other"))] == ["4", "2", "1"]
    assert broker.depth().waiting == 1


def test_racing_workers_share_the_messages(any_broker):
    """Claims are atomic: together they get every message once."""
    sent = {f"{n}" for n in range(400)}
    any_broker.publish(*(message(n) for n in sent))

    def work(name):
        transport = any_broker.transport(worker=name)
        found = []
        while deliveries := claim(transport, 7, run=3):
            found += [peek(d.raw).id for d in deliveries]
            settlements = [Settlement(tag=d.tag, queue=d.queue, verdict=Verdict.ACK) for d in deliveries]
            assert all(transport.turn(Turn(settle=settlements)).settled)
        return found

    with ThreadPoolExecutor(4) as threads:
        found = [one for part in threads.map(work, "abcd") for one in part]
    assert len(found) == 400
    assert set(found) == sent
    assert any_broker.depth().running == 0
