"""`python -m muster.settings`: write docs/reference/settings.md; `--check` only says whether it is current.

For contributors, in a checkout: `make generate` and `make check` run it.
"""

import argparse
import sys
from pathlib import Path

from muster.settings.reference import COMMAND, page

ROOT = Path(__file__).parents[3]


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the settings' reference page.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    options = parser.parse_args(arguments)
    path = options.root / "docs/reference/settings.md"
    text = page()
    if path.is_file() and path.read_text() == text:
        return 0
    if options.check:
        sys.stderr.write(f"{path} is not current: run `{COMMAND}`\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
