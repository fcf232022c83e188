"""Conditions change their time only with their status."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.conditions import (
    Condition,
    ConditionStatus,
    ConditionType,
    Reason,
    find_condition,
    set_condition,
)
from resource_strategies import INSTANTS

NOW = datetime(2026, 1, 31, 8, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
CONDITIONS = st.builds(
    Condition,
    type=st.sampled_from(list(ConditionType)),
    status=st.sampled_from(list(ConditionStatus)),
    reason=st.sampled_from(list(Reason)),
    message=st.text(max_size=5),
    last_transition_time=st.none() | INSTANTS,
)
LISTS = st.lists(CONDITIONS, max_size=6, unique_by=lambda each: each.type).map(tuple)


def ready(status: ConditionStatus, reason: Reason = Reason.AS_DECLARED, message: str = "") -> Condition:
    return Condition(type=ConditionType.READY, status=status, reason=reason, message=message)


def test_a_new_condition_begins_now():
    """The first sight of a condition is its first transition."""
    assert set_condition((), ready(ConditionStatus.UNKNOWN), NOW) == (
        replace(ready(ConditionStatus.UNKNOWN), last_transition_time=NOW),
    )


def test_a_new_reason_is_no_transition():
    """Reason and message follow at once, the time stays while the status does."""
    before = set_condition((), ready(ConditionStatus.FALSE, Reason.AUTH_FAILED), NOW)
    [after] = set_condition(
        before, ready(ConditionStatus.FALSE, Reason.BROKER_UNREACHABLE, "no answer"), LATER
    )
    assert (after.reason, after.message) == (Reason.BROKER_UNREACHABLE, "no answer")
    assert after.last_transition_time == NOW


def test_a_new_status_is_a_transition():
    """The time is that of the change of status."""
    before = set_condition((), ready(ConditionStatus.FALSE), NOW)
    [after] = set_condition(before, ready(ConditionStatus.TRUE), LATER)
    assert after.last_transition_time == LATER


def test_finding_a_condition():
    """A condition is found by its type, and may be missing."""
    found = set_condition((), ready(ConditionStatus.TRUE), NOW)
    assert find_condition(found, ConditionType.READY) == found[0]
    assert find_condition(found, ConditionType.PAUSED) is None


@given(before=LISTS, new=CONDITIONS)
def test_others_are_left_alone(before, new):
    """Each other condition keeps its value and its place, and every type stands once."""
    after = set_condition(before, new, NOW)
    assert [each for each in after if each.type != new.type] == [
        each for each in before if each.type != new.type
    ]
    types = [each.type for each in after]
    assert types == list(dict.fromkeys([*(each.type for each in before), new.type]))


@given(before=LISTS, new=CONDITIONS)
def test_setting_it_again_changes_nothing(before, new):
    """The same finding later leaves the list as it is, so that nothing is written."""
    once = set_condition(before, new, NOW)
    assert set_condition(once, new, LATER) == once


def test_reasons_and_types_speak_for_themselves():
    """Every reason and type is CamelCase, as metav1 demands, and has a meaning for the reference page."""
    for word in (*Reason, *ConditionType):
        assert word.isalnum()
        assert word[0].isupper()
        assert word.meaning.endswith(".")
