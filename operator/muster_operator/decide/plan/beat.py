"""The plan for beat: one Deployment for each broker and namespace, and no entry without a Schedule."""

from muster_operator.desired.beat import beat_deployment
from muster_operator.desired.difference import is_as_wanted
from muster_operator.model.actions import Action, Apply, BrokerAddress, Delete, Plan, RemoveSchedule
from muster_operator.model.readings import Known
from muster_operator.model.world import BeatSnapshot

from .common import RETRY_AFTER, may_try, rejection_of


def plan_beat(seen: BeatSnapshot) -> Plan:
    """Return what to do for the beat of one namespace on one broker."""
    schedules = [each for each in seen.schedules if each.metadata.deletion_timestamp is None]
    actions: list[Action] = []
    rejection = None
    if schedules and isinstance(seen.broker_secret, Known):
        results = seen.results_secret
        wanted = beat_deployment(
            seen.namespace,
            broker=seen.broker_secret.value,
            image=seen.image,
            owners=seen.task_queues,
            results=results.value if isinstance(results, Known) else None,
        )
        rejection = rejection_of(wanted, seen.rejections)
        there = seen.deployment is not None and is_as_wanted(wanted, seen.deployment.manifest)
        if not there and may_try(rejection, seen.now):
            actions.append(Apply(manifest=wanted))
    elif not schedules and seen.deployment is not None:
        actions.append(
            Delete(
                api_version="apps/v1",
                kind="Deployment",
                namespace=seen.namespace,
                name=seen.deployment.name,
                uid=seen.deployment.uid,
            )
        )
    if isinstance(seen.entries, Known):
        known = {each.metadata.uid for each in schedules}
        broker = BrokerAddress(namespace=seen.namespace, secret=seen.secret_name)
        actions += [RemoveSchedule(broker=broker, uid=uid) for uid in sorted(set(seen.entries.value) - known)]
    return Plan(actions=tuple(actions), requeue_at=rejection.at + RETRY_AFTER if rejection else None)
