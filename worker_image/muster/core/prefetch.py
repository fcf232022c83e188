"""How many messages a slot may hold at once: many short ones, never more than one long one.

Called by the worker's loop with what it has measured. A slot that holds several runs them one after
another, so those behind wait for the first; their estimated sum is kept below a few milliseconds.
"""

from typing import Final

HOLD_SECONDS: Final = 0.004
"""What a slot may hold in estimated work: about what two round trips to the broker take."""
SHORT_SECONDS: Final = 0.001
"""From here on a task is handed over alone. Its start is then known to the broker before it happens."""
MAX_DEPTH: Final = 128


def estimate(previous: float | None, runtime_seconds: float) -> float:
    """Return the new estimate of a task's runtime: it rises at once and falls slowly (5 % a run).

    So one slow run among quick ones is remembered, and nothing waits behind the next.
    """
    if previous is None or runtime_seconds >= previous:
        return runtime_seconds
    return previous + 0.05 * (runtime_seconds - previous)


def depth(estimated_seconds: float | None) -> int:
    """Return how many messages a slot may hold when the slowest of them is estimated so. None: not known."""
    if estimated_seconds is None or estimated_seconds >= SHORT_SECONDS:
        return 1
    return max(1, min(MAX_DEPTH, int(HOLD_SECONDS / max(estimated_seconds, 1e-6))))
