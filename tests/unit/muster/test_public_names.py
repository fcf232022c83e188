"""What `import muster` gives, and what it costs."""

import subprocess
import sys

import pytest

import muster
from muster import compat


@pytest.mark.parametrize("name", muster.__all__)
def test_every_public_name_is_there(name):
    """Names that are loaded when they are first used do exist."""
    assert getattr(muster, name) is not None
    assert name in dir(muster)


def test_a_name_that_is_not_there_is_an_attribute_error():
    """As with any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = muster.no_such_name


def test_importing_muster_loads_next_to_nothing():
    """The operator reads the wire format through this package; it must not get the application with it."""
    code = (
        "import sys; before = set(sys.modules); import muster;"
        "print([name for name in set(sys.modules) - before if name not in sys.stdlib_module_names"
        " and not name.startswith('typing.') and name != 'collections.abc'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['muster']"


def test_making_an_application_loads_no_broker():
    """redis-py and the executor are imported by those who need them."""
    code = (
        "import sys; from muster import Muster; Muster('shop').task(lambda: None);"
        "print([name for name in ('redis', 'sqlite3', 'celery', 'click') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_project_of_celery_finds_its_names():
    """`muster.compat` has what it says, and Celery is Muster."""
    assert compat.Celery is muster.Muster
    assert all(hasattr(compat, name) for name in compat.__all__)
    assert compat.get_task_logger("shop").name == "shop"
