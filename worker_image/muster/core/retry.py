"""Whether a task runs again after an exception, and when. Called by the application's `Task` and executor.

Randomness comes in as an argument: the decision itself knows no dice and no clock.
"""

from typing import Final

import msgspec

_MAX_DOUBLINGS: Final = 62
"""2**62 seconds is longer than any maximum; a forged number of retries must not build a huge integer."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponentially growing delays: `factor_seconds`, twice that, four times …, at most `maximum_seconds`.

    `jitter` spreads each delay evenly between 0 and itself ("full jitter": Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015). Whole seconds, as in Celery's `retry_backoff`.
    """

    factor_seconds: int
    maximum_seconds: int = 600
    jitter: bool = True

    def delay_seconds(self, retries: int, dice: float) -> int:
        """Return the delay before retry number `retries` + 1; `dice` is a random number in [0, 1)."""
        whole = min(self.maximum_seconds, self.factor_seconds << min(max(retries, 0), _MAX_DOUBLINGS))
        return max(0, int(dice * (whole + 1)) if self.jitter else whole)


class AutoRetry(msgspec.Struct, frozen=True, kw_only=True):
    """Which exceptions make a task run again by themselves (Celery's `autoretry_for` and its companions)."""

    on: tuple[type[BaseException], ...]
    never_on: tuple[type[BaseException], ...] = ()
    backoff: Backoff | None = None

    def applies_to(self, error: BaseException) -> bool:
        """Whether this exception makes the task run again, as far as retries are left."""
        return isinstance(error, self.on) and not isinstance(error, self.never_on)


def is_exhausted(retries: int, max_retries: int | None) -> bool:
    """Whether a run with this many retries behind it was the last. `max_retries` None: there is no last."""
    return max_retries is not None and retries >= max_retries
