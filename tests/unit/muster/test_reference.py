"""The engine's reference pages are made of its code."""

import pytest

from muster.cli.main import COMMANDS, muster
from muster.reference import ROOT, main, pages


@pytest.mark.parametrize("name", pages())
def test_a_page_is_current(name):
    """What is committed is what the code says now."""
    assert (ROOT / name).read_text() == pages()[name]


def test_an_old_page_fails_the_check_and_is_mended(tmp_path, capsys):
    """`--check` writes nothing and fails; without it the pages are written, and the check passes."""
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "run `python -m muster.reference`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0


def test_every_command_and_option_is_on_the_page():
    """The page of the command line has each command with its options, those of Celery without effect too."""
    text = pages()["docs/reference/command-line.md"]
    for name in COMMANDS:
        assert f"## `{name}`" in text
        for option in muster.get_command(None, name).params:
            names = [word for word in option.opts if word.startswith("-")]
            if not getattr(option, "hidden", False) or name == "worker":
                assert all(f"`{word}`" in text for word in names), option
