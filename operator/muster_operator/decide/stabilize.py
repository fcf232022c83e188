"""How fast a size may follow the load: stabilization windows and step policies, in HPA's words.

`scaling` records every pass in a History and asks here what the recent past allows. Recording keeps few,
widening entries, never more than `ENTRIES_MAX` of a kind, each rounded to the careful side.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from muster_operator.api.workerpool import PolicyType, ScalingPolicy, ScalingRules, SelectPolicy
from muster_operator.model.history import Change, History, Wish

ENTRIES_MAX = 64
_PARTS = 30
_SECOND = timedelta(seconds=1)


def record_wish(history: History, wish: int | None, window: timedelta, now: datetime) -> History:
    """Return the history with the size that the load asks for at `now`; None when the load is Unknown.

    An Unknown forgets the past: only an unbroken window of fresh readings lets a pool shrink.
    """
    if wish is None:
        return replace(history, since=None, wishes=())
    kept = tuple(each for each in history.wishes if each.last_at >= now - window)
    since = history.since if kept and history.since is not None else now
    part = max(window / _PARTS, _SECOND)
    if kept and now - kept[-1].first_at < part:
        last = kept[-1]
        merged = replace(last, last_at=now, lowest=min(last.lowest, wish), highest=max(last.highest, wish))
        kept = (*kept[:-1], merged)
    else:
        kept = (*kept, Wish(first_at=now, last_at=now, lowest=wish, highest=wish))
    return replace(history, since=max(since, now - window), wishes=kept[-ENTRIES_MAX:])


def record_size(history: History, size: int, period: timedelta, now: datetime) -> History:
    """Return the history with the size seen at `now`: what changed since the last pass is a change.

    So a change counts when it was made, by whomever, and a plan that failed counts for nothing.
    """
    changes = tuple(each for each in history.changes if each.at >= now - period)
    by = 0 if history.size is None else size - history.size
    if by:
        part = max(period / _PARTS, _SECOND)
        slot = _slot(now, part)
        same = [each for each in changes if (each.by > 0) == (by > 0) and _slot(each.at, part) == slot]
        merged = Change(at=now, by=by + sum(each.by for each in same))
        changes = (*(each for each in changes if each not in same), merged)
    return replace(history, changes=changes[-ENTRIES_MAX:], size=size)


def _slot(moment: datetime, part: timedelta) -> int:
    return int(moment.timestamp() // part.total_seconds())


def covered(history: History, window: timedelta, now: datetime) -> bool:
    """Return whether the load was known without a break for the whole window."""
    return history.since is not None and history.since <= now - window


def highest(history: History, window: timedelta, now: datetime) -> int:
    """Return the largest size that the load asked for within the window."""
    return max((wish.highest for wish in history.wishes if wish.last_at >= now - window), default=0)


def lowest(history: History, window: timedelta, now: datetime) -> int:
    """Return the smallest size that the load asked for within the window."""
    return min((wish.lowest for wish in history.wishes if wish.last_at >= now - window), default=0)


def up_limit(rules: ScalingRules, size: int, history: History, now: datetime) -> int | None:
    """Return the largest size that the rules allow now, never below `size`; None: there is no limit.

    Percent counts from the size at the period's start, rounded up, and always allows one worker: or a pool
    would never leave zero.
    """
    if rules.select_policy is SelectPolicy.DISABLED:
        return size
    limits = [
        max(start + 1, -(-start * (100 + policy.value) // 100))
        if policy.type is PolicyType.PERCENT
        else start + policy.value
        for policy, start in _starts(rules.policies, size, history, now)
    ]
    if not limits:
        return None
    return max(size, min(limits) if rules.select_policy is SelectPolicy.MIN else max(limits))


def down_limit(rules: ScalingRules, size: int, history: History, now: datetime) -> int:
    """Return the smallest size that the rules allow now, never above `size`; 0: there is no limit.

    Percent counts from the size at the period's start, rounded down, so that 50 percent of one worker is
    none.
    """
    if rules.select_policy is SelectPolicy.DISABLED:
        return size
    limits = [
        start * max(0, 100 - policy.value) // 100
        if policy.type is PolicyType.PERCENT
        else start - policy.value
        for policy, start in _starts(rules.policies, size, history, now)
    ]
    if not limits:
        return 0
    chosen = max(limits) if rules.select_policy is SelectPolicy.MIN else min(limits)
    return max(0, min(size, chosen))


def longest_period(*rules: ScalingRules) -> timedelta:
    """Return the longest period of any policy, 0 when there is none."""
    seconds = (policy.period_seconds for each in rules for policy in each.policies)
    return timedelta(seconds=max(seconds, default=0))


def _starts(
    policies: Iterable[ScalingPolicy], size: int, history: History, now: datetime
) -> list[tuple[ScalingPolicy, int]]:
    """Return each policy with the size at the beginning of its period."""
    return [
        (
            policy,
            max(
                0,
                size
                - sum(
                    change.by
                    for change in history.changes
                    if change.at >= now - timedelta(seconds=policy.period_seconds)
                ),
            ),
        )
        for policy in policies
    ]
