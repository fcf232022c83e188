"""The plan for a virtual host of RabbitMQ, and what its TaskQueues say of it."""

from dataclasses import replace

import pytest

from muster_operator.api.conditions import find_condition
from muster_operator.decide.plan import plan_task_queue, plan_virtual_host
from muster_operator.decide.rabbitmq.policies import definitions, wanted_policies
from muster_operator.decide.rabbitmq.queues import wanted_queues
from muster_operator.model.actions import (
    DeclareQueues,
    Emit,
    PutPolicy,
    RemovePolicy,
    SetDefaultQueueType,
    SetStatus,
)
from muster_operator.model.rabbitmq import Answer, FoundQueue, Management, Policy, VirtualHost
from muster_operator.model.world import BrokerFacts, QueueReading, QueueSnapshot, VirtualHostSnapshot
from worlds import NOW, SECRET, known, pool_of, queue_of, unknown

V310 = BrokerFacts(type="RabbitMQ", version="3.10.8")
V312 = BrokerFacts(type="RabbitMQ", version="3.12.1")
V4 = BrokerFacts(type="RabbitMQ", version="4.0.5")
NONE = unknown("NoManagementApi", message="add the key")


def settled(*queues, version=(3, 10), **fields):
    """A virtual host on which all is as these queues want it."""
    wanted = wanted_queues(queues, fields.get("default_type", ""))
    policies = wanted_policies(queues, version, "us")
    found = {
        each.name: FoundQueue(
            arguments=each.arguments,
            policy="muster.us.1",
            effective=definitions(queues, version)[each.name],
            dead_letters_of=frozenset(each.dead_letters_of),
        )
        for each in wanted
    }
    values = {"queues": found, "policies": policies, "may_write_policies": True, "user": "joe"}
    management = Management(**(values | fields))
    return VirtualHost(there=frozenset(found), management=known(management))


def changed(host, queue, **fields):
    """The virtual host with something else found of one queue."""
    management = host.management.value
    found = dict(management.queues) | {queue: replace(management.queues[queue], **fields)}
    return replace(host, management=known(replace(management, queues=found)))


def with_management(host, **fields):
    return replace(host, management=known(replace(host.management.value, **fields)))


def plan(*queues, host=None, facts=V310):
    return plan_virtual_host(
        VirtualHostSnapshot(
            now=NOW,
            namespace="shop",
            secret_name="broker",
            owner="us",
            broker=known(facts),
            task_queues=queues,
            virtual_host=known(host) if isinstance(host, VirtualHost) else host,
        )
    ).actions


def kinds(actions):
    return [type(action) for action in actions]


def test_what_is_as_wanted_is_not_written():
    """A plan that has been carried out leads to an empty one."""
    assert plan(queue_of(), host=settled(queue_of())) == ()


def test_queues_come_first_and_then_their_policies():
    """All missing queues in one action, each policy in one of its own."""
    empty = VirtualHost(management=known(Management(may_write_policies=True)))
    actions = plan(queue_of(maxLength=5), host=empty)
    assert kinds(actions) == [DeclareQueues, PutPolicy, PutPolicy, PutPolicy]
    assert [each.name for each in actions[0].queues] == ["mail", "mail.dead", "muster.dead.other"]
    assert (actions[0].broker.namespace, actions[0].broker.secret) == ("shop", "broker")


@pytest.mark.parametrize(
    "management", [NONE, known(Management(may_write_policies=False))], ids=["none", "no rights"]
)
def test_where_policies_cannot_be_written_queues_are_declared_all_the_same(management):
    """Nothing is tried that is known to be refused."""
    assert kinds(plan(queue_of(), host=VirtualHost(management=management))) == [DeclareQueues]


def test_nothing_is_done_to_a_broker_that_cannot_be_read_or_is_too_old():
    """Nor is anything declared while it takes no messages: it would not hear it."""
    assert plan(queue_of(), host=unknown()) == ()
    old = BrokerFacts(type="RabbitMQ", version="3.9.1")
    assert plan(queue_of(), host=VirtualHost(management=NONE), facts=old) == ()
    alarm = VirtualHost(management=NONE, alarm="low on memory")
    assert plan(queue_of(), host=alarm) == ()


def test_a_policy_of_ours_that_nothing_wants_is_removed():
    """And no one else's."""
    host = settled(queue_of())
    stale = Policy(name="muster.us.0.1", pattern="^x$", definition={}, priority=10)
    foreign = Policy(name="ours", pattern="^x$", definition={}, priority=10)
    host = with_management(host, policies=(*host.management.value.policies, stale, foreign))
    [action] = plan(queue_of(), host=host)
    assert action == RemovePolicy(broker=action.broker, name="muster.us.0.1")
    assert RemovePolicy in kinds(plan(host=host))


@pytest.mark.parametrize(
    ("queues", "fields", "facts", "is_set"),
    [
        ((queue_of(),), {"may_set_default_type": True}, V4, True),
        ((queue_of(),), {"may_set_default_type": True}, V310, False),
        ((queue_of(),), {}, V4, False),
        ((queue_of(),), {"may_set_default_type": True, "default_type": "quorum"}, V4, False),
        ((queue_of(),), {"may_set_default_type": True, "default_type": "stream"}, V4, False),
        ((queue_of(),), {"may_set_default_type": True, "foreign_classic": True}, V4, False),
        ((queue_of(), queue_of("b", type="Classic")), {"may_set_default_type": True}, V4, False),
        ((), {"may_set_default_type": True}, V4, False),
    ],
)
def test_quorum_is_made_the_default_where_that_refuses_nobody(queues, fields, facts, is_set):
    """A classic queue there, or wanted, would be refused to who declares it without a type."""
    host = settled(*queues, version=(4, 0), **fields)
    assert (SetDefaultQueueType in kinds(plan(*queues, host=host, facts=facts))) == is_set


# what a TaskQueue says


def status_of(queue, host, facts=V310, **fields):
    reading = host if host is None or not isinstance(host, VirtualHost) else known(host)
    seen = QueueSnapshot(
        now=NOW,
        task_queue=queue,
        broker=known(facts),
        broker_secret=known(SECRET),
        reading=known(QueueReading(ready=0)),
        virtual_host=reading,
        owner="us",
        **fields,
    )
    actions = plan_task_queue(seen).actions
    [written] = [each for each in actions if isinstance(each, SetStatus)]
    return written.status, [each.reason for each in actions if isinstance(each, Emit)]


def condition_of(type_, queue, host, facts=V310, **fields):
    found = find_condition(status_of(queue, host, facts, **fields)[0].conditions, type_)
    return found and (found.status.value, found.reason, found.message)


def test_a_queue_as_declared_says_so():
    """Ready, in sync, with every member; its type is quorum unless it says else."""
    queue = queue_of()
    status, events = status_of(queue, settled(queue))
    assert {each.type: (each.status.value, each.reason) for each in status.conditions} == {
        "Ready": ("True", "AsDeclared"),
        "BrokerReachable": ("True", "AsDeclared"),
        "Conflict": ("False", "AsDeclared"),
        "QueueMismatch": ("False", "AsDeclared"),
        "PolicyInSync": ("True", "AsDeclared"),
        "BrokerAlarm": ("False", "AsDeclared"),
        "ClientsMustDeclareQuorum": ("True", "DefaultTypeNotQuorum"),
    }
    assert status.type == "Quorum"
    assert events == []


@pytest.mark.parametrize(
    ("host", "status", "reason", "says"),
    [
        (None, "Unknown", "NotObservedYet", "has not been read yet"),
        (unknown("PermissionMissing", message="refused"), "False", "PermissionMissing", "refused"),
        (VirtualHost(management=NONE), "False", "Progressing", "queue mail is being declared"),
        (
            changed(settled(queue_of()), "mail", arguments={"x-max-priority": 9}),
            "False",
            "OtherArguments",
            "it has {x-max-priority: 9}, and {x-queue-type: quorum} is wanted",
        ),
        (
            changed(settled(queue_of()), "mail.dead", arguments={}),
            "False",
            "OtherArguments",
            "queue mail.dead is there with other arguments",
        ),
    ],
)
def test_what_keeps_a_queue_from_being_ready(host, status, reason, says):
    """Each has its own reason; nothing is declared twice or guessed."""
    found = condition_of("Ready", queue_of(), host)
    assert found[:2] == (status, reason)
    assert says in found[2]


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [(403, "PermissionMissing", "the right to configure it"), (404, "BrokerError", "no such thing")],
)
def test_a_queue_that_the_server_does_not_declare(code, reason, says):
    """Its words are the message, and for missing rights there is a remedy."""
    [wanted] = [each for each in wanted_queues([queue_of()], "") if each.name == "mail"]
    answer = Answer(declaration=wanted, code=code, words="no such thing")
    host = VirtualHost(answers={"mail": answer}, management=NONE)
    found = condition_of("Ready", queue_of(), host)
    assert found[:2] == ("False", reason)
    assert says in found[2]


def test_a_broker_before_quorum_queues_had_a_ttl_is_too_old():
    """The message names both versions."""
    old = BrokerFacts(type="RabbitMQ", version="3.9.1")
    found = condition_of("Ready", queue_of(), settled(queue_of()), old)
    assert found[:2] == ("False", "BrokerTooOld")
    assert "RabbitMQ 3.9 lacks" in found[2]
    assert "3.10 or newer" in found[2]


HOST = settled(queue_of(maxLength=9))


@pytest.mark.parametrize(
    ("host", "status", "reason", "says"),
    [
        (replace(HOST, management=NONE), "Unknown", "NoManagementApi", "add the key"),
        (
            replace(HOST, management=unknown("ManagementUnreachable")),
            "Unknown",
            "ManagementUnreachable",
            "timed out",
        ),
        (with_management(HOST, may_write_policies=False), "False", "PermissionMissing", "user joe may not"),
        (changed(HOST, "mail", policy="", effective={}), "False", "Progressing", "policy of queue mail is"),
        (changed(HOST, "mail", policy="theirs", effective={}), "False", "PolicyOverridden", "theirs"),
        (
            changed(HOST, "mail.dead", operator_policy="op", effective={"max-length": 1}),
            "False",
            "OperatorPolicy",
            "operator policy op changes queue mail.dead to",
        ),
    ],
)
def test_what_keeps_a_policy_from_being_in_force(host, status, reason, says):
    """Of the queue and of its dead letters."""
    found = condition_of("PolicyInSync", queue_of(maxLength=9), host)
    assert found[:2] == (status, reason)
    assert says in found[2]


@pytest.mark.parametrize(
    ("words", "reason", "says"),
    [
        ("low on memory", "MemoryAlarm", "empty its queues"),
        ("low on disk", "DiskAlarm", "make room on its disk"),
        ("low on memory & disk", "DiskAlarm", "make room"),
        ("low on patience", "BrokerError", "see its log"),
    ],
)
def test_an_alarm_is_told_by_its_kind(words, reason, says):
    """The queue stays Ready: workers may go on to take tasks."""
    host = replace(settled(queue_of()), alarm=words)
    found = condition_of("BrokerAlarm", queue_of(), host)
    assert found[:2] == ("True", reason)
    assert says in found[2]
    assert condition_of("Ready", queue_of(), host)[0] == "True"
    assert reason in status_of(queue_of(), host)[1]


@pytest.mark.parametrize(
    ("spec", "default_type", "status", "reason", "says"),
    [
        ({}, "", "True", "DefaultTypeNotQuorum", 'task_create_missing_queue_type = "quorum"'),
        ({}, "quorum", "False", "AsDeclared", ""),
        ({"ha": {"replicas": 3}}, "quorum", "True", "MoreArguments", "'x-quorum-initial-group-size': 3"),
    ],
)
def test_what_a_celery_client_must_be_told(spec, default_type, status, reason, says):
    """The setting stands in the message; a classic queue needs none."""
    queue = queue_of(**spec)
    found = condition_of("ClientsMustDeclareQuorum", queue, settled(queue, default_type=default_type))
    assert found[:2] == (status, reason)
    assert says in found[2]
    classic = queue_of(type="Classic")
    assert condition_of("ClientsMustDeclareQuorum", classic, settled(classic)) is None
    assert condition_of("ClientsMustDeclareArguments", classic, settled(classic)) is None


@pytest.mark.parametrize(
    ("spec", "default_type", "says"),
    [
        ({"maxPriority": 9}, "", "queue_arguments={'x-max-priority': 9}"),
        ({}, "quorum", "queue_arguments={'x-queue-type': 'classic'}"),
    ],
)
def test_what_a_celery_client_must_be_told_of_a_classic_queue(spec, default_type, says):
    """Priorities are an argument; so is the type where another is the virtual host's default."""
    queue = queue_of(type="Classic", **spec)
    found = condition_of("ClientsMustDeclareArguments", queue, settled(queue, default_type=default_type))
    assert found[:2] == ("True", "MoreArguments")
    assert says in found[2]
    assert condition_of("ClientsMustDeclareQuorum", queue, settled(queue, default_type=default_type)) is None


def test_a_queue_that_rejects_warns_of_clients_that_do_not_confirm():
    """For as long as it does; one that drops its head has no such condition."""
    queue = queue_of(maxLength=9, overflow="RejectPublish")
    found = condition_of("UnconfirmedPublishersLoseTasks", queue, settled(queue))
    assert found[:2] == ("True", "RejectsWhenFull")
    assert "confirm_publish" in found[2]
    assert condition_of("UnconfirmedPublishersLoseTasks", queue_of(), settled(queue_of())) is None


@pytest.mark.parametrize(
    ("spec", "members", "online", "status"),
    [
        ({}, 3, 3, "False"),
        ({}, 3, 2, "True"),
        ({}, 1, 1, "False"),
        ({"ha": {"replicas": 3}}, 1, 1, "True"),
        ({"ha": {"replicas": 3}}, 5, 5, "False"),
        ({"type": "Classic", "ha": {"replicas": 2}}, 1, 1, "True"),
    ],
)
def test_too_few_members(spec, members, online, status):
    """Fewer than the spec asks for, or than the queue itself has."""
    queue = queue_of(**spec)
    host = changed(settled(queue), "mail", members=members, online=online)
    host = changed(host, "mail.dead", members=9, online=9)
    assert condition_of("UnderReplicated", queue, host)[0] == status


@pytest.mark.parametrize(
    ("spec", "limits", "facts", "status", "says"),
    [
        ({}, {}, V312, None, ""),
        ({}, {"timeLimit": "1h"}, V312, None, ""),
        ({"consumerTimeout": "5m"}, {"timeLimit": "1h"}, V312, "False", ""),
        ({"consumerTimeout": "4m"}, {"timeLimit": "3m"}, V312, "False", ""),
        ({"consumerTimeout": "4m"}, {"timeLimit": "4m"}, V312, "True", "set it to 5m or more"),
        ({"consumerTimeout": "4m"}, {"softTimeLimit": "1h"}, V312, "True", "for 1h: RabbitMQ would close"),
        ({"consumerTimeout": "4m"}, {"timeLimit": "1h"}, V310, None, ""),
    ],
)
def test_a_pool_whose_tasks_last_longer_than_a_message_may_be_held(spec, limits, facts, status, says):
    """Workers renew what they hold, where the timeout leaves them five minutes for it."""
    queue = queue_of(**spec)
    pool = pool_of(limits=limits, drain={"timeout": "2h"})
    host = settled(queue, version=(3, 12))
    found = condition_of("ConsumerTimeoutTooShort", queue, host, facts, pools=(pool,))
    assert (found and found[0]) == status
    if found:
        assert says in found[2]


@pytest.mark.parametrize(
    ("spec", "facts", "says"),
    [
        ({"consumerTimeout": "2h"}, V310, "RabbitMQ 3.10 for a Quorum queue: spec.consumerTimeout"),
        ({"consumerTimeout": "2h"}, V312, ""),
        ({"type": "Classic", "ha": {}}, V310, ""),
        ({"type": "Classic", "ha": {}}, V4, "RabbitMQ 4 mirrors no classic queues"),
        ({"messageTTL": "1h", "maxLength": 5, "overflow": "RejectPublish", "ha": {}}, V4, ""),
    ],
)
def test_limits_that_a_version_does_not_keep(spec, facts, says):
    """Each is named, with what holds in its place; what is kept is not spoken of."""
    queue = queue_of(**spec)
    found = condition_of("LimitsEnforced", queue, settled(queue), facts)
    if says:
        assert found[:2] == ("False", "NotOnThisBroker")
        assert says in found[2]
    else:
        assert found is None


def test_a_younger_rival_says_nothing_of_the_real_queue():
    """The older one does."""
    older = queue_of("first", queueName="mail", created_at=NOW.replace(year=2025))
    assert condition_of("PolicyInSync", queue_of(), settled(queue_of()), rivals=(older,)) is None


def test_a_place_of_dead_letters_with_its_own_task_queue_is_judged_by_that():
    """Else the two would say for ever that the other's policy is wrong."""
    queue, graves = queue_of(), queue_of("mail.dead", maxLength=3)
    host = settled(queue, graves)
    assert condition_of("PolicyInSync", queue, host, neighbours=(graves,))[0] == "True"
    assert condition_of("PolicyInSync", queue, host)[0] == "False"
