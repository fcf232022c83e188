"""AsyncResult: what became of a task, and exceptions that come back without anything being looked up."""

import builtins
import os
import pickle
import threading
from datetime import UTC, datetime

import pytest

from muster import AsyncResult
from muster.app.failures import rebuild
from muster.app.result import allow_join_result
from muster.core.effects import StoredResult
from muster.exceptions import MaxRetriesExceededError, RemoteTaskError, TaskRevokedError
from muster.exceptions import TimeoutError as TaskTimeoutError
from muster.wire.result import document, exception_document

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def store(app, task_id="1", status="SUCCESS", result=None, retries=0, **more):
    data = document(task_id=task_id, status=status, result=result, now=NOON, retries=retries, **more)
    app.results.store([StoredResult(task_id, data, status, retries, 60)])


@pytest.mark.parametrize(
    ("status", "ready", "successful", "failed"),
    [
        ("PENDING", False, False, False),
        ("STARTED", False, False, False),
        ("RETRY", False, False, False),
        ("PROGRESS", False, False, False),
        ("SUCCESS", True, True, False),
        ("FAILURE", True, False, True),
        ("REVOKED", True, False, False),
    ],
)
def test_a_state_is_what_is_stored(app, status, ready, successful, failed):
    """PENDING is all that is unknown; three states are final."""
    if status != "PENDING":
        store(app, status=status)
    found = app.AsyncResult("1")
    assert (found.state, found.status) == (status, status)
    assert (found.ready(), found.successful(), found.failed()) == (ready, successful, failed)


def test_a_value_is_returned(app):
    """get, result and info give the task's value; a callback gets it with the id."""
    store(app, result={"sum": 5})
    seen = []
    found = app.AsyncResult("1")
    assert found.get(timeout=1, callback=lambda *args: seen.append(args)) == {"sum": 5}
    assert (found.result, found.info, found.maybe_throw()) == ({"sum": 5},) * 3
    assert seen == [("1", {"sum": 5})]
    assert (found.date_done, found.traceback, found.retries, found.task_id) == (NOON, None, 0, "1")


def test_a_failure_is_raised_or_returned(app):
    """With its class and arguments; `propagate=False` returns the exception."""
    store(app, status="FAILURE", result=exception_document(KeyError("x")), traceback="Traceback ...")
    found = app.AsyncResult("1")
    with pytest.raises(KeyError, match="x"):
        found.get()
    with pytest.raises(KeyError):
        found.maybe_throw()
    assert repr(found.get(propagate=False)) == "KeyError('x')"
    assert found.traceback == "Traceback ..."


def test_a_revoked_task_raises(app):
    """Also when nothing but the state is stored."""
    store(app, status="REVOKED", result=exception_document(TaskRevokedError("expired")))
    store(app, "2", status="REVOKED")
    with pytest.raises(TaskRevokedError, match="expired"):
        app.AsyncResult("1").get()
    with pytest.raises(TaskRevokedError):
        app.AsyncResult("2").get()


def test_a_state_of_the_tasks_own_carries_its_data(app):
    """`update_state` shows progress, which a final state ends."""

    @app.task(bind=True)
    def work(self):
        self.update_state(state="PROGRESS", meta={"done": 3})
        seen.append((app.AsyncResult(self.request.id).state, app.AsyncResult(self.request.id).info))

    seen = []
    result = work.delay()
    app.work()
    assert seen == [("PROGRESS", {"done": 3})]
    store(app, result.id)
    with pytest.raises(ValueError, match="update_state"):
        work.update_state(state="PROGRESS")
    work.update_state(task_id=result.id, state="PROGRESS")
    assert result.state == "SUCCESS"


def test_waiting_ends_with_the_time(app):
    """TimeoutError, which is Python's own too."""
    with pytest.raises(builtins.TimeoutError):
        app.AsyncResult("1").get(timeout=0.01)
    with pytest.raises(TaskTimeoutError, match="task 1"):
        app.AsyncResult("1").get(timeout=0)


def test_waiting_ends_with_the_result(app):
    """A result that comes while somebody waits is returned."""
    found = []
    waiting = threading.Thread(target=lambda: found.append(app.AsyncResult("1").get(timeout=20)))
    waiting.start()
    store(app, status="RETRY")
    store(app, result=5)
    waiting.join()
    assert found == [5]


def test_a_failed_step_ends_the_wait_for_its_chain(app):
    """Whoever waits for the last call of a chain gets the exception of the one that failed before it."""
    store(app, "first", status="FAILURE", result=exception_document(ValueError("early")))
    middle = AsyncResult("middle", app=app, parent=app.AsyncResult("first"))
    last = AsyncResult("last", app=app, parent=middle)
    with pytest.raises(ValueError, match="early"):
        last.get(timeout=20, interval=0.01)
    with pytest.raises(TaskTimeoutError):
        last.get(timeout=0.01, interval=0.001, follow_parents=False)


def test_a_task_does_not_wait_for_another(app):
    """Inside a task `get` is an error, unless it is said that it may be."""

    @app.task
    def wait(allowed):
        if not allowed:
            return app.AsyncResult("1").get(timeout=1)
        with allow_join_result():
            return app.AsyncResult("1").get(timeout=1)

    store(app, result=5)
    assert "RuntimeError" in app.run(wait, False)[0].text
    assert app.run(wait, True)[0].text == "5"


def test_a_result_is_forgotten(app):
    """`forget` removes it from the store and from the object."""
    store(app, result=5)
    found = app.AsyncResult("1")
    assert found.get() == 5
    found.forget()
    assert found.state == "PENDING"


def test_results_are_known_by_their_id(app):
    """Equal by id, usable as keys, pickled as ids."""
    found = app.AsyncResult("1")
    assert found == app.AsyncResult("1") == "1"
    assert len({found, app.AsyncResult("1"), app.AsyncResult("2")}) == 2
    assert pickle.loads(pickle.dumps(found)) == found
    assert (str(found), repr(found)) == ("1", "<AsyncResult: 1>")
    assert found.as_tuple() == (("1", None), None)
    for wrong in (None, "", 5):
        with pytest.raises(ValueError, match="id"):
            app.AsyncResult(wrong)


def test_children_are_results(app):
    """In Celery's form, whatever else may stand there."""
    store(app, children=[[["2", None], None], [["3", ["1", None]], []], "odd", None, [None]])
    assert app.AsyncResult("1").children == ["2", "3"]


# -- exceptions from strings


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError(),
        OSError(2, "gone"),
        MaxRetriesExceededError("no more"),
        StopIteration(5),
    ],
    ids=repr,
)
def test_known_exceptions_come_back(error):
    """Built-in exceptions and Celery's own have their class and arguments."""
    found = rebuild(exception_document(error))
    assert (type(found), found.args) == (type(error), error.args)


@pytest.mark.parametrize(
    ("module", "name", "args", "kind"),
    [
        ("os", "system", ["touch {marker}"], "os.system"),
        ("builtins", "eval", ["__import__('os').system('touch {marker}')"], "eval"),
        ("builtins", "exec", ["open({marker!r}, 'w')"], "exec"),
        ("builtins", "print", ["x"], "print"),
        ("builtins", "SystemExit", [3], "SystemExit"),
        ("builtins", "KeyboardInterrupt", [], "KeyboardInterrupt"),
        ("subprocess", "Popen", [["touch", "{marker}"]], "subprocess.Popen"),
        ("subprocess", "CalledProcessError", [1, "x"], "subprocess.CalledProcessError"),
        ("muster.exceptions", "datetime", [2026, 1, 1], "muster.exceptions.datetime"),
        ("muster.exceptions", "builtins", [], "muster.exceptions.builtins"),
        ("celery.exceptions", "__import__", ["os"], "celery.exceptions.__import__"),
        ("antigravity", "Error", [], "antigravity.Error"),
        (None, "system", ["x"], "system"),
        (5, "ValueError", ["x"], "ValueError"),
        ("builtins", "UnicodeDecodeError", ["too few"], "UnicodeDecodeError"),
        ("builtins", "ValueError.__class__", [], "ValueError.__class__"),
    ],
)
def test_nothing_is_looked_up_by_a_name_from_data(tmp_path, module, name, args, kind):
    """The payload of CVE-2021-23727 and its kin: no import, no call, a RemoteTaskError with the strings."""
    import sys

    marker = str(tmp_path / "ran")
    args = [arg.format(marker=marker) if isinstance(arg, str) else arg for arg in args]
    before = set(sys.modules)
    found = rebuild({"exc_type": name, "exc_module": module, "exc_message": args})
    if module == 5:
        assert repr(found) == "ValueError('x')"
    else:
        assert isinstance(found, RemoteTaskError)
        assert (found.kind, list(found.args)) == (kind, args)
    assert not os.path.exists(marker)  # noqa: PTH110 - as plain as can be
    assert set(sys.modules) <= before | {"muster.exceptions"}


@pytest.mark.parametrize("odd", [None, 5, "text", [], {}, {"exc_type": 5}, {"exc_type": "ValueError"}])
def test_a_document_that_is_none_is_an_exception_all_the_same(odd):
    """Whatever stands where an exception should, there is something to raise."""
    assert isinstance(rebuild(odd), Exception)


def test_a_message_that_is_one_text_is_its_argument():
    """Celery's older results have a text instead of a list."""
    assert rebuild({"exc_type": "ValueError", "exc_message": "bad"}).args == ("bad",)
