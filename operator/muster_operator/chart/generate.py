"""`python -m muster_operator.chart.generate`: write the half of the Helm chart that is made of Python types.

That is values.yaml, values.schema.json and the table in the chart's README (from `values`), the rules of the
operator's roles (from `rbac`), and copies of the CRDs: Helm never upgrades its own crds/ folder, so they are
installed by a template, from files beside it.
`make generate` runs it; `--check` writes nothing and names the files that differ.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml

from muster_operator.api.codec import encode
from muster_operator.api.generate import generated as generated_by_api
from muster_operator.api.meta import Field, Word, element, fields_of, is_list, is_map, is_opaque_object
from muster_operator.rbac import rules

from .values import Values

COMMAND = "python -m muster_operator.chart.generate"
ROOT = Path(__file__).parents[3]
CHART = "helm/muster"
TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", re.DOTALL)

Json = dict[str, Any]

_SCALARS: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def generated(root: Path = ROOT) -> dict[str, str]:
    """Return the text of every generated file by its path below the repository `root`.

    The README is read there, because all but its table is written by hand.
    """
    source = "operator/muster_operator/chart/values.py"
    header = f"# Made of {source} by `{COMMAND}`. Change the types, not this file.\n"
    crds = {name: text for name, text in generated_by_api().items() if name.startswith("crds/")}
    readme = (root / CHART / "README.md").read_text()
    return {
        f"{CHART}/values.yaml": header + "".join(_lines(Values, 0)),
        f"{CHART}/values.schema.json": json.dumps(schema(), indent=2) + "\n",
        f"{CHART}/README.md": TABLE.sub(lambda _: table(), readme),
        f"{CHART}/files/rules.yaml": f"# Made of operator/muster_operator/rbac.py by `{COMMAND}`.\n"
        + yaml.safe_dump(rules(), sort_keys=False),
        **{f"{CHART}/files/{name}": text for name, text in crds.items()},
    }


def schema() -> Json:
    """Return the JSON schema of the values; a name that no template reads is refused."""
    found = _object(Values)
    found["properties"]["global"] = {"type": "object", "description": "Helm's own, when this is a subchart."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart muster",
        **found,
    }


def table() -> str:
    """Return the values as a Markdown table."""
    rows = (
        f"| `{path}` | {_cell(field)} | {field.prop.description.replace('|', chr(92) + '|')} |"
        for path, field in _walk(Values, "")
    )
    return "\n".join(["| Value | Default | Meaning |", "|---|---|---|", *rows]) + "\n"


def _cell(field: Field) -> str:
    return f"`{json.dumps(encode(field.default), separators=(', ', ': '))}`"


def _walk(cls: Any, path: str) -> Iterator[tuple[str, Field]]:
    for field in fields_of(cls):
        here = f"{path}{field.json_name}"
        if is_dataclass(field.hint):
            yield from _walk(field.hint, f"{here}.")
        else:
            yield here, field


def _lines(cls: Any, depth: int) -> Iterator[str]:
    """Yield the lines of values.yaml, each value below what it means."""
    indent = "  " * depth
    for field in fields_of(cls):
        if depth == 0:
            yield "\n"
        if is_dataclass(field.hint):
            yield f"{indent}# {field.hint.__doc__}\n"
            yield f"{indent}{field.json_name}:\n"
            yield from _lines(field.hint, depth + 1)
        else:
            text = yaml.safe_dump({field.json_name: encode(field.default)}, sort_keys=False)
            yield f"{indent}# -- {field.prop.description}\n"
            yield from (f"{indent}{line}\n" for line in text.splitlines())


def _object(cls: Any) -> Json:
    found: Json = {
        "type": "object",
        "properties": {each.json_name: _property(each) for each in fields_of(cls)},
        "additionalProperties": False,
    }
    if required := [each.json_name for each in fields_of(cls) if each.required]:
        found["required"] = required
    return found


def _property(field: Field) -> Json:
    description = field.prop.description or str(field.hint.__doc__)
    found = {"description": description} | _value(field.hint, field)
    return found if is_dataclass(field.hint) or field.required else found | {"default": encode(field.default)}


def _value(hint: Any, field: Field) -> Json:
    prop = field.prop
    if is_opaque_object(hint):
        return {"type": "object"}
    if is_map(hint):
        return {"type": "object", "additionalProperties": _value(element(hint), field)}
    if is_list(hint):
        return {"type": "array", "items": _value(element(hint), field)}
    if is_dataclass(hint):
        return _object(hint)
    if isinstance(hint, type) and issubclass(hint, Word):
        return {"type": "string", "enum": [word.value for word in hint]}
    limits = {
        "minimum": prop.minimum,
        "maximum": prop.maximum,
        "minLength": prop.min_length,
        "maxLength": prop.max_length,
        "pattern": prop.pattern,
    }
    return {"type": _SCALARS[hint]} | {name: limit for name, limit in limits.items() if limit is not None}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the generated half of the Helm chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in generated(options.root).items():
        path = options.root / name
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if options.check and stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run `{COMMAND}`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
