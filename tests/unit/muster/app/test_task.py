"""Tasks as users make, send and call them."""

import os
import pickle
import time
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from muster import Muster, Task, current_app, shared_task
from muster.app.publishing import new_id
from muster.errors import (
    BrokerBlocked,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    MessageRejected,
)
from muster.exceptions import EncodeError, NotRegistered, Retry
from muster.signals import after_task_publish, before_task_publish
from muster.wire.message import peek, waits_since

# -- making


def test_a_task_is_named_after_its_function(app):
    """`module.function`, as Celery names it; a script's module is the application's name."""

    @app.task
    def add():
        """Adds."""

    assert add.name == f"{__name__}.add"
    assert app.gen_task_name("add", "__main__") == "shop.add"
    assert Muster(set_as_current=False).gen_task_name("add", "__main__") == "__main__.add"
    assert app.tasks[add.name] is add
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


def test_options_are_attributes(app):
    """Whatever the decorator is given stands on the task."""
    options = {"max_retries": 7, "acks_late": True, "queue": "mail", "rate_limit": "10/m", "own": "value"}
    task = app.task(name="shop.add", **options)(lambda: None)
    assert {name: getattr(task, name) for name in options} == options
    assert (task.time_limit, task.track_started, task.default_retry_delay) == (None, None, 180)


def test_a_bound_task_gets_itself(app):
    """`bind=True` makes the task the first argument."""
    task = app.task(bind=True, name="bound")(lambda self, x: (self, x))
    assert task(5) == (task, 5)
    assert app.task(lambda x: x)(5) == 5


def test_the_same_function_is_registered_once(app):
    """A module that is imported twice makes no second task; another function under the name is told."""

    def add():
        """Adds."""

    first = app.task(name="shop.add")(add)
    assert app.task(name="shop.add")(add) is first
    with pytest.warns(UserWarning, match=r"shop\.add"):
        app.task(name="shop.add")(lambda: None)


def test_a_class_of_its_own_is_a_task(app):
    """`register_task` takes a class or an instance with `run`."""

    class Add(Task):
        name = "shop.add"

        def run(self, x):
            return x + self.request.retries

    task = app.register_task(Add)
    assert app.tasks["shop.add"] is task
    assert task(1) == 1
    with pytest.raises(NotImplementedError, match=r"shop\.other"):
        app.register_task(Task(), name="shop.other")()


def test_a_serializer_other_than_json_is_refused(app):
    """At the decorator and at the call, in a sentence."""
    with pytest.raises(ConfigurationError, match="pickle"):
        app.task(serializer="pickle")(lambda: None)
    with pytest.raises(ValueError, match="pickle"):
        app.task(lambda: None).apply_async(serializer="pickle")


def test_a_shared_task_belongs_to_every_application(make_app):
    """It joins applications made before and after it, and means the current one."""
    first = make_app()
    assert first.tasks == {}

    @shared_task(name="shop.shared", max_retries=9)
    def shared(x):
        return x

    second = make_app()
    assert isinstance(shared, Task)
    assert shared.app is second is current_app._get_current_object()
    assert first.tasks["shop.shared"].app is first
    assert (shared(5), shared.max_retries, shared.name) == (5, 9, "shop.shared")
    shared.delay(1)
    assert second.sent().task == "shop.shared"
    first.set_current()
    assert shared.app is first


def test_annotations_go_over_attributes(make_app):
    """`task_annotations` by name and by star, the name last."""
    app = make_app(task_annotations={"*": {"priority": 1, "time_limit": 9}, "shop.add": {"priority": 5}})
    add = app.task(name="shop.add", priority=3)(lambda: None)
    other = app.task(name="shop.other", priority=3)(lambda: None)
    app.finalize()
    late = app.task(name="shop.late")(lambda: None)
    assert [(task.priority, task.time_limit) for task in (add, other, late)] == [(5, 9), (1, 9), (1, 9)]
    add.delay()
    assert app.sent().priority == 5


def test_a_task_is_pickled_by_its_name(app):
    """It comes back as the task of the current application."""
    task = app.task(name="shop.add")(lambda: None)
    assert pickle.loads(pickle.dumps(task)) is task


def test_an_unknown_task_is_told(app):
    """The registry raises NotRegistered."""
    with pytest.raises(NotRegistered, match=r"shop\.missing"):
        app.tasks["shop.missing"]
    task = app.task(name="shop.add")(lambda: None)
    app.tasks.unregister(task)
    assert "shop.add" not in app.tasks


# -- arguments


def kinds(app):
    def plain(x, y=1, *, z=2):
        """Takes all kinds of names."""

    def many(first, /, *rest, **named):
        """Takes anything after the first."""

    return app.task(plain), app.task(many), app.task(bind=True, name="bound")(lambda self, x: x)


@pytest.mark.parametrize(
    ("index", "args", "kwargs"),
    [
        (0, (), {}),
        (0, (1, 2, 3), {}),
        (0, (1,), {"a": 1}),
        (1, (), {"first": 1}),
        (2, (), {}),
        (2, (1, 2), {}),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(app, index, args, kwargs):
    """TypeError where the mistake is, and nothing is sent."""
    with pytest.raises(TypeError, match="argument"):
        kinds(app)[index].apply_async(args, kwargs)
    assert not app.outbox.publications


@pytest.mark.parametrize(
    ("index", "args", "kwargs"),
    [(0, (1,), {}), (0, (1, 2), {"z": 3}), (0, (), {"x": 1}), (1, (1, 2, 3), {"a": 1}), (2, (1,), {})],
)
def test_right_arguments_are_sent(app, index, args, kwargs):
    """Every way in which the function may be called."""
    kinds(app)[index].apply_async(args, kwargs)
    sent = app.sent()
    assert (tuple(sent.args), sent.kwargs) == (args, kwargs)


def test_typing_may_be_switched_off(app):
    """For a task, or for an application."""
    app.task(typing=False)(lambda x: x).delay()
    loose = Muster("loose", strict_typing=False, set_as_current=False)
    loose.publisher = app.outbox
    loose.task(lambda x: x).delay()
    assert len(app.outbox.publications) == 2


def test_callables_without_code_are_tasks_too(app):
    """What has no code object is not checked, and runs."""

    class Add:
        __name__ = "Add"

        def __call__(self, x):
            return x + 1

    task = app.task(name="shop.add")(Add())
    task.delay()
    assert task.run(1) == 2


@pytest.mark.parametrize("value", [object(), {1}, lambda: None])
def test_arguments_that_json_cannot_carry_are_refused(app, value):
    """EncodeError at the call names the task."""
    with pytest.raises(EncodeError, match="echo"):
        app.task(name="shop.echo")(lambda x: x).delay(value)


def test_args_and_kwargs_have_their_forms(app):
    """A text is no list of arguments."""
    task = app.task(typing=False)(lambda *args: args)
    with pytest.raises(TypeError, match="list or tuple"):
        app.send_task("x", "abc")
    with pytest.raises(TypeError, match="mapping"):
        app.send_task("x", (), [1])
    task.apply_async(None, None)
    assert app.sent().args == []


# -- options of a call


def test_a_delayed_call_waits_on_the_broker(app):
    """countdown and eta stand in the message, and the publication says when it is due."""
    task = app.task(lambda: None)
    before = datetime.now(UTC)
    task.apply_async(countdown=90)
    [publication] = app.outbox.publications
    assert before + timedelta(seconds=90) <= datetime.fromtimestamp(publication.eta, UTC)
    assert peek(app.sent_raw()).eta == pytest.approx(publication.eta)
    noon = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
    for eta in (noon, noon.replace(tzinfo=None), noon.isoformat()):
        task.apply_async(eta=eta)
        [publication] = app.outbox.publications
        assert publication.eta == noon.timestamp() == peek(app.sent_raw()).eta


@pytest.mark.parametrize(
    "options", [{"countdown": 0}, {"countdown": -5}, {"eta": datetime(2020, 1, 1, tzinfo=UTC)}]
)
def test_what_is_due_already_does_not_wait(app, options):
    """A time that has passed is a call for now."""
    app.task(lambda: None).apply_async(**options)
    [publication] = app.outbox.publications
    assert publication.eta == 0.0


def test_an_expiry_is_a_time_or_seconds(app):
    """Both lead to the same header; the attribute of the task is the default."""
    task = app.task(expires=60)(lambda: None)
    task.delay()
    assert peek(app.sent_raw()).expires == pytest.approx(datetime.now(UTC).timestamp() + 60, abs=30)
    noon = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
    task.apply_async(expires=noon)
    assert peek(app.sent_raw()).expires == noon.timestamp()


@pytest.mark.parametrize(
    ("settings", "attribute", "options", "queue"),
    [
        ({}, None, {}, "celery"),
        ({"task_default_queue": "other"}, None, {}, "other"),
        ({"task_default_queue": "other"}, "mine", {}, "mine"),
        ({"task_routes": {"shop.*": "routed"}}, None, {}, "routed"),
        ({"task_routes": {"shop.*": "routed"}}, "mine", {}, "mine"),
        ({"task_routes": {"shop.*": "routed"}}, "mine", {"queue": "called"}, "called"),
        ({}, None, {"routing_key": "key"}, "key"),
        ({"task_routes": [lambda name, args, kwargs, options, task=None: kwargs["to"]]}, None, {}, "given"),
    ],
)
def test_where_a_call_goes(make_app, settings, attribute, options, queue):
    """The call goes before the task, the task before the routes, these before the default."""
    app = make_app(**settings)
    task = app.task(name="shop.add", queue=attribute)(lambda **_: None)
    task.apply_async((), {"to": "given"}, **options)
    [publication] = app.outbox.publications
    assert publication.queue == queue
    assert app.sent().delivery_info["routing_key"] == queue


def test_a_route_may_carry_more_than_a_queue(make_app):
    """Priority and other options of a route hold unless the call says otherwise."""
    app = make_app(task_routes={"shop.add": {"queue": "mail", "priority": 6}})
    app.send_task("shop.add")
    [publication] = app.outbox.publications
    assert (publication.queue, publication.priority, app.sent().priority) == ("mail", 6, 6)
    app.send_task("shop.add", priority=0)
    assert app.sent().priority == 0


def test_a_queue_cannot_have_the_name_of_a_key_of_ours(app):
    """Such a queue would overwrite what the broker keeps."""
    with pytest.raises(ValueError, match=r"muster\.claimed"):
        app.send_task("x", queue="muster.claimed.mail")


def test_a_misspelt_option_is_an_error(app):
    """Options that Celery knows and we need not are accepted; others are not."""
    task = app.task(lambda: None)
    task.apply_async(compression="zlib", delivery_mode=1, producer=None)
    with pytest.raises(TypeError, match="coutdown"):
        task.apply_async(coutdown=5)
    with pytest.raises(TypeError, match="coutdown"):
        app.send_task("x", coutdown=5)


def test_limits_that_contradict_each_other_are_refused(app):
    """A soft limit after the hard one would never be seen."""
    with pytest.raises(ValueError, match="soft_time_limit"):
        app.task(lambda: None).apply_async(soft_time_limit=10, time_limit=5)


def test_a_result_that_is_ignored_is_not_waited_for(app):
    """`get` of a call with `ignore_result` returns at once."""
    assert app.task(ignore_result=True)(lambda: None).delay().get(timeout=0) is None
    assert app.task(name="b")(lambda: None).apply_async(ignore_result=True).get(timeout=0) is None


def test_arguments_in_a_message_are_shown_short_or_not_at_all(app):
    """argsrepr is at most 1,024 characters, never raises, and may be given instead."""

    class Hidden(dict):
        def __repr__(self):
            raise RuntimeError

    task = app.task(lambda *_: None)
    task.delay("x" * 100_000)
    assert len(app.sent().headers["argsrepr"]) <= 1024
    task.delay(["word"] * 100_000)
    assert len(app.sent().headers["argsrepr"]) <= 1024
    task.delay(Hidden(a=1))
    assert "raises" in app.sent().headers["argsrepr"]
    task.apply_async(("secret",), argsrepr="(***)")
    assert app.sent().headers["argsrepr"] == "(***)"


def test_ids_are_random_uuids():
    """A task id is a UUID of version 4, and never twice the same."""
    from uuid import UUID

    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {str(UUID(one)) for one in ids} == ids
    assert {(UUID(one).version, UUID(one).variant) for one in ids} == {(4, "specified in RFC 4122")}


def test_every_message_has_a_delivery_tag_of_its_own(app):
    """A retry has its task's id and another tag: Celery's workers keep messages by their tag."""
    for _ in range(2):
        app.send_task("shop.add", task_id="one")
    one, two = (publication.raw for publication in app.outbox.publications)
    assert one != two
    assert peek(one) == peek(two)


def test_every_message_says_when_it_was_published(app):
    """In whole seconds, as AMQP has it; one for later waits from its ETA on."""
    before = int(time.time())
    app.send_task("shop.add")
    assert before <= waits_since(app.sent_raw()) <= time.time()
    app.send_task("shop.add", countdown=600)
    assert before + 600 <= waits_since(app.sent_raw()) <= time.time() + 600


# -- signals and the broker


def test_a_message_can_be_changed_before_it_is_sent(app):
    """Receivers of before_task_publish may set headers; after_task_publish shows what went out."""
    seen = []

    def before(headers, body, routing_key, **_):
        headers["trace"] = "7"
        body[1]["added"] = True
        seen.append(routing_key)

    def after(headers, **_):
        seen.append(headers["trace"])

    before_task_publish.connect(before, sender="shop.add")
    after_task_publish.connect(after)
    try:
        app.send_task("shop.add", (1,), {})
    finally:
        before_task_publish.disconnect(before, sender="shop.add")
        after_task_publish.disconnect(after)
    sent = app.sent()
    assert (sent.headers["trace"], sent.kwargs, seen) == ("7", {"added": True}, ["celery", "7"])


class Flaky:
    """A publisher whose broker is away for some calls."""

    def __init__(self, failures, error=BrokerUnavailable):
        self.left, self.error, self.calls = failures, error, 0

    def publish(self, publications):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error("away")

    def close(self):
        """Nothing is open."""


NO_PAUSE = {"interval_start": 0, "interval_step": 0, "interval_max": 0}


@pytest.mark.parametrize(
    ("failures", "options", "calls"),
    [
        (2, {}, 3),
        (9, {}, 4),
        (9, {"retry_policy": {"max_retries": 1, **NO_PAUSE}}, 2),
        (9, {"retry": False}, 1),
    ],
)
def test_publishing_is_tried_again(make_app, failures, options, calls):
    """As often as the policy says, then BrokerUnavailable."""
    app = make_app(task_publish_retry_policy={"max_retries": 3, **NO_PAUSE})
    app.publisher = Flaky(failures)
    try:
        app.send_task("x", **options)
    except BrokerUnavailable:
        assert failures >= calls
    else:
        assert failures < calls
    assert app.publisher.calls == calls


@pytest.mark.parametrize("error", [BrokerRefused, BrokerBlocked])
def test_a_broker_that_refuses_is_not_asked_again(app, error):
    """A wrong password does not become right by asking, and an alarm has been waited for already."""
    app.publisher = Flaky(1, error)
    with pytest.raises(error):
        app.send_task("x")
    assert app.publisher.calls == 1


def test_a_message_that_a_queue_rejects_is_sent_again(make_app):
    """It may have room in a moment, or a leader."""
    app = make_app(task_publish_retry_policy={"max_retries": 3, **NO_PAUSE})
    app.publisher = Flaky(1, MessageRejected)
    app.send_task("x")
    assert app.publisher.calls == 2


def test_without_a_broker_there_is_a_sentence(make_app, monkeypatch):
    """Which names the ways to give one; the same for results."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    app = make_app()
    app.publisher = app.results = None
    with pytest.raises(ConfigurationError, match="broker_url"):
        app.send_task("x")
    with pytest.raises(ConfigurationError, match="result_backend"):
        app.AsyncResult("1").get(timeout=1)


def test_a_child_process_has_connections_of_its_own(make_app, tmp_path):
    """After a fork neither socket nor lock of the parent is used; what was set by hand stays."""
    app = make_app(broker_url=f"sqlite:///{tmp_path}/b.db", result_backend=f"sqlite:///{tmp_path}/b.db")
    app.publisher = app.results = None
    before = app.publisher, app.results
    read, write = os.pipe()
    with app._lock:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest may have threads; ours matter not
            pid = os.fork()
        if pid == 0:
            same = [app.publisher is before[0], app.results is before[1]]
            os.write(write, b"same" if any(same) else b"new")
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 10) == b"new"
    assert (app.publisher, app.results) == before
    app.close()
    assert app.publisher is not before[0]
    app.close()
    os.close(read)
    os.close(write)


# -- calling in this process


def test_a_retry_outside_of_a_worker_raises_its_reason(app):
    """Called as a function, a task that retries raises the exception that was the reason."""

    @app.task(bind=True)
    def again(self, exc=None):
        raise self.retry(exc=exc)

    with pytest.raises(KeyError):
        again(KeyError("x"))
    with pytest.raises(Retry):
        again()


def test_apply_runs_with_retries_links_and_chains(app):
    """An eager run does here what a worker would publish."""
    seen = []

    @app.task(bind=True, max_retries=2)
    def flaky(self, x):
        seen.append((self.request.retries, self.request.is_eager, self.request.id))
        if self.request.retries < 2:
            raise self.retry(countdown=60)
        return x

    @app.task
    def add(x, y):
        seen.append(x + y)
        return x + y

    result = flaky.apply((5,), link=add.s(1), task_id="one")
    assert (result.get(), result.state, result.id, result.retries) == (5, "SUCCESS", "one", 2)
    assert seen == [(0, True, "one"), (1, True, "one"), (2, True, "one"), 6]
    assert (add.s(1, 2) | add.s(10)).apply().get() == 13
    assert not app.outbox.publications


def test_an_eager_failure_is_in_the_result_or_raised(app):
    """`throw` raises; without it the result has exception and traceback, and errbacks are run."""
    failed = []

    @app.task
    def fail():
        raise KeyError("x")

    @app.task
    def note(task_id):
        failed.append(task_id)

    result = fail.apply(link_error=note.s(), task_id="one")
    assert (result.state, failed, result.failed()) == ("FAILURE", ["one"], True)
    assert "KeyError" in result.traceback
    with pytest.raises(KeyError):
        result.get()
    assert isinstance(result.get(propagate=False), KeyError)
    with pytest.raises(KeyError):
        fail.apply(throw=True)


def test_always_eager_sends_nothing(make_app):
    """The setting for tests: `delay` runs here; `task_eager_propagates` raises."""
    app = make_app(task_always_eager=True, task_eager_propagates=True)
    add = app.task(name="shop.add")(lambda x, y: x / y)
    assert add.delay(4, 2).get() == 2
    assert (add.s(8, 2) | add.s(2)).delay().get() == 2
    with pytest.raises(ZeroDivisionError):
        add.delay(1, 0)
    assert not app.outbox.publications


def test_a_request_can_be_given_for_tests(app):
    """push_request and pop_request frame a run by hand."""
    task = app.task(bind=True)(lambda self: self.request.id)
    task.push_request(id="one", called_directly=False)
    assert task.run() == "one"
    task.pop_request()
    assert task.run() is None
