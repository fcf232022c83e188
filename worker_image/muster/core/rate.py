"""How often a task may start: Celery's rate limits, as a value and a function of now.

Brokers that keep a rate for all workers `ask` for each start, with the pace that they store; on Redis
`transports/lua/turn.lua` computes the same. The worker's loop asks for each message of a task that has a rate
in each worker, by `ask_beside_others`.

The formula is the Generic Cell Rate Algorithm, as virtual scheduling: ITU-T Recommendation I.371 (2004),
annex A. What may start moves the theoretical arrival time of the next start; what may not is given a time of
its own, behind those who wait already, so that each waits once. No start is held back while the rate allows
one.
"""

import re
from typing import Final

import msgspec

from muster.errors import ConfigurationError

_UNIT_SECONDS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM: Final = re.compile(r"([0-9]+(?:[.][0-9]+)?)(?:/([smh]))?")
_AT_ONCE_SHARE: Final = 10
_LATE_SECONDS: Final = 1.0
_PLACES_SECONDS: Final = 10.0
_PLACES: Final = 8
"""A worker gives places to so many, or as far ahead as that; the others come again. Each start then costs so
many such visits at most, and so many workers find enough to do."""


class Rate(msgspec.Struct, frozen=True):
    """One start every `interval_seconds` in the long run.

    `tolerance_seconds` is how far ahead of that starts may be, so that in any `w` seconds there are at most
    1 + (w + tolerance) / interval of them.
    """

    interval_seconds: float
    tolerance_seconds: float


class Pace(msgspec.Struct, frozen=True):
    """What is known of a limited task's starts; times are Unix seconds, and both 0 when nothing is known."""

    next_start: float = 0.0
    """When the next start would come at an even pace (the theoretical arrival time)."""
    next_place: float = 0.0
    """When the last of those who wait will have had its time."""
    next_visit: float = 0.0
    """The same for those who were told to come again."""


def read_rate(text: str | float | None, *, whose: str) -> Rate | None:
    """Return the rate that Celery's notation names: a number, with /s, /m or /h behind it; None for no limit.

    A tenth of the number may start at once, at least one: 100/m lets ten go together. One that comes up to
    half an interval late, a second at most, does not delay the next. `whose` names the place of `text` in the
    ConfigurationError that is raised for anything else. As in Celery, 0 is no limit.
    """
    if text is None:
        return None
    found = _FORM.fullmatch(str(text).strip())
    if found is None:
        raise ConfigurationError(
            f"{whose} is {text!r}: a rate is a number a second, minute or hour, such as 10/s, 100/m or 1000/h"
        )
    number, unit = float(found[1]), _UNIT_SECONDS[found[2] or ""]
    if not number:
        return None
    interval = unit / number
    at_once = max(1, int(number / _AT_ONCE_SHARE))
    return Rate(interval, (at_once - 1) * interval + min(interval / 2, _LATE_SECONDS))


def ask(rate: Rate, pace: Pace, now: float) -> tuple[Pace, float]:
    """Return the new pace and when to start: 0.0 for now, else a later time, Unix seconds, to ask again."""
    interval = rate.interval_seconds
    earliest = pace.next_start - rate.tolerance_seconds
    if now >= earliest:
        return Pace(max(pace.next_start, now) + interval, pace.next_place, pace.next_visit), 0.0
    place = max(earliest, pace.next_place)
    return Pace(pace.next_start, place + interval, pace.next_visit), place


def ask_beside_others(rate: Rate, pace: Pace, now: float) -> tuple[Pace, float]:
    """Do the same for one of several who take from one queue, each at a pace of its own.

    If it gave a place to all that it finds, the others would find nothing, and one that comes later neither.
    So those whose place would be far away are told to come again, closer together than it could start them.
    """
    interval = rate.interval_seconds
    asked, until = ask(rate, pace, now)
    far = now + max(_PLACES_SECONDS, _PLACES * interval)
    if until <= far:
        return asked, until
    visit = max(far, pace.next_visit)
    return Pace(pace.next_start, pace.next_place, visit + interval / _PLACES), visit
