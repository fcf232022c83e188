"""Celery's signals, those that really fire here. Tasks' authors connect; app, worker and beat send.

A signal nobody listens to costs its sender one attribute test: `if task_prerun.receivers: …send(…)`.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

Receiver: TypeAlias = Callable[..., Any]

_log = logging.getLogger(__name__)


def _identity(thing: Any) -> Any:
    """What a sender or receiver is known by. Names compare by value, bound methods by object and function."""
    if thing is None or isinstance(thing, str | bytes):
        return thing
    if hasattr(thing, "__func__"):
        return id(thing.__self__), id(thing.__func__)
    proxied = getattr(thing, "_get_current_object", None)
    return id(thing if proxied is None else proxied())


class Signal:
    """A named event inside one process. Receivers take keyword arguments, such as `sender`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: list[tuple[Any, Any, Any]] = []
        """(receiver's identity or dispatch_uid, sender's identity or None, receiver or weak reference)"""
        self._lock = threading.Lock()

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Call a receiver at each sending: `connect(receiver, sender=None, weak=True, dispatch_uid=None)`.

        Without a receiver it returns a decorator. A weakly connected receiver leaves when nothing else
        holds it; a `dispatch_uid` is connected once only.
        """
        if args and callable(args[0]):
            return self._connect(*args, **kwargs)
        return lambda receiver: self._connect(receiver, *args, **kwargs)

    def _connect(
        self, receiver: Receiver, sender: Any = None, weak: bool = True, dispatch_uid: Any = None
    ) -> Receiver:
        key = _identity(receiver) if dispatch_uid is None else dispatch_uid
        held: Any = receiver
        if weak:
            bound = hasattr(receiver, "__self__") and hasattr(receiver, "__func__")
            held = (weakref.WeakMethod if bound else weakref.ref)(receiver, self._drop)
        with self._lock:
            if not any(entry[:2] == (key, _identity(sender)) for entry in self.receivers):
                self.receivers = [*self.receivers, (key, _identity(sender), held)]
        return receiver

    def _drop(self, reference: Any) -> None:
        self.receivers = [entry for entry in self.receivers if entry[2] is not reference]

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, dispatch_uid: Any = None
    ) -> bool:
        """End a connection made with the same arguments; tell whether there was one."""
        key = (_identity(receiver) if dispatch_uid is None else dispatch_uid, _identity(sender))
        with self._lock:
            kept = [entry for entry in self.receivers if entry[:2] != key]
            found = len(kept) < len(self.receivers)
            self.receivers = kept
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anyone would hear this sender."""
        return any(wanted is None or wanted == _identity(sender) for _, wanted, _ in self.receivers)

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call the receivers; return (receiver, answer) pairs, where an exception is an answer too."""
        answers: list[tuple[Receiver, Any]] = []
        if not self.receivers:
            return answers
        identity = _identity(sender)
        for _, wanted, held in self.receivers:
            if wanted is not None and wanted != identity:
                continue
            receiver = held() if isinstance(held, weakref.ref) else held
            if receiver is None:
                continue
            try:
                answers.append((receiver, receiver(signal=self, sender=sender, **named)))
            except Exception as error:  # noqa: BLE001 - the receiver is the user's code
                _log.exception("receiver %r of signal %s raised", receiver, self.name)
                answers.append((receiver, error))
        return answers

    send_robust = send

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_failure = Signal("task_failure")
task_retry = Signal("task_retry")
task_internal_error = Signal("task_internal_error")
task_revoked = Signal("task_revoked")
task_rejected = Signal("task_rejected")
task_unknown = Signal("task_unknown")
import_modules = Signal("import_modules")
setup_logging = Signal("setup_logging")
worker_init = Signal("worker_init")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down")
worker_shutdown = Signal("worker_shutdown")
beat_init = Signal("beat_init")
