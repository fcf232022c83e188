"""`python -m muster_operator.api.generate`: write everything that is made of the API's types.

`make generate` runs it, `make check` runs it with `--check`, which writes nothing and names the files that
differ.
"""

import argparse
import sys
from pathlib import Path

import yaml

from .brokers import brokers_page
from .crd import crd
from .manifests import KINDS
from .names import GROUP
from .reference import reference_page

COMMAND = "python -m muster_operator.api.generate"
ROOT = Path(__file__).parents[3]


def generated() -> dict[str, str]:
    """Return the text of every generated file by its path below the repository."""
    header = f"# Made of operator/muster_operator/api by `{COMMAND}`. Change the types, not this file.\n"
    files = {
        f"crds/{GROUP}_{kind.plural}.yaml": header
        + yaml.safe_dump(crd(kind), sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }
    return files | {
        "docs/reference/brokers.md": brokers_page(COMMAND),
        "docs/reference/resources.md": reference_page(KINDS, COMMAND),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the CRDs and their reference page.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in generated().items():
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
