"""Sun times against PyEphem's, and as a schedule."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from muster.core.solar import Event, Solar

instants = st.datetimes(
    min_value=datetime(1950, 1, 1),  # noqa: DTZ001 -- the strategy adds the zone
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
suns = st.builds(
    Solar, event=st.sampled_from(Event), latitude=st.floats(-89, 89), longitude=st.floats(-180, 180)
)
temperate = st.builds(
    Solar, event=st.sampled_from(Event), latitude=st.floats(-45, 45), longitude=st.floats(-180, 180)
)


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("latitude", "longitude", "event", "after", "expected"),
    [
        (35.68, 139.69, "sunset", "2020-08-25T00:00Z", "2020-08-25T09:18:07Z"),  # Tokyo
        (40.71, -74.01, "dawn_astronomical", "2025-02-12T00:00Z", "2025-02-12T10:21:14Z"),  # New York
        (69.65, 18.96, "sunrise", "2032-09-04T00:00Z", "2032-09-04T03:15:32Z"),  # Tromso
        (-33.87, 151.21, "dusk_civil", "2025-02-05T00:00Z", "2025-02-05T09:23:56Z"),  # Sydney
        (69.65, 18.96, "dawn_civil", "2024-01-28T00:00Z", "2024-01-28T07:17:29Z"),  # Tromso
        (52.5, 13.4, "sunrise", "2026-03-28T00:00Z", "2026-03-28T04:50:27Z"),  # Berlin
        (-33.87, 151.21, "solar_noon", "2030-04-18T00:00Z", "2030-04-18T01:54:35Z"),  # Sydney
        (40.71, -74.01, "dawn_civil", "2026-07-10T00:00Z", "2026-07-10T09:01:22Z"),  # New York
        (52.5, 13.4, "sunset", "2033-03-05T00:00Z", "2033-03-05T16:53:10Z"),  # Berlin
        (35.68, 139.69, "dawn_nautical", "2030-05-27T00:00Z", "2030-05-27T18:23:18Z"),  # Tokyo
        (35.68, 139.69, "dusk_nautical", "2030-03-16T00:00Z", "2030-03-16T09:44:19Z"),  # Tokyo
        (64.15, -21.94, "dusk_civil", "2020-09-26T00:00Z", "2020-09-26T20:00:14Z"),  # Reykjavik
        (-36.85, 174.76, "sunset", "2032-10-27T00:00Z", "2032-10-27T06:48:55Z"),  # Auckland
        (52.5, 13.4, "dusk_nautical", "2021-12-06T00:00Z", "2021-12-06T16:17:59Z"),  # Berlin
        (40.71, -74.01, "dawn_nautical", "2027-08-12T00:00Z", "2027-08-12T08:57:23Z"),  # New York
        (64.15, -21.94, "solar_noon", "2021-07-03T00:00Z", "2021-07-03T13:32:03Z"),  # Reykjavik
        (-33.87, 151.21, "dawn_astronomical", "2021-08-11T00:00Z", "2021-08-11T19:12:55Z"),  # Sydney
        (-36.85, 174.76, "dawn_nautical", "2025-07-12T00:00Z", "2025-07-12T18:31:25Z"),  # Auckland
        (-36.85, 174.76, "dawn_civil", "2023-07-27T00:00Z", "2023-07-27T18:55:30Z"),  # Auckland
        (69.65, 18.96, "solar_noon", "2031-02-26T00:00Z", "2031-02-26T10:57:03Z"),  # Tromso
        (64.15, -21.94, "sunset", "2028-11-12T00:00Z", "2028-11-12T16:34:38Z"),  # Reykjavik
        (-0.18, -78.47, "dusk_civil", "2025-10-25T00:00Z", "2025-10-25T23:22:36Z"),  # Quito
        (-0.18, -78.47, "sunset", "2020-07-04T00:00Z", "2020-07-04T23:21:46Z"),  # Quito
        (-0.18, -78.47, "dawn_astronomical", "2024-05-10T00:00Z", "2024-05-10T09:54:46Z"),  # Quito
    ],
)
def test_sun_times_are_pyephems_to_a_quarter_minute(latitude, longitude, event, after, expected):
    """Computed with PyEphem 4.2.1 (no air pressure, horizon -0:34 and the upper limb for rise and set)."""
    found = Solar(event=Event(event), latitude=latitude, longitude=longitude).next_after(at(after))

    assert abs(found - at(expected)) < timedelta(seconds=15)


def test_sunset_in_berlin_on_the_longest_day():
    """21 June 2026, 21:33 local summer time."""
    found = Solar(event=Event.SUNSET, latitude=52.52, longitude=13.4).next_after(at("2026-06-21T12:00Z"))

    assert found.strftime("%H:%M") == "19:33"


def test_the_sun_does_not_rise_in_the_polar_night():
    """In Tromso the next sunrise after 1 December is in the middle of January, none between."""
    sunrise = Solar(event=Event.SUNRISE, latitude=69.65, longitude=18.96)
    first = sunrise.next_after(at("2026-12-01T00:00Z"))

    assert at("2027-01-14T00:00Z") < first < at("2027-01-17T00:00Z")
    assert sunrise.count(at("2026-12-01T00:00Z"), at("2027-01-10T00:00Z")) == 0


def test_what_never_happens_is_never_due():
    """At a pole the sun's height does not change within a day."""
    pole = Solar(event=Event.SUNSET, latitude=90, longitude=0)

    assert pole.next_after(at("2026-01-01T00:00Z")) is None
    assert pole.previous_at(at("2026-01-01T00:00Z")) is None


def test_the_end_of_the_calendar_is_the_end_of_the_schedule():
    """Beyond the last year that datetimes have there is nothing due, and no error."""
    noon = Solar(event=Event.SOLAR_NOON, latitude=0, longitude=0)

    assert noon.next_after(datetime.max.replace(tzinfo=UTC)) is None
    assert noon.previous_at(datetime.min.replace(tzinfo=UTC)) is None


@pytest.mark.parametrize(("latitude", "longitude"), [(91, 0), (-90.1, 0), (0, 181), (0, float("nan"))])
def test_a_place_off_the_globe_is_refused(latitude, longitude):
    """Degrees north and east have bounds."""
    with pytest.raises(ValueError, match="degrees"):
        Solar(event=Event.SUNRISE, latitude=latitude, longitude=longitude)


@given(suns, instants)
@settings(deadline=None)
def test_next_and_previous_agree(sun, instant):
    """Up to a degree from the poles: nothing lies between an instant and what is next after it."""
    later = sun.next_after(instant)
    assume(later is not None)

    assert later > instant
    assert sun.previous_at(later) == later
    earlier = sun.previous_at(later - timedelta(microseconds=1))
    assert earlier is None or earlier <= instant
    assert sun.previous_at(instant) == earlier


@given(temperate, instants)
@settings(deadline=None)
def test_between_the_temperate_zones_each_day_has_its_events_in_order(sun, instant):
    """Every event comes once a day there, and at noon the sun stands between its morning and evening."""
    later = sun.next_after(instant)

    assert timedelta(0) < later - instant < timedelta(hours=25)
    assert sun.count(instant, instant + timedelta(days=10)) in {9, 10, 11}
    order = [Solar(event=event, latitude=sun.latitude, longitude=sun.longitude) for event in Event]
    found = [order[0].next_after(instant)]
    for event in order[1:]:
        found.append(event.next_after(found[-1]))
    assert found[-1] - found[0] < timedelta(hours=25)
