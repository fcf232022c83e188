"""Probes and metrics over real HTTP, of any loop that has the attributes."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest
from prometheus_client.core import GaugeMetricFamily

from muster.errors import ConfigurationError
from muster.health import STALE_SECONDS, HealthServer, liveness, readiness


@dataclass
class Loop:
    last_pass: float = field(default_factory=time.monotonic)
    connected: bool = True
    draining: bool = False


class Collector:
    def collect(self):
        yield GaugeMetricFamily("muster_things", "Things", value=3)


@pytest.fixture
def served():
    loop = Loop()
    server = HealthServer("127.0.0.1:0", loop, Collector())
    server.serve_in_background()
    yield loop, lambda path: get(server.port, path)
    server.close()


def test_it_closes_at_once():
    """Nobody waits for the thread that serves: ten open and close in the time that one wait would take."""
    begin = time.monotonic()
    for _ in range(10):
        server = HealthServer("127.0.0.1:0", Loop(), Collector())
        server.serve_in_background()
        assert get(server.port, "/livez")[0] == 200
        server.close()
        with pytest.raises(OSError, match="refused"):
            get(server.port, "/livez")
    assert time.monotonic() - begin < 2


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_loop_that_comes_round_lives():
    """A loop is stuck when it has not come round for longer than it waits for anything."""
    assert liveness(STALE_SECONDS) == (200, "ok\n")
    status, text = liveness(STALE_SECONDS + 1)
    assert status == 503
    assert "has not come round for 31 s" in text


def test_readiness_says_why_not():
    """The broker's outage and our own leaving are told apart."""
    assert readiness(connected=True, draining=False)[0] == 200
    assert readiness(connected=False, draining=False) == (503, "the broker cannot be reached\n")
    assert readiness(connected=True, draining=True) == (503, "draining\n")


def test_what_is_served(served):
    """Liveness, readiness and metrics of the loop as it is at this moment."""
    loop, ask = served
    assert ask("/livez?verbose") == (200, "ok\n")
    assert ask("/readyz") == (200, "ok\n")
    assert "muster_things 3.0" in ask("/metrics")[1]
    assert ask("/")[0] == 404
    loop.connected = False
    assert ask("/readyz")[0] == 503
    assert ask("/livez")[0] == 200
    loop.last_pass -= 2 * STALE_SECONDS
    assert ask("/livez")[0] == 503


def test_an_address_that_cannot_be_served_is_the_users_to_change():
    """The sentence names it."""
    with pytest.raises(ConfigurationError, match="'nowhere' cannot be served"):
        HealthServer("nowhere", Loop(), Collector())
