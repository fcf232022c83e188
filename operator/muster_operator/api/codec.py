"""JSON ↔ the types of the API, with errors that name the field.

`manifests` calls this for whole objects, the operator for their parts. There are two ways in: tolerant, for
what the API server has already checked (unknown fields are left out, so that an older operator reads a
newer object), and strict, for manifests that no API server sees (what the CRD refuses is refused, with the
same sentences).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypeVar

from .durations import format_duration, parse_duration
from .meta import (
    Field,
    Prop,
    Word,
    element,
    fields_of,
    is_int_or_string,
    is_list,
    is_map,
    is_opaque_object,
    rules_of,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """What is wrong, and at which field (`spec.scaling.maxReplicas`)."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidObject(ValueError):
    """A document is not what its type asks for. `problems` holds all that was found, in the types' order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class _Bad(Exception):
    pass


def decode(cls: type[T], document: Any, *, path: str = "", strict: bool = False) -> T:
    """Return `document`, parsed JSON, as a `cls`, defaults filled in. InvalidObject lists all problems.

    `path` stands before the fields' paths in messages. `strict` refuses unknown fields and what bounds and
    rules refuse; without it only the JSON types must fit.
    """
    decoder = _Decoder(strict=strict)
    try:
        value = decoder.object(cls, document, path)
    except _Bad:
        value = None
    if decoder.problems:
        raise InvalidObject(tuple(decoder.problems))
    assert value is not None
    return value


def changes_refused(old: object, new: object) -> tuple[Problem, ...]:
    """Return what the transition rules of the values' class say against turning `old` into `new`."""
    return tuple(
        Problem(each.field, each.message)
        for each in rules_of(type(new))
        if each.transition and not each.holds(new, old)
    )


def encode(value: Any) -> Any:
    """Return `value` as JSON that `decode` turns into an equal value; what is None or empty is left out."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return str(value)
        case timedelta():
            return format_duration(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Mapping():
            return {key: encode(each) for key, each in value.items()}
        case tuple() | list():
            return [encode(each) for each in value]
    if not is_dataclass(value):
        raise TypeError(f"no JSON can say a {type(value).__name__}")
    given = ((each, getattr(value, each.name)) for each in fields_of(type(value)))
    return {
        field.json_name: encode(each)
        for field, each in given
        if each is not None and not (each in ((), {}) and not field.required)
    }


class _Decoder:
    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []

    def bad(self, path: str, message: str) -> _Bad:
        self.problems.append(Problem(path, message))
        return _Bad()

    def object(self, cls: type[T], document: Any, path: str) -> T:
        if not isinstance(document, Mapping):
            raise self.bad(path, f"must be an object, not {_named(document)}")
        before = len(self.problems)
        fields = fields_of(cls)
        if self.strict:
            self.unknown_fields(document, fields, path)
        values = {}
        for field in fields:
            given = document.get(field.json_name)
            try:
                if given is None and field.required:
                    raise self.bad(_join(path, field.json_name), "is required")
                if given is not None:
                    values[field.name] = self.value(
                        field.hint, field.prop, given, _join(path, field.json_name)
                    )
            except _Bad:
                continue
        if len(self.problems) > before:
            raise _Bad
        value = cls(**values)
        if self.strict:
            self.rules(value, path)
        return value

    def unknown_fields(self, document: Mapping[str, Any], fields: tuple[Field, ...], path: str) -> None:
        known = [field.json_name for field in fields]
        for name in document:
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                self.problems.append(Problem(_join(path, str(name)), f"is no field of this object{hint}"))

    def rules(self, value: Any, path: str) -> None:
        self.problems.extend(
            Problem(_join(path, each.field), each.message)
            for each in rules_of(type(value))
            if not each.transition and not each.holds(value)
        )

    def value(self, hint: Any, prop: Prop, given: Any, path: str) -> Any:
        if hint is Any:
            return given
        if is_opaque_object(hint):
            return self.typed(Mapping, "an object", given, path)
        if is_int_or_string(hint):
            return self.typed((int, str), "an integer or a string", given, path)
        if is_map(hint):
            return self.map(hint, prop, given, path)
        if is_list(hint):
            return self.list(hint, prop, given, path)
        if is_dataclass(hint) and isinstance(hint, type):
            return self.object(hint, given, path)
        return self.scalar(hint, prop, given, path)

    def typed(self, types: Any, name: str, given: Any, path: str) -> Any:
        if not isinstance(given, types) or (isinstance(given, bool) and types is not bool):
            raise self.bad(path, f"must be {name}, not {_named(given)}")
        return given

    def map(self, hint: Any, prop: Prop, given: Any, path: str) -> dict[str, Any]:
        self.typed(Mapping, "an object", given, path)
        self.count(prop, len(given), "entries", path)
        return {
            str(key): self.value(element(hint), prop, each, f"{path}[{key}]") for key, each in given.items()
        }

    def list(self, hint: Any, prop: Prop, given: Any, path: str) -> tuple[Any, ...]:
        self.typed((list, tuple), "a list", given, path)
        self.count(prop, len(given), "items", path)
        return tuple(self.value(element(hint), prop, each, f"{path}[{at}]") for at, each in enumerate(given))

    def count(self, prop: Prop, number: int, what: str, path: str) -> None:
        if self.strict and prop.max_items is not None and number > prop.max_items:
            raise self.bad(path, f"must have at most {prop.max_items} {what}")
        if self.strict and prop.min_items is not None and number < prop.min_items:
            raise self.bad(path, f"must have at least {prop.min_items} {what}")

    def scalar(self, hint: Any, prop: Prop, given: Any, path: str) -> Any:
        if hint is bool:
            return self.typed(bool, "true or false", given, path)
        if hint is int:
            return self.bounded(self.typed(int, "an integer", given, path), prop, path)
        if hint is float:
            return self.bounded(float(self.typed((int, float), "a number", given, path)), prop, path)
        text: str = self.typed(str, "a string", given, path)
        if hint is timedelta:
            return self.duration(text, prop, path)
        if hint is datetime:
            return self.instant(text, path)
        if issubclass(hint, Word):
            try:
                return hint(text)
            except ValueError:
                raise self.bad(path, f"must be one of {', '.join(hint)}, not {text!r}") from None
        if self.strict:
            self.text(text, prop, path)
        return text

    def bounded(self, number: T, prop: Prop, path: str) -> T:
        if self.strict and prop.minimum is not None and number < prop.minimum:  # type: ignore[operator]
            raise self.bad(path, f"must be at least {prop.minimum}, not {number}")
        if self.strict and prop.maximum is not None and number > prop.maximum:  # type: ignore[operator]
            raise self.bad(path, f"must be at most {prop.maximum}, not {number}")
        return number

    def text(self, text: str, prop: Prop, path: str) -> None:
        if prop.min_length is not None and len(text) < prop.min_length:
            raise self.bad(
                path, "must not be empty" if prop.min_length == 1 else f"is shorter than {prop.min_length}"
            )
        if prop.max_length is not None and len(text) > prop.max_length:
            raise self.bad(path, f"must have at most {prop.max_length} characters, not {len(text)}")
        if prop.pattern is not None and re.fullmatch(prop.pattern, text) is None:
            raise self.bad(path, prop.sentence)

    def duration(self, text: str, prop: Prop, path: str) -> timedelta:
        try:
            value = parse_duration(text)
        except ValueError as error:
            raise self.bad(path, str(error)) from None
        if self.strict and prop.at_least is not None and value < prop.at_least:
            raise self.bad(path, f"must be at least {format_duration(prop.at_least)}")
        if self.strict and prop.at_most is not None and value > prop.at_most:
            raise self.bad(path, f"must be at most {format_duration(prop.at_most)}")
        return value

    def instant(self, text: str, path: str) -> datetime:
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            raise self.bad(
                path, f"must be an instant with its offset such as 2026-01-31T08:00:00Z, not {text!r}"
            )
        return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _named(value: Any) -> str:
    match value:
        case None:
            return "null"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return repr(value)
