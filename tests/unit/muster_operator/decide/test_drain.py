"""Which workers leave, in which order, and how far each has come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide import drain
from muster_operator.model.world import PodPhase
from worlds import NOW, known, pending, pod, seconds, unknown, worker


def running(ago, **fields):
    """A worker whose longest running task started that many seconds ago."""
    return known(worker(busy=1, oldest_start_at=NOW - seconds(ago), **fields))


def names(pods, count=99):
    return [each.name for each in drain.choose(pods, count, NOW)]


def test_the_order_of_leaving():
    """Without a process, idle, busy by least work done, unheard of."""
    pods = [
        pod("silent", report=unknown()),
        pod("long", report=running(500)),
        pod("short", report=running(5)),
        pod("idle"),
        pod("crashing", process=False, ready=False, report=unknown()),
    ]
    assert names(pods) == ["crashing", "idle", "short", "long", "silent"]


def test_a_worker_that_has_never_been_ready_leaves_before_a_busy_one():
    """It starts and has no task yet; one that is ready and silent may have."""
    never = unknown(reason="NotObservedYet")
    pods = [
        pod("silent", report=never),
        pod("busy", report=running(5)),
        pod("idle"),
        pod("starting", ready=False, report=never),
    ]
    assert names(pods) == ["starting", "idle", "busy", "silent"]


def test_a_worker_with_messages_in_hand_is_not_idle():
    """What has been prefetched would have to be given back."""
    pods = [pod("holding", report=known(worker(claimed=1))), pod("idle")]
    assert names(pods, 1) == ["idle"]


def test_among_idle_workers_the_unready_and_the_youngest_go_first():
    """An old, ready worker is warm."""
    pods = [
        pod("old"),
        pod("young", created_at=NOW),
        pod("unready", ready=False),
    ]
    assert names(pods) == ["unready", "young", "old"]


def test_a_stale_report_is_no_report():
    """A worker that has been silent for a minute is not known to be idle."""
    pods = [pod("stale", report=known(worker(), at=NOW - seconds(60))), pod("busy", report=running(5))]
    assert names(pods) == ["busy", "stale"]


@given(st.permutations([pod(name) for name in "abcdef"]), st.integers(-1, 8))
def test_the_choice_does_not_depend_on_the_order_of_sight(pods, count):
    """Two operators that see the same pods choose the same victims."""
    assert names(pods, count) == names(sorted(pods, key=lambda each: each.name), count)
    assert len(names(pods, count)) == max(0, min(count, 6))


@pytest.mark.parametrize(
    ("seen", "leaving", "done"),
    [
        (pod(), False, False),
        (pod(draining_since=NOW), True, False),
        (pod(report=known(worker(draining=True))), True, False),
        (pod(report=known(worker(draining=True), at=NOW - seconds(99))), True, False),
        (pod(report=known(worker(draining=True, drained=True))), True, True),
        (pod(report=known(worker(draining=True, drained=True), at=NOW - seconds(99))), True, False),
        (pod(draining_since=NOW, report=unknown()), True, False),
        (pod(draining_since=NOW, process=False, report=unknown()), True, True),
    ],
    ids=["staying", "chosen", "says so", "said so", "drained", "was drained", "silent", "no process"],
)
def test_leaving_and_done(seen, leaving, done):
    """Leaving is remembered, done needs fresh proof."""
    assert drain.is_leaving(seen) is leaving
    assert (drain.is_leaving(seen) and drain.is_done(seen, NOW)) is done


@pytest.mark.parametrize(
    ("reported", "draining", "again"),
    [(-10, False, False), (3, False, False), (6, False, True), (6, True, False)],
)
def test_a_lost_message_is_sent_again(reported, draining, again):
    """A report well after the choice that knows nothing of it means that the message was lost."""
    now = NOW + seconds(8)
    report = known(worker(draining=draining), at=NOW + seconds(reported))
    assert drain.must_hear_again(pod(draining_since=NOW, report=report), now) is again


def test_a_replica_set_takes_the_pending_the_unready_and_the_cheap_first():
    """The order that Kubernetes documents, by which a marked pod goes before any other ready one."""
    pods = [
        pod("kept"),
        pod("marked", deletion_cost=drain.DELETION_COST),
        pod("unready", ready=False),
        pending("pending"),
        pod("young", created_at=NOW),
    ]
    ordered = [each.name for each in drain.replica_set_order(pods)]
    assert ordered == ["pending", "unready", "marked", "young", "kept"]


def test_pods_that_are_over_do_not_count():
    """A ReplicaSet replaces them by itself."""
    assert not drain.is_active(pod(terminating=True))
    assert not drain.is_active(pod(phase=PodPhase.FAILED))
    assert drain.is_active(pending())
