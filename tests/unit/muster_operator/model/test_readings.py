"""Readings: known, unknown, and known for too long."""

from muster_operator.model.readings import Known, Unknown, earliest, fresh
from worlds import NOW, known, seconds, unknown


def test_a_young_reading_is_what_it_was():
    """A reading up to the greatest age stays Known."""
    reading = known(3, at=NOW - seconds(15))
    assert fresh(reading, NOW, seconds(15)) is reading


def test_an_old_reading_is_unknown_since_it_went_stale():
    """A reading beyond the greatest age is Unknown, and has been since that age, not since now."""
    found = fresh(known(3, at=NOW - seconds(20)), NOW, seconds(15))
    assert found == Unknown(
        reason="Stale", at=NOW - seconds(5), message="last read 20 s ago, which is more than 15 s"
    )


def test_an_unknown_stays_as_it_is():
    """An Unknown keeps its reason and its beginning however old it is."""
    reading = unknown(at=NOW - seconds(1000))
    assert fresh(reading, NOW, seconds(15)) is reading


def test_the_earliest_unknown_began_first():
    """Of several unknowns the one that began first counts; of none there is none."""
    older, younger = unknown(at=NOW - seconds(9)), unknown(at=NOW)
    assert earliest([younger, older]) is older
    assert earliest([]) is None


def test_a_zero_is_known():
    """An empty queue is a fact, not an absence."""
    assert isinstance(fresh(known(0), NOW, seconds(1)), Known)
