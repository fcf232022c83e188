"""Watches, by kopf: its low-level handlers and indexes, and nothing else of it.

No finalizer, annotation, timer or peering of kopf's ever touches an object. An index handler sees every
state of an object first, and handlers of events wait until all indexes are filled, so no pass sees half a
cluster. The port is `watch(...)`: a store to fill, a callback for keys, a flag to stop.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import kopf

from muster_operator.adapters.connection import Connection
from muster_operator.api.names import GROUP, LABEL_ROLE, VERSION

from .keys import Key
from .roll_call import Called
from .store import Store

RESOURCES: Final[Sequence[tuple[str, str, str, str, bool]]] = (
    (GROUP, VERSION, "taskqueues", "TaskQueue", False),
    (GROUP, VERSION, "workerpools", "WorkerPool", False),
    (GROUP, VERSION, "schedules", "Schedule", False),
    ("apps", "v1", "deployments", "Deployment", True),
    ("", "v1", "pods", "Pod", True),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", False),
)
"""(group, version, plural, kind, only ours by label)"""
CALLED: Final = tuple(
    Called(
        api_version=f"{group}/{version}" if group else version, kind=kind, selector=LABEL_ROLE if ours else ""
    )
    for group, version, _, kind, ours in RESOURCES
)
"""The same for roll calls."""

RIGHTS: Final = tuple(
    (group, plural, verb) for group, _, plural, _, _ in RESOURCES for verb in ("get", "list", "watch")
)
"""(group, resource, verb) of what the watches ask for."""
RIGHTS_CLUSTER_WIDE: Final = tuple(
    ("apiextensions.k8s.io", "customresourcedefinitions", verb) for verb in ("list", "watch")
)
"""What kopf looks at besides, where it watches the whole cluster: kinds that come and go."""


def _registry(
    connection: Connection, store: Store, changed: Callable[[Key], None], listed: Callable[[], None]
) -> Any:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> Any:
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_data=connection.ca_data,
            certificate_data=connection.certificate,
            private_key_data=connection.key,
            token=connection.authorization().get("Authorization", "").removeprefix("Bearer ") or None,
        )

    for group, version, plural, kind, _ in RESOURCES:
        _watch(registry, (group, version, plural), kind, store, changed, listed)
    return registry


def _selector(group: str, version: str, plural: str) -> Any:
    return (version, plural) if not group else (group, version, plural)


def _watch(
    registry: Any,
    resource: tuple[str, str, str],
    kind: str,
    store: Store,
    changed: Callable[[Key], None],
    listed: Callable[[], None],
) -> None:
    plural = resource[-1]

    # an id for each: kopf tells handlers apart by the names of their functions. Coroutines, since kopf runs
    # plain functions in threads, beside the loop that reads the store
    @kopf.index(*_selector(*resource), id=f"store-{plural}", registry=registry)
    async def index(body: Any, **_: Any) -> None:
        store.put(kind, {**body, "kind": kind})

    @kopf.on.event(*_selector(*resource), id=f"keys-{plural}", registry=registry)
    async def event(event: Any, body: Any, **_: Any) -> None:
        if event["type"] == "DELETED":
            store.drop(kind, body)
        else:
            store.put(kind, {**body, "kind": kind})
        if event["type"] is None:  # of a list, not of a watch
            listed()
        for key in store.concerned(kind, body):
            changed(key)


async def watch(
    connection: Connection,
    store: Store,
    changed: Callable[[Key], None],
    *,
    listed: Callable[[], None],
    namespaces: Sequence[str],
    started: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Watch until `stop` is set. `namespaces` empty: the whole cluster.

    Sets `started` when the first lists are on their way. `listed` is told of each object that comes by a
    list: at the start, and when a watch was broken for so long that objects may have gone unseen.
    """
    logging.getLogger("kopf").setLevel(logging.WARNING)
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.finalizer = ""  # nothing of ours can ask for one; it is never written
    # with namespaces listed there are rights in them only, and kopf would ask for a minute for more
    settings.scanning.disabled = bool(namespaces)
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    for group, version, plural, _, ours in RESOURCES:
        if ours:  # the API server sends no others
            settings.watching.label_selectors[_selector(group, version, plural)] = LABEL_ROLE
    await kopf.operator(
        registry=_registry(connection, store, changed, listed),
        settings=settings,
        identity="muster-operator",  # type: ignore[arg-type]  # else kopf looks for a user's name, and a pod has none
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        ready_flag=started,
        stop_flag=stop,
    )
