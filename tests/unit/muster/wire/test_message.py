"""Messages that Celery 5.7 has written are read as Celery reads them, and nothing else gets in."""

import base64
import gzip
import json
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import loads as kombu_loads

from muster.wire.errors import MalformedMessage
from muster.wire.message import Message, Peek, identify, open_message, pack, peek, timestamp, waits_since

GOLDEN = sorted((Path(__file__).parents[3] / "golden" / "celery-5.7").glob("*.json"))


def golden(path):
    found = kombu_loads(path.read_text())
    return found["raw"].encode(), found["read"], found["key"]


def envelope(body=b'[[1],{"a":2},{}]', headers=None, content_type="application/json", **properties):
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "headers": {"task": "shop.add", "id": "1", "retries": 0} | (headers or {}),
            "content-type": content_type,
            "content-encoding": "utf-8",
            "properties": {"body_encoding": "base64", "delivery_info": {}, "priority": 0} | properties,
        }
    ).encode()


def reason(read, raw):
    with pytest.raises(MalformedMessage) as caught:
        read(raw)
    return caught.value.reason


def told(read, raw):
    try:
        return read(raw)
    except MalformedMessage as error:
        assert error.reason.isidentifier()  # noqa: PT017 - most messages raise nothing
        return error


def same(mine, theirs):
    """Compare values, where NaN equals itself."""
    return repr(mine) == repr(theirs)


def test_there_are_golden_messages_of_both_protocols():
    """The captured set covers protocol 2, protocol 1 and the hybrid of both."""
    names = {path.stem for path in GOLDEN}
    assert {"plain", "types", "chain", "hybrid", "v1_plain", "v1_eta", "v1_link"} <= names


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_message_of_celery_is_opened_as_celery_opens_it(path):
    """Arguments of every type, links, chain, limits and ids are those that Celery's own worker sees."""
    raw, read, _ = golden(path)
    message = open_message(raw)
    assert (message.task, message.id) == (read["task"], read["id"])
    assert same(message.args, read["args"])
    assert same(message.kwargs, read["kwargs"])
    assert message.callbacks == (read["callbacks"] or [])
    assert message.errbacks == (read["errbacks"] or [])
    assert message.chain == (read["chain"] or [])
    assert message.chord is None
    assert message.priority == read["priority"]
    assert message.headers.get("parent_id") == read["parent_id"]
    assert message.headers["root_id"] == (read["root_id"] or read["id"])
    assert message.headers.get("shadow") == read["shadow"]
    assert message.headers.get("tenant") == read["tenant"]
    assert (message.headers.get("retries") or 0) == read["retries"]
    assert message.headers["timelimit"] == read["timelimit"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_worker_decides_by_what_celery_reads(path):
    """Time, expiry, retries and limits in a peek are those that Celery's own worker acts on."""
    raw, read, _ = golden(path)
    seen = peek(raw)
    assert (seen.task, seen.id, seen.retries) == (read["task"], read["id"], read["retries"])
    assert (seen.eta, seen.expires) == (read["eta"], read["expires"])
    assert [seen.hard_limit, seen.soft_limit] == (read["timelimit"] or [None, None])
    assert seen.ignore_result == read["ignore_result"]
    assert (seen.losses, seen.cause, seen.content_type) == (0, "", "application/json")


def compressed(body, compression="application/x-gzip"):
    """A message whose body is these bytes."""
    return msgspec.json.encode(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "headers": {"task": "shop.add", "id": "1", "compression": compression},
            "properties": {"body_encoding": "base64"},
        }
    )


BODY = b"[[1],{},{}]"


@pytest.mark.parametrize("name", ["application/x-gzip", "gzip", "zlib"])
@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress])
def test_what_zlib_has_compressed_is_opened(compress, name):
    """By all of kombu's names for it, whichever header is in front."""
    assert open_message(compressed(compress(BODY), name)).args == [1]


@pytest.mark.parametrize("name", ["application/x-bz2", "application/x-lzma", "application/zstd", "rot13"])
def test_another_compression_is_named(name):
    """It is refused for what it is, not as broken JSON."""
    raw = compressed(BODY, name)
    assert reason(open_message, raw) == "CompressedBody"
    assert name in str(told(open_message, raw))


@pytest.mark.parametrize("body", [b"", BODY, zlib.compress(BODY)[:-5], zlib.compress(BODY)[:3]])
def test_a_body_that_is_not_what_it_says_is_malformed(body):
    """Not compressed at all, or cut off."""
    assert reason(open_message, compressed(body)) == "MalformedBody"


def test_a_body_is_not_decompressed_beyond_the_limit():
    """A megabyte in a kilobyte is refused when it is over the limit, and opened when it is not."""
    body = b'[["' + b"x" * 2**20 + b'"],{},{}]'
    raw = compressed(zlib.compress(body))
    assert len(raw) < 5000
    assert told(lambda raw: open_message(raw, max_bytes=2**20), raw).reason == "OversizeMessage"
    assert len(open_message(raw, max_bytes=len(body)).args[0]) == 2**20


@given(st.binary(max_size=100))
def test_compressed_bytes_never_raise_anything_else(body):
    """Whatever stands there."""
    told(open_message, compressed(body))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"headers":{"task":"t","id":"1","eta":7,"retries":"many"}}', ("t", "1", 0, False)),
        (b'{"headers":{"task":"t","id":"1","retries":2,"ignore_result":true},"body":5}', ("t", "1", 2, True)),
        (b'{"headers":{"task":"t","id":null}}', None),
        (b'{"headers":{"task":"t"}}', None),
        (b'{"body":""}', None),
        (b"[1]", None),
        (b"\xff", None),
    ],
)
def test_a_message_that_cannot_be_read_may_have_a_name(raw, found):
    """Task, id, retries and whether its result is ignored, as far as they are there."""
    seen = identify(raw)
    assert (seen and (seen.task, seen.id, seen.retries, seen.ignore_result)) == found


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.lists(JSON_VALUES, max_size=4),
    st.dictionaries(st.text(), JSON_VALUES, max_size=4),
    st.text(min_size=1),
    st.integers(0, 9),
)
def test_what_is_packed_is_opened(args, kwargs, task, priority):
    """Opening a packed message gives back what was packed, whatever the values."""
    headers = {"task": task, "id": "7", "retries": 3, "timelimit": [2, 1], "argsrepr": repr(args)}
    body = json.dumps([args, kwargs, {"callbacks": None}])
    raw = pack(
        headers=headers,
        body=body,
        queue="mail",
        task_id="7",
        delivery_tag="t",
        priority=priority,
        reply_to="me",
    )
    message = open_message(raw)
    assert (message.task, message.id, message.args, message.kwargs) == (task, "7", args, kwargs)
    assert (message.priority, message.reply_to) == (priority, "me")
    assert message.delivery_info == {"exchange": "", "routing_key": "mail"}
    assert (peek(raw).retries, peek(raw).hard_limit, peek(raw).soft_limit) == (3, 2, 1)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_celerys_messages_do_not_say_when_they_were_published(path):
    """Neither protocol has a place for it."""
    raw, _, _ = golden(path)
    assert waits_since(raw) is None


@pytest.mark.parametrize(
    ("raw", "since"),
    [
        (envelope(timestamp=1000), 1000),
        (envelope(timestamp=1000, headers={"eta": "1970-01-01T00:20:00+00:00"}), 1200),
        (envelope(timestamp=1000, headers={"eta": "1970-01-01T00:10:00"}), 1000),
        (envelope(timestamp=1000, headers={"eta": "soon"}), None),
        (envelope(timestamp="yesterday"), None),
        (envelope(timestamp=None), None),
        (b'{"x-muster-losses":1,"x-muster-cause":"a","properties":{"timestamp":7}}', 7),
        (b"[1]", None),
        (b"\xff", None),
    ],
)
def test_since_when_a_message_waits(raw, since):
    """Since it was published or, later, due; what cannot be read does not tell, and raises nothing."""
    assert waits_since(raw) == since


def test_half_a_surrogate_pair_in_a_repr_does_not_lose_the_message():
    """JSON may escape what UTF-8 cannot hold; such a header is carried and read like any other."""
    headers = {"task": "t", "id": "1", "retries": 0, "argsrepr": "'\ud800'"}
    raw = pack(headers=headers, body="[[],{},{}]", queue="q", task_id="1", delivery_tag="t")
    assert open_message(raw).headers["argsrepr"] == "'\ud800'"
    assert peek(raw).task == "t"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "MalformedMessage"),
        (b"[]", "MalformedMessage"),
        (b'{"body": "", "headers": {}}', "UnknownContentType"),
        (envelope(headers={"task": 5}), "MalformedMessage"),
        (envelope(content_type="application/x-python-serialize"), "UnknownContentType"),
        (envelope(b"no json"), "MalformedBody"),
        (envelope(b"\xff\xfe"), "MalformedBody"),
        (envelope(b"[[1], {}]"), "MalformedBody"),
        (envelope(b'"text"'), "MalformedBody"),
        (envelope(b'[{"a": 1}, {}, {}]'), "MalformedBody"),
        (envelope(b"[[], [], {}]"), "MalformedBody"),
        (envelope(b"[" * 100_000), "MalformedBody"),
        (envelope(b'[[{"__type__": "os.system", "__value__": "id"}], {}, {}]'), "MalformedBody"),
        (envelope(b'[[{"__type__": "uuid", "__value__": 1}], {}, {}]'), "MalformedBody"),
        (envelope(b'[[{"__type__": "decimal", "__value__": "x"}], {}, {}]'), "MalformedBody"),
        (envelope(b'[[], {}, {"callbacks": [1]}]'), "MalformedBody"),
        (envelope(b'[[], {}, {"chain": "next"}]'), "MalformedBody"),
        (envelope(headers={"retries": "many"}), "MalformedHeaders"),
        (
            b'{"body": "=", "headers": {"task": "t", "id": "1"}, "content-type": "application/json"}',
            "MalformedBody",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value[:40]),
)
def test_what_is_wrong_with_a_message_has_a_name(raw, why):
    """Each kind of malformed message is refused with its own reason."""
    assert reason(open_message, raw) == why


@pytest.mark.parametrize(
    "headers",
    [{"eta": "tomorrow"}, {"expires": "never"}, {"retries": "x"}, {"timelimit": [1]}, {"timelimit": "x"}],
)
def test_headers_that_a_worker_cannot_decide_by_are_refused(headers):
    """A peek never guesses: times that are none and limits that are none make the message malformed."""
    assert reason(peek, envelope(headers=headers)).startswith("Malformed")


def test_a_naive_time_means_utc():
    """A time without a zone is UTC, as Celery reads it; numbers are Unix seconds."""
    assert timestamp("2031-05-04T12:00:00") == timestamp("2031-05-04T14:00:00+02:00") == 1935662400
    assert timestamp(17.5) == 17.5
    assert timestamp(None) is None


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_but_malformed_message(raw):
    """Whatever lies in a queue, reading it ends in a message or in MalformedMessage."""
    assert isinstance(told(peek, raw), Peek | MalformedMessage)
    assert isinstance(told(open_message, raw), Message | MalformedMessage)


@given(
    JSON_VALUES,
    st.dictionaries(
        st.sampled_from(["task", "id", "eta", "expires", "retries", "timelimit", "compression", "root_id"]),
        JSON_VALUES | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", 1e400]),
    ),
    st.dictionaries(st.sampled_from(["body_encoding", "priority", "delivery_info", "reply_to"]), JSON_VALUES),
)
def test_arbitrary_json_raises_nothing_but_malformed_message(body, headers, properties):
    """The same for messages that are well formed outside and anything inside."""
    raw = envelope(json.dumps(body).encode(), headers, **properties)
    assert isinstance(told(peek, raw), Peek | MalformedMessage)
    assert isinstance(told(open_message, raw), Message | MalformedMessage)
