"""docs/reference/settings.md is made of the table."""

from muster.settings.__main__ import ROOT, main
from muster.settings.reference import page
from muster.settings.table import TABLE


def test_the_page_is_current():
    """What is committed is what the table says now."""
    assert (ROOT / "docs/reference/settings.md").read_text() == page()


def test_every_setting_is_on_the_page_once():
    """Each row of the table has one line."""
    lines = page().splitlines()
    for row in TABLE:
        assert sum(line.startswith(f"| `{row.name}` |") for line in lines) == 1


def test_an_old_page_fails_the_check_and_is_mended(tmp_path, capsys):
    """`--check` writes nothing and fails; without it the page is written, and the check passes."""
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "run `python -m muster.settings`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
