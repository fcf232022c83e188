"""Names of children are valid, short and never shared."""

import re

from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api import names
from muster_operator.api.names import MAX_NAME, child_name, content_hash, pool_labels, selector
from resource_strategies import JSON

OWNERS = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", fullmatch=True)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@given(owner=OWNERS, made_of=JSON)
def test_a_childs_name_is_a_label(owner, made_of):
    """Whatever the owner is called, the child's name is a DNS label and a label's value."""
    name = child_name(owner, made_of)
    assert LABEL.fullmatch(name)
    assert len(name) <= MAX_NAME


def test_a_child_is_recognised_by_its_owner():
    """An owner of ordinary length stands in front, whole."""
    name = child_name("mail", {"image": "shop:1"})
    assert re.fullmatch(r"mail-[a-z2-7]{8}", name)
    assert name == child_name("mail", {"image": "shop:1"})
    assert name != child_name("mail", {"image": "shop:2"})


@given(one=OWNERS, other=OWNERS)
def test_two_owners_never_share_a_child(one, other):
    """Owners that differ only beyond the cut, or in a dot, have children of their own."""
    if one != other:
        assert child_name(one, 1) != child_name(other, 1)


def test_owners_alike_after_the_cut_are_told_apart():
    """The hash covers what was cut off or rewritten."""
    long = "a" * 60
    assert child_name(f"{long}b", 1) != child_name(f"{long}c", 1)
    assert child_name("a.b", 1) != child_name("a-b", 1)


def test_a_hash_is_of_the_content_alone():
    """The order of keys does not matter, the values do, and the hash never changes between versions."""
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": [1, 2]}) != content_hash({"a": [2, 1]})
    assert content_hash({}) == "iqjw7i2v"


def test_the_selector_names_all_workers_of_a_pool():
    """It is sorted, and holds no version, so that it stays while versions come and go."""
    assert selector(pool_labels("mail")) == "muster.dev/pool=mail,muster.dev/role=worker"


def test_our_keys_live_under_our_group():
    """Every label, annotation and finalizer of Muster's own begins with its group."""
    ours = [
        value
        for name, value in vars(names).items()
        if name.startswith(("LABEL_", "ANNOTATION_", "FINALIZER_")) and "kubernetes.io" not in value
    ]
    assert len(ours) == len(set(ours)) > 5
    assert all(value.startswith("muster.dev/") for value in ours)
