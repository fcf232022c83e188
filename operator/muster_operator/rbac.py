"""The rights that the operator needs, gathered from those who use them; the chart's roles are made of this.

Kept least: Secrets are read one by one by their names and never listed, and nothing is granted on what no
adapter or watch touches. `python -m muster_operator.rbac` prints the rules.
"""

from typing import Any, Final

import yaml

from muster_operator.adapters.cluster import RIGHTS as CLUSTER
from muster_operator.adapters.lease import RIGHTS as LEASE
from muster_operator.loop.watch import RIGHTS as WATCHES
from muster_operator.loop.watch import RIGHTS_CLUSTER_WIDE

Rule = dict[str, Any]
VERBS: Final = ("get", "list", "watch", "create", "patch", "update", "delete")


def merged(rights: list[tuple[str, str, str]]) -> list[Rule]:
    """Return (group, resource, verb) as RBAC's rules: one for each group and set of verbs, sorted."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for group, resource, verb in rights:
        verbs.setdefault((group, resource), set()).add(verb)
    rules: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), found in sorted(verbs.items()):
        key = (group, tuple(sorted(found, key=VERBS.index)))
        rules.setdefault(key, []).append(resource)
    return [
        {"apiGroups": [group], "resources": resources, "verbs": list(found)}
        for (group, found), resources in rules.items()
    ]


def rules() -> dict[str, list[Rule]]:
    """Return the rules: in each watched namespace, for the whole cluster besides, in the operator's own."""
    return {
        "watched": merged([*CLUSTER, *WATCHES]),
        "cluster": merged(list(RIGHTS_CLUSTER_WIDE)),
        "own": merged(list(LEASE)),
    }


if __name__ == "__main__":
    print(yaml.safe_dump(rules(), sort_keys=False), end="")  # noqa: T201 - that is what the command is for
