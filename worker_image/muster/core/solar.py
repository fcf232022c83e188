"""Sunrise, sunset, noon and twilight at a place, as a schedule.

`muster.core.schedule` reads it beside cron and intervals. It knows no clock. The arithmetic is that of the
NOAA Solar Calculator (gml.noaa.gov/grad/solcalc/calcdetails.html), which follows J. Meeus, "Astronomical
Algorithms": good to a minute between the polar circles for the years 1901 to 2099, less near the poles,
where the sun crosses the horizon at a shallow angle. Within a degree of a pole, where most events come once a
year, a year's only one may be passed over.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from math import acos, asin, cos, degrees, pi, radians, sin, tan

_DAY = timedelta(days=1)

# Noon of 1 January 2000, from which the formulas count. Dynamical time runs about a minute ahead of UTC,
# in which the sun moves by less than a second of arc.
_J2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)

_SEARCH_DAYS = 400
"""Longer than any polar night or day: away from the poles, what does not happen in so many never does."""

_ROUNDS = 6
"""Rounds of asking where the sun is at the time found so far; outside the polar regions few are needed."""


class Event(StrEnum):
    """An event of the sun's day. The words are Celery's and part of the wire."""

    DAWN_ASTRONOMICAL = "dawn_astronomical"
    DAWN_NAUTICAL = "dawn_nautical"
    DAWN_CIVIL = "dawn_civil"
    SUNRISE = "sunrise"
    SOLAR_NOON = "solar_noon"
    SUNSET = "sunset"
    DUSK_CIVIL = "dusk_civil"
    DUSK_NAUTICAL = "dusk_nautical"
    DUSK_ASTRONOMICAL = "dusk_astronomical"


# How high the sun's centre stands, in degrees. At sunrise and sunset it is below the horizon by half the
# sun's breadth and by what the air bends its light.
_ALTITUDES = {
    Event.DAWN_ASTRONOMICAL: -18.0,
    Event.DAWN_NAUTICAL: -12.0,
    Event.DAWN_CIVIL: -6.0,
    Event.SUNRISE: -0.833,
    Event.SUNSET: -0.833,
    Event.DUSK_CIVIL: -6.0,
    Event.DUSK_NAUTICAL: -12.0,
    Event.DUSK_ASTRONOMICAL: -18.0,
}
_MORNING = {Event.DAWN_ASTRONOMICAL, Event.DAWN_NAUTICAL, Event.DAWN_CIVIL, Event.SUNRISE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Solar:
    """An event of the sun's day at a place, in degrees north and east.

    Raises ValueError for a place that is not on the globe. Due instants are whole seconds in UTC.
    """

    event: Event
    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        """Refuse what is no place."""
        if not -90 <= self.latitude <= 90:
            raise ValueError(f"latitude {self.latitude} is not between -90 and 90 degrees")
        if not -180 <= self.longitude <= 180:
            raise ValueError(f"longitude {self.longitude} is not between -180 and 180 degrees")

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due instant after `instant`; None where there is none within 400 days."""
        day = instant.astimezone(UTC).date() - _DAY
        try:
            for number in range(_SEARCH_DAYS):
                found = self._on(day + number * _DAY)
                if found is not None and found > instant:
                    return found
        except OverflowError:  # beyond the year 9999
            pass
        return None

    def previous_at(self, instant: datetime) -> datetime | None:
        """Return the last due instant not after `instant`; None where there is none within 400 days."""
        day = instant.astimezone(UTC).date() + _DAY
        try:
            for number in range(_SEARCH_DAYS):
                found = self._on(day - number * _DAY)
                if found is not None and found <= instant:
                    return found
        except OverflowError:  # before the year 1
            pass
        return None

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many due instants lie in the interval (after, until]: about 10 µs for each day."""
        number = 0
        day = after.astimezone(UTC).date() - _DAY
        last = until.astimezone(UTC).date() + _DAY
        while day <= last:
            found = self._on(day)
            number += found is not None and after < found <= until
            day += _DAY
        return number

    def _on(self, day: date) -> datetime | None:
        """Return the event of the solar day whose noon is the one nearest to noon of `day` at longitude 0.

        It follows from `day` alone, so that every question about one event has the same answer.
        """
        mean_noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) - timedelta(
            hours=self.longitude / 15
        )
        found = mean_noon
        for _ in range(_ROUNDS):
            declination, equation_of_time = _sun(found)
            found = mean_noon - equation_of_time
            if self.event is Event.SOLAR_NOON:
                continue
            angle = self._hour_angle(declination)
            if angle is None:
                return None
            away = timedelta(days=angle / (2 * pi))
            found += -away if self.event in _MORNING else away
        return datetime.fromtimestamp(round(found.timestamp()), tz=UTC)

    def _hour_angle(self, declination: float) -> float | None:
        """Return how far from noon, in radians, the sun stands at the event's height; None: it never does."""
        altitude, latitude = radians(_ALTITUDES[self.event]), radians(self.latitude)
        cosine = (sin(altitude) - sin(latitude) * sin(declination)) / (cos(latitude) * cos(declination))
        return acos(cosine) if -1 <= cosine <= 1 else None


def _sun(instant: datetime) -> tuple[float, timedelta]:
    """Return the sun's declination in radians and how far sundials are ahead of clocks."""
    t = (instant - _J2000) / _DAY / 36525  # in Julian centuries, as all the polynomials below
    mean_longitude = radians(280.46646 + t * (36000.76983 + t * 0.0003032))
    anomaly = radians(357.52911 + t * (35999.05029 - t * 0.0001537))
    eccentricity = 0.016708634 - t * (0.000042037 + t * 0.0000001267)
    centre = (
        sin(anomaly) * (1.914602 - t * (0.004817 + t * 0.000014))
        + sin(2 * anomaly) * (0.019993 - t * 0.000101)
        + sin(3 * anomaly) * 0.000289
    )
    node = radians(125.04 - 1934.136 * t)
    longitude = mean_longitude + radians(centre - 0.00569 - 0.00478 * sin(node))
    seconds_of_arc = 21.448 - t * (46.815 + t * (0.00059 - t * 0.001813))
    obliquity = radians(23 + (26 + seconds_of_arc / 60) / 60 + 0.00256 * cos(node))
    y = tan(obliquity / 2) ** 2
    equation = (
        y * sin(2 * mean_longitude)
        - 2 * eccentricity * sin(anomaly)
        + 4 * eccentricity * y * sin(anomaly) * cos(2 * mean_longitude)
        - 0.5 * y * y * sin(4 * mean_longitude)
        - 1.25 * eccentricity**2 * sin(2 * anomaly)
    )
    return asin(sin(obliquity) * sin(longitude)), timedelta(minutes=4 * degrees(equation))
