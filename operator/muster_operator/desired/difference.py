"""Whether a child in the cluster still is what we want.

`decide` asks before it plans an apply, so that a steady cluster is not written to. The API server fills in
defaults, drops empty values and rewrites quantities; none of that is a difference. What others added is
theirs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muster_operator.api.names import ANNOTATION_APPLIED

from .quantity import parse_quantity

_QUANTITY_PARENTS = ("limits", "requests", "sizeLimit")


def is_as_wanted(wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """Return whether nothing of `wanted` is missing or different in `seen`, and `wanted` was applied last."""
    return next(differences(wanted, seen), None) is None


def differences(wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of each value of `wanted` that `seen` has not.

    The hash of what was applied last is one of the values, so a field that we no longer want counts too.
    """
    return _differences(wanted, seen, "")


def applied_hash(manifest: Mapping[str, Any]) -> str:
    """Return the hash that a manifest or child carries of what it was made of; empty when it has none."""
    return str(((manifest.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION_APPLIED, ""))


def _differences(wanted: Any, seen: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping):
        held = seen if isinstance(seen, Mapping) else {}
        for key, value in wanted.items():
            yield from _differences(value, held.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(wanted, list):
        yield from _list_differences(wanted, seen if isinstance(seen, list) else [], path)
    elif not _same(wanted, seen, path):
        yield path


def _list_differences(wanted: Sequence[Any], seen: Sequence[Any], path: str) -> Iterator[str]:
    if wanted and all(isinstance(item, Mapping) and "name" in item for item in wanted):
        by_name = {item.get("name"): item for item in seen if isinstance(item, Mapping)}
        for item in wanted:
            yield from _differences(item, by_name.get(item["name"]), f"{path}[{item['name']}]")
    elif len(wanted) != len(seen):
        yield path
    else:
        for index, (mine, theirs) in enumerate(zip(wanted, seen, strict=True)):
            yield from _differences(mine, theirs, f"{path}[{index}]")


def _same(wanted: Any, seen: Any, path: str) -> bool:
    if wanted == seen or (not wanted and seen is None):
        return True
    if any(f".{parent}" in path for parent in _QUANTITY_PARENTS):
        amount = parse_quantity(wanted)
        return amount is not None and amount == parse_quantity(seen)
    return False
