"""The plans of a WorkerPool, carried out again and again in a cluster in memory."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from muster_operator.decide.drain import is_leaving
from muster_operator.decide.plan import plan_worker_pool
from worlds import Cluster, pool_of

SCALING = {"maxReplicas": 20, "target": {"utilization": 100}}


def pool(**spec):
    return pool_of(**({"scaling": SCALING, "pool": {"concurrency": 1}} | spec))


def grown(size, **spec):
    """A cluster whose workers are all busy with one task each."""
    cluster = Cluster(pool(**spec))
    cluster.ready = size
    cluster.operate()
    cluster.operate()
    cluster.start_pods()
    cluster.pass_time(1)
    cluster.operate()
    assert len(cluster.pods) == size
    assert all(each.tasks for each in cluster.pods.values())
    return cluster


def changed(cluster, **spec):
    """The user changes the spec."""
    made = pool(**spec)
    metadata = replace(made.metadata, generation=cluster.pool.metadata.generation + 1)
    cluster.pool = replace(cluster.pool, spec=made.spec, metadata=metadata)


def run(cluster, passes, *, step=2):
    for _ in range(passes):
        cluster.start_pods()
        cluster.pass_time(step)
        cluster.operate()


def total(cluster):
    return sum(each["replicas"] for each in cluster.deployments.values())


def test_from_zero_to_the_backlog_in_one_pass():
    """A pool at zero that finds seven messages asks for seven workers in the same pass."""
    cluster = Cluster(pool())
    cluster.operate()
    assert (total(cluster), len(cluster.pods)) == (0, 0)
    cluster.ready = 7
    cluster.operate()
    assert total(cluster) == 7
    assert cluster.pool.status.last_decision.reason == "LoadRose"
    assert cluster.pool.status.last_decision.inputs["ready"] == 7


def test_back_to_zero_when_the_work_is_done():
    """After the window, by drain, and nobody who works is killed."""
    cluster = grown(7)
    cluster.end_tasks(7)
    cluster.settle(60)
    assert (total(cluster), cluster.pods) == (0, {})
    assert cluster.busy_killed == []
    assert cluster.pool.status.desired == 0


def test_busy_workers_stay_while_the_pool_shrinks():
    """Five of seven tasks end: five workers leave, and the two that work are not among them."""
    cluster = grown(7)
    cluster.end_tasks(5)
    busy = {name for name, each in cluster.pods.items() if each.tasks}
    run(cluster, 60)
    assert set(cluster.pods) == busy
    assert not any(each.draining for each in cluster.pods.values())


def test_a_steady_cluster_is_not_written_to():
    """Once nothing changes, no plan has an action, and no status is written."""
    cluster = grown(3)
    run(cluster, 60)
    writes = cluster.status_writes
    for _ in range(30):
        cluster.pass_time(2)
        assert cluster.operate().actions == ()
    assert cluster.status_writes == writes


def test_a_broker_outage_takes_nobody_away():
    """The load had fallen and the drain begun: everything stays as it is until the broker answers again."""
    cluster = grown(6)
    cluster.end_tasks(6)
    run(cluster, 32)
    cluster.break_broker()
    before, pods = total(cluster), set(cluster.pods)
    run(cluster, 120)
    assert (total(cluster), set(cluster.pods)) == (before, pods)
    cluster.settle(80)
    assert total(cluster) == 0


def test_an_operator_that_starts_in_the_middle_of_a_drain_goes_on():
    """It forgets its window, not the drain: the same workers leave, and nobody else."""
    cluster = grown(6)
    cluster.end_tasks(3)
    while not any(each.draining for each in cluster.pods.values()):
        cluster.pass_time(2)
        cluster.operate()
    chosen = {name for name, each in cluster.pods.items() if each.draining}
    stay = set(cluster.pods) - chosen
    for _ in range(20):
        cluster.restart_operator()
        cluster.pass_time(2)
        cluster.operate()
    assert set(cluster.pods) == stay
    assert cluster.busy_killed == []


def test_load_that_rises_during_a_drain_gets_new_workers():
    """Workers on their way out finish their tasks; others take their place at once, within the maximum."""
    cluster = grown(6)
    changed(cluster, paused=True)
    cluster.operate()
    assert all(each.draining for each in cluster.pods.values())
    changed(cluster)
    cluster.ready = 6
    cluster.operate()
    assert total(cluster) == 18  # six run, six wait, and the six that run count as needed slots too
    cluster.end_tasks(6)
    run(cluster, 3)
    assert not any(each.draining for each in cluster.pods.values())
    assert cluster.busy_killed == []


def test_a_drained_worker_that_is_needed_is_replaced_at_the_maximum():
    """There is no room beside it, so it is deleted and the ReplicaSet starts another in its place."""
    cluster = grown(3, scaling=SCALING | {"maxReplicas": 3})
    cluster.pods[next(iter(cluster.pods))].draining = True
    cluster.end_tasks(3)
    cluster.ready = 3
    run(cluster, 3)
    assert (total(cluster), len(cluster.pods)) == (3, 3)
    assert not any(each.draining for each in cluster.pods.values())


def test_a_paused_pool_goes_to_zero_and_finishes_what_runs():
    """Everybody is told at once; who still works stays until the task has ended."""
    cluster = grown(4)
    changed(cluster, paused=True)
    run(cluster, 5)
    assert len(cluster.pods) == 4
    cluster.end_tasks(3)
    run(cluster, 3)
    assert len(cluster.pods) == 1
    cluster.end_tasks(1)
    run(cluster, 3)
    assert (total(cluster), cluster.busy_killed) == (0, [])


def test_a_new_image_replaces_the_workers_and_kills_none():
    """The new version takes over; old workers leave as they finish; then the old Deployment goes."""
    cluster = grown(4)
    old = next(iter(cluster.deployments))
    changed(cluster, image="shop:2")
    run(cluster, 20)
    assert old in cluster.deployments  # its tasks still run
    for _ in range(30):
        cluster.ready += 1
        cluster.end_tasks(1)
        run(cluster, 2)
    cluster.settle(60)
    assert old not in cluster.deployments
    assert cluster.busy_killed == []


def test_a_new_version_never_leaves_fewer_ready_workers_than_wanted():
    """Ready workers that stay do not fall below the target through us, at any step of the change."""
    cluster = Cluster(pool(replicas=5, scaling={"mode": "Fixed"}))
    run(cluster, 5)
    changed(cluster, replicas=5, scaling={"mode": "Fixed"}, image="shop:2")
    for _ in range(40):
        run(cluster, 1)
        seen = cluster.snapshot()
        assert sum(each.ready and not is_leaving(each) for each in seen.pods) >= 5
        assert total(cluster) <= 5 + 2 + sum(is_leaving(each) for each in seen.pods)
    assert len(cluster.deployments) == 1
    assert {each.deployment for each in cluster.pods.values()} == set(cluster.deployments)


def test_going_back_to_the_old_image_uses_the_old_deployment():
    """The Deployment is named by its content, so the way back is a change of version like any other."""
    cluster = Cluster(pool(replicas=3, scaling={"mode": "Fixed"}))
    run(cluster, 5)
    first = set(cluster.deployments)
    changed(cluster, replicas=3, scaling={"mode": "Fixed"}, image="shop:2")
    run(cluster, 3)
    changed(cluster, replicas=3, scaling={"mode": "Fixed"})
    run(cluster, 40)
    assert set(cluster.deployments) == first
    assert len(cluster.pods) == 3


class Fleet(RuleBasedStateMachine):
    """Anything may happen, in any order; some things never follow from it, and calm brings order back."""

    @initialize(slots=st.integers(1, 3), most=st.integers(1, 8), least=st.integers(0, 1))
    def begin(self, slots, most, least):
        self.spec = {
            "pool": {"concurrency": slots},
            "scaling": {"maxReplicas": most, "minReplicas": least, "target": {"utilization": 100}},
        }
        self.most, self.least = most, least
        self.image = 1
        self.cluster = Cluster(pool(**self.spec), slots=slots)

    @rule(count=st.integers(1, 12))
    def messages_arrive(self, count):
        self.cluster.ready += count

    @rule(count=st.integers(1, 12))
    def tasks_end(self, count):
        self.cluster.end_tasks(count)

    @rule(elapsed=st.sampled_from([0.5, 2, 30, 61]), passes=st.integers(1, 4))
    def time_passes(self, elapsed, passes):
        for _ in range(passes):
            self.cluster.pass_time(elapsed)
            self.pass_of_the_operator()

    @rule()
    def pods_start(self):
        self.cluster.start_pods()

    @rule()
    def operator_restarts(self):
        self.cluster.restart_operator()

    @rule()
    def broker_breaks(self):
        if self.cluster.broker_up:
            self.cluster.break_broker()

    @rule()
    def broker_comes_back(self):
        self.cluster.broker_up = True

    @rule(data=st.data())
    def a_worker_process_restarts(self, data):
        running = sorted(name for name, each in self.cluster.pods.items() if each.process)
        if running:
            chosen = self.cluster.pods[data.draw(st.sampled_from(running))]
            self.cluster.ready += len(chosen.tasks)
            chosen.tasks.clear()
            chosen.draining = False

    @rule(paused=st.booleans())
    def user_pauses_or_resumes(self, paused):
        self.spec["paused"] = paused
        changed(self.cluster, **self.spec)

    @rule(image=st.integers(1, 3))
    def user_changes_the_image(self, image):
        self.spec["image"] = f"shop:{image}"
        changed(self.cluster, **self.spec)

    def pass_of_the_operator(self):
        broken = not self.cluster.broker_up
        before = {name: each["replicas"] for name, each in self.cluster.deployments.items()}
        self.cluster.operate()
        if broken and not self.cluster.pool.spec.paused:  # a pause lets go of what has no process
            for name, each in self.cluster.deployments.items():
                assert each["replicas"] >= before.get(name, 0)

    @invariant()
    def no_busy_worker_was_killed(self):
        assert not hasattr(self, "cluster") or self.cluster.busy_killed == []

    @invariant()
    def the_fleet_is_bounded(self):
        if hasattr(self, "cluster"):
            assert total(self.cluster) <= self.most + max(1, -(-self.most // 4))

    def teardown(self):
        if not hasattr(self, "cluster"):
            return
        self.spec["paused"] = False
        changed(self.cluster, **self.spec)
        self.cluster.settle(150 + self.cluster.ready)  # one worker with one slot ends one task in a pass
        assert self.cluster.ready == 0
        assert total(self.cluster) == self.least
        assert len(self.cluster.deployments) == 1
        assert not any(each.draining for each in self.cluster.pods.values())
        self.cluster.pass_time(31)
        self.cluster.operate()
        assert plan_worker_pool(self.cluster.snapshot()).actions == ()


Fleet.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestFleet = Fleet.TestCase
