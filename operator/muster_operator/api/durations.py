"""Durations as users write them (`90s`, `5m`, `1h30m`, `7d`) and as the code holds them (`timedelta`).

`codec` and `schema` use this for every duration of the resources. The form is Go's and Kubernetes', with `d`
for days before it and nothing below the millisecond. CEL's `duration()` knows no days, but a field of the API
server's format `duration` reaches CEL as a duration, days included; so rules compare durations, never text.
"""

import re
from datetime import timedelta

PATTERN = r"^([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?([0-9]{1,9}ms)?$"
"""What the schema lets through. The numbers are bounded so that no sum leaves Go's 292 years."""
MIN_LENGTH = 2
MAX_LENGTH = 40
FORM = "a duration is written like 90s, 5m, 1h30m or 7d"

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # in milliseconds
_MOST = {"d": 99_999, "h": 99_999, "m": 999_999, "s": 99_999_999, "ms": 999_999_999}  # as PATTERN has them
LONGEST = timedelta(milliseconds=sum(_MOST[unit] * _UNITS[unit] for unit in _UNITS))
_SHAPE = re.compile(PATTERN)


def parse_duration(text: str) -> timedelta:
    """Return the duration that `text` names; ValueError with a sentence when it is not one."""
    match = _SHAPE.fullmatch(text)
    if match is None or len(text) < MIN_LENGTH:
        raise ValueError(f"{text!r} is no duration: {FORM}")
    parts = zip(_UNITS, match.groups(), strict=True)
    return timedelta(
        milliseconds=sum(
            int(part.removesuffix(unit)) * _UNITS[unit] for unit, part in parts if part is not None
        )
    )


def format_duration(value: timedelta) -> str:
    """Return the text of `value`: whole days from two days up as `7d`, all else in h, m, s and ms.

    ValueError when `value` is negative, finer than a millisecond or longer than any that can be read.
    """
    if value < timedelta(0) or value > LONGEST or value.microseconds % 1000:
        raise ValueError(
            f"{value!r} is negative, longer than {LONGEST.days} days or finer than a millisecond"
        )
    rest = value // timedelta(milliseconds=1)
    day, hour = _UNITS["d"], _UNITS["h"]
    in_days = (rest >= 2 * day and rest % day == 0) or rest // hour > _MOST["h"]
    text = ""
    for unit, milliseconds in _UNITS.items():
        if unit == "d" and not in_days:
            continue
        count = min(rest // milliseconds, _MOST[unit])
        rest -= count * milliseconds
        text += f"{count}{unit}" if count else ""
    return text or "0s"
