"""The plan for a WorkerPool: its actions, its conditions, its events."""

from dataclasses import replace

import pytest

from muster.settings.pools import PoolType
from muster_operator.api.conditions import Condition, ConditionStatus, find_condition
from muster_operator.api.workerpool import WorkerPoolStatus
from muster_operator.decide.plan import plan_worker_pool
from muster_operator.decide.plan.workerpool import decide_worker_pool
from muster_operator.desired.difference import applied_hash
from muster_operator.model.actions import Apply, Delete, Emit, MarkPod, Scale, SendDrain, SetStatus
from muster_operator.model.readings import Unknown
from muster_operator.model.world import ForeignScaler, QueueView, Rejection
from worlds import (
    NOW,
    REDIS,
    SECRET,
    deployment,
    known,
    pending,
    pod,
    pool_of,
    queue_of,
    queue_view,
    seconds,
    snapshot,
    unknown,
    worker,
)


def done(seen, kind):
    return [action for action in plan_worker_pool(seen).actions if isinstance(action, kind)]


def status_of(seen):
    (written,) = done(seen, SetStatus)
    return written.status


def condition_of(seen, type_):
    found = find_condition(status_of(seen).conditions, type_)
    return found.status.value, found.reason, found.message


def applied(seen, kind="Deployment"):
    return [each.manifest for each in done(seen, Apply) if each.manifest["kind"] == kind]


def standing(pool, replicas, *, desired=None, **fields):
    """The pool after its Deployment has been applied, with so many replicas."""
    (manifest,) = applied(snapshot(pool))
    made = deployment(manifest["metadata"]["name"], replicas=replicas, manifest=manifest)
    status = WorkerPoolStatus(desired=replicas if desired is None else desired)
    values = {
        "deployments": (made,),
        "pods": tuple(pod(f"w{number}", deployment=made.name) for number in range(replicas)),
    }
    return snapshot(replace(pool, status=status), **(values | fields))


def test_a_new_pool_gets_a_deployment_and_a_budget():
    """Both are applied whole, the Deployment with the number of replicas that the load needs."""
    seen = snapshot(queues=(queue_view(ready=3),))
    (manifest,) = applied(seen)
    assert manifest["spec"]["replicas"] == 4  # 3 slots at 80 percent
    assert len(applied(seen, "PodDisruptionBudget")) == 1
    assert status_of(seen).deployment == manifest["metadata"]["name"]


def test_a_pool_that_is_deleted_is_left_to_the_garbage_collector():
    """Its children carry its owner reference; their pods drain by SIGTERM."""
    pool = pool_of()
    pool = replace(pool, metadata=replace(pool.metadata, deletion_timestamp=NOW))
    assert plan_worker_pool(snapshot(pool, queues=(queue_view(ready=3),))).actions == ()


def test_growing_writes_replicas_and_nothing_else_of_the_deployment():
    """A Deployment that is as wanted is scaled, not applied."""
    seen = standing(pool_of(), 1, queues=(queue_view(ready=8),))
    assert applied(seen) == []
    (scale,) = done(seen, Scale)
    assert (scale.replicas, scale.down) == (10, False)


def test_drift_is_mended():
    """A template that somebody edited is applied again, and the replicas stay as decided."""
    seen = standing(pool_of(), 2)
    name = seen.deployments[0].name
    edited = {**seen.deployments[0].manifest}
    edited["spec"] = {**edited["spec"], "template": {"spec": {"containers": []}}}
    seen = replace(seen, deployments=(deployment(name, replicas=2, manifest=edited),))
    (manifest,) = applied(seen)
    assert manifest["spec"]["replicas"] == 2


def test_a_drain_is_marked_told_and_lowered_in_that_order():
    """The victims are marked and told; a marked and drained one is taken away last."""
    gone = pod(
        "w9",
        draining_since=NOW - seconds(30),
        deletion_cost=-1000,
        report=known(worker(draining=True, drained=True)),
    )
    seen = standing(pool_of(paused=True), 3)
    name = seen.deployments[0].name
    seen = replace(seen, pods=(*seen.pods[:2], replace(gone, deployment=name)))
    kinds = [type(action) for action in plan_worker_pool(seen).actions]
    steps = [kind for kind in kinds if kind in {MarkPod, SendDrain, Scale}]
    assert steps == [MarkPod, MarkPod, SendDrain, SendDrain, Scale]
    assert {mark.annotations["muster.dev/draining-since"] for mark in done(seen, MarkPod)} == {
        "2026-11-20T12:00:00Z"
    }
    assert [each.replicas for each in done(seen, Scale)] == [2]
    assert {(each.pool, each.broker.secret) for each in done(seen, SendDrain)} == {("shop/mail", "broker")}


def test_a_drained_worker_gets_its_cost_and_keeps_the_time_of_its_choice():
    """Both annotations are one manager's, so the second mark repeats the first."""
    since = NOW - seconds(30)
    leaving = pod("w0", draining_since=since, report=known(worker(draining=True, drained=True)))
    seen = standing(pool_of(paused=True), 1)
    seen = replace(seen, pods=(replace(leaving, deployment=seen.deployments[0].name),))
    (mark,) = done(seen, MarkPod)
    assert mark.annotations == {
        "muster.dev/draining-since": "2026-11-20T11:59:30Z",
        "controller.kubernetes.io/pod-deletion-cost": "-1000",
    }
    assert done(seen, Scale) == []


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        (
            {"queues": (QueueView(name="mail", task_queue=None, reading=unknown("QueueNotFound")),)},
            "QueueNotFound",
            "TaskQueue mail, which does not exist in namespace shop",
        ),
        (
            {
                "queues": (
                    queue_view(),
                    QueueView(
                        name="default",
                        task_queue=queue_of("default", broker={"secretRef": {"name": "other"}}),
                        reading=unknown(),
                    ),
                )
            },
            "QueuesOnDifferentBrokers",
            "default on other, mail on broker",
        ),
        (
            {"broker_secret": unknown("SecretNotFound", message="not found")},
            "SecretNotFound",
            "Secret broker (TaskQueue mail, spec.broker.secretRef)",
        ),
        (
            {"results_secret": unknown("SecretInvalid", message="no key url")},
            "SecretInvalid",
            "spec.results.secretRef",
        ),
        ({"broker": unknown("AuthFailed", message="WRONGPASS")}, "AuthFailed", "check user and password"),
        ({"broker": unknown("BrokerUnreachable")}, "BrokerUnreachable", "Secret broker: timed out"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_missing_is_named_with_its_remedy(fields, reason, says):
    """Ready is False, with the object, the field and what to do."""
    seen = snapshot(
        pool_of(results={"secretRef": {"name": "results"}}), **{"results_secret": known(SECRET)} | fields
    )
    status, found, message = condition_of(seen, "Ready")
    assert (status, found) == ("False", reason)
    assert says in message


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        (
            {"type": "asyncio"},
            "spec.pool.type: the pool asyncio comes in a later version; use gevent or threads",
        ),
        (
            {"customPool": "shop.pools:Own"},
            "spec.pool.customPool: the pool shop.pools:Own is one of your own",
        ),
    ],
)
def test_a_pool_that_this_version_does_not_have_is_said_and_not_started(pool, says):
    """Not Ready, at zero too, with the field and the remedy; no Deployment whose containers would crash."""
    for minimum in (0, 3):
        seen = snapshot(pool_of(pool=pool, scaling={"minReplicas": minimum}))
        status, reason, message = condition_of(seen, "Ready")
        assert (status, reason) == ("False", "PoolNotSupported")
        assert message.startswith(says)
        assert "; use " in message
        assert applied(seen) == []
        assert [each.reason for each in done(seen, Emit) if each.type == "Warning"] == ["PoolNotSupported"]


@pytest.mark.parametrize("name", PoolType)
def test_the_manifest_knows_every_pool_of_the_engine(name):
    """What a worker can be started with can be declared."""
    seen = snapshot(pool_of(pool={"type": str(name)}))
    assert condition_of(seen, "Ready")[1] != "PoolNotSupported"
    assert done(seen, Apply)


def test_a_pool_that_cannot_be_built_keeps_its_workers():
    """A Secret that has gone rolls nothing and takes nobody away; in Fixed mode the size still follows."""
    pool = pool_of(scaling={"mode": "Fixed"}, replicas=5)
    seen = standing(pool, 2, broker_secret=unknown("SecretNotFound"))
    assert applied(seen) == []
    assert [(each.replicas, each.deployment) for each in done(seen, Scale)] == [(5, seen.deployments[0].name)]


def test_nothing_read_yet_is_unknown_and_no_failure():
    """A pool that has just been seen is neither ready nor broken."""
    seen = snapshot(
        broker=unknown("NotObservedYet"),
        broker_secret=unknown("NotObservedYet"),
        queues=(queue_view(reading=unknown("NotObservedYet")),),
    )
    assert condition_of(seen, "Ready")[:2] == ("Unknown", "NotObservedYet")
    assert condition_of(seen, "BrokerReachable")[:2] == ("Unknown", "NotObservedYet")
    assert done(seen, Emit) == []


def test_a_queue_that_is_not_ready_makes_its_pool_not_ready():
    """The queue's own reason is quoted."""
    queue = queue_of()
    problem = Condition(type="Ready", status=ConditionStatus.FALSE, reason="OwnedByOlder", message="older")
    queue = replace(queue, status=replace(queue.status, conditions=(problem,)))
    view = replace(queue_view(), task_queue=queue)
    assert condition_of(snapshot(queues=(view,)), "Ready") == (
        "False",
        "QueueNotReady",
        "TaskQueue mail is not ready (OwnedByOlder): older",
    )


def test_workers_on_their_way_are_progress():
    """Fewer ready than wanted, and nothing is wrong with any pod."""
    seen = standing(pool_of(), 2, pods=(pod("a"), pod("b", ready=False)))
    assert condition_of(seen, "Ready") == ("False", "Progressing", "1 of 2 workers take tasks")


def test_a_pod_in_trouble_is_quoted():
    """The cluster's words and the pod's name."""
    trouble = pending("b", trouble="ImagePullBackOff: no such image")
    status, reason, message = condition_of(standing(pool_of(), 2, pods=(pod("a"), trouble)), "Ready")
    assert (status, reason) == ("False", "WorkersNotReady")
    assert "pod b: ImagePullBackOff: no such image" in message


def test_ready_when_all_wanted_workers_take_tasks():
    """None too few; at zero too."""
    assert condition_of(standing(pool_of(), 2), "Ready")[:2] == ("True", "AsDeclared")
    assert condition_of(snapshot(), "Ready")[:2] == ("True", "AsDeclared")


@pytest.mark.parametrize(
    ("spec", "fields", "status", "reason"),
    [
        ({}, {}, "True", "LoadKnown"),
        ({"paused": True}, {}, "False", "PausedBySpec"),
        ({"scaling": {"mode": "Fixed"}}, {}, "False", "FixedMode"),
        ({"scaling": {"mode": "External"}}, {}, "False", "ExternalMode"),
        ({}, {"queues": (queue_view(reading=unknown()),)}, "False", "LoadUnknown"),
    ],
    ids=["Managed", "paused", "Fixed", "External", "unknown"],
)
def test_scaling_active(spec, fields, status, reason):
    """Who chooses the size, and whether enough is known for it."""
    assert condition_of(snapshot(pool_of(**spec), **fields), "ScalingActive")[:2] == (status, reason)


@pytest.mark.parametrize(
    ("ready", "scaling", "status", "reason"),
    [
        (3, {}, "False", "WithinLimits"),
        (99, {"maxReplicas": 5}, "True", "AtMaximum"),
        (0, {"minReplicas": 2}, "True", "AtMinimum"),
    ],
)
def test_scaling_limited(ready, scaling, status, reason):
    """Whether the bounds hold the pool back."""
    seen = snapshot(pool_of(scaling=scaling), queues=(queue_view(ready=ready),))
    assert condition_of(seen, "ScalingLimited")[:2] == (status, reason)


FOREIGN = (ForeignScaler(kind="HorizontalPodAutoscaler", name="old", target="mail-abc"),)


def test_a_foreign_scaler_is_a_conflict_and_nothing_is_scaled():
    """Hands off every number, whatever the load; the message says what to do."""
    seen = standing(pool_of(), 3, queues=(queue_view(ready=99),), foreign_scalers=FOREIGN)
    assert done(seen, Scale) == done(seen, MarkPod) == done(seen, Delete) == applied(seen) == []
    status, reason, message = condition_of(seen, "ScalingConflict")
    assert (status, reason) == ("True", "ForeignScaler")
    assert "HorizontalPodAutoscaler old" in message
    assert "spec.scaling.mode to External" in message


def test_a_mended_deployment_keeps_the_foreign_number():
    """Under a conflict an apply repeats the replicas that stand there."""
    seen = standing(pool_of(), 3, foreign_scalers=FOREIGN)
    broken = replace(seen.deployments[0], manifest={}, replicas=7)
    (manifest,) = applied(replace(seen, deployments=(broken,)))
    assert manifest["spec"]["replicas"] == 7


def test_draining_and_paused_are_conditions():
    """With how many leave, and who asked for the pause."""
    leaving = (pod("a", draining_since=NOW), pod("b"))
    seen = standing(pool_of(paused=True), 2, pods=leaving)
    assert condition_of(seen, "Draining")[:2] == ("True", "WorkersLeaving")
    assert condition_of(seen, "Paused")[:2] == ("True", "PausedBySpec")
    assert condition_of(snapshot(), "Draining")[:2] == ("False", "NoneLeaving")
    assert condition_of(snapshot(), "Paused")[:2] == ("False", "NotPaused")


def rejected(seen, ago=1):
    (manifest,) = applied(seen)
    rejection = Rejection(
        kind="Deployment",
        name=manifest["metadata"]["name"],
        applied=applied_hash(manifest),
        message="spec.template.spec.containers[0].resources: Invalid value",
        at=NOW - seconds(ago),
    )
    return replace(seen, rejections=(rejection,))


def test_a_refused_template_is_shown_and_not_tried_again_at_once():
    """The API server's words stand in the condition; the next try is after five minutes."""
    seen = rejected(snapshot())
    assert applied(seen) == []
    status, reason, message = condition_of(seen, "TemplateRejected")
    assert (status, reason) == ("True", "RejectedByAPIServer")
    assert "resources: Invalid value" in message
    assert condition_of(seen, "Ready")[1] == "RejectedByAPIServer"
    assert plan_worker_pool(seen).requeue_at == NOW + seconds(299)
    assert len(applied(rejected(snapshot(), ago=300))) == 1


def test_a_corrected_template_is_tried_at_once():
    """Another manifest is not the one that was refused."""
    seen = rejected(snapshot())
    corrected = replace(seen, pool=pool_of(image="shop:2"))
    assert len(applied(corrected)) == 1
    assert condition_of(corrected, "TemplateRejected")[:2] == ("False", "Accepted")


def test_the_version_before_goes_on_while_the_new_one_is_refused():
    """Its workers are sized as if nothing had been changed."""
    seen = standing(pool_of(), 2, queues=(queue_view(ready=8),))
    changed = replace(seen, pool=replace(pool_of(image="bad"), status=seen.pool.status))
    refused = rejected(changed)
    assert applied(refused) == []
    assert [(each.deployment, each.replicas) for each in done(refused, Scale)] == [
        (seen.deployments[0].name, 10)
    ]


def test_fields_that_are_musters_are_left_out_and_named():
    """The rest of the template holds, and the condition says what to set instead."""
    pool = pool_of(template={"spec": {"terminationGracePeriodSeconds": 5, "nodeSelector": {"disk": "ssd"}}})
    (manifest,) = applied(snapshot(pool))
    spec = manifest["spec"]["template"]["spec"]
    assert (spec["terminationGracePeriodSeconds"], spec["nodeSelector"]) == (615, {"disk": "ssd"})
    status, reason, message = condition_of(snapshot(pool), "TemplateRejected")
    assert (status, reason) == ("True", "FieldIsMusters")
    assert "spec.terminationGracePeriodSeconds: set spec.drain.timeout" in message


def test_figures_of_the_status():
    """Rounded, summed, and left out where a part of them could not be read."""
    pods = (pod("a", report=known(worker(slots=4, busy=3))), pod("b", report=known(worker(slots=4, busy=1))))
    queues = (queue_view(ready=1234, claimed=2, running=3, oldest_age_seconds=75.0),)
    status = status_of(standing(pool_of(), 2, pods=pods, queues=queues))
    assert (status.replicas, status.ready, status.busy, status.slots) == (2, 2, 4, 8)
    assert (status.depth, status.in_flight, status.oldest_age) == (1200, 5, seconds(60))
    assert status.selector == "muster.dev/pool=mail,muster.dev/role=worker"
    silent = (pods[0], pod("b", report=unknown()))
    status = status_of(standing(pool_of(), 2, pods=silent, queues=(queue_view(reading=unknown()),)))
    assert (status.busy, status.slots, status.depth, status.in_flight) == (None, None, None, None)


def test_a_change_of_size_is_a_decision_and_an_event():
    """From, to, reason and inputs, in the status and in the event."""
    seen = standing(pool_of(), 1, queues=(queue_view(ready=8),))
    decision = status_of(seen).last_decision
    assert (decision.from_, decision.to, decision.reason, decision.time) == (1, 10, "LoadRose", NOW)
    assert decision.inputs["neededSlots"] == 8
    (event,) = [each for each in done(seen, Emit) if each.reason == "ScaledUp"]
    assert event.message.startswith("from 1 to 10 workers: LoadRose (ready 8, ")


def test_a_size_that_stays_keeps_its_last_decision():
    """A pass without a change says nothing new."""
    first = standing(pool_of(), 1, queues=(queue_view(ready=8),))
    status = status_of(first)
    again = standing(replace(first.pool), 10, queues=(queue_view(ready=8),))
    again = replace(again, pool=replace(first.pool, status=status))
    assert status_of(again).last_decision == status.last_decision


def test_a_problem_is_one_event_and_not_one_a_pass():
    """It is told when the condition turns, once, though two conditions say it."""
    seen = snapshot(broker=unknown("AuthFailed", message="WRONGPASS"))
    (event,) = done(seen, Emit)
    assert (event.type.value, event.reason) == ("Warning", "AuthFailed")
    again = replace(seen, pool=replace(seen.pool, status=status_of(seen)))
    assert done(again, Emit) == []


def test_replanning_an_applied_plan_is_empty():
    """What was applied and written is seen, and nothing is left to do."""
    first = snapshot(queues=(queue_view(ready=4),))
    (manifest,) = applied(first)
    (budget,) = applied(first, "PodDisruptionBudget")
    name = manifest["metadata"]["name"]
    second = replace(
        first,
        pool=replace(first.pool, status=status_of(first)),
        deployments=(deployment(name, replicas=5, manifest=manifest),),
        budget=budget,
        pods=tuple(pod(f"w{number}", deployment=name) for number in range(5)),
        history=plan_worker_pool(first).history,
    )
    third = replace(second, pool=replace(second.pool, status=status_of(second)), status_written_at=NOW)
    assert plan_worker_pool(third).actions == ()


def test_a_decision_can_be_explained_from_its_snapshot():
    """The same snapshot gives the same decision, inputs and all."""
    seen = standing(pool_of(), 1, queues=(queue_view(ready=8),))
    assert decide_worker_pool(seen) == decide_worker_pool(seen)
    assert decide_worker_pool(seen).target.inputs["ready"] == 8


def test_a_latency_uses_the_runtime_that_workers_report():
    """10,000 tasks of 10 ms within 5 s need 20 slots, which are 25 workers at 80 percent."""
    pool = pool_of(scaling={"target": {"latency": "5s"}, "maxReplicas": 100})
    pods = (pod("a", report=known(worker(runs=1000, runtime_seconds=10.0))),)
    plan = plan_worker_pool(standing(pool, 1, pods=pods, queues=(queue_view(ready=10_000),)))
    assert [each.replicas for each in plan.actions if isinstance(each, Scale)] == [25]
    assert plan.runtime.seconds == 0.01


def test_the_broker_is_named_when_it_answers():
    """Type and version."""
    assert condition_of(snapshot(), "BrokerReachable") == ("True", "AsDeclared", "Redis 8.0.1 answers")
    assert not isinstance(known(REDIS), Unknown)
