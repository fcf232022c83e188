"""Write what the operator's builders make of three worlds to `tests/golden/children/`, for people to read.

Run it after a change of `muster_operator.desired` that is meant (`python tests/golden/write_children.py`) and
look at the difference: it is what every cluster will see. `test_golden.py` holds the builders to these files.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from muster_operator.desired.beat import beat_deployment  # noqa: E402
from muster_operator.desired.deployment import worker_version  # noqa: E402
from muster_operator.desired.pdb import pod_disruption_budget  # noqa: E402
from muster_operator.model.world import SecretView  # noqa: E402
from worlds import pool_of, queue_of  # noqa: E402

CHILDREN = TESTS / "golden" / "children"
BROKER = SecretView(name="broker", keys=frozenset({"url"}), hash="hash-of-broker")
SECURE = SecretView(name="broker", keys=frozenset({"url", "ca.crt"}), hash="hash-of-broker")
RESULTS = SecretView(name="results", keys=frozenset({"url", "ca.crt"}), hash="hash-of-results")


def children() -> dict[str, dict[str, Any]]:
    """File name → manifest: the least that a user can say, everything, and beat."""
    least = pool_of()
    everything = pool_of(
        "everything",
        queues=["mail", "default"],
        results={"secretRef": {"name": "results"}, "expires": "12h"},
        pool={
            "type": "prefork",
            "concurrency": 8,
            "autoscale": {"min": 2, "max": 8},
            "maxTasksPerChild": 1000,
            "maxMemoryPerChild": "300Mi",
            "maxAge": "24h",
        },
        delivery={"acks": "Early", "prefetch": 4, "lease": "45s", "rejectOnWorkerLost": False},
        limits={
            "softTimeLimit": "5m",
            "timeLimit": "6m",
            "rate": {"shop.tasks.send": "100/m"},
            "globalRate": {"shop.tasks.send": "1000/h"},
        },
        drain={"timeout": "20m"},
        template={
            "metadata": {"annotations": {"example.com/team": "shop"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "containers": [
                    {
                        "name": "worker",
                        "env": [{"name": "DJANGO_SETTINGS_MODULE", "value": "shop.settings"}],
                        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
                    },
                    {"name": "proxy", "image": "proxy:1"},
                ],
            },
        },
    )
    queues = [
        queue_of("mail", queueName="shop.mail", messageTTL="1h", maxLength=5, overflow="RejectPublish"),
        queue_of("default", deliveryLimit=2, deadLetter={"queueName": "graveyard", "maxAge": "1d"}),
    ]
    return {
        "least-deployment.yaml": worker_version(
            least, [queue_of()], broker=BROKER, results=None
        ).with_replicas(3),
        "least-budget.yaml": pod_disruption_budget(least),
        "everything-deployment.yaml": worker_version(
            everything, queues, broker=SECURE, results=RESULTS
        ).with_replicas(0),
        "beat-deployment.yaml": beat_deployment(
            "shop", broker=SECURE, image="muster:1", owners=[queue_of("mail"), queue_of("default")]
        ),
    }


def text(manifest: dict[str, Any]) -> str:
    """The file's text."""
    without_aliases = json.loads(json.dumps(manifest))
    return yaml.safe_dump(without_aliases, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    CHILDREN.mkdir(exist_ok=True)
    for name, manifest in children().items():
        (CHILDREN / name).write_text(text(manifest))
