"""How many slots a worker's pool has, between two bounds: Celery's --autoscale.

The worker's loop asks before it hands jobs over and when it checks its pool, and gives the pool the size that
comes out. A pool grows at once, and gives back what it has not needed for as long as the keepalive. Nothing
here knows what a slot is made of, or how long it takes to make one.
"""

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    """Never fewer slots than `fewest`, never more than `most`."""

    fewest: int
    most: int
    keepalive_seconds: float = 30.0
    """Celery's AUTOSCALE_KEEPALIVE: slots that were not needed for so long are given back."""


class Size(msgspec.Struct, frozen=True):
    """A pool's slots, and the most that were `needed` at once since the time `since`."""

    slots: int
    since: float
    needed: int = 0


def slots_needed(jobs: int, *, long: int, depth: int) -> int:
    """Return how many slots so many jobs want, when one slot may hold `depth` short ones.

    `long` of the jobs run already, and for longer than any other should wait behind them: a slot for each.
    """
    return long + -(-max(0, jobs - long) // depth)


def resize(size: Size, bounds: Bounds, *, needed: int, now: float) -> Size:
    """Return the size from now on, given how many slots are `needed` now."""
    most_needed = max(size.needed, needed)
    if needed > size.slots < bounds.most:
        return Size(min(needed, bounds.most), size.since, most_needed)
    if now - size.since < bounds.keepalive_seconds:
        return Size(size.slots, size.since, most_needed)
    return Size(max(bounds.fewest, min(size.slots, most_needed)), now, needed)
