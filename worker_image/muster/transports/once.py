"""What is done once however often it is said, for the brokers in Python; `lua/turn.lua` does the same."""

from collections.abc import Callable, Collection


class Once:
    """What one turn says of that.

    A worker says it again in its next turns until it has an answer, so what it said last is all that need be
    remembered: `said`, unless that is empty. `load` returns what was remembered; it is called when needed.
    """

    def __init__(self, load: Callable[[], Collection[str]]) -> None:
        self._load = load
        self._before: Collection[str] | None = None
        self.said: list[str] = []

    def knows(self, token: str) -> bool:
        """Whether it was said before."""
        if self._before is None:
            self._before = self._load()
        return token in self._before

    def is_new(self, token: str) -> bool:
        """Remember it, and return whether this is the first time."""
        self.said.append(token)
        return not self.knows(token)

    def ours(self, tag: str, *, acked_now: bool) -> bool:
        """Return whether an early ack has been carried out, now or when said before; then remember it."""
        token = f"early {tag}"  # the tag itself stands for what the run publishes
        ours = acked_now or self.knows(token)
        if ours:
            self.said.append(token)
        return ours
