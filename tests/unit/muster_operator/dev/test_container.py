"""Facts about containers as processes: their words and variables are the pod template's."""

import sys

import pytest

from muster.settings.environment import from_environment
from muster_operator.desired.deployment import worker_version
from muster_operator.dev.container import ContainerError, Surroundings, command, environment
from muster_operator.model.world import SecretView
from worlds import pool_of, queue_of

AROUND = Surroundings(
    secrets={"broker": {"url": "rediss://:word@host", "ca.crt": "-----BEGIN"}},
    secret_folders={"broker": "/here/broker"},
    fields={"metadata.uid": "1-2-3", "metadata.name": "mail-1", "metadata.namespace": "shop"},
    metrics_address="127.0.0.1:4711",
)


def made(pool):
    """Return the pod spec that the operator builds for a pool."""
    secret = SecretView(name="broker", keys=frozenset({"url", "ca.crt"}), hash="a")
    version = worker_version(pool, [queue_of()], broker=secret, results=None)
    return version.manifest["spec"]["template"]["spec"]


def test_a_worker_is_told_here_what_a_pod_is_told():
    """Secret, identity, certificate and settings arrive; only address and folder are this machine's."""
    pod = made(pool_of(pool={"type": "threads", "concurrency": 3}))
    container = pod["containers"][0]
    said = from_environment(environment(container, pod["volumes"], AROUND))
    assert said.broker_url == "rediss://:word@host"
    assert said.broker_ca_file == "/here/broker/ca.crt"
    assert said.worker_id == "1-2-3"
    assert said.metrics_address == "127.0.0.1:4711"
    assert (said.pool, said.concurrency, said.pool_name) == ("threads", 3, "shop/mail")
    assert command(container) == [sys.executable, "-m", "muster", "worker"]


def test_a_template_of_the_users_own_is_followed():
    """Its variables and its command are taken."""
    template = {
        "spec": {
            "containers": [
                {"name": "worker", "command": ["nice", "muster"], "env": [{"name": "A", "value": "b"}]}
            ]
        }
    }
    pod = made(pool_of(template=template))
    assert command(pod["containers"][0])[:2] == ["nice", "muster"]
    assert environment(pod["containers"][0], pod["volumes"], AROUND)["A"] == "b"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"configMapKeyRef": {"name": "a", "key": "b"}}, "variable X: its value comes from configMapKeyRef"),
        ({"secretKeyRef": {"name": "none", "key": "url"}}, "Secret none has no key url"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "no process here has the field status.podIP"),
    ],
)
def test_what_only_a_cluster_has_is_named(source, said):
    """The error says which variable asks for what."""
    with pytest.raises(ContainerError, match=said):
        environment({"env": [{"name": "X", "valueFrom": source}]}, [], AROUND)


def test_an_optional_secret_may_be_missing():
    """The variable is left out then, as by the kubelet."""
    source = {"secretKeyRef": {"name": "none", "key": "url", "optional": True}}
    assert environment({"env": [{"name": "X", "valueFrom": source}]}, [], AROUND) == {}
