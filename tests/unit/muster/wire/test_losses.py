"""Losses on messages: noted at the front, readable, and nothing else changes."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.losses import may_have_run, with_loss
from muster.wire.message import CAUSE_FIELD, LOSSES_FIELD, pack, peek

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)
envelopes = st.dictionaries(st.text().filter(lambda name: not name.startswith("x-muster-")), values)


def a_message():
    return pack(
        headers={"task": "shop.send", "id": "1"},
        body="[[],{},{}]",
        queue="mail",
        task_id="1",
        delivery_tag="t",
    )


def test_a_loss_is_put_before_the_message_byte_for_byte():
    """The form is fixed, since a Lua script on Redis writes and reads the same."""
    noted = with_loss(a_message(), "WorkerLost")
    assert noted == b'{"x-muster-losses":1,"x-muster-cause":"WorkerLost",' + a_message()[1:]
    again = with_loss(noted, "LeaseExpired")
    assert again == b'{"x-muster-losses":2,"x-muster-cause":"LeaseExpired",' + a_message()[1:]


def test_a_noted_loss_is_seen():
    """`peek` reads what `with_loss` has written, and `may_have_run` tells it without decoding."""
    assert not may_have_run(a_message())
    noted = with_loss(a_message(), 'a "cause"')
    assert may_have_run(noted)
    assert (peek(noted).losses, peek(noted).cause) == (1, 'a "cause"')


def test_a_message_that_kombu_has_written_again_keeps_its_losses():
    """kombu puts blanks behind commas and colons; the count goes on."""
    kombus = json.dumps(json.loads(with_loss(a_message(), "WorkerLost"))).encode()
    assert may_have_run(kombus)
    assert peek(with_loss(kombus, "WorkerLost")).losses == 2


@given(envelopes, st.text())
def test_nothing_else_changes(envelope, cause):
    """Every other field has the value that it had."""
    noted = json.loads(with_loss(json.dumps(envelope).encode(), cause))
    assert noted.pop(CAUSE_FIELD) == cause
    assert noted.pop(LOSSES_FIELD) == 1
    assert noted == envelope


@pytest.mark.parametrize("odd", [b'{"n": NaN}', b'{"t": "\\ud800"}'])
def test_what_only_kombus_json_allows_is_no_obstacle(odd):
    """A message that Python's json reads bears its losses too."""
    once = with_loss(odd, "WorkerLost")
    twice = with_loss(once, "WorkerLost")
    assert may_have_run(twice)
    assert json.loads(twice)[LOSSES_FIELD] == 2


@given(st.binary())
def test_what_is_no_json_object_comes_back_as_it_was(raw):
    """A message that cannot be read cannot be written on; it is not damaged."""
    try:
        is_object = isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        assert with_loss(raw, "WorkerLost") == raw


def test_a_message_with_a_count_that_is_no_number_starts_anew():
    """Somebody else's field of our name does no harm."""
    noted = with_loss(b'{"x-muster-losses":"?"}', "WorkerLost")
    assert msgspec.json.decode(noted) == {LOSSES_FIELD: 1, CAUSE_FIELD: "WorkerLost"}
