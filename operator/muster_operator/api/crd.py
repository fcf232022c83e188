"""One CustomResourceDefinition for each kind, made of its type. `generate` writes them down."""

from typing import Any, get_type_hints

from .kind import Column, Kind
from .meta import rules_of
from .names import CATEGORY, GROUP, VERSION
from .schema import Schema, schema_of, validation


def crd(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind as JSON."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_column(each) for each in kind.columns],
                    "subresources": _subresources(kind),
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _root(kind: Kind) -> Schema:
    types = get_type_hints(kind.cls)
    schema: Schema = {
        "description": kind.cls.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {"description": types["spec"].__doc__} | schema_of(types["spec"]),
            "status": {"description": types["status"].__doc__} | schema_of(types["status"]),
        },
    }
    if rules := rules_of(kind.cls):
        schema["x-kubernetes-validations"] = [validation(each) for each in rules]
    return schema


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return entry | {"priority": 1} if column.wide else entry


def _subresources(kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {"status": {}}
    if kind.scale is not None:
        found["scale"] = {
            "specReplicasPath": kind.scale.spec_replicas,
            "statusReplicasPath": kind.scale.status_replicas,
            "labelSelectorPath": kind.scale.selector,
        }
    return found
