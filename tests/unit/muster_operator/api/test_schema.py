"""Types as structural schemas."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any

import pytest

from muster_operator.api.durations import PATTERN
from muster_operator.api.manifests import KINDS
from muster_operator.api.meta import IntOrString, JsonObject, JsonValue, Prop, Word, fields_of, rule
from muster_operator.api.schema import schema_of


class Colour(Word):
    RED = "Red", "Like blood."
    PLAIN = "Plain"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inside."""

    count: Annotated[int, Prop("How many.", minimum=1, maximum=9)] = 3
    note: Annotated[str | None, Prop("A note.", max_length=5)] = None


def only(prop: Prop, hint: Any, **default: Any) -> dict[str, Any]:
    """The schema of a type whose only field is of that type."""
    made = type("Only", (), {"__annotations__": {"it": Annotated[hint, prop]}, **default})
    return schema_of(dataclass(frozen=True, kw_only=True)(made))["properties"]["it"]


def test_scalars_carry_their_bounds():
    """Integers, numbers, strings and booleans have their JSON type, bounds and default."""
    assert only(Prop("N.", minimum=1, maximum=9), int, it=3) == {
        "description": "N.",
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "default": 3,
    }
    assert only(Prop("F.", maximum=90), float) == {"description": "F.", "type": "number", "maximum": 90}
    assert only(Prop("B."), bool, it=False) == {"description": "B.", "type": "boolean", "default": False}
    assert only(Prop("S.", min_length=1, max_length=5), str | None, it=None) == {
        "description": "S.",
        "type": "string",
        "minLength": 1,
        "maxLength": 5,
    }


def test_a_pattern_becomes_a_rule_with_its_sentence():
    """The user reads the sentence, never the expression."""
    schema = only(Prop("S.", pattern="^a+$", sentence="only the letter a"), str)
    assert schema["x-kubernetes-validations"] == [
        {"rule": "self.matches(r'^a+$')", "message": "only the letter a"}
    ]
    assert "pattern" not in schema


def test_durations_are_durations_to_cel():
    """The format makes CEL see a duration; bounds are rules in Go's units, to the millisecond."""
    schema = only(Prop("D.", at_least=timedelta(milliseconds=100), at_most=timedelta(days=7)), timedelta)
    assert (schema["type"], schema["format"], schema["pattern"]) == ("string", "duration", PATTERN)
    assert schema["x-kubernetes-validations"] == [
        {"rule": "self >= duration('100ms')", "message": "must be at least 100ms"},
        {"rule": "self <= duration('604800000ms')", "message": "must be at most 7d"},
    ]


def test_words_are_an_enum_and_explain_themselves():
    """An enum lists its words; the description adds the meaning of those that have one."""
    assert only(Prop("Which."), Colour, it=Colour.RED) == {
        "description": "Which. Red: Like blood.",
        "type": "string",
        "enum": ["Red", "Plain"],
        "default": "Red",
    }


def test_lists_and_maps_are_typed_and_bounded():
    """Lists name how they merge, and the bounds of text hold for what is inside."""
    assert only(Prop("L.", max_items=2, max_length=5), tuple[str, ...], it=()) == {
        "description": "L.",
        "type": "array",
        "items": {"type": "string", "maxLength": 5},
        "maxItems": 2,
        "x-kubernetes-list-type": "atomic",
    }
    keyed = only(Prop("L.", list_type="map", list_map_keys=("count",), min_items=1), tuple[Inner, ...])
    assert (keyed["x-kubernetes-list-type"], keyed["x-kubernetes-list-map-keys"]) == ("map", ["count"])
    assert (keyed["minItems"], keyed["items"]["properties"]["count"]["default"]) == (1, 3)
    assert only(Prop("M.", max_items=2), Mapping[str, int]) == {
        "description": "M.",
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "maxProperties": 2,
    }


def test_the_users_own_values_keep_their_fields():
    """Opaque objects and values preserve what is unknown; a value may be null."""
    keeps = {"x-kubernetes-preserve-unknown-fields": True}
    assert only(Prop("O."), JsonObject) == {"description": "O.", "type": "object"} | keeps
    assert only(Prop("V."), JsonValue) == {"description": "V.", "nullable": True} | keeps
    assert only(Prop("I."), IntOrString) == {"description": "I.", "x-kubernetes-int-or-string": True}
    assert only(Prop("T."), datetime) == {"description": "T.", "type": "string", "format": "date-time"}


def test_objects_nest_with_whole_defaults_and_rules():
    """A default is whole, because rules see it before its fields are filled in; rules point at a field."""

    @dataclass(frozen=True, kw_only=True)
    class Outer:
        inner: Annotated[Inner, Prop("Inside.")] = field(default_factory=Inner)
        need: Annotated[str, Prop("Needed.", max_length=3)]

        @rule(
            """self.inner.count > 1
               || self.need == 'a'""",
            "one is not enough",
            field="inner.count",
        )
        def enough(self) -> bool:
            return self.inner.count > 1 or self.need == "a"

    schema = schema_of(Outer)
    assert schema["properties"]["inner"]["default"] == {"count": 3}
    assert schema["required"] == ["need"]
    assert schema["x-kubernetes-validations"] == [
        {
            "rule": "self.inner.count > 1 || self.need == 'a'",
            "message": "one is not enough",
            "fieldPath": ".inner.count",
        }
    ]


def test_a_type_that_no_schema_can_say_is_an_error():
    """The list of types is closed."""
    with pytest.raises(TypeError, match="no schema can say"):
        only(Prop("X."), complex)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_everything_that_a_rule_may_look_at_is_bounded(kind):
    """The API server's cost budget holds: each text, list and map of a spec has a greatest size."""
    spec = next(each for each in fields_of(kind.cls) if each.name == "spec").hint
    assert list(unbounded(schema_of(spec), "spec")) == []


def unbounded(schema: dict[str, Any], path: str):
    if schema.get("type") == "string" and "enum" not in schema and "maxLength" not in schema:
        yield path
    if schema.get("type") == "array" and "maxItems" not in schema:
        yield path
    if "additionalProperties" in schema:
        if "maxProperties" not in schema:
            yield path
        yield from unbounded(schema["additionalProperties"], f"{path}[*]")
    if "items" in schema:
        yield from unbounded(schema["items"], f"{path}[]")
    for name, inner in schema.get("properties", {}).items():
        yield from unbounded(inner, f"{path}.{name}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_every_field_is_described(kind):
    """No field of spec or status goes without a sentence that ends in a full stop."""
    fields = {each.name: each.hint for each in fields_of(kind.cls)}
    described = [*descriptions(schema_of(fields["spec"])), *descriptions(schema_of(fields["status"]))]
    assert len(described) > 20
    assert [path for path, text in described if not text.endswith(".")] == []


def descriptions(schema: dict[str, Any], path: str = ""):
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner.get("description", "")
        yield from descriptions(inner, f"{path}.{name}")
        yield from descriptions(inner.get("items", {}), f"{path}.{name}[]")
