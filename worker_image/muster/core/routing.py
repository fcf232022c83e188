"""From a task's name to the options it is sent with: Celery's `task_routes`. Called by the publishing code.

A table is a mapping (or list of pairs) of name, glob or compiled pattern to a queue's name or a mapping of
options, or a function `(name, args, kwargs, options, task=None)` that returns either, or None. The first
table that has an answer gives it. Exact names come before patterns within one table.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Route: TypeAlias = dict[str, Any]
Router: TypeAlias = Callable[..., Any]


def _as_route(answer: Any) -> Route | None:
    if answer is None:
        return None
    return {"queue": answer} if isinstance(answer, str) else dict(answer)


class RouteTable:
    """One mapping of names and patterns."""

    def __init__(self, entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self._exact: dict[str, Any] = {}
        # by pattern: of two globs that mean the same, such as * and **, the last one's route holds
        self._patterns: dict[re.Pattern[str], Any] = {}
        for name, route in entries.items() if isinstance(entries, Mapping) else entries:
            if isinstance(name, re.Pattern):
                self._patterns[name] = route
            elif any(sign in name for sign in "*?["):
                self._patterns[re.compile(fnmatch.translate(name))] = route
            else:
                self._exact[name] = route

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        """Return the route of this name, or None."""
        if name in self._exact:
            return self._exact[name]
        return next((route for pattern, route in self._patterns.items() if pattern.match(name)), None)


def routers(routes: Any) -> list[Router]:
    """Return the tables of a `task_routes` setting: None, one table, or a sequence of them."""
    if routes is None:
        return []
    # a list of pairs is one table, a list of anything else a list of tables
    if not isinstance(routes, Sequence) or isinstance(routes, str) or _is_pairs(routes):
        routes = [routes]
    return [route if callable(route) else RouteTable(route) for route in routes]


def _is_pairs(routes: Sequence[Any]) -> bool:
    return bool(routes) and all(
        isinstance(route, tuple) and len(route) == 2 and isinstance(route[0], str | re.Pattern)
        for route in routes
    )


def route(tables: Sequence[Router], name: str, args: Any, kwargs: Any, options: Route, task: Any) -> Route:
    """Return the options of the first table that knows the task, or {}."""
    for table in tables:
        found = _as_route(table(name, args, kwargs, options, task=task))
        if found is not None:
            return found
    return {}
