"""From readings to needed slots."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide.load import needed_slots
from muster_operator.model.readings import Known, Unknown
from worlds import NOW, known, pod, queue_view, seconds, unknown, worker

COUNTS = st.integers(0, 100_000)
FIGURES = st.fixed_dictionaries({"ready": COUNTS, "claimed": COUNTS, "running": COUNTS, "due": COUNTS})


def slots(*queues, pods=(), runtime=None, latency=None):
    found = needed_slots(queues, pods, runtime_seconds=runtime, latency=latency and seconds(latency), now=NOW)
    assert isinstance(found, Known)
    return found.value.slots


@pytest.mark.parametrize(
    ("figures", "needed"),
    [
        ({}, 0),
        ({"ready": 7}, 7),
        ({"running": 1}, 1),
        ({"claimed": 3, "expired": 3}, 3),
        ({"running": 2, "expired": 2}, 2),
        ({"waiting": 50}, 0),
        ({"waiting": 50, "due": 4}, 4),
        ({"ready": 1, "claimed": 2, "running": 4, "due": 8, "dead": 100}, 15),
    ],
    ids=str,
)
def test_every_message_that_must_be_worked_on_needs_a_slot(figures, needed):
    """Ready, claimed, running, lost with their worker or soon due: a slot each; dead or far-off: none."""
    assert slots(queue_view(**figures)) == needed


def test_queues_of_a_pool_add_up():
    """A pool on several queues needs slots for all."""
    assert slots(queue_view(ready=2), queue_view("default", ready=3)) == 5


def test_tasks_that_were_acked_early_still_run():
    """Busy slots that the broker knows nothing of are needed all the same."""
    pods = [pod("a", report=known(worker(slots=4, busy=3))), pod("b", report=known(worker(busy=1)))]
    assert slots(queue_view(ready=1), pods=pods) == 5


def test_a_running_task_is_not_counted_twice():
    """A busy slot and the running message in it are one and the same."""
    assert slots(queue_view(running=3), pods=[pod(report=known(worker(slots=4, busy=3)))]) == 3


def test_a_target_latency_needs_no_slot_for_each_of_many_short_tasks():
    """10,000 tasks of 10 ms are started within 5 s by 20 slots."""
    assert slots(queue_view(ready=10_000), runtime=0.01, latency=5) == 20


def test_a_target_latency_never_needs_more_slots_than_messages():
    """Tasks longer than the latency get one slot each, not more."""
    assert slots(queue_view(ready=10), runtime=60, latency=5) == 10


@pytest.mark.parametrize("only", [{"runtime": 0.01}, {"latency": 5}], ids=str)
def test_runtime_and_latency_count_together_only(only):
    """Without a target, or before a runtime has been measured, each message has its slot."""
    assert slots(queue_view(ready=100), **only) == 100


def test_one_unreadable_queue_makes_the_load_unknown():
    """What cannot be read is never 0: the load is Unknown, and says for which TaskQueue and why."""
    queues = [queue_view(ready=5), queue_view("other", reading=unknown("AuthFailed", message="WRONGPASS"))]
    found = needed_slots(queues, (), runtime_seconds=None, latency=None, now=NOW)
    assert found == Unknown(reason="AuthFailed", at=NOW, message="TaskQueue other: WRONGPASS")


def test_a_stale_queue_makes_the_load_unknown():
    """A figure of a minute ago proves nothing about now."""
    found = needed_slots([queue_view(at=NOW - seconds(60))], (), runtime_seconds=None, latency=None, now=NOW)
    assert isinstance(found, Unknown)
    assert found.reason == "Stale"


@given(figures=FIGURES, more=FIGURES, busy=st.integers(0, 50), runtime=st.none() | st.floats(0, 100))
def test_more_load_never_needs_fewer_slots(figures, more, busy, runtime):
    """Adding messages of any sort never lowers the need, with a latency or without."""
    pods = [pod(report=known(worker(slots=64, busy=busy)))]
    grown = {key: figures[key] + more[key] for key in figures}
    before = slots(queue_view(**figures), pods=pods, runtime=runtime, latency=5)
    assert slots(queue_view(**grown), pods=pods, runtime=runtime, latency=5) >= before


@given(figures=FIGURES, busy=st.integers(0, 50))
def test_more_busy_slots_never_need_fewer_slots(figures, busy):
    """A worker that turns busy never lowers the need."""

    def need(count):
        return slots(
            queue_view(**figures),
            pods=[pod(report=known(worker(slots=64, busy=count)))],
            runtime=1,
            latency=5,
        )

    assert need(busy + 1) >= need(busy)


@given(waiting=st.integers(1, 10**6), runtime=st.floats(0.001, 100), latency=st.floats(0.1, 600))
def test_the_slots_start_the_last_message_in_time(waiting, runtime, latency):
    """With these slots the backlog is started in time (or each message has its own)."""
    count = slots(queue_view(ready=waiting), runtime=runtime, latency=latency)
    in_microseconds = round(latency, 6)
    assert count == waiting or waiting * runtime / count <= in_microseconds * (1 + 1e-9)
    assert count == min(waiting, math.ceil(waiting * runtime / in_microseconds))
