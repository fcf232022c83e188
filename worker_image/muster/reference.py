"""`python -m muster.reference`: write the reference pages that are made of the code.

For contributors, in a checkout: `make generate` runs it. `--check` writes nothing and names the pages that
differ.
"""

import argparse
import sys
from pathlib import Path

from muster.cli import reference as command_line
from muster.settings import reference as settings

COMMAND = "python -m muster.reference"
ROOT = Path(__file__).parents[2]


def pages() -> dict[str, str]:
    """Return the text of every page by its path below the repository."""
    return {
        "docs/reference/command-line.md": command_line.page(COMMAND),
        "docs/reference/settings.md": settings.page(COMMAND),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the engine's reference pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in pages().items():
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
