"""A user's template over ours."""

from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.decide.slots import slots_per_worker
from muster_operator.desired.deployment import worker_version
from muster_operator.desired.template import PROTECTED, merge_template
from resource_strategies import JSON
from worlds import SECRET, pool_of, queue_of

OURS = {
    "metadata": {"labels": {"muster.dev/pool": "mail"}, "annotations": {"muster.dev/x": "1"}},
    "spec": {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 615,
        "securityContext": {"runAsNonRoot": True},
        "containers": [
            {
                "name": "worker",
                "image": "shop:1",
                "args": ["worker"],
                "env": [{"name": "MUSTER_APP", "value": "shop"}],
                "ports": [{"name": "metrics", "containerPort": 9540}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def merged(spec):
    template, refusals = merge_template(OURS, {"spec": spec})
    assert refusals == ()
    return template["spec"]


def worker_of(**fields):
    return merged({"containers": [{"name": "worker"} | fields]})["containers"][0]


def test_an_empty_template_changes_nothing():
    """And neither side is ever changed in place."""
    before = deepcopy(OURS)
    assert merge_template(OURS, {}) == (OURS, ())
    merge_template(OURS, {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}})
    assert before == OURS


def test_objects_merge_key_by_key():
    """The user's value wins, the rest stays."""
    assert merged({"securityContext": {"fsGroup": 5}})["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroup": 5,
    }
    assert merged({"automountServiceAccountToken": True})["automountServiceAccountToken"] is True


def test_null_removes_ours():
    """As kubectl's patches do."""
    assert "securityContext" not in merged({"securityContext": None})


def test_the_worker_container_is_merged_and_others_stand_beside_it():
    """By name, ours first."""
    spec = merged(
        {
            "containers": [
                {"name": "proxy", "image": "p"},
                {"name": "worker", "resources": {"limits": {"cpu": "1"}}},
            ]
        }
    )
    assert [each["name"] for each in spec["containers"]] == ["worker", "proxy"]
    assert spec["containers"][0]["image"] == "shop:1"
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("field", "theirs", "names"),
    [
        ("env", [{"name": "A", "value": "1"}], ["MUSTER_APP", "A"]),
        ("env", [{"name": "MUSTER_LOG_LEVEL", "value": "DEBUG"}], ["MUSTER_APP", "MUSTER_LOG_LEVEL"]),
        ("ports", [{"name": "web", "containerPort": 80}], ["metrics", "web"]),
        ("volumeMounts", [{"name": "data", "mountPath": "/data"}], ["tmp", "data"]),
        ("volumeMounts", [{"name": "big", "mountPath": "/tmp"}], ["big"]),
        ("volumeMounts", [{"mountPath": "/tmp", "$patch": "delete"}], []),
    ],
    ids=str,
)
def test_lists_with_a_key_are_merged_by_it(field, theirs, names):
    """Environment by name, ports by number, mounts by path; `$patch: delete` removes ours."""
    assert [each["name"] for each in worker_of(**{field: theirs})[field]] == names


def test_other_lists_replace_ours_whole():
    """There is no telling which argument stands for which."""
    assert worker_of(args=["worker", "-l", "DEBUG"])["args"] == ["worker", "-l", "DEBUG"]
    assert merged({"tolerations": [{"key": "a"}]})["tolerations"] == [{"key": "a"}]


@pytest.mark.parametrize(
    ("theirs", "path"),
    [
        ({"metadata": None}, "metadata"),
        ({"metadata": {"labels": None}}, "metadata.labels"),
        ({"metadata": {"annotations": "x"}}, "metadata.annotations"),
        ({"metadata": {"name": "x"}}, "metadata.name"),
        ({"metadata": {"namespace": "x"}}, "metadata.namespace"),
        ({"metadata": {"labels": {"muster.dev/pool": "x"}}}, "metadata.labels[muster.dev/*]"),
        ({"metadata": {"annotations": {"muster.dev/x": "2"}}}, "metadata.annotations[muster.dev/*]"),
        ({"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy"),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "spec.terminationGracePeriodSeconds"),
        (
            {"spec": {"containers": [{"name": "worker", "image": "other"}]}},
            "spec.containers[worker].image",
        ),
        (
            {"spec": {"containers": [{"name": "worker", "env": [{"name": "MUSTER_APP", "value": "x"}]}]}},
            "spec.containers[worker].env[MUSTER_*]",
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "worker", "ports": [{"name": "metrics", "containerPort": 1}]}]
                }
            },
            "spec.containers[worker].ports[metrics]",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_the_operator_depends_on_stays_and_is_named(theirs, path):
    """Left out of the merge, with the field and what to do instead; all else of the template holds."""
    theirs = theirs | {"spec": theirs.get("spec", {}) | {"nodeSelector": {"disk": "ssd"}}}
    template, refusals = merge_template(OURS, theirs)
    assert [(each.path, each.remedy) for each in refusals] == [(path, PROTECTED[path])]
    assert template["spec"].pop("nodeSelector") == {"disk": "ssd"}
    assert template == OURS


def test_every_protected_field_is_on_the_page():
    """docs/reference/template.md is where a user reads of it."""
    page = (Path(__file__).parents[4] / "docs/reference/template.md").read_text()
    for word in (
        "metadata.name",
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "`image`",
        "MUSTER_*",
        "metrics",
    ):
        assert word in page
    assert len(PROTECTED) == 12


WORDS = st.sampled_from(["metadata", "labels", "spec", "containers", "name", "env", "ports", "image", "x"])
TEMPLATES = st.recursive(
    JSON | st.just("worker"),
    lambda inner: st.dictionaries(WORDS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(WORDS, TEMPLATES, max_size=3))
def test_no_template_breaks_the_merge(theirs):
    """Whatever JSON a user writes is merged, for the API server to judge."""
    template, _ = merge_template(OURS, theirs)
    assert template["metadata"]["labels"]["muster.dev/pool"] == "mail"
    made = worker_version(pool_of(template=theirs), [queue_of()], broker=SECRET, results=None)
    assert made.manifest["spec"]["template"]["metadata"]["labels"]["muster.dev/pool"] == "mail"
    assert slots_per_worker(pool_of(template=theirs).spec, ()) >= 1
