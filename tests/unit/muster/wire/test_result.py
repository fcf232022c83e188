"""Result documents: Celery's fields, exceptions as strings, and a quick way for a success."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.exceptions import MaxRetriesExceededError
from muster.wire import result, values

NOON = datetime(2026, 11, 21, 12, 0, 0, 250, tzinfo=UTC)


def test_a_document_has_the_fields_of_celery():
    """The names are those that Celery's backends store; `retries` is ours besides."""
    stored = result.document(
        task_id="1", status="SUCCESS", result=5, now=NOON, retries=2, group_id="g", parent_id="p"
    )
    assert result.load(stored) == {
        "status": "SUCCESS",
        "result": 5,
        "traceback": None,
        "children": [],
        "date_done": NOON.isoformat(),
        "group_id": "g",
        "parent_id": "p",
        "retries": 2,
        "task_id": "1",
    }


@pytest.mark.parametrize(
    ("status", "done"), [("SUCCESS", True), ("REVOKED", True), ("RETRY", False), ("X", False)]
)
def test_only_an_ended_task_has_a_date(status, done):
    """`date_done` is set in ready states."""
    stored = result.document(task_id="1", status=status, result=None, now=NOON)
    assert (result.load(stored)["date_done"] is not None) == done


@given(st.text(), st.integers(0, 99), st.none() | st.integers() | st.text() | st.lists(st.integers()))
def test_the_quick_way_writes_the_same_document(task_id, retries, value):
    """A success put together from bytes is the document that the general way writes."""
    quick = result.success(task_id, values.encode(value), date_done=NOON.isoformat(), retries=retries)
    slow = result.document(task_id=task_id, status="SUCCESS", result=value, now=NOON, retries=retries)
    assert result.load(quick) == result.load(slow)


def test_an_exception_travels_as_strings():
    """Class, module and arguments, as Celery's JSON results have them."""
    assert result.exception_document(KeyError("a", 1)) == {
        "exc_type": "KeyError",
        "exc_message": ["a", 1],
        "exc_module": "builtins",
    }


def test_our_exceptions_go_by_celerys_module():
    """Celery's clients find their own class of the same name."""
    stored = result.exception_document(MaxRetriesExceededError("no more"))
    assert stored["exc_module"] == "celery.exceptions"


class Hostile(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")


class Argument:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_arguments_that_json_cannot_carry_become_text():
    """An exception is always stored, with the repr of what JSON cannot carry, or without it."""
    assert result.exception_document(ValueError({1}))["exc_message"] == ["{1}"]
    assert "raises" in result.exception_document(Hostile(Argument()))["exc_message"][0]
    error = ValueError()
    error.args = (error,)
    assert json.dumps(result.exception_document(error))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"no", b"\xff"])
def test_what_is_no_document_raises_value_error(data):
    """A key that holds something else is told apart."""
    with pytest.raises(ValueError, match=r"."):
        result.load(data)
