"""The Deployment of a version: its name, its hash, and what every pod of ours must be."""

from dataclasses import replace

import pytest

from muster_operator.api.names import ANNOTATION_APPLIED, LABEL_HASH
from muster_operator.desired.deployment import grace_seconds, worker_version
from muster_operator.desired.difference import applied_hash, is_as_wanted
from worlds import SECRET, pool_of, queue_of


def version(*queues, secret=SECRET, results=None, **spec):
    return worker_version(pool_of(**spec), list(queues) or [queue_of()], broker=secret, results=results)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "shop:2"},
        {"pool": {"concurrency": 2}},
        {"drain": {"timeout": "1h"}},
        {"template": {"spec": {"nodeSelector": {"a": "b"}}}},
        {"secret": replace(SECRET, hash="rotated")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_pod_is_another_deployment(change):
    """Whatever the pod is made of is in the name, a rotated Secret too."""
    assert version(**change).name != version().name


@pytest.mark.parametrize(
    "change", [{"scaling": {"maxReplicas": 3}}, {"paused": True}, {"replicas": 9}], ids=str
)
def test_what_the_pod_is_not_made_of_changes_nothing(change):
    """Scaling and pausing roll no worker."""
    assert version(**change) == version()


def test_selector_labels_and_name_carry_one_hash():
    """Pods of two versions are never counted for each other."""
    made = version()
    mark = made.manifest["metadata"]["labels"][LABEL_HASH]
    assert made.manifest["spec"]["selector"]["matchLabels"][LABEL_HASH] == mark
    assert made.manifest["spec"]["template"]["metadata"]["labels"][LABEL_HASH] == mark
    assert made.name == f"mail-{mark}"


def test_the_mark_of_what_was_applied_does_not_depend_on_replicas():
    """Scaling is no drift."""
    made = version()
    assert made.with_replicas(1)["spec"]["replicas"] == 1
    assert applied_hash(made.with_replicas(1)) == applied_hash(made.with_replicas(9)) != ""
    assert is_as_wanted(made.manifest, made.with_replicas(5))
    assert "replicas" not in made.manifest["spec"]


def test_pods_meet_the_restricted_standard():
    """No root, no escalation, no capability, default seccomp, a read-only root, no API token."""
    spec = version().manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert "command" not in container  # the image's own entrypoint
    assert "lifecycle" not in container


@pytest.mark.parametrize(("timeout", "seconds"), [("10m", 615), ("1s", 16), ("1500ms", 17), ("7d", 604815)])
def test_the_grace_period_outlasts_the_drain(timeout, seconds):
    """By 15 s, whole seconds, rounded up."""
    assert grace_seconds(pool_of(drain={"timeout": timeout})) == seconds


def test_no_secret_value_is_in_a_manifest():
    """URLs come by reference; all that is known of a Secret is its name, its keys and a hash."""
    env = version().manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    url = next(each for each in env if each["name"] == "MUSTER_BROKER_URL")
    assert url == {
        "name": "MUSTER_BROKER_URL",
        "valueFrom": {"secretKeyRef": {"name": "broker", "key": "url"}},
    }
    assert SECRET.hash not in str(version().manifest)


def test_long_names_stay_names():
    """A pool's name of 63 characters still gives a Deployment's name of at most 63."""
    made = worker_version(pool_of("a" * 63), [queue_of()], broker=SECRET, results=None)
    assert len(made.name) <= 63
    assert ANNOTATION_APPLIED in made.manifest["metadata"]["annotations"]
