"""An application's beat_schedule on the broker: written once, changed where it changed, and its past kept."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import crontab
from muster.app.app import Muster
from muster.beat.own import own_entries, scope_of, update, writer
from muster.errors import ConfigurationError
from muster.transports.memory import MemoryBroker
from muster.transports.schedules.memory import MemorySchedules

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def app_with(**schedules):
    app = Muster("shop", set_as_current=False)
    app.conf.beat_schedule = {
        name: {"task": "shop.tick", "schedule": timing} for name, timing in schedules.items()
    }
    return app


@pytest.fixture
def store():
    return MemorySchedules(MemoryBroker())


def test_a_restart_changes_nothing(store):
    """The same setting makes the same uids, and created and since stay as they stand."""
    writer(app_with(a=5, b=crontab(minute=0)), "shop")(store, NOON)
    first = store.entries()
    revision = store.changes(0, ()).revision
    writer(app_with(a=5, b=crontab(minute=0)), "shop")(store, NOON + HOUR)
    assert store.entries() == first
    assert store.changes(0, ()).revision == revision
    assert {one.name: (one.created_at, one.since) for one in first.values()} == {
        "a": (NOON, NOON),
        "b": (NOON, NOON),
    }


def test_what_changed_is_written_and_what_is_gone_removed(store):
    """A changed time starts from now; the others keep their past."""
    writer(app_with(a=5, b=6, c=7), "shop")(store, NOON)
    writer(app_with(a=5, b=8, d=9), "shop")(store, NOON + HOUR)
    assert {one.name: (one.every_seconds, one.since) for one in store.entries().values()} == {
        "a": (5, NOON),
        "b": (8, NOON + HOUR),
        "d": (9, NOON + HOUR),
    }


@given(*[st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3)) for _ in range(2)])
def test_after_an_update_nothing_is_left_to_do(before, after):
    """From any setting to any other: one update, and the next is empty."""
    store = MemorySchedules(MemoryBroker())
    writer(app_with(**before), "shop")(store, NOON)
    writer(app_with(**after), "shop")(store, NOON + HOUR)
    assert {one.name for one in store.entries().values()} == set(after)
    again = update(own_entries(app_with(**after), "shop", NOON + 2 * HOUR), store.entries(), NOON + 2 * HOUR)
    assert (again.put, again.remove) == ((), ())


def test_two_applications_have_scopes_and_uids_of_their_own():
    """They share a broker without meeting; no namespace has such a name."""
    [one] = own_entries(app_with(a=5), "shop", NOON)
    [other] = own_entries(app_with(a=5), "bank", NOON)
    assert one.uid != other.uid
    assert scope_of("shop") == "app:shop" != scope_of("bank")


def test_zone_and_deadline_are_the_applications():
    """`timezone` and `beat_cron_starting_deadline` hold for crontabs."""
    app = app_with(a=crontab(hour=8))
    app.conf.update(timezone="Europe/Berlin", beat_cron_starting_deadline=60)
    [found] = own_entries(app, "shop", NOON)
    assert (found.time_zone, found.starting_deadline_seconds) == ("Europe/Berlin", 60)


def test_what_cannot_be_understood_is_the_users_to_change():
    """The sentence names entry and key."""
    with pytest.raises(ConfigurationError, match=r"beat_schedule\['a'\]\['schedule'\]"):
        own_entries(app_with(a="daily"), "shop", NOON)
