"""Queues on RabbitMQ: what is declared, when, and what is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide.rabbitmq import queues
from muster_operator.model.rabbitmq import (
    UNCLAIMED,
    Answer,
    FoundQueue,
    Management,
    QueueDeclaration,
    VirtualHost,
)
from worlds import NOW, known, queue_of, seconds, unknown

NONE = unknown("NoManagementApi")
QUORUM = {"x-queue-type": "quorum"}
MAIL = QueueDeclaration(name="mail", arguments=QUORUM)
DEAD = QueueDeclaration(name="mail.dead", arguments=QUORUM, dead_letters_of=("mail",))


def managed(**found):
    return known(Management(queues={name.replace("_", "."): each for name, each in found.items()}))


@pytest.mark.parametrize(
    ("spec", "default_type", "arguments"),
    [
        ({}, "", QUORUM),
        ({"type": "Quorum"}, "quorum", QUORUM),
        ({"ha": {"replicas": 3}}, "", QUORUM | {"x-quorum-initial-group-size": 3}),
        ({"type": "Classic"}, "", {}),
        ({"type": "Classic"}, "quorum", {"x-queue-type": "classic"}),
        ({"type": "Classic", "maxPriority": 9}, "", {"x-max-priority": 9}),
        ({"type": "Classic", "maxPriority": 9}, "quorum", {"x-queue-type": "classic", "x-max-priority": 9}),
        ({"type": "Classic", "maxLength": 5, "messageTTL": "1h", "consumerTimeout": "1h"}, "", {}),
    ],
)
def test_arguments_carry_only_what_no_policy_can(spec, default_type, arguments):
    """A client must name each of them; a classic queue has none, as Celery declares it.

    Nobody is served first among the dead letters: their queue has no priorities.
    """
    queue = queue_of("mail", **spec)
    assert queues.arguments_of(queue, default_type) == arguments
    found = {each.name: each.arguments for each in queues.wanted_queues([queue], default_type)}
    assert found["mail"] == arguments
    assert found["mail.dead"] == {k: v for k, v in arguments.items() if k != "x-max-priority"}


@pytest.mark.parametrize(
    ("text", "version"), [("3.10.8", (3, 10)), ("4.0.5", (4, 0)), ("4.1.0-rc.1", (4, 1)), ("?", (3, 10))]
)
def test_a_version_is_its_first_two_numbers(text, version):
    """What cannot be read is taken for the oldest."""
    assert queues.version_of(text) == version


def test_each_queue_has_its_dead_letters_and_all_have_a_last_resort():
    """Two queues may share a place; a TaskQueue for that place has its own say."""
    older = queue_of("a", created_at=NOW - seconds(9), type="Classic", deadLetter={"queueName": "graves"})
    younger = queue_of("b", deadLetter={"queueName": "graves"})
    found = {each.name: each for each in queues.wanted_queues([younger, older], "")}
    assert set(found) == {"a", "b", "graves", UNCLAIMED}
    assert found["graves"].dead_letters_of == ("a", "b")
    assert found["graves"].arguments == {}
    own = queue_of("graves", type="Quorum")
    assert {e.name: e for e in queues.wanted_queues([older, own], "")}["graves"].arguments == QUORUM
    assert queues.wanted_queues([], "") == ()


@pytest.mark.parametrize(
    ("host", "due"),
    [
        (VirtualHost(management=NONE), ["mail", "mail.dead"]),
        (VirtualHost(management=managed()), ["mail", "mail.dead"]),
        # without the management API one declaration tells whether it is as wanted
        (VirtualHost(there=frozenset({"mail", "mail.dead"}), management=NONE), ["mail", "mail.dead"]),
        (
            VirtualHost(
                there=frozenset({"mail", "mail.dead"}),
                answers={"mail": Answer(declaration=MAIL), "mail.dead": Answer(declaration=DEAD)},
                management=NONE,
            ),
            [],
        ),
        # refused, for whatever reason: not again until that is forgotten
        (
            VirtualHost(
                answers={
                    "mail": Answer(declaration=MAIL, code=406, words="inequivalent"),
                    "mail.dead": Answer(declaration=DEAD, code=403, words="refused"),
                },
                management=NONE,
            ),
            [],
        ),
        (
            VirtualHost(
                there=frozenset({"mail", "mail.dead"}),
                management=managed(
                    mail=FoundQueue(arguments=QUORUM),
                    mail_dead=FoundQueue(arguments=QUORUM, dead_letters_of=frozenset({"mail"})),
                ),
            ),
            [],
        ),
        # its dead letters are not led to it
        (
            VirtualHost(
                there=frozenset({"mail", "mail.dead"}),
                management=managed(mail=FoundQueue(arguments=QUORUM), mail_dead=FoundQueue(arguments=QUORUM)),
            ),
            ["mail.dead"],
        ),
        # nobody has looked for it yet
        (VirtualHost(asked=frozenset({"mail"}), management=NONE), ["mail"]),
        # other arguments
        (
            VirtualHost(
                there=frozenset({"mail", "mail.dead"}),
                management=managed(mail=FoundQueue(), mail_dead=FoundQueue()),
            ),
            [],
        ),
        # the exchange is gone, and with it who leads to whom
        (
            VirtualHost(
                there=frozenset({"mail", "mail.dead"}),
                led=False,
                management=managed(
                    mail=FoundQueue(arguments=QUORUM),
                    mail_dead=FoundQueue(arguments=QUORUM, dead_letters_of=frozenset({"mail"})),
                ),
            ),
            ["mail", "mail.dead"],
        ),
    ],
)
def test_what_has_to_be_declared_now(host, due):
    """What is not there or not known to be as wanted; never what is there otherwise."""
    assert [each.name for each in queues.undeclared([MAIL, DEAD], host)] == due


@pytest.mark.parametrize(
    ("found", "arguments", "differs"),
    [
        ({}, {}, False),
        ({"x-queue-type": "classic"}, {}, False),
        (QUORUM, QUORUM, False),
        (QUORUM | {"x-quorum-initial-group-size": 1}, QUORUM | {"x-quorum-initial-group-size": 3}, False),
        (QUORUM, QUORUM | {"x-quorum-initial-group-size": 3}, False),
        ({}, QUORUM, True),
        (QUORUM, {}, True),
        (QUORUM | {"x-max-length": 5}, QUORUM, True),
        ({"x-max-priority": 9}, {}, True),
    ],
)
def test_a_mismatch_shows_both_sets(found, arguments, differs):
    """A group's first size counts for its first moment, and no type is classic."""
    wanted = QueueDeclaration(name="mail", arguments=arguments)
    host = VirtualHost(there=frozenset({"mail"}), management=managed(mail=FoundQueue(arguments=found)))
    words = queues.mismatch(wanted, host)
    assert bool(words) == differs
    for name, value in (*found.items(), *arguments.items()) if differs else ():
        assert f"{name}: {value}" in words


def test_a_refusal_by_amqp_alone_has_the_servers_words():
    """It names the argument that differs."""
    answer = Answer(declaration=MAIL, code=406, words="inequivalent arg 'x-queue-type'")
    host = VirtualHost(there=frozenset({"mail"}), answers={"mail": answer}, management=NONE)
    assert queues.mismatch(MAIL, host) == (
        "{x-queue-type: quorum} is wanted, and the server says: inequivalent arg 'x-queue-type'"
    )
    assert queues.refused(MAIL, host) is None


@given(st.sets(st.sampled_from("abcdef"), max_size=6), st.booleans())
def test_what_was_declared_is_due_no_more(names, with_management):
    """Whatever was asked for, and whoever tells what is there."""
    wanted = queues.wanted_queues([queue_of(name) for name in names], "")
    management = NONE
    if with_management:
        management = known(
            Management(
                queues={
                    each.name: FoundQueue(
                        arguments=each.arguments, dead_letters_of=frozenset(each.dead_letters_of)
                    )
                    for each in wanted
                }
            )
        )
    host = VirtualHost(
        there=frozenset(each.name for each in wanted),
        answers={each.name: Answer(declaration=each) for each in wanted},
        management=management,
    )
    assert queues.undeclared(wanted, host) == ()
