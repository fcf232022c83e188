"""A task message on AMQP, where body, headers and properties travel apart, and the JSON text we work with.

Inside the engine a message is kombu's envelope (`wire.message`), whichever broker it comes from: so the loop,
the pools and the ledger of losses are the same for all. Transports for RabbitMQ call this at their edge. It
knows AMQP's fields and types, and no client library.
"""

import binascii
import json
from typing import Any, Final

import msgspec

from muster.wire.errors import MalformedMessage
from muster.wire.message import CAUSE_FIELD, LOSSES_FIELD

PERSISTENT: Final = 2
"""AMQP's delivery mode of a message that outlives the broker's process."""


class AmqpMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What AMQP carries of a message; None and {} is what it does not carry."""

    body: bytes
    headers: dict[str, Any]
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    """Milliseconds, as text."""
    priority: int | None = None
    delivery_mode: int | None = PERSISTENT
    timestamp: int | None = None
    """Unix seconds."""


class _Properties(msgspec.Struct):
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    priority: int | None = None
    delivery_mode: int | None = PERSISTENT
    timestamp: float | None = None
    body_encoding: str | None = None


class _Envelope(msgspec.Struct):
    body: str
    headers: dict[str, Any]
    properties: _Properties = msgspec.field(default_factory=_Properties)
    content_type: str | None = msgspec.field(name="content-type", default=None)
    content_encoding: str | None = msgspec.field(name="content-encoding", default=None)
    losses: int = msgspec.field(name=LOSSES_FIELD, default=0)
    cause: str = msgspec.field(name=CAUSE_FIELD, default="")


def _plain(value: Any) -> Any:
    """Return what JSON has in place of a client library's own type: pika's 64-bit numbers are some."""
    return int(value) if isinstance(value, int) else str(value)


_decode: Final = msgspec.json.Decoder(_Envelope).decode
_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode


def to_amqp(raw: bytes) -> AmqpMessage:
    """Return what AMQP is to carry of an envelope. Raises MalformedMessage.

    The losses, which stand beside kombu's own fields in the envelope, become headers.
    """
    try:
        try:
            envelope = _decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # JSON as Python writes it: NaN, half a surrogate pair
            envelope = msgspec.convert(json.loads(raw), _Envelope)
        properties = envelope.properties
        if properties.body_encoding in {None, "base64"}:
            body = binascii.a2b_base64(envelope.body, strict_mode=True)
        else:
            body = envelope.body.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedMessage("MalformedMessage", f"not a task message: {str(error)[:200]}") from None
    headers = envelope.headers
    if envelope.losses:
        headers = {**headers, LOSSES_FIELD: envelope.losses, CAUSE_FIELD: envelope.cause}
    return AmqpMessage(
        body=body,
        headers=headers,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to or None,
        expiration=properties.expiration,
        priority=properties.priority,
        delivery_mode=properties.delivery_mode,
        timestamp=None if properties.timestamp is None else int(properties.timestamp),
    )


def from_amqp(
    message: AmqpMessage, *, tag: str, exchange: str, routing_key: str, redelivered: bool = False
) -> bytes:
    """Return the envelope of a message that was delivered: any bytes make one, which is judged later.

    Values that AMQP has and JSON has not (times, decimals, bytes) become text.
    """
    headers = message.headers
    losses = headers.get(LOSSES_FIELD)
    properties: dict[str, Any] = {
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to or "",
        "delivery_mode": message.delivery_mode,
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        "priority": message.priority or 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    if redelivered:
        properties["delivery_info"]["redelivered"] = True
    if message.expiration is not None:
        properties["expiration"] = message.expiration
    if message.timestamp is not None:
        properties["timestamp"] = message.timestamp
    envelope: dict[str, Any] = {
        "body": binascii.b2a_base64(message.body, newline=False).decode(),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": headers,
        "properties": properties,
    }
    if isinstance(losses, int) and losses > 0:
        envelope = {
            LOSSES_FIELD: losses,
            CAUSE_FIELD: str(headers.get(CAUSE_FIELD) or ""),
            **envelope,
            "headers": {k: v for k, v in headers.items() if k not in {LOSSES_FIELD, CAUSE_FIELD}},
        }
    try:
        return _encode(envelope)
    except (ValueError, TypeError, RecursionError):  # such as half a surrogate pair, which JSON can escape
        return json.dumps(envelope, default=_plain).encode()
