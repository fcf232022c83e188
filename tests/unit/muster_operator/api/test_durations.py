"""Durations: what users write is what the code holds."""

from datetime import timedelta

import pytest
from hypothesis import given

from muster_operator.api.durations import LONGEST, MAX_LENGTH, MIN_LENGTH, format_duration, parse_duration
from resource_strategies import DURATIONS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("24h", 86400),
        ("7d", 604800),
        ("1d12h", 129600),
        ("0s", 0),
        ("250ms", 0.25),
        ("1s500ms", 1.5),
        ("90m", 5400),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text, seconds):
    """Days, hours, minutes, seconds and milliseconds add up."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "90",
        "1.5h",
        "-1s",
        "+1s",
        "1w",
        "1h 30m",
        "30m1h",
        "5M",
        "1s\n",
        "1µs",
        "٣s",
        "123456d",
        "1mm",
    ],
)
def test_anything_else_is_refused_with_a_sentence(text):
    """What is no duration is quoted, beside the form of one."""
    with pytest.raises(ValueError, match="is no duration: a duration is written like 90s, 5m, 1h30m or 7d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(hours=24), "24h"),
        (timedelta(days=7), "7d"),
        (timedelta(days=2, hours=1), "49h"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(milliseconds=1500), "1s500ms"),
        (timedelta(0), "0s"),
    ],
)
def test_durations_are_written_as_people_write_them(value, text):
    """Whole days from two up are days, all else is hours, minutes, seconds and milliseconds."""
    assert format_duration(value) == text


@given(value=DURATIONS)
def test_writing_and_reading_returns_the_duration(value):
    """`parse` after `format` is identity, within the lengths that the schema allows."""
    text = format_duration(value)
    assert parse_duration(text) == value
    assert MIN_LENGTH <= len(text) <= MAX_LENGTH


@pytest.mark.parametrize(
    "value", [timedelta(seconds=-1), timedelta(microseconds=1), LONGEST + timedelta(milliseconds=1)]
)
def test_what_cannot_be_written_is_an_error(value):
    """What is negative, too fine or too long has no text, and none is made up for it."""
    with pytest.raises(ValueError, match="negative, longer than 106029 days or finer"):
        format_duration(value)
