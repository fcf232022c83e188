"""The plan for a Schedule: its entry on the broker and its status."""

from dataclasses import replace

import pytest

from muster.wire.schedule import RunRecord
from muster_operator.api.conditions import find_condition
from muster_operator.api.schedule import Run
from muster_operator.decide.plan import plan_schedule
from muster_operator.model.actions import PutSchedule, RemoveSchedule, SetStatus
from muster_operator.model.world import QueueView, ScheduleSnapshot
from worlds import NOW, known, queue_of, queue_view, schedule_of, seconds, unknown


def seen(made=None, **fields):
    values = {
        "now": NOW,
        "schedule": made or schedule_of(schedule="*/5 * * * *"),
        "queue": queue_view(),
        "entry": known(None),
        "runs": known(None),
        "beat_running": known(True),
    }
    return ScheduleSnapshot(**(values | fields))


def done(snapshot, kind):
    return [action for action in plan_schedule(snapshot).actions if isinstance(action, kind)]


def status_of(snapshot):
    (written,) = done(snapshot, SetStatus)
    return written.status


def condition_of(snapshot, type_="Ready"):
    found = find_condition(status_of(snapshot).conditions, type_)
    return found.status.value, found.reason, found.message


def entry_of(snapshot):
    (put,) = done(snapshot, PutSchedule)
    return put.entry


def test_a_schedule_is_written_to_the_broker_of_its_queue():
    """Under its UID, with the queue's real name, in the namespace's set."""
    made = schedule_of(
        schedule="0 8 * * *",
        timeZone="Europe/Berlin",
        args=[1],
        kwargs={"a": None},
        options={"priority": 5, "expires": "10m", "headers": {"tenant": "x"}},
        startingDeadlineSeconds=300,
        catchUp="All",
    )
    view = QueueView(name="mail", task_queue=queue_of("mail", queueName="shop.mail"), reading=unknown())
    snapshot = seen(made, queue=view)
    entry = entry_of(snapshot)
    assert (entry.uid, entry.name, entry.queue) == (made.metadata.uid, "shop/report", "shop.mail")
    assert (entry.cron, entry.time_zone, entry.since) == ("0 8 * * *", "Europe/Berlin", NOW)
    assert (entry.args, entry.kwargs, entry.starting_deadline_seconds) == ((1,), {"a": None}, 300)
    assert entry.options == {"priority": 5, "expires": 600.0, "headers": {"tenant": "x"}}
    assert (entry.catch_up, entry.concurrency_policy, entry.suspended) == ("All", "Allow", False)
    (put,) = done(snapshot, PutSchedule)
    assert (put.broker.namespace, put.broker.secret) == ("shop", "broker")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"schedule": "*/5 * * * *"}, "*/5 * * * *"),
        ({"every": "90s"}, "every 1m30s"),
        ({"solar": {"event": "sunset", "latitude": 52.5, "longitude": 13.4}}, "sunset at 52.5, 13.4"),
    ],
)
def test_when_it_runs_in_one_line(spec, line):
    """Whatever the form, kubectl shows one line."""
    snapshot = seen(schedule_of(**spec))
    assert status_of(snapshot).timing == line
    assert condition_of(snapshot)[:2] == ("True", "AsDeclared")


def test_an_entry_that_stands_is_not_written_again():
    """Nor is a status that says the same."""
    first = seen()
    second = seen(
        replace(first.schedule, status=status_of(first)), entry=known(entry_of(first)), status_written_at=NOW
    )
    assert plan_schedule(second).actions == ()


def test_a_changed_schedule_is_written_again():
    """Any difference counts."""
    entry = entry_of(seen())
    assert entry_of(seen(schedule_of(schedule="*/6 * * * *"), entry=known(entry))).cron == "*/6 * * * *"


def test_what_cannot_be_read_is_not_overwritten():
    """An unreadable broker gets no write, and its reason stands in Ready."""
    snapshot = seen(entry=unknown("AuthFailed", message="WRONGPASS"))
    assert done(snapshot, PutSchedule) == []
    assert condition_of(snapshot) == ("False", "AuthFailed", "Secret broker: WRONGPASS")


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        ({"schedule": "0 25 * * *"}, "ScheduleInvalid", "spec.schedule: hour '25'"),
        ({"schedule": "0 0 30 2 *"}, "ScheduleInvalid", "names a date that never comes"),
        (
            {"schedule": "@daily", "timeZone": "Mars/Base"},
            "TimeZoneUnknown",
            "spec.timeZone: time zone 'Mars/Base'",
        ),
    ],
    ids=["hour 25", "30 February", "no such zone"],
)
def test_a_schedule_that_names_no_time_is_taken_off_the_broker(spec, reason, says):
    """It says what is wrong, and what stood there before ticks no more."""
    snapshot = seen(schedule_of(**spec), entry=known(entry_of(seen())))
    status, found, message = condition_of(snapshot)
    assert (status, found) == ("False", reason)
    assert says in message
    assert len(done(snapshot, RemoveSchedule)) == 1


def test_a_suspended_schedule_stays_on_the_broker_and_says_so():
    """Its past is kept there; it has no next run."""
    made = schedule_of(schedule="* * * * *", suspend=True)
    runs = RunRecord(next_at=NOW + seconds(60), next_id="x")
    snapshot = seen(made, runs=known(runs))
    assert entry_of(snapshot).suspended is True
    assert status_of(snapshot).next_run is None
    assert condition_of(snapshot, "Paused")[:2] == ("True", "PausedBySpec")
    assert condition_of(seen(), "Paused")[:2] == ("False", "NotPaused")


def test_a_queue_that_does_not_exist():
    """There is no broker to write to, and the name to correct is said."""
    snapshot = seen(queue=QueueView(name="mail", task_queue=None, reading=unknown()))
    status, reason, message = condition_of(snapshot)
    assert (status, reason) == ("False", "QueueNotFound")
    assert "spec.queue names TaskQueue mail, which does not exist in namespace shop" in message
    assert done(snapshot, PutSchedule) == []


def test_forbid_needs_results():
    """Without results nobody can tell whether the run before has ended."""
    made = schedule_of(schedule="* * * * *", concurrencyPolicy="Forbid")
    assert condition_of(seen(made, results_kept=False))[1] == "ResultsNeeded"
    assert condition_of(seen(made))[1] == "AsDeclared"


def test_no_beat_no_tick():
    """A schedule that nobody ticks is not ready; a suspended one does not mind; not knowing is no failure."""
    assert condition_of(seen(beat_running=known(False)))[1] == "BeatNotRunning"
    suspended = schedule_of(schedule="* * * * *", suspend=True)
    assert condition_of(seen(suspended, beat_running=known(False)))[1] == "AsDeclared"
    assert condition_of(seen(beat_running=unknown()))[1] == "AsDeclared"


def test_runs_come_back_into_the_status():
    """Last and next run with their task ids, and what was missed; an unreadable broker leaves them."""
    runs = RunRecord(last_at=NOW, last_id="a", next_at=NOW + seconds(300), next_id="b", missed=2)
    first = seen(runs=known(runs))
    status = status_of(first)
    assert (status.last_run, status.missed) == (Run(time=NOW, task_id="a"), 2)
    assert status.next_run == Run(time=NOW + seconds(300), task_id="b")
    outage = seen(replace(first.schedule, status=status), runs=unknown(), entry=unknown())
    assert status_of(outage).last_run == status.last_run


def test_a_deleted_schedule_leaves_the_broker():
    """Without a finalizer, and without a status."""
    made = schedule_of(schedule="* * * * *")
    made = replace(made, metadata=replace(made.metadata, deletion_timestamp=NOW))
    plan = plan_schedule(seen(made, entry=known(entry_of(seen()))))
    assert [type(each) for each in plan.actions] == [RemoveSchedule]
