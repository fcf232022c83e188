"""A claim behind the wait, on a Redis that loses its answer, or does not allow what it needs."""

import time

import pytest
import redis

from brokers import OnRedis, claim, message, raws
from lossy_proxy import LossyProxy
from muster.transports.base import Tick, Turn
from waiting import wait_for

pytestmark = pytest.mark.servers


@pytest.fixture
def broker(redis_server):
    made = OnRedis(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def user(broker):
    """A user of the server that may do everything but what it is made with. Returns its URL."""

    def make(*refused):
        broker.client.acl_setuser(
            "worker", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"],
        )  # fmt: skip
        broker.client.execute_command("ACL", "SETUSER", "worker", *(f"-{command}" for command in refused))
        return broker.url.replace("redis://", "redis://worker:secret@")

    yield make
    broker.client.acl_deluser("worker")


def test_a_claim_whose_answer_got_lost_goes_back_as_it_came(broker, redis_server):
    """The watch says so, and the tick that reconciles gives the message to others, without a loss."""
    with LossyProxy(redis_server.port) as proxy:
        far = OnRedis(proxy.url)
        transport = far.transport()
        watch = transport.watch(print)
        watch.arm(1)
        transport.tick(Tick())
        proxy.lose_answer_to(b"BLMOVE")
        watch.recall()  # the next question is the one that is not heard
        watch.arm(1)
        broker.publish(message())
        wait_for(lambda: broker.depth().running == 1, what="the claim")
        seen = wait_for(watch.look, until=lambda seen: seen.lost, what="the word of the loss")
        assert seen.deliveries == []
        watch.recall()
        transport.tick(Tick(reconcile=True))
        [delivery] = claim(broker.transport(worker="two"), run=1)
        assert delivery.raw == message()
        assert delivery.running, "it has no loss: nobody started it"
        far.close()


@pytest.mark.parametrize("refused", [["client|id"], ["client|unblock"], ["client"]])
def test_without_leave_to_recall_a_claim_none_is_made(broker, user, refused):
    """The worker is told of the message, and claims it with a turn, as ever."""
    transport = OnRedis(user(*refused)).transport()
    watch = transport.watch(print)
    watch.arm(1)
    watch.recall()  # the first attempt shows it
    watch.arm(1)
    assert watch.allowed == 0
    broker.publish(message())
    seen = wait_for(watch.look, until=lambda seen: seen.come, what="the word of the message")
    assert seen.deliveries == []
    assert raws(transport.turn(Turn(claim=1)).deliveries) == [message()]
    transport.close()


def test_without_leave_to_load_scripts_a_turn_brings_them(broker, user):
    """What the server does not know yet cannot be claimed with; the next time it can."""
    broker.client.script_flush()
    transport = OnRedis(user("script")).transport()
    watch = transport.watch(print)
    watch.arm(1)
    broker.publish(message("1"))
    assert wait_for(watch.look, until=lambda seen: seen.come, what="the word of it").deliveries == []
    assert raws(transport.turn(Turn(claim=1)).deliveries) == [message("1")]
    watch.arm(1)
    broker.publish(message("2"))
    seen = wait_for(watch.look, until=lambda seen: seen.come, what="the message itself")
    assert raws(seen.deliveries) == [message("2")]
    transport.close()


def test_a_server_that_refuses_the_wait_is_left_alone_for_a_while(broker, user):
    """However often it is looked: each attempt costs a connection, or a command at least."""
    transport = OnRedis(user("blmove")).transport()
    watch = transport.watch(print)
    watch.arm()
    wait_for(lambda: refusals(broker.client) == 1, what="the refusal")
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        watch.look()
    assert refusals(broker.client) == 1
    transport.close()


def refusals(client: redis.Redis):
    return client.info("commandstats").get("cmdstat_blmove", {}).get("rejected_calls", 0)


def test_an_ended_worker_claims_nothing(broker):
    """Its connection is gone, and with it what stood behind the wait."""
    transport = broker.transport()
    watch = transport.watch(print)
    watch.arm(1)
    watch.close()
    wait_for(
        lambda: not [one for one in broker.client.client_list() if one["cmd"] == "blmove"],
        what="the end of the connection",
    )
    broker.publish(message())
    assert (broker.depth().ready, broker.depth().running) == (1, 0)
