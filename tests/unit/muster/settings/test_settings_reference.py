"""docs/reference/settings.md is made of the table."""

from muster.settings.reference import page
from muster.settings.table import TABLE


def test_every_setting_is_on_the_page_once():
    """Each row of the table has one line."""
    lines = page("make generate").splitlines()
    for row in TABLE:
        assert sum(line.startswith(f"| `{row.name}` |") for line in lines) == 1
