"""The table of fields: whole, and the one source of what is said about them."""

import pytest

from muster_operator.api.brokers import FIELDS, LIMITS, Column, Way, brokers_page, kept, unkept
from muster_operator.api.meta import fields_of, rules_of
from muster_operator.api.taskqueue import TaskQueueSpec

NOT_OF_A_QUEUE = {"broker", "queueName"}


def test_every_field_of_the_spec_is_in_the_table_in_its_order():
    """But for where the queue is and what it is called."""
    names = [field.json_name for field in fields_of(TaskQueueSpec) if field.json_name not in NOT_OF_A_QUEUE]
    assert [row.name for row in FIELDS] == names
    assert set(LIMITS) <= set(names)


def test_every_cell_is_filled_and_says_what_holds_in_its_place():
    """What has no effect, or is refused, is never said without a word on it."""
    for row in FIELDS:
        assert set(row.on) == set(Column)
        for found in row.on.values():
            assert found.words or found.way is Way.ENGINE
            assert bool(found.instead) == (found.since is not None or found.way is Way.REFUSED)


def test_what_the_table_refuses_a_rule_refuses_with_its_words():
    """The sentence of the rule is the table's."""
    sentences = {rule.message for rule in rules_of(TaskQueueSpec)}
    refused = [found.words for row in FIELDS for found in row.on.values() if found.way is Way.REFUSED]
    assert refused
    assert set(refused) <= sentences


@pytest.mark.parametrize(
    ("column", "version", "says"),
    [
        (Column.QUORUM_3, (3, 10), "workers renew what they hold"),
        (Column.QUORUM_3, (3, 12), ""),
        (Column.QUORUM_4, None, ""),
        (Column.REDIS, None, "while the lease is renewed"),
    ],
)
def test_a_field_may_depend_on_the_version(column, version, says):
    """From its version on it is kept; before, something else holds."""
    found = unkept("consumerTimeout", column, version)
    assert says in found
    assert bool(found) == bool(says)


def test_the_page_has_every_cell():
    """One row a field, one column a broker."""
    rows = [line.split(" | ") for line in brokers_page("it").splitlines() if line.startswith("| `")]
    assert len(rows) == len(FIELDS)
    assert all(len(row) == 1 + len(Column) for row in rows)
    assert kept("ha", Column.CLASSIC_4).words in brokers_page("it")
