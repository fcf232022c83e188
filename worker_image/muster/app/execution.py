"""From a message to an outcome: the executor that every pool runs tasks with.

Publishes and stores nothing itself: what must happen before the message is given up, results, retries,
links, the next call of a chain, is in the outcome, and the worker's loop sees to it. It knows no broker, no
pool and no ack. What a task raised, `SystemExit` included, is the outcome; only what a pool raises to end a
run, `Killed`, goes through.

This is the engine's hottest path. What is known of a task is prepared once in its Recipe, a signal without
receivers costs one test, and a successful result's document is put together from bytes.
"""

import inspect
import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from muster import signals
from muster.app import state
from muster.app.failures import ExceptionInfo, describe, trace
from muster.app.request import Context
from muster.app.result import AsyncResult
from muster.app.signature import maybe_signature, unsupported
from muster.app.task import Task
from muster.app.text import LIMIT, brief
from muster.core.effects import Publication
from muster.core.retry import AutoRetry
from muster.core.settlement import BY_TASK
from muster.exceptions import EncodeError, Ignore, NotRegistered, Reject, Retry
from muster.pools.base import Job, Killed, Outcome, Started, StartedFunction
from muster.wire import result as documents
from muster.wire import values
from muster.wire.errors import MalformedMessage
from muster.wire.message import Message, open_message, peek

if TYPE_CHECKING:
    from muster.app.app import Muster

_log = logging.getLogger(__name__)

_UNSUPPORTED: Final = {"chord": "ChordUnsupported", "group": "GroupUnsupported"}


class Recipe:
    """All that is known of a task before a message of it arrives."""

    __slots__ = (
        "after_return",
        "auto_retry",
        "before_start",
        "ignore_result",
        "name",
        "on_failure",
        "on_retry",
        "on_success",
        "run",
        "store_errors",
        "task",
        "throws",
        "track_started",
    )

    def __init__(
        self, task: Task, *, ignore_result: bool, store_errors: bool, track_started: bool = False
    ) -> None:
        self.task = task
        self.name = task.name
        kind = type(task)
        # a class may wrap its runs by its own __call__; else the way to run() is the short one
        self.run: Callable[..., Any] = task if kind.__call__ is not Task.__call__ else task.run
        self.ignore_result = ignore_result if task.ignore_result is None else bool(task.ignore_result)
        stored = task.store_errors_even_if_ignored
        self.store_errors = store_errors if stored is None else bool(stored)
        self.track_started = track_started if task.track_started is None else bool(task.track_started)
        self.throws = tuple(task.throws)
        self.auto_retry: AutoRetry | None = task.auto_retry()
        self.before_start = _own(task, "before_start")
        self.on_success = _own(task, "on_success")
        self.on_retry = _own(task, "on_retry")
        self.on_failure = _own(task, "on_failure")
        self.after_return = _own(task, "after_return")


def _own(task: Task, hook: str) -> Any:
    """Return a hook that the task defines itself, else None: Task's own do nothing."""
    return None if getattr(type(task), hook) is getattr(Task, hook) else getattr(task, hook)


def attempt(recipe: Recipe, request: Context) -> tuple[str, Any]:
    """Call the task once: return SUCCESS and its value, or the state that its exception means, and that."""
    try:
        if recipe.before_start is not None:
            recipe.before_start(request.id, request.args, request.kwargs)
        return "SUCCESS", recipe.run(*request.args, **request.kwargs)
    except Killed:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too is the task's, not the worker's
        return _meaning(recipe, request, error)


def _meaning(recipe: Recipe, request: Context, error: BaseException) -> tuple[str, BaseException]:
    """Return the state that an exception means, and the exception to show for it."""
    if isinstance(error, Reject):
        return ("REQUEUED" if error.requeue else "REJECTED"), error
    if isinstance(error, Ignore):
        return "IGNORED", error
    rule = recipe.auto_retry
    try:
        if isinstance(error, Retry):
            if not request.has_retried:  # raised by hand: then this is its only way back to the queue
                when = error.when
                if isinstance(when, int | float):
                    recipe.task.retry(exc=error.exc, countdown=when, throw=False)
                else:
                    recipe.task.retry(exc=error.exc, eta=when, throw=False)
            return "RETRY", error
        if rule is not None and rule.applies_to(error):
            recipe.task.retry_after(error, rule)
    except Retry as again:
        return "RETRY", again
    except BaseException as final:  # noqa: BLE001 - no retry is left, or the next message cannot be made
        return "FAILURE", final
    return "FAILURE", error


def call_hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a task's hook. What it raises changes nothing any more, and is logged."""
    try:
        hook(*args)
    except Exception:  # noqa: BLE001 - the user's code
        _log.exception("%s raised", getattr(hook, "__qualname__", hook))


class Execution:
    """Runs one message after another; see `muster.pools.base.Executor`. Thread- and greenlet-safe."""

    def __init__(self, app: "Muster", *, hostname: str | None = None) -> None:
        app.finalize()
        settings = app.conf.settings
        self.app = app
        self.hostname = hostname or f"muster@{socket.gethostname()}"
        self._stores = app.has_results
        self._ignores = bool(settings.task_ignore_result)
        self._stores_errors = bool(settings.task_store_errors_even_if_ignored)
        self._max_bytes = int(settings.muster_max_message_bytes)
        self._tracks_started = bool(settings.task_track_started)
        self._extended = bool(settings.result_extended)
        self.tell_started: StartedFunction | None = None
        """How to say that a run has begun; None: nobody wants to know."""
        self._recipes: dict[str, Recipe] = {}
        self._second = 0
        self._second_text = ""

    def recipe(self, name: str) -> Recipe | None:
        """Return what is known of a task; None for one that is not registered."""
        found = self._recipes.get(name)
        if found is None:
            task = self.app.tasks.get(name)
            if task is None:
                return None
            found = Recipe(
                task,
                ignore_result=self._ignores,
                store_errors=self._stores_errors,
                track_started=self._tracks_started,
            )
            self._recipes[name] = found
        return found

    def __call__(self, job: Job) -> Outcome:
        """Run the job's message to its end."""
        started = time.perf_counter()
        request: Context | None = None
        try:
            message = open_message(job.raw, max_bytes=self._max_bytes)
            recipe = self._recipes.get(message.task) or self.recipe(message.task)
            if recipe is None:
                return self._unknown(job, message)
            if message.chord is not None or message.callbacks or message.chain or message.errbacks:
                refusal = _refusal(job, message)
                if refusal is not None:
                    return refusal
            request = self._request(job, message)
            state.running.set(state.Frame(recipe.task, request, None))
            return self._run(job, recipe, request, started)
        except MalformedMessage as error:
            return Outcome(job.number, "REJECTED", text=str(error), reason=error.reason)
        except Killed:
            raise
        except BaseException as error:  # noqa: BLE001 - a soft limit can strike between any two steps
            return self._broken(job, request, error, started)
        finally:
            state.running.set(None)

    def _request(self, job: Job, message: Message) -> Context:
        request = Context.__new__(Context)
        fields = request.__dict__ = message.headers
        fields["args"] = message.args
        fields["kwargs"] = message.kwargs
        fields["callbacks"] = message.callbacks
        fields["errbacks"] = message.errbacks
        fields["chain"] = message.chain
        fields["chord"] = None
        fields["reply_to"] = message.reply_to
        fields["correlation_id"] = message.id
        fields["called_directly"] = fields["is_eager"] = False
        fields["hostname"] = self.hostname
        if fields.get("retries") is None:
            fields["retries"] = 0
        delivery = fields["delivery_info"] = message.delivery_info
        delivery["priority"] = message.priority
        delivery["redelivered"] = message.losses > 0 or bool(delivery.get("redelivered"))
        request.sent_results = None
        request.pending_publications = []
        request.source_queue = job.queue
        request.has_retried = False
        return request

    def _run(self, job: Job, recipe: Recipe, request: Context, started: float) -> Outcome:
        task, task_id = recipe.task, request.id
        args, kwargs = request.args, request.kwargs
        if signals.task_prerun.receivers:
            signals.task_prerun.send(sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs)
        if recipe.track_started:
            self._started(job, recipe, request)
        status, value = attempt(recipe, request)
        outcome: Outcome | None = None
        if status == "SUCCESS":
            try:
                outcome = self._succeeded(job, recipe, request, value, started)
            except Exception as error:  # noqa: BLE001 - the result, or a link's arguments, and JSON disagree
                status, value = "FAILURE", error
        if outcome is None:
            outcome = self._ended(job, recipe, request, status, value, started)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=status
            )
        return outcome

    def _started(self, job: Job, recipe: Recipe, request: Context) -> None:
        ignored = request.__dict__.get("ignore_result")
        if self.tell_started is None or not self._stores:
            return
        if recipe.ignore_result if ignored is None else ignored:
            return
        document = documents.document(
            task_id=str(request.id),
            status="STARTED",
            result={"pid": os.getpid(), "hostname": self.hostname},
            now=self.app.now(),
            retries=request.retries,
            group_id=request.group,
            parent_id=request.parent_id,
            extended=self._extension(request) if self._extended else None,
        )
        self.tell_started(Started(job.number, document))

    # --- success -------------------------------------------------------------------------------------------

    def _succeeded(self, job: Job, recipe: Recipe, request: Context, value: Any, started: float) -> Outcome:
        fields = request.__dict__
        ignored = fields.get("ignore_result")
        document, result = b"", b""
        stored = self._stores and not (recipe.ignore_result if ignored is None else ignored)
        if stored:
            try:
                result = values.encode(value)
            except Exception as error:
                raise EncodeError(f"the result of {recipe.name} cannot be stored: {error}") from error
        outbox = request.pending_publications
        assert outbox is not None
        if request.callbacks or request.chain:
            before = len(outbox)
            try:
                self._continue(request, value, outbox)
            except BaseException:
                del outbox[before:]
                raise
        now = time.time()
        if stored:
            document = self._document(request, result, now)
        runtime = time.perf_counter() - started
        text = "None" if value is None else brief(value, len(result) if stored else 2 * LIMIT + 1)
        if recipe.on_success is not None:
            call_hook(recipe.on_success, value, request.id, request.args, request.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=recipe.task, result=value)
        if recipe.after_return is not None:
            call_hook(recipe.after_return, "SUCCESS", value, request.id, request.args, request.kwargs, None)
        return Outcome(job.number, "SUCCESS", document, outbox, runtime, text)

    def _document(self, request: Context, result: bytes, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        date_done = f"{self._second_text}.{int((now - second) * 1e6):06d}+00:00"
        fields = request.__dict__
        more = b""
        for name, header in (("group_id", "group"), ("parent_id", "parent_id")):
            if fields.get(header):
                more += b'"%b":%b,' % (name.encode(), values.encode(fields[header]))
        if self._extended:
            extended = values.dumps(self._extension(request))
            more += extended[1:-1].encode() + b","
        children = b"[]"
        if request.sent_results:
            children = values.dumps([child.as_tuple() for child in request.sent_results]).encode()
        return documents.success(
            str(request.id),
            result,
            date_done=date_done,
            retries=request.retries,
            children=children,
            more=more,
        )

    def _extension(self, request: Context) -> dict[str, Any]:
        return {
            "name": request.task,
            "args": request.args,
            "kwargs": request.kwargs,
            "worker": request.hostname,
            "queue": request.source_queue,
        }

    def _continue(self, request: Context, value: Any, outbox: list[Publication]) -> None:
        """Add the messages of links and of the chain's next call."""
        root_id = request.root_id or request.id
        follow = {"root_id": root_id, "parent_id": request.id}
        for callback in request.callbacks or ():
            self._follow(maybe_signature(callback, self.app), value, request, outbox, follow)
        if request.chain:
            *rest, following = request.chain
            self._follow(
                maybe_signature(following, self.app),
                value,
                request,
                outbox,
                {**follow, "chain": rest or None},
            )

    def _follow(
        self, call: Any, value: Any, request: Context, outbox: list[Publication], options: dict[str, Any]
    ) -> None:
        made = call.draft(self.app, (value,), **{k: v for k, v in options.items() if v is not None})
        outbox.append(made.publication)
        request.children.append(AsyncResult(made.task_id, app=self.app))

    # --- everything else -----------------------------------------------------------------------------------

    def _ended(
        self, job: Job, recipe: Recipe, request: Context, status: str, error: BaseException, started: float
    ) -> Outcome:
        runtime = time.perf_counter() - started
        outbox = request.pending_publications
        assert outbox is not None
        match status:
            case "RETRY":
                document = self._retrying(recipe, request, error)
                return Outcome(job.number, "RETRY", document, outbox, runtime, str(error))
            case "IGNORED":
                return Outcome(job.number, "IGNORED", b"", outbox, runtime, describe(error))
            case "REQUEUED" | "REJECTED":
                if signals.task_rejected.receivers:
                    signals.task_rejected.send(sender=recipe.task, message=None, exc=error)
                text = describe(error)
                return Outcome(job.number, status, b"", outbox, runtime, text, BY_TASK)
            case _:
                document = self._failed(recipe, request, error)
                return Outcome(job.number, "FAILURE", document, outbox, runtime, describe(error))

    def _retrying(self, recipe: Recipe, request: Context, error: BaseException) -> bytes:
        cause = error.exc if isinstance(error, Retry) else error
        info = ExceptionInfo(error, trace(error, 1))
        document = b""
        if self._keeps_errors(recipe, request):
            document = documents.document(
                task_id=str(request.id),
                status="RETRY",
                result=None if cause is None else documents.exception_document(cause),
                now=self.app.now(),
                traceback=info.traceback,
                retries=request.retries,
                group_id=request.group,
                parent_id=request.parent_id,
                extended=self._extension(request) if self._extended else None,
            )
        if recipe.on_retry is not None:
            call_hook(recipe.on_retry, cause, request.id, request.args, request.kwargs, info)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=recipe.task, request=request, reason=error, einfo=info)
        return document

    def _failed(self, recipe: Recipe, request: Context, error: BaseException) -> bytes:
        info = ExceptionInfo(error, trace(error, 1))
        document = (
            self._failure(request, error, info.traceback) if self._keeps_errors(recipe, request) else b""
        )
        if request.errbacks:
            self._call_errbacks(request, error, info)
        if recipe.on_failure is not None:
            call_hook(recipe.on_failure, error, request.id, request.args, request.kwargs, info)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=recipe.task,
                task_id=request.id,
                exception=error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=error.__traceback__,
                einfo=info,
            )
        if recipe.after_return is not None:
            call_hook(recipe.after_return, "FAILURE", error, request.id, request.args, request.kwargs, info)
        if recipe.throws and isinstance(error, recipe.throws):
            _log.info("Task %s[%s] raised expected: %s", recipe.name, request.id, describe(error))
        else:
            _log.error(
                "Task %s[%s] raised unexpected: %s\n%s",
                recipe.name,
                request.id,
                describe(error),
                info.traceback.rstrip(),
            )
        return document

    def _keeps_errors(self, recipe: Recipe, request: Context) -> bool:
        ignored = request.__dict__.get("ignore_result")
        if recipe.ignore_result if ignored is None else ignored:
            return self._stores and recipe.store_errors
        return self._stores

    def _failure(self, request: Context, error: BaseException, traceback: str | None) -> bytes:
        extended = None
        if self._extended:
            extended = self._extension(request)
        return documents.document(
            task_id=str(request.id),
            status="FAILURE",
            result=documents.exception_document(error),
            now=self.app.now(),
            traceback=traceback,
            children=[child.as_tuple() for child in request.sent_results or ()],
            retries=request.retries,
            group_id=request.group,
            parent_id=request.parent_id,
            extended=extended,
        )

    def _call_errbacks(self, request: Context, error: BaseException, info: ExceptionInfo) -> None:
        """Call those that take (request, exc, traceback) here, as Celery does; send the others the id."""
        for each in request.errbacks or ():
            try:
                errback = maybe_signature(each, self.app)
                task = self.app.tasks.get(errback["task"])
                if task is not None and takes_more_than_the_id(task):
                    errback(request, error, info.traceback)
                    continue
                made = errback.draft(
                    self.app, (request.id,), root_id=request.root_id or request.id, parent_id=request.id
                )
                assert request.pending_publications is not None
                request.pending_publications.append(made.publication)
            except Exception:  # noqa: BLE001 - the user's code, or a call that JSON cannot carry
                _log.exception("errback %s of task %s raised", each.get("task"), request.id)

    def _unknown(self, job: Job, message: Message) -> Outcome:
        error = NotRegistered(message.task)
        text = f"no task named {message.task!r} is registered here: is the module imported that defines it?"
        if signals.task_unknown.receivers:
            signals.task_unknown.send(
                sender=self.app, name=message.task, id=message.id, message=None, exc=error
            )
        document = b""
        if self._stores:
            request = self._request(job, message)
            document = self._failure(request, error, None)
        return Outcome(job.number, "REJECTED", document, text=text, reason="NotRegistered")

    def interrupted(self, job: Job, error: BaseException) -> Outcome:
        """Return the outcome of a run that `error` ended just outside the task's own code."""
        started = time.perf_counter()
        request = None
        try:
            request = self._request(job, open_message(job.raw, max_bytes=self._max_bytes))
        except MalformedMessage as malformed:
            return Outcome(job.number, "REJECTED", text=str(malformed), reason=malformed.reason)
        except Exception:  # noqa: BLE001 - it was opened before; this says what happened all the same
            _log.exception("a message could not be opened again")
        return self._broken(job, request, error, started)

    def name(self, job: Job) -> str:
        """Return what the job is called in a log; safe from any thread."""
        try:
            message = peek(job.raw)
        except MalformedMessage:
            return "a message that cannot be read"
        return f"{message.task}[{message.id}]"

    def _broken(self, job: Job, request: Context | None, error: BaseException, started: float) -> Outcome:
        """Return the failure of a run that ended outside the task's own code."""
        text = describe(error)
        _log.error(
            "Task %s broke off: %s\n%s", request.id if request else "?", text, trace(error, 0).rstrip()
        )
        if signals.task_internal_error.receivers and request is not None:
            signals.task_internal_error.send(
                sender=self.app.tasks.get(str(request.task)),
                task_id=request.id,
                args=request.args,
                kwargs=request.kwargs,
                request=request,
                exception=error,
                traceback=error.__traceback__,
                einfo=ExceptionInfo(error, trace(error, 0)),
            )
        document = b""
        recipe = self.recipe(str(request.task)) if request is not None else None
        if request is not None and recipe is not None and self._keeps_errors(recipe, request):
            document = self._failure(request, error, trace(error, 0))
        runtime = time.perf_counter() - started
        return Outcome(job.number, "FAILURE", document, (), runtime, text)


def takes_more_than_the_id(task: Task) -> bool:
    """Whether an errback's function takes more than the failed task's id: then it wants the exception too."""
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [
        each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]
    return len(positional) > 1


def _refusal(job: Job, message: Message) -> Outcome | None:
    """Return the outcome of a message that asks for what does not exist here yet, before it is run."""
    kind = "chord" if message.chord is not None else ""
    kind = kind or unsupported([*message.callbacks, *message.errbacks, *message.chain])
    if not kind:
        return None
    return Outcome(
        job.number,
        "REJECTED",
        text=f"task {message.task}[{message.id}] is part of a {kind}, which this version does not run: "
        "send plain tasks, links and chains",
        reason=_UNSUPPORTED.get(kind, "CanvasUnsupported"),
    )
