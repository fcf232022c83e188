"""Signals: who is called, who is not, and that receivers cannot break their sender."""

import gc

import pytest

from muster.signals import Signal


@pytest.fixture
def signal():
    return Signal("shop")


def test_a_receiver_is_called_with_sender_and_values(signal):
    """Receivers get keyword arguments; their answers come back."""

    def receiver(sender, signal, **values):
        return sender, signal.name, values

    assert signal.connect(receiver) is receiver
    assert signal.send("me", task_id="1") == [(receiver, ("me", "shop", {"task_id": "1"}))]


def test_without_receivers_a_send_is_nothing(signal):
    """No receiver, no answer; `receivers` is falsy, which is what hot paths test."""
    assert not signal.receivers
    assert signal.send(None) == []


def test_connect_is_a_decorator_too(signal):
    """With and without arguments."""

    @signal.connect
    def one(**_):
        return 1

    @signal.connect(sender="shop.add")
    def two(**_):
        return 2

    assert signal.send("shop.add") == [(one, 1), (two, 2)]
    assert signal.send("other") == [(one, 1)]


def test_a_sender_is_told_by_name_or_identity(signal):
    """Task names compare by value, objects by identity."""
    task, other = object(), object()

    def receiver(**_):
        return True

    signal.connect(receiver, sender=task)
    assert signal.has_listeners(task)
    assert not signal.has_listeners(other)
    assert signal.send(task)
    assert not signal.send(other)
    assert not signal.send(None)
    assert signal.disconnect(receiver, sender=task)
    signal.connect(receiver, sender=str(b"shop.add", "ascii"))
    assert signal.send("shop.add")


def test_a_receiver_that_nobody_holds_leaves(signal):
    """Weakly connected receivers end with their owners, functions and bound methods alike."""

    class Owner:
        def method(self, **_):
            return 1

    owner = Owner()
    signal.connect(owner.method)
    signal.connect(lambda **_: 2, weak=False)
    assert len(signal.send(None)) == 2
    del owner
    gc.collect()
    assert [answer for _, answer in signal.send(None)] == [2]
    assert len(signal.receivers) == 1


def test_a_receiver_is_connected_once(signal):
    """The same receiver, or the same dispatch_uid, is called once a sending."""

    def receiver(**_):
        return 1

    def other(**_):
        return 2

    signal.connect(receiver)
    signal.connect(receiver)
    signal.connect(receiver, dispatch_uid="uid")
    signal.connect(other, dispatch_uid="uid")
    assert [answer for _, answer in signal.send(None)] == [1, 1]
    assert signal.disconnect(dispatch_uid="uid")
    assert signal.disconnect(receiver)
    assert not signal.disconnect(receiver)
    assert not signal.receivers


def test_a_receiver_that_raises_harms_nobody(signal, caplog):
    """Its exception is its answer and is logged; the next receiver is called."""
    error = ValueError("mine")

    def broken(**_):
        raise error

    def fine(**_):
        return 1

    signal.connect(broken)
    signal.connect(fine)
    assert signal.send(None) == [(broken, error), (fine, 1)]
    assert "ValueError: mine" in caplog.text
