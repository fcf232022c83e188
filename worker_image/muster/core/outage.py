"""How an outage is met: when to try again, when to speak of it, and with what words.

One `Outage` for each server that can be away by itself. Times are monotonic seconds.
"""

from typing import Final

import msgspec

from muster.errors import BrokerRefused, BrokerUnavailable

_LONGEST_PAUSE_SECONDS: Final = 3.0
"""So whoever waits consumes again within five seconds of the server's return, on a busy machine too."""
_FIRST_SILENCE_SECONDS: Final = 60.0
_LONGEST_SILENCE_SECONDS: Final = 600.0


class Outage(msgspec.Struct, frozen=True):
    """What is known of an outage that goes on."""

    since: float
    attempts: int
    retry_at: float
    warnings: int
    warn_at: float
    """When it is spoken of again."""


def after_failure(before: Outage | None, now: float, dice: float) -> tuple[Outage, bool]:
    """Return the outage after one more attempt, and whether to warn of it. `dice` is a number in [0, 1).

    Attempts follow ever more slowly, each somewhere in the upper half of its pause: a fleet must not come
    back all at once. Warnings come at once, then after 1, 2, 4, 8 minutes and every 10 minutes.
    """
    if before is None:
        before = Outage(since=now, attempts=0, retry_at=now, warnings=0, warn_at=now)
    attempts, warnings, warn_at = before.attempts + 1, before.warnings, before.warn_at
    pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(attempts, 6)) * (0.5 + dice / 2)
    warns = now >= warn_at
    if warns:
        warn_at = now + min(_LONGEST_SILENCE_SECONDS, _FIRST_SILENCE_SECONDS * 2 ** min(warnings, 4))
        warnings += 1
    return Outage(before.since, attempts, now + pause, warnings, warn_at), warns


def sentence(error: BrokerUnavailable, outage: Outage, now: float, *, meanwhile: str) -> str:
    """Return the warning: what happened, for how long, what becomes of the work, and what to do."""
    lasts = f", for {lasted(now - outage.since)} now" if outage.warnings > 1 else ""
    if isinstance(error, BrokerRefused):
        remedy = (
            "It is tried again, in vain until the user and password in its URL, or what they may do there, "
            "are put right (in a cluster: in the Secret that has the URL)"
        )
    else:
        remedy = "It is tried again until it answers: see that it runs and can be reached from here"
    return f"{str(error).rstrip('.')}{lasts}; {meanwhile}. {remedy}"


def lasted(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
