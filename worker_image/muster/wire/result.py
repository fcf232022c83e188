"""Result documents, as Celery's backends store them (`celery/backends/base.py`, `_get_result_meta`).

Written by the executor and, for what never came to run, by the worker; read by AsyncResult. An exception
travels as strings; its class is never looked up from data by the reader.
"""

from datetime import datetime
from typing import Any, Final

from muster.wire import values

READY_STATES: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
_OWN_EXCEPTIONS: Final = "muster.exceptions"
_CELERYS_NAME: Final = "celery.exceptions"
"""Our exceptions bear Celery's names, and go by Celery's module, so that its clients find the classes."""


def exception_document(error: BaseException) -> dict[str, Any]:
    """Return an exception as Celery's JSON results carry it; arguments that JSON cannot carry become text."""
    try:
        args: Any = list(error.args)
        values.dumps(args)
    except Exception:  # noqa: BLE001 - arguments are the user's objects, and may raise anything
        args = [_text(argument) for argument in error.args]
    kind = type(error)
    module = kind.__module__
    return {
        "exc_type": kind.__qualname__,
        "exc_message": args,
        "exc_module": _CELERYS_NAME if module == _OWN_EXCEPTIONS else module,
    }


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__qualname__}, whose repr() raises>"


def success(
    task_id: str, result: bytes, *, date_done: str, retries: int, children: bytes = b"[]", more: bytes = b""
) -> bytes:
    """Return the document of a success from parts that are JSON already: the executor's hot path.

    `more` is empty or further members, each with a comma behind it.
    """
    return (
        b'{"status":"SUCCESS","result":%b,"traceback":null,"children":%b,"date_done":"%b",%b"retries":%d,"task_id":%b}'
        % (
            result,
            children,
            date_done.encode(),
            more,
            retries,
            values.encode(task_id),
        )
    )


def document(
    *,
    task_id: str,
    status: str,
    result: Any,
    now: datetime,
    traceback: str | None = None,
    children: list[Any] | None = None,
    retries: int = 0,
    group_id: str | None = None,
    parent_id: str | None = None,
    extended: dict[str, Any] | None = None,
) -> bytes:
    """Return the document of one state. `retries` (our addition) tells runs of different retries apart."""
    meta: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": traceback,
        "children": children or [],
        "date_done": now.isoformat() if status in READY_STATES else None,
    }
    if group_id:
        meta["group_id"] = group_id
    if parent_id:
        meta["parent_id"] = parent_id
    if extended:
        meta.update(extended)
    meta["retries"] = retries
    meta["task_id"] = task_id
    return values.dumps(meta).encode()


def load(data: bytes) -> dict[str, Any]:
    """Return a stored document. Raises ValueError when it is none."""
    meta = values.loads(data)
    if not isinstance(meta, dict) or "status" not in meta:
        raise ValueError("not a result document")
    return meta
