"""How often a task may start: never more than the rate, never less than it allows, each waits once."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.rate import Pace, Rate, ask, ask_beside_others, read_rate
from muster.errors import ConfigurationError

NOW = 1_800_000_000.0
rates = st.builds(
    lambda number, unit: read_rate(f"{number}/{unit}", whose="a rate"),
    st.integers(1, 500),
    st.sampled_from("smh"),
)
gaps = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 100.0)), max_size=60)


def run(rate, arrivals, ask=ask):
    """Let messages come at the given times, each asking again when it was told to. Returns (time, waits)."""
    pace, started = Pace(), []
    coming = [(at, number, 0) for number, at in enumerate(arrivals)]
    heapq.heapify(coming)
    while coming:
        now, number, waits = heapq.heappop(coming)
        pace, until = ask(rate, pace, now)
        if until:
            assert until > now
            heapq.heappush(coming, (until, number, waits + 1))
        else:
            started.append((now, waits))
    return started


def times(gaps):
    at, found = NOW, []
    for gap in gaps:
        at += gap
        found.append(at)
    return found


@pytest.mark.parametrize(
    ("text", "interval", "at_once"),
    [
        ("10", 0.1, 1),
        ("10/s", 0.1, 1),
        (2, 0.5, 1),
        (0.5, 2.0, 1),
        ("0.5/m", 120.0, 1),
        ("100/m", 0.6, 10),
        ("1000/h", 3.6, 100),
        (" 60/h ", 60.0, 6),
    ],
)
def test_celerys_notation(text, interval, at_once):
    """A number a second, minute or hour; a tenth of it may go at once."""
    rate = read_rate(text, whose="a rate")
    assert rate.interval_seconds == pytest.approx(interval)
    late = rate.tolerance_seconds - (at_once - 1) * interval
    assert late == pytest.approx(min(interval / 2, 1.0))


@pytest.mark.parametrize("text", [None, 0, "0", "0/m", "0.0/h"])
def test_nothing_and_zero_are_no_limit(text):
    """As in Celery."""
    assert read_rate(text, whose="a rate") is None


@pytest.mark.parametrize("text", ["", "fast", "10/d", "/s", "-1/s", "1e3/s", "10 / s", "nan", "10/ss", True])
def test_another_notation_is_refused_with_its_place(text):
    """The sentence names where it stands, and what a rate looks like."""
    with pytest.raises(ConfigurationError, match=r"limits.rate of shop.send .* 100/m"):
        read_rate(text, whose="limits.rate of shop.send")


@given(rates, gaps, st.sampled_from([ask, ask_beside_others]))
def test_no_window_has_more_than_the_rate_and_what_may_go_at_once(rate, gaps, ask):
    """In any w seconds at most 1 + (w + tolerance) / interval starts, however messages come."""
    started = [at for at, _ in run(rate, times(gaps), ask)]
    for first in range(len(started)):
        for last in range(first, len(started)):
            window = started[last] - started[first]
            most = 1 + (window + rate.tolerance_seconds) / rate.interval_seconds
            assert last - first + 1 <= most + 1e-4


@given(rates, gaps)
def test_each_waits_once(rate, gaps):
    """A message that was given a time starts at that time."""
    assert all(waits <= 1 for _, waits in run(rate, times(gaps)))


@given(rates, gaps)
def test_no_start_is_held_back_without_need(rate, gaps):
    """Each message starts when it comes, or as soon after the ones before as the rate allows."""
    arrivals = times(gaps)
    started = sorted(at for at, _ in run(rate, arrivals))
    free = float("-inf")  # when the rate allows the next start, counted by itself
    for came, at in zip(arrivals, started, strict=True):
        assert at == pytest.approx(max(came, free), abs=1e-4)
        free = max(free, at - rate.tolerance_seconds) + rate.interval_seconds


@given(rates, gaps)
def test_one_who_is_alone_beside_others_loses_nothing(rate, gaps):
    """Coming again costs no start any time, and a start at most eight visits besides its place."""
    arrivals = times(gaps)
    beside = run(rate, arrivals, ask_beside_others)
    assert sorted(at for at, _ in beside) == pytest.approx(
        sorted(at for at, _ in run(rate, arrivals)), abs=1e-3
    )
    assert sum(waits for _, waits in beside) <= 9 * len(beside)


@given(rates, st.integers(1, 8))
def test_eight_starts_and_ten_seconds_ahead_each_waits_once_beside_others_too(rate, number):
    """Only those whose time is farther away come again."""
    at_once = int(rate.tolerance_seconds / rate.interval_seconds) + 1
    started = run(rate, [NOW] * (at_once + number), ask_beside_others)
    assert all(waits <= 1 for _, waits in started)


@pytest.mark.parametrize("text", ["10/s", "200/s", "100/m", "10/m", "1000/h"])
@pytest.mark.parametrize("workers", [2, 5])
def test_several_who_share_a_queue_start_nearly_as_much_as_each_may(text, workers):
    """Whoever comes first to a message asks. With a place for each, one would have to start all of them."""
    rate, dice = read_rate(text, whose=""), random.Random(text)
    paces = [Pace()] * workers
    coming = [(NOW, number) for number in range(100 * workers)]
    last = NOW
    while coming:
        last, number = heapq.heappop(coming)
        worker = dice.randrange(workers)
        paces[worker], until = ask_beside_others(rate, paces[worker], last)
        if until:
            heapq.heappush(coming, (until, number))
    places = max(10.0, 8 * rate.interval_seconds)
    assert last - NOW <= 1.5 * 100 * rate.interval_seconds + 2 * places


@given(rates, st.integers(2, 50))
def test_those_who_are_late_by_less_than_the_tolerance_delay_nobody(rate, count):
    """A broker wakes a little late, every time: the pace holds all the same."""
    late = min(rate.tolerance_seconds, rate.interval_seconds) * 0.4
    pace, last = Pace(), NOW
    waiting = []
    for _ in range(count):
        pace, until = ask(rate, pace, NOW)
        waiting += [until] if until else []
    for until in waiting:
        last = until + late
        pace, again = ask(rate, pace, last)
        assert not again
    assert last <= NOW + count * rate.interval_seconds


def test_a_hundred_a_minute():
    """Ten go at once, then one every 0.6 s."""
    started = [at - NOW for at, _ in run(read_rate("100/m", whose=""), [NOW] * 13)]
    assert started == pytest.approx([0.0] * 10 + [0.3, 0.9, 1.5], abs=1e-4)


def test_a_pace_that_is_long_over_is_as_good_as_none():
    """So a broker may forget it once both of its times have passed."""
    rate = Rate(1.0, 0.5)
    assert ask(rate, Pace(NOW - 5, NOW - 4), NOW)[1] == ask(rate, Pace(), NOW)[1] == 0.0
    once, _ = ask(rate, Pace(NOW - 5, NOW - 4), NOW)
    assert ask(rate, once, NOW)[1] == ask(rate, ask(rate, Pace(), NOW)[0], NOW)[1]
