"""What tests of every kind share: markers by need, real servers, and the rule that CI skips nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rabbitmq import RabbitMQServer, VirtualHost
from servers import RedisServer, ServerMissingError

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
TESTS = Path(__file__).parent

SERVERS = {"redis_server", "own_redis_server", "rabbitmq", "own_rabbitmq_server"}

pytest_plugins = ["soak"]

# Deadlines and "too slow" measure the machine, not the code. CI draws the same examples every time.
settings.register_profile(
    "muster", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=IN_CI, print_blob=True
)
settings.load_profile("muster")


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end a run as Ctrl-C does, in the background too: fixtures end what they have started."""
    runner = os.getpid()

    def interrupt(signal_number, _frame):
        if os.getpid() != runner:  # a child that a test has forked
            signal.signal(signal_number, signal.SIG_DFL)
            os.kill(os.getpid(), signal_number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs, and run the quick ones first."""
    for item in items:
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
        if item.path.is_relative_to(TESTS / "e2e"):
            item.add_marker(pytest.mark.e2e)
    items.sort(
        key=lambda item: (
            item.get_closest_marker("e2e") is not None,
            _needs_server(item),
            # an operator of the whole cluster is installed last: it would see to the others' resources too
            "muster_installed" in getattr(item, "fixturenames", ()),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes (`-n 2`) let one run the cluster's tests, which mostly wait, from the start."""
    from xdist.scheduler import LoadScopeScheduling

    class ClusterInOneProcess(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "cluster" if nodeid.startswith("tests/e2e/") else nodeid

    return ClusterInOneProcess(config, log)


def _needs_server(item: pytest.Item) -> bool:
    return item.get_closest_marker("servers") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """A test that is skipped in CI has failed: what it would have shown is unknown."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same for a module that skips itself while it is collected."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup():
    """A server whose program is missing here skips the tests that ask for it, whoever starts it."""
    try:
        return (yield)
    except ServerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _shared_redis_server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture
def redis_server(_shared_redis_server: RedisServer) -> Iterator[RedisServer]:
    """An empty Redis server shared with other tests: write to it, do not stop it."""
    _shared_redis_server.flush()
    pid = _shared_redis_server.pid
    yield _shared_redis_server
    assert _shared_redis_server.pid == pid, "a test that ends its server asks for own_redis_server"


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A Redis server of this test's own, to be killed, stopped and restarted."""
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def _shared_rabbitmq_server() -> Iterator[RabbitMQServer]:
    server = RabbitMQServer().start()
    yield server
    server.close()


@pytest.fixture
def rabbitmq(_shared_rabbitmq_server: RabbitMQServer) -> Iterator[VirtualHost]:
    """An empty virtual host on a RabbitMQ that is shared with other tests: do not stop it."""
    with _shared_rabbitmq_server.virtual_host() as virtual_host:
        yield virtual_host


@pytest.fixture
def own_rabbitmq_server() -> Iterator[RabbitMQServer]:
    """A RabbitMQ of this test's own, to be killed, stopped, filled and restarted."""
    server = RabbitMQServer().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def allowed(request: pytest.FixtureRequest) -> Callable[..., float]:
    """Return a function of how many seconds something may last: as promised where these tests have the
    machine to themselves, as in a soak; `beside` others, which share its processors, longer."""
    alone = not hasattr(request.config, "workerinput")

    def seconds(promised: float, *, beside: float) -> float:
        return promised if alone else beside

    return seconds
