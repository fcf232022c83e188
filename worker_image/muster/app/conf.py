"""`app.conf`: the application's configuration, by attribute or key, under Celery's names old and new.

What the user gives is kept as given and resolved by `muster.settings` when it is first read after a change;
sources named by `config_from_object` are read then too, so that a settings module may import the
application. Names that are no settings and do not look like one are the user's own and simply kept.
"""

import importlib
import os
from collections.abc import Iterator, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any, Final

from muster import settings
from muster.errors import ConfigurationError

_ENVIRONMENT: Final = {"CELERY_BROKER_URL": "broker_url", "CELERY_RESULT_BACKEND": "result_backend"}
"""Celery's two variables, which go before the application's own configuration."""


class Conf(MutableMapping[str, Any]):
    """A mapping with attribute access. `version` grows with each change."""

    __slots__ = ("_given", "_overrides", "_resolved", "_sources", "version")

    _given: dict[str, Any]
    _overrides: dict[str, Any]
    _sources: list[tuple[Any, str]]
    _resolved: settings.Settings | None
    version: int

    def __init__(self) -> None:
        object.__setattr__(self, "version", -1)
        object.__setattr__(self, "_given", {})
        object.__setattr__(self, "_overrides", {})
        object.__setattr__(self, "_sources", [])
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "_resolved", None)
        object.__setattr__(self, "version", self.version + 1)

    def add_source(self, source: Any, namespace: str) -> None:
        """Add the settings of an object, or of what a name (`module`, `module:attribute`) leads to."""
        self._sources.append((source, namespace))
        self._changed()

    def override(self, values: Mapping[str, Any]) -> None:
        """Let these go before everything the application says: the command line, the manifest."""
        self._overrides.update(values)
        self._changed()

    @property
    def given(self) -> dict[str, Any]:
        """What the application has set, under the names it chose."""
        if self._sources:
            sources = list(self._sources)
            self._sources.clear()
            read: dict[str, Any] = {}
            for source, namespace in sources:
                found = _find(source) if isinstance(source, str) else source
                read.update(settings.from_object(found, namespace=namespace))
            # what was set on `conf` itself was meant to stay
            object.__setattr__(self, "_given", {**read, **self._given})
        return self._given

    @property
    def settings(self) -> settings.Settings:
        """All settings, with defaults and origins. Raises ConfigurationError for values that cannot work."""
        resolved = self._resolved
        if resolved is None:
            environment = {name: os.environ[key] for key, name in _ENVIRONMENT.items() if os.environ.get(key)}
            # as attributes of an object, so that names of the user's own are left out and misspellings found
            resolved = settings.resolve(settings.from_object(SimpleNamespace(**self.given)))
            resolved = settings.resolve(environment, source="environment", base=resolved)
            resolved = settings.resolve(self._overrides, source="command line", base=resolved)
            object.__setattr__(self, "_resolved", resolved)
        return resolved

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(self.settings, name)
        except AttributeError:
            if name in self.given:
                return self.given[name]
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._given[name] = value
        self._changed()

    def __delitem__(self, name: str) -> None:
        del self.given[name]
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter({**dict(self.settings.items()), **self.given})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:  # names only: values may be secret
        return f"<Conf: {', '.join(sorted(self._given)) or 'defaults'}>"


def _find(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, attribute) if attribute else module
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the configuration {name!r} cannot be read: {error}; name a module that can be imported"
        ) from error
