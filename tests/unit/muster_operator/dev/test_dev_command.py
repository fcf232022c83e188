"""Facts about the command's surface: its help, its page, and what it needs to be installed."""

import subprocess
import sys
import textwrap
from pathlib import Path

import click

from muster_operator.dev.command import dev

ROOT = Path(__file__).parents[4]


def test_the_page_names_every_option():
    """docs/dev.md is complete, and names no option that there is not."""
    page = (ROOT / "docs" / "dev.md").read_text()
    options = {option.opts[0] for option in dev.params if isinstance(option, click.Option)}
    table = page.split("## Options")[1].split("##")[0]
    named = {line.split("`")[1].split()[0] for line in table.splitlines() if line.startswith("| `")}
    assert named == options


def test_help_needs_none_of_the_extra():
    """The command line lists `dev` without rich and PyYAML too, and running it says what to install."""
    code = """
        import sys
        sys.modules["rich"] = sys.modules["yaml"] = None
        from muster.cli.main import run
        assert run(["--help"]) == 0
        sys.exit(run(["dev", "."]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert "dev " in done.stdout
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'muster-tasks[local]'")
    assert len(done.stderr.splitlines()) == 1
