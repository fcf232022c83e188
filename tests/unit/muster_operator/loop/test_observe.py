"""Snapshots: what of the watched objects and of the brokers' views a plan gets to see."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from muster_operator.loop.keys import Key
from muster_operator.loop.metrics import pool_figures
from muster_operator.loop.observe import Memory, Observer
from muster_operator.loop.store import Store
from muster_operator.model.readings import Known, Unknown
from muster_operator.model.world import PodPhase, QueueReading
from muster_operator.ports import BrokerView, Demand, QueueAsk, ScopeView
from resources import schedule, task_queue, worker_pool
from worlds import NOW, REDIS, SECRET, known, unknown, worker

POOL = Key("WorkerPool", "shop", "mail")
CREATED = (NOW - timedelta(hours=1)).isoformat()


@dataclass
class Brokers:
    """Views and Secrets as told."""

    views: dict = field(default_factory=dict)
    secrets: dict = field(default_factory=dict)
    urls: dict = field(default_factory=dict)

    def secret(self, namespace, name):
        return self.secrets.get((namespace, name), known(SECRET))

    def view(self, namespace, secret):
        return self.views.get((namespace, secret), BrokerView(facts=known(REDIS)))

    def endpoint(self, namespace, secret):
        return self.urls.get((namespace, secret), "")


def held(manifest, namespace="shop", **metadata):
    name = manifest["metadata"]["name"]
    own = {
        "namespace": namespace,
        "uid": f"{namespace}-{name}",
        "creationTimestamp": CREATED,
        "generation": 1,
    }
    return manifest | {"metadata": manifest["metadata"] | own | metadata}


def labelled(kind, name, *, pool="mail", status=None, **more):
    labels = {"muster.dev/role": "worker", "muster.dev/pool": pool}
    return held({"kind": kind, "metadata": {"name": name, "labels": labels}, "status": status or {}} | more)


def pod(name, *, state=None, phase="Running", ready=False, annotations=None, **metadata):
    status = {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        "containerStatuses": [{"name": "worker", "state": state or {"running": {}}}],
    }
    body = labelled("Pod", name, status=status)
    own = {
        "annotations": annotations or {},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "mail-v1-x7"}],
    }
    return body | {"metadata": body["metadata"] | own | metadata}


def observer_of(*bodies, brokers=None):
    store = Store()
    for body in bodies:
        store.put(body["kind"], body)
    return Observer(store, brokers or Brokers(), image="muster-worker")


def seen(*bodies, brokers=None):
    return observer_of(*bodies, brokers=brokers).worker_pool(POOL, NOW, Memory())


MANIFESTS = (held(task_queue("mail")), held(worker_pool("mail", queues=["mail"])))


def test_a_pool_that_is_gone_has_no_snapshot():
    """Nothing is planned for it any more."""
    assert seen(held(task_queue("mail"))) is None


def test_a_pool_sees_its_own_children_and_no_others():
    """Deployments, pods and the budget by its label, in its namespace."""
    found = seen(
        *MANIFESTS,
        labelled("Deployment", "mail-v1", spec={"replicas": 2}),
        labelled("Deployment", "other-v1", pool="other", spec={"replicas": 9}),
        labelled("PodDisruptionBudget", "mail"),
        pod("a"),
        pod("b", namespace="elsewhere"),
    )
    assert [each.name for each in found.deployments] == ["mail-v1"]
    assert [each.name for each in found.pods] == ["a"]
    assert found.budget["metadata"]["name"] == "mail"


def test_a_deployment_is_settled_when_its_controller_has_seen_the_spec():
    """Until then its count of pods is of before; a failure of its ReplicaSet is told."""
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: few"}
    status = {"observedGeneration": 1, "replicas": 3, "conditions": [failure]}
    [settled] = seen(*MANIFESTS, labelled("Deployment", "v", spec={"replicas": 3}, status=status)).deployments
    assert (settled.replicas, settled.pods, settled.settled) == (3, 3, True)
    assert settled.trouble == "exceeded quota: few"
    body = labelled("Deployment", "v", spec={"replicas": 5}, status=status)
    [unsettled] = seen(*MANIFESTS, body | {"metadata": body["metadata"] | {"generation": 2}}).deployments
    assert not unsettled.settled


@pytest.mark.parametrize(
    ("given", "process", "trouble"),
    [
        ({"state": {"running": {"startedAt": CREATED}}}, True, ""),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}, "phase": "Pending"}, False, ""),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
            False,
            "ImagePullBackOff: no such image",
        ),
        (
            {"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
            False,
            "OOMKilled: exit code 137",
        ),
    ],
)
def test_a_pod_has_a_process_when_its_container_runs(given, process, trouble):
    """What keeps it from running is told in the cluster's words."""
    [found] = seen(*MANIFESTS, pod("a", **given)).pods
    assert (found.process, found.trouble) == (process, trouble)
    assert found.deployment == "mail-v1"


def test_a_pod_shows_how_far_it_has_come_in_leaving():
    """By our annotations; what somebody else has scribbled there is not ours."""
    marks = {
        "muster.dev/draining-since": "2026-11-20T11:59:00Z",
        "controller.kubernetes.io/pod-deletion-cost": "-1000",
    }
    scribble = {
        "muster.dev/draining-since": "yesterday",
        "controller.kubernetes.io/pod-deletion-cost": "cheap",
    }
    leaving, odd, going = seen(
        *MANIFESTS,
        pod("a", annotations=marks),
        pod("b", annotations=scribble),
        pod("c", phase="Failed", deletionTimestamp=CREATED),
    ).pods
    assert (leaving.draining_since, leaving.deletion_cost) == (NOW - timedelta(minutes=1), -1000)
    assert (odd.draining_since, odd.deletion_cost) == (None, 0)
    assert (going.phase, going.terminating) == (PodPhase.FAILED, True)


def test_a_worker_that_has_not_reported_is_unknown_not_idle():
    """A report is the pod's by its UID."""
    view = BrokerView(facts=known(REDIS), reports={"shop-a": known(worker(busy=1))})
    a, b = seen(*MANIFESTS, pod("a"), pod("b"), brokers=Brokers(views={("shop", "broker"): view})).pods
    assert a.report.value.busy == 1
    assert isinstance(b.report, Unknown)


def test_a_queue_on_a_broker_that_cannot_be_read_is_unknown_for_its_reason_and_since_then():
    """Even when it was never read before: a fallback's delay counts from the first failure."""
    since = NOW - timedelta(minutes=5)
    away = BrokerView(facts=unknown("AuthFailed", since, "wrong password"))
    [queue] = seen(*MANIFESTS, brokers=Brokers(views={("shop", "broker"): away})).queues
    assert (queue.reading.reason, queue.reading.at) == ("AuthFailed", since)
    [unread] = seen(*MANIFESTS).queues
    assert unread.reading.reason == "NotObservedYet"


def test_a_queue_that_does_not_exist_is_unknown():
    """Its figures are not 0."""
    [queue] = seen(held(worker_pool("mail", queues=["mail"]))).queues
    assert queue.task_queue is None
    assert queue.reading.reason == "QueueNotFound"


def hpa(name, target, kind="Deployment", **metadata):
    body = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": name}}
    spec = {"scaleTargetRef": {"kind": kind, "name": target}}
    return held(body | {"spec": spec}, **metadata)


def test_what_scales_our_deployment_is_foreign_and_what_scales_the_pool_is_not():
    """An HPA that KEDA made is named as the ScaledObject that a person can change."""
    ours = labelled("Deployment", "mail-v1", spec={"replicas": 1})
    keda = {"ownerReferences": [{"kind": "ScaledObject", "name": "by-depth"}]}
    found = seen(
        *MANIFESTS,
        ours,
        hpa("theirs", "mail-v1"),
        hpa("keda-hpa", "mail-v1", **keda),
        hpa("allowed", "mail", kind="WorkerPool"),
        hpa("web", "web"),
    ).foreign_scalers
    assert [(each.kind, each.name, each.target) for each in found] == [
        ("HorizontalPodAutoscaler", "theirs", "mail-v1"),
        ("ScaledObject", "by-depth", "mail-v1"),
    ]


def test_each_broker_is_asked_for_what_its_resources_name():
    """By Secret: queues with their dead letters, pools whose workers report, scopes with schedules."""
    observer = observer_of(
        held(task_queue("mail")),
        held(task_queue("far", broker={"secretRef": {"name": "far"}}, queueName="f")),
        held(worker_pool("mail", queues=["mail"], results={"secretRef": {"name": "results"}})),
        held(schedule("report", every="1m", queue="far")),
    )
    demands = observer.demands()
    assert demands["shop", "broker"] == Demand(
        queues=(QueueAsk(queue="mail", dead_letter="mail.dead"),), pools=("shop/mail",)
    )
    assert demands["shop", "far"].queues == (QueueAsk(queue="f", dead_letter="f.dead"),)
    assert demands["shop", "far"].scopes == ("shop",)
    assert observer.secrets() == {("shop", "broker"), ("shop", "far"), ("shop", "results")}


def test_rivals_are_taskqueues_for_the_same_queue_of_the_same_broker():
    """Two Secrets with one URL name one broker; one that cannot be read names none."""
    urls = {("shop", "broker"): "x", ("elsewhere", "broker"): "x", ("third", "broker"): "y"}
    observer = observer_of(
        held(task_queue("mail")),
        held(task_queue("twin", queueName="mail"), namespace="elsewhere"),
        held(task_queue("mail"), namespace="third"),
        held(task_queue("mail"), namespace="unreadable"),
        held(task_queue("other")),
        brokers=Brokers(urls=urls),
    )
    found = observer.task_queue(Key("TaskQueue", "shop", "mail"), NOW, Memory())
    assert [(each.metadata.namespace, each.metadata.name) for each in found.rivals] == [("elsewhere", "twin")]


def test_a_namespace_on_its_way_out_is_what_memory_says():
    """The loop looks it up for what holds the namespace up."""
    observer = observer_of(held(task_queue("mail")))
    key = Key("TaskQueue", "shop", "mail")
    assert not observer.task_queue(key, NOW, Memory()).namespace_terminating
    assert observer.task_queue(key, NOW, Memory(namespace_terminating=True)).namespace_terminating


def test_a_schedule_whose_scope_cannot_be_read_knows_nothing():
    """Neither that its entry is missing nor that no beat runs."""
    bodies = (held(task_queue("mail")), held(schedule("report", every="1m", queue="mail")))
    key = Key("Schedule", "shop", "report")
    unread = observer_of(*bodies).schedule(key, NOW, Memory())
    assert {type(unread.entry), type(unread.runs), type(unread.beat_running)} == {Unknown}
    view = BrokerView(facts=known(REDIS), scopes={"shop": known(ScopeView(beat_running=True))})
    read = observer_of(*bodies, brokers=Brokers(views={("shop", "broker"): view})).schedule(
        key, NOW, Memory()
    )
    assert (read.entry, read.beat_running) == (known(None), known(True))


def test_figures_of_a_pool_come_from_what_its_workers_say_now():
    """A stale report adds nothing; a draining worker's slots are no longer the pool's."""
    stale = Known(value=worker(busy=5, slots=5), at=NOW - timedelta(minutes=1))
    reports = {
        "shop-a": known(worker(busy=2, slots=4)),
        "shop-b": known(worker(busy=1, slots=4, draining=True)),
        "shop-c": stale,
    }
    view = BrokerView(facts=known(REDIS), queues={"mail": known(QueueReading(ready=0))}, reports=reports)
    pods = (pod("a", ready=True), pod("b", ready=True), pod("c", ready=False))
    figures = pool_figures(seen(*MANIFESTS, *pods, brokers=Brokers(views={("shop", "broker"): view})))
    assert (figures.ready, figures.busy, figures.slots) == (1, 3, 4)


def test_an_object_is_read_once_for_each_of_its_states():
    """With hundreds of objects, reading every one on every pass would leave no time for the lease."""
    store = Store()
    for body in MANIFESTS:
        store.put(body["kind"], body)
    observer = Observer(store, Brokers(), image="muster-worker")
    first = observer.worker_pool(POOL, NOW, Memory()).pool
    assert observer.worker_pool(POOL, NOW, Memory()).pool is first
    store.put("WorkerPool", held(worker_pool("mail", queues=["mail"], paused=True), generation=2))
    assert observer.worker_pool(POOL, NOW, Memory()).pool.spec.paused
    store.drop("WorkerPool", store.get("WorkerPool", "shop", "mail"))
    assert observer.worker_pool(POOL, NOW, Memory()) is None


def test_an_object_that_cannot_be_read_is_told_once_and_passed_over(caplog):
    """It keeps no other from being seen to."""
    odd = held(worker_pool("mail", queues=["mail"], replicas="many"))
    observer = observer_of(held(task_queue("mail")), odd)
    assert observer.worker_pool(POOL, NOW, Memory()) is None
    assert observer.worker_pool(POOL, NOW, Memory()) is None
    [record] = caplog.records
    assert "WorkerPool shop/mail is passed over: spec.replicas" in record.getMessage()
