"""Whether a child still is what we want."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.desired.difference import differences, is_as_wanted
from resource_strategies import JSON

OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), JSON, max_size=4)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {}}, {}),
        ({"a": []}, {}),
        ({"a": False}, {}),
        ({"a": ""}, {}),
        ({"a": None}, {}),
        ({"l": [{"name": "x", "v": 1}]}, {"l": [{"name": "other"}, {"name": "x", "v": 1, "w": 2}]}),
        ({"r": {"limits": {"cpu": "0.5"}}}, {"r": {"limits": {"cpu": "500m"}}}),
        ({"r": {"limits": {"memory": "1024Mi"}}}, {"r": {"limits": {"memory": "1Gi"}}}),
        ({"v": {"emptyDir": {"sizeLimit": "1000m"}}}, {"v": {"emptyDir": {"sizeLimit": "1"}}}),
    ],
    ids=json.dumps,
)
def test_what_the_api_server_makes_of_an_object_is_no_difference(wanted, seen):
    """Defaults, dropped empty values, rewritten quantities, and what others added."""
    assert is_as_wanted(wanted, seen)


@pytest.mark.parametrize(
    ("wanted", "seen", "path"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": {"b": 1}}, {"a": {}}, "a.b"),
        ({"a": True}, {}, "a"),
        ({"l": [1, 2]}, {"l": [1]}, "l"),
        ({"l": [1]}, {"l": [2]}, "l[0]"),
        ({"l": [{"name": "x", "v": 1}]}, {"l": [{"name": "x", "v": 2}]}, "l[x].v"),
        ({"l": [{"name": "x"}]}, {"l": []}, "l[x].name"),
        ({"r": {"limits": {"cpu": "1"}}}, {"r": {"limits": {"cpu": "2"}}}, "r.limits.cpu"),
        ({"env": "500m"}, {"env": "0.5"}, "env"),
    ],
    ids=json.dumps,
)
def test_a_difference_has_its_path(wanted, seen, path):
    """So that a log can say what was mended."""
    assert list(differences(wanted, seen)) == [path]


@given(OBJECTS)
def test_an_object_is_as_wanted_when_it_is_what_was_wanted(wanted):
    """Every object satisfies itself."""
    assert is_as_wanted(wanted, wanted)


@given(OBJECTS, OBJECTS)
def test_what_others_add_is_theirs(wanted, more):
    """Keys beside ours never matter."""
    assert is_as_wanted(wanted, more | wanted)
