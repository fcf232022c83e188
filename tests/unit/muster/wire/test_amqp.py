"""Between the envelope and AMQP's parts nothing of a message gets lost, whoever wrote it."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers import message
from muster.wire.amqp import AmqpMessage, from_amqp, to_amqp
from muster.wire.errors import MalformedMessage
from muster.wire.losses import with_loss
from muster.wire.message import open_message, peek

GOLDEN = sorted((Path(__file__).parents[3] / "golden/celery-5.7").glob("*.json"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TABLES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.builds(
    AmqpMessage,
    body=st.binary(max_size=100),
    headers=st.dictionaries(TEXT.filter(lambda name: not name.startswith("x-muster")), TABLES, max_size=4),
    content_type=st.none() | TEXT,
    content_encoding=st.none() | TEXT,
    correlation_id=st.none() | TEXT,
    reply_to=st.none() | TEXT.filter(bool),
    expiration=st.none() | st.integers(0, 10**9).map(str),
    priority=st.integers(0, 255),
    delivery_mode=st.sampled_from([1, 2]),
    timestamp=st.none() | st.integers(0, 2**40),
)


def back(message, **details):
    return from_amqp(message, **{"tag": "7", "exchange": "", "routing_key": "mail", **details})


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message):
    """Whatever bytes and tables it has; JSON holds all that a header of Celery's can be."""
    assert to_amqp(back(message)) == message


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_celery_has_sent_is_read_alike_on_both_ways(path):
    """Captured from Celery: over AMQP's parts and back, the worker and the executor read the same."""
    raw = json.loads(path.read_text())["raw"].encode()
    again = back(to_amqp(raw))
    assert peek(again) == peek(raw)
    first, second = open_message(raw), open_message(again)
    for each in (first, second):
        each.delivery_info = {}
    assert json.dumps(first.headers) == json.dumps(second.headers)
    assert repr((first.args, first.kwargs)) == repr((second.args, second.kwargs))  # NaN is unlike itself


def test_what_is_published_is_persistent_and_has_all_its_properties():
    """A queue that outlives its server keeps only messages that say so."""
    found = to_amqp(message("1", published_at=1_900_000_000))
    assert (found.delivery_mode, found.timestamp) == (2, 1_900_000_000)
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert found.correlation_id == found.headers["id"] == "1"
    assert json.loads(found.body) == [["x"], {"n": 1}, {}]


def test_losses_travel_as_headers():
    """So that they are kept by whatever moves the message, and are no headers for the task."""
    raw = with_loss(with_loss(message("1"), "WorkerLost"), "LeaseExpired")
    sent = to_amqp(raw)
    assert sent.headers["x-muster-losses"] == 2
    found = peek(back(sent))
    assert (found.losses, found.cause) == (2, "LeaseExpired")
    assert "x-muster-losses" not in open_message(back(sent)).headers


@pytest.mark.parametrize("losses", ["many", -1, None, 2.5, [1]])
def test_losses_that_are_no_number_are_somebody_elses_header(losses):
    """A stranger's header cannot make a message unreadable."""
    headers = {"task": "t", "id": "1", "x-muster-losses": losses}
    raw = back(AmqpMessage(body=b"[[],{},{}]", headers=headers, content_type="application/json"))
    assert peek(raw).losses == 0


def test_what_json_has_not_becomes_text():
    """AMQP's tables hold times, decimals and bytes; a header is never a reason to lose a message."""
    odd = {"task": "t", "id": "1", "at": datetime(2031, 5, 4, tzinfo=UTC), "d": Decimal("1.5"), "b": b"\xff"}
    found = open_message(back(AmqpMessage(body=b"[[],{},{}]", headers=odd, content_type="application/json")))
    assert found.headers["at"] == "2031-05-04T00:00:00Z"
    assert found.headers["d"] == "1.5"
    assert isinstance(found.headers["b"], str)


def test_where_it_was_delivered_is_told():
    """As `Task.request.delivery_info` shows it."""
    sent = to_amqp(message("1"))
    found = open_message(back(sent, exchange="tasks", routing_key="mail.high", redelivered=True))
    assert found.delivery_info == {"exchange": "tasks", "routing_key": "mail.high", "redelivered": True}


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"not json", b'{"body": 1, "headers": {}}', b'{"body": "%%", "headers": {}}']
)
def test_what_is_no_envelope_is_refused(raw):
    """With a sentence, before anything is sent."""
    with pytest.raises(MalformedMessage, match="not a task message"):
        to_amqp(raw)
