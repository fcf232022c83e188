"""What becomes of a message that has just been claimed."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.admission import Bury, Defer, Discard, Run, admit, limits
from muster.core.policy import Policy, TaskPolicy, effective
from muster.wire.message import Peek

NOW = 1_800_000_000.0
KNOWN = Policy()


def decide(message, *, policy=KNOWN, revoked=(), limit=5, now=NOW):
    return admit(message, policy=policy, now=now, revoked=set(revoked), delivery_limit=limit)


@dataclass(frozen=True)
class Story:
    name: str
    message: Peek
    want: object


STORIES = [
    Story("an ordinary message runs", Peek("t", "1"), Run(KNOWN)),
    Story("one with an ETA in the future waits", Peek("t", "1", eta=NOW + 5), Defer(NOW + 5)),
    Story("one whose ETA is over runs", Peek("t", "1", eta=NOW - 5), Run(KNOWN)),
    Story("one that may have killed a worker runs alone", Peek("t", "1", losses=1), Run(KNOWN, alone=True)),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_stories(story):
    """Each story's message is decided on as its name says."""
    assert decide(story.message) == story.want


def test_an_unknown_task_is_buried_with_the_remedy():
    """The reason is NotRegistered and the text asks for the import."""
    buried = decide(Peek("shop.send", "1"), policy=None)
    assert isinstance(buried, Bury)
    assert buried.reason == buried.error == "NotRegistered"
    assert "shop.send" in buried.text


def test_an_unaccepted_content_type_is_buried():
    """Pickle never comes to a decoder."""
    buried = decide(Peek("t", "1", content_type="application/x-python-serialize"))
    assert isinstance(buried, Bury)
    assert buried.reason == "UnknownContentType"


def test_a_revoked_task_is_discarded():
    """Whatever else holds for it."""
    discarded = decide(Peek("t", "1", eta=NOW + 100), revoked=["1"])
    assert isinstance(discarded, Discard)
    assert discarded.reason == "Revoked"


def test_expiry_goes_before_the_eta():
    """A task that expired before its ETA never runs, so it need not wait."""
    assert isinstance(decide(Peek("t", "1", eta=NOW + 100, expires=NOW - 1)), Discard)


@given(losses=st.integers(0, 20), limit=st.integers(0, 10))
def test_a_message_is_buried_when_it_has_cost_as_many_workers_as_allowed(losses, limit):
    """Not earlier, and never without a limit."""
    decision = decide(Peek("t", "1", losses=losses), limit=limit)
    assert isinstance(decision, Bury) == (limit > 0 and losses >= limit)


times = st.one_of(st.none(), st.floats(NOW - 1e6, NOW + 1e6))


@given(eta=times, expires=times, losses=st.integers(0, 3))
def test_time_only_brings_a_message_nearer_to_running_or_expiring(eta, expires, losses):
    """What runs at some moment did not expire before; what has expired stays so."""
    message = Peek("t", "1", eta=eta, expires=expires, losses=losses)
    order = {Defer: 0, Run: 1, Discard: 2}
    seen = [order[type(decide(message, now=NOW + step))] for step in (-2e6, -5e5, 0, 5e5, 2e6)]
    assert seen == sorted(seen) or (expires is not None and eta is not None and expires <= eta)


def test_the_calls_own_limits_go_before_the_policys():
    """Each of the two by itself; 0 in a call switches a limit off."""
    policy = Policy(soft_limit=10, hard_limit=20)
    assert limits(Peek("t", "1"), policy) == (10, 20)
    assert limits(Peek("t", "1", hard_limit=5), policy) == (10, 5)
    assert limits(Peek("t", "1", soft_limit=0), policy) == (0, 20)


def test_a_task_attribute_goes_before_the_workers_default():
    """What the task does not say stays as the worker was told."""
    default = Policy(acks_late=True, hard_limit=60)
    assert effective(TaskPolicy(acks_late=False), default) == Policy(acks_late=False, hard_limit=60)
    assert effective(TaskPolicy(), default) == default
