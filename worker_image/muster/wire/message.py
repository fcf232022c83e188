"""Task messages: Celery's protocol 2, and 1 and the hybrid of both for reading.

Three views of one message, each as small as its reader needs:
`peek` for the worker's parent, which decides what becomes of it and never looks into the body;
`open_message` for the executor, which needs everything;
`pack` for publishers. The protocol is described in Celery's `docs/internals/protocol.rst` and defined by
`celery/app/amqp.py` (time limits stand as [hard, soft]); the envelope is kombu's virtual transport's.
"""

import binascii
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from muster.wire import values
from muster.wire.errors import MalformedMessage

LOSSES_FIELD: Final = "x-muster-losses"
CAUSE_FIELD: Final = "x-muster-cause"
"""Two top-level fields of the envelope that kombu ignores and keeps: how often a worker was lost while the
message may have run, and how the last one was. A Lua script can set them without decoding the JSON."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""A message may be as long where nobody says otherwise."""
_ZLIB: Final = frozenset({"application/x-gzip", "gzip", "zlib"})
"""kombu's names of one way to compress."""


class _Head(msgspec.Struct):
    task: str | None = None
    id: str | None = None
    eta: str | None = None
    expires: str | float | None = None
    retries: int | msgspec.UnsetType | None = msgspec.UNSET
    timelimit: tuple[float | None, float | None] | None = None
    ignore_result: bool | None = False


class _Names(msgspec.Struct):
    """What a result needs to be stored."""

    task: str
    id: str
    retries: Any = 0
    ignore_result: Any = False


class _NamedEnvelope(msgspec.Struct):
    headers: _Names
    properties: Any = None


class _ReplyTo(msgspec.Struct, frozen=True):
    reply_to: str | None = None


class _Envelope(msgspec.Struct):
    body: str
    headers: _Head
    properties: _ReplyTo | None = None
    content_type: str | None = msgspec.field(name="content-type", default=None)
    losses: int = msgspec.field(name=LOSSES_FIELD, default=0)
    cause: str = msgspec.field(name=CAUSE_FIELD, default="")


class _Properties(msgspec.Struct):
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = 0
    delivery_info: dict[str, Any] = msgspec.field(default_factory=dict)
    body_encoding: str | None = None


class _FullEnvelope(msgspec.Struct):
    body: str
    headers: dict[str, Any]
    properties: _Properties = msgspec.field(default_factory=_Properties)
    content_type: str | None = msgspec.field(name="content-type", default=None)
    content_encoding: str | None = msgspec.field(name="content-encoding", default=None)
    losses: int = msgspec.field(name=LOSSES_FIELD, default=0)


class _Due(msgspec.Struct):
    eta: str | None = None


class _Stamp(msgspec.Struct):
    timestamp: float | None = None


class _Waits(msgspec.Struct):
    headers: _Due = msgspec.field(default_factory=_Due)
    properties: _Stamp = msgspec.field(default_factory=_Stamp)


_decode_peek = msgspec.json.Decoder(_Envelope).decode
_decode_waits = msgspec.json.Decoder(_Waits).decode
_decode_full = msgspec.json.Decoder(_FullEnvelope).decode
_decode_names = msgspec.json.Decoder(_NamedEnvelope).decode
_encode = msgspec.json.Encoder().encode
_Read = TypeVar("_Read")


def _read(decode: Callable[[bytes], _Read], kind: type[_Read], raw: bytes) -> _Read:
    """Return the envelope. Raises MalformedMessage."""
    try:
        try:
            return decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # kombu's JSON may hold what msgspec refuses: NaN, half a surrogate pair in a repr
            return msgspec.convert(json.loads(raw), kind)
    except (ValueError, TypeError, RecursionError, msgspec.DecodeError) as error:
        raise MalformedMessage("MalformedMessage", f"not a task message: {str(error)[:200]}") from None


class Peek(msgspec.Struct):
    """What the worker decides by. Times are Unix seconds; limits are seconds; None is "not given"."""

    task: str
    id: str
    eta: float | None = None
    expires: float | None = None
    retries: int = 0
    hard_limit: float | None = None
    soft_limit: float | None = None
    ignore_result: bool = False
    losses: int = 0
    cause: str = ""
    content_type: str = "application/json"
    reply_to: str = ""
    """The queue that its sender has named for results."""


class Message(msgspec.Struct):
    """A whole task message, whichever protocol it came in. `headers` holds all of protocol 2's."""

    task: str
    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    headers: dict[str, Any]
    callbacks: list[Any]
    errbacks: list[Any]
    chain: list[Any]
    chord: Any
    reply_to: str | None
    priority: int
    delivery_info: dict[str, Any]
    losses: int


def timestamp(text: str | float | None) -> float | None:
    """Return an ISO 8601 time (naive means UTC, as in Celery) or a number as Unix seconds."""
    if text is None or isinstance(text, int | float):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedMessage("MalformedHeaders", f"{text!r} is no ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _body(text: str, encoding: str | None = "base64") -> bytes:
    if encoding != "base64":
        return text.encode()
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise MalformedMessage("MalformedBody", "the body is not base64") from None


def _load(body: bytes) -> Any:
    try:
        return values.loads(body)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise MalformedMessage("MalformedBody", f"the body is not JSON: {str(error)[:200]}") from None


def peek(raw: bytes) -> Peek:
    """Return what a worker decides by. Raises MalformedMessage."""
    envelope = _read(_decode_peek, _Envelope, raw)
    head = envelope.headers
    if head.task is None or head.id is None or head.retries is msgspec.UNSET:
        head = _head_with_body(envelope)
    limits = head.timelimit or (None, None)
    return Peek(
        head.task,  # type: ignore[arg-type]  # neither is None any more
        head.id,  # type: ignore[arg-type]
        None if head.eta is None else timestamp(head.eta),
        None if head.expires is None else timestamp(head.expires),
        head.retries or 0,
        limits[0],
        limits[1],
        bool(head.ignore_result),
        envelope.losses,
        envelope.cause,
        envelope.content_type or "",
        (envelope.properties and envelope.properties.reply_to) or "",
    )


def waits_since(raw: bytes) -> float | None:
    """Return since when a message waits to be run, Unix seconds: since it was published, or its ETA came.

    None for one that does not say when it was published, as Celery's do not, and for what cannot be read.
    """
    try:
        found = _read(_decode_waits, _Waits, raw)
        published, due = found.properties.timestamp, timestamp(found.headers.eta)
    except MalformedMessage:
        return None
    return None if published is None else max(published, due or 0.0)


def _head_with_body(envelope: _Envelope) -> _Head:
    """Return the head of protocol 1, or of the hybrid: for old clients only, it costs another decoding."""
    if envelope.content_type != "application/json":
        content_type = envelope.content_type
        raise MalformedMessage("UnknownContentType", f"content type {content_type!r}: only JSON is accepted")
    body = _load(_body(envelope.body))
    known = msgspec.structs.asdict(envelope.headers)
    fields = {name: value for name, value in known.items() if value not in {None, msgspec.UNSET}}
    if isinstance(body, dict):
        fields = {name: body[name] for name in known if body.get(name) is not None} | fields
    try:
        head = msgspec.convert({"retries": 0, **fields}, _Head)
    except msgspec.ValidationError as error:
        raise MalformedMessage("MalformedMessage", f"not a task message: {error}") from None
    if head.task is None or head.id is None:
        raise MalformedMessage("MalformedMessage", "neither headers nor body name a task and its id")
    return head


def identify(raw: bytes) -> Peek | None:
    """Return task and id of a message, whatever else is wrong with it; None when it has none."""
    try:
        named = _decode_names(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    names = named.headers
    reply_to = named.properties.get("reply_to") if isinstance(named.properties, dict) else None
    return Peek(
        names.task,
        names.id,
        retries=names.retries if isinstance(names.retries, int) else 0,
        ignore_result=bool(names.ignore_result),
        reply_to=reply_to if isinstance(reply_to, str) else "",
    )


def _plain(body: bytes, compression: str, max_bytes: int) -> bytes:
    """Return a body as it was before it was compressed. Raises MalformedMessage."""
    if compression not in _ZLIB:
        raise MalformedMessage(
            "CompressedBody",
            f"the body is compressed ({compression}): publish with compression='gzip', or without",
        )
    import zlib

    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib's own header, which kombu writes, or gzip's
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedMessage("MalformedBody", f"the body is not {compression}: {error}") from None
    if len(plain) > max_bytes:
        raise MalformedMessage(
            "OversizeMessage",
            f"more than {max_bytes} bytes when it is decompressed, which is the limit: put the data into a "
            "store and send its address",
        )
    if not inflater.eof:
        raise MalformedMessage("MalformedBody", f"the body is not {compression}: it is cut off")
    return plain


def open_message(raw: bytes, *, max_bytes: int = MAX_BYTES) -> Message:
    """Return the whole message of protocol 2, 1 or the hybrid of both; decompressed no more than `max_bytes`.

    Raises MalformedMessage.
    """
    envelope = _read(_decode_full, _FullEnvelope, raw)
    if envelope.content_type != "application/json":
        raise MalformedMessage(
            "UnknownContentType", f"content type {envelope.content_type!r}: only JSON is accepted"
        )
    headers = envelope.headers
    data = _body(envelope.body, envelope.properties.body_encoding)
    if headers.get("compression"):
        data = _plain(data, str(headers["compression"]), max_bytes)
    body = _load(data)
    if isinstance(body, dict):  # protocol 1, or protocol 2's headers around protocol 1's body
        embed = body
        headers = {**{k: v for k, v in body.items() if k not in {"args", "kwargs"}}, **headers}
        headers.setdefault("root_id", headers.get("id"))
        args, kwargs = body.get("args"), body.get("kwargs")
    elif isinstance(body, list) and len(body) == 3:
        args, kwargs, embed = body
    else:
        raise MalformedMessage("MalformedBody", "the body is not [args, kwargs, embed]")
    args = [] if args is None else args
    kwargs = {} if kwargs is None else kwargs
    embed = {} if embed is None else embed
    task, task_id = headers.get("task"), headers.get("id")
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict)):
        raise MalformedMessage("MalformedBody", "args are a list, kwargs and embed are objects")
    if not (isinstance(task, str) and isinstance(task_id, str)):
        raise MalformedMessage("MalformedMessage", "neither headers nor body name a task and its id")
    if not isinstance(headers.get("retries") or 0, int):
        raise MalformedMessage("MalformedHeaders", "retries is no whole number")
    return Message(
        task,
        task_id,
        args,
        kwargs,
        headers,
        _signatures(embed, "callbacks") if embed.get("callbacks") else [],
        _signatures(embed, "errbacks") if embed.get("errbacks") else [],
        _signatures(embed, "chain") if embed.get("chain") else [],
        embed.get("chord"),
        envelope.properties.reply_to,
        envelope.properties.priority or 0,
        envelope.properties.delivery_info,
        envelope.losses,
    )


def _signatures(embed: dict[str, Any], name: str) -> list[Any]:
    found = embed[name]
    if isinstance(found, list) and all(isinstance(each, dict) and "task" in each for each in found):
        return found
    raise MalformedMessage("MalformedBody", f"{name} are no list of signatures")


def pack(
    *,
    headers: dict[str, Any],
    body: str,
    queue: str,
    task_id: str,
    delivery_tag: str,
    priority: int = 0,
    reply_to: str = "",
    expiration_ms: int | None = None,
    published_at: int | None = None,
) -> bytes:
    """Return a message as kombu's virtual transports store it; `body` is JSON `[args, kwargs, embed]`.

    `published_at` (Unix seconds) becomes AMQP's own property for it. kombu keeps what stands there and
    Celery ignores it, where a header would pass for one of the user's: `Task.request` would show it, and a
    retry by a Celery worker would carry it on.
    """
    properties: dict[str, Any] = {
        "correlation_id": task_id,
        "reply_to": reply_to,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": priority,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    if expiration_ms is not None:
        properties["expiration"] = str(expiration_ms)
    if published_at is not None:
        properties["timestamp"] = published_at
    envelope = {
        "body": binascii.b2a_base64(body.encode(), newline=False).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    try:
        return _encode(envelope)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape
        return json.dumps(envelope).encode()
