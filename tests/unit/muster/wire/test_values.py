"""Values cross the wire as kombu's JSON, both ways, and no class is found by a name from data."""

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from muster.wire.values import dumps, encode, loads

ZONES = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15
).filter(lambda value: "__type__" not in str(value))


@given(VALUES)
def test_values_come_back(value):
    """Every type that kombu's JSON carries is read back as it was, however nested."""
    assert loads(dumps(value)) == value
    assert loads(encode(value)) == value


@given(VALUES)
def test_kombu_reads_what_we_write_and_we_read_what_it_writes(value):
    """Both directions agree with kombu itself."""
    assert kombu_loads(dumps(value)) == value
    assert kombu_loads(encode(value)) == value
    assert loads(kombu_dumps(value)) == value


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity, -Infinity]", '"\\ud800"', "1e999", "18446744073709551616"]
)
def test_json_that_only_pythons_reader_takes_is_taken(text):
    """The quick decoder refuses NaN and lone surrogates; they are read all the same, as kombu does."""
    assert repr(loads(text)) == repr(json.loads(text))
    assert repr(loads(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize("value", ["\ud800", 2**64, -(2**80), True, None, "Grüße", ""])
def test_scalars_are_encoded_whatever_they_are(value):
    """The short way for plain scalars writes the same value as the long one."""
    assert json.loads(encode(value)) == json.loads(dumps(value)) == value


class Point:
    def __json__(self):
        return {"x": 1}


def test_a_class_may_say_how_it_is_written():
    """`__json__` gives the value to write, as in kombu."""
    assert dumps([Point()]) == '[{"x": 1}]'


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: None, {(1, 2): 3}, 1j])
def test_what_json_cannot_carry_raises_type_error(value):
    """No value is silently turned into text."""
    with pytest.raises(TypeError):
        dumps(value)
    with pytest.raises(TypeError):
        encode(value)


def test_a_value_inside_itself_ends():
    """A list that contains itself raises instead of filling the memory."""
    inside = []
    inside.append(inside)
    with pytest.raises(RecursionError):
        dumps(inside)


@pytest.mark.parametrize(
    "text",
    [
        '{"__type__": "os.system", "__value__": "id"}',
        '{"__type__": ["datetime"], "__value__": "2026-01-01"}',
        '{"__type__": "datetime", "__value__": "soon"}',
    ],
)
def test_unknown_or_broken_types_raise_value_error(text):
    """A type's name only chooses from a table."""
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_an_object_that_only_resembles_a_typed_value_stays_an_object():
    """Three members, or others, are a user's own dictionary."""
    value = {"__type__": "date", "__value__": "2026-01-01", "more": 1}
    assert loads(dumps(value)) == value


def test_subclasses_are_written_as_their_base():
    """A datetime is not taken for the date that it also is."""
    moment = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
    assert loads(dumps([moment, date(2026, 11, 21), time(8, 30)])) == [
        moment,
        date(2026, 11, 21),
        time(8, 30),
    ]
    assert loads(dumps([Decimal("1.50"), UUID(int=7)])) == [Decimal("1.50"), UUID(int=7)]
