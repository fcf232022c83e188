"""A lost worker, noted on the message that it held: two fields at the very front of the envelope.

The transports that keep messages themselves call this; on Redis a script writes the same bytes. kombu keeps
and ignores both fields, and nothing behind them is touched. What a message is about is not known here.
"""

import json
from typing import Any, Final

import msgspec

from muster.wire.message import CAUSE_FIELD, LOSSES_FIELD

FRONT: Final = f'{{"{LOSSES_FIELD}":'.encode()
"""How a message begins on which a loss is noted."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Noted(msgspec.Struct):
    losses: int = msgspec.field(name=LOSSES_FIELD, default=0)


_noted = msgspec.json.Decoder(_Noted)


def may_have_run(raw: bytes) -> bool:
    """Whether a loss is noted on this message, so that a start of it would be an extra run."""
    return raw.startswith(FRONT)


def with_loss(raw: bytes, cause: str) -> bytes:
    """Return the message with one more loss on its account; what is no JSON object comes back as it was."""
    try:
        fields: dict[str, Any] = _fields.decode(raw)
        losses = _noted.decode(raw).losses
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _with_loss_leniently(raw, cause)
    front = {LOSSES_FIELD: losses + 1, CAUSE_FIELD: cause}
    return msgspec.json.encode(front | {name: value for name, value in fields.items() if name not in front})


def _with_loss_leniently(raw: bytes, cause: str) -> bytes:
    """Do the same for what kombu's JSON may hold and msgspec refuses, such as NaN."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    if not isinstance(fields, dict):
        return raw
    losses = fields.pop(LOSSES_FIELD, 0)
    front = {LOSSES_FIELD: losses + 1 if isinstance(losses, int) else 1, CAUSE_FIELD: cause}
    return json.dumps(front | fields | front, separators=(",", ":")).encode()
