"""Signatures: a call that can be kept, sent along and combined. Celery's dictionaries, field by field.

`chain` is all of the canvas so far. What else a message may carry (`group`, `chord`, …) is recognised by
`unsupported`, so that the executor refuses it with a sentence instead of running half of it.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from muster.app import state
from muster.app.publishing import Draft, draft, listed, new_id
from muster.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from muster.app.app import Muster
    from muster.app.result import AsyncResult, EagerResult
    from muster.app.task import Task

_KEPT: Final = frozenset({"group_id", "stamped_headers"})
"""Options that a later call does not change: others wait for them."""


def _item(key: str) -> Any:
    """Return a property that is an item of the dictionary."""

    def write(self: "Signature", value: Any) -> None:
        self[key] = value

    return property(lambda self: self[key], write)


class Signature(dict[str, Any]):
    """One call: task name, arguments and options. Also made from the dictionary form of one."""

    def __init__(
        self,
        task: Any = None,
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        type: Any = None,  # noqa: A002, ARG002 - Celery's name; a task is found by its name
        subtask_type: str | None = None,
        immutable: bool = False,
        app: "Muster | None" = None,
        **more: Any,
    ) -> None:
        self.bound_app = app
        if isinstance(task, dict):
            super().__init__({"args": (), "kwargs": {}, "options": {}, "subtask_type": None}, **task)
            self.setdefault("immutable", False)
            return
        if app is None:
            self.bound_app = getattr(task, "app", None)
        super().__init__(
            task=getattr(task, "name", task),
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=dict(options or {}, **more),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    task = _item("task")
    name = _item("task")
    args = _item("args")
    kwargs = _item("kwargs")
    options = _item("options")
    subtask_type = _item("subtask_type")
    immutable = _item("immutable")

    @property
    def id(self) -> str | None:
        """The task id, when it has one already."""
        found: str | None = self["options"].get("task_id")
        return found

    @property
    def app(self) -> "Muster":
        """The application it is sent through."""
        return self.bound_app or state.get_current_app()

    @property
    def type(self) -> "Task":
        """The task. Raises NotRegistered when it is not known here."""
        return self.app.tasks[self["task"]]

    def _merge(
        self, args: Any = None, kwargs: Any = None, options: Any = None
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Put a later call's arguments before ours, its options over ours."""
        mine = self["options"]
        changed = {
            name: value for name, value in (options or {}).items() if name not in _KEPT or name not in mine
        }
        merged = {**mine, **changed}
        if self["immutable"]:
            return self["args"], self["kwargs"], merged
        return (
            (*args, *self["args"]) if args else self["args"],
            {**self["kwargs"], **kwargs} if kwargs else self["kwargs"],
            merged,
        )

    def draft(self, app: "Muster", args: Any = (), **options: Any) -> Draft:
        """Return the message of this call, with `args` before its own; nothing is sent."""
        merged_args, kwargs, merged = self._merge(args, None, options)
        task = app.tasks.get(self["task"])
        if task is not None:
            merged = {**task.execution_options(), **merged}
        return draft(app, self["task"], merged_args, kwargs, merged, task)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        merged_args, merged_kwargs, _ = self._merge(args, kwargs)
        return self.type(*merged_args, **merged_kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> "AsyncResult":
        """Send it, with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> "AsyncResult":
        """Send it, with these arguments before and these options over its own."""
        given = {name: value for name, value in options.items() if value is not None}
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, given)
        task = self.app.tasks.get(self["task"])
        if task is not None:
            return task.apply_async(merged_args, merged_kwargs, **merged)
        return self.app.send_task(self["task"], merged_args, merged_kwargs, **merged)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> "EagerResult":
        """Run it here and now."""
        given = {name: value for name, value in options.items() if value is not None}
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, given)
        return self.type.apply(merged_args, merged_kwargs, **merged)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "Signature":
        """Return a copy, with these arguments before and these options over its own."""
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        made: Signature = maybe_signature(
            {**self, "args": tuple(merged_args), "kwargs": dict(merged_kwargs), "options": deepcopy(merged)},
            self.bound_app,
        )
        return made

    partial = clone

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> "Signature":
        """Return a copy with other arguments or options instead of its own."""
        copy = self.clone()
        given = {"args": args, "kwargs": kwargs, "options": options}
        copy.update({name: value for name, value in given.items() if value is not None})
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> "Signature":
        """Change its options; return itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Let arguments of a later call be left out, or not."""
        self["immutable"] = immutable

    def freeze(self, _id: str | None = None, root_id: str | None = None, **options: Any) -> "AsyncResult":
        """Give it its task id now; return the result that it will have."""
        mine = self["options"]
        mine.setdefault("task_id", _id or new_id())
        if root_id:
            mine["root_id"] = root_id
        mine.update({name: value for name, value in options.items() if value is not None})
        if "reply_to" not in mine and self.app.reply_to:  # whoever sends it, its result is for us
            mine["reply_to"] = self.app.reply_to
        return self.app.AsyncResult(mine["task_id"])

    def _add(self, option: str, signature: Any) -> Any:
        items = listed(self["options"].get(option)) or []
        if signature not in items:
            items.append(signature)
        self["options"][option] = items
        return signature

    def link(self, callback: Any) -> Any:
        """Have `callback` called with the result; return `callback`."""
        return self._add("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have `errback` called when it fails; return `errback`."""
        return self._add("link_error", errback)

    def on_error(self, errback: Any) -> "Signature":
        """Have `errback` called when it fails; return itself."""
        self.link_error(errback)
        return self

    def steps(self) -> "list[Signature]":
        """Return the calls that it makes one after another, as copies."""
        return [self.clone()]

    def __or__(self, other: Any) -> Any:
        return chain(self, other) if isinstance(other, Signature) else NotImplemented

    __ior__ = __or__

    def __invert__(self) -> Any:
        return self.apply_async().get()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Signature":
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return maybe_signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __repr__(self) -> str:
        arguments = [
            *map(repr, self["args"]),
            *(f"{name}={value!r}" for name, value in self["kwargs"].items()),
        ]
        return f"{self['task']}({', '.join(arguments)})"


class chain(Signature):  # noqa: N801 - Celery's name
    """Calls one after another, each with the result of the one before as its first argument."""

    def __init__(self, *tasks: Any, app: "Muster | None" = None, **options: Any) -> None:
        if len(tasks) == 1 and isinstance(tasks[0], list | tuple | Iterator):
            tasks = tuple(tasks[0])
        steps = [step for task in tasks for step in maybe_signature(task, app).steps()]
        for step in steps:
            what = unsupported([step])
            if what:
                raise ImproperlyConfigured(f"a chain cannot contain a {what} yet")
        super().__init__("celery.chain", (), {"tasks": steps}, options, subtask_type="chain", app=app)

    @property
    def tasks(self) -> "list[Signature]":
        """Its calls, in order."""
        found: list[Signature] = self["kwargs"]["tasks"]
        return found

    @property
    def app(self) -> "Muster":
        """The application it is sent through."""
        return (
            self.bound_app
            or next((task.bound_app for task in self.tasks if task.bound_app), None)
            or state.get_current_app()
        )

    def steps(self) -> "list[Signature]":
        """Return its calls as copies, with its own links where they belong."""
        steps = [task.clone() for task in self.tasks]
        for link in listed(self["options"].get("link")) or [] if steps else []:
            steps[-1].link(link)
        for errback in listed(self["options"].get("link_error")) or []:
            for step in steps:
                step.link_error(errback)
        return steps

    def _prepare(
        self, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> "tuple[Signature, dict[str, Any], AsyncResult]":
        """Return the first call, its options with the rest of the chain, and the result of the last."""
        options = {**self["options"], **options}
        links = {name: options.pop(name, None) for name in ("link", "link_error")}
        steps = chain(*self.tasks, **{name: link for name, link in links.items() if link}).steps()
        if not steps:
            raise ValueError("an empty chain cannot be sent: there is no task in it")
        steps[0] = steps[0].clone(() if self["immutable"] else args, kwargs)
        last_id, root_id = options.pop("task_id", None), options.get("root_id")
        if last_id:
            steps[-1]["options"]["task_id"] = last_id
        result = None
        for step in steps:
            frozen = step.freeze(root_id=root_id)
            frozen.parent, result = result, frozen
        assert result is not None
        rest = steps[:0:-1]
        if rest:
            options["chain"] = [dict(step) for step in rest] + list(options.get("chain") or [])
        return steps[0], options, result

    def draft(self, app: "Muster", args: Any = (), **options: Any) -> Draft:
        """Return the message of the first call, which carries the others; nothing is sent."""
        first, rest, _ = self._prepare(args, None, options)
        return first.draft(app, **rest)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> "AsyncResult":
        """Send the first call with the others; return the result of the last."""
        if self.app.sending.always_eager:
            return self.apply(args, kwargs, **options)
        given = {name: value for name, value in options.items() if value is not None}
        first, rest, result = self._prepare(args or (), kwargs, given)
        first.apply_async(**rest)
        return result

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> "EagerResult":
        """Run the calls here, one after another; return the result of the last."""
        result: EagerResult | None = None
        for step in self.steps():
            before = result
            result = step.apply(args if before is None else (before.get(),), kwargs, **options)
            result.parent = before
            kwargs = None
        assert result is not None
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


def maybe_signature(value: Any, app: "Muster | None" = None) -> Any:
    """Return the signature of a dictionary form; a signature, or None, comes back as it is."""
    if value is None or isinstance(value, Signature):
        return value
    if value.get("subtask_type") == "chain":
        made = chain(*value["kwargs"]["tasks"], app=app, **value.get("options") or {})
        made["immutable"] = bool(value.get("immutable"))
        return made
    return Signature(value, app=app)


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a signature from a task, a task's name, or the dictionary form of a signature."""
    if isinstance(varies, dict):
        made = maybe_signature(varies, kwargs.get("app"))
        return made.clone() if isinstance(varies, Signature) else made
    return Signature(varies, *args, **kwargs)


def unsupported(signatures: Any) -> str:
    """Return the kind of the first call that is more than a task or a chain of tasks, or ``""``."""
    for each in signatures:
        kind = each.get("subtask_type")
        if kind == "chain":
            found = unsupported(each.get("kwargs", {}).get("tasks") or ())
            if found:
                return found
        elif kind:
            return str(kind)
        elif (each.get("options") or {}).get("chord"):
            return "chord"
    return ""
