"""A type of the API as a structural schema, the form in which a CRD tells it to the API server.

`crd` calls this for spec and status. Every rule becomes CEL with its sentence; a pattern too, because the
API server's own words for a pattern are the pattern. Durations get the format `duration`, under which CEL
sees them as durations (`self.drain.timeout >= self.limits.timeLimit`), days included.
"""

from dataclasses import is_dataclass
from datetime import datetime, timedelta
from typing import Any

from . import durations
from .codec import encode
from .meta import (
    Field,
    Prop,
    Rule,
    Word,
    element,
    fields_of,
    is_int_or_string,
    is_list,
    is_map,
    is_opaque_object,
    rules_of,
)

Schema = dict[str, Any]

_SCALARS: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema_of(cls: type) -> Schema:
    """Return the schema of a dataclass, without a description; TypeError if no schema can say it."""
    properties = {each.json_name: _field_schema(each) for each in fields_of(cls)}
    schema: Schema = {"type": "object", "properties": properties}
    if required := [each.json_name for each in fields_of(cls) if each.required]:
        schema["required"] = required
    if rules := rules_of(cls):
        schema["x-kubernetes-validations"] = [validation(each) for each in rules]
    return schema


def validation(rule: Rule) -> Schema:
    """Return one entry of x-kubernetes-validations."""
    entry = {"rule": rule.cel, "message": rule.message}
    return entry | {"fieldPath": f".{rule.field}"} if rule.field else entry


def _field_schema(field: Field) -> Schema:
    schema: Schema = {"description": describe(field)} | _value_schema(field.hint, field.prop)
    default = encode(field.default)  # objects whole: rules see a default before its fields are filled in
    if default is not None and (is_dataclass(field.hint) or default not in ([], {})):
        schema["default"] = default
    return schema


def describe(field: Field) -> str:
    """Return the field's description, with those of its words that need one."""
    if isinstance(field.hint, type) and issubclass(field.hint, Word):
        return " ".join(
            [
                field.prop.description,
                *(f"{word.value}: {word.meaning}" for word in field.hint if word.meaning),
            ]
        )
    return field.prop.description


def _value_schema(hint: Any, prop: Prop) -> Schema:
    schema: Schema
    if hint is Any:
        return {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    if is_opaque_object(hint):
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if is_int_or_string(hint):
        return {"x-kubernetes-int-or-string": True}
    if is_map(hint):
        schema = {"type": "object", "additionalProperties": _value_schema(element(hint), prop)}
        return schema | _given(maxProperties=prop.max_items, minProperties=prop.min_items)
    if is_list(hint):
        schema = {"type": "array", "items": _value_schema(element(hint), prop)}
        schema |= _given(maxItems=prop.max_items, minItems=prop.min_items)
        schema["x-kubernetes-list-type"] = prop.list_type
        return schema | _given(**{"x-kubernetes-list-map-keys": list(prop.list_map_keys) or None})
    if is_dataclass(hint):
        return schema_of(hint) if isinstance(hint, type) else {}
    if hint is timedelta:
        schema = {"type": "string", "format": "duration", "pattern": durations.PATTERN}
        schema |= {"minLength": durations.MIN_LENGTH, "maxLength": durations.MAX_LENGTH}
        return schema | _validations(prop)
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    if isinstance(hint, type) and issubclass(hint, Word):
        return {"type": "string", "enum": [word.value for word in hint]}
    if hint in _SCALARS:
        schema = {"type": _SCALARS[hint]}
        schema |= _given(minimum=prop.minimum, maximum=prop.maximum)
        schema |= _given(minLength=prop.min_length, maxLength=prop.max_length)
        return schema | _validations(prop)
    raise TypeError(f"no schema can say {hint!r}: see the list at the head of meta.py")


def _validations(prop: Prop) -> Schema:
    found = []
    if prop.pattern is not None:
        found.append({"rule": f"self.matches(r'{prop.pattern}')", "message": prop.sentence})
    for bound, sign, words in ((prop.at_least, ">=", "at least"), (prop.at_most, "<=", "at most")):
        if bound is not None:
            rule = f"self {sign} duration('{bound // timedelta(milliseconds=1)}ms')"
            found.append({"rule": rule, "message": f"must be {words} {durations.format_duration(bound)}"})
    return {"x-kubernetes-validations": found} if found else {}


def _given(**entries: Any) -> Schema:
    return {key: value for key, value in entries.items() if value is not None}
