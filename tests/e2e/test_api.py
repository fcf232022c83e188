"""The resources on a real API server: what it fills in, refuses, scales and shows.

It needs no operator: everything here is done by the CRDs alone.
"""

import json
import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings

from kube import ApiException, Cluster
from muster_operator.api.codec import InvalidObject
from muster_operator.api.durations import LONGEST, format_duration, parse_duration
from muster_operator.api.manifests import KINDS, decode_manifest, decode_object, encode_object
from resource_strategies import attempts
from resources import (
    ALLOWED_CHANGES,
    API_VERSION,
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

GROUP_PATH = f"/apis/{API_VERSION}"
PLURALS = {kind.name: kind.plural for kind in KINDS}


class Server:
    """The API server at the level of requests, where validation, scale and tables can be asked for."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def request(
        self, method: str, path: str, body: Any = None, *, accept: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """Send one request; ApiException carries the server's refusal."""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = self.cluster.dynamic.request(
            method,
            path,
            body=body,
            query_params=list(query.items()),
            header_params={"Accept": accept},
            content_type=content,
            serialize=False,
        )
        return json.loads(answer.data)

    def path(self, manifest: Manifest, *rest: str) -> str:
        parts = [GROUP_PATH, "namespaces", self.namespace, PLURALS[manifest["kind"]], *rest]
        return "/".join(parts)

    def create(self, manifest: Manifest, *, validation: str = "Strict", dry_run: bool = False) -> Manifest:
        query = {"fieldValidation": validation} | ({"dryRun": "All"} if dry_run else {})
        return self.request("POST", self.path(manifest), manifest, **query)

    def patch(self, manifest: Manifest, change: Manifest, *subresource: str) -> Manifest:
        return self.request("PATCH", self.path(manifest, manifest["metadata"]["name"], *subresource), change)

    def replace(self, manifest: Manifest) -> Manifest:
        path = self.path(manifest, manifest["metadata"]["name"])
        version = self.request("GET", path)["metadata"]["resourceVersion"]
        metadata = manifest["metadata"] | {"resourceVersion": version}
        return self.request("PUT", path, manifest | {"metadata": metadata}, fieldValidation="Strict")

    def table(self, manifest: Manifest) -> tuple[list[str], dict[str, Any]]:
        """Return the default columns' names, and the first row by column, as `kubectl get` would show it."""
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        shown = self.request("GET", self.path(manifest), accept=accept)
        columns = shown["columnDefinitions"]
        row = dict(zip((each["name"] for each in columns), shown["rows"][0]["cells"], strict=True))
        return [each["name"] for each in columns if each["priority"] == 0], row


@pytest.fixture(scope="module")
def server(crds: Cluster) -> Iterator[Server]:
    """The API server and a namespace that the tests of this module share."""
    namespace = f"resources-{secrets.token_hex(3)}"
    crds.create_namespace(namespace)
    yield Server(crds, namespace)
    crds.delete_namespace(namespace)


@pytest.fixture
def clean(server: Server) -> Iterator[Server]:
    """The same, emptied of Muster's objects afterwards."""
    yield server
    for plural in PLURALS.values():
        server.request("DELETE", f"{GROUP_PATH}/namespaces/{server.namespace}/{plural}")


def _message(error: ApiException) -> str:
    return json.loads(error.body)["message"]


@pytest.mark.parametrize(
    "manifest", EVERYTHING, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_every_field_is_known_and_kept(server: Server, manifest: Manifest):
    """Strict validation takes manifests that use every field, and nothing of them is dropped or changed."""
    stored = server.create(manifest, dry_run=True)
    assert decode_object(stored).spec == decode_manifest(manifest).spec
    assert _is_part_of(manifest["spec"], stored["spec"])


def _is_part_of(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and _is_part_of(each, whole[key]) for key, each in part.items())
    return part == whole


@pytest.mark.parametrize(
    "manifest", [task_queue(), worker_pool(), schedule(every="1s")], ids=lambda each: each["kind"]
)
def test_defaults_are_filled_in_by_the_server(server: Server, manifest: Manifest):
    """What the server stores of the smallest manifest is what Python makes of it, default for default."""
    stored = server.create(manifest, dry_run=True)
    made = encode_object(decode_manifest(manifest))["spec"]
    assert stored["spec"] == made
    assert len(made) > len(manifest["spec"])


def test_defaults_fill_in_beside_what_is_given(server: Server):
    """An object that is given in part gets the rest of its defaults, at every depth."""
    given = worker_pool(scaling={"behavior": {"scaleDown": {"selectPolicy": "Min"}}})
    stored = server.create(given, dry_run=True)
    scaling = stored["spec"]["scaling"]
    assert scaling["behavior"] == {
        "scaleUp": {"stabilizationSeconds": 0, "selectPolicy": "Max"},
        "scaleDown": {"stabilizationSeconds": 60, "selectPolicy": "Min"},
    }
    assert (scaling["mode"], scaling["maxReplicas"], stored["spec"]["replicas"]) == ("Managed", 10, 1)


@pytest.mark.parametrize("case", REFUSED, ids=lambda each: each.id)
def test_what_is_impossible_is_refused_with_its_sentence(server: Server, case: Refused):
    """The server refuses each manifest of the table, at the field and in the words that the table names."""
    with pytest.raises(ApiException) as refusal:
        server.create(case.manifest, dry_run=True)
    assert refusal.value.status == 422
    causes = json.loads(refusal.value.body)["details"]["causes"]
    assert [
        each
        for each in causes
        if each["field"] == (case.path or "<nil>") and case.sentence in each["message"]
    ], causes


@pytest.mark.parametrize("case", REFUSED_CHANGES, ids=lambda each: each.id)
def test_what_cannot_change_is_kept(clean: Server, case: RefusedChange):
    """A change that would leave tasks behind is refused with its sentence, and the object stays."""
    stored = clean.create(case.before)
    with pytest.raises(ApiException) as refusal:
        clean.replace(case.after)
    assert refusal.value.status == 422
    assert case.path in _message(refusal.value)
    assert case.sentence in _message(refusal.value)
    kept = clean.request("GET", clean.path(case.before, case.before["metadata"]["name"]))
    assert kept["spec"] == stored["spec"]


@pytest.mark.parametrize(("before", "after"), ALLOWED_CHANGES)
def test_what_only_looks_like_a_change_is_allowed(clean: Server, before: Manifest, after: Manifest):
    """Naming what was the default, setting the type for the first time and ordinary changes are taken."""
    clean.create(before)
    assert clean.replace(after)["metadata"]["generation"] == 2


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(manifest=attempts())
def test_the_server_and_python_agree(server: Server, manifest: Manifest):
    """Of arbitrary manifests the server takes those that Python takes, and they mean the same."""
    try:
        expected = decode_manifest(manifest)
    except InvalidObject as error:
        note(f"Python refused it: {error}")
        with pytest.raises(ApiException) as refusal:
            server.create(manifest, dry_run=True)
        assert refusal.value.status in {400, 422}
    else:
        assert decode_object(server.create(manifest, dry_run=True)).spec == expected.spec


@pytest.mark.parametrize("text", ["90s", "1d", "1d12h", "36h", "1d500ms", "2d3h4m5s6ms", "6d86400s"])
def test_the_server_measures_durations_as_python_does(server: Server, text: str):
    """To CEL each form is as long as to Python: a drain of that time will do, a millisecond less not."""
    length = parse_duration(text)
    enough, short = format_duration(length), format_duration(length - timedelta(milliseconds=1))
    server.create(worker_pool(limits={"timeLimit": text}, drain={"timeout": enough}), dry_run=True)
    with pytest.raises(ApiException, match=r"drain\.timeout must be at least limits\.timeLimit"):
        server.create(worker_pool(limits={"timeLimit": text}, drain={"timeout": short}), dry_run=True)


def test_the_longest_duration_is_taken(server: Server):
    """What the pattern lets through, the server can hold."""
    longest = format_duration(LONGEST)
    stored = server.create(task_queue(messageTTL=longest), dry_run=True)
    assert stored["spec"]["messageTTL"] == longest


def test_an_unknown_field_is_refused_by_name(server: Server):
    """Under strict validation, kubectl's default, a misspelt field is refused with its full path."""
    with pytest.raises(ApiException) as refusal:
        server.create(worker_pool(scaling={"maxReplica": 3}), dry_run=True)
    assert refusal.value.status == 400
    assert 'unknown field "spec.scaling.maxReplica"' in _message(refusal.value)


def test_an_unknown_field_is_dropped_for_clients_that_do_not_ask(server: Server):
    """Without strict validation the server does as with any resource: it drops the field."""
    stored = server.create(worker_pool(scaling={"maxReplica": 3}), validation="Ignore", dry_run=True)
    assert "maxReplica" not in stored["spec"]["scaling"]


def test_users_own_values_pass_through(server: Server):
    """Arguments keep their nulls and shapes, and a pod template keeps every field."""
    values = [None, 1, -2.5, "text", True, [None, [1]], {"deep": {"null": None}}]
    stored = server.create(
        schedule(every="1m", args=values, kwargs={"all": values, "none": None}), dry_run=True
    )
    assert (stored["spec"]["args"], stored["spec"]["kwargs"]) == (values, {"all": values, "none": None})
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"tolerations": [{"operator": "Exists"}]}}
    assert server.create(worker_pool(template=template), dry_run=True)["spec"]["template"] == template


def test_the_scale_subresource_reads_and_writes_replicas(clean: Server):
    """`kubectl scale` and an HPA see spec.replicas, status.replicas and a selector, and can set the first."""
    pool = worker_pool(scaling={"mode": "External"}, replicas=2)
    clean.create(pool)
    clean.patch(pool, {"status": {"replicas": 1, "selector": "muster.dev/pool=mail"}}, "status")
    scale = clean.request("GET", clean.path(pool, "mail", "scale"))
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 2})
    assert scale["status"] == {"replicas": 1, "selector": "muster.dev/pool=mail"}
    clean.patch(pool, {"spec": {"replicas": 7}}, "scale")
    assert clean.request("GET", clean.path(pool, "mail"))["spec"]["replicas"] == 7


def test_the_status_is_written_apart_from_the_spec(clean: Server):
    """A write to the status leaves the spec alone, and a write to the object leaves the status alone."""
    queue = task_queue()
    clean.create(queue)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "AsDeclared",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-31T08:00:00Z",
    }
    status = {"depth": 5, "oldestAge": "90s", "oldestAgeSource": "Tracked", "conditions": [condition]}
    written = clean.patch(queue, {"status": status, "spec": {"maxLength": 9}}, "status")
    assert (written["metadata"]["generation"], "maxLength" in written["spec"]) == (1, False)
    ignored = clean.patch(queue, {"status": {"depth": 6}, "spec": {"maxLength": 9}})
    assert (ignored["status"], ignored["metadata"]["generation"]) == (status, 2)
    assert decode_object(ignored).status.conditions[0].reason == "AsDeclared"


def test_the_columns_show_the_status_first_and_the_age_last(clean: Server):
    """The columns begin with name and readiness, end with the age, and hold the status' values."""
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "AsDeclared", "message": ""}]}
    pool, queue, tick = worker_pool(), task_queue(), schedule(every="1m")
    for manifest, status in (
        (queue, {"depth": 12, "inFlight": 3, "queueName": "mail", "type": "Redis", "deadLetters": 0}),
        (pool, {"desired": 4, "ready": 3, "busy": 17, "depth": 12}),
        (tick, {"timing": "every 1m", "nextRun": {"time": "2026-01-31T08:00:00Z", "taskId": "a"}}),
    ):
        clean.create(manifest)
        clean.patch(manifest, {"status": status | ready}, "status")
    columns, row = clean.table(queue)
    assert columns == ["Name", "Ready", "Queue", "Type", "Depth", "InFlight", "Dead", "Age"]
    assert [row[each] for each in columns[:-1]] == ["mail", "True", "mail", "Redis", 12, 3, 0]
    columns, row = clean.table(pool)
    assert columns == ["Name", "Ready", "Desired", "Workers", "Busy", "Depth", "Paused", "Age"]
    assert [row[each] for each in columns[:-2]] == ["mail", "True", 4, 3, 17, 12]
    columns, row = clean.table(tick)
    assert columns == ["Name", "Ready", "When", "Zone", "Suspended", "Last", "Next", "Age"]
    assert [row[each] for each in ("When", "Zone", "Suspended", "Next")] == [
        "every 1m",
        "Etc/UTC",
        False,
        "2026-01-31T08:00:00Z",
    ]
    assert row["Reason"] == "AsDeclared"


def test_short_names_and_the_category_are_served(server: Server):
    """`kubectl get tq`, `wp`, `sched` and `muster` name the kinds."""
    resources = server.request("GET", GROUP_PATH)["resources"]
    kinds = {each["kind"]: each for each in resources if "/" not in each["name"] and each["kind"] in PLURALS}
    assert {name: each["shortNames"] for name, each in kinds.items()} == {
        "TaskQueue": ["tq"],
        "WorkerPool": ["wp"],
        "Schedule": ["sched"],
    }
    assert all(each["categories"] == ["muster"] for each in kinds.values())
    assert {each["name"] for each in resources if "/" in each["name"]} == {
        "taskqueues/status",
        "workerpools/status",
        "workerpools/scale",
        "schedules/status",
    }
