"""docs/reference/resources.md: the resources for people, made of the same types as the CRDs.

`generate` writes it down. One table a kind for what is written and one for what is read, every
impossibility with its sentence, and every condition and reason with its meaning.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from .codec import encode
from .conditions import ConditionType, Reason
from .durations import FORM, format_duration
from .kind import Kind
from .meta import (
    Field,
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
from .names import API_VERSION, CATEGORY
from .schema import describe

_NAMES: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    timedelta: "duration",
    datetime: "time",
    Any: "any",
}

INTRODUCTION = (
    f"All are `{API_VERSION}` and live in a namespace; `kubectl get {CATEGORY}` lists every kind. "
    f"A field without a default may be left out unless it is required. {FORM[0].upper()}{FORM[1:]}; "
    "`d` is 24 hours.\n\n"
    "A client that asks for strict validation, as `kubectl apply` does by default, has unknown fields "
    "refused by name. For other clients the API server drops them, as it does for every resource, and warns."
)


def reference_page(kinds: Sequence[Kind], command: str) -> str:
    """Return the page as Markdown."""
    parts = [
        f"<!-- Made of operator/muster_operator/api by `{command}`. Change the types, not this file. -->",
        "# Resources",
        INTRODUCTION,
        *(part for kind in kinds for part in _kind(kind)),
        "## Conditions",
        _table(("Type", "True means"), ((f"`{word}`", word.meaning) for word in ConditionType)),
        "## Reasons",
        "The reason says why a condition has its status, the message names object, field and remedy.",
        _table(("Reason", "Meaning"), ((f"`{word}`", word.meaning) for word in Reason)),
    ]
    return "\n\n".join(parts) + "\n"


def _kind(kind: Kind) -> Iterator[str]:
    types = get_type_hints(kind.cls)
    yield f"## {kind.name}"
    yield f"{kind.cls.__doc__} Short name `{kind.short_name}`."
    yield f"### {kind.name} spec"
    head = ("Field", "Type", "Default", "Meaning")
    yield _table(head, (_row(path, field) for path, field in _walk(types["spec"], "")))
    refused = [*_rules(kind.cls, ""), *_walk_rules(types["spec"], "spec")]
    if refused:
        yield "Refused, with these words:"
        yield _table(
            ("Field", "Sentence"),
            ((f"`{path or 'metadata.name'}`", _safe(rule.message)) for path, rule in refused),
        )
    yield f"### {kind.name} status"
    yield str(types["status"].__doc__)
    rows = ((f"`{path}`", _type(field), _safe(describe(field))) for path, field in _walk(types["status"], ""))
    yield _table(("Field", "Type", "Meaning"), rows)


def _walk(cls: type, path: str) -> Iterator[tuple[str, Field]]:
    for field in fields_of(cls):
        here = f"{path}{field.json_name}"
        yield here, field
        if (inner := _inner(field)) is not None:
            yield from _walk(inner, f"{here}[]." if is_list(field.hint) else f"{here}.")


def _walk_rules(cls: type, path: str) -> Iterator[tuple[str, Rule]]:
    yield from _rules(cls, path)
    for field in fields_of(cls):
        if (inner := _inner(field)) is not None:
            yield from _walk_rules(inner, f"{path}.{field.json_name}{'[]' if is_list(field.hint) else ''}")


def _rules(cls: type, path: str) -> Iterator[tuple[str, Rule]]:
    for rule in rules_of(cls):
        yield ".".join(filter(None, (path, rule.field))), rule


def _inner(field: Field) -> type | None:
    hint = element(field.hint) if is_list(field.hint) else field.hint
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _row(path: str, field: Field) -> tuple[str, ...]:
    default = "required" if field.required else _default(field)
    limits = ", ".join(_limits(field))
    return f"`{path}`", _type(field), default, _safe(describe(field) + (f" ({limits})" if limits else ""))


def _default(field: Field) -> str:
    if field.default is None or is_dataclass(field.hint) or field.default in ((), {}):
        return ""
    value = encode(field.default)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limits(field: Field) -> Iterator[str]:
    prop = field.prop
    if prop.minimum is not None and prop.maximum is not None:
        yield f"{prop.minimum:,} to {prop.maximum:,}"
    elif prop.minimum is not None and prop.minimum != 0:
        yield f"at least {prop.minimum:,}"
    if prop.at_least is not None:
        yield f"at least {format_duration(prop.at_least)}"
    if prop.at_most is not None:
        yield f"at most {format_duration(prop.at_most)}"
    if prop.max_items is not None and (is_list(field.hint) or is_map(field.hint)):
        yield f"at most {prop.max_items}"


def _type(field: Field) -> str:
    return _type_name(field.hint)


def _type_name(hint: Any) -> str:
    if is_opaque_object(hint) or is_dataclass(hint):
        return "object"
    if is_int_or_string(hint):
        return "integer or string"
    if is_map(hint):
        return f"map of {_type_name(element(hint))}s"
    if is_list(hint):
        return f"list of {_type_name(element(hint))}s" if element(hint) is not Any else "list"
    if isinstance(hint, type) and issubclass(hint, Word):
        return " \\| ".join(f"`{word}`" for word in hint)
    return _NAMES[hint]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*/", "\\*/").replace(" * ", " \\* ")
