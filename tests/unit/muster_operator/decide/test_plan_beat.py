"""The plan for beat: one Deployment for each broker and namespace, and no entry without a Schedule."""

from dataclasses import replace

from muster_operator.decide.plan import plan_beat
from muster_operator.desired.difference import applied_hash
from muster_operator.model.actions import Apply, Delete, RemoveSchedule
from muster_operator.model.world import BeatSnapshot, Rejection
from worlds import NOW, SECRET, deployment, known, queue_of, schedule_of, seconds, unknown

REPORT = schedule_of(every="1m")


def seen(**fields):
    values = {
        "now": NOW,
        "namespace": "shop",
        "broker_secret": known(SECRET),
        "secret_name": "broker",
        "schedules": (REPORT,),
        "task_queues": (queue_of(),),
        "entries": known({}),
        "image": "muster:1",
    }
    return BeatSnapshot(**(values | fields))


def standing(**fields):
    (apply,) = plan_beat(seen()).actions
    manifest = apply.manifest
    return seen(deployment=deployment(manifest["metadata"]["name"], 1, manifest=manifest), **fields)


def test_a_first_schedule_brings_beat():
    """One replica, replaced only after the old one has gone, owned by the TaskQueue."""
    (apply,) = plan_beat(seen()).actions
    spec = apply.manifest["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert [each["name"] for each in apply.manifest["metadata"]["ownerReferences"]] == ["mail"]


def test_a_beat_that_stands_is_left_alone():
    """Nothing to do, nothing written."""
    assert plan_beat(standing()).actions == ()


def test_a_new_image_replaces_beat_in_place():
    """The name is made of the broker alone, so there are never two Deployments."""
    (apply,) = plan_beat(replace(standing(), image="muster:2")).actions
    assert apply.manifest["metadata"]["name"] == standing().deployment.name


def test_the_last_schedule_takes_beat_with_it():
    """A deleted Schedule counts for nothing."""
    gone = replace(REPORT, metadata=replace(REPORT.metadata, deletion_timestamp=NOW))
    for schedules in ((), (gone,)):
        (delete,) = plan_beat(replace(standing(), schedules=schedules)).actions
        assert isinstance(delete, Delete)


def test_entries_without_a_schedule_are_removed():
    """Whenever they are seen: a Schedule that was deleted while no operator ran ticks no more."""
    entries = known({REPORT.metadata.uid: "shop/report", "gone": "shop/gone"})
    removed = plan_beat(standing(entries=entries)).actions
    assert [(each.uid, each.broker.secret) for each in removed] == [("gone", "broker")]
    assert all(isinstance(each, RemoveSchedule) for each in removed)


def test_an_outage_touches_nothing():
    """Without the Secret or the entries there is nothing to conclude."""
    assert plan_beat(standing(broker_secret=unknown("SecretNotFound"), entries=unknown())).actions == ()


def test_what_the_api_server_refuses_is_tried_again_later():
    """After five minutes, or when it is another manifest."""
    (apply,) = plan_beat(seen()).actions
    manifest = apply.manifest
    rejection = Rejection(
        kind="Deployment",
        name=manifest["metadata"]["name"],
        applied=applied_hash(manifest),
        message="quota",
        at=NOW - seconds(10),
    )
    plan = plan_beat(seen(rejections=(rejection,)))
    assert (plan.actions, plan.requeue_at) == ((), NOW + seconds(290))
    assert isinstance(plan_beat(seen(rejections=(rejection,), image="muster:2")).actions[0], Apply)
