"""Signatures and chains: Celery's dictionaries, kept, sent along and combined."""

import pickle

import celery
import pytest
from celery.canvas import Signature as CelerySignature

from muster import Signature, chain, maybe_signature, signature
from muster.app.signature import unsupported
from muster.exceptions import ImproperlyConfigured
from muster.wire import values
from muster.wire.message import open_message


@pytest.fixture
def add(app):
    return app.task(name="shop.add")(lambda *args, **_: sum(args))


def test_a_signature_is_celerys_dictionary(add):
    """Field by field the same as Celery's, so that either side can send the other's."""
    theirs = CelerySignature("shop.add", (1, 2), {"z": 3}, {"queue": "mail"}, immutable=True)
    assert add.signature((1, 2), {"z": 3}, {"queue": "mail"}, immutable=True) == dict(theirs)
    assert values.loads(values.dumps(add.s(1))) == {**add.s(1), "args": [1]}


def test_a_signature_has_its_items_as_attributes(add):
    """For reading and for writing."""
    call = add.s(1, z=2).set(queue="mail", task_id="one")
    assert (call.task, call.name, call.args, call.kwargs) == ("shop.add", "shop.add", (1,), {"z": 2})
    assert (call.options, call.id, call.immutable) == ({"queue": "mail", "task_id": "one"}, "one", False)
    call.args = (5,)
    assert call["args"] == (5,)
    assert call.type is add
    assert repr(call) == "shop.add(5, z=2)"


@pytest.mark.parametrize("immutable", [False, True])
def test_later_arguments_come_first(app, add, immutable):
    """A callback's result goes before its own arguments, unless it is immutable."""
    call = add.signature((3,), {"z": 1}, {"queue": "mail"}, immutable=immutable)
    call.apply_async((1, 2), {"z": 9}, priority=4)
    [publication] = app.outbox.publications
    sent = app.sent()
    assert (sent.args, sent.kwargs) == (([3], {"z": 1}) if immutable else ([1, 2, 3], {"z": 9}))
    assert (publication.queue, sent.priority) == ("mail", 4)


def test_a_group_id_is_not_replaced(add):
    """What others wait for stays."""
    call = add.s().set(group_id="g")
    assert call.clone(group_id="other", queue="mail").options == {"group_id": "g", "queue": "mail"}


def test_a_copy_is_independent(add):
    """Changing a clone, or what a clone holds, changes nothing else."""
    call = add.s(1, z=2).set(headers={"a": 1})
    copy = call.clone()
    copy.kwargs["z"] = 9
    copy.options["headers"]["a"] = 9
    copy.link(add.s())
    assert (call.kwargs, call.options) == ({"z": 2}, {"headers": {"a": 1}})
    assert call.replace(args=(7,)).args == (7,)
    assert pickle.loads(pickle.dumps(call)) == call


def test_links_are_kept_once(add):
    """`link` returns the callback, `on_error` the call; the same one is not added twice."""
    call, note = add.s(1), add.s(2)
    assert call.link(note) is note
    call.link(note)
    assert call.on_error(note) is call
    assert (call.options["link"], call.options["link_error"]) == ([note], [note])


def test_an_unknown_task_is_sent_by_name(app):
    """A signature of a task that is registered elsewhere."""
    result = signature("elsewhere.add", (1,), {"a": 2}).apply_async(queue="mail")
    sent = app.sent()
    assert (sent.task, sent.args, sent.kwargs, sent.id) == ("elsewhere.add", [1], {"a": 2}, result.id)


def test_freezing_gives_the_id_now(app, add):
    """The result is known before the call is sent."""
    call = add.s(1)
    promised = call.freeze()
    assert call.freeze() == promised
    assert call.delay() == promised == app.sent().id


def test_calling_runs_it_here(add):
    """A signature is a function of its remaining arguments."""
    assert add.s(1, 2)(3) == 6
    assert add.s(1).apply((2,)).get() == 3


# -- chains


def test_or_makes_a_chain(add):
    """However it is put together, a chain is the flat sequence of its calls."""
    one, two, three = add.s(1), add.s(2), add.s(3)
    expected = [("shop.add", (1,)), ("shop.add", (2,)), ("shop.add", (3,))]
    for made in (
        one | two | three,
        one | (two | three),
        chain(one, two, three),
        chain([one, two, three]),
        chain(chain(one, two), three),
        chain(iter([one, chain(two, three)])),
    ):
        assert isinstance(made, chain)
        assert [(step.task, step.args) for step in made.tasks] == expected
    with pytest.raises(TypeError):
        _ = one | 5


def test_a_chain_is_sent_as_celery_sends_it(app, add):
    """The first call's message carries the others in reverse, each with its promised id."""
    made = add.s(1) | add.s(2) | add.s(3)
    result = made.apply_async((10,), queue="mail", task_id="last")
    [publication] = app.outbox.publications
    sent = app.sent()
    assert (publication.queue, sent.args) == ("mail", [10, 1])
    assert [step["args"] for step in sent.chain] == [[3], [2]]
    ids = [step["options"]["task_id"] for step in sent.chain]
    assert (ids[0], result.id) == ("last", "last")
    assert (result.parent.id, result.parent.parent.id, result.parent.parent.parent) == (ids[1], sent.id, None)
    assert all(step.options == {} for step in made.tasks)


def test_a_chain_of_celery_is_read(app, add):
    """Its dictionary form, from a message of Celery's, is a chain here and goes the same way."""
    with celery.Celery("x", set_as_current=False) as theirs:
        form = theirs.signature("shop.add", (1,)) | theirs.signature("shop.add", (2,))
        made = maybe_signature(values.loads(values.dumps(dict(form))), app)
    assert isinstance(made, chain)
    made.delay(5)
    assert app.sent().args == [5, 1]


def test_links_of_a_chain_belong_to_its_end_and_errbacks_to_each_call(app, add):
    """A callback follows the last call; whichever call fails, the errback is called."""
    made = add.s(1) | add.s(2)
    made.link(add.s("after"))
    made.on_error(add.s("failed"))
    made.apply_async(link=add.s("later"))
    sent = app.sent()
    [last] = sent.chain
    assert sent.callbacks == []
    assert [call["args"] for call in last["options"]["link"]] == [["later"]]
    assert [call["args"] for call in sent.errbacks] == [["failed"]]
    assert [call["args"] for call in last["options"]["link_error"]] == [["failed"]]


def test_a_chain_can_be_a_link(app, add):
    """As a callback it begins with the result."""
    add.apply_async((1, 2), link=add.s(10) | add.s(100))
    [following] = app.work().publish
    begun = open_message(following.raw)
    assert (begun.args, [step["args"] for step in begun.chain]) == ([3, 10], [[100]])


def test_an_immutable_chain_leaves_results_out(app, add):
    """`set(immutable=True)` on a chain is about its first call."""
    made = chain(add.s(1), add.s(2)).set(immutable=True)
    made.apply_async((99,))
    assert app.sent().args == [1]


def test_an_empty_chain_is_told(add):
    """There is nothing to send."""
    with pytest.raises(ValueError, match="empty chain"):
        chain([]).delay()


@pytest.mark.parametrize("kind", ["group", "chord", "chunks"])
def test_what_does_not_exist_yet_is_recognised(kind):
    """A call that is more than a task or a chain of tasks is named, wherever it hides."""
    odd = {"task": f"celery.{kind}", "subtask_type": kind, "kwargs": {}, "options": {}}
    hidden = {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [odd]}}
    assert unsupported([Signature("shop.add"), hidden]) == kind
    assert unsupported([Signature("shop.add"), chain(Signature("a"), Signature("b"))]) == ""
    with pytest.raises(ImproperlyConfigured, match=kind):
        chain(Signature("shop.add"), odd)
