"""Which queue a task goes to: Celery's task_routes, checked against Celery's own router."""

import re

import pytest
from celery.app.routes import MapRoute
from hypothesis import example, given
from hypothesis import strategies as st

from muster.core.routing import RouteTable, route, routers

NAMES = st.text("ab.", min_size=1, max_size=5)
PATTERNS = st.text("ab.*", min_size=1, max_size=5)
QUEUES = st.sampled_from(["mail", "slow"])


def found(routes, name, *args):
    return route(routers(routes), name, *(args or ((), {}, {})), None)


@pytest.mark.parametrize(
    ("routes", "name", "expected"),
    [
        (None, "shop.add", {}),
        ({"shop.add": "mail"}, "shop.add", {"queue": "mail"}),
        ({"shop.add": {"queue": "mail", "priority": 3}}, "shop.add", {"queue": "mail", "priority": 3}),
        ({"shop.*": "mail"}, "shop.add", {"queue": "mail"}),
        ({"shop.*": "mail", "shop.add": "slow"}, "shop.add", {"queue": "slow"}),
        ({re.compile(r"shop\.(add|sub)"): "mail"}, "shop.sub", {"queue": "mail"}),
        ([("shop.*", "mail"), ("*", "slow")], "shop.add", {"queue": "mail"}),
        ([("shop.*", "mail"), ("*", "slow")], "other", {"queue": "slow"}),
        ([{"shop.add": "mail"}, {"*": "slow"}], "other", {"queue": "slow"}),
        ([lambda *_, **__: None, {"shop.add": "mail"}], "shop.add", {"queue": "mail"}),
        (lambda name, *_, **__: {"queue": name.split(".")[0]}, "shop.add", {"queue": "shop"}),
        (({"shop.add": "mail"},), "shop.add", {"queue": "mail"}),
        ({"shop.add": "mail"}, "shop.other", {}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # a test has one name in every process
)
def test_a_table_gives_the_options_of_its_first_answer(routes, name, expected):
    """Names, globs, patterns, functions and lists of them, as Celery documents them."""
    assert found(routes, name) == expected


def test_a_function_sees_the_call():
    """A routing function is given name, arguments, options and the task."""
    seen = []

    def by_call(*args, **kwargs):
        seen.append((args, kwargs))
        return "mail"

    task = object()
    assert route(routers(by_call), "n", (1,), {"a": 2}, {"priority": 1}, task) == {"queue": "mail"}
    assert seen == [(("n", (1,), {"a": 2}, {"priority": 1}), {"task": task})]


@example({"*": "mail", "**": "slow"}, "a")
@given(st.dictionaries(PATTERNS, QUEUES, max_size=4), NAMES)
def test_tables_agree_with_celery(table, name):
    """Any table of names and globs leads where Celery's own leads."""
    theirs = MapRoute(table)(name)
    mine = RouteTable(table)(name)
    assert (mine and {"queue": mine}) == theirs


def test_a_route_is_not_shared():
    """What a caller does with its route leaves the table as it was."""
    table = {"shop.add": {"queue": "mail"}}
    found(table, "shop.add")["queue"] = "changed"
    assert found(table, "shop.add") == {"queue": "mail"}
