"""What an application asks of workers reaches every worker's next tick, on each broker."""

import pytest

from muster import Muster
from muster.errors import ConfigurationError
from muster.transports.base import Tick
from muster.transports.connect import connect_transport


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.servers)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.db"
    return request.getfixturevalue("redis_server").url


def worker(url, name):
    return connect_transport(
        url,
        queues=["mail"],
        worker=name,
        pool="shop/mail",
        lease_seconds=60,
        dead_letters={},
        options={},
        results_prefix=None,
    )


def test_a_revoked_task_is_told_to_every_worker(url):
    """Each worker learns of a revocation once it ticks, and a later tick brings only what is new."""
    app = Muster("shop", broker=url, set_as_current=False)
    app.control.revoke("first")
    app.AsyncResult("second").revoke()
    app.control.revoke(["third", "fourth"])
    for name in ("one", "two"):
        transport = worker(url, name)
        ticked = transport.tick(Tick(revoked_after=0.0))
        assert set(ticked.revoked) == {"first", "second", "third", "fourth"}
        assert not transport.tick(Tick(revoked_after=ticked.now)).revoked
        transport.close()


def test_a_running_task_cannot_be_terminated(url):
    """What cannot be asked for is refused with a sentence."""
    with pytest.raises(ConfigurationError, match="terminate"):
        Muster("shop", broker=url, set_as_current=False).control.revoke("1", terminate=True)


def test_without_a_broker_nobody_can_be_told(monkeypatch):
    """A sentence instead of silence."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    with pytest.raises(ConfigurationError, match="no broker"):
        Muster("shop", set_as_current=False).control.revoke("1")
