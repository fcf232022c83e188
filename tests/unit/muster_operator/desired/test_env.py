"""The environment contract: writer, reader and page are one."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.settings.environment import VARIABLES, from_environment, to_environment
from muster_operator.desired.env import beat_env, worker_env, worker_settings
from worlds import SECRET, pool_of, queue_of

PAGE = (Path(__file__).parents[4] / "docs/reference/environment.md").read_text()


def test_the_page_describes_every_variable():
    """Of worker and beat, and none that nobody reads."""
    described = set(re.findall(r"`(MUSTER_[A-Z_]+)`", PAGE))
    written = {variable.name for variable in VARIABLES} | {
        each["name"] for each in beat_env("shop", broker=SECRET)
    }
    assert described == written


def test_every_variable_of_a_worker_is_one_that_it_reads():
    """The operator sets nothing that the engine does not know."""
    env = worker_env(pool_of(), [queue_of()], broker=SECRET, results=SECRET)
    assert {each["name"] for each in env} <= {variable.name for variable in VARIABLES}
    assert [each["name"] for each in env] == sorted(each["name"] for each in env)


def test_what_the_manifest_does_not_say_is_not_set():
    """It is the application's configuration's to decide."""
    names = set(to_environment(worker_settings(pool_of(), [queue_of()])))
    assert not names & {
        "MUSTER_CONCURRENCY",
        "MUSTER_AUTOSCALE",
        "MUSTER_TIME_LIMIT",
        "MUSTER_RATE_LIMITS",
        "MUSTER_RESULT_URL",
        "MUSTER_RESULT_EXPIRES",
        "MUSTER_QUEUE_LIMITS",
    }


def test_neither_workers_nor_beat_declare_a_queue():
    """On RabbitMQ a bare one would stand where the TaskQueue is to have another, until it is deleted."""
    queues = [queue_of()]
    for env in (worker_env(pool_of(), queues, broker=SECRET, results=None), beat_env("shop", broker=SECRET)):
        assert {"name": "MUSTER_CREATE_MISSING_QUEUES", "value": "false"} in env


def test_certificates_are_named_only_where_the_secret_has_them():
    """A file that is not there would be an error of ours."""
    names = {each["name"] for each in worker_env(pool_of(), [queue_of()], broker=SECRET, results=SECRET)}
    assert not names & {"MUSTER_BROKER_CA_FILE", "MUSTER_RESULT_CA_FILE"}


DURATIONS = st.integers(1, 10**6).map(lambda milliseconds: f"{milliseconds + 1000}ms")


@given(
    pool=st.fixed_dictionaries(
        {},
        optional={
            "concurrency": st.integers(1, 10_000),
            "maxTasksPerChild": st.integers(1, 10**9),
            "maxMemoryPerChild": st.sampled_from(["300Mi", "2Gi", "1000", "5M"]),
            "maxAge": DURATIONS,
        },
    ),
    delivery=st.fixed_dictionaries(
        {},
        optional={
            "acks": st.sampled_from(["Late", "Early"]),
            "prefetch": st.integers(1, 10_000) | st.just("Auto"),
            "lease": DURATIONS,
            "rejectOnWorkerLost": st.booleans(),
        },
    ),
    queue=st.fixed_dictionaries(
        {},
        optional={
            "queueName": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,20}\Z"),
            "messageTTL": DURATIONS,
            "maxLength": st.integers(1, 10**9),
            "deliveryLimit": st.integers(1, 1000),
        },
    ),
    drain=DURATIONS,
)
def test_the_worker_reads_what_the_operator_wrote(pool, delivery, queue, drain):
    """Whatever the manifest says arrives as it was meant."""
    made = pool_of(pool=pool, delivery=delivery, drain={"timeout": drain})
    said = worker_settings(made, [queue_of(**queue)])
    assert from_environment(to_environment(said)) == said


@pytest.mark.parametrize(
    ("size", "count"), [("300Mi", "314572800"), ("2Gi", "2147483648"), ("5M", "5000000")]
)
def test_sizes_are_bytes(size, count):
    """Kubernetes' units become plain numbers."""
    made = worker_settings(pool_of(pool={"maxMemoryPerChild": size}), [queue_of()])
    assert to_environment(made)["MUSTER_MAX_MEMORY_PER_CHILD"] == count
