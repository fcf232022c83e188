"""One Secret that cannot be used is said to be so, and all others are served."""

import asyncio
import base64
import contextlib
import itertools
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from muster_operator.adapters import brokers as module
from muster_operator.adapters.brokers import BrokerAdapter
from muster_operator.api.conditions import Reason
from muster_operator.model.readings import Known, Unknown
from muster_operator.ports import Demand, QueueAsk

BAD = ("shop", "bad")
GOOD = ("office", "broker")
DEMANDS = dict.fromkeys((BAD, GOOD), Demand(queues=(QueueAsk(queue="mail", dead_letter="mail.dead"),)))
NOBODY = "127.0.0.1:1"


class Secrets:
    """Secrets by (namespace, name), as the API server holds them; what is an error is raised."""

    def __init__(self, bad):
        self.held = {BAD: bad, GOOD: {"url": f"amqp://me:word@{NOBODY}/good"}}

    async def secret(self, namespace, name):
        data = self.held[namespace, name]
        if isinstance(data, Exception):
            raise data
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


@contextlib.asynccontextmanager
async def adapter(secrets, clock=lambda: datetime.now(UTC), **options):
    brokers = BrokerAdapter(secrets, clock=clock, changed=lambda _key: None, **options)
    try:
        yield brokers
    finally:
        brokers.close()


def is_read(brokers, key):
    """Whether somebody looks at the Secret's broker; here none answers."""
    return "/".join(key) in brokers.views()


@pytest.mark.parametrize("in_cluster", [False, True])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"url": f"amqps://me:word@{NOBODY}/", "ca.crt": "no PEM"}, "its ca.crt is no file of certificates"),
        (
            {"url": f"amqp://{NOBODY}; amqps://me:word@{NOBODY}/", "ca.crt": "no PEM"},
            "its ca.crt is no file of certificates",
        ),
        ({"url": f"rediss://:word@{NOBODY}/0", "ca.crt": "no PEM"}, "its ca.crt is no file of certificates"),
        ({"url": f"amqp://me:word@{NOBODY}/?heartbeat=abc"}, "the broker URL cannot be used: .*'abc'"),
        (
            {"url": f"amqps://me:word@{NOBODY}/?certfile=/none"},
            "the broker URL cannot be used: .*No such file",
        ),
        (
            {"url": f"amqps://me:word@{NOBODY}/?cacertfile=/none"},
            "the broker URL cannot be used: .*No such file",
        ),
    ],
)
def test_a_url_that_cannot_be_used(data, words, in_cluster):
    """Its Secret is invalid, with the reason in words; the one beside it is read."""

    async def story():
        async with adapter(Secrets(data), in_cluster=in_cluster) as brokers:
            assert await brokers.refresh({BAD, GOOD}) == {BAD, GOOD}
            brokers.ask(DEMANDS)
            view = brokers.secret(*BAD)
            assert isinstance(view, Unknown)
            assert view.reason == Reason.SECRET_INVALID
            assert re.search(words, view.message)
            assert "word" not in view.message
            assert brokers.view(*BAD).facts == view
            assert not is_read(brokers, BAD)
            assert is_read(brokers, GOOD)

    asyncio.run(story())


@pytest.mark.parametrize("in_cluster", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"managementUrl": "https://rabbit:15671", "ca.crt": "no PEM"},
        {"managementUrl": "http://[rabbit]:15672"},
        {"managementUrl": "http://rabbit:many"},
        {"ca.crt": "no PEM"},
    ],
)
def test_a_management_api_that_cannot_be_asked_leaves_amqp_alone(more, in_cluster):
    """The Secret is as good as without it: see `test_management.py` for what is said of it."""

    async def story():
        async with adapter(Secrets({"url": f"amqp://{NOBODY}/"} | more), in_cluster=in_cluster) as brokers:
            await brokers.refresh({BAD, GOOD})
            brokers.ask(DEMANDS)
            assert isinstance(brokers.secret(*BAD), Known)
            assert is_read(brokers, BAD)
            assert is_read(brokers, GOOD)

    asyncio.run(story())


def assert_told_once(caplog):
    """The log names the Secret and the kind of error, once, and quotes no password."""
    (said,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert "Secret shop/bad cannot be used: RuntimeError" in said
    assert "word" not in caplog.text


def test_what_nobody_has_thought_of_in_a_secret_is_told_once_and_stops_nobody(caplog):
    """Without the error's own words, which may have a password in them."""

    async def story():
        secrets = Secrets(RuntimeError("amqp://me:word@host"))
        moments = itertools.count(step=10)
        began = datetime.now(UTC)
        async with adapter(secrets, clock=lambda: began + timedelta(seconds=next(moments))) as brokers:
            said = [await brokers.refresh({BAD, GOOD}) for _ in range(3)]
            assert said == [{BAD, GOOD}, set(), set()]
            brokers.ask(DEMANDS)
            assert brokers.view(*BAD).facts.reason == Reason.SECRET_INVALID
            assert is_read(brokers, GOOD)
            secrets.held[BAD] = {"url": f"amqp://me:word@{NOBODY}/mended"}
            assert await brokers.refresh({BAD, GOOD}) == {BAD}
            brokers.ask(DEMANDS)
            assert is_read(brokers, BAD)

    asyncio.run(story())
    assert_told_once(caplog)


def test_what_nobody_has_thought_of_in_a_poller_is_told_once_and_stops_nobody(caplog, monkeypatch):
    """A Secret that says something else is tried at once."""
    reader = module.VirtualHostReader

    def made(url, *more):
        if "bad" in url:
            raise RuntimeError(url)
        return reader(url, *more)

    monkeypatch.setattr(module, "VirtualHostReader", made)

    async def story():
        secrets = Secrets({"url": f"amqp://me:word@{NOBODY}/bad"})
        async with adapter(secrets) as brokers:
            await brokers.refresh({BAD, GOOD})
            for _ in range(3):
                brokers.ask(DEMANDS)
            assert brokers.view(*BAD).facts.reason == Reason.SECRET_INVALID
            assert is_read(brokers, GOOD)
            secrets.held[BAD] = {"url": f"amqp://me:word@{NOBODY}/mended"}
            brokers._secrets.pop(BAD)
            await brokers.refresh({BAD, GOOD})
            brokers.ask(DEMANDS)
            assert is_read(brokers, BAD)

    asyncio.run(story())
    assert_told_once(caplog)
