"""What Celery's `app.control` has and ours has not says so, and what to use instead."""

import pytest
from celery.app.control import Control as CelerysControl

from muster.cli.main import CELERY_ONLY
from muster.errors import ConfigurationError

METHODS = [name for name in dir(CelerysControl) if name.islower() and not name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "revoke"])
def test_a_method_of_celerys_is_refused_with_what_to_use(app, name):
    """However it is called; that it is there can be asked."""
    assert hasattr(app.control, name)
    with pytest.raises(ConfigurationError, match=rf"^app\.control\.{name}\(\) is not available: "):
        getattr(app.control, name)("1", timeout=1)


@pytest.mark.parametrize("name", ["inspect", "purge"])
def test_the_command_line_says_the_same(app, name):
    """One sentence for the command and the method."""
    with pytest.raises(ConfigurationError) as caught:
        getattr(app.control, name)()
    assert str(caught.value).endswith(CELERY_ONLY[name])


def test_what_celery_does_not_have_either_is_no_attribute(app):
    """So that copying, pickling and looking around go on as with any object."""
    assert not hasattr(app.control, "inspekt")
    assert not hasattr(app.control, "__deepcopy__")
