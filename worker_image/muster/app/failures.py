"""Exceptions and their traces: what a hook is shown of one, and how one comes back from a result document.

A document's strings only choose among a fixed table of classes, built-in exceptions and Celery's own; no
module is imported and no attribute looked up by a name from data (what CVE-2021-23727 was about).
"""

import builtins
import traceback
from types import TracebackType
from typing import Any, Final

from muster import exceptions
from muster.app.text import LIMIT
from muster.exceptions import RemoteTaskError

_BUILTIN: Final = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception)
}
_OWN: Final = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
}
_TABLE: Final[dict[str | None, dict[str, type[Exception]]]] = {
    None: {**_BUILTIN, **_OWN},
    "builtins": _BUILTIN,
    **dict.fromkeys(
        ("muster.exceptions", "celery.exceptions", "billiard.exceptions", "kombu.exceptions"), _OWN
    ),
}


class ExceptionInfo:
    """What hooks and signals get beside an exception; `traceback` and `str()` are its text."""

    def __init__(self, exception: BaseException, text: str) -> None:
        self.exception = exception
        self.type = type(exception)
        self.traceback = text
        self.tb: TracebackType | None = exception.__traceback__
        self.exc_info = (self.type, exception, self.tb)
        self.internal = False

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {describe(self.exception)}>"


def trace(error: BaseException, skip: int) -> str:
    """Return the traceback as text, without its first `skip` frames, which are ours."""
    frames = error.__traceback__
    for _ in range(skip):
        if frames is None or frames.tb_next is None:
            break
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - the exception is the user's object
        return f"{describe(error)} (its traceback cannot be written)\n"


def describe(error: BaseException) -> str:
    """Return an exception's repr, however long it is and whatever its own `__repr__` does."""
    try:
        return repr(error)[:LIMIT]
    except Exception:  # noqa: BLE001 - the exception is the user's object
        return f"<{type(error).__qualname__}, whose repr() raises>"


def rebuild(document: Any) -> BaseException:
    """Return the exception of a result document: of a known class, else RemoteTaskError with its strings."""
    if not isinstance(document, dict) or not isinstance(document.get("exc_type"), str):
        return RemoteTaskError("Exception", document)
    module, name, args = document.get("exc_module"), document["exc_type"], document.get("exc_message")
    args = args if isinstance(args, list | tuple) else [args]
    kind = _TABLE.get(module if isinstance(module, str) else None, {}).get(name)
    if kind is not None:
        try:
            return kind(*args)
        except Exception:  # noqa: BLE001, S110 - arguments that its class refuses: below, as strings
            pass
    known = isinstance(module, str) and module != "builtins"
    return RemoteTaskError(f"{module}.{name}" if known else name, *args)
