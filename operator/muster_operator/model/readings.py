"""A figure read from outside, or the fact that it could not be read.

Adapters make readings, decisions match on them. There is no third form: what could not be read is never 0 and
never None, so that no decision can take an outage for an empty queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeAlias, TypeVar

Value = TypeVar("Value")
Kept = TypeVar("Kept")

STALE = "Stale"
"""Reason of a reading that was good and has grown too old to act on."""


@dataclass(frozen=True, kw_only=True)
class Known(Generic[Value]):
    """`value`, as it was at `at`."""

    value: Value
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """It could not be read, and has not been since `at`, the first failure in an unbroken row.

    `reason` is one CamelCase word, where possible of `api.conditions.Reason`; `message` says to a person what
    happened and what to do, and holds no secret.
    """

    reason: str
    at: datetime
    message: str = ""


Reading: TypeAlias = Known[Kept] | Unknown


def fresh(reading: Reading[Kept], now: datetime, max_age: timedelta) -> Reading[Kept]:
    """Return the reading, or Unknown with reason `Stale` when what is known is older than `max_age`.

    The Unknown begins when the reading went stale, so that a fallback's delay counts from there.
    """
    if isinstance(reading, Known) and now - reading.at > max_age:
        age = (now - reading.at).total_seconds()
        return Unknown(
            reason=STALE,
            at=reading.at + max_age,
            message=f"last read {age:.0f} s ago, which is more than {max_age.total_seconds():.0f} s",
        )
    return reading


def earliest(unknowns: Iterable[Unknown]) -> Unknown | None:
    """Return the one that began first, or None when there is none."""
    return min(unknowns, key=lambda each: (each.at, each.reason, each.message), default=None)
