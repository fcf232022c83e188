"""`Muster`: the application, with Celery's surface. What users make once and decorate their tasks with.

It holds the configuration and the registry, and opens one connection for publishing and one for results,
each when it is first needed and anew in every process.
"""

import importlib
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self, cast, overload

from muster import signals
from muster.app import state
from muster.app.conf import Conf
from muster.app.control import Control
from muster.app.publishing import Draft, Sending, draft
from muster.app.result import AsyncResult
from muster.app.results import are_sent, connect_results
from muster.app.signature import Signature, signature
from muster.app.task import Task, argument_check, refuse_unknown
from muster.core import routing
from muster.core.effects import Publication
from muster.errors import (
    BrokerBlocked,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    MessageRejected,
)
from muster.exceptions import NotRegistered
from muster.results.base import Replies, ResultStore
from muster.settings.queues import queue_arguments
from muster.transports.base import Publisher

_apps: "weakref.WeakSet[Muster]" = weakref.WeakSet()


def _forget_connections() -> None:
    for app in _apps:
        app.forget_connections()


# a child must not speak over its parent's sockets, nor wait for a lock that another thread of it held
os.register_at_fork(after_in_child=_forget_connections)


class Registry(dict[str, Task]):
    """Tasks by name."""

    def __missing__(self, name: str) -> Task:
        raise NotRegistered(name)

    def register(self, task: Task) -> None:
        """Add a task under its own name."""
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Remove a task. Raises NotRegistered."""
        name = getattr(name, "name", name)
        if name not in self:
            raise NotRegistered(name)
        del self[name]


class Muster:
    """An application: tasks, configuration and the way to the broker.

    `main` names it, and stands for `__main__` in the names of tasks of a script. `broker` and `backend`
    are URLs (`broker_url`, `result_backend`), `include` modules that a worker imports.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | str | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        changes: Mapping[str, Any] | None = None,
        task_cls: type[Task] | str | None = None,
        set_as_current: bool = True,
        strict_typing: bool = True,
    ) -> None:
        self.main = main
        self.conf = Conf()
        self.strict_typing = strict_typing
        self.Task: type[Task] = _class(task_cls) if task_cls else Task
        self.control = Control(self)
        self.finalized = False
        self._tasks = Registry()
        self._lock = threading.RLock()
        self._sending: Sending | None = None
        self._publisher: Publisher | None = None
        self._results: ResultStore | None = None
        self._given_publisher: Publisher | None = None
        self._given_results: ResultStore | None = None
        self._discoveries: list[tuple[Any, str | None]] = []
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self.conf.update(changes or {})
        for name, value in (("broker_url", broker), ("result_backend", backend), ("include", include)):
            if value is not None:
                self.conf[name] = value
        _apps.add(self)
        if set_as_current:
            self.set_current()

    def set_current(self) -> None:
        """Make this the application that `current_app` and shared tasks mean."""
        state.set_current_app(self)

    set_default = set_current

    # --- configuration -------------------------------------------------------------------------------------

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from a module, class, object or mapping, or from what a name leads to.

        They are read when a setting is first needed, at once with `force`. With a `namespace` of
        `CELERY` the settings are the names `CELERY_…` (Django).
        """
        self.conf.add_source(obj, namespace or "")
        if force:
            try:
                _ = self.conf.settings
            except ConfigurationError:
                if not silent:
                    raise

    def add_defaults(self, values: Mapping[str, Any]) -> None:
        """Set what is not set yet."""
        for name, value in values.items():
            if name not in self.conf.given:
                self.conf[name] = value

    @property
    def sending(self) -> Sending:
        """What publishing needs of the configuration."""
        sending = self._sending
        if sending is None or sending.version != self.conf.version:
            settings = self.conf.settings
            sending = self._sending = Sending(
                version=self.conf.version,
                default_queue=settings.task_default_queue,
                default_priority=settings.task_default_priority,
                replies=are_sent(settings.result_backend),
                routers=routing.routers(_routes(settings.task_routes)),
                always_eager=bool(settings.task_always_eager),
                retry=bool(settings.task_publish_retry),
                retry_policy=dict(settings.task_publish_retry_policy),
            )
        return sending

    @property
    def has_results(self) -> bool:
        """Whether results are kept anywhere."""
        return self._given_results is not None or bool(self.conf.settings.result_backend)

    @property
    def result_expires_seconds(self) -> int:
        """How long results are kept; 0 for ever."""
        return int(self.conf.settings.result_expires or 0)

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    # --- tasks ---------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[..., Any], /) -> Task: ...
    @overload
    def task(self, **options: Any) -> Callable[[Callable[..., Any]], Task]: ...

    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: `@app.task` or `@app.task(name=…, bind=…, max_retries=…, …)`.

        Options are `bind` (the task is the first argument), `base` (a class to derive from), `name`,
        `typing`, and every attribute of Task.
        """
        if args:
            if len(args) > 1 or not callable(args[0]) or options:
                raise TypeError("app.task takes a function, or options by name")
            return self.add_task(args[0])
        options.pop("shared", None)
        options.pop("lazy", None)
        return lambda function: self.add_task(function, **options)

    def add_task(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        base: type[Task] | None = None,
        bind: bool = False,
        **attributes: Any,
    ) -> Task:
        """Register a function as a task; one that is registered under this name already is returned."""
        if attributes.get("serializer") not in {None, "json"}:
            raise ConfigurationError(
                f"task {function.__name__}: serializer {attributes['serializer']!r} is not available, "
                "messages are JSON; leave it out"
            )
        name = name or self.gen_task_name(function.__name__, function.__module__)
        if name in self._tasks:
            self._warn_of_two(name, function)
            return self._tasks[name]
        check = None
        if attributes.get("typing", self.strict_typing):
            check = argument_check(function, bound=bind)
        kind = type(
            function.__name__,
            (base or self.Task,),
            {
                "name": name,
                "run": function if bind else staticmethod(function),
                "_check": None if check is None else staticmethod(check),
                "__doc__": function.__doc__,
                "__module__": function.__module__,
                "__wrapped__": staticmethod(function),
                **attributes,
            },
        )
        task: Task = kind()
        task.__name__ = function.__name__  # type: ignore[attr-defined]
        task.__qualname__ = getattr(function, "__qualname__", function.__name__)  # type: ignore[attr-defined]
        return self._register(task)

    def _warn_of_two(self, name: str, function: Callable[..., Any]) -> None:
        known = getattr(type(self._tasks[name]), "__wrapped__", None)
        if known is None or _same(known, function):
            return  # a module that was imported twice
        warnings.warn(
            f"two functions share the task name {name!r}; calls reach the first. Give one of them name=…",
            stacklevel=4,
        )

    def register_task(self, task: Task | type[Task], **attributes: Any) -> Task:
        """Register a task that is a class of its own, or an instance of one."""
        made: Task = task() if isinstance(task, type) else task
        for attribute, value in attributes.items():
            setattr(made, attribute, value)
        if not made.name:
            made.name = self.gen_task_name(type(made).__name__, type(made).__module__)
        return self._register(made)

    def _register(self, task: Task) -> Task:
        task.bind(self)
        self._tasks[task.name] = task
        if self.finalized:
            self._annotate(task)
        return task

    def gen_task_name(self, name: str, module: str | None) -> str:
        """Return the name of a task that was given none: `module.function`."""
        if (module or "__main__") == "__main__" and self.main:
            module = self.main
        return f"{module}.{name}" if module else name

    @property
    def tasks(self) -> Registry:
        """All tasks by name; a missing one raises NotRegistered."""
        if not self.finalized:
            self.finalize()
        return self._tasks

    def finalize(self, auto: bool = False) -> None:  # noqa: ARG002 - Celery's signature
        """Let shared tasks join, apply `task_annotations`. Done by itself when tasks are looked up."""
        with self._lock:
            if self.finalized:
                return
            self.finalized = True
            for make in state.finalizers():
                make(self)
            for task in self._tasks.values():
                self._annotate(task)

    def _annotate(self, task: Task) -> None:
        annotations = self.conf.settings.task_annotations
        for annotation in annotations if isinstance(annotations, list | tuple) else [annotations]:
            if annotation is None:
                continue
            if isinstance(annotation, Mapping):
                found = [annotation.get("*"), annotation.get(task.name)]
            else:
                found = [annotation.annotate_any(), annotation.annotate(task)]
            for attributes in found:
                wrapped = [name for name in attributes or () if name.startswith("@")]
                if wrapped:
                    raise ConfigurationError(
                        f"task_annotations: {wrapped[0]!r} of {task.name} wraps a method: use a base class"
                    )
                task.annotate(attributes or {})

    # --- modules -------------------------------------------------------------------------------------------

    def autodiscover_tasks(
        self, packages: Any = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Have a worker import `<package>.<related_name>` of each package that has one.

        `packages` is a list or a function that returns one; without it they are Django's installed apps.
        """
        self._discoveries.append((packages, related_name))
        if force:
            self._discover()

    def _discover(self) -> None:
        while self._discoveries:
            packages, related_name = self._discoveries.pop(0)
            if packages is None:
                packages = _django_apps()
            for package in packages() if callable(packages) else packages:
                _import_related(package, related_name)

    def import_modules(self) -> None:
        """Import what a worker needs: `imports`, `include`, and what `autodiscover_tasks` has asked for."""
        signals.import_modules.send(sender=self)
        for module in (*self.conf.settings.imports, *self.conf.settings.include):
            importlib.import_module(module)
        self._discover()

    # --- sending -------------------------------------------------------------------------------------------

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send a task by its name, known here or not; options are those of `Task.apply_async`."""
        refuse_unknown(name, options)
        task = self._tasks.get(name)
        if task is not None:
            options = {**task.execution_options(), **options}
        return self.send(draft(self, name, args, kwargs, options, task), options)

    def send(self, made: Draft, options: Mapping[str, Any]) -> AsyncResult:
        """Publish a message that `draft` made; return the result that its task will have."""
        replies = self._replies
        if replies is not None:
            replies.listen()
        self.publish(made, options)
        result = AsyncResult(made.task_id, app=self)
        if made.headers["ignore_result"]:
            result.ignored = True
        frame = state.sender()
        if frame is not None and options.get("add_to_parent", True):
            frame.task.add_trail(result)
        return result

    def publish(self, made: Draft, options: Mapping[str, Any]) -> None:
        """Publish a message, again while the broker is away as far as the policy goes.

        Raises BrokerUnavailable.
        """
        sending = self.sending
        publications = (made.publication,)
        try:
            self.publisher.publish(publications)
        except BrokerUnavailable as error:
            if not (_is_tried_again(error) and options.get("retry", sending.retry)):
                raise
            self._publish_again(publications, {**sending.retry_policy, **(options.get("retry_policy") or {})})
        self.published(made)

    def published(self, made: Draft) -> None:
        """Tell receivers of `after_task_publish` that the broker has the message."""
        if signals.after_task_publish.receivers:
            signals.after_task_publish.send(
                sender=made.headers["task"],
                headers=made.headers,
                body=made.body,
                exchange="",
                routing_key=made.publication.queue,
            )

    def _publish_again(self, publications: tuple[Publication, ...], policy: Mapping[str, Any]) -> None:
        attempts, pause = policy.get("max_retries"), policy.get("interval_start") or 0
        done = 0
        while True:
            done += 1
            time.sleep(pause)
            try:
                self.publisher.publish(publications)
            except BrokerUnavailable as error:
                if not _is_tried_again(error) or (attempts is not None and done >= attempts):
                    raise
                pause = min(pause + (policy.get("interval_step") or 0), policy.get("interval_max") or 0)
            else:
                return

    @property
    def publisher(self) -> Publisher:
        """The connection to the broker, made when it is first needed; may be set to another Publisher."""
        if self._given_publisher is not None:
            return self._given_publisher
        if self._publisher is None:
            with self._lock:
                if self._publisher is None:
                    self._publisher = self._connect_publisher()
        return self._publisher

    @publisher.setter
    def publisher(self, publisher: Publisher | None) -> None:
        self._given_publisher = publisher

    def _connect_publisher(self) -> Publisher:
        from muster.transports.connect import connect_publisher

        settings = self.conf.settings
        if not settings.broker_url:
            raise ConfigurationError(
                "no broker is configured: give Muster(broker=…), the setting broker_url or CELERY_BROKER_URL"
            )
        return connect_publisher(
            settings.broker_url,
            settings.broker_transport_options,
            delayed_type=settings.broker_native_delayed_delivery_queue_type,
            create_missing_queues=settings.task_create_missing_queues,
            queue_arguments=queue_arguments(settings),
            pool_limit=settings.broker_pool_limit,
        )

    @property
    def results(self) -> ResultStore:
        """The result store, connected when it is first needed; may be set to another ResultStore."""
        if self._given_results is not None:
            return self._given_results
        if self._results is None:
            with self._lock:
                if self._results is None:
                    self._results = self._connect_results()
        return self._results

    @results.setter
    def results(self, results: ResultStore | None) -> None:
        self._given_results = results

    backend = results

    @property
    def _replies(self) -> Replies | None:
        """Where results come to that are sent to this process; None where they are stored.

        A running task has none: it does not wait for results.
        """
        if not self.sending.replies or self._given_results is not None or state.sender() is not None:
            return None
        return cast("Replies", self.results)

    @property
    def reply_to(self) -> str:
        """The queue that workers are to send results to, with `rpc://`; else empty."""
        replies = self._replies
        return "" if replies is None else replies.reply_to

    def _connect_results(self) -> ResultStore:
        settings = self.conf.settings
        if not settings.result_backend:
            raise ConfigurationError(
                "no result store is configured: give Muster(backend=…), the setting result_backend or "
                "CELERY_RESULT_BACKEND"
            )
        return connect_results(
            settings.result_backend,
            settings.result_backend_transport_options,
            broker_url=settings.broker_url or "",
            kept_seconds=self.result_expires_seconds,
        )

    def forget_connections(self) -> None:
        """Drop connections that belong to the parent process, without a word to the other side."""
        self._publisher = None
        self._results = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Give up the connections that were opened here; they are opened again when needed."""
        publisher, self._publisher = self._publisher, None
        results, self._results = self._results, None
        for connection in (publisher, results):
            if connection is not None:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- results and signatures ----------------------------------------------------------------------------

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult:  # noqa: N802 - Celery's name
        """Return the result of a task, by its id."""
        return AsyncResult(task_id, app=self, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that is sent through this application."""
        made: Signature = signature(*args, **{"app": self, **kwargs})
        return made

    @property
    def current_task(self) -> Task | None:
        """The task that is running here, None outside of any."""
        frame = state.running.get()
        return None if frame is None else frame.task

    current_worker_task = current_task

    def __repr__(self) -> str:
        return f"<Muster {self.main or '__main__'}>"


@overload
def shared_task(function: Callable[..., Any], /) -> Task: ...
@overload
def shared_task(**options: Any) -> Callable[[Callable[..., Any]], Task]: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task without an application: it joins every one, and means the current one's when it is used."""

    def make(function: Callable[..., Any]) -> Any:
        name = options.get("name")
        rest = {key: value for key, value in options.items() if key != "name"}

        def join(app: Muster) -> Task:
            return app.add_task(function, name=name, **rest)

        def find() -> Task:
            app = state.get_current_app()
            return app.tasks[name or app.gen_task_name(function.__name__, function.__module__)]

        state.on_finalize(join)
        for app in _apps:
            if app.finalized:
                join(app)
        return state.Proxy(find)

    if args:
        if len(args) > 1 or not callable(args[0]) or options:
            raise TypeError("shared_task takes a function, or options by name")
        return make(args[0])
    return make


def _same(one: Any, other: Any) -> bool:
    """Whether two functions stand in the same place of the same file."""
    codes = [getattr(each, "__code__", None) for each in (one, other)]
    places = [code and (code.co_filename, code.co_firstlineno) for code in codes]
    return one is other or (places[0] is not None and places[0] == places[1])


def _class(name: type[Task] | str) -> type[Task]:
    """Return a class by itself, or by the name that the application's author wrote for it."""
    if not isinstance(name, str):
        return name
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    found: type[Task] = getattr(importlib.import_module(module), attribute)
    return found


def _routes(routes: Any) -> Any:
    """Replace names of functions in `task_routes` by the functions."""
    if isinstance(routes, str):
        return _class(routes)
    if isinstance(routes, list | tuple):
        return [_class(route) if isinstance(route, str) else route for route in routes]
    return routes


def _django_apps() -> list[str]:
    if "django" not in sys.modules:
        raise ConfigurationError(
            "autodiscover_tasks() without packages looks into Django's apps, and Django is not in use: "
            "name the packages"
        )
    registry = importlib.import_module("django.apps").apps
    return [config.name for config in registry.get_app_configs()]


def _import_related(package: str, related_name: str | None) -> None:
    """Import a package and its `related_name` module, if it has one; errors inside of it are the user's."""
    importlib.import_module(package)
    if related_name is None:
        return
    name = f"{package}.{related_name}"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise


def _is_tried_again(error: BrokerUnavailable) -> bool:
    """Whether the policy of retries is for it: not where time changes nothing, or was waited for already."""
    return isinstance(error, MessageRejected) or not isinstance(error, BrokerRefused | BrokerBlocked)
