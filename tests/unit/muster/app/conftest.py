"""An application without a broker: what it publishes and stores stays in the test's hands."""

import pytest

from muster import Muster
from muster.app import state
from muster.app.app import _apps
from muster.app.execution import Execution
from muster.pools.base import Job
from muster.results.memory import MemoryResults
from muster.wire import result
from muster.wire.message import open_message


class Outbox:
    """A publisher that keeps what it is given."""

    def __init__(self):
        self.publications = []

    def publish(self, publications):
        self.publications.extend(publications)

    def close(self):
        """Nothing is open."""


class Shop(Muster):
    """An application with an outbox, a store in memory, and a worker's way to run what was sent."""

    def __init__(self, **conf):
        super().__init__("shop", changes=conf, set_as_current=True)
        self.publisher = self.outbox = Outbox()
        self.results = MemoryResults()

    def sent(self):
        """Take the one message that was published; return it opened."""
        return open_message(self.sent_raw())

    def sent_raw(self):
        [publication] = self.outbox.publications
        self.outbox.publications.clear()
        return publication.raw

    def work(self, raw=None):
        """Run a message, or the one that was published, as a worker does."""
        raw = self.sent_raw() if raw is None else raw
        return Execution(self, hostname="worker@here")(Job(7, "celery", raw))

    def run(self, task, *args, **kwargs):
        """Send a task and run it; return outcome and result document."""
        task.delay(*args, **kwargs)
        outcome = self.work()
        return outcome, result.load(outcome.document) if outcome.document else None


@pytest.fixture
def make_app():
    """Return what makes an application with given settings."""
    before = list(state._current), list(state._finalizers)
    _apps.clear()  # shared tasks join every application that is still there, those of earlier tests too
    yield Shop
    state._current[:], state._finalizers[:] = before


@pytest.fixture
def app(make_app):
    return make_app()
