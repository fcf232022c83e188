"""Tables as Celery's own library reads and writes them, whatever stands in them."""

import math
import struct

import pytest
from amqp import serialization
from hypothesis import given
from hypothesis import strategies as st
from pika import data

from muster.transports.amqp.tables import complete

complete()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(st.text(max_size=20), VALUES, max_size=5)


@given(table=TABLES)
def test_celerys_library_reads_what_we_write(table):
    """Fractions among it."""
    pieces = []
    data.encode_table(pieces, table)
    [read], _ = serialization.loads("F", b"".join(pieces), 0)
    assert read == table


@given(table=TABLES)
def test_we_read_what_celerys_library_writes(table):
    """No fraction is cut to a whole number."""
    read, _ = data.decode_table(serialization.dumps("F", [table]), 0)
    assert read == table
    assert [type(value) for value in read.values() if isinstance(value, float)] == [
        float for value in table.values() if isinstance(value, float)
    ]


@pytest.mark.parametrize("seconds", [1_790_000_000_000, 2**64 - 1])
def test_a_time_that_no_date_has_is_a_number(seconds):
    """One in milliseconds, say: reading it costs no connection."""
    table = b"\x01t" + b"T" + struct.pack(">Q", seconds) + b"\x01n" + b"t\x01"
    read, _ = data.decode_table(struct.pack(">I", len(table)) + table, 0)
    assert read == {"t": seconds, "n": True}


def test_what_is_no_number_is_read_as_such():
    """And a fraction of four bytes is one too."""
    table = b"\x01d" + b"d" + struct.pack(">d", math.nan) + b"\x01f" + b"f" + struct.pack(">f", 0.5)
    read, _ = data.decode_table(struct.pack(">I", len(table)) + table, 0)
    assert math.isnan(read["d"])
    assert read["f"] == 0.5
