"""How a worker learns of messages: one suite, run on memory, SQLite and a real Redis."""

import select
import threading
import time

import pytest

from brokers import claim, message, raws, settle
from muster.core.effects import Publication
from muster.transports.base import Tick, Verdict
from waiting import wait_for

CLAIMING = pytest.mark.parametrize(
    "broker", ["memory", pytest.param("redis", marks=pytest.mark.servers)], indirect=True
)
"""Those that can claim while they wait; beside SQLite there is no round trip to save."""


class Watched:
    """A transport's watch and what it has told; whoever waits for that looks as well."""

    def __init__(self, transport):
        self.count = 0
        self.deliveries = []
        self._notified = threading.Semaphore(0)
        self.inner = transport.watch(self._notified.release)
        self.arm, self.close = self.inner.arm, self.inner.close

    def look(self):
        self._add(self.inner.look())

    def recall(self):
        self._add(self.inner.recall())

    def _add(self, seen):
        self.count += seen.come
        self.deliveries += seen.deliveries
        assert not seen.lost

    def wait(self, count=0, deliveries=0, seconds=10):
        """Wait until it has told so often, of so many. Raises AssertionError when it does not."""
        until = time.monotonic() + seconds
        while self.count < count or len(self.deliveries) < deliveries:
            left = max(0.0, until - time.monotonic())
            if (descriptor := self.inner.fileno()) is not None:
                came = select.select([descriptor], [], [], left)[0]
            else:
                came = self._notified.acquire(timeout=left)
            assert came, f"told {self.count} times, of {len(self.deliveries)} messages"
            self.look()


def test_a_watch_tells_of_a_message_that_comes(broker):
    """Armed once, it notifies once, and takes nothing; armed again, once more."""
    transport = broker.transport()
    watch = Watched(transport)
    watch.arm()
    broker.publish(message("1"))
    watch.wait(1)
    assert raws(claim(transport)) == [message("1")]
    watch.arm()
    broker.publish(message("2"), message("3"))
    watch.wait(2)
    assert broker.depth().ready == 2
    watch.close()
    assert watch.count == 2


def test_a_watch_tells_of_a_message_that_is_there_already(broker):
    """Between an empty claim and the arming nothing can be missed."""
    broker.publish(message())
    transport = broker.transport()
    watch = Watched(transport)
    watch.arm()
    watch.wait(1)
    assert broker.depth().ready == 1
    watch.close()


def test_an_unarmed_watch_says_nothing(broker):
    """A busy worker is not disturbed: it asks when it has a slot."""
    transport = broker.transport("mail", "other")
    watch = Watched(transport)
    broker.publish(message("1"))
    watch.arm()
    watch.wait(1)
    broker.publish(message("2"))
    broker.publish(message("3"), queue="other")
    claim(transport)
    watch.close()
    assert watch.count == 1


def test_a_watch_sees_every_queue_of_its_worker(broker):
    """The queue of least preference wakes it as well."""
    transport = broker.transport("mail", "other", "third")
    watch = Watched(transport)
    for count, queue in enumerate(("third", "other", "mail"), 1):
        watch.arm()
        broker.publish(message(), queue=queue)
        watch.wait(count)
        claim(transport)
    watch.close()


def test_a_watch_sees_each_priority_that_a_tick_has_seen(broker):
    """From then on it tells of the next message of that priority at once."""
    broker.publish(message("1"), priority=6)
    transport = broker.transport()
    watch = Watched(transport)
    assert transport.tick(Tick()).ready
    assert len(claim(transport)) == 1
    watch.arm()
    broker.publish(message("2"), priority=6)
    watch.wait(1)
    watch.close()


def test_a_watch_tells_of_what_comes_back(broker):
    """A message returned by another worker wakes as one that was published."""
    broker.publish(message())
    holder, waiter = broker.transport(worker="holder"), broker.transport(worker="waiter")
    [delivery] = claim(holder)
    watch = Watched(waiter)
    watch.arm()
    assert settle(holder, delivery, Verdict.RETURN)
    watch.wait(1)
    watch.close()


def test_a_closed_watch_says_nothing(broker):
    """After `close` the loop's own objects may be gone."""
    transport = broker.transport()
    watch = Watched(transport)
    watch.arm()
    watch.close()
    broker.publish(message())
    assert raws(claim(transport)) == [message()]
    assert watch.count == 0


# -- claims behind the wait


@CLAIMING
def test_what_a_watch_may_claim_comes_with_its_word(broker):
    """It is ours and running, held by a lease, and nobody else's."""
    transport, other = broker.transport(), broker.transport(worker="other")
    watch = Watched(transport)
    watch.arm(2)
    before = broker.now()
    broker.publish(message("1"))
    watch.wait(deliveries=1)
    assert watch.count == 0, "it took less than it was allowed to: there is no more"
    assert (broker.depth().ready, broker.depth().claimed, broker.depth().running) == (0, 0, 1)
    assert claim(other) == []
    [delivery] = watch.deliveries
    assert (delivery.raw, delivery.queue, delivery.running) == (message("1"), "mail", True)
    assert transport.tick(Tick(renew=[(delivery.queue, delivery.tag)])).gone == []
    assert settle(transport, delivery, Verdict.ACK)
    assert before <= broker.now()


@CLAIMING
def test_the_time_of_such_a_claim_is_told(broker):
    """By the broker's clock, so that one which waited for us can be told from a fresh one."""
    watch = Watched(broker.transport())
    watch.arm(1)
    before = broker.now()
    broker.publish(message())
    wait_for(lambda: broker.depth().running == 1, what="the claim")
    after = broker.now()
    seen = watch.inner.recall()
    assert before <= seen.now <= after
    assert len(seen.deliveries) == 1


@CLAIMING
def test_a_watch_claims_no_more_than_it_may(broker):
    """It tells that there may be more."""
    watch = Watched(broker.transport())
    watch.arm(2)
    broker.publish(*(message(str(number)) for number in range(5)))
    watch.wait(count=1)
    assert raws(watch.deliveries) == [message("0"), message("1")]
    assert broker.depth().ready == 3


@CLAIMING
def test_it_claims_once(broker):
    """Whoever has got something says how much more there may be."""
    watch = Watched(broker.transport())
    watch.arm(3)
    broker.publish(message("1"))
    watch.wait(deliveries=1)
    broker.publish(message("2"))
    watch.look()
    assert broker.depth().ready == 1
    watch.arm(1)
    watch.wait(deliveries=2)
    assert broker.depth().ready == 0


@CLAIMING
def test_what_is_there_already_is_claimed_at_once(broker):
    """As a watch without a claim tells of it at once."""
    broker.publish(message())
    watch = Watched(broker.transport())
    watch.arm(1)
    watch.wait(count=1)
    assert raws(watch.deliveries) == [message()]


@CLAIMING
def test_what_may_have_run_is_claimed_and_not_started(broker):
    """Its start has to count the extra run."""
    broker.publish(message())
    one, two = broker.transport(), broker.transport(worker="two")
    [delivery] = claim(one, run=1)
    watch = Watched(two)
    watch.arm(1)
    assert settle(one, delivery, Verdict.LOST, reason="WorkerLost")
    watch.wait(deliveries=1)
    assert not watch.deliveries[0].running
    assert broker.depth().claimed == 1


@CLAIMING
def test_what_is_recalled_claims_nothing(broker):
    """A worker that drains leaves to others what comes from then on."""
    watch = Watched(broker.transport())
    watch.arm(2)
    assert watch.inner.allowed == 2
    watch.recall()
    assert watch.inner.allowed == 0
    broker.publish(message())
    assert (broker.depth().ready, broker.depth().running) == (1, 0)
    watch.look()
    assert (watch.count, watch.deliveries) == (0, [])


@CLAIMING
def test_a_recall_brings_what_was_claimed_before(broker):
    """However late we look, nothing is left in nobody's hands."""
    watch = Watched(broker.transport())
    watch.arm(2)
    broker.publish(message())
    wait_for(lambda: broker.depth().running == 1, what="the claim")
    watch.recall()
    assert raws(watch.deliveries) == [message()]


@CLAIMING
def test_a_recall_may_bring_a_priority_that_nobody_used_before(broker):
    """From then on there is one more list to watch."""
    watch = Watched(broker.transport())
    watch.arm(3)
    broker.publisher().publish([Publication("mail", message("low"), 6), Publication("mail", message("base"))])
    wait_for(lambda: broker.depth().running == 2, what="the claim")
    watch.recall()
    assert sorted(raws(watch.deliveries)) == sorted([message("low"), message("base")])


@CLAIMING
def test_a_recall_right_after_the_arming_is_quick(broker):
    """Two hundred of them: whichever of the two reaches the server first."""
    watch = Watched(broker.transport())
    began = time.monotonic()
    for _ in range(200):
        watch.arm(1)
        watch.recall()
    assert time.monotonic() - began < 4, "a wait lasts five seconds"


@CLAIMING
def test_what_was_reset_goes_back_when_it_is_reconciled(broker):
    """The broker seems away, so nobody is asked; what was claimed meanwhile comes back as it was."""
    transport = broker.transport()
    watch = Watched(transport)
    watch.arm(1)
    broker.publish(message())
    wait_for(lambda: broker.depth().running == 1, what="the claim")
    watch.inner.reset()
    assert watch.inner.allowed == 0
    transport.tick(Tick(reconcile=True))
    [delivery] = claim(broker.transport(worker="two"), run=1)
    assert delivery.running, "nobody has begun it"


@CLAIMING
def test_a_recalled_watch_can_be_armed_again(broker):
    """And allows what it is told then."""
    watch = Watched(broker.transport())
    watch.arm(2)
    watch.recall()
    watch.arm(1)
    broker.publish(message("1"), message("2"))
    watch.wait(count=1)
    assert raws(watch.deliveries) == [message("1")]


def test_a_recall_of_nothing_is_no_harm(broker):
    """Whoever drains need not know what it has allowed."""
    watch = Watched(broker.transport())
    watch.recall()
    watch.arm()
    watch.recall()
    assert (watch.count, watch.deliveries, watch.inner.allowed) == (0, [], 0)
    watch.close()


@CLAIMING
def test_waiting_workers_get_each_message_once(broker):
    """All wait, and as many messages come as they may claim together."""
    watches = [Watched(broker.transport(worker=name)) for name in ("one", "two", "three")]
    for watch in watches:
        watch.arm(1)
    for number in range(3):
        broker.publish(message(str(number)))

    def claimed():
        for watch in watches:
            watch.look()  # one that was woken in vain waits anew
        return [raw for watch in watches for raw in raws(watch.deliveries)]

    wait_for(lambda: len(claimed()) == 3, what="three claims")
    assert broker.depth().running == 3
    assert sorted(raw for watch in watches for raw in raws(watch.deliveries)) == [
        message(str(number)) for number in range(3)
    ]


def test_a_watch_of_several_queues_only_tells(broker):
    """What it may claim stays where it is, or is claimed: in either case it is told of."""
    transport = broker.transport("mail", "other")
    watch = Watched(transport)
    watch.arm(1)
    broker.publish(message(), queue="other")
    watch.wait(count=1)
    found = watch.deliveries or claim(transport)
    assert raws(found) == [message()]
    watch.close()
