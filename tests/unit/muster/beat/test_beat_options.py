"""What holds for a beat: command line before environment, and either an application or a scope."""

import pytest

from muster.beat.options import CommandLine, resolve
from muster.beat.service import _load
from muster.errors import ConfigurationError
from muster.settings.environment import WorkerEnvironment

URL, OTHER = "redis://one/0", "redis://other/0"


def test_a_pod_of_the_operator_says_all_by_its_environment():
    """Broker, scope, identity and address, and no application."""
    environment = WorkerEnvironment(
        broker_url=URL, worker_id="pod-uid", metrics_address=":9540", broker_ca_file="/ca.crt"
    )
    options = resolve(CommandLine(), environment, scope="shop", unique="x")
    assert (options.app, options.scope, options.holder) == ("", "shop", "pod-uid")
    assert (options.broker_url, options.broker_ca_file, options.metrics_address) == (URL, "/ca.crt", ":9540")
    assert (options.log_level, options.log_format, options.result_url) == ("INFO", "text", "")


def test_the_command_line_wins():
    """Over every variable that says the same."""
    environment = WorkerEnvironment(
        broker_url=URL, result_url=URL, metrics_address=":1", log_level="INFO", log_format="text"
    )
    said = CommandLine(
        scope="bank",
        broker_url=OTHER,
        result_url=OTHER,
        metrics_address=":2",
        log_level="DEBUG",
        log_format="json",
    )
    options = resolve(said, environment, scope="shop", unique="x")
    assert (options.scope, options.broker_url, options.result_url) == ("bank", OTHER, OTHER)
    assert (options.metrics_address, options.log_level, options.log_format) == (":2", "DEBUG", "json")
    assert options.holder == "x"


@pytest.mark.parametrize(("said", "declares"), [(None, True), (False, False), (True, True)])
def test_whether_a_missing_queue_is_declared(said, declares):
    """By the environment, else as the application has it."""
    environment = WorkerEnvironment(broker_url=URL, create_missing_queues=said)
    app = _load(resolve(CommandLine(), environment, scope="shop", unique="x")).app
    assert app.conf.task_create_missing_queues is declares
    app.close()


def test_with_an_application_the_broker_may_be_its_own():
    """An application from the environment counts as one from the command line."""
    options = resolve(CommandLine(), WorkerEnvironment(app="shop"), scope="", unique="x")
    assert (options.app, options.scope, options.broker_url) == ("shop", "", "")


@pytest.mark.parametrize(
    ("said", "environment", "scope", "words"),
    [
        (CommandLine(), WorkerEnvironment(), "", "nothing to tick"),
        (CommandLine(app="shop"), WorkerEnvironment(), "bank", "name one of them"),
        (CommandLine(scope="bank"), WorkerEnvironment(app="shop"), "", "name one of them"),
        (CommandLine(scope="bank"), WorkerEnvironment(), "", "no broker"),
    ],
)
def test_what_cannot_work_is_said(said, environment, scope, words):
    """One sentence each."""
    with pytest.raises(ConfigurationError, match=words):
        resolve(said, environment, scope=scope, unique="x")
