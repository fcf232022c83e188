"""Wait for a condition, never for a time.

Tests of every kind call this when another process (a server, a worker, the cluster) has to come to a state.
It knows nothing about what it waits for; what it last saw stands in the error.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")  # Python 3.11 has no type parameters in `def`


def wait_for(
    probe: Callable[[], T],
    *,
    until: Callable[[T], object] = bool,
    what: str,
    timeout_seconds: float = 30,
    every_seconds: float = 0.05,
) -> T:
    """Call `probe` until `until(value)` is true and return that value.

    An exception of `probe` is passed on, unless it is a `ConnectionError` or a failed assertion: those mean
    "not yet". Raises `TimeoutError` with `what` and the last value or error after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            value = probe()
            if until(value):
                return value
            last = f"last seen: {value!r}"
        except (ConnectionError, AssertionError) as error:
            last = f"last error: {type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {timeout_seconds:g} s still waiting for {what}; {last}")
        time.sleep(every_seconds)


def stays(probe: Callable[[], object], *, what: str, seconds: float, every_seconds: float = 1) -> None:
    """See that `probe` is true all the while; raises `AssertionError` with `what` when it is not."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        assert probe(), f"{what}: no longer so {seconds - left:.0f} s after it began"
        time.sleep(min(every_seconds, left))
