"""Manifest files → what they declare, checked as an API server would check it.

`muster dev` calls `read`. Every refusal is one line: the file, the document's number, the field, what to do.
It knows nothing of processes or brokers.
"""

import base64
import binascii
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from muster.errors import ConfigurationError
from muster_operator.api.brokers import Column
from muster_operator.api.codec import InvalidObject
from muster_operator.api.manifests import Resource, decode_manifest
from muster_operator.api.names import GROUP
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import QueueType, TaskQueue
from muster_operator.api.workerpool import WorkerPool
from muster_operator.decide.conditions.taskqueue import without_effect

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""

ENDINGS = (".yaml", ".yml", ".json")
SHOWN_PROBLEMS = 3
"""How many problems of one document stand in its line."""

_UIDS = uuid.uuid5(uuid.NAMESPACE_DNS, "dev.muster.dev")


class ManifestError(ConfigurationError):
    """Raised when a manifest file cannot be read or is refused."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a file."""

    file: Path
    number: int
    """Counted from 1."""
    content: Any

    def refuse(self, message: str) -> ManifestError:
        """Return the error that says where it is wrong and how."""
        kind = self.content.get("kind") if isinstance(self.content, Mapping) else None
        name = _name(self.content)
        what = " ".join(str(each) for each in (kind, name) if each)
        return ManifestError(f"{self.file}, document {self.number}{f' ({what})' if what else ''}: {message}")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """All that the files declare, by namespace and name."""

    queues: Mapping[Key, TaskQueue] = field(default_factory=dict)
    pools: Mapping[Key, WorkerPool] = field(default_factory=dict)
    schedules: Mapping[Key, Schedule] = field(default_factory=dict)
    secrets: Mapping[Key, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Their decoded values: never shown."""
    folders: tuple[Path, ...] = ()
    """Where the files lie."""
    notes: tuple[str, ...] = ()
    """What is there and has no meaning on one computer."""


def read(paths: Sequence[Path], now: datetime) -> Declared:
    """Return what the files, and the manifest files right inside the folders, declare.

    `now` becomes the creation of every object. Raises ManifestError.
    """
    files = [file for path in paths for file in _files(path)]
    declared = declare([document for file in files for document in _documents(file)], now)
    if not declared.pools and not declared.queues and not declared.schedules:
        listed = ", ".join(str(path) for path in paths)
        raise ManifestError(f"{listed}: no TaskQueue, WorkerPool or Schedule is declared there; write one")
    return replace(declared, folders=tuple(dict.fromkeys(file.resolve().parent for file in files)))


def declare(documents: Sequence[Document], now: datetime) -> Declared:
    """Return what the documents declare. Raises ManifestError."""
    objects: dict[type, dict[Key, Any]] = {TaskQueue: {}, WorkerPool: {}, Schedule: {}, dict: {}}
    places: dict[tuple[type, Key], Document] = {}
    notes: list[str] = []
    for document in documents:
        content = document.content
        if isinstance(content, Mapping) and _is_foreign(content):
            notes.append(
                f"{document.file}: {content.get('kind')} {_name(content)} is for a cluster; left aside here"
            )
            continue
        made = _secret(document) if _is_secret(content) else _resource(document, now)
        key = _key(document) if isinstance(made, dict) else (made.metadata.namespace, made.metadata.name)
        earlier = places.setdefault((type(made), key), document)
        if earlier is not document:
            raise document.refuse(
                f"is declared in {earlier.file}, document {earlier.number}, already; remove one of them"
            )
        objects[type(made)][key] = made
    notes += _unkept(objects[TaskQueue], objects[dict])
    return Declared(
        queues=objects[TaskQueue],
        pools=objects[WorkerPool],
        schedules=objects[Schedule],
        secrets=objects[dict],
        notes=tuple(notes),
    )


def _unkept(queues: Mapping[Key, TaskQueue], secrets: Mapping[Key, Any]) -> Iterator[str]:
    """Yield what the embedded broker does not keep; of a broker that is named conditions say the same."""
    for (namespace, name), queue in queues.items():
        if (namespace, queue.spec.broker.secret_ref.name) in secrets:
            continue
        if queue.spec.type is QueueType.QUORUM:
            yield f"TaskQueue {name}: type Quorum is RabbitMQ's; one computer keeps one copy"
        if fields := without_effect(queue.spec, Column.SQLITE):
            yield f"TaskQueue {name}: no effect on the embedded broker: {', '.join(fields)}"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
        if not found:
            raise ManifestError(f"{path}: no file there ends in {', '.join(ENDINGS)}; name another folder")
        return found
    return [path]


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: what looks like a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _documents(file: Path) -> Iterator[Document]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ManifestError(f"{file}: is no text in UTF-8; save it as such") from None
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}; name another file") from None
    number = 0
    try:
        for content in yaml.load_all(text, _Loader):
            number += 1
            if content is not None:
                yield Document(file=file, number=number, content=content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ManifestError(f"{file}, document {number + 1}{where}: is no YAML: {problem}") from None


def _is_secret(content: Any) -> bool:
    return isinstance(content, Mapping) and (content.get("apiVersion"), content.get("kind")) == (
        "v1",
        "Secret",
    )


def _is_foreign(content: Mapping[str, Any]) -> bool:
    """Return whether it is a whole object of another API, such as a Deployment in the same folder."""
    version, kind = content.get("apiVersion"), content.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or _is_secret(content):
        return False
    return not version.startswith(f"{GROUP}/")


def _name(content: Any) -> str:
    metadata = content.get("metadata") if isinstance(content, Mapping) else None
    return str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""


def _key(document: Document) -> Key:
    name = _name(document.content)
    if not name:
        raise document.refuse("metadata.name: is required")
    return str(document.content["metadata"].get("namespace") or "default"), name


def _secret(document: Document) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in ("data", "stringData"):  # the latter wins, as in Kubernetes
        given = document.content.get(part) or {}
        if not isinstance(given, Mapping):
            raise document.refuse(f"{part}: must be an object of texts")
        for key, value in given.items():
            path = f"{part}.{key}"
            if not isinstance(value, str):
                raise document.refuse(f"{path}: must be a text; put it in quotes")
            values[str(key)] = value if part == "stringData" else _decoded(document, path, value)
    return values


def _decoded(document: Document, path: str, value: str) -> str:
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise document.refuse(
            f"{path}: must be text in base64; write it plainly under stringData instead"
        ) from None


def _resource(document: Document, now: datetime) -> Resource:
    try:
        made = decode_manifest(document.content)
    except InvalidObject as error:
        listed = [str(problem) for problem in error.problems]
        shown = "; ".join(listed[:SHOWN_PROBLEMS])
        more = len(listed) - SHOWN_PROBLEMS
        raise document.refuse(f"{shown}; and {more} more" if more > 0 else shown) from None
    metadata = made.metadata
    # The same object has the same UID in every run, so that what a kept broker knows of it still holds.
    identity = uuid.uuid5(_UIDS, f"{type(made).__name__} {metadata.namespace} {metadata.name}")
    metadata = replace(metadata, uid=str(identity), creation_timestamp=now, generation=1)
    return replace(made, metadata=metadata)
