"""How long the oldest message of a list waits: as it says itself, or followed from look to look.

The transports' observers call it with what they see of each list. Messages enter a list at one end and are
taken at the other, so whoever knows how many had entered by when, and how many are left, knows by when the
oldest had entered. Nothing here knows what a message is about, or where the list lies.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final

import msgspec

from muster.wire.message import waits_since

PRECISION: Final = 0.05
"""Marks that lie closer together than this share of their age are merged, so that a track stays short: some
hundreds of marks, however long the oldest message waits."""


class Source(StrEnum):
    """How an age was obtained; the values are those of `status.oldestAgeSource`."""

    MEASURED = "Measured"
    """The message says since when it waits."""
    TRACKED = "Tracked"
    """It has been seen to wait for at least so long."""
    ESTIMATED = "Estimated"
    """From the queue's length and from what workers take; see `core.flow`."""


class Age(msgspec.Struct, frozen=True):
    """How long a message has waited, by the broker's clock."""

    seconds: float
    source: Source


class Mark(msgspec.Struct, frozen=True):
    """By `at`, the first `entered` of all messages counted had entered the list."""

    at: float
    entered: int


class Track(msgspec.Struct, frozen=True):
    """A list of messages, as it has been seen to grow and to shrink. Never without a mark."""

    newest: bytes
    """The message that had entered last; the next look finds how many have come behind it."""
    marks: tuple[Mark, ...]
    """Oldest first; what had entered by the time of the first was in the list at the latest look."""


def follow(before: Track | None, *, newest: bytes, length: int, behind: int | None, now: float) -> Track:
    """Return the track of a list after one more look at it, at which it held `length` messages, at least one.

    `behind`: how many have entered since `before.newest`; None when that one is not in the list any more.
    Then everything that had entered up to it is gone as well, and nothing is known of the others but that
    they are there.
    """
    if before is None or behind is None:
        return Track(newest, (Mark(now, length),))
    entered = before.marks[-1].entered + behind
    marks = (*before.marks, Mark(now, entered)) if behind else before.marks
    gone = entered - length
    return Track(newest, thinned([mark for mark in marks if mark.entered > gone], now))


def thinned(marks: Sequence[Mark], now: float) -> tuple[Mark, ...]:
    """Return the marks, at least one, without those that are too close to others."""
    kept = [marks[0]]
    for mark, following in pairwise(marks[1:]):
        if following.at - kept[-1].at > PRECISION * (now - following.at):
            kept.append(mark)
    return (*kept, *marks[1:][-1:])


def age(oldest: bytes, track: Track | None, now: float) -> Age | None:
    """Return for how long the oldest message of a list has waited, None where nobody can tell.

    A tracked age is never above the true one as long as messages enter at one end. It is short of it by the
    time between two looks and by `PRECISION` at most, unless the message was there at the first look.
    """
    since = waits_since(oldest)
    if since is not None:
        return Age(max(0.0, now - since), Source.MEASURED)
    if track is not None:
        return Age(max(0.0, now - track.marks[0].at), Source.TRACKED)
    return None


def greatest(ages: Iterable[Age | None]) -> Age | None:
    """Return the age of the message that waits longest, of the oldest in each list."""
    told = (each for each in ages if each is not None)
    return max(told, key=lambda each: (each.seconds, each.source is Source.MEASURED), default=None)
