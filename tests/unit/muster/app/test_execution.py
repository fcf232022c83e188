"""From a message to an outcome: what each end of a task leads to, and that nothing ever escapes."""

import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster import Task, current_task, signals
from muster.app.execution import Execution
from muster.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded
from muster.pools.base import Job, Killed, Outcome
from muster.wire import result
from muster.wire.message import open_message, pack, peek, waits_since


@pytest.fixture
def heard():
    """Return what records every sending of the signals it is given."""
    connected, record = [], []

    def listen(*names):
        for name in names:
            signal = getattr(signals, name)

            def receiver(signal, **values):
                record.append((signal.name, values))

            signal.connect(receiver, weak=False, dispatch_uid="test")
            connected.append(signal)
        return record

    yield listen
    for signal in connected:
        signal.disconnect(dispatch_uid="test")


def message(task="shop.add", args=(), kwargs=None, embed=None, forged=(), **headers):
    return pack(
        headers={"task": task, "id": "1", "retries": 0, **headers, **dict(forged)},
        body=json.dumps([list(args), kwargs or {}, embed or {}]),
        queue="mail",
        task_id="1",
        delivery_tag="t",
    )


# -- success


def test_a_value_is_stored_under_its_id(app):
    """A task that returns is SUCCESS with its value, its id and its number of retries."""

    @app.task
    def add(x, y):
        return x + y

    sent = add.delay(2, y=3)
    outcome = app.work()
    assert (outcome.number, outcome.state, outcome.text, outcome.publish) == (7, "SUCCESS", "5", [])
    assert outcome.runtime_seconds > 0
    document = result.load(outcome.document)
    assert (document["status"], document["result"], document["task_id"]) == ("SUCCESS", 5, sent.id)
    assert (document["retries"], document["children"], document["traceback"]) == (0, [], None)
    assert document["date_done"].endswith("+00:00")


def test_a_result_that_json_cannot_carry_is_a_failure(app):
    """The task ran, but its result cannot be kept: EncodeError, which says of which task."""

    @app.task(name="shop.make")
    def make():
        return object()

    outcome, document = app.run(make)
    assert outcome.state == "FAILURE"
    assert document["result"]["exc_type"] == "EncodeError"
    assert "shop.make" in document["result"]["exc_message"][0]


@pytest.mark.parametrize(
    ("setting", "attribute", "header", "kept"),
    [
        (False, None, None, True),
        (True, None, None, False),
        (False, True, None, False),
        (True, False, None, True),
        (False, False, True, False),
        (True, True, False, True),
    ],
)
def test_whether_a_result_is_kept(make_app, setting, attribute, header, kept):
    """The call goes before the task, the task before the setting."""
    app = make_app(task_ignore_result=setting)

    @app.task(name="shop.add", ignore_result=attribute)
    def add():
        return 1

    outcome = app.work(message(ignore_result=header))
    assert (outcome.state, bool(outcome.document)) == ("SUCCESS", kept)


def test_without_a_store_nothing_is_kept(app):
    """No result backend: no document, for success and failure alike."""
    app.results = None

    @app.task(name="shop.add")
    def add(x):
        return 1 / x

    assert app.work(message(args=[1])).document == b""
    assert app.work(message(args=[0])).document == b""


@pytest.mark.parametrize(
    ("setting", "attribute", "fields", "told"),
    [
        (False, None, {}, False),
        (True, None, {}, True),
        (False, True, {}, True),
        (True, False, {}, False),
        (True, None, {"ignore_result": True}, False),
    ],
)
def test_that_a_task_has_started_is_told_where_it_is_wanted(make_app, setting, attribute, fields, told):
    """Before its code runs, as Celery's document: STARTED, with the process and the worker's name."""
    app = make_app(task_track_started=setting)
    events = []

    @app.task(name="shop.add", track_started=attribute)
    def add():
        return len(events)

    execute = Execution(app, hostname="worker@here")
    execute.tell_started = events.append
    outcome = execute(Job(7, "mail", message(retries=2, group="g", **fields)))
    assert len(events) == told
    if told:
        assert result.load(outcome.document)["result"] == 1
        assert events[0].number == 7
        assert result.load(events[0].document) == {
            "status": "STARTED",
            "result": {"pid": os.getpid(), "hostname": "worker@here"},
            "traceback": None,
            "children": [],
            "date_done": None,
            "group_id": "g",
            "retries": 2,
            "task_id": "1",
        }


def test_without_a_store_no_start_is_told(make_app):
    """No result backend: there is no place for it."""
    app = make_app(task_track_started=True)
    app.results = None
    app.task(name="shop.add")(lambda: None)
    execute = Execution(app)
    execute.tell_started = lambda event: pytest.fail(str(event))
    assert execute(Job(7, "mail", message())).state == "SUCCESS"


@pytest.mark.parametrize(("store", "kept"), [(None, False), (True, True)])
def test_failures_of_ignored_results_are_kept_on_request(app, store, kept):
    """`store_errors_even_if_ignored` keeps failures and retries of a task whose results are ignored."""

    @app.task(ignore_result=True, store_errors_even_if_ignored=store)
    def fail():
        raise KeyError("x")

    outcome, _ = app.run(fail)
    assert (outcome.state, bool(outcome.document)) == ("FAILURE", kept)


def test_a_result_extended_says_what_ran_where(make_app):
    """`result_extended` stores name, arguments, worker and queue."""
    app = make_app(result_extended=True)

    @app.task(name="shop.add")
    def add(x, y):
        return x / y

    for y in (1, 0):
        document = result.load(app.work(message(args=[1], kwargs={"y": y}, group="g")).document)
        known = {name: document[name] for name in ("name", "args", "kwargs", "worker", "queue", "group_id")}
        assert known == {
            "name": "shop.add",
            "args": [1],
            "kwargs": {"y": y},
            "worker": "worker@here",
            "queue": "celery",
            "group_id": "g",
        }


# -- failure


def test_a_failure_has_its_traceback_from_the_task_on(app, caplog):
    """Class, arguments and traceback are stored; our own frames are none of the user's business."""

    @app.task(name="shop.add")
    def add(x):
        return {}[x]

    outcome, document = app.run(add, "a")
    assert (outcome.state, outcome.text) == ("FAILURE", "KeyError('a')")
    assert document["result"] == {"exc_type": "KeyError", "exc_message": ["a"], "exc_module": "builtins"}
    assert "return {}[x]" in document["traceback"]
    assert document["traceback"].count("File ") == 1
    assert "shop.add" in caplog.text
    assert "return {}[x]" in caplog.text


def test_an_expected_exception_is_logged_without_a_traceback(app, caplog):
    """`throws` makes no less of a failure, but no noise."""
    caplog.set_level("INFO")

    @app.task(throws=(KeyError,))
    def fail():
        raise KeyError("sold out")

    outcome, document = app.run(fail)
    assert (outcome.state, document["status"]) == ("FAILURE", "FAILURE")
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert "expected" in record.message
    assert "Traceback" not in record.message


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), SoftTimeLimitExceeded()],
    ids=repr,
)
def test_no_exception_leaves_the_executor(app, error):
    """What would end a program ends a task: as its failure."""

    @app.task
    def fail():
        raise error

    outcome, document = app.run(fail)
    assert (outcome.state, document["result"]["exc_type"]) == ("FAILURE", type(error).__name__)


def test_only_what_ends_a_run_leaves_the_executor(app):
    """A pool raises it at the hard limit: no hook of the task and no retry makes anything else of it."""

    @app.task(bind=True, autoretry_for=(BaseException,), max_retries=3)
    def over(self):
        raise Killed

    with pytest.raises(Killed):
        app.run(over)


def test_a_job_has_a_name_for_logs(app):
    """The task and its id; of what is no message that much is said."""
    name = Execution(app).name
    assert re.fullmatch(r"\S+\[\S+\]", name(Job(7, "q", message())))
    assert name(Job(7, "q", b"x")) == "a message that cannot be read"


class Hostile(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


def test_an_exception_that_cannot_even_be_shown_is_a_failure(app):
    """An exception whose own methods raise, with arguments that raise too, is stored all the same."""

    class Argument:
        __repr__ = Hostile.__repr__

    @app.task
    def fail():
        raise Hostile(Argument())

    outcome, document = app.run(fail)
    assert (outcome.state, document["result"]["exc_type"]) == ("FAILURE", "Hostile")


def test_endless_recursion_is_a_failure(app):
    """A stack that overflows is the task's failure, not the worker's end."""

    @app.task
    def fall(n):
        return fall.run(n + 1)

    outcome, document = app.run(fall, 0)
    assert (outcome.state, document["result"]["exc_type"]) == ("FAILURE", "RecursionError")
    assert len(document["traceback"]) < 10_000


def test_wrong_arguments_are_a_failure(app):
    """A message whose arguments the function does not take fails with the interpreter's words."""

    @app.task(name="shop.add")
    def add(x):
        return x

    outcome = app.work(message(args=[1, 2]))
    assert outcome.state == "FAILURE"
    assert "positional argument" in outcome.text


# -- retries


def test_a_retry_is_the_same_task_once_more(app):
    """RETRY, and a message with the same id and arguments, one retry more, due after the countdown."""

    @app.task(bind=True)
    def again(self, x, *, y):
        raise self.retry(countdown=60, exc=ValueError("not yet"))

    sent = again.apply_async(
        (1,), {"y": 2}, queue="mail", headers={"tenant": "acme"}, time_limit=9, priority=3
    )
    before = open_message(app.outbox.publications[0].raw)
    outcome = app.work()
    document = result.load(outcome.document)
    assert (outcome.state, document["status"], document["result"]["exc_message"]) == (
        "RETRY",
        "RETRY",
        ["not yet"],
    )
    assert document["date_done"] is None
    [following] = outcome.publish
    after = open_message(following.raw)
    assert (after.id, after.args, after.kwargs) == (sent.id, [1], {"y": 2})
    assert (after.headers["retries"], after.headers["tenant"]) == (1, "acme")
    assert after.headers["timelimit"] == before.headers["timelimit"] == [9, None]
    assert (after.headers["root_id"], after.headers["parent_id"]) == (sent.id, None)
    assert (following.queue, following.priority) == ("celery", 3)
    assert following.eta == pytest.approx(peek(following.raw).eta)
    assert waits_since(following.raw) == pytest.approx(following.eta), "whenever the first was sent"


def test_retries_end_with_the_exception(app):
    """When none is left the exception that was the reason is the result; nothing is published."""

    @app.task(name="shop.add", bind=True, max_retries=2)
    def add(self):
        raise self.retry(exc=ValueError("still not"))

    assert app.work(message(retries=1)).state == "RETRY"
    outcome = app.work(message(retries=2))
    assert (outcome.state, outcome.text, outcome.publish) == ("FAILURE", "ValueError('still not')", [])


def test_retries_without_a_reason_end_with_their_own_exception(app):
    """Without `exc` it is MaxRetriesExceededError, which names task, id and arguments."""

    @app.task(name="shop.add", bind=True, max_retries=0)
    def add(self, x):
        try:
            self.retry()
        except MaxRetriesExceededError as error:
            return [str(error), error.task_args]
        raise AssertionError

    outcome = app.work(message(args=[5]))
    text, args = result.load(outcome.document)["result"]
    assert "shop.add[1]" in text
    assert args == [5]


def test_a_retry_with_other_arguments(app):
    """Arguments given to `retry` take the place of the old ones; of the others stay those that still fit."""

    @app.task(bind=True)
    def add(self, x, y=0, z=0):
        match x:
            case 1:
                raise self.retry(args=[10, 11])
            case 2:
                raise self.retry(kwargs={"x": 20, "z": 5})
            case _:
                raise self.retry(args=[30], kwargs={"y": 31})

    for call, expected in (
        (((1,), {"y": 7, "z": 8}), ([10, 11], {"z": 8})),
        (((2, 7), {}), ([], {"x": 20, "y": 7, "z": 5})),
        (((3, 7), {"z": 8}), ([30], {"y": 31})),
    ):
        add.apply_async(*call)
        [following] = app.work().publish
        after = open_message(following.raw)
        assert (after.args, after.kwargs) == expected


@pytest.mark.parametrize("throw", [True, False])
def test_a_retry_that_is_not_thrown_is_published_with_the_result(app, throw):
    """With `throw=False` the run goes on to its own end; the next message goes out with it."""

    @app.task(bind=True)
    def again(self):
        self.retry(throw=throw, countdown=1)
        return "gone on"

    outcome, _ = app.run(again)
    assert outcome.state == ("RETRY" if throw else "SUCCESS")
    assert [peek(one.raw).retries for one in outcome.publish] == [1]


def test_a_retry_raised_by_hand_is_a_retry(app):
    """`raise Retry(...)` without `self.retry` runs again too: no task is lost by it."""

    @app.task(name="shop.add", max_retries=1)
    def add():
        raise Retry(exc=ValueError("x"), when=30)

    outcome = app.work(message())
    assert (outcome.state, [peek(one.raw).retries for one in outcome.publish]) == ("RETRY", [1])
    assert app.work(message(retries=1)).state == "FAILURE"


def test_some_exceptions_retry_by_themselves(app):
    """`autoretry_for` with growing delays, until `max_retries`; others fail at once."""

    @app.task(
        name="shop.add",
        autoretry_for=(OSError,),
        dont_autoretry_for=(FileNotFoundError,),
        retry_backoff=5,
        retry_jitter=False,
        max_retries=3,
    )
    def add(kind):
        raise {"os": OSError, "missing": FileNotFoundError, "value": ValueError}[kind](kind)

    for retries, delay in ((0, 5), (1, 10), (2, 20)):
        outcome = app.work(message(args=["os"], retries=retries))
        assert outcome.state == "RETRY"
        assert f"in {delay}s" in outcome.text
        assert len(outcome.publish) == 1
    for kind, retries in (("os", 3), ("missing", 0), ("value", 0)):
        outcome = app.work(message(args=[kind], retries=retries))
        assert (outcome.state, outcome.publish) == ("FAILURE", [])


def test_retry_kwargs_shape_automatic_retries(app):
    """`retry_kwargs` are arguments of `retry`."""

    @app.task(name="shop.add", autoretry_for=(OSError,), retry_kwargs={"max_retries": 1, "countdown": 7})
    def add():
        raise OSError

    assert "in 7s" in app.work(message()).text
    assert app.work(message(retries=1)).state == "FAILURE"


def test_a_task_that_says_what_becomes_of_it_is_not_retried(app):
    """Ignore and Reject are no failures, even where every exception is retried."""

    @app.task(name="shop.add", autoretry_for=(Exception,))
    def add(kind):
        raise {"ignore": Ignore(), "reject": Reject("bad"), "requeue": Reject("later", requeue=True)}[kind]

    states = {kind: app.work(message(args=[kind])) for kind in ("ignore", "reject", "requeue")}
    assert {kind: one.state for kind, one in states.items()} == {
        "ignore": "IGNORED",
        "reject": "REJECTED",
        "requeue": "REQUEUED",
    }
    assert states["reject"].reason == "RejectedByTask"
    assert "bad" in states["reject"].text
    assert not any(one.document or one.publish for one in states.values())


# -- links and chains


def test_a_link_gets_the_result(app):
    """A callback is a new task with the result before its own arguments, the parent's root and id."""

    @app.task
    def add(x, y):
        return x + y

    @app.task(queue="slow")
    def note(*args):
        return args

    sent = add.apply_async((1, 2), link=[note.s("a"), note.si("b")])
    outcome = app.work()
    called = [open_message(one.raw) for one in outcome.publish]
    assert [one.args for one in called] == [[3, "a"], ["b"]]
    assert {(one.headers["root_id"], one.headers["parent_id"]) for one in called} == {(sent.id, sent.id)}
    assert [one.queue for one in outcome.publish] == ["slow", "slow"]
    children = result.load(outcome.document)["children"]
    assert children == [[[one.id, None], None] for one in called]


def test_a_chain_goes_on_step_by_step(app):
    """Each step publishes the next with its result first; the last result has the id that was promised."""

    @app.task
    def add(x, y):
        return x + y

    promised = (add.s(1, 2) | add.s(10) | add.s(100)).delay()
    states, raw = [], app.sent_raw()
    while raw:
        outcome = app.work(raw)
        states.append(outcome.text)
        raw = outcome.publish[0].raw if outcome.publish else None
    assert states == ["3", "13", "113"]
    assert result.load(outcome.document)["task_id"] == promised.id
    assert promised.parent.parent.parent is None


def test_a_failed_step_ends_its_chain_and_calls_the_errbacks(app):
    """What comes after a failure is not sent; an errback gets the id of the failed task."""

    @app.task
    def fail(*_):
        raise ValueError("x")

    @app.task
    def note(task_id):
        return task_id

    sent = (fail.s() | note.s()).on_error(note.s()).delay()
    outcome = app.work()
    [errback] = [open_message(one.raw) for one in outcome.publish]
    assert (errback.task, errback.args) == (note.name, [sent.parent.id])


def test_an_errback_that_takes_the_exception_is_called_here(app):
    """As in Celery: (request, exc, traceback) cannot be sent, so such an errback runs beside the failure."""
    seen = []

    @app.task
    def fail():
        raise ValueError("x")

    @app.task
    def tell(request, exc, traceback):
        seen.append((request.id, repr(exc), "raise ValueError" in traceback))

    sent = fail.apply_async(link_error=tell.s())
    assert app.work().publish == []
    assert seen == [(sent.id, "ValueError('x')", True)]


def test_an_errback_that_raises_changes_nothing(app, caplog):
    """The failure is stored as it was; the errback's exception is logged."""

    @app.task
    def fail():
        raise ValueError("x")

    @app.task
    def tell(request, exc, traceback):
        raise RuntimeError("broken errback")

    fail.apply_async(link_error=tell.s())
    assert app.work().text == "ValueError('x')"
    assert "broken errback" in caplog.text


def test_a_link_that_cannot_be_sent_makes_the_task_fail(app):
    """Nothing of a half-made continuation is published."""

    @app.task(ignore_result=True)
    def make():
        return object()

    @app.task
    def note(*_):
        """Takes anything."""

    make.apply_async(link=[note.si(), note.s()])
    outcome = app.work()
    assert (outcome.state, outcome.publish) == ("FAILURE", [])
    assert "EncodeError" in outcome.text


# -- what is not run


def test_an_unknown_task_is_refused_and_its_client_told(app):
    """To the dead letters as NotRegistered, with a failure for whoever waits."""
    outcome = app.work(message("shop.missing"))
    assert (outcome.state, outcome.reason) == ("REJECTED", "NotRegistered")
    assert "shop.missing" in outcome.text
    assert result.load(outcome.document)["result"]["exc_type"] == "NotRegistered"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"garbage", "MalformedMessage"),
        (message().replace(b"application/json", b"application/x-yaml"), "UnknownContentType"),
        (message(embed={"chord": {"task": "shop.add"}}), "ChordUnsupported"),
        (
            message(embed={"callbacks": [{"task": "celery.group", "subtask_type": "group"}]}),
            "GroupUnsupported",
        ),
        (
            message(embed={"chain": [{"task": "x", "options": {"chord": {"task": "y"}}}]}),
            "ChordUnsupported",
        ),
        (
            message(
                embed={
                    "callbacks": [
                        {
                            "task": "celery.chain",
                            "subtask_type": "chain",
                            "kwargs": {"tasks": [{"task": "celery.chunks", "subtask_type": "chunks"}]},
                        }
                    ]
                }
            ),
            "CanvasUnsupported",
        ),
    ],
    ids=["garbage", "yaml", "chord", "group", "chord in a chain", "chunks in a chain"],
)
def test_what_cannot_be_run_is_refused_with_its_reason(app, raw, reason):
    """Malformed, of an unknown type, or part of what does not exist yet: never run, never dropped."""
    ran = []
    app.task(name="shop.add")(lambda *_: ran.append(1))
    outcome = app.work(raw)
    assert (outcome.state, outcome.reason, outcome.publish) == ("REJECTED", reason, ())
    assert outcome.text
    assert not ran


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_the_bytes_there_is_an_outcome(app, raw):
    """No message, however broken, raises out of the executor."""
    assert app.work(raw).state == "REJECTED"


FORGED = (
    *("group", "shadow", "stamps", "stamped_headers", "headers", "origin", "root_id", "timelimit", "args"),
    *("get", "update", "children", "pending_publications", "delivery_info", "__class__"),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(FORGED),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    )
)
def test_whatever_the_headers_there_is_an_outcome(app, headers):
    """A forged header may spoil its own task, and nothing else."""

    @app.task(name="shop.add", bind=True)
    def add(self):
        raise self.retry(countdown=1)

    assert isinstance(app.work(message(forged=headers)), Outcome)


# -- the request


def test_a_task_sees_its_message(app):
    """`self.request` has Celery's fields."""
    seen = {}

    @app.task(name="shop.add", bind=True)
    def add(self, x, y=0):
        request = self.request
        seen.update({name: getattr(request, name) for name in fields})
        assert current_task._get_current_object() is self

    fields = (
        *("id", "args", "kwargs", "retries", "hostname", "root_id", "parent_id", "correlation_id"),
        *(
            "called_directly",
            "is_eager",
            "headers",
            "delivery_info",
            "timelimit",
            "time_limit",
            "group",
            "tenant",
        ),
        *("soft_time_limit", "redelivered", "callbacks", "chain", "eta", "expires", "origin"),
    )
    add.apply_async((1,), {"y": 2}, headers={"tenant": "acme"}, time_limit=9, soft_time_limit=8, priority=3)
    raw = app.sent_raw()
    sent = peek(raw)
    assert app.work(raw).state == "SUCCESS"
    assert seen.pop("origin").startswith("gen")
    assert seen == {
        "id": sent.id,
        "args": [1],
        "kwargs": {"y": 2},
        "retries": 0,
        "hostname": "worker@here",
        "root_id": sent.id,
        "parent_id": None,
        "correlation_id": sent.id,
        "called_directly": False,
        "is_eager": False,
        "headers": {"tenant": "acme"},
        "tenant": "acme",
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
        "timelimit": [9, 8],
        "time_limit": 9,
        "soft_time_limit": 8,
        "group": None,
        "redelivered": False,
        "callbacks": [],
        "chain": [],
        "eta": None,
        "expires": None,
    }
    assert add.request.id is None
    assert not current_task


def test_a_second_delivery_is_told(app):
    """After a lost worker a task can know that it may have run before."""
    seen = []
    app.task(name="shop.add", bind=True)(lambda self: seen.append(self.request.redelivered))
    raw = message()
    app.work(raw)
    app.work(raw.replace(b'{"body"', b'{"x-muster-losses":1,"body"', 1))
    assert seen == [False, True]


def test_each_thread_sees_its_own_request(app):
    """Runs in many threads at once never see each other's request."""
    barrier = threading.Barrier(4)

    @app.task(bind=True)
    def look(self, n):
        before = self.request.args
        barrier.wait(timeout=30)
        return [before, self.request.args]

    executor = Execution(app)
    raws = []
    for n in range(4):
        look.delay(n)
        raws.append(app.sent_raw())
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda raw: executor(Job(1, "q", raw)), raws))
    assert [result.load(one.document)["result"] for one in outcomes] == [[[n], [n]] for n in range(4)]


def test_a_task_sent_from_a_task_is_its_child(app):
    """Its root and parent are the sender's, and the sender's result lists it."""

    @app.task
    def inner():
        """Does nothing."""

    @app.task
    def outer():
        inner.delay()
        inner.apply_async(add_to_parent=False)
        app.send_task("elsewhere")

    sent = outer.delay()
    outcome = app.work()
    published = [open_message(one.raw) for one in app.outbox.publications]
    assert {(one.headers["root_id"], one.headers["parent_id"]) for one in published} == {(sent.id, sent.id)}
    children = [child[0][0] for child in result.load(outcome.document)["children"]]
    assert children == [published[0].id, published[2].id]


def test_a_task_called_as_a_function_belongs_to_its_caller(app):
    """A direct call has a request of its own, and what it sends is the child of the running task."""
    requests = []

    @app.task(bind=True)
    def inner(self, x):
        requests.append((self.request.called_directly, self.request.args, self.request.id))
        app.send_task("elsewhere")

    @app.task(bind=True)
    def outer(self):
        inner(5)
        requests.append((self.request.called_directly, self.request.args, self.request.id))

    sent = outer.delay()
    app.work()
    assert requests == [(True, (5,), None), (False, [], sent.id)]
    assert app.sent().headers["parent_id"] == sent.id


# -- hooks and signals


class Recorded(Task):
    """A base class that records its hooks."""

    calls: list

    def before_start(self, task_id, args, kwargs):
        self.calls.append(("before_start", args))

    def on_success(self, retval, task_id, args, kwargs):
        self.calls.append(("on_success", retval))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.calls.append(("on_retry", repr(exc)))

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.calls.append(("on_failure", repr(exc), "Traceback" in str(einfo)))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.calls.append(("after_return", status))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ok", [("on_success", 1), ("after_return", "SUCCESS")]),
        ("bad", [("on_failure", "ValueError('x')", True), ("after_return", "FAILURE")]),
        ("again", [("on_retry", "ValueError('x')")]),
        ("ignore", []),
    ],
)
def test_hooks_are_called_in_celerys_order(app, kind, expected):
    """before_start first, then the hook of the end, then after_return for an end that is final."""
    calls = []

    @app.task(base=Recorded, bind=True, calls=calls)
    def run(self, kind):
        match kind:
            case "bad":
                raise ValueError("x")
            case "again":
                raise self.retry(exc=ValueError("x"))
            case "ignore":
                raise Ignore
        return 1

    app.run(run, kind)
    assert calls == [("before_start", [kind]), *expected]


def test_a_hook_that_raises_changes_nothing(app, caplog):
    """The outcome stands; the hook's exception is logged."""

    class Broken(Task):
        def on_success(self, *_):
            raise RuntimeError("broken hook")

        def after_return(self, *_):
            raise RuntimeError("broken too")

    outcome, _ = app.run(app.task(base=Broken)(lambda: 1))
    assert outcome.state == "SUCCESS"
    assert caplog.text.count("RuntimeError: broken") == 2


def test_a_class_may_wrap_its_runs(app):
    """A base class with its own __call__ is called instead of run()."""

    class Doubled(Task):
        def __call__(self, *args, **kwargs):
            return 2 * self.run(*args, **kwargs)

    assert app.run(app.task(base=Doubled)(lambda: 21))[0].text == "42"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ok", ["task_prerun", "task_success", "task_postrun"]),
        ("bad", ["task_prerun", "task_failure", "task_postrun"]),
        ("again", ["task_prerun", "task_retry", "task_postrun"]),
        ("reject", ["task_prerun", "task_rejected", "task_postrun"]),
    ],
)
def test_signals_fire_around_a_run(app, heard, kind, expected):
    """Each end has its signal, between prerun and postrun."""
    record = heard(
        "task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_rejected"
    )

    @app.task(bind=True)
    def run(self, kind):
        match kind:
            case "bad":
                raise ValueError("x")
            case "again":
                raise self.retry(exc=ValueError("x"))
            case "reject":
                raise Reject
        return 1

    app.run(run, kind)
    assert [name for name, _ in record] == expected
    assert {id(values["sender"]) for _, values in record} == {id(run)}
    assert record[0][1]["args"] == [kind]
    assert (
        record[-1][1]["state"]
        == {
            "ok": "SUCCESS",
            "bad": "FAILURE",
            "again": "RETRY",
            "reject": "REJECTED",
        }[kind]
    )


def test_an_unknown_task_fires_its_signal(app, heard):
    """task_unknown has the name and the id."""
    record = heard("task_unknown")
    app.work(message("shop.missing"))
    [(_, values)] = record
    assert (values["name"], values["id"]) == ("shop.missing", "1")


# -- limits that strike outside of the task


def test_a_limit_that_strikes_beside_the_task_is_its_failure(app):
    """A pool may find the soft limit raised outside of the task's own code: the outcome is the failure."""

    @app.task(name="shop.add")
    def add():
        """Done already."""

    outcome = Execution(app).interrupted(Job(7, "q", message(retries=2)), SoftTimeLimitExceeded())
    document = result.load(outcome.document)
    assert (outcome.number, outcome.state, document["retries"]) == (7, "FAILURE", 2)
    assert document["result"]["exc_type"] == "SoftTimeLimitExceeded"
    assert Execution(app).interrupted(Job(7, "q", b"x"), SoftTimeLimitExceeded()).state == "REJECTED"


def test_a_limit_between_two_steps_is_caught(app, heard):
    """An exception at any line of the executor, as a signal handler raises it, is a failure."""

    @app.task(name="shop.add")
    def add(x):
        return x

    executor, raw = Execution(app), message(args=[1])
    executor(Job(1, "q", raw))
    own = sys.modules[Execution.__module__].__file__
    steps = 0
    while True:
        left = [steps]

        def trace(frame, event, _argument, left=left):
            if frame.f_code.co_filename == own and frame.f_code.co_name != "__call__" and event == "line":
                if left[0] == 0:
                    left[0] = -1
                    raise SoftTimeLimitExceeded
                left[0] -= 1
            return trace

        sys.settrace(trace)
        try:
            outcome = executor(Job(1, "q", raw))
        finally:
            sys.settrace(None)
        if left[0] >= 0:
            break
        assert outcome.state in {"FAILURE", "SUCCESS"}
        steps += 1
    assert steps > 30
