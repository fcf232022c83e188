"""The queue of keys: each object's key is in it once, and one worker at a time has it.

`run` feeds it from watches, readings and clocks and takes from it. A key that fails comes back later each
time; one that is added while it is worked on comes back once. A value of times and sets: no task, no clock.
"""

import heapq
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

FIRST_PAUSE: Final = timedelta(milliseconds=200)
LONGEST_PAUSE: Final = timedelta(seconds=30)


class Key(NamedTuple):
    """What a pass is about. `kind` is a kind, or Beat or VirtualHost with a Secret's name."""

    kind: str
    namespace: str
    name: str


@dataclass
class KeyQueue:
    """Keys by the time when each is due."""

    _due: dict[Key, datetime] = field(default_factory=dict)
    _heap: list[tuple[datetime, Key]] = field(default_factory=list)
    _working: set[Key] = field(default_factory=set)
    _failures: dict[Key, int] = field(default_factory=dict)

    def add(self, key: Key, at: datetime) -> None:
        """Ask for a pass over `key` at `at`, or earlier if that has been asked for."""
        before = self._due.get(key)
        if before is None or at < before:
            self._due[key] = at
            heapq.heappush(self._heap, (at, key))

    def take(self, now: datetime) -> Key | None:
        """Return a key that is due and nobody has, or None; the caller gives it back by `done`."""
        held_back = []
        found = None
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) != at:
                continue  # asked for again, earlier
            if key in self._working:
                held_back.append((at, key))
                continue
            del self._due[key]
            self._working.add(key)
            found = key
            break
        for entry in held_back:
            heapq.heappush(self._heap, entry)
        return found

    def done(self, key: Key, now: datetime, *, again_at: datetime | None = None) -> None:
        """Give a key back after a pass that worked; look again at `again_at`."""
        self._working.discard(key)
        self._failures.pop(key, None)
        if again_at is not None:
            self.add(key, max(again_at, now))

    def failed(self, key: Key, now: datetime) -> timedelta:
        """Give a key back after a pass that failed; it comes again after the returned pause."""
        self._working.discard(key)
        count = self._failures[key] = self._failures.get(key, 0) + 1
        pause: timedelta = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(count - 1, 10))
        self._due.pop(key, None)  # what was asked for meanwhile waits as well
        self.add(key, now + pause)
        return pause

    def next_at(self) -> datetime | None:
        """Return when the next key is due that nobody has."""
        # not the heap's: it still holds the times that an earlier wish or a failure has overruled
        return min((at for key, at in self._due.items() if key not in self._working), default=None)

    def __len__(self) -> int:
        return len(self._due) + len(self._working)
