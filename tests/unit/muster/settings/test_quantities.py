"""Durations, sizes and addresses as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.settings import quantities


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("250ms", 0.25),
    ],
)
def test_durations(text, seconds):
    """Plain numbers are seconds; the resources' form is read too."""
    assert quantities.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "soon", "5 m", "30m1h", "inf", "nan", "1e400", "5M"])
def test_what_is_no_duration(text):
    """Anything else is refused with the forms that are read."""
    with pytest.raises(ValueError, match="must be seconds"):
        quantities.seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("300Mi", 314_572_800), ("1G", 10**9), ("2k", 2000), ("1Ti", 2**40)]
)
def test_sizes(text, size):
    """Plain numbers are bytes; Kubernetes' suffixes are powers of 1000 and 1024."""
    assert quantities.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "300 Mi", "1.5Gi", "300MB", "lots"])
def test_what_is_no_size(text):
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match="300Mi"):
        quantities.size_bytes(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (":9540", ("", 9540)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("host:1", ("host", 1)),
    ],
)
def test_addresses(text, place):
    """An address is host and port; without a host it means all."""
    assert quantities.address(text) == place


@pytest.mark.parametrize("text", ["", "9540", "host", "host:", "host:port", "host:65536", "host:-1"])
def test_what_is_no_address(text):
    """A port is needed, and must be one."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        quantities.address(text)


@given(st.tuples(*[st.integers(0, 99)] * 4).filter(any))
def test_a_duration_is_the_sum_of_its_parts(parts):
    """Days, hours, minutes and seconds add up, whatever is left out."""
    days, hours, minutes, seconds = parts
    text = "".join(f"{count}{unit}" for count, unit in zip(parts, "dhms", strict=True) if count)
    assert quantities.seconds(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds
