"""Whole manifests: what is taken, and what is refused with which sentence."""

import pytest
from hypothesis import given

from muster_operator.api.codec import InvalidObject, changes_refused
from muster_operator.api.manifests import KINDS, decode_manifest, decode_object, encode_object
from muster_operator.api.meta import Prop, element, fields_of, is_list, rules_of
from muster_operator.api.schedule import Schedule
from muster_operator.api.taskqueue import TaskQueue
from muster_operator.api.workerpool import PoolType, WorkerPool
from resource_strategies import attempts
from resources import (
    ALLOWED_CHANGES,
    EVERYTHING,
    REFUSED,
    REFUSED_CHANGES,
    Manifest,
    Refused,
    RefusedChange,
    schedule,
    task_queue,
    worker_pool,
)


def refusals(document: object) -> list[str]:
    with pytest.raises(InvalidObject) as refusal:
        decode_manifest(document)
    return [str(each) for each in refusal.value.problems]


@pytest.mark.parametrize(
    "manifest", EVERYTHING, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_a_full_manifest_survives_decoding_and_encoding(manifest: Manifest):
    """A manifest that uses every field is read, and what is written of it reads the same."""
    resource = decode_manifest(manifest)
    assert decode_manifest(encode_object(resource)) == resource
    assert decode_object(manifest) == resource


def test_the_full_manifests_are_full():
    """EVERYTHING uses every field of every spec, so the test above and the API server's see them all."""
    for kind in KINDS:
        spec = next(each.hint for each in fields_of(kind.cls) if each.name == "spec")
        used = set().union(*(paths(each["spec"]) for each in EVERYTHING if each["kind"] == kind.name))
        assert set(declared(spec)) - used == set()


def paths(document: object, path: str = "") -> set[str]:
    if isinstance(document, list):
        return set().union(*(paths(each, path) for each in document))
    if not isinstance(document, dict):
        return set()
    inner = (paths(each, f"{path}.{name}") for name, each in document.items())
    return {f"{path}.{name}" for name in document}.union(*inner)


def declared(cls: type, path: str = ""):
    for each in fields_of(cls):
        yield f"{path}.{each.json_name}"
        hint = element(each.hint) if is_list(each.hint) else each.hint
        if hasattr(hint, "__dataclass_fields__"):
            yield from declared(hint, f"{path}.{each.json_name}")


@pytest.mark.parametrize("case", REFUSED, ids=lambda each: each.id)
def test_what_is_impossible_is_refused_with_its_sentence(case: Refused):
    """Each manifest of the table is refused at its field, in its words."""
    with pytest.raises(InvalidObject) as refusal:
        decode_manifest(case.manifest)
    found = [
        each for each in refusal.value.problems if each.path == case.path and case.sentence in each.message
    ]
    assert found, str(refusal.value)


@pytest.mark.parametrize("case", REFUSED_CHANGES, ids=lambda each: each.id)
def test_what_cannot_change_is_named(case: RefusedChange):
    """Both manifests are valid, and turning one into the other is refused at its field, in its words."""
    [problem] = changes_refused(decode_manifest(case.before), decode_manifest(case.after))
    assert problem.path == case.path
    assert case.sentence in problem.message


@pytest.mark.parametrize(("before", "after"), ALLOWED_CHANGES)
def test_what_only_looks_like_a_change_is_allowed(before: Manifest, after: Manifest):
    """Naming the default, setting the type for the first time and ordinary changes are taken."""
    assert changes_refused(decode_manifest(before), decode_manifest(after)) == ()


def test_every_sentence_is_reached():
    """No rule and no pattern is without a manifest that breaks it."""
    reached = [each.sentence for each in (*REFUSED, *REFUSED_CHANGES)]
    spoken = {sentence for kind in KINDS for sentence in sentences(kind.cls)}
    assert [each for each in spoken if not any(part in each for part in reached)] == []


def sentences(cls: type):
    for each in rules_of(cls):
        yield each.message
    for each in fields_of(cls):
        hint = element(each.hint) if is_list(each.hint) else each.hint
        if isinstance(each.prop, Prop) and each.prop.sentence:
            yield each.prop.sentence
        if hasattr(hint, "__dataclass_fields__"):
            yield from sentences(hint)


@given(manifest=attempts())
def test_what_strict_takes_tolerant_takes_alike(manifest: Manifest):
    """A manifest that passes as a file has the same meaning when the operator reads it from the server."""
    try:
        resource = decode_manifest(manifest)
    except InvalidObject:
        return
    assert decode_object(manifest) == resource


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "a manifest must be an object with apiVersion, kind, metadata and spec"),
        ([], "a manifest must be an object with apiVersion, kind, metadata and spec"),
        ({}, "apiVersion: must be muster.dev/v1beta1 for TaskQueue, WorkerPool, Schedule, not None"),
        (
            {"apiVersion": "apps/v1", "kind": "Deployment"},
            "apiVersion: must be muster.dev/v1beta1 for TaskQueue, WorkerPool, Schedule, not 'apps/v1'",
        ),
        (
            task_queue() | {"apiVersion": "muster.dev/v1"},
            "apiVersion: must be muster.dev/v1beta1, not 'muster.dev/v1'",
        ),
        (
            task_queue() | {"kind": "Queue"},
            "kind: must be one of TaskQueue, WorkerPool, Schedule, not 'Queue'",
        ),
        (task_queue() | {"specs": 1}, "specs: is no field of this object; did you mean spec?"),
        (task_queue() | {"metadata": {}}, "metadata.name: is required"),
        (
            task_queue("Mail"),
            "metadata.name: must be the name of an object: lower-case letters, digits, - and .",
        ),
        (task_queue() | {"spec": None}, "spec: is required"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_sentence(document, problem):
    """Wrong documents, versions, kinds and names say what is expected."""
    assert refusals(document) == [problem]


def test_all_problems_are_told_at_once():
    """One run over a manifest names everything that is wrong with it."""
    assert refusals(worker_pool(images="a", replicas=-1, pool={"type": "solo", "concurrency": 2})) == [
        "spec.images: is no field of this object; did you mean image?",
        (
            "spec.pool.concurrency: a solo worker runs one task at a time: "
            "leave concurrency and autoscale out, or choose another type"
        ),
        "spec.replicas: must be at least 0, not -1",
    ]


def test_kubernetes_own_metadata_is_not_ours_to_judge():
    """Fields of metadata that Muster does not read, and a status in a file, are passed over."""
    manifest = task_queue() | {"status": {"depth": "many"}}
    manifest["metadata"] |= {"managedFields": [], "generateName": "x", "labels": {"a": "b"}}
    resource = decode_manifest(manifest)
    assert (resource.metadata.name, resource.metadata.labels) == ("mail", {"a": "b"})
    assert resource.status == TaskQueue(metadata=resource.metadata, spec=resource.spec).status


def test_what_is_left_out_follows_from_the_rest():
    """A queue is named by its object, its dead letters by the queue, and a pool is prefork."""
    queue = decode_manifest(task_queue("mail"))
    assert isinstance(queue, TaskQueue)
    assert (queue.queue_name, queue.dead_letter_name) == ("mail", "mail.dead")
    named = decode_manifest(task_queue(queueName="post", deadLetter={"queueName": "lost"}))
    assert isinstance(named, TaskQueue)
    assert (named.queue_name, named.dead_letter_name) == ("post", "lost")
    pool = decode_manifest(worker_pool())
    own = decode_manifest(worker_pool(pool={"customPool": "a.b:C"}))
    assert isinstance(pool, WorkerPool)
    assert isinstance(own, WorkerPool)
    assert (pool.spec.pool.effective_type, own.spec.pool.effective_type) == (PoolType.PREFORK, None)
    assert isinstance(decode_manifest(schedule(every="1m")), Schedule)
