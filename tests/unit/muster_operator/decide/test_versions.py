"""How many workers each version has, and who leaves."""

from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide.drain import DELETION_COST, is_deaf, is_done, is_leaving
from muster_operator.decide.versions import size_versions
from muster_operator.model.world import PodPhase
from worlds import NOW, deployment, known, pending, pod, seconds, unknown, worker

DRAINED = known(worker(draining=True, drained=True))
DRAINING = known(worker(draining=True, busy=1))
BUSY = known(worker(busy=1, oldest_start_at=NOW))


def size(deployments, pods, replicas, *, current="mail-1", most=None, may_shrink=True):
    return size_versions(
        current=current,
        deployments=deployments,
        pods=pods,
        replicas=replicas,
        most=most,
        may_shrink=may_shrink,
        now=NOW,
    )


def names(pods):
    return sorted(each.name for each in pods)


def workers(count, **fields):
    return [pod(f"w{number}", **fields) for number in range(count)]


def leaving(name="gone", *, report=DRAINED, marked=True, **fields):
    cost = DELETION_COST if marked else 0
    return pod(
        name, ready=False, draining_since=NOW - seconds(30), deletion_cost=cost, report=report, **fields
    )


def test_a_new_pool_gets_its_size_at_once():
    """The Deployment that does not exist yet is asked for with all its replicas."""
    assert size([], [], 5).replicas == {"mail-1": 5}


def test_growing_needs_no_proof():
    """Replicas rise in one step."""
    assert size([deployment(replicas=2)], workers(2), 7).replicas == {"mail-1": 7}


def test_surplus_workers_are_told_and_nothing_is_lowered_yet():
    """Phase one: two of three are chosen and told, idle ones first, and replicas stay."""
    steps = size([deployment(replicas=3)], [pod("busy", report=BUSY), pod("i1"), pod("i2")], 1)
    assert names(steps.choose) == names(steps.tell) == ["i1", "i2"]
    assert steps.replicas == {"mail-1": 3}
    assert steps.mark == ()


def test_a_drained_worker_is_marked_before_replicas_fall():
    """Phase two begins with the deletion cost."""
    steps = size([deployment(replicas=2)], [pod("stays"), leaving(marked=False)], 1)
    assert names(steps.mark) == ["gone"]
    assert steps.replicas == {"mail-1": 2}


def test_replicas_fall_by_the_marked_and_drained():
    """Of three that leave, one is done and marked: replicas fall by one."""
    pods = [pod("stays"), leaving(), leaving("b", report=DRAINING, marked=False), leaving("c", marked=False)]
    steps = size([deployment(replicas=4)], pods, 1)
    assert steps.replicas == {"mail-1": 3}
    assert names(steps.mark) == ["c"]


def test_a_silent_worker_lowers_nothing():
    """Whatever it said before: without a fresh report nobody is taken away."""
    pods = [
        pod("stays"),
        leaving(report=unknown()),
        leaving("b", report=known(DRAINED.value, at=NOW - seconds(60))),
    ]
    assert size([deployment(replicas=3)], pods, 1).replicas == {"mail-1": 3}


def test_a_pod_without_a_process_needs_no_drain():
    """A pending pod goes at once: nothing runs in it, and the ReplicaSet takes it first."""
    steps = size([deployment(replicas=2)], [pod("stays"), pending()], 1)
    assert steps.replicas == {"mail-1": 1}
    assert steps.choose == steps.tell == steps.mark == ()


def test_a_crashing_pod_is_marked_and_then_goes():
    """It runs nothing, but a ReplicaSet would not take it before other unready pods."""
    crashing = pod("crash", process=False, ready=False, report=unknown())
    steps = size([deployment(replicas=2)], [pod("stays"), crashing], 1)
    assert (names(steps.mark), steps.tell, steps.replicas) == (["crash"], (), {"mail-1": 2})
    marked = leaving("crash", process=False, report=unknown())
    assert size([deployment(replicas=2)], [pod("stays"), marked], 1).replicas == {"mail-1": 1}


def test_replicas_that_never_got_a_pod_can_be_dropped():
    """A quota let only two of ten be made: eight replicas are given up without anyone leaving."""
    assert size([deployment(replicas=10, pods=2)], workers(2), 2).replicas == {"mail-1": 2}


def test_pods_that_we_have_not_seen_yet_are_not_missing():
    """An index that is still empty must not empty the pool: the Deployment counts its pods too."""
    assert size([deployment(replicas=10, pods=10)], [], 0).replicas == {"mail-1": 10}
    assert size([deployment(replicas=10, pods=0, settled=False)], [], 0).replicas == {"mail-1": 10}


def test_pods_that_the_replica_set_will_delete_are_not_counted_again():
    """Replicas fell to 2 and the third pod still stands: nobody else is chosen, nothing falls further."""
    pods = [pod("a"), pod("b"), leaving()]
    steps = size([deployment(replicas=2, pods=3)], pods, 2)
    assert steps.replicas == {"mail-1": 2}
    assert (steps.choose, steps.mark, steps.replace) == ((), (), ())


def test_a_leaving_worker_that_is_needed_again_is_made_up_for():
    """Load rose while two drain: two more are started, within the maximum."""
    pods = [pod("a"), leaving("b", report=DRAINING), leaving("c", report=DRAINING)]
    assert size([deployment(replicas=3)], pods, 3, most=10).replicas == {"mail-1": 5}
    assert size([deployment(replicas=3)], pods, 3, most=4).replicas == {"mail-1": 4}


def test_a_drained_worker_that_is_needed_is_replaced():
    """There is no way back for it: it is deleted, and the ReplicaSet starts another in its place."""
    steps = size([deployment(replicas=2)], [pod("a"), leaving(marked=False)], 2)
    assert names(steps.replace) == ["gone"]
    assert steps.replicas == {"mail-1": 2}
    assert steps.mark == ()


def test_nothing_shrinks_when_it_must_not():
    """While the load is unknown, not even what was decided before goes on."""
    pods = [pod("a"), pod("b"), leaving(), pending()]
    steps = size([deployment(replicas=4)], pods, 1, may_shrink=False)
    assert steps.replicas == {"mail-1": 4}
    assert (steps.choose, steps.mark, steps.replace) == ((), (), ())


OLD = deployment("mail-0", replicas=4, created_at=NOW - seconds(9999))


def old(name, **fields):
    return pod(name, deployment="mail-0", **fields)


def test_a_new_version_starts_beside_the_old_one():
    """A quarter above the target at first; no old worker leaves before a new one is ready."""
    steps = size([OLD], [old(name) for name in "abcd"], 4)
    assert steps.replicas == {"mail-0": 4, "mail-1": 1}
    assert steps.choose == ()


def test_old_workers_leave_as_new_ones_become_ready():
    """One new worker is ready: one old worker is chosen, an idle one, and the next new one is asked for."""
    pods = [old("a", report=BUSY), old("b"), old("c", report=BUSY), old("d", report=BUSY), pod("new")]
    steps = size([OLD, deployment(replicas=1)], pods, 4)
    assert names(steps.choose) == ["b"]
    assert steps.replicas == {"mail-0": 4, "mail-1": 1}


def test_an_old_version_is_deleted_when_nothing_is_left():
    """Not while a pod of it still finishes its tasks."""
    gone = deployment("mail-0", replicas=0)
    assert size([gone, deployment(replicas=1)], [pod()], 1).finished == (gone,)
    ending = pod("last", deployment="mail-0", terminating=True)
    assert size([gone, deployment(replicas=1)], [pod(), ending], 1).finished == ()


def test_a_version_that_never_becomes_ready_costs_no_worker():
    """The old version keeps serving for as long as it takes."""
    broken = pod("new", process=False, ready=False, report=unknown())
    steps = size([OLD, deployment(replicas=1)], [*(old(name) for name in "abcd"), broken], 4)
    assert (steps.choose, steps.replicas["mail-0"]) == ((), 4)


REPORTS = st.sampled_from(
    [
        unknown(),
        known(worker()),
        known(worker(), at=NOW - seconds(60)),
        BUSY,
        DRAINING,
        DRAINED,
        known(DRAINED.value, at=NOW - seconds(60)),
    ]
)


@st.composite
def fleets(draw):
    """Deployments and pods in any state, consistent or not."""
    deployments, pods = [], []
    for name in ("mail-0", "mail-1"):
        if draw(st.booleans()):
            count = draw(st.integers(0, 5))
            deployments.append(
                deployment(
                    name,
                    replicas=draw(st.integers(0, 6)),
                    pods=draw(st.integers(0, 6)),
                    settled=draw(st.booleans()),
                )
            )
            for number in range(count):
                process = draw(st.booleans())
                pods.append(
                    pod(
                        f"{name}-{number}",
                        deployment=name,
                        phase=draw(st.sampled_from([PodPhase.RUNNING, PodPhase.RUNNING, PodPhase.PENDING])),
                        process=process,
                        ready=process and draw(st.booleans()),
                        terminating=draw(st.integers(0, 5)) == 0,
                        draining_since=draw(st.sampled_from([None, NOW - seconds(30)])),
                        deletion_cost=draw(st.sampled_from([0, DELETION_COST])),
                        report=draw(REPORTS),
                    )
                )
    return deployments, pods


@given(fleet=fleets(), replicas=st.integers(0, 8), most=st.none() | st.integers(1, 8), may=st.booleans())
def test_replicas_never_fall_by_more_than_is_proven_idle(fleet, replicas, most, may):
    """Proven are the drained by a fresh report, pods without a process, and replicas without a pod."""
    deployments, pods = fleet
    steps = size(deployments, pods, replicas, most=most, may_shrink=may)
    for each in deployments:
        mine = [every for every in pods if every.deployment == each.name and not every.terminating]
        proven = sum(is_done(every, NOW) for every in mine if not every.process or is_leaving(every))
        without_pod = max(0, each.replicas - len(mine))
        assert each.replicas - steps.replicas[each.name] <= proven + without_pod
        assert may or steps.replicas[each.name] >= each.replicas


@given(fleet=fleets(), replicas=st.integers(0, 8), most=st.none() | st.integers(1, 8), may=st.booleans())
def test_only_the_living_are_touched_and_each_in_one_way(fleet, replicas, most, may):
    """No terminating pod is marked or deleted, told only if deaf, and none is both marked and deleted."""
    deployments, pods = fleet
    steps = size(deployments, pods, replicas, most=most, may_shrink=may)
    assert not any(each.terminating for each in (*steps.choose, *steps.mark, *steps.replace))
    assert not any(each.terminating for each in steps.tell)
    assert all(is_deaf(each, NOW) for each in steps.dismiss)
    assert not set(names(steps.replace)) & set(names(steps.mark))
    assert not set(names(steps.choose)) & set(names(steps.mark))
    assert all(is_done(each, NOW) for each in steps.replace)


@given(fleet=fleets(), replicas=st.integers(0, 8), most=st.integers(1, 8))
def test_growth_stays_within_the_maximum(fleet, replicas, most):
    """Replicas rise to the maximum at most, and a quarter of the target above it in a change of version."""
    deployments, pods = fleet
    steps = size(deployments, pods, min(replicas, most), most=most)
    surge = max(1, -(-min(replicas, most) // 4))
    if any(steps.replicas[each.name] > each.replicas for each in deployments):
        assert sum(steps.replicas.values()) <= most + surge


def test_a_pod_that_is_deleted_and_does_not_know_is_told():
    """A SIGTERM that came while the process started is lost: the report shows it, a message stands in.

    Also for one that was told to drain; not for one that was deleted just now, which may not have got it yet.
    """
    long_ago = NOW - seconds(20)
    deaf = pod("deaf", terminating=True, deleted_at=long_ago, report=BUSY)
    drained = pod("drained", terminating=True, deleted_at=long_ago, report=DRAINING)
    knowing = pod(
        "knowing", terminating=True, deleted_at=long_ago, report=known(worker(draining=True, leaving=True))
    )
    fresh = pod("fresh", terminating=True, deleted_at=NOW, report=BUSY)
    silent = pod("silent", terminating=True, deleted_at=long_ago, report=unknown())
    pods = [deaf, drained, knowing, fresh, silent, pod("w0")]
    steps = size([deployment(replicas=1)], pods, 1)
    assert names(steps.dismiss) == ["deaf", "drained"]
    assert steps.tell == ()
    assert steps.choose == ()
    assert steps.replicas == {"mail-1": 1}
