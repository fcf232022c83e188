"""`python tests/golden/write_chart.py .cluster/muster/bin/helm`: what the chart renders.

The CRDs are left out: they are the files of crds/.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "chart"
SETS = {
    "defaults": ["crds.install=false"],
    "namespaced": ["crds.install=false", "watch.namespaces={shop,mail}", "test.brokerSecret=broker"],
    "everything": [
        *[
            "crds.install=false",
            "replicas=2",
            "podDisruptionBudget.enabled=true",
            "imagePullSecrets[0].name=pull",
        ],
        *[
            "redis.enabled=true",
            "redis.password=sesame",
            "redis.storage=1Gi",
            "rabbitmq.enabled=true",
            "rabbitmq.password=sesame",
            "rabbitmq.storage=1Gi",
            "serviceAccount.annotations.a=b",
        ],
        *[
            "metrics.annotations.prometheus\\.io/scrape=yes",
            "nodeSelector.disk=ssd",
            "priorityClassName=high",
        ],
        *["extraEnv[0].name=TZ", "extraEnv[0].value=UTC", "podLabels.team=one", "podAnnotations.a=b"],
        *["tolerations[0].operator=Exists", "fullnameOverride=tasks"],
    ],
}


def render(helm: Path, *sets: str) -> str:
    """Return what `helm template` writes; ValueError with helm's words where it refuses."""
    given = [part for one in sets for part in ("--set", one)]
    done = subprocess.run(
        [
            *[str(helm), "template", "muster", str(ROOT / "helm/muster"), "--namespace", "muster-system"],
            *["--kube-version", "1.34", *given],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, sets in SETS.items():
        (GOLDEN / f"{name}.yaml").write_text(render(Path(sys.argv[1]), *sets))
