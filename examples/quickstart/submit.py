"""The quickstart's client: sends a task for each file, waits for the results, prints what was found.

    python submit.py [FOLDER] [--json FILE]

Without a folder the files are this Python's own library sources. `muster dev` tells it in its environment
where broker and results are, as a cluster's Secret would.
"""

import argparse
import json
import sys
import sysconfig
import time
from pathlib import Path

import quickstart

ENOUGH = 1000
PATIENCE_SECONDS = 50


def sources(folder=None):
    """Return the Python files of a folder; of the standard library, and of packages if it is a small one."""
    if folder is not None:
        return sorted(str(path) for path in Path(folder).rglob("*.py"))
    library = Path(sysconfig.get_path("stdlib"))
    packages = {"site-packages", "dist-packages"}
    found = sorted(str(path) for path in library.rglob("*.py") if not packages & set(path.parts))
    if len(found) < ENOUGH:
        found += sorted(str(path) for path in Path(sysconfig.get_path("purelib")).rglob("*.py"))
    return found


def wait_for_summary(count, deadline):
    """Wait until the Schedule has added a summary of all files."""
    while time.monotonic() < deadline:
        if any(files == count for files, _, _ in quickstart.summaries()):
            return
        time.sleep(0.2)
    sys.exit("no summary of all files has come: does beat run?")


def show(totals):
    """Print the table."""
    rows = [(name, f"{totals[name]:,}") for name in ("files", "lines", "words")]
    rows += [("sha256", totals["sha256"][:16])]
    rows += [("most used names", ", ".join(f"{name} {uses:,}" for name, uses in totals["names"]))]
    rows += [("summaries", " → ".join(f"{files:,}" for files, _, _ in totals["summaries"]) + " files")]
    for name, value in rows:
        print(f"  {name:<16} {value}")


def main():
    """Do it."""
    parser = argparse.ArgumentParser(description="Look at every Python file of a folder.")
    parser.add_argument("folder", nargs="?", help="by default this Python's library")
    parser.add_argument("--json", metavar="FILE", help="write the totals there too")
    arguments = parser.parse_args()
    paths = sources(arguments.folder)
    deadline = time.monotonic() + PATIENCE_SECONDS
    quickstart.empty()
    results = [quickstart.look.delay(path) for path in paths]
    print(f"{len(paths):,} files submitted")
    try:
        lines = sum(result.get(timeout=max(0.1, deadline - time.monotonic())) for result in results)
    except TimeoutError:
        sys.exit(f"not all results have come within {PATIENCE_SECONDS} s: do workers run?")
    print(f"{len(paths):,} results received, {lines:,} lines")
    wait_for_summary(len(paths), deadline)
    totals = quickstart.totals()
    show(totals)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(totals))


if __name__ == "__main__":
    main()
