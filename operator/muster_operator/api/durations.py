"""Durations as users write them (`90s`, `5m`, `1h30m`, `7d`) and as the code holds them (`timedelta`).

`codec` and `schema` use this for every duration of the resources. The form is Go's and Kubernetes', with `d`
for days before it and nothing below the millisecond. CEL's `duration()` knows no days, but a field of the API
server's format `duration` reaches CEL as a duration, days included; so rules compare durations, never text.
"""

import re
from datetime import timedelta

PATTERN = r"^([0-9]{1,4}d)?([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$"
"""What the schema lets through; each number is bounded so that no sum leaves Go's 292 years."""
MIN_LENGTH = 2
MAX_LENGTH = 40
FORM = "a duration is written like 90s, 5m, 1h30m or 7d"

_UNITS = ("d", "h", "m", "s", "ms")
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_SHAPE = re.compile(PATTERN)


def parse_duration(text: str) -> timedelta:
    """Return the duration that `text` names; ValueError with a sentence when it is not one."""
    match = _SHAPE.fullmatch(text)
    if match is None or len(text) < MIN_LENGTH:
        raise ValueError(f"{text!r} is no duration: {FORM}")
    parts = zip(_UNITS, match.groups(), strict=True)
    return timedelta(
        milliseconds=sum(
            int(part.removesuffix(unit)) * _MILLISECONDS[unit] for unit, part in parts if part is not None
        )
    )


def format_duration(value: timedelta) -> str:
    """Return the text of `value`: whole days from two days up as `7d`, all else in h, m, s and ms.

    ValueError when `value` is negative or finer than a millisecond, which the resources cannot hold.
    """
    if value < timedelta(0) or value.microseconds % 1000:
        raise ValueError(f"{value!r} is negative or finer than a millisecond")
    rest = value // timedelta(milliseconds=1)
    if rest >= 2 * _MILLISECONDS["d"] and rest % _MILLISECONDS["d"] == 0:
        return f"{rest // _MILLISECONDS['d']}d"
    text = ""
    for unit in _UNITS[1:]:
        count, rest = divmod(rest, _MILLISECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"
