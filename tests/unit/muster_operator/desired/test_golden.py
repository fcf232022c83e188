"""The builders against the files that people have read."""

import importlib.util
from pathlib import Path

import pytest
import yaml

GOLDEN = Path(__file__).parents[3] / "golden"
_spec = importlib.util.spec_from_file_location("write_children", GOLDEN / "write_children.py")
write_children = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write_children)
CHILDREN = write_children.children()


@pytest.mark.parametrize("name", sorted(CHILDREN))
def test_a_child_is_what_its_file_says(name):
    """A difference is either a fault, or meant: then tests/golden/write_children.py writes the file anew."""
    assert yaml.safe_load((GOLDEN / "children" / name).read_text()) == CHILDREN[name]


def test_every_file_has_its_child():
    """No file is left over from a builder that is gone."""
    assert {path.name for path in (GOLDEN / "children").iterdir()} == set(CHILDREN)
