"""From what `-A` says to the user's application and its executor. Callers: the worker, beat, commands.

The only place where a name given by a user leads to an import.
"""

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from muster.app.app import Muster
from muster.app.execution import Execution
from muster.core.policy import TaskPolicy
from muster.errors import ConfigurationError

_ATTRIBUTES: Final = ("app", "celery", "muster")
_SUBMODULES: Final = ("celery", "muster", "app", "tasks")


def load(app_path: str) -> Muster:
    """Return the application that `module`, `module:attribute`, `module.attribute` or `package` names.

    A module without an attribute is searched for `app`, `celery` and `muster`, then for any one application,
    then its submodules `celery`, `muster`, `app` and `tasks` are. Raises ConfigurationError in one line.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module_name, _, attribute = app_path.partition(":")
    if not module_name:
        raise ConfigurationError(f"-A {app_path!r} names no module: write module or module:attribute")
    module = _import(app_path, module_name)
    if module is None:  # `package.module.attribute`, as Celery takes it
        module_name, _, attribute = module_name.rpartition(".")
        module = _import(app_path, module_name) if module_name else None
        if module is None:
            raise ConfigurationError(
                f"-A {app_path!r}: there is no module {(module_name or app_path)!r} here; "
                f"start from the folder that contains it, or set PYTHONPATH (here: {Path.cwd()})"
            )
    if attribute:
        found = _attribute(app_path, module, attribute)
        if isinstance(found, ModuleType):
            return _search(app_path, found)
        if not isinstance(found, Muster):
            raise ConfigurationError(
                f"-A {app_path!r}: {module_name}.{attribute} is {_article(found)}, not a Muster application"
            )
        return found
    return _search(app_path, module)


def _import(app_path: str, name: str) -> ModuleType | None:
    """Return a module, None when there is no such one. Raises ConfigurationError for one that breaks."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise _broken(app_path, name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a module that leaves is not an application
        raise _broken(app_path, name, error) from error


def _broken(app_path: str, name: str, error: BaseException) -> ConfigurationError:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if "importlib" not in frame[0] and frame[0] != __file__]
    where = f" ({own[-1][0]}, line {own[-1][1]})" if own else ""
    text = " ".join(str(error).split())
    return ConfigurationError(
        f"-A {app_path!r}: importing {name} raises {type(error).__name__}: {text}{where}; mend that first"
    )


def _attribute(app_path: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"-A {app_path!r}: {module.__name__} has no {path!r}: "
                "name the variable that holds the application"
            ) from None
    return found


def _search(app_path: str, module: ModuleType) -> Muster:
    found = _in_module(module)
    if found is not None:
        return found
    if hasattr(module, "__path__"):
        existing = {each.name for each in pkgutil.iter_modules(module.__path__)}
        for name in _SUBMODULES:
            if name in existing:
                submodule = _import(app_path, f"{module.__name__}.{name}")
                found = None if submodule is None else _in_module(submodule)
                if found is not None:
                    return found
    raise ConfigurationError(
        f"-A {app_path!r}: {module.__name__} holds no Muster application under {', '.join(_ATTRIBUTES)}; "
        "make one (app = Muster(...)), or name its variable: module:variable"
    )


def _in_module(module: ModuleType) -> Muster | None:
    for name in _ATTRIBUTES:
        found = getattr(module, name, None)
        if isinstance(found, Muster):
            return found
    apps = {id(value): value for value in vars(module).values() if isinstance(value, Muster)}
    return next(iter(apps.values())) if len(apps) == 1 else None


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def import_modules(app: Muster, app_path: str, include: Sequence[str] = ()) -> None:
    """Import all that the application asks for, and `include` besides, and finish its tasks.

    Raises ConfigurationError in one line.
    """
    try:
        app.import_modules()
        for module in include:
            importlib.import_module(module)
        app.finalize()
    except (ConfigurationError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _broken(app_path, "one of its modules", error) from error


def task_table(app: Muster) -> dict[str, TaskPolicy]:
    """Return what each task says of its delivery and limits."""
    return {
        name: TaskPolicy(
            acks_late=task.acks_late,
            reject_on_worker_lost=task.reject_on_worker_lost,
            acks_on_failure_or_timeout=task.acks_on_failure_or_timeout,
            hard_limit=task.time_limit,
            soft_limit=task.soft_time_limit,
            ignore_result=task.ignore_result,
            store_errors_even_if_ignored=task.store_errors_even_if_ignored,
            track_started=task.track_started,
            rate_limit=None if task.rate_limit is None else str(task.rate_limit),
        )
        for name, task in app.tasks.items()
    }


def load_executor(
    app_path: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    hostname: str | None = None,
) -> tuple[Execution, dict[str, TaskPolicy], Muster]:
    """Return the executor of an application, its task table, and the application itself.

    `overrides` are settings from the command line or the manifest, which go before the application's,
    `include` modules to import besides its own;
    `hostname` is the worker's name in requests. Imports all modules that the application asks for.
    Raises ConfigurationError.
    """
    app = load(app_path)
    if overrides:
        app.conf.override(overrides)
    import_modules(app, app_path, include)
    app.set_current()
    return Execution(app, hostname=hostname), task_table(app), app
