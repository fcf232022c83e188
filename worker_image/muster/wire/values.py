"""A user's values as JSON: arguments and results, with the types that kombu's JSON carries.

Callers are the application (publishing), the executor (arguments, results) and AsyncResult. Types beyond
JSON travel as `{"__type__": …, "__value__": …}` (kombu's `utils/json.py` defines the names); a name
that is not in the table is refused, and no class is ever looked up from data.
"""

import base64
import json
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import msgspec


def _default(value: Any) -> Any:
    reduce = getattr(value, "__json__", None)
    if reduce is not None:
        return reduce()
    match value:
        case datetime():  # before date: every datetime is a date
            return {"__type__": "datetime", "__value__": value.isoformat()}
        case date():
            return {"__type__": "date", "__value__": value.isoformat()}
        case time():
            return {"__type__": "time", "__value__": value.isoformat()}
        case Decimal():
            return {"__type__": "decimal", "__value__": str(value)}
        case uuid.UUID():
            return {"__type__": "uuid", "__value__": {"hex": value.hex}}
        case bytes():
            try:
                return {"__type__": "bytes", "__value__": value.decode()}
            except UnicodeDecodeError:
                return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
        case _:
            raise TypeError(
                f"a {type(value).__name__} cannot be written as JSON: pass plain values, or give its class "
                "a __json__() method",
            )


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: uuid.UUID(hex=fields["hex"]),
    "bytes": lambda text: text.encode(),
    "base64": base64.b64decode,
}


def _hook(fields: dict[str, Any]) -> Any:
    if fields.keys() != {"__type__", "__value__"}:
        return fields
    decode = _DECODERS.get(fields["__type__"]) if isinstance(fields["__type__"], str) else None
    if decode is None:
        raise ValueError(f"unknown value type {fields['__type__']!r}")
    return decode(fields["__value__"])


def _encoder() -> Callable[[Any], str]:
    """Return `json.dumps` with our types. Its C part is set up once, not at each call as there."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(default=_default).encode
    escape = json.encoder.encode_basestring_ascii
    # no markers: a value inside itself ends as RecursionError, and threads may share the encoder
    chunks = make(None, _default, escape, None, ": ", ", ", False, False, True)
    return lambda value: "".join(chunks(value, 0))


_encode = _encoder()
_encode_plain = msgspec.json.Encoder().encode
_decode = json.JSONDecoder().decode
_decode_typed = json.JSONDecoder(object_hook=_hook).decode
_decode_plain = msgspec.json.Decoder().decode
_PLAIN: Final = frozenset({type(None), bool, int, str})


def dumps(value: Any) -> str:
    """Return `value` as JSON text. Raises TypeError, ValueError or RecursionError when it cannot be."""
    return _encode(value)


def encode(value: Any) -> bytes:
    """Return `value` as JSON bytes; raises as `dumps` does. Quick where most results are: plain scalars."""
    if type(value) in _PLAIN:
        try:
            return _encode_plain(value)
        except (UnicodeEncodeError, OverflowError):  # half a surrogate pair; more than 64 bits
            pass
    return _encode(value).encode()


def loads(data: bytes | str) -> Any:
    """Return the value of JSON text (UTF-8). Raises ValueError, or what a typed value's own class raises."""
    text = data if isinstance(data, str) else data.decode()
    # the hook costs a call per object, so it runs only where a typed value can be
    if '"__type__"' in text:
        return _decode_typed(text)
    try:
        return _decode_plain(data)
    except msgspec.DecodeError:  # not all that json reads: NaN, half a surrogate pair
        return _decode(text)
