"""The vocabulary in which the resources are written down, and how to read a type written in it.

The kinds' files use `Prop`, `Word`, `rule` and `transition`; `schema`, `codec` and `reference` read the
result by `fields_of` and `rules_of`. The types that a field may have are a closed list: bool, int, float,
str, `timedelta`, aware `datetime`, `Word`, another such dataclass, `tuple[X, ...]`, `Mapping[str, X]`, and
`JsonValue`, `JsonObject` and `IntOrString` for what is the user's own. A need beyond that changes the
field, not this file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

JsonValue: TypeAlias = Any
"""Whatever JSON holds; for a user's own values, which pass through untouched."""

JsonObject: TypeAlias = Mapping[str, Any]
"""An object of the user's own; the schema keeps its unknown fields."""

IntOrString: TypeAlias = int | str

INITIALISMS = {"ttl": "TTL"}


class Word(StrEnum):
    """A word of the API and, unless it speaks for itself, what it means; users read both in the reference."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One impossibility: `cel` for the API server, and the method that carries it for Python.

    A transition also sees the object as it was (`oldSelf` in CEL, the method's argument in Python).
    """

    name: str
    cel: str
    message: str
    field: str
    """JSON name, dotted if nested, of the field that the message points at; empty for the object itself."""
    transition: bool
    holds: Callable[..., bool]


@dataclass(frozen=True)
class Prop:
    """What the schema and the reference page say of a field beyond its type. Bounds include their ends."""

    description: str
    minimum: float | None = None
    maximum: float | None = None
    at_least: timedelta | None = None
    at_most: timedelta | None = None
    pattern: str | None = None
    """Of a string, of a list's strings, of a map's values."""
    sentence: str = ""
    """What a user reads whose text does not match `pattern`; needed with it."""
    min_length: int | None = None
    max_length: int | None = None
    """Of a string, of a list's strings, of a map's values."""
    min_items: int | None = None
    max_items: int | None = None
    """Of a list or a map."""
    list_type: Literal["atomic", "set", "map"] = "atomic"
    list_map_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """A pattern without a sentence is a mistake in a type: users would read a regular expression."""
        if bool(self.pattern) != bool(self.sentence):
            raise TypeError(f"pattern and sentence go together: {self}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a type, read once."""

    name: str
    json_name: str
    prop: Prop
    hint: Any
    """The type without `Annotated` and without `| None`."""
    optional: bool
    """None stands for 'not given'."""
    required: bool
    default: Any
    """The default's value; None when there is none."""


_Method = TypeVar("_Method", bound=Callable[..., bool])


def rule(cel: str, message: str, *, field: str = "") -> Callable[[_Method], _Method]:
    """Say that the decorated method, and `cel` on the API server, must be true of every value of the class.

    `message` is the sentence that a user reads; `field` names the field that it points at, dotted if nested.
    """
    return _mark(cel, message, field, transition=False)


def transition(cel: str, message: str, *, field: str = "") -> Callable[[_Method], _Method]:
    """Say that the decorated method of the new value, given the old one, must be true of every change."""
    return _mark(cel, message, field, transition=True)


def _mark(cel: str, message: str, field: str, *, transition: bool) -> Callable[[_Method], _Method]:
    def mark(method: _Method) -> _Method:
        found = Rule(
            name=method.__name__,
            cel=" ".join(cel.split()),
            message=message,
            field=field,
            transition=transition,
            holds=method,
        )
        method.__rule__ = found  # type: ignore[attr-defined]  # the place of the mark is ours
        return method

    return mark


def fields_of(cls: Any) -> tuple[Field, ...]:
    """Return the fields of a dataclass in their order."""
    return _fields(cls)


@cache
def _fields(cls: Any) -> tuple[Field, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(
        _field(each.name, hints[each.name], each.default, each.default_factory) for each in fields(cls)
    )


def _field(name: str, hint: Any, default: Any, factory: Any) -> Field:
    prop = Prop("")
    if get_origin(hint) is Annotated:
        hint, prop, *_ = get_args(hint)
    optional = False
    if get_origin(hint) in {Union, UnionType} and NoneType in get_args(hint):
        rest = [each for each in get_args(hint) if each is not NoneType]
        optional, hint = True, rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 - built at run time
    return Field(
        name=name,
        json_name=json_name(name),
        prop=prop,
        hint=hint,
        optional=optional,
        required=default is MISSING and factory is MISSING,
        default=default if default is not MISSING else factory() if factory is not MISSING else None,
    )


def json_name(name: str) -> str:
    """Return the JSON spelling of a Python name: `message_ttl` is `messageTTL`, `from_` is `from`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(INITIALISMS.get(word, word.capitalize()) for word in rest)


def rules_of(cls: type) -> tuple[Rule, ...]:
    """Return the rules that a class and its bases carry, in the order in which they are written."""
    return tuple(_rules(cls))


def _rules(cls: type) -> Iterator[Rule]:
    for base in reversed(cls.__mro__):
        for member in vars(base).values():
            found = getattr(member, "__rule__", None)
            if isinstance(found, Rule):
                yield found


def is_opaque_object(hint: Any) -> bool:
    """Whether the type is `JsonObject`."""
    return get_origin(hint) is Mapping and get_args(hint)[1] is Any


def is_map(hint: Any) -> bool:
    """Whether the type is `Mapping[str, X]`, opaque or not."""
    return get_origin(hint) is Mapping


def is_list(hint: Any) -> bool:
    """Whether the type is `tuple[X, ...]`."""
    return get_origin(hint) is tuple


def is_int_or_string(hint: Any) -> bool:
    """Whether the type is `IntOrString`."""
    return get_origin(hint) in {Union, UnionType} and set(get_args(hint)) == {int, str}


def element(hint: Any) -> Any:
    """Return the type of a list's items or of a map's values."""
    return get_args(hint)[1] if is_map(hint) else get_args(hint)[0]
