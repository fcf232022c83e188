"""The RabbitMQ of the chart by itself, for end-to-end tests of queues: one node, classic by default."""

import yaml

from golden.write_chart import render
from kube import Cluster

PASSWORD = "sesame"


def apply_rabbitmq(cluster: Cluster, namespace: str, *, mebibytes: int = 768) -> None:
    """Apply the chart's RabbitMQ with so much memory; wait until it is ready.

    Its default queue type is taken out, so that it is classic, as RabbitMQ's is without the chart's word.
    """
    values = ("rabbitmq.enabled=true", f"rabbitmq.password={PASSWORD}")
    for each in yaml.safe_load_all(render(cluster.tools / "helm", *values)):
        if each and each["metadata"]["name"] == "muster-rabbitmq":
            each["metadata"]["namespace"] = namespace
            if each["kind"] == "Secret":
                text = each["stringData"]["rabbitmq.conf"]
                assert "default_queue_type = quorum" in text
                assert "= 700MB" in text
                text = text.replace("default_queue_type = quorum", "")
                each["stringData"]["rabbitmq.conf"] = text.replace("= 700MB", f"= {mebibytes - 68}MB")
            if each["kind"] == "StatefulSet":
                [container] = each["spec"]["template"]["spec"]["containers"]
                container["resources"]["limits"]["memory"] = f"{mebibytes}Mi"
            cluster.apply(each)
    cluster.kubectl(namespace, "rollout", "status", "statefulset/muster-rabbitmq", "--timeout=240s")


def broker_secret(virtual_host: str = "") -> dict:
    """Return the Secret that names it, for TaskQueues on a virtual host; by default on RabbitMQ's own."""
    place = f"muster:{PASSWORD}@muster-rabbitmq"
    data = {"url": f"amqp://{place}:5672/{virtual_host}", "managementUrl": f"http://{place}:15672"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broker"}, "stringData": data}
