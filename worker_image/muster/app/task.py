"""`Task`: a function that can be sent, with Celery's attributes, calls, retries and hooks.

`Muster.task` makes one from a function; a class of the user's own may be its base. A task is a single
object for all of its runs: what differs between them is in `request`.
"""

import inspect
import random
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from muster.app import state
from muster.app.publishing import OPTIONS, WITHOUT_EFFECT, draft
from muster.app.request import Context
from muster.app.signature import Signature
from muster.core.effects import StoredResult
from muster.core.retry import AutoRetry, Backoff, is_exhausted
from muster.errors import BrokerUnavailable
from muster.exceptions import Ignore, MaxRetriesExceededError, Retry
from muster.wire import result as documents

if TYPE_CHECKING:
    from muster.app.app import Muster
    from muster.app.failures import ExceptionInfo
    from muster.app.result import AsyncResult, EagerResult

_EXECUTION_OPTIONS: Final = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
)
_NOTHING: Final = (lambda: None).__code__


def argument_check(function: Any, *, bound: bool) -> Callable[..., None] | None:
    """Return a function that takes the same arguments and does nothing; None where that cannot be told.

    Calling it is the quickest check of a call, and raises the interpreter's own TypeError.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    names = code.co_argcount + code.co_kwonlyargcount
    names += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    check = FunctionType(
        _NOTHING.replace(
            co_argcount=code.co_argcount,
            co_posonlyargcount=code.co_posonlyargcount,
            co_kwonlyargcount=code.co_kwonlyargcount,
            co_nlocals=names,
            co_varnames=code.co_varnames[:names],
            co_flags=_NOTHING.co_flags | code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS),
            co_name=code.co_name,
            co_qualname=code.co_qualname,
        ),
        {},
        function.__name__,
        function.__defaults__,
    )
    check.__kwdefaults__ = function.__kwdefaults__
    return (lambda *args, **kwargs: check(None, *args, **kwargs)) if bound else check


class Task:
    """Base of all tasks. Attributes that are None are not said by the task: the worker's settings hold."""

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError
    OperationalError: ClassVar[type[Exception]] = BrokerUnavailable

    name: str = ""
    """Under which it is registered and sent."""
    typing: bool | None = None
    """Check arguments when it is called; None: as the application says (`strict_typing`)."""
    max_retries: int | None = 3
    """None: it is never given up."""
    default_retry_delay: float = 180
    """Seconds."""
    rate_limit: str | float | None = None
    ignore_result: bool | None = None
    trail: bool = True
    """Record the results of the tasks that it sends as its children."""
    send_events: bool = True
    store_errors_even_if_ignored: bool | None = None
    serializer: str | None = None
    time_limit: float | None = None
    """Seconds after which its process is killed."""
    soft_time_limit: float | None = None
    """Seconds after which SoftTimeLimitExceeded is raised in it."""
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    throws: tuple[type[BaseException], ...] = ()
    """Expected exceptions: failures, but none that a log needs a traceback of."""
    expires: Any = None
    priority: int | None = None
    queue: str | None = None
    resultrepr_maxsize: int = 1024

    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: ClassVar[dict[str, Any]] = {}
    retry_backoff: bool | float = False
    """Seconds of the first automatic retry's delay; True: one."""
    retry_backoff_max: float = 600
    retry_jitter: bool = True

    _app: "Muster | None" = None
    _check: Callable[..., None] | None = None
    _options: dict[str, Any] | None = None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work: a class of the user's own defines it."""
        raise NotImplementedError(f"task {self.name} defines no run()")

    def bind(self, app: "Muster") -> None:
        """Make it a task of this application."""
        self._app = app

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of it: what `task_annotations` does."""
        for name, value in attributes.items():
            setattr(self, name, value)
        self._options = None

    @property
    def app(self) -> "Muster":
        """The application that it belongs to."""
        return self._app or state.get_current_app()

    @property
    def request(self) -> Context:
        """What is known of the run that is going on; outside of any, all defaults."""
        frame = state.frame_of(self)
        return _NO_REQUEST if frame is None else frame.request

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here, as a plain function."""
        self.push_request(args=args, kwargs=kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            self.pop_request()

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a run whose request has these fields (tests use it); `pop_request` ends it."""
        request = Context(self.request.__dict__)
        request.update(*args, **kwargs)
        state.running.set(state.Frame(self, request, state.running.get()))

    def pop_request(self) -> None:
        """End what `push_request` began."""
        frame = state.running.get()
        state.running.set(None if frame is None else frame.outer)

    # --- sending -------------------------------------------------------------------------------------------

    def execution_options(self) -> dict[str, Any]:
        """Return the options that its own attributes set."""
        if self._options is None:
            said = {name: getattr(self, name, None) for name in _EXECUTION_OPTIONS}
            self._options = {name: value for name, value in said.items() if value is not None}
        return self._options

    def delay(self, *args: Any, **kwargs: Any) -> "AsyncResult":
        """Send it with these arguments: `apply_async` without options."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> "AsyncResult":
        """Send it.

        Options as in Celery: `countdown` (seconds) or `eta` (datetime) for later, `expires` (seconds or
        datetime), `queue`, `priority`, `task_id`, `link`, `link_error`, `time_limit`, `soft_time_limit`
        (seconds), `headers`, `ignore_result`, `shadow`, `argsrepr` and `kwargsrepr` (what logs show of the
        arguments), `retry` and `retry_policy` (of publishing). Raises TypeError for arguments that the
        function does not take and for unknown options, EncodeError for what JSON cannot carry,
        BrokerUnavailable.
        """
        app = self.app
        if self._check is not None and self.typing is not False:
            self._check(*(args or ()), **(kwargs or {}))
        if options and not OPTIONS.issuperset(options):
            refuse_unknown(self.name, options)
        if app.sending.always_eager:
            return self.apply(args, kwargs, **options)
        mine = self.execution_options() if self._options is None else self._options
        if mine:
            options = {**mine, **options}
        self._refuse_impossible(options)
        return app.send(draft(app, self.name, args, kwargs, options, self), options)

    def _refuse_impossible(self, options: dict[str, Any]) -> None:
        soft, hard = options.get("soft_time_limit"), options.get("time_limit")
        if soft and hard and soft > hard:
            raise ValueError(f"soft_time_limit {soft} of {self.name} is more than its time_limit {hard}")

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> "EagerResult":
        """Run it here and now, with hooks, retries and links, and return its result."""
        from muster.app.eager import apply

        return apply(self, tuple(args or ()), dict(kwargs or {}), options)

    def signature(self, args: Any = None, kwargs: Any = None, options: Any = None, **more: Any) -> Signature:
        """Return a call that can be kept and combined."""
        return Signature(self, args, kwargs, options, app=self._app, **more)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature with these arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature with these arguments, to which none is added."""
        return self.signature(args, kwargs, immutable=True)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> "AsyncResult":  # noqa: N802 - Celery's name
        """Return the result of a run of this task, by its id."""
        return self.app.AsyncResult(task_id, **kwargs)

    # --- from inside a run ---------------------------------------------------------------------------------

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Have this run again, after `countdown` seconds, at `eta`, or after `default_retry_delay`.

        Raises Retry, which tells the worker so (or returns it: `throw=False`); when no retry is left
        raises `exc`, or MaxRetriesExceededError. The new message is published before this one is given up.
        """
        request = self.request
        if request.called_directly:
            _raise(exc or Retry("Task can be retried", None))
        if max_retries is None:
            max_retries = self.max_retries
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        args, kwargs = self._retry_arguments(request, args, kwargs)
        if is_exhausted(request.retries, max_retries):
            if exc is not None:
                _raise(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{args} kwargs:{kwargs}",
                task_args=args,
                task_kwargs=kwargs,
            )
        again = {
            **request.as_execution_options(),
            "ignore_result": request.__dict__.get("ignore_result"),
            "queue": request.source_queue or (request.delivery_info or {}).get("routing_key"),
            "priority": (request.delivery_info or {}).get("priority"),
            **options,
            "countdown": countdown,
            "eta": eta,
            "retries": request.retries + 1,
        }
        when = eta or countdown
        signature = self.signature(
            args, kwargs, {name: value for name, value in again.items() if value is not None}
        )
        request.has_retried = True
        if not request.is_eager:
            made = draft(self.app, self.name, args, kwargs, again, self)
            if request.pending_publications is None:
                self.app.publish(made, again)
            else:
                request.pending_publications.append(made.publication)
        error = Retry(exc=exc, when=when, sig=signature)
        if throw:
            raise error
        return error

    def _retry_arguments(self, request: Context, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of a retry: those given, and of the others what still fits beside them."""
        if args is None and kwargs is None:
            return request.args, request.kwargs
        if args is not None and kwargs is not None:
            return args, kwargs
        parameters = inspect.signature(self.run).parameters
        named = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
        if kwargs is None:
            return args, {
                name: value for name, value in request.kwargs.items() if name not in named[: len(args)]
            }
        old = dict(zip(named, request.args, strict=False))
        if not old.keys() & kwargs.keys():
            return request.args, kwargs
        return tuple(request.args[len(old) :]), {**old, **kwargs}

    def auto_retry(self) -> AutoRetry | None:
        """Return which exceptions make it run again by themselves, None for none."""
        if not self.autoretry_for:
            return None
        backoff = None
        if self.retry_backoff:
            backoff = Backoff(
                factor_seconds=int(max(1.0, float(self.retry_backoff))),
                maximum_seconds=int(self.retry_backoff_max),
                jitter=bool(self.retry_jitter),
            )
        never = (Ignore, Retry, *self.dont_autoretry_for)
        return AutoRetry(on=tuple(self.autoretry_for), never_on=never, backoff=backoff)

    def retry_after(self, error: BaseException, rule: AutoRetry) -> NoReturn:
        """Retry after an exception of `autoretry_for`. Raises what `retry` raises."""
        how = dict(self.retry_kwargs)
        if rule.backoff is not None:
            how["countdown"] = rule.backoff.delay_seconds(self.request.retries, random.random())
        raise self.retry(exc=error, **how)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_: Any
    ) -> None:
        """Store a state of the task's own, with what it carries (`meta`); a state of an ended run stays."""
        request = self.request
        task_id = task_id or request.id
        if task_id is None or state is None:
            raise ValueError("update_state needs a task id, which a running task has, and a state")
        if not self.app.has_results:
            return
        result = documents.exception_document(meta) if isinstance(meta, BaseException) else meta
        document = documents.document(
            task_id=task_id, status=state, result=result, now=self.app.now(), retries=request.retries
        )
        stored = StoredResult(
            task_id,
            document,
            state,
            request.retries,
            self.app.result_expires_seconds,
            request.reply_to or "",
        )
        self.app.results.store([stored])

    def add_trail(self, result: Any) -> Any:
        """Record the result of a task that it has sent; return it."""
        if self.trail:
            self.request.children.append(result)
        return result

    # --- hooks ---------------------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before it runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when it has succeeded."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: "ExceptionInfo"
    ) -> None:
        """Called when it is to run again."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: "ExceptionInfo"
    ) -> None:
        """Called when it has failed."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: "ExceptionInfo | None"
    ) -> None:
        """Called when it has succeeded or failed, after the other hook."""

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self._app.main if self._app else None}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _registered, (self.name,)


def _registered(name: str) -> Task:
    return state.get_current_app().tasks[name]


def _raise(error: BaseException) -> NoReturn:
    """Raise `error` from where the task is: with the exception that is being handled as its context."""
    raise error


def refuse_unknown(name: str, options: dict[str, Any]) -> None:
    """Drop options that have no effect here. Raises TypeError for any other that is not known."""
    unknown = options.keys() - OPTIONS
    for option in unknown & WITHOUT_EFFECT:
        del options[option]
    stamps = set(options.get("stamped_headers") or ())
    unknown -= WITHOUT_EFFECT | stamps
    if unknown:
        raise TypeError(f"sending {name}: there is no option {', '.join(sorted(unknown))}")


_NO_REQUEST: Final = Context()
