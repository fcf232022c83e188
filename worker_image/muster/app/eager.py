"""Running a task in the caller's process: `Task.apply` and `task_always_eager`. For tests and scripts.

The same rules as in a worker, hooks and signals included, except that what a worker would publish
(retries, links, the rest of a chain) is run here and now, and that no delay is waited for.
"""

import socket
from typing import TYPE_CHECKING, Any

from muster import signals
from muster.app import state
from muster.app.execution import Recipe, attempt, call_hook
from muster.app.failures import ExceptionInfo, trace
from muster.app.publishing import listed, new_id
from muster.app.request import Context
from muster.app.result import AsyncResult, EagerResult
from muster.app.signature import maybe_signature
from muster.exceptions import Retry

if TYPE_CHECKING:
    from muster.app.task import Task


def apply(
    task: "Task", args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> EagerResult:
    """Run `task` and what follows from it; return its result. `throw=True` raises its exception."""
    app = task.app
    app.finalize()
    throw = options.get("throw")
    throw = app.conf.settings.task_eager_propagates if throw is None else throw
    outer = state.running.get()
    task_id = options.get("task_id") or new_id()
    root_id = options.get("root_id") or (outer.request.root_id if outer else None) or task_id
    chain = options.get("chain")
    request = Context(
        options.get("headers") or {},
        id=task_id,
        task=task.name,
        args=args,
        kwargs=kwargs,
        root_id=root_id,
        parent_id=options.get("parent_id") or (outer.request.id if outer else None),
        retries=options.get("retries") or 0,
        callbacks=listed(options.get("link")),
        errbacks=listed(options.get("link_error")),
        chain=chain,
        headers=options.get("headers"),
        called_directly=False,
        is_eager=True,
        hostname=socket.gethostname(),
        delivery_info={
            "is_eager": True,
            "exchange": "",
            "routing_key": options.get("queue") or options.get("routing_key"),
            "priority": options.get("priority"),
            "redelivered": False,
        },
    )
    recipe = Recipe(task, ignore_result=False, store_errors=False)
    token = state.running.set(state.Frame(task, request, outer))
    try:
        signals.task_prerun.send(sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs)
        status, value = attempt(recipe, request)
        text = _after(recipe, request, status, value)
        signals.task_postrun.send(
            sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=status
        )
    finally:
        state.running.reset(token)
    if status == "RETRY" and isinstance(value, Retry) and value.sig is not None:
        again: EagerResult = value.sig.apply(retries=request.retries + 1, throw=throw)
        return again
    if status == "FAILURE" and throw:
        raise value
    if status == "SUCCESS":
        for callback in request.callbacks or ():
            _follow(callback, value, app, request)
        if chain:
            *rest, following = chain
            _follow(following, value, app, request, chain=rest or None)
    else:
        for errback in request.errbacks or () if status == "FAILURE" else ():
            maybe_signature(errback, app).apply((task_id,), parent_id=task_id, root_id=root_id)
    result = EagerResult(task_id, value, status, text, request.retries)
    if outer is not None and not outer.request.called_directly:
        outer.task.add_trail(result)
    return result


def _follow(call: Any, value: Any, app: Any, request: Context, **options: Any) -> None:
    result: AsyncResult = maybe_signature(call, app).apply(
        (value,), parent_id=request.id, root_id=request.root_id, **options
    )
    request.children.append(result)


def _after(recipe: Recipe, request: Context, status: str, value: Any) -> str | None:
    """Call the hooks and signals that belong to the end of a run; return a failure's traceback."""
    task, about = recipe.task, (request.id, request.args, request.kwargs)
    if status == "SUCCESS":
        if recipe.on_success is not None:
            call_hook(recipe.on_success, value, *about)
        signals.task_success.send(sender=task, result=value)
        if recipe.after_return is not None:
            call_hook(recipe.after_return, status, value, *about, None)
        return None
    info = ExceptionInfo(value, trace(value, 1))
    if status == "RETRY":
        if recipe.on_retry is not None:
            call_hook(recipe.on_retry, getattr(value, "exc", value), *about, info)
        signals.task_retry.send(sender=task, request=request, reason=value, einfo=info)
    elif status == "FAILURE":
        if recipe.on_failure is not None:
            call_hook(recipe.on_failure, value, *about, info)
        signals.task_failure.send(
            sender=task,
            task_id=request.id,
            exception=value,
            args=request.args,
            kwargs=request.kwargs,
            traceback=value.__traceback__,
            einfo=info,
        )
        if recipe.after_return is not None:
            call_hook(recipe.after_return, status, value, *about, info)
    return info.traceback
