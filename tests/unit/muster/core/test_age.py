"""The age of the oldest message: as it says itself, or as far as it could be followed."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from muster.core.age import PRECISION, Age, Mark, Source, Track, age, follow, greatest
from muster.wire.message import pack

NOW = 1_800_000_000.0
SLACK = 1e-6  # of sums of floats


def message(published_at=None, eta=None):
    headers = {"task": "shop.send", "id": "1", "retries": 0, "eta": eta}
    return pack(
        headers=headers,
        body="[[],{},{}]",
        queue="mail",
        task_id="1",
        delivery_tag="t",
        published_at=published_at,
    )


UNSTAMPED = message()


class Queue:
    """A list as a broker holds it: when its messages entered, and after how many looks. And one who looks."""

    def __init__(self):
        self.now = NOW
        self.entered_at = deque()
        self.taken = []
        self.sent = 0
        self.newest = 0
        self.track = None
        self.looks = []

    def enter(self, count):
        for _ in range(count):
            self.sent += 1
            self.entered_at.appendleft((self.sent, self.now, len(self.looks)))

    def take(self, count):
        for _ in range(min(count, len(self.entered_at))):
            self.taken.append(self.entered_at.pop())

    def give_back(self, count):
        for _ in range(min(count, len(self.taken))):
            self.entered_at.append(self.taken.pop())

    def look(self):
        self.looks.append(self.now)
        if not self.entered_at:
            self.track = None
            return None
        numbers = [number for number, _, _ in self.entered_at]
        behind = None
        if self.track is not None and int(self.track.newest) in numbers:
            behind = numbers.index(int(self.track.newest))
        self.track = follow(
            self.track,
            newest=str(numbers[0]).encode(),
            length=len(numbers),
            behind=behind,
            now=self.now,
        )
        return age(UNSTAMPED, self.track, self.now).seconds

    def true_age(self):
        return self.now - self.entered_at[-1][1]


counts = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.sampled_from(["enter", "take", "look", "look"]), counts, st.floats(0.0, 100.0)), max_size=80
)


@given(steps)
def test_a_tracked_age_is_the_true_one_but_for_the_time_between_looks(steps):
    """Never above it; and short of it by one gap between looks and a twentieth, if it came in our time."""
    queue = Queue()
    for what, count, seconds in [*steps, ("look", 0, 0.0)]:
        queue.now += seconds
        if what != "look":
            getattr(queue, what)(count)
        elif (shown := queue.look()) is not None:
            assert shown <= queue.true_age() + SLACK
            _, _, looks_before = queue.entered_at[-1]
            if looks_before:
                gap = queue.looks[looks_before] - queue.looks[looks_before - 1]
                assert queue.true_age() <= shown * (1 + PRECISION) + gap + SLACK


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "take", "give_back", "look"]), counts, st.floats(0.0, 100.0)),
        max_size=80,
    )
)
def test_what_workers_give_back_makes_no_age_too_great(steps):
    """It takes the place that it had, and has waited for longer than what it stands before."""
    queue = Queue()
    for what, count, seconds in [*steps, ("look", 0, 0.0)]:
        queue.now += seconds
        if what != "look":
            getattr(queue, what)(count)
        elif (shown := queue.look()) is not None:
            oldest = min(at for _, at, _ in queue.entered_at)
            assert shown <= queue.now - oldest + SLACK


def test_a_backlog_that_keeps_its_size_shows_how_far_behind_it_is():
    """A hundred come and go in each second, a thousand wait: the oldest has waited for ten seconds."""
    queue = Queue()
    for _ in range(10):
        queue.enter(100)
        queue.look()
        queue.now += 1
    for _ in range(60):
        queue.enter(100)
        queue.take(100)
        assert queue.look() in {9, 10}
        queue.now += 1


def test_when_the_newest_has_been_taken_everything_before_it_is_gone():
    """A queue that was drained and filled between two looks is young, however long there was one."""
    queue = Queue()
    queue.enter(3)
    queue.look()
    queue.now += 500
    assert queue.look() == 500
    queue.take(3)
    queue.enter(2)
    assert queue.look() == 0
    queue.now += 7
    assert queue.look() == 7


def test_a_track_stays_short():
    """A day in which messages come every second and none is taken is a few hundred marks."""
    track = None
    for second in range(20_000):
        track = follow(track, newest=b"", length=second + 1, behind=1 if second else None, now=NOW + second)
    assert len(track.marks) < 250
    assert age(UNSTAMPED, track, NOW + 20_000).seconds == 20_000


def test_a_message_that_tells_its_age_is_believed():
    """Since it was published, or since its ETA if that came later; never before the broker's now."""
    track = Track(b"", (Mark(NOW - 500, 1),))
    assert age(message(int(NOW) - 30), track, NOW) == Age(30, Source.MEASURED)
    assert age(message(int(NOW) - 30, eta="2027-01-15T07:59:50+00:00"), None, NOW) == Age(10, Source.MEASURED)
    assert age(message(int(NOW) - 30, eta="2027-01-15T08:01:00+00:00"), None, NOW) == Age(0, Source.MEASURED)
    assert age(message(int(NOW) + 5), None, NOW) == Age(0, Source.MEASURED)
    assert age(UNSTAMPED, track, NOW) == Age(500, Source.TRACKED)
    assert age(b"no message at all", track, NOW) == Age(500, Source.TRACKED)
    assert age(UNSTAMPED, None, NOW) is None


def test_the_oldest_of_all_lists_counts():
    """What nobody can tell is left out; of two equal ages the measured one is shown."""
    young, old = Age(1, Source.MEASURED), Age(9, Source.TRACKED)
    assert greatest([young, None, old]) == old
    assert greatest([old, Age(9, Source.MEASURED)]).source is Source.MEASURED
    assert greatest([None]) is None
