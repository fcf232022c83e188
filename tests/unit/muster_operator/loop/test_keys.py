"""The queue of keys."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster_operator.loop.keys import FIRST_PAUSE, LONGEST_PAUSE, Key, KeyQueue
from worlds import NOW, seconds

A, B = Key("WorkerPool", "shop", "a"), Key("WorkerPool", "shop", "b")


def test_a_key_that_was_added_often_is_taken_once():
    """However many changes there were, one pass sees them all."""
    queue = KeyQueue()
    for _ in range(5):
        queue.add(A, NOW)
    assert [queue.take(NOW), queue.take(NOW)] == [A, None]


def test_the_earliest_time_counts():
    """A later wish does not put an earlier one off, and an earlier one brings a later one forward."""
    queue = KeyQueue()
    queue.add(A, NOW + seconds(10))
    queue.add(A, NOW + seconds(5))
    queue.add(A, NOW + seconds(20))
    assert queue.take(NOW + seconds(4)) is None
    assert queue.next_at() == NOW + seconds(5)
    assert queue.take(NOW + seconds(5)) == A
    queue.done(A, NOW + seconds(5))
    assert queue.next_at() is None
    assert queue.take(NOW + seconds(60)) is None


def test_one_worker_at_a_time_has_a_key():
    """What is added while a key is worked on waits for its end, and then comes once; others do not wait."""
    queue = KeyQueue()
    queue.add(A, NOW)
    assert queue.take(NOW) == A
    queue.add(A, NOW)
    queue.add(A, NOW)
    queue.add(B, NOW)
    assert [queue.take(NOW), queue.take(NOW)] == [B, None]
    queue.done(A, NOW)
    assert [queue.take(NOW), queue.take(NOW)] == [A, None]


def test_failures_pause_longer_and_longer_and_no_change_shortens_that():
    """From 0.2 s to 30 s, doubling; after a pass that worked the row begins anew."""
    queue, now, pauses = KeyQueue(), NOW, []
    queue.add(A, now)
    for _ in range(10):
        assert queue.take(now) == A
        queue.add(A, now)
        pauses.append(queue.failed(A, now))
        assert queue.take(now + pauses[-1] - timedelta(microseconds=1)) is None
        now += pauses[-1]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert queue.take(now) == A
    queue.done(A, now)
    queue.add(A, now)
    assert queue.take(now) == A
    assert queue.failed(A, now) == FIRST_PAUSE


def test_a_pass_says_when_it_wants_to_look_again():
    """Never before now, and not instead of what was asked for meanwhile."""
    queue = KeyQueue()
    queue.add(A, NOW)
    queue.take(NOW)
    queue.add(A, NOW + seconds(1))
    queue.done(A, NOW, again_at=NOW + seconds(9))
    assert queue.next_at() == NOW + seconds(1)
    queue.take(NOW + seconds(1))
    queue.done(A, NOW + seconds(1), again_at=NOW - seconds(9))
    assert queue.next_at() == NOW + seconds(1)


class AnyUse(RuleBasedStateMachine):
    """Any order of calls: no wish is lost, nobody has a key twice, and the next time is never too late."""

    keys = st.sampled_from([Key("WorkerPool", "shop", name) for name in "abc"])
    delays = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.queue = KeyQueue()
        self.now = NOW
        self.wished: dict[Key, object] = {}
        self.working: set[Key] = set()

    @rule(key=keys, delay=delays)
    def add(self, key, delay):
        at = self.now + seconds(delay)
        self.queue.add(key, at)
        self.wished[key] = min(self.wished.get(key, at), at)

    @rule()
    def take(self):
        due = {key for key, at in self.wished.items() if at <= self.now} - self.working
        taken = self.queue.take(self.now)
        assert taken in due if due else taken is None
        if taken is not None:
            del self.wished[taken]
            self.working.add(taken)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), again=st.none() | delays)
    def done(self, data, again):
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.working.discard(key)
        at = None if again is None else self.now + seconds(again)
        self.queue.done(key, self.now, again_at=at)
        if at is not None:
            self.wished[key] = min(self.wished.get(key, at), at)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def fail(self, data):
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.working.discard(key)
        self.wished[key] = self.now + self.queue.failed(key, self.now)

    @rule(delay=delays)
    def wait(self, delay):
        self.now += seconds(delay)

    @invariant()
    def the_next_time_is_that_of_the_earliest_wish(self):
        free = [at for key, at in self.wished.items() if key not in self.working]
        assert self.queue.next_at() == min(free, default=None)
        assert len(self.queue) == len(self.wished) + len(self.working)


TestAnyUse = AnyUse.TestCase


@given(st.lists(st.integers(0, 100), min_size=1, max_size=50))
def test_keys_come_in_the_order_of_their_times(delays):
    """Nothing that is due earlier waits behind what is due later."""
    queue = KeyQueue()
    at = {Key("Schedule", "shop", str(number)): NOW + seconds(delay) for number, delay in enumerate(delays)}
    for key, moment in at.items():
        queue.add(key, moment)
    taken = [queue.take(NOW + seconds(200)) for _ in delays]
    assert [at[key] for key in taken] == sorted(at.values())
