"""What the tests of the worker's loop share."""

import pytest

from fleet import Fleet


@pytest.fixture
def fleet(caplog):
    made = []

    def make(*names, kind=Fleet, **details):
        made.append(kind(*names, **details))
        return made[-1]

    caplog.set_level("INFO")
    yield make
    for one in made:
        one.close()
