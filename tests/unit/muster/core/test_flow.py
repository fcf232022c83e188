"""The age of the oldest message, estimated from the queue's length and from what workers say they took."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.age import Age, Source
from muster.core.flow import UNSAID_SECONDS, age, follow

NOW = 1_000.0
SLACK = 1e-6  # of sums of floats


class Queue:
    """A queue, its workers, which say now and then what they took, and one who looks each second."""

    def __init__(self):
        self.now = NOW
        self.entered_at = deque()
        self.taken = self.said = 0
        self.flow = None
        self.ages = []
        """(when, true age of the oldest) at each step."""

    def enter(self, count):
        self.entered_at.extend([self.now] * count)

    def take(self, count, *, by_others=False):
        for _ in range(min(count, len(self.entered_at))):
            self.entered_at.popleft()
            self.taken += not by_others

    def say(self):
        self.said = self.taken

    def wait(self, seconds):
        self.now += seconds

    @property
    def true_age(self):
        return self.now - self.entered_at[0] if self.entered_at else 0.0

    def look(self):
        self.flow = follow(self.flow, ready=len(self.entered_at), taken=self.said, now=self.now)
        self.ages.append((self.now, self.true_age))
        return age(self.flow, self.now)


def seconds(found):
    return None if found is None else found.seconds


def test_a_queue_without_messages_has_no_age():
    """Nor has one that was emptied."""
    queue = Queue()
    assert queue.look() is None
    queue.enter(5)
    assert queue.look() == Age(0, Source.ESTIMATED)
    queue.take(5)
    queue.wait(1)
    assert queue.look() is None


def test_what_nobody_takes_grows_older_with_the_clock():
    """From the look at which the queue was first seen not to be empty."""
    queue = Queue()
    queue.look()
    queue.enter(3)
    ages = []
    for _ in range(4):
        ages.append(seconds(queue.look()))
        queue.wait(10)
    assert ages == [0, 10, 20, 30]


def test_of_a_backlog_that_is_worked_off_those_that_came_last_are_younger():
    """Whether the workers say at once what they took, or seconds later."""
    queue = Queue()
    queue.enter(100)
    queue.look()
    queue.wait(60)
    queue.enter(100)
    assert seconds(queue.look()) == 60
    queue.take(99)
    queue.wait(1)
    assert seconds(queue.look()) == 61
    queue.take(51)
    queue.wait(1)
    assert seconds(queue.look()) == 2
    queue.say()
    queue.wait(1)
    assert seconds(queue.look()) == 3


def test_a_steady_stream_is_as_old_as_its_length_takes():
    """Ten wait, and a hundred are started each second: a tenth of a second, not the time since a report."""
    queue, ages = Queue(), []
    queue.enter(10)
    for second in range(60):
        ages.append(seconds(queue.look()))
        for _ in range(100):
            queue.enter(1)
            queue.take(1)
            queue.wait(0.01)
        if second % 5 == 4:
            queue.say()
    assert max(ages[30:]) == pytest.approx(0.1, rel=0.5)


def test_a_standstill_shows_in_spite_of_the_starts_before():
    """When nobody takes any more, the age is the time that has passed, as soon as the starts are long ago."""
    queue = Queue()
    queue.enter(1000)
    for _ in range(10):
        queue.look()
        queue.take(10)
        queue.say()
        queue.wait(1)
    for _ in range(60):
        queue.wait(1)
        found = queue.look()
    assert seconds(found) == pytest.approx(queue.true_age)


def test_what_others_take_is_followed_as_far_as_the_queue_grows_shorter():
    """Celery's workers say nothing: after a while what has left the queue is theirs, and new ones are new."""
    queue = Queue()
    queue.enter(10)
    queue.look()
    queue.take(10, by_others=True)
    queue.enter(4)
    queue.wait(1)
    assert seconds(queue.look()) == 1, "it could be any of the first ten"
    queue.wait(UNSAID_SECONDS + 1)
    queue.take(4)
    queue.say()
    queue.enter(4)
    assert seconds(queue.look()) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(1, 50)),
        st.tuples(st.just("take"), st.integers(1, 50)),
        st.tuples(st.just("wait"), st.integers(1, 8)),
    ),
    max_size=80,
)


@given(steps)
def test_with_reports_at_each_look_no_age_is_above_the_true_one(told):
    """Nor is a queue with messages ever without one."""
    queue = Queue()
    for name, number in told:
        getattr(queue, name)(number)
        queue.say()
        found = queue.look()
        assert (found is None) == (not queue.entered_at)
        assert found is None or 0 <= found.seconds <= queue.true_age + SLACK


@given(steps, st.integers(1, 6))
def test_late_reports_make_an_age_older_by_their_lateness_at_most(told, late):
    """It is that of a message which was the oldest when they last said."""
    queue, said_at = Queue(), NOW
    for name, number in told:
        for _ in range(number if name == "wait" else 1):
            getattr(queue, name)(1 if name == "wait" else number)
            if queue.now - said_at >= late:
                queue.say()
                said_at = queue.now
            found = queue.look()
            assert (found is None) == (not queue.entered_at)
            most = max(true + queue.now - at for at, true in queue.ages if at >= queue.now - late)
            assert found is None or found.seconds <= most + SLACK
