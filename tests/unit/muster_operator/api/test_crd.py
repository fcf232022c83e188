"""The CustomResourceDefinitions as documents; the API server's own opinion is in tests/e2e/test_api.py."""

import pytest

from muster_operator.api.crd import crd
from muster_operator.api.manifests import KINDS
from muster_operator.api.meta import fields_of

DOCUMENTS = {kind.name: crd(kind) for kind in KINDS}


def version(kind: str) -> dict:
    [only] = DOCUMENTS[kind]["spec"]["versions"]
    return only


def test_the_kinds_are_named_as_designed():
    """Plurals, short names, scope, category and version are those that users were promised."""
    names = {kind: document["spec"]["names"] for kind, document in DOCUMENTS.items()}
    assert {kind: (each["plural"], each["shortNames"]) for kind, each in names.items()} == {
        "TaskQueue": ("taskqueues", ["tq"]),
        "WorkerPool": ("workerpools", ["wp"]),
        "Schedule": ("schedules", ["sched"]),
    }
    for kind, document in DOCUMENTS.items():
        assert document["metadata"]["name"] == f"{names[kind]['plural']}.muster.dev"
        assert (names[kind]["categories"], document["spec"]["scope"]) == (["muster"], "Namespaced")
        assert (version(kind)["name"], version(kind)["served"], version(kind)["storage"]) == (
            "v1beta1",
            True,
            True,
        )


def test_only_a_pool_can_be_scaled():
    """Every kind has a status of its own; the pool has a scale too."""
    assert version("TaskQueue")["subresources"] == version("Schedule")["subresources"] == {"status": {}}
    assert version("WorkerPool")["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_columns_point_at_fields_that_exist(kind):
    """A column that is not about a condition or metadata names a field of the schema."""
    for column in kind.columns:
        if column.path.startswith((".metadata", ".status.conditions")):
            continue
        schema = version(kind.name)["schema"]["openAPIV3Schema"]
        for name in column.path.strip(".").split("."):
            schema = schema["properties"][name]
        assert schema["type"] in {"string", "integer", "boolean"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_columns_are_few_status_first_and_age_last(kind):
    """At most eight columns with the name, readiness first, age last."""
    shown = [each.name for each in kind.columns if not each.wide]
    assert (shown[0], shown[-1]) == ("Ready", "Age")
    assert len(shown) <= 8


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_conditions_merge_by_type(kind):
    """Two writers of different conditions do not overwrite each other."""
    schema = version(kind.name)["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"][
        "conditions"
    ]
    assert (schema["x-kubernetes-list-type"], schema["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    assert schema["items"]["required"] == ["type", "status", "reason"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_rules_point_at_fields_that_exist(kind):
    """Every fieldPath of a rule can be followed, or the API server would refuse the CRD."""
    checked = follow(version(kind.name)["schema"]["openAPIV3Schema"])
    assert checked >= 1
    assert {each.name for each in fields_of(kind.cls)} == {"metadata", "spec", "status"}


def follow(schema: dict) -> int:
    count = 0
    for rule in schema.get("x-kubernetes-validations", []):
        at = schema
        for name in filter(None, rule.get("fieldPath", "").split(".")):
            at = at["properties"][name]
        count += 1
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return count + sum(follow(each) for each in inner)
