"""What a decision remembers from pass to pass, as values that it is given and hands back.

The loop keeps them beside the object's key and loses them at a restart; every decision is safe with empty
ones. Both are bounded, whatever the load does. `decide.stabilize` and `decide.load` alone compute with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The sizes that the load asked for between two moments."""

    first_at: datetime
    last_at: datetime
    lowest: int
    highest: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """The size was seen to change by `by` at `at`."""

    at: datetime
    by: int


@dataclass(frozen=True, kw_only=True)
class History:
    """The wishes of the stabilization windows and the changes of the policies' periods, oldest first."""

    since: datetime | None = None
    """From here on the load was known without a break; None when it is not known now."""
    wishes: tuple[Wish, ...] = ()
    changes: tuple[Change, ...] = ()
    size: int | None = None
    """The size at the latest pass."""


@dataclass(frozen=True, kw_only=True)
class RuntimeEstimate:
    """How long a task runs, as a moving average over what the workers reported."""

    seconds: float | None = None
    """None until some run has been reported."""
    at: datetime | None = None
    totals: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Worker → (ended runs, their time) as of `at`, to tell what is new."""
