"""What a type of the API is made of: fields described by `Prop`, impossibilities by `rule`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

JsonValue: TypeAlias = Any
"""Whatever JSON holds; for a user's own values, which pass through untouched."""

JsonObject: TypeAlias = Mapping[str, Any]
"""An object of the user's own; the schema keeps its unknown fields."""

IntOrString: TypeAlias = int | str

MAX_LENGTH = 253
MAX_ITEMS = 64


@dataclass(frozen=True)
class Prop:
    """What the schema and the reference page say of a field beyond its type."""

    description: str
    _: Any = None
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    """Of a string; of the values of a map of strings."""
    min_items: int | None = None
    max_items: int | None = None
    """Of a list or a map."""
    list_type: Literal["atomic", "set", "map"] = "atomic"
    list_map_keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One impossibility: `cel` for the API server, and the method that it decorates for Python."""

    cel: str
    message: str
    field: str = ""


Method = TypeVar("Method", bound=Callable[..., bool])


def rule(cel: str, message: str, *, field: str = "") -> Callable[[Method], Method]:
    """Say that the decorated method must return True, and `cel` be true, of every value of the class.

    `message` is the sentence that a user reads; `field` is the JSON name of the field it points at.
    """

    def mark(method: Method) -> Method:
        method.__rule__ = Rule(cel=cel, message=message, field=field)  # type: ignore[attr-defined]
        return method

    return mark
