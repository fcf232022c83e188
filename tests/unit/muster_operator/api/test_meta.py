"""How a type of the API is read."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from muster_operator.api.meta import Prop, Word, fields_of, json_name, rule, rules_of, transition


class Colour(Word):
    RED = "Red", "Like blood."
    PLAIN = "Plain"


@dataclass(frozen=True, kw_only=True)
class Base:
    size: Annotated[int, Prop("How large.")] = 1

    @rule("self.size > 0", "size must be positive", field="size")
    def is_positive(self) -> bool:
        return self.size > 0


@dataclass(frozen=True, kw_only=True)
class Thing(Base):
    """A thing."""

    colour: Annotated[Colour | None, Prop("Which colour.")] = None
    from_: Annotated[str, Prop("Whence.")]

    @transition("self.colour == oldSelf.colour", "colour stays", field="colour")
    def colour_stays(self, old: "Thing") -> bool:
        return self.colour is old.colour


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("message_ttl", "messageTTL"),
        ("from_", "from"),
        ("max_tasks_per_child", "maxTasksPerChild"),
        ("ha", "ha"),
    ],
)
def test_names_are_spelled_as_in_kubernetes(name, spelling):
    """Python's names become camelCase, initialisms stay upper case."""
    assert json_name(name) == spelling


def test_a_field_knows_whether_it_may_be_left_out():
    """Without a default a field is required; `| None` makes it optional; else a default stands in."""
    found = {
        each.json_name: (each.required, each.optional, each.default, each.hint) for each in fields_of(Thing)
    }
    assert found == {
        "size": (False, False, 1, int),
        "colour": (False, True, None, Colour),
        "from": (True, False, None, str),
    }


def test_rules_are_inherited_and_keep_their_order():
    """A type's rules are its bases' and its own; a transition is told apart."""
    assert [(each.name, each.field, each.transition) for each in rules_of(Thing)] == [
        ("is_positive", "size", False),
        ("colour_stays", "colour", True),
    ]


def test_a_word_is_a_string_with_a_meaning():
    """Words compare and serialise as strings, and carry what the reference page says of them."""
    assert (Colour("Red"), f"{Colour.RED}", Colour.RED == "Red") == (Colour.RED, "Red", True)
    assert (Colour.RED.meaning, Colour.PLAIN.meaning) == ("Like blood.", "")


def test_a_pattern_needs_its_sentence():
    """A pattern that users would read as a regular expression cannot be declared."""
    with pytest.raises(TypeError, match="pattern and sentence go together"):
        Prop("A name.", pattern="^a$")
