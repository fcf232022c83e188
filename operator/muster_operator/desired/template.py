"""A user's pod template, merged over ours.

`desired.deployment` calls it with both templates as JSON. The rule, which `docs/reference/template.md` tells
users:

* Objects are merged key by key; the user's value wins; `null` removes ours.
* These lists are merged by the key that tells their items apart: `containers`, `initContainers`, `volumes`,
  `env` and `imagePullSecrets` by `name`, `ports` by `containerPort`, `volumeMounts` by `mountPath`,
  `topologySpreadConstraints` by `topologyKey`. Items of ours keep their place, new ones follow in the user's
  order; an item with `$patch: delete` removes ours.
* Any other list replaces ours whole.
* What the operator itself depends on is Muster's and stays: `PROTECTED` names each field and what to write
  instead.

The API server judges the outcome; nothing here checks it.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from muster_operator.api.names import GROUP, WORKER_CONTAINER

Json = dict[str, Any]

MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}

FREE_VARIABLES = frozenset({"MUSTER_LOG_LEVEL", "MUSTER_LOG_FORMAT"})
"""Of the variables of the contract, those that no field of a WorkerPool sets."""

_SPEC = "spec"
_WORKER = f"containers[{WORKER_CONTAINER}]"

PROTECTED: Mapping[str, str] = {
    "metadata": "write an object; Muster's labels and annotations stay",
    "metadata.labels": "write an object; Muster's labels stay",
    "metadata.annotations": "write an object; Muster's annotations stay",
    "metadata.name": "the ReplicaSet names its pods",
    "metadata.namespace": "workers run in the WorkerPool's namespace",
    f"metadata.labels[{GROUP}/*]": "the operator finds its pods by them",
    f"metadata.annotations[{GROUP}/*]": "the operator keeps its own notes there",
    "spec.restartPolicy": "a Deployment's pods always restart",
    "spec.terminationGracePeriodSeconds": "set spec.drain.timeout",
    f"spec.{_WORKER}.image": "set spec.image",
    f"spec.{_WORKER}.env[MUSTER_*]": "set the WorkerPool's own field; only MUSTER_LOG_* is free",
    f"spec.{_WORKER}.ports[metrics]": "the probes and monitors look there",
}
"""Path → why it stays, or what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A field of the user's template that was left out."""

    path: str
    remedy: str


def merge_template(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Json, tuple[Refusal, ...]]:
    """Return `theirs` merged over `ours`, and what of `theirs` was left out. Neither is changed."""
    allowed, refusals = _allowed(theirs)
    return _merge(deepcopy(dict(ours)), allowed), refusals


def _merge(base: Json, over: Mapping[str, Any]) -> Json:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            held = merged.get(key)
            merged[key] = _merge(held if isinstance(held, dict) else {}, value)
        elif isinstance(value, list) and key in MERGE_KEYS and _keyed(value, MERGE_KEYS[key]):
            held = merged.get(key)
            merged[key] = _merge_list(held if isinstance(held, list) else [], value, MERGE_KEYS[key])
        else:
            merged[key] = deepcopy(value)
    return merged


def _keyed(items: Sequence[Any], key: str) -> bool:
    return all(isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in items)


def _merge_list(base: Sequence[Json], over: Sequence[Mapping[str, Any]], key: str) -> list[Json]:
    merged = {item.get(key): item for item in base}
    for item in over:
        identity = item[key]
        if item.get("$patch") == "delete":
            merged.pop(identity, None)
        else:
            merged[identity] = _merge(merged.get(identity, {}), item)
    return list(merged.values())


def _allowed(theirs: Mapping[str, Any]) -> tuple[Json, tuple[Refusal, ...]]:
    """Return a copy of the user's template without what is protected, and what that was."""
    template = deepcopy(dict(theirs))
    refusals: list[Refusal] = []

    def refuse(path: str) -> None:
        refusals.append(Refusal(path=path, remedy=PROTECTED[path]))

    if "metadata" in template and not isinstance(template["metadata"], dict):
        _drop_key(template, "metadata", lambda: refuse("metadata"))
    metadata = template.get("metadata")
    if isinstance(metadata, dict):
        for key in ("name", "namespace"):
            _drop_key(metadata, key, lambda key=key: refuse(f"metadata.{key}"))  # type: ignore[misc]
        for field in ("labels", "annotations"):
            held = metadata.get(field)
            if field in metadata and not isinstance(held, dict):
                _drop_key(metadata, field, lambda field=field: refuse(f"metadata.{field}"))  # type: ignore[misc]
            elif isinstance(held, dict):
                for key in [key for key in held if key.startswith(f"{GROUP}/")]:
                    _drop_key(held, key, lambda field=field: refuse(f"metadata.{field}[{GROUP}/*]"))  # type: ignore[misc]
    spec = template.get(_SPEC)
    if isinstance(spec, dict):
        for key in ("restartPolicy", "terminationGracePeriodSeconds"):
            _drop_key(spec, key, lambda key=key: refuse(f"spec.{key}"))  # type: ignore[misc]
        containers = spec.get("containers")
        for container in containers if isinstance(containers, list) else ():
            if isinstance(container, dict) and container.get("name") == WORKER_CONTAINER:
                _drop_key(container, "image", lambda: refuse(f"spec.{_WORKER}.image"))
                _drop_items(
                    container,
                    "env",
                    lambda item: _is_ours(str(item.get("name", ""))),
                    lambda: refuse(f"spec.{_WORKER}.env[MUSTER_*]"),
                )
                _drop_items(
                    container,
                    "ports",
                    lambda item: item.get("name") == "metrics",
                    lambda: refuse(f"spec.{_WORKER}.ports[metrics]"),
                )
    unique = {refusal.path: refusal for refusal in refusals}
    return template, tuple(unique.values())


def _is_ours(variable: str) -> bool:
    return variable.startswith("MUSTER_") and variable not in FREE_VARIABLES


def _drop_key(held: Json, key: str, refuse: Callable[[], None]) -> None:
    if key in held:
        del held[key]
        refuse()


def _drop_items(
    held: Json, key: str, unwanted: Callable[[Mapping[str, Any]], bool], refuse: Callable[[], None]
) -> None:
    items = held.get(key)
    if not isinstance(items, list):
        return
    kept = [item for item in items if not (isinstance(item, Mapping) and unwanted(item))]
    if len(kept) < len(items):
        held[key] = kept
        refuse()
