"""How long the oldest message of a queue waits, where only its length and what workers took is known.

RabbitMQ shows no message without delivering it, so the age is estimated: from how long the queue was at each
look, and from how many messages workers say that they have taken, which comes some seconds later. The
observer of such a broker calls it. It knows no broker.
"""

from typing import Final

import msgspec

from muster.core.age import Age, Mark, Source, thinned

UNSAID_SECONDS: Final = 15.0
"""What has left the queue and no worker has said to have taken for so long, others have: Celery's workers."""
WINDOW_SECONDS: Final = 30.0
"""Over so long the rate of starts is taken."""


class Count(msgspec.Struct, frozen=True):
    """So many messages, at that time."""

    at: float
    messages: int


class Flow(msgspec.Struct, frozen=True):
    """A queue as it has been seen to grow and to shrink."""

    began: float
    """When it was looked at first."""
    ready: int
    taken: int
    """What workers have said by now, since they began."""
    entered: int
    """How many messages have entered, of which we know; the first look's are taken to have come with it."""
    marks: tuple[Mark, ...]
    """Oldest first; what had entered by the time of the first was in the queue at the latest look."""
    unsaid: tuple[Count, ...] = ()
    """What has left the queue, and no worker has said that it took it."""
    said: tuple[Count, ...] = ()
    """What workers have said to have taken, lately."""


def follow(before: Flow | None, *, ready: int, taken: int, now: float) -> Flow:
    """Return the flow after one more look, at which so many messages were ready.

    `taken`: how many of this queue's messages all workers together say that they have taken; never falls.
    """
    if before is None:
        return Flow(now, ready, taken, ready, (Mark(now, ready),) if ready else ())
    more = taken - before.taken
    fallen, risen = max(0, before.ready - ready), max(0, ready - before.ready)
    unsaid = [each for each in before.unsaid if now - each.at <= UNSAID_SECONDS]
    unsaid, hidden = _explained([*unsaid, Count(now, fallen)] if fallen else unsaid, more)
    come = risen + hidden  # what was taken while the queue grew no shorter has come meanwhile
    entered = before.entered + come
    marks = (*before.marks, Mark(now, entered)) if come else before.marks
    left = [mark for mark in marks if mark.entered > entered - ready]
    said = tuple(each for each in before.said if now - each.at <= WINDOW_SECONDS)
    return Flow(
        before.began,
        ready,
        taken,
        entered,
        thinned(left, now) if ready and left else (),
        tuple(unsaid),
        (*said, Count(now, more)) if more else said,
    )


def _explained(unsaid: list[Count], said: int) -> tuple[list[Count], int]:
    """Take what workers say off what has left the queue; return what is left of both."""
    left = []
    for each in unsaid:
        explained = min(said, each.messages)
        said -= explained
        if each.messages > explained:
            left.append(Count(each.at, each.messages - explained))
    return left, said


def age(flow: Flow, now: float) -> Age | None:
    """Return for how long the oldest message has waited, about; None when none waits.

    By when it must have come, or by how long so many take to be started at the rate of late (Little's law),
    whichever is less: the first is late to learn of starts, the second of a standstill.
    """
    if not flow.ready:
        return None
    by_marks = max(0.0, now - flow.marks[0].at) if flow.marks else 0.0
    started = sum(each.messages for each in flow.said)
    window = min(WINDOW_SECONDS, now - flow.began)
    by_rate = flow.ready * window / started if started else by_marks
    return Age(min(by_marks, by_rate), Source.ESTIMATED)
