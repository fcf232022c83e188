"""Control messages to one worker: small JSON objects `{"method": …}` in its mailbox on the broker."""

from typing import Literal

import msgspec


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction. `drain`: stop consuming and finish what runs. `leave`: then end, as by SIGTERM."""

    method: Literal["drain", "leave"]


_decode = msgspec.json.Decoder(Control).decode


def encode(control: Control) -> bytes:
    """Return the JSON form."""
    return msgspec.json.encode(control)


def decode(data: bytes) -> Control:
    """Return the instruction. Raises msgspec.DecodeError for one that is not known."""
    return _decode(data)
