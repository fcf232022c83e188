"""A schedule's JSON forms: what goes round comes back, and what is none is refused by name."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.wire import schedule as wire
from muster.wire.schedule import RunRecord, ScheduleEntry, SolarEntry, microseconds, tick_id

instants = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 -- the strategy adds the zone
    timezones=st.just(UTC),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
timings = st.one_of(
    st.fixed_dictionaries({"cron": st.text(), "days": st.sampled_from(["Either", "Both"])}),
    st.fixed_dictionaries({"every_seconds": st.floats(min_value=0.1, max_value=3e9)}),
    st.fixed_dictionaries(
        {
            "solar": st.builds(
                SolarEntry, event=st.text(), latitude=st.floats(-90, 90), longitude=st.floats(-180, 180)
            )
        }
    ),
)
entries = timings.flatmap(
    lambda timing: st.builds(
        ScheduleEntry,
        uid=st.uuids().map(str),
        name=st.text(),
        task=st.text(),
        args=st.lists(plain).map(tuple),
        kwargs=st.dictionaries(st.text(), plain),
        queue=st.none() | st.text(),
        options=st.dictionaries(st.text(), plain),
        time_zone=st.text(),
        suspended=st.booleans(),
        starting_deadline_seconds=st.none() | st.floats(min_value=1, max_value=1e9),
        catch_up=st.sampled_from(["None", "Last", "All"]),
        concurrency_policy=st.sampled_from(["Allow", "Forbid"]),
        generation=st.integers(0, 2**40),
        created_at=instants,
        since=instants,
        **{key: st.just(value) for key, value in timing.items()},
    )
)
records = st.builds(
    RunRecord,
    settled_at=st.none() | instants,
    last_at=st.none() | instants,
    last_id=st.none() | st.uuids().map(str),
    next_at=st.none() | instants,
    next_id=st.none() | st.uuids().map(str),
    missed=st.integers(0, 2**60),
)

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
ENTRY = ScheduleEntry(
    uid="u", name="shop/report", task="shop.tasks.report", cron="*/5 * * * *", created_at=NOW, since=NOW
)


@given(entries)
def test_an_entry_comes_back_as_it_went(entry):
    """Decoding undoes encoding, arguments included."""
    assert wire.decode_entry(wire.encode(entry)) == entry


@given(records)
def test_a_record_comes_back_as_it_went(record):
    """Decoding undoes encoding."""
    assert wire.decode_record(wire.encode(record)) == record


@given(records)
def test_a_run_comes_back_as_it_went(record):
    """A record behind its mark is the record again, whatever instant the mark is, or none."""
    assert wire.read_run(wire.write_run(record)) == record


@given(st.none() | instants, st.sampled_from([b"", b"{", b"[]", b'{"missed":"many"}', b"{}"]))
def test_of_a_run_that_cannot_be_read_the_mark_remains(mark, document):
    """What decides about ticks is not lost with what people read."""
    data = wire.mark_text(mark).encode() + b" " + document
    assert wire.read_run(data) == RunRecord(settled_at=mark)


def test_an_entry_that_cannot_be_read_says_why():
    """Beat goes on with the others and names what is wrong with this one."""
    assert wire.read_entry(wire.encode(ENTRY)) == (ENTRY, "")
    entry, wrong = wire.read_entry(b'{"uid":"u"}')
    assert entry is None
    assert "name" in wrong


def test_equal_entries_have_equal_bytes():
    """The order in which keyword arguments were written does not make another entry."""
    one = msgspec.structs.replace(ENTRY, kwargs={"a": 1, "b": {"c": 2, "d": 3}})
    other = msgspec.structs.replace(ENTRY, kwargs={"b": {"d": 3, "c": 2}, "a": 1})

    assert wire.encode(one) == wire.encode(other)


def test_the_form_of_an_entry():
    """The bytes are the contract with what another version wrote: names, defaults left out, UTC times."""
    assert wire.encode(ENTRY) == (
        b'{"uid":"u","name":"shop/report","task":"shop.tasks.report","cron":"*/5 * * * *",'
        b'"created_at":"2026-11-21T08:00:00Z","since":"2026-11-21T08:00:00Z"}'
    )


def test_fields_of_a_later_version_are_passed_over():
    """An entry with a field that this version does not know is read."""
    later = wire.encode(ENTRY)[:-1] + b',"holidays":["2026-12-25"]}'

    assert wire.decode_entry(later) == ENTRY


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "uid"),
        (wire.encode(ENTRY).replace(b'"cron":"*/5 * * * *",', b""), "exactly one"),
        (wire.encode(ENTRY)[:-1] + b',"every_seconds":5}', "exactly one"),
        (wire.encode(ENTRY)[:-1] + b',"catch_up":"Some"}', "catch_up"),
        (wire.encode(ENTRY)[:-1] + b',"starting_deadline_seconds":0}', "starting_deadline_seconds"),
        (wire.encode(ENTRY).replace(b"08:00:00Z", b"08:00:00"), "created_at"),
    ],
)
def test_what_is_no_entry_is_refused_by_name(data, named):
    """Malformed bytes give one error that says where."""
    with pytest.raises(msgspec.DecodeError, match=named):
        wire.decode_entry(data)


def test_a_tick_id_is_fixed_for_all_time():
    """The id of a due time is part of the wire: this one must never change."""
    assert tick_id("3f0c", NOW) == "d124ecc4-ea56-5033-90d4-d7a3f7393519"
    assert uuid.UUID(tick_id("3f0c", NOW)).version == 5


@given(st.text(max_size=40), instants, st.integers(-14, 14))
def test_a_tick_id_follows_from_schedule_and_instant_alone(uid, instant, hours):
    """The zone in which a due time is written does not matter."""
    assert tick_id(uid, instant) == tick_id(uid, instant.astimezone(timezone(timedelta(hours=hours))))


@given(st.tuples(st.text(max_size=40), instants), st.tuples(st.text(max_size=40), instants))
def test_tick_ids_differ_where_schedule_or_instant_does(one, other):
    """Two ticks have one id only when they are the same tick."""
    assert (tick_id(*one) == tick_id(*other)) == (one == other)


@given(instants, instants)
def test_marks_compare_as_instants(one, other):
    """Microseconds since 1970 are in the order of the instants, and exact."""
    assert (microseconds(one) < microseconds(other)) == (one < other)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds(one)) == one
