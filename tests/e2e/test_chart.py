"""The chart: what it renders, refuses and installs.

Rendering needs helm, which `make cluster` brings; the golden files are written by
`python tests/golden/write_chart.py .cluster/muster/bin/helm`.
"""

import subprocess
from pathlib import Path

import pytest
import yaml

from golden.write_chart import GOLDEN, SETS, render
from installation import NAMESPACE, RELEASE, Installation
from kube import Cluster
from waiting import wait_for

Manifest = dict


def rendered(cluster: Cluster, *sets: str) -> list[Manifest]:
    text = render(cluster.tools / "helm", *sets)
    return [each for each in yaml.safe_load_all(text) if each]


def of(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


@pytest.mark.parametrize("name", SETS)
def test_rendering_is_what_it_was(cluster: Cluster, name: str):
    """Each set of values renders the golden file, so that a change of the chart is seen in review."""
    assert render(cluster.tools / "helm", *SETS[name]) == (GOLDEN / f"{name}.yaml").read_text()


def test_lint_finds_nothing(cluster: Cluster):
    """helm lint, strict."""
    done = subprocess.run(
        [cluster.tools / "helm", "lint", "--strict", "--kube-version", "1.34", "helm/muster"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_takes_what_is_rendered(crds: Cluster, namespace: str, name: str):
    """A server-side dry run with strict validation accepts every object."""
    manifests = [each for each in rendered(crds, *SETS[name]) if each["kind"] != "CustomResourceDefinition"]
    for each in manifests:
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace
    done = subprocess.run(
        [
            *[crds.tools / "kubectl", "--kubeconfig", crds.kubeconfig, "apply", "--server-side"],
            *["--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"],
        ],
        input=yaml.safe_dump_all(manifests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_listed_namespaces_make_roles_and_no_cluster_role(cluster: Cluster):
    """With watch.namespaces the operator gets a Role in each and nothing for the whole cluster."""
    found = rendered(cluster, "watch.namespaces={one,two}")
    assert not of(found, "ClusterRole")
    assert not of(found, "ClusterRoleBinding")
    assert sorted(each["metadata"]["namespace"] for each in of(found, "Role")) == [NAMESPACE, "one", "two"]


def test_crds_stay_unless_told_otherwise(cluster: Cluster):
    """CRDs are templates with the policy keep; crds.keep and crds.install switch that and them off."""
    kept = of(rendered(cluster), "CustomResourceDefinition")
    assert [each["metadata"]["annotations"] for each in kept] == [{"helm.sh/resource-policy": "keep"}] * 3
    gone = of(rendered(cluster, "crds.keep=false"), "CustomResourceDefinition")
    assert ["annotations" in each["metadata"] for each in gone] == [False] * 3
    assert not of(rendered(cluster, "crds.install=false"), "CustomResourceDefinition")


def test_every_pod_is_restricted_and_bounded(cluster: Cluster):
    """No container runs as root, writes to its root, gains privileges, or lacks a memory limit."""
    found = rendered(cluster, "redis.enabled=true", "redis.storage=1Gi", "rabbitmq.enabled=true")
    specs = [
        each["spec"]["template"]["spec"] for each in found if each["kind"] in ("Deployment", "StatefulSet")
    ]
    specs += [each["spec"] for each in of(found, "Pod")]
    assert len(specs) == 5
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_an_image_is_named_by_its_digest_where_there_is_one(cluster: Cluster):
    """digest wins over tag, tag over the chart's version, and the registry is part of the repository."""
    digest = "sha256:" + "0" * 64
    found = rendered(
        cluster,
        *["image.repository=registry.example/muster-operator", f"image.digest={digest}", "image.tag=v9"],
        *["workerImage.tag=v7", "imagePullSecrets[0].name=pull"],
    )
    [deployment] = of(found, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == f"registry.example/muster-operator@{digest}"
    assert {"name": "MUSTER_BEAT_IMAGE", "value": "muster-worker:v7"} in spec["containers"][0]["env"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("replica=2", "replica"),
        ("replicas=9", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:12", "digest"),
        ("redis.password=with space", "password"),
        ("rabbitmq.password=", "password"),
        ("watch.namespaces={Not_A_Name}", "namespaces"),
    ],
)
def test_a_wrong_value_is_refused_by_name(cluster: Cluster, given: str, named: str):
    """The schema refuses unknown names and impossible values, and says which."""
    with pytest.raises(ValueError, match=named):
        render(cluster.tools / "helm", given)


def test_the_rabbitmq_for_a_first_try_comes_up(cluster: Cluster, namespace: str):
    """It is ready under restricted pod security, and lets in the user of its Secret."""
    found = rendered(cluster, "rabbitmq.enabled=true", "rabbitmq.password=sesame")
    cluster.apply(
        [
            {**each, "metadata": {**each["metadata"], "namespace": namespace}}
            for each in found
            if each["metadata"]["name"] == "muster-rabbitmq"
        ]
    )
    kubectl = [cluster.tools / "kubectl", "--kubeconfig", cluster.kubeconfig, "--namespace", namespace]
    for command in (
        ["rollout", "status", "statefulset/muster-rabbitmq", "--timeout=180s"],
        ["exec", "muster-rabbitmq-0", "--", "rabbitmqctl", "authenticate_user", "muster", "sesame"],
    ):
        done = subprocess.run([*kubectl, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_helm_test_runs_a_task_through(muster_installed: Installation):
    """`helm test` of the release: a pool at zero, a Redis of the test's own, one task, its answer."""
    done = muster_installed.helm("test", RELEASE, "--timeout", "5m")
    assert done.code == 0, done.output + muster_installed.cluster.describe(muster_installed.shop)
    assert "Succeeded" in done.output
    for kind, version in (("WorkerPool", "muster.dev/v1beta1"), ("StatefulSet", "apps/v1"), ("Pod", "v1")):
        wait_for(
            lambda kind=kind, version=version: [
                each["metadata"]["name"]
                for each in muster_installed.cluster.list(
                    kind, namespace=muster_installed.shop, api_version=version
                )
                if each["metadata"]["name"].startswith("muster-test")
            ],
            until=lambda left: not left,
            what=f"nothing is left of the test's {kind}",
            timeout_seconds=60,
        )
