"""Beat's agenda: what is handed out at a wake, what reports do to it, and what a wake costs."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.beat.plan import Agenda, Send, Settle
from muster.core.schedule import RETRY, Reason, ScheduleError, Unknown, schedule_of
from muster.wire.schedule import RunRecord, ScheduleEntry, tick_id

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def entry(uid="u", **fields):
    """Return an entry that is due each minute from noon on, but for `fields`."""
    fields = {"cron": "* * * * *", "created_at": NOON, "since": NOON, **fields}
    return ScheduleEntry(uid=uid, name=f"shop/{uid}", task="shop.tick", **fields)


class Broker:
    """What the broker's script does: a step counts only where the mark is before it."""

    def __init__(self):
        self.records = {}
        self.sent = []

    def apply(self, step):
        """Carry out a step; return None, or the record that stands in its way."""
        stands = self.records.get(step.entry.uid, RunRecord())
        if stands.settled_at is not None and stands.settled_at >= step.record.settled_at:
            return stands
        self.records[step.entry.uid] = step.record
        if isinstance(step, Send):
            self.sent.append((step.entry.uid, step.due_at, step.task_id))
        return None

    def carry_out(self, agenda, wake):
        """Carry out all steps of a wake and report them."""
        for step in wake.steps:
            stands = self.apply(step)
            if stands is None:
                agenda.done(step)
            else:
                agenda.superseded(step, stands)


def test_one_schedule_ticks():
    """At its time a schedule is handed out once, with the id and the record that belong to it."""
    agenda = Agenda()
    agenda.put(entry())

    assert agenda.wake_at == NOON + MINUTE
    assert agenda.wake(NOON + MINUTE - SECOND).steps == ()

    wake = agenda.wake(NOON + MINUTE)
    assert wake.steps == (
        Send(
            entry=entry(),
            due_at=NOON + MINUTE,
            task_id=tick_id("u", NOON + MINUTE),
            record=RunRecord(
                settled_at=NOON + MINUTE,
                last_at=NOON + MINUTE,
                last_id=tick_id("u", NOON + MINUTE),
                next_at=NOON + 2 * MINUTE,
                next_id=tick_id("u", NOON + 2 * MINUTE),
            ),
            reason=Reason.DUE,
        ),
    )
    assert agenda.wake(NOON + MINUTE).steps == ()

    agenda.done(wake.steps[0])
    assert agenda.wake_at == NOON + 2 * MINUTE


def test_an_entry_shows_its_next_run_at_once():
    """Taking in an entry returns the record that people see before the first tick."""
    agenda = Agenda()

    assert agenda.put(entry()) == RunRecord(next_at=NOON + MINUTE, next_id=tick_id("u", NOON + MINUTE))
    assert agenda.put(entry(suspended=True)) == RunRecord()
    assert agenda.wake_at is None


def test_a_new_leader_goes_on_where_the_records_end():
    """From entry and record alone another beat finds the same next tick."""
    first, second, broker = Agenda(), Agenda(), Broker()
    first.put(entry())
    broker.carry_out(first, first.wake(NOON + MINUTE))
    second.put(entry(), broker.records["u"])

    assert second.wake_at == first.wake_at == NOON + 2 * MINUTE
    assert second.wake(NOON + 2 * MINUTE).steps == first.wake(NOON + 2 * MINUTE).steps


def test_two_beats_at_once_send_each_tick_once():
    """A beat that was stopped in the middle hands out the same ids, and the mark refuses them."""
    stopped, leader, broker = Agenda(), Agenda(), Broker()
    stopped.put(entry())
    leader.put(entry())
    held = stopped.wake(NOON + MINUTE)
    for minute in (1, 2, 3):
        broker.carry_out(leader, leader.wake(NOON + minute * MINUTE))

    broker.carry_out(stopped, held)

    assert [due_at for _, due_at, _ in broker.sent] == [NOON + minute * MINUTE for minute in (1, 2, 3)]
    assert stopped.wake_at == NOON + 4 * MINUTE


def test_a_failed_step_is_asked_for_again():
    """What the broker did not take comes again under the same id, after the given time."""
    agenda = Agenda()
    agenda.put(entry())
    (step,) = agenda.wake(NOON + MINUTE).steps
    agenda.failed(step, NOON + MINUTE + SECOND)

    assert agenda.wake(NOON + MINUTE).steps == ()
    assert agenda.wake(NOON + MINUTE + SECOND).steps == (step,)


def test_ticks_on_their_way_are_not_handed_out_again():
    """While one of three steps is reported and two are not, another wake has nothing to add."""
    agenda = Agenda()
    agenda.put(entry(catch_up="All"))
    first, second, third = agenda.wake(NOON + 3 * MINUTE).steps
    agenda.done(first)

    assert agenda.wake(NOON + 4 * MINUTE).steps == ()
    agenda.done(second)
    agenda.done(third)
    assert [step.due_at for step in agenda.wake(NOON + 4 * MINUTE).steps] == [NOON + 4 * MINUTE]


def test_a_failure_in_the_middle_repeats_only_what_failed():
    """Of three ticks to catch up with, one was confirmed: the other two come again, in order."""
    agenda = Agenda()
    agenda.put(entry(catch_up="All"))
    first, second, _ = agenda.wake(NOON + 3 * MINUTE).steps
    agenda.done(first)
    agenda.failed(second, NOON + 3 * MINUTE + SECOND)
    again = agenda.wake(NOON + 3 * MINUTE + SECOND).steps

    assert [step.due_at for step in again] == [NOON + 2 * MINUTE, NOON + 3 * MINUTE]


def test_missed_due_times_are_counted_with_what_follows_them():
    """The count stands in the record of the tick that is sent, or of the step that sends nothing."""
    agenda = Agenda()
    agenda.put(entry(), RunRecord(missed=5))
    (sent,) = agenda.wake(NOON + 3 * MINUTE).steps
    strict = Agenda()
    strict.put(entry(catch_up="None"))
    (settled,) = strict.wake(NOON + 3 * MINUTE + 30 * SECOND).steps

    assert (sent.due_at, sent.record.missed, sent.reason) == (NOON + 3 * MINUTE, 7, Reason.CAUGHT_UP)
    assert isinstance(settled, Settle)
    assert (settled.record.settled_at, settled.record.missed) == (NOON + 3 * MINUTE, 3)
    assert (settled.record.last_at, settled.reason) == (None, Reason.TOO_LATE)


def test_steps_come_in_the_order_of_their_due_times():
    """Schedules that are due together are sent oldest due time first."""
    agenda = Agenda()
    agenda.put(entry("a", catch_up="All"))
    agenda.put(entry("b", cron=None, every_seconds=90))
    steps = agenda.wake(NOON + 2 * MINUTE).steps

    assert [(step.entry.uid, (step.due_at - NOON).seconds) for step in steps] == [
        ("a", 60),
        ("b", 90),
        ("a", 120),
    ]


def test_a_changed_entry_takes_the_place_of_the_old_one():
    """After a change the old times are not due any more, and the record stays."""
    agenda, broker = Agenda(), Broker()
    agenda.put(entry())
    broker.carry_out(agenda, agenda.wake(NOON + MINUTE))
    agenda.put(entry(cron="0 * * * *", since=NOON + MINUTE))

    assert agenda.wake_at == NOON + 60 * MINUTE
    assert agenda.wake(NOON + 59 * MINUTE).looked_at == 0
    assert agenda.wake(NOON + 60 * MINUTE).steps[0].record.last_at == NOON + 60 * MINUTE


def test_a_report_that_comes_after_a_change_still_counts():
    """A tick confirmed while its entry was changed is not handed out a second time."""
    agenda = Agenda()
    agenda.put(entry())
    (step,) = agenda.wake(NOON + MINUTE).steps
    agenda.put(entry(args=(1,)))
    agenda.done(step)

    assert agenda.wake_at == NOON + 2 * MINUTE


def test_an_equal_entry_changes_nothing():
    """Reading the same entry again neither moves its place nor forgets what was handed out."""
    agenda = Agenda()
    agenda.put(entry())
    agenda.wake(NOON + MINUTE)
    agenda.put(entry())

    assert agenda.wake(NOON + MINUTE).steps == ()


def test_a_dropped_schedule_is_silent():
    """Its time passes, its reports do no harm."""
    agenda = Agenda()
    agenda.put(entry())
    (step,) = agenda.wake(NOON + MINUTE).steps
    agenda.drop("u")
    agenda.drop("u")
    agenda.done(step)
    agenda.failed(step, NOON)
    agenda.superseded(step, RunRecord())

    assert (len(agenda), agenda.wake_at, agenda.entry("u")) == (0, None, None)
    assert agenda.wake(NOON + 60 * MINUTE).steps == ()


def test_a_bad_entry_leaves_the_good_one_in_place():
    """An entry that cannot be scheduled is refused, what stood there goes on."""
    agenda = Agenda()
    agenda.put(entry())
    with pytest.raises(ScheduleError, match="shop/u"):
        agenda.put(entry(cron="* * * * * *"))

    assert agenda.entry("u") == entry()
    assert agenda.wake_at == NOON + MINUTE


def test_who_forbids_overlap_is_asked_about():
    """Before a wake the agenda names the runs it must know of, and only due ones that forbid."""
    agenda, broker = Agenda(), Broker()
    agenda.put(entry("forbids", concurrency_policy="Forbid"))
    agenda.put(entry("allows"))
    agenda.put(entry("later", cron="0 * * * *", concurrency_policy="Forbid"))

    assert agenda.asks(NOON + MINUTE) == {}
    broker.carry_out(agenda, agenda.wake(NOON + MINUTE))
    assert agenda.asks(NOON + MINUTE) == {}
    assert agenda.asks(NOON + 2 * MINUTE) == {"forbids": tick_id("forbids", NOON + MINUTE)}


@pytest.mark.parametrize(
    ("running", "steps", "wake_at"),
    [
        ({"u": False}, [Reason.DUE], None),
        ({"u": True}, [Reason.STILL_RUNNING], None),
        ({"u": Unknown(reason="no answer")}, [], NOON + 2 * MINUTE + RETRY),
        ({}, [], NOON + 2 * MINUTE + RETRY),
    ],
)
def test_the_answer_decides(running, steps, wake_at):
    """Finished: sent. Unfinished: missed. Unknown or not answered: asked again soon."""
    agenda, broker = Agenda(), Broker()
    agenda.put(entry(concurrency_policy="Forbid"))
    broker.carry_out(agenda, agenda.wake(NOON + MINUTE))
    wake = agenda.wake(NOON + 2 * MINUTE, running)

    assert ([step.reason for step in wake.steps], wake.wake_at) == (steps, wake_at)


def test_one_due_of_ten_thousand_costs_one():
    """A wake looks at the due schedules only, and finding what to ask does not look at more."""
    agenda = Agenda()
    for number in range(10_000):
        agenda.put(entry(f"u{number}", cron=f"{number % 60} {number // 60 % 24} 1 1 *", since=NOON))
    agenda.put(entry("soon"))
    wake = agenda.wake(NOON + MINUTE)

    assert [step.entry.uid for step in wake.steps] == ["soon"]
    assert wake.looked_at == 1


def test_changes_without_end_do_not_fill_the_memory():
    """Places left behind by entries that change again and again are cleared away."""
    agenda = Agenda()
    for number in range(10_000):
        agenda.put(entry(cron=f"{number % 60} 0 1 1 *"))

    assert len(agenda._heap) < 100
    assert len(agenda) == 1


# --- any life of a beat -------------------------------------------------------------------------------

texts = st.sampled_from(["* * * * *", "*/3 * * * *", "5 * * * *", "0 13 * * *"])
entries = st.lists(
    st.builds(
        lambda text, catch_up, policy, deadline: {
            "cron": text,
            "catch_up": catch_up,
            "concurrency_policy": policy,
            "starting_deadline_seconds": deadline,
        },
        texts,
        st.sampled_from(["None", "Last", "All"]),
        st.sampled_from(["Allow", "Forbid"]),
        st.none() | st.integers(1, 4000),
    ),
    min_size=1,
    max_size=5,
)
# What happens after some seconds: steps are confirmed, fail from the n-th on, or the n-th is carried out
# or not when the beat dies; and whether the runs before are unfinished.
events = st.lists(
    st.tuples(
        st.integers(1, 5000),
        st.sampled_from(["confirmed", "fails", "dies", "dies before"]),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=25,
)


@given(entries, events)
@settings(deadline=None)
def test_whatever_happens_each_due_time_is_sent_or_missed_once(fields, events):
    """Failures, deaths at any step and new leaders: no tick twice, in order, none unaccounted for."""
    known = [entry(f"u{number}", **each) for number, each in enumerate(fields)]
    broker, now = Broker(), NOON

    def elected():
        agenda = Agenda()
        for each in known:
            agenda.put(each, broker.records.get(each.uid))
        return agenda

    agenda = elected()
    for seconds, fate, number, running in events:
        now += seconds * SECOND
        wake = agenda.wake(now, dict.fromkeys(agenda.asks(now), running))
        failed = set()
        for index, step in enumerate(wake.steps):
            uid = step.entry.uid
            if uid in failed:
                continue
            if fate == "fails" and index >= number:
                agenda.failed(step, now + SECOND)
                failed.add(uid)
            elif fate.startswith("dies") and index >= number:
                if fate == "dies":
                    broker.apply(step)
                agenda = elected()
                break
            else:
                assert broker.apply(step) is None
                agenda.done(step)
    for each in known:
        record = broker.records.get(each.uid, RunRecord())
        sent = [due_at for uid, due_at, _ in broker.sent if uid == each.uid]
        assert sent == sorted(set(sent))
        assert len({task_id for uid, _, task_id in broker.sent if uid == each.uid}) == len(sent)
        if record.settled_at is not None:
            passed = schedule_of(each).timing.count(each.since, record.settled_at)
            assert len(sent) + record.missed == passed
        assert record.last_at == (sent[-1] if sent else None)


@given(st.lists(st.tuples(st.integers(0, 9), texts, st.booleans(), st.integers(0, 4000)), max_size=40))
@settings(deadline=None)
def test_the_agenda_wakes_for_the_earliest_of_its_schedules(changes):
    """After any puts, drops and wakes `wake_at` is the earliest unsettled due time of all schedules."""
    agenda, now = Agenda(), NOON
    stand = {}
    for number, text, drops, seconds in changes:
        now += seconds * SECOND
        uid = f"u{number}"
        if drops:
            agenda.drop(uid)
            stand.pop(uid, None)
        else:
            stand[uid] = agenda.put(entry(uid, cron=text, since=now))
        for step in agenda.wake(now).steps:
            agenda.done(step)
            stand[step.entry.uid] = step.record
    expected = min((record.next_at for record in stand.values()), default=None)

    assert agenda.wake_at == expected
    assert len(agenda) == len(stand)
