"""Policies on RabbitMQ: few, for exactly the names that they are meant for, and nobody else's touched."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.taskqueue import QUEUE_NAME_PATTERN
from muster_operator.decide.rabbitmq import policies
from muster_operator.model.rabbitmq import FoundQueue, Management, Policy
from worlds import queue_of

V310, V312, V4 = (3, 10), (3, 12), (4, 0)
NAMES = st.from_regex(QUEUE_NAME_PATTERN, fullmatch=True).map(lambda name: name[:200])


def wanted(*queues, version=V310):
    return policies.wanted_policies(queues, version, "us")


@pytest.mark.parametrize(
    ("spec", "version", "definition"),
    [
        ({}, V310, {}),
        ({}, V4, {"delivery-limit": -1}),
        ({"type": "Classic"}, V4, {}),
        ({"maxLength": 5}, V310, {"max-length": 5, "overflow": "drop-head"}),
        (
            {"maxLength": 5, "overflow": "RejectPublish"},
            V310,
            {"max-length": 5, "overflow": "reject-publish"},
        ),
        ({"type": "Classic", "messageTTL": "1h"}, V310, {"message-ttl": 3_600_000}),
        (
            {"messageTTL": "1h"},
            V310,
            {
                "message-ttl": 3_600_000,
                "overflow": "reject-publish",
                "dead-letter-strategy": "at-least-once",
            },
        ),
        (
            {"messageTTL": "1h", "maxLength": 5},
            V310,
            {"message-ttl": 3_600_000, "max-length": 5, "overflow": "drop-head"},
        ),
        ({"consumerTimeout": "2h"}, V310, {}),
        ({"consumerTimeout": "2h"}, V312, {"consumer-timeout": 7_200_000}),
        ({"ha": {"replicas": 3}}, V310, {}),
        (
            {"type": "Classic", "ha": {"replicas": 3}},
            V312,
            {"ha-mode": "exactly", "ha-params": 3, "ha-sync-mode": "automatic"},
        ),
        ({"type": "Classic", "ha": {"replicas": 3}}, V4, {}),
    ],
)
def test_what_a_queue_is_given_by_policy(spec, version, definition):
    """Its dead letters always have somewhere to go; what a version does not know is not written to it."""
    found = policies.definition_of(queue_of(**spec), version)
    assert found == {"dead-letter-exchange": "muster.dead"} | definition


def test_dead_letters_are_bounded():
    """By age and number, and on RabbitMQ 4 they are not counted out either."""
    queue = queue_of(deadLetter={"maxAge": "1h", "maxLength": 7})
    assert policies.dead_definition_of(queue, V310) == {"message-ttl": 3_600_000, "max-length": 7}
    assert policies.dead_definition_of(queue, V4)["delivery-limit"] == -1


def test_a_thousand_queues_of_three_definitions_need_five_policies():
    """Three, one for their dead letters, and one for the events of monitors that have gone."""
    found = wanted(*(queue_of(f"queue-{n:04}", maxLength=10 + n % 3) for n in range(1000)))
    assert len(found) == 5
    assert {policy.priority for policy in found} == {policies.PRIORITY}
    assert all(policy.name.startswith("muster.us.") for policy in found)
    [events] = [policy for policy in found if policy.name.endswith(".events")]
    assert re.search(events.pattern, "celeryev.4711")
    assert not re.search(events.pattern, "my.celeryev.1")


def test_without_queues_there_are_no_policies():
    """Nothing is left behind by the last TaskQueue."""
    assert wanted() == ()


def test_a_queue_of_dead_letters_that_has_a_task_queue_is_governed_by_that():
    """Which may be there to run them again."""
    found = policies.definitions([queue_of("mail"), queue_of("mail.dead", maxLength=3)], V310)
    assert found["mail.dead"]["max-length"] == 3
    assert set(found) == {"mail", "mail.dead", "mail.dead.dead", "muster.dead.other"}


@given(st.sets(NAMES, min_size=1, max_size=30), NAMES)
def test_a_pattern_fits_its_names_and_no_other(names, other):
    """Whatever characters they are made of."""
    found = policies.patterns(names)
    for name in names:
        assert sum(bool(re.search(pattern, name)) for pattern in found) == 1
    if other not in names:
        assert not any(re.search(pattern, other) for pattern in found)


@given(st.integers(1, 400), st.integers(1, 200))
def test_no_pattern_is_longer_than_the_server_takes(count, length):
    """What is too long for one goes into another."""
    names = [f"{n:04}".rjust(length, "-") for n in range(count)]
    found = policies.patterns(names)
    assert all(len(pattern) <= policies.LONGEST_PATTERN for pattern in found)
    assert all(any(re.search(pattern, name) for pattern in found) for name in names)


FOREIGN = Policy(name="theirs", pattern=".*", definition={"max-length": 3}, priority=20)
OTHER_OPERATORS = Policy(name="muster.them.1", pattern="^x$", definition={}, priority=10)


@given(st.lists(NAMES, unique=True, max_size=5), st.lists(NAMES, unique=True, max_size=5))
def test_writing_the_differences_leaves_none(before, after):
    """From any state of ours to any other; what is somebody else's stays as it is."""
    old = {p.name: p for p in wanted(*(queue_of("a", queueName=name) for name in before))}
    new = wanted(*(queue_of("a", queueName=name) for name in after))
    there = old | {each.name: each for each in (FOREIGN, OTHER_OPERATORS)}
    put, remove = policies.differences(new, there.values(), "us")
    there = {name: p for name, p in (there | {p.name: p for p in put}).items() if name not in remove}
    assert there == {p.name: p for p in (*new, FOREIGN, OTHER_OPERATORS)}
    assert policies.differences(new, there.values(), "us") == ((), ())


def test_a_policy_changed_by_hand_is_written_again():
    """Whatever it is that was changed."""
    [first, *rest] = wanted(queue_of())
    changed = Policy(name=first.name, pattern="^x$", definition=first.definition, priority=10)
    assert policies.differences([first, *rest], [changed, *rest], "us") == ((first,), ())


@pytest.mark.parametrize(
    ("found", "kind", "says"),
    [
        (FoundQueue(policy="muster.us.1", effective={"a": 1}), None, ""),
        (FoundQueue(), None, ""),
        (FoundQueue(policy="muster.us.1"), None, ""),
        (
            FoundQueue(policy="theirs", effective={"max-length": 3}),
            "policy",
            "policy theirs (priority 20) is in force",
        ),
        (
            FoundQueue(policy="gone", effective={"max-length": 3}),
            "policy",
            "policy gone is in force",
        ),
        (
            FoundQueue(policy="muster.us.1", operator_policy="op", effective={"a": 0}),
            "operator policy",
            "operator policy op changes queue mail to a: 0",
        ),
        (
            FoundQueue(policy="muster.us.1", operator_policy="op", effective={"a": 1, "expires": 5}),
            "operator policy",
            "operator policy op changes queue mail to expires: 5",
        ),
    ],
)
def test_who_keeps_a_queue_from_its_definition(found, kind, says):
    """Somebody's policy, somebody's operator policy, or nobody: then ours is on its way."""
    answer = policies.overridden("mail", {"a": 1}, found, Management(policies=(FOREIGN,)), "us")
    assert (answer and answer[0]) == kind
    assert says in (answer[1] if answer else "")
