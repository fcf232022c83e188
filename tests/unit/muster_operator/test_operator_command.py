"""`python -m muster_operator`: what the user must change is one line."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--foo", "No such option"),
        ("--log-level=loud", "'loud' is not one of"),
        ("extra", "unexpected extra"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(option, says):
    """Where to look it up stands in it."""
    done = subprocess.run(  # noqa: PLW1510 - the exit code is what is looked at
        [sys.executable, "-m", "muster_operator", option], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("muster-operator: ")
    assert done.stderr.endswith("(see python -m muster_operator --help)\n")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
