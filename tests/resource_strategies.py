"""Hypothesis strategies for the resources, made of their types: values, and manifests that may be wrong.

`values` draws whatever a type can hold. `attempts` draws what a person might write: what a type says of a
field (its bounds, its words) is where the interesting values lie, so it draws from on and beside these.
"""

import re
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from muster_operator.api.durations import LONGEST, format_duration
from muster_operator.api.manifests import KINDS
from muster_operator.api.meta import (
    Field,
    Word,
    element,
    fields_of,
    is_int_or_string,
    is_list,
    is_map,
    is_opaque_object,
)
from resources import API_VERSION, Manifest, schedule, task_queue, worker_pool

_MILLISECOND = timedelta(milliseconds=1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
DURATIONS = st.integers(0, LONGEST // _MILLISECOND).map(lambda count: count * _MILLISECOND)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
_OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), JSON, max_size=3)
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    bool: st.booleans(),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=8),
    timedelta: DURATIONS,
    datetime: INSTANTS,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type of the API, whatever its bounds and rules say."""
    if hint is Any:
        return JSON
    if is_dataclass(hint):
        return st.builds(hint, **{each.name: _field_values(each) for each in fields_of(hint)})
    if is_opaque_object(hint):
        return _OBJECTS
    if is_int_or_string(hint):
        return _SCALARS[int] | _SCALARS[str]
    if is_map(hint):
        return st.dictionaries(st.text(min_size=1, max_size=5), values(element(hint)), max_size=2)
    if is_list(hint):
        return st.lists(values(element(hint)), max_size=2).map(tuple)
    if isinstance(hint, type) and issubclass(hint, Word):
        return st.sampled_from(list(hint))
    return _SCALARS[hint]


def _field_values(field: Field) -> st.SearchStrategy[Any]:
    return values(field.hint) | st.none() if field.optional else values(field.hint)


_TEXTS = st.sampled_from(
    ["", "Mail", "a,b", "muster.x", "unacked", "mail.dead", "300 MB", "often", "x" * 254]
)
_CRONS = ["* * * * *", "@hourly", "@yearly", "*/5  8-18 1,15 jan-mar mon-fri", "0 8 * * *"]
_NO_CRONS = ["0 8 * *", "TZ=UTC 0 8 * * *", "", "@reboot", "* * * * * *", "* * * * *\n"]
_ZONES = ["Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"]
_NO_ZONES = ["TZ=UTC", "+01:00", "", "europe/berlin"]
_DURATIONS = [
    "1s",
    "59s",
    "1m",
    "60000ms",
    "90m",
    "1h30m",
    "1d",
    "24h",
    "1d12h",
    "36h",
    "7d",
    "168h",
    "8d",
    "1d500ms",
    format_duration(LONGEST),
]
_NO_DURATIONS = ["0s", "999ms", "", "1w", "90", "1.5h", "-1s", "1h 30m", "5M", "1m1h", "1d ", "1µs"]


def attempts() -> st.SearchStrategy[Manifest]:
    """Manifests of all kinds: plausible ones, some of them wrong at a place that a person could get wrong."""
    smallest = (task_queue(), worker_pool(), schedule(every="1m"), schedule(schedule="@daily"))
    return st.one_of(*(_attempts(each) for each in smallest))


@st.composite
def _attempts(draw: st.DrawFn, smallest: Manifest) -> Manifest:
    kind = smallest["kind"]
    cls = next(each.cls for each in KINDS if each.name == kind)
    spec = next(each for each in fields_of(cls) if each.name == "spec")
    drawn = draw(_parts(spec.hint, required=draw(_rarely())))
    kept = {} if draw(_rarely()) else smallest["spec"]
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": draw(_mostly(["mail", "a" * 63], ["muster.mail", "b" * 64]))},
        "spec": kept | drawn,
    }


def _rarely() -> st.SearchStrategy[bool]:
    return st.integers(0, 19).map(lambda drawn: drawn == 19)


def _mostly(right: list[Any], wrong: list[Any]) -> st.SearchStrategy[Any]:
    return _rarely().flatmap(lambda now: st.sampled_from(wrong if now and wrong else right))


@st.composite
def _parts(draw: st.DrawFn, cls: Any, *, required: bool = True) -> dict[str, Any]:
    fields = fields_of(cls)
    optional = [each for each in fields if not each.required]
    chosen = draw(st.lists(st.sampled_from(optional), max_size=4)) if optional else []
    forced = [each for each in fields if each.required] if required and not draw(_rarely()) else []
    return {each.json_name: draw(_written(each)) for each in fields if each in forced or each in chosen}


def _written(field: Field, hint: Any = None) -> st.SearchStrategy[Any]:
    hint, prop = hint or field.hint, field.prop
    if is_dataclass(hint):
        return _parts(hint)
    if is_opaque_object(hint):
        return _OBJECTS
    if hint is Any:
        return JSON
    if is_int_or_string(hint):
        return _mostly(["Auto", 1, 10_000], ["auto", 0, 10_001])
    if is_map(hint):
        return st.dictionaries(st.sampled_from(["a.b", "c"]), _written(field, element(hint)), max_size=2)
    if is_list(hint):
        return st.lists(_written(field, element(hint)), min_size=1, max_size=3)
    if isinstance(hint, type) and issubclass(hint, Word):
        return _mostly([str(word) for word in hint], ["Nothing", ""])
    if hint is timedelta:
        near = [each for each in (prop.at_least, prop.at_most) if each is not None]
        on = [format_duration(each) for each in near]
        beside = [format_duration(each + step) for each in near for step in (-_MILLISECOND, _MILLISECOND)]
        return _mostly([*_DURATIONS, *on], [*_NO_DURATIONS, *beside])
    if hint in {int, float}:
        near = [int(each) for each in (prop.minimum, prop.maximum) if each is not None]
        inside = [each for each in (1, 2, 3, 9, 10, 11) if min(near) <= each <= max(near)]
        return _mostly([*near, *inside, *inside], [min(near) - 1, max(near) + 1, "3", True])
    if hint is bool:
        return _mostly([True, False], ["true", 0])
    if field.name in {"schedule", "until"}:
        return _mostly(_CRONS, _NO_CRONS)
    if field.name == "time_zone":
        return _mostly(_ZONES, _NO_ZONES)
    plausible = st.sampled_from(["mail", "mail.dead", "default", "a"])
    if prop.pattern is not None:
        plausible = st.from_regex(re.compile(prop.pattern, re.ASCII), fullmatch=True) | plausible
    return _rarely().flatmap(lambda now: _TEXTS if now else plausible)
