"""The plan for a TaskQueue: conditions, figures, and the end of the real queue."""

import re
from dataclasses import replace

import pytest

from muster_operator.api.conditions import find_condition
from muster_operator.api.names import FINALIZER_QUEUE
from muster_operator.api.taskqueue import QueueType
from muster_operator.decide.plan import plan_task_queue
from muster_operator.model.actions import Emit, RemoveQueue, SetFinalizer, SetStatus
from muster_operator.model.world import BrokerFacts, QueueReading, QueueSnapshot
from worlds import NOW, REDIS, SECRET, known, queue_of, seconds, unknown


def seen(queue=None, **fields):
    values = {
        "now": NOW,
        "task_queue": queue or queue_of(),
        "broker": known(REDIS),
        "broker_secret": known(SECRET),
        "reading": known(QueueReading(ready=0)),
    }
    return QueueSnapshot(**(values | fields))


def done(snapshot, kind):
    return [action for action in plan_task_queue(snapshot).actions if isinstance(action, kind)]


def status_of(snapshot):
    (written,) = done(snapshot, SetStatus)
    return written.status


def condition_of(snapshot, type_):
    found = find_condition(status_of(snapshot).conditions, type_)
    return found and (found.status.value, found.reason, found.message)


def test_a_queue_that_is_read_is_ready():
    """Its name, type and rounded figures stand in the status."""
    reading = QueueReading(ready=1234, claimed=2, running=3, waiting=7, dead=1, oldest_age_seconds=15)
    status = status_of(seen(queue_of("mail", queueName="shop.mail"), reading=known(reading)))
    assert (status.queue_name, status.type.value) == ("shop.mail", "Redis")
    assert (status.depth, status.in_flight, status.delayed, status.dead_letters) == (1200, 5, 7, 1)
    assert status.oldest_age == seconds(10)
    assert condition_of(seen(), "Ready")[:2] == ("True", "AsDeclared")


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"broker_secret": unknown("SecretNotFound")}, "False", "SecretNotFound"),
        ({"broker_secret": unknown("SecretInvalid")}, "False", "SecretInvalid"),
        ({"broker": unknown("AuthFailed")}, "False", "AuthFailed"),
        ({"broker": unknown("BrokerUnreachable")}, "False", "BrokerUnreachable"),
        ({"broker": unknown("BrokerError")}, "False", "BrokerError"),
        ({"broker": unknown("BrokerNotSupported")}, "False", "BrokerNotSupported"),
        ({"broker": unknown("NotObservedYet")}, "Unknown", "NotObservedYet"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_stands_between_us_and_the_broker(fields, status, reason):
    """Each has its own reason, in two conditions, and names the Secret; figures are left out."""
    snapshot = seen(**fields, reading=unknown())
    for type_ in ("Ready", "BrokerReachable"):
        found = condition_of(snapshot, type_)
        assert found[:2] == (status, reason)
        assert found[2].startswith("Secret broker: timed out")
    assert (status_of(snapshot).depth, status_of(snapshot).in_flight) == (None, None)


def test_a_queue_that_cannot_be_read_is_not_ready():
    """The broker answers, and this queue does not."""
    found = condition_of(seen(reading=unknown("BrokerError", message="WRONGTYPE")), "Ready")
    assert found == ("False", "BrokerError", "queue mail: WRONGTYPE")


def test_a_type_that_the_broker_does_not_have():
    """Quorum on Redis is a mismatch; on the embedded broker it stands in for RabbitMQ's."""
    quorum = queue_of(type="Quorum")
    status, reason, message = condition_of(seen(quorum), "Ready")
    assert (status, reason) == ("False", "TypeMismatch")
    assert "spec.type is Quorum, and the broker of Secret broker is Redis, which has Redis" in message
    assert condition_of(seen(quorum, broker=known(BrokerFacts(type="SQLite"))), "Ready")[0] == "True"


def test_the_older_of_two_owns_the_queue():
    """The younger says whose it is and what to do, and the older says nothing."""
    older = queue_of("first", queueName="mail", created_at=NOW - seconds(60))
    status, reason, message = condition_of(seen(rivals=(older,)), "Conflict")
    assert (status, reason) == ("True", "OwnedByOlder")
    assert "TaskQueue shop/first is older and owns queue mail" in message
    assert condition_of(seen(rivals=(older,)), "Ready")[1] == "OwnedByOlder"
    assert condition_of(seen(older, rivals=(queue_of(),)), "Conflict")[0] == "False"


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (replace(REDIS, eviction_policy="allkeys-lru", max_memory_bytes=1), ("True", "EvictionPolicy")),
        (replace(REDIS, eviction_policy="volatile-ttl", max_memory_bytes=1), ("True", "EvictionPolicy")),
        (replace(REDIS, eviction_policy="allkeys-lru"), ("False", "AsDeclared")),
        (replace(REDIS, max_memory_bytes=1), ("False", "AsDeclared")),
        (BrokerFacts(type="SQLite"), None),
    ],
    ids=lambda each: (
        f"{each.eviction_policy} {each.max_memory_bytes}" if isinstance(each, BrokerFacts) else ""
    ),
)
def test_an_eviction_policy_that_deletes_tasks(facts, found):
    """Unsafe where Redis has a memory limit and may evict; other brokers have no such condition."""
    condition = condition_of(seen(broker=known(facts)), "EvictionPolicyUnsafe")
    assert (condition and condition[:2]) == found


EVERY_LIMIT = {
    "messageTTL": "1h",
    "maxLength": 5,
    "overflow": "RejectPublish",
    "ha": {"replicas": 3},
    "consumerTimeout": "2h",
}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"messageTTL": "1h"}, ["messageTTL"]),
        ({"maxLength": 5}, ["maxLength"]),
        ({"maxLength": 5, "overflow": "DropHead"}, ["maxLength"]),
        ({"ha": {"replicas": 1}}, ["ha"]),
        (
            EVERY_LIMIT,
            ["messageTTL", "maxLength", "overflow", "ha", "consumerTimeout"],
        ),
    ],
    ids=" ".join,
)
def test_limits_that_redis_does_not_keep(spec, named):
    """The condition stands as long as they are set, and names each; the queue is Ready all the same."""
    status, reason, message = condition_of(seen(queue_of(**spec)), "LimitsEnforced")
    assert (status, reason) == ("False", "NotOnRedis")
    assert re.findall(r"spec\.([\w.]+)", message) == named
    assert "leave them out, or use RabbitMQ" in message
    assert condition_of(seen(queue_of(**spec)), "Ready")[0] == "True"
    assert [event.reason for event in done(seen(queue_of(**spec)), Emit)] == ["NotOnRedis"]


def test_a_queue_without_limits_speaks_of_none():
    """Nor does one that bounds its dead letters alone; on the embedded broker `muster dev` speaks."""
    plain = queue_of(
        overflow="DropHead", deadLetter={"queueName": "lost", "maxAge": "1d", "maxLength": 7}, deliveryLimit=3
    )
    assert condition_of(seen(plain), "LimitsEnforced") is None
    embedded = known(BrokerFacts(type="SQLite"))
    assert condition_of(seen(queue_of(**EVERY_LIMIT), broker=embedded), "LimitsEnforced") is None


def test_limits_on_a_broker_that_does_not_answer_are_unknown():
    """For the reason that stands between us and it, so that the condition does not come and go."""
    limited = queue_of(maxLength=5)
    found = condition_of(seen(limited, broker=unknown("BrokerUnreachable")), "LimitsEnforced")
    assert found[:2] == ("Unknown", "BrokerUnreachable")


def test_problems_are_events_once():
    """Ready and Conflict say the same thing: one event, and none when it was there before."""
    snapshot = seen(rivals=(queue_of("first", created_at=NOW - seconds(60)),))
    assert [event.reason for event in done(snapshot, Emit)] == ["OwnedByOlder"]
    again = replace(snapshot, task_queue=replace(snapshot.task_queue, status=status_of(snapshot)))
    assert plan_task_queue(again).actions == ()


def test_what_an_operator_does_not_know_yet_waits_for_its_first_look():
    """A start turns no Ready queue over, and writes each new one once; what is known is said at once."""
    unread = {"broker": unknown("NotObservedYet"), "reading": unknown("NotObservedYet")}
    looking = seen(first_seen_at=NOW - seconds(3), **unread)
    plan = plan_task_queue(looking)
    assert (plan.actions, plan.requeue_at) == ((), NOW + seconds(27))
    assert condition_of(replace(looking, first_seen_at=NOW - seconds(30)), "Ready")[1] == "NotObservedYet"
    refused = seen(first_seen_at=NOW, broker=unknown("AuthFailed"))
    assert condition_of(refused, "Ready")[1] == "AuthFailed"
    assert condition_of(seen(first_seen_at=NOW), "Ready")[0] == "True"


def test_only_a_queue_that_is_to_be_deleted_gets_a_finalizer():
    """Retain has nothing to do outside the cluster, and takes a finalizer off again."""
    assert done(seen(), SetFinalizer) == []
    (put,) = done(seen(queue_of(deletionPolicy="Delete")), SetFinalizer)
    assert (put.finalizer, put.present) == (FINALIZER_QUEUE, True)
    held = queue_of()
    held = replace(held, metadata=replace(held.metadata, finalizers=(FINALIZER_QUEUE,)))
    (off,) = done(seen(held), SetFinalizer)
    assert off.present is False


def deleted(ago=0, **fields):
    queue = queue_of(deletionPolicy="Delete")
    metadata = replace(queue.metadata, finalizers=(FINALIZER_QUEUE,), deletion_timestamp=NOW - seconds(ago))
    return seen(replace(queue, metadata=metadata), **fields)


def outcome(snapshot):
    plan = plan_task_queue(snapshot)
    released = any(isinstance(each, SetFinalizer) and not each.present for each in plan.actions)
    removed = any(isinstance(each, RemoveQueue) for each in plan.actions)
    told = [each.message for each in plan.actions if isinstance(each, Emit)]
    return removed, released, told[0] if told else ""


def test_an_empty_queue_is_removed_with_its_object():
    """First the queue, then the finalizer: a failure between repeats both."""
    assert [type(each) for each in plan_task_queue(deleted()).actions] == [RemoveQueue, SetFinalizer]


@pytest.mark.parametrize("figure", ["ready", "claimed", "running", "waiting", "dead"])
def test_a_queue_that_holds_anything_stays(figure):
    """Waiting, held, delayed or dead: the queue is retained, and an event says how many."""
    reading = known(QueueReading(**({"ready": 0} | {figure: 3})))
    removed, released, told = outcome(deleted(reading=reading))
    assert (removed, released) == (False, True)
    assert "queue mail stays on its broker: it holds 3 messages" in told


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"broker_secret": unknown("SecretNotFound")}, "Secret broker cannot be read (SecretNotFound)"),
        ({"reading": unknown(), "namespace_terminating": True}, "(BrokerUnreachable) timed out"),
        ({"reading": unknown(), "ago": 60}, "(BrokerUnreachable) timed out"),
        ({"rivals": (queue_of("first", created_at=NOW - seconds(9)),)}, "TaskQueue shop/first owns it"),
    ],
    ids=["no secret", "namespace goes", "after a minute", "not ours"],
)
def test_nothing_jams_a_deletion(fields, says):
    """No Secret, no broker, no ownership: the finalizer goes, the queue stays, and an event says why."""
    removed, released, told = outcome(deleted(**fields))
    assert (removed, released) == (False, True)
    assert says in told


@pytest.mark.parametrize(
    ("kind", "ago", "says"),
    [
        (None, 0, "RabbitMQ cannot delete a quorum queue only if it is empty"),
        ("Quorum", 0, "RabbitMQ cannot delete a quorum queue only if it is empty"),
        ("Classic", 0, ""),
        ("Classic", 299, ""),
        ("Classic", 300, "somebody consumes it"),
    ],
)
def test_rabbitmq_removes_a_classic_queue_if_nobody_consumes_it(kind, ago, says):
    """It has a condition for that, which it does not have for quorum queues: they stay."""
    rabbitmq = known(BrokerFacts(type="RabbitMQ", version="3.10.8"))
    snapshot = deleted(ago=ago, broker=rabbitmq)
    spec = replace(snapshot.task_queue.spec, type=kind and QueueType(kind))
    removed, released, told = outcome(replace(snapshot, task_queue=replace(snapshot.task_queue, spec=spec)))
    assert (removed, released) == (not says, True)
    assert says in told


def test_a_broker_that_is_away_is_waited_for_a_minute():
    """The deletion waits, and the loop is told until when."""
    plan = plan_task_queue(deleted(ago=10, reading=unknown()))
    assert (plan.actions, plan.requeue_at) == ((), NOW + seconds(50))


def test_a_deleted_queue_without_our_finalizer_is_nobodys_business():
    """Whoever holds it back, we do not."""
    queue = queue_of()
    queue = replace(queue, metadata=replace(queue.metadata, deletion_timestamp=NOW))
    assert plan_task_queue(seen(queue)).actions == ()
