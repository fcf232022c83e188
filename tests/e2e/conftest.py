"""What end-to-end tests ask for: the cluster, and a namespace of their own.

The cluster is the one of `make cluster`. Without it these tests are skipped on a laptop and fail in CI.
"""

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from example_shop import Shop
from installation import Installation
from kube import Cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The kind cluster named by MUSTER_CLUSTER (default `muster`)."""
    folder = ROOT / ".cluster" / os.environ.get("MUSTER_CLUSTER", "muster")
    try:
        handle = Cluster.connect(folder)
    except (FileNotFoundError, ConnectionError) as error:
        pytest.skip(str(error))  # tests/conftest.py turns a skip into a failure in CI
    yield handle
    handle.close()


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> Cluster:
    """The cluster with the CRDs of this checkout, established and in their newest form."""
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        [applied] = cluster.apply(path)
        cluster.wait_for_object(
            "CustomResourceDefinition",
            applied["metadata"]["name"],
            _is_established,
            api_version="apiextensions.k8s.io/v1",
        )
    return cluster


def _is_established(crd: dict[str, Any] | None) -> bool:
    conditions = (crd or {}).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="session")
def muster_installed(cluster: Cluster) -> Iterator[Installation]:
    """Muster by its chart, from images built of this checkout, for namespaces that the tests share.

    Other tests run operators of their own, so this one sees to its own namespaces only; the CRDs stay.
    """
    installation = Installation(cluster, shop=f"shop-{secrets.token_hex(3)}")
    cluster.create_namespace(installation.shop)
    installation.upgrade()
    yield installation
    installation.remove()
    cluster.delete_namespace(installation.shop)


@pytest.fixture(scope="session")
def shop(muster_installed: Installation) -> Shop:
    """The example shop, open for orders."""
    return Shop(muster_installed.cluster, muster_installed.shop).open()


@pytest.fixture
def empty_shop(shop: Shop) -> Iterator[Shop]:
    """The shop with empty books and nobody at work; the pool goes to zero afterwards."""
    shop.clear()
    yield shop
    shop.apply_pool()
    shop.wait_empty()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace under the restricted pod security level; it must be deletable afterwards."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    name = f"{words}-{secrets.token_hex(3)}"
    cluster.create_namespace(name)
    yield name
    cluster.delete_namespace(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Add the namespace's pods and events to the report of a test that failed in it."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    if report.failed and call.when == "call" and {"cluster", "namespace"} <= arguments.keys():
        report.sections.append(("namespace", arguments["cluster"].describe(arguments["namespace"])))
    return report
