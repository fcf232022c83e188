"""The operator's readings of real Redis servers: what each trouble is called, and what reading costs."""

import asyncio
import base64
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from brokers import message
from muster.transports.base import Tick
from muster.transports.connect import connect_transport
from muster.wire.report import WorkerReport, encode
from muster_operator.adapters.brokers import BrokerAdapter
from muster_operator.api.objects import Source
from muster_operator.errors import ClusterUnavailable, Conflicted, NotLeading
from muster_operator.model.actions import BrokerAddress, RemoveQueue, SendDrain
from muster_operator.model.readings import Known, Unknown
from muster_operator.ports import Demand, QueueAsk

KEY = ("shop", "broker")
MAIL = Demand(queues=(QueueAsk(queue="mail", dead_letter="mail.dead"),), pools=("shop/mail",))
DRAIN = SendDrain(broker=BrokerAddress(namespace="shop", secret="broker"), pool="shop/mail", worker="uid-a")


class Secrets:
    """Secrets by (namespace, name), as the API server holds them."""

    def __init__(self, **urls):
        self.urls = urls

    async def secret(self, namespace, name):
        if name not in self.urls:
            return None
        return {"data": {"url": base64.b64encode(self.urls[name].encode()).decode()}}


def now():
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def adapter(secrets, demands, **options):
    """A broker adapter that asks for `demands`, and the keys that it said had changed."""
    changed = []
    brokers = BrokerAdapter(secrets, clock=now, changed=changed.append, **options)
    try:
        await brokers.refresh(set(demands))
        brokers.ask(demands)
        yield brokers, changed
    finally:
        brokers.close()


async def until(condition, what):
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        await asyncio.sleep(0.02)
    return found


def fact(reading):
    return reading.value if isinstance(reading, Known) else reading.reason


def test_a_queue_and_its_workers_are_read_and_changes_are_told(redis_server):
    """Depth, reports and the server's facts; a message that comes is known within two seconds."""

    async def story():
        async with adapter(Secrets(broker=redis_server.url), {KEY: MAIL}) as (brokers, changed):
            await until(lambda: "mail" in brokers.view(*KEY).queues, "a reading")
            facts = brokers.view(*KEY).facts.value
            assert (facts.type, facts.eviction_policy, facts.max_memory_bytes) == ("Redis", "noeviction", 0)
            assert brokers.view(*KEY).queues["mail"].value.ready == 0
            changed.clear()
            with redis_server.client() as client:
                client.lpush("mail", "{}", "{}")
            began = time.monotonic()
            await until(lambda: brokers.view(*KEY).queues["mail"].value.ready == 2, "the messages")
            assert time.monotonic() - began < 2
            await until(lambda: KEY in changed, "the word of it")
            transport = connect_transport(
                redis_server.url,
                queues=["mail"],
                worker="uid-a",
                pool="shop/mail",
                lease_seconds=30,
                dead_letters={},
                options={},
                results_prefix=None,
            )
            report = WorkerReport(
                worker="uid-a",
                pool="shop/mail",
                hostname="a",
                pid=1,
                pool_type="solo",
                queues=["mail"],
                slots=1,
                busy=1,
                claimed=0,
                oldest_start_age_seconds=60.0,
            )
            transport.tick(Tick(report=encode(report)))
            worker = (await until(lambda: brokers.view(*KEY).reports.get("uid-a"), "the report")).value
            assert (worker.slots, worker.busy) == (1, 1)
            assert 59 <= (now() - worker.oldest_start_at).total_seconds() <= 70
            await brokers.carry_out(DRAIN)
            assert transport.tick(Tick()).commands == [b'{"method":"drain"}']
            transport.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://app:wrong@{place}/0", "AuthFailed"),
        ("redis://127.0.0.1:1/0", "BrokerUnreachable"),
        ("redis://app:right@{place}/999", "BrokerError"),
        ("amqp://guest@127.0.0.1:1/", "BrokerUnreachable"),
        ("redis+sentinel://127.0.0.1/", "BrokerNotSupported"),
        ("https://example.org/", "SecretInvalid"),
        ("redis://[bad", "SecretInvalid"),
        ("amqp://[bad", "SecretInvalid"),
        ("", "SecretInvalid"),
    ],
)
def test_each_trouble_has_its_own_reason_and_never_a_figure(redis_server, url, reason):
    """And no password in what it says."""
    with redis_server.client() as client:
        client.acl_setuser("app", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    url = url.format(place=f"127.0.0.1:{redis_server.port}")

    async def story():
        async with adapter(Secrets(broker=url), {KEY: MAIL}) as (brokers, _):
            await until(lambda: fact(brokers.view(*KEY).facts) == reason, reason)
            view = brokers.view(*KEY)
            assert {fact(reading) for reading in view.queues.values()} <= {reason}
            for secret in ("wrong", "right"):
                assert secret not in view.facts.message

    asyncio.run(story())


@pytest.mark.soak(
    "To the operator an outage of the broker is unknown, never zero, and then over", repeat=True
)
def test_an_outage_is_unknown_since_its_first_failure_and_then_over(own_redis_server, account):
    """The moment does not move while the outage lasts; the other broker is read all the while."""
    server = own_redis_server

    async def story():
        far = ("shop", "far")
        secrets = Secrets(broker=server.url, far="redis://10.255.255.1:6379/0")
        async with adapter(secrets, {KEY: MAIL, far: MAIL}) as (brokers, _):
            await until(lambda: "mail" in brokers.view(*KEY).queues, "a reading")
            server.kill9()
            first = await until(
                lambda: isinstance(found := brokers.view(*KEY).queues["mail"], Unknown) and found,
                "the outage",
            )
            assert first.reason == "BrokerUnreachable"
            view = brokers.view(*KEY)
            await until(lambda: brokers.view(*KEY) is not view, "another failure")
            assert brokers.view(*KEY).queues["mail"].at == first.at
            server.start()
            await until(lambda: isinstance(brokers.view(*KEY).queues["mail"], Known), "the end of the outage")

    asyncio.run(story())
    account(restarts=1)


def test_a_queue_whose_key_is_something_else_keeps_no_other_from_being_read(redis_server):
    """The broker's refusal is that queue's own, in its words, since its first time."""
    demand = Demand(
        queues=tuple(QueueAsk(queue=name, dead_letter=f"{name}.dead") for name in ("bad", "mail"))
    )
    with redis_server.client() as client:
        client.set("bad", "a string")
        client.lpush("mail", "{}")

    async def story():
        async with adapter(Secrets(broker=redis_server.url), {KEY: demand}) as (brokers, _):
            view = await until(lambda: (v := brokers.view(*KEY)).queues and v, "a reading")
            assert view.queues["mail"].value.ready == 1
            bad = view.queues["bad"]
            assert (bad.reason, "WRONGTYPE" in bad.message) == ("BrokerError", True)
            await until(lambda: brokers.view(*KEY) is not view, "another reading")
            assert brokers.view(*KEY).queues["bad"].at == bad.at
            assert isinstance(brokers.view(*KEY).facts, Known)

    asyncio.run(story())


def test_what_cannot_be_understood_is_unknown_and_read_again(redis_server, caplog):
    """Somebody's scribbles in a place of ours end no poller."""
    with redis_server.client() as client:
        client.hset("muster.extra_runs", "no JSON", "1")

        async def story():
            async with adapter(Secrets(broker=redis_server.url), {KEY: MAIL}) as (brokers, _):
                await until(lambda: fact(brokers.view(*KEY).facts) == "BrokerError", "the trouble")
                client.delete("muster.extra_runs")
                await until(lambda: isinstance(brokers.view(*KEY).facts, Known), "its end")

        asyncio.run(story())
    assert "cannot be understood" in caplog.text


def test_connections_are_per_broker_whatever_the_number_of_queues(redis_server):
    """Fifty queues and pools behind ten Secrets with one URL are read over one connection."""
    names = [f"secret-{number}" for number in range(10)]
    demands = {
        ("shop", name): Demand(
            queues=tuple(QueueAsk(queue=f"{name}-{n}", dead_letter=f"{name}-{n}.dead") for n in range(5)),
            pools=tuple(f"shop/{name}-{n}" for n in range(5)),
        )
        for name in names
    }

    async def story():
        with redis_server.client() as client:
            before = len(client.client_list())
            async with adapter(Secrets(**dict.fromkeys(names, redis_server.url)), demands) as (brokers, _):
                await until(lambda: len(brokers.view("shop", names[0]).queues) == 50, "all readings")
                assert brokers.view("shop", names[0]) is brokers.view("shop", names[9])
                assert len(client.client_list()) - before <= 1

    asyncio.run(story())


def test_an_age_is_followed_and_is_no_news(redis_server):
    """A message of Celery's has waited for as long as it was seen; another queue's coming forgets nothing."""
    other = QueueAsk(queue="other", dead_letter="other.dead")
    with redis_server.client() as client:
        client.lpush("mail", "{}")
        client.lpush("other", message(published_at=int(time.time()) - 600))

    async def story():
        async with adapter(Secrets(broker=redis_server.url), {KEY: MAIL}) as (brokers, changed):

            def age(queue):
                reading = brokers.view(*KEY).queues.get(queue)
                return reading.value.oldest_age_seconds if reading else None

            await until(lambda: age("mail") == 0, "the first look")
            await until(lambda: KEY in changed, "the word of it")
            changed.clear()
            await until(lambda: age("mail") >= 2, "two seconds' wait")
            assert changed == []
            brokers.ask({KEY: replace(MAIL, queues=(*MAIL.queues, other))})
            await until(lambda: age("other") is not None, "the other queue's reading")
            assert age("mail") >= 2
            assert 600 <= age("other") < 620
            readings = brokers.view(*KEY).queues
            assert readings["mail"].value.oldest_age_source == Source.TRACKED
            assert readings["other"].value.oldest_age_source == Source.MEASURED

    asyncio.run(story())


def test_a_secret_that_is_missing_is_read_when_it_comes(redis_server):
    """And is told when it goes again."""
    secrets = Secrets()

    async def story():
        async with adapter(secrets, {KEY: MAIL}) as (brokers, _):
            assert fact(brokers.secret(*KEY)) == "SecretNotFound"
            assert fact(brokers.view(*KEY).facts) == "SecretNotFound"
            secrets.urls["broker"] = redis_server.url
            deadline = time.monotonic() + 20
            while not await brokers.refresh({KEY}):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            brokers.ask({KEY: MAIL})
            assert brokers.secret(*KEY).value.keys == {"url"}
            await until(lambda: "mail" in brokers.view(*KEY).queues, "a reading")

    asyncio.run(story())


def test_only_the_leader_writes_to_a_broker(redis_server):
    """Neither a mailbox nor a queue is touched by an operator that does not lead."""

    async def story():
        async with adapter(Secrets(broker=redis_server.url), {KEY: MAIL}, may_write=lambda: False) as (
            brokers,
            _,
        ):
            with pytest.raises(NotLeading):
                await brokers.carry_out(DRAIN)

    asyncio.run(story())
    with redis_server.client() as client:
        assert client.keys("*control*") == []


def test_a_queue_that_filled_up_meanwhile_stays(redis_server):
    """The broker itself says whether it is empty, at that moment."""
    remove = RemoveQueue(broker=DRAIN.broker, queue="mail", dead_letter="mail.dead")
    with redis_server.client() as client:
        client.lpush("mail", "{}")

        async def story():
            async with adapter(Secrets(broker=redis_server.url), {KEY: MAIL}) as (brokers, _):
                with pytest.raises(Conflicted, match="not empty"):
                    await brokers.carry_out(remove)
                assert client.llen("mail") == 1
                client.delete("mail")
                await brokers.carry_out(remove)

        asyncio.run(story())


def test_a_broker_that_is_away_refuses_no_action_for_good():
    """It is tried again, like an API server that is away."""

    async def story():
        async with adapter(Secrets(broker="redis://127.0.0.1:1/0"), {KEY: MAIL}) as (brokers, _):
            with pytest.raises(ClusterUnavailable, match="cannot be reached"):
                await brokers.carry_out(DRAIN)

    asyncio.run(story())
