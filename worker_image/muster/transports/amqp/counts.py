"""How many messages stand in many queues: asked for over several channels at a time.

A channel has one question under way, so that a thousand queues would cost a thousand round trips. The
observer calls `counts`.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from muster.transports.amqp.line import ACCESS_REFUSED, ANSWER_SECONDS, Line, Refusal, SideChannel

AT_ONCE: Final = 16
FEW: Final = 64
"""So few are asked for on the line's own channel: more channels cost round trips of their own."""


Counted: TypeAlias = int | Refusal | None
"""How many messages are ready in a queue, or why that cannot be said; None: there is no such queue."""


def counts(line: Line, queues: Iterable[str]) -> dict[str, Counted]:
    """Return what is known of each queue. Raises Refusal where the server lets us ask for none."""
    names = list(dict.fromkeys(queues))
    if len(names) <= FEW:
        return {name: _count(line, name) for name in names}
    counting = _Counting(names)
    sides: list[SideChannel] = []
    try:
        while len(counting.found) < len(names):
            while counting.left and len(counting.asking) < AT_ONCE:
                sides.append(line.new_channel())
                counting.ask(sides[-1])
            counted = len(counting.found)
            line.wait(lambda n=counted: len(counting.found) > n or counting.closed(), ANSWER_SECONDS)  # type: ignore[misc]
            line.serve()  # raises what has become of the connection, if it is that
            for side in counting.closed():
                counting.missed(side)
    finally:
        counting.left.clear()  # who is still asked asks no more
        for side in sides:
            if side.is_open:
                side.channel.close()
    return counting.found


def _count(line: Line, queue: str) -> Counted:
    try:
        return line.count(queue)
    except Refusal as refusal:
        if refusal.code == ACCESS_REFUSED:
            raise
        return refusal


class _Counting:
    """What is left to ask, what has been answered, and which channel asks for which queue."""

    def __init__(self, names: Iterable[str]) -> None:
        self.left = deque(names)
        self.found: dict[str, Counted] = {}
        self.asking: dict[SideChannel, str] = {}

    def ask(self, side: SideChannel) -> None:
        if not self.left or not side.is_open:  # a line that is gone says so when it is used next
            return
        queue = self.asking[side] = self.left.popleft()

        def answered(answer: Any) -> None:
            del self.asking[side]
            self.found[queue] = int(answer.method.message_count)
            self.ask(side)

        side.channel.queue_declare(queue, passive=True, callback=answered)

    def closed(self) -> list[SideChannel]:
        """Return the channels that were closed instead of an answer."""
        return [side for side in self.asking if not side.is_open]

    def missed(self, side: SideChannel) -> None:
        """Take note of a queue that is not there, or cannot be read. Raises Refusal as `counts` does."""
        queue, refusal = self.asking.pop(side), side.refusal
        if refusal is None or refusal.code == ACCESS_REFUSED:
            raise refusal or Refusal(0, f"the channel was closed when queue {queue} was asked for")
        self.found[queue] = None if refusal.is_absence else refusal
