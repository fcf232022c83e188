"""Settings: Celery's names, read from an application's configuration. Callers: the application, the worker.

`resolve` turns a mapping into frozen `Settings` that know where each value came from. Nothing here reads
the environment, files or the clock; `muster.settings.environment` is the worker's environment contract.
"""

from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from muster.errors import ConfigurationError
from muster.settings.table import BY_NAME, BY_OLD_NAME, TABLE, Setting, Standing

__all__ = ["Settings", "Standing", "from_object", "known", "resolve"]

_FAMILIES = (
    "task_",
    "worker_",
    "broker_",
    "result_",
    "beat_",
    "celery_",
    "celeryd_",
    "celerybeat_",
    "muster_",
)


class Settings:
    """Values by Celery's lower-case names, as attributes; frozen. What was not set has its default."""

    __slots__ = ("_origins", "_values")

    def __init__(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_origins", dict(origins))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            pass
        setting = BY_NAME.get(name) or BY_OLD_NAME.get(name)
        if setting is None:
            raise AttributeError(_unknown(name))
        return self._values.get(setting.name, setting.default)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen: resolve {name} anew")

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings, (self._values, self._origins)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # values may be mappings

    def __repr__(self) -> str:
        return (
            f"<Settings: {', '.join(sorted(self._values)) or 'defaults'}>"  # names only: values may be secret
        )

    def origin(self, name: str) -> str:
        """Return where the value of `name` came from: the source given to `resolve`, or `default`."""
        origin: str = self._origins.get(name, "default")
        return origin

    def items(self) -> Iterator[tuple[str, Any]]:
        """Every name of the table with its value."""
        return ((setting.name, self._values.get(setting.name, setting.default)) for setting in TABLE)

    def given(self) -> dict[str, Any]:
        """What was set, without the defaults."""
        return dict(self._values)

    def without_effect(self) -> list[Setting]:
        """What was set and does nothing here; each row's note says why."""
        return [BY_NAME[name] for name in self._values if BY_NAME[name].standing is Standing.ACCEPTED]


def known(name: str) -> Setting | None:
    """Return the row of a name, in its new or its old upper-case form; None when there is none."""
    return BY_NAME.get(name) or BY_OLD_NAME.get(name)


def resolve(
    mapping: Mapping[str, Any], *, source: str = "application", base: Settings | None = None
) -> Settings:
    """Return settings from `mapping` over `base` over the defaults. Old upper-case names count as new ones.

    Raises ConfigurationError, naming `source` and the setting: unknown (with the nearest known), twice
    under two names, of a wrong type, or refused (with what to do instead).
    """
    values = base.given() if base else {}
    origins = {name: base.origin(name) for name in values} if base else {}
    seen: dict[str, str] = {}
    for name, value in mapping.items():
        setting = known(name) if isinstance(name, str) else None
        if setting is None:
            raise ConfigurationError(f"{source}: {_unknown(name)}")
        other = seen.setdefault(setting.name, name)
        if other != name and mapping[other] != value:
            raise ConfigurationError(
                f"{source}: {other} and {name} are one setting and differ; keep {setting.name}"
            )
        if value is None and not setting.none and setting.default is not None:
            values.pop(setting.name, None)  # None asks for the default
            origins.pop(setting.name, None)
            continue
        values[setting.name] = _read(setting, name, value, source)
        origins[setting.name] = source
    return Settings(values, origins)


def _read(setting: Setting, name: str, value: Any, source: str) -> Any:
    if value is None:
        return None
    try:
        value = setting.kind.read(value)
        if setting.check is not None:
            setting.check(value)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {name} {error}") from None
    if setting.standing is Standing.REFUSED and value != setting.default:
        raise ConfigurationError(f"{source}: {name} cannot be honoured. {setting.note}")
    return value


def _unknown(name: Any) -> str:
    if not isinstance(name, str):
        return f"a setting's name is a text, not {name!r}"
    import difflib  # for this error only

    upper = name.isupper()
    near = difflib.get_close_matches(name, BY_OLD_NAME if upper else BY_NAME, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else "see docs/reference/settings.md"
    return f"there is no setting {name!r}; {hint}"


def from_object(source: Any, *, namespace: str = "") -> dict[str, Any]:
    """Return the settings that stand in a mapping, module, class or object, for `resolve`.

    With `namespace="CELERY"` (Django) these are the names `CELERY_…`. Without one, a mapping is taken as
    it is; of other objects those attributes that are settings or look like one, so that misspellings are
    found and helpers of the user's own are not taken for settings.
    """
    if isinstance(source, Mapping):
        names = {str(name): value for name, value in source.items()}
    else:
        names = {name: getattr(source, name) for name in dir(source) if not name.startswith("_")}
    if namespace:
        prefix = f"{namespace}_"
        return {_within(name, prefix): value for name, value in names.items() if name.startswith(prefix)}
    if isinstance(source, Mapping):
        return names
    return {name: value for name, value in names.items() if known(name) or _looks_like_one(name, value)}


def _within(name: str, prefix: str) -> str:
    bare = name.removeprefix(prefix).lower()
    return bare if bare in BY_NAME or name not in BY_OLD_NAME else name


def _looks_like_one(name: str, value: Any) -> bool:
    helper = isinstance(value, ModuleType | FunctionType | BuiltinFunctionType | MethodType | type)
    return not helper and name.lower().startswith(_FAMILIES)
