"""What pika leaves out of AMQP's tables, which a message's headers are: fractions, and times far away.

Pika refuses to write a fraction and cuts one that it reads to a whole number, though Celery's clients send
them (`soft_time_limit=7.5`). A time that Python has no date for, such as one in milliseconds, is an error in
the middle of its reading, which costs the connection: the message would come back, and cost the next one.
RabbitMQ's own types: https://www.rabbitmq.com/docs/amqp-0-9-1-errata. `line` calls this, before it connects.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pika import data

_pikas_encode: Final[Callable[[list[Any], Any], int]] = data.encode_value
_pikas_decode: Final[Callable[[bytes, int], tuple[Any, int]]] = data.decode_value
_LAST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


def _encode_value(pieces: list[Any], value: Any) -> int:
    if isinstance(value, float):
        pieces.append(struct.pack(">cd", b"d", value))
        return 9
    return _pikas_encode(pieces, value)


def _decode_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    kind = encoded[offset : offset + 1]
    if kind == b"d":
        return struct.unpack_from(">d", encoded, offset + 1)[0], offset + 9
    if kind == b"f":
        return struct.unpack_from(">f", encoded, offset + 1)[0], offset + 5
    if kind == b"T":
        seconds = struct.unpack_from(">Q", encoded, offset + 1)[0]
        if seconds > _LAST:
            return seconds, offset + 9
    return _pikas_decode(encoded, offset)


def complete() -> None:
    """Have pika read and write these, in the whole process: others who use it lose nothing by it."""
    data.encode_value = _encode_value
    data.decode_value = _decode_value
