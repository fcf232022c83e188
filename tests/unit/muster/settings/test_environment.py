"""The worker's environment: writer and reader are inverse, and the page has every variable."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import ConfigurationError
from muster.settings.environment import (
    VARIABLES,
    DeadLetter,
    QueueLimits,
    WorkerEnvironment,
    from_environment,
    to_environment,
)

PAGE = Path(__file__).parents[4] / "docs/reference/environment.md"

names = st.text("abcdefghij.-_:/äß", min_size=1, max_size=8)
seconds = st.floats(0, 1e6).map(lambda value: round(value, 3))
counts = st.integers(1, 10_000)


def maybe(strategy):
    return st.none() | strategy


def maps(strategy):
    return st.dictionaries(names, strategy, max_size=3)


environments = st.builds(
    WorkerEnvironment,
    app=maybe(names),
    broker_url=maybe(names),
    broker_ca_file=maybe(names),
    result_url=maybe(names),
    result_ca_file=maybe(names),
    result_expires_seconds=maybe(seconds),
    queues=st.lists(names, max_size=4).map(tuple),
    pool=maybe(names),
    concurrency=maybe(counts),
    autoscale=maybe(st.tuples(counts, counts).map(lambda pair: (max(pair), min(pair)))),
    autoscale_keepalive_seconds=maybe(seconds),
    max_tasks_per_child=maybe(counts),
    max_memory_per_child_bytes=maybe(st.integers(0, 2**50)),
    max_age_seconds=maybe(seconds),
    acks_late=maybe(st.booleans()),
    prefetch=maybe(st.just("Auto") | st.integers(0, 10_000)),
    lease_seconds=maybe(seconds),
    reject_on_worker_lost=maybe(st.booleans()),
    declare_queues=maybe(st.booleans()),
    create_missing_queues=maybe(st.booleans()),
    soft_time_limit_seconds=maybe(seconds),
    time_limit_seconds=maybe(seconds),
    rate_limits=maps(names),
    global_rate_limits=maps(names),
    delivery_limits=maps(st.integers(-1, 100)),
    dead_letters=maps(st.builds(DeadLetter, name=names, max_age=seconds, max_length=counts)),
    queue_limits=maps(
        st.builds(
            QueueLimits,
            message_ttl=maybe(seconds),
            max_length=maybe(counts),
            overflow=maybe(st.sampled_from(["DropHead", "RejectPublish"])),
        )
    ),
    drain_timeout_seconds=maybe(seconds),
    pool_name=maybe(names),
    worker_id=maybe(names),
    metrics_address=maybe(st.integers(0, 65_535).map(lambda port: f":{port}")),
    log_level=maybe(st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])),
    log_format=maybe(st.sampled_from(["text", "json"])),
)


@given(environments)
def test_what_is_written_is_read(values):
    """`from_environment` returns what `to_environment` was given."""
    assert from_environment(to_environment(values)) == values


def test_each_field_has_one_variable():
    """The table and the value have the same fields, and no variable is there twice."""
    assert sorted(variable.field for variable in VARIABLES) == sorted(
        field.name for field in fields(WorkerEnvironment)
    )
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_the_page_names_the_variables():
    """docs/reference/environment.md has each variable of the table, and beat's own beside them only."""
    named = set(re.findall(r"MUSTER_[A-Z_]+", PAGE.read_text()))
    assert {variable.name for variable in VARIABLES} == {
        name for name in named if not name.startswith("MUSTER_BEAT_")
    }


def test_nothing_said_is_nothing_written():
    """An empty environment and an empty value are each other's form."""
    assert to_environment(WorkerEnvironment()) == {}
    assert from_environment({"MUSTER_QUEUES": "", "MUSTER_SERVICE_HOST": "10.0.0.1"}) == WorkerEnvironment()


def test_the_forms():
    """Each form as the page states it."""
    written = to_environment(
        WorkerEnvironment(
            queues=("mail", "default"),
            autoscale=(8, 2),
            lease_seconds=30.0,
            drain_timeout_seconds=0.5,
            max_memory_per_child_bytes=314_572_800,
            acks_late=False,
            prefetch="Auto",
            reject_on_worker_lost=True,
            rate_limits={"b": "1/s", "a": "100/m"},
            delivery_limits={"mail": 5},
            create_missing_queues=False,
        )
    )
    assert written == {
        "MUSTER_QUEUES": "mail,default",
        "MUSTER_AUTOSCALE": "8,2",
        "MUSTER_MAX_MEMORY_PER_CHILD": "314572800",
        "MUSTER_ACKS": "Early",
        "MUSTER_PREFETCH": "Auto",
        "MUSTER_LEASE": "30",
        "MUSTER_REJECT_ON_WORKER_LOST": "true",
        "MUSTER_RATE_LIMITS": '{"a":"100/m","b":"1/s"}',
        "MUSTER_DELIVERY_LIMITS": '{"mail":5}',
        "MUSTER_DRAIN_TIMEOUT": "0.5",
        "MUSTER_CREATE_MISSING_QUEUES": "false",
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("MUSTER_CONCURRENCY", "many", "must be a whole number, 1 or more"),
        ("MUSTER_CONCURRENCY", "0", "must be a whole number, 1 or more"),
        ("MUSTER_LEASE", "half a minute", "must be seconds or a duration"),
        ("MUSTER_ACKS", "Sometimes", "must be one of Late, Early"),
        ("MUSTER_PREFETCH", "few", "must be Auto or a whole number"),
        ("MUSTER_AUTOSCALE", "2,8", "must be MOST,FEWEST"),
        ("MUSTER_REJECT_ON_WORKER_LOST", "1", "must be one of true, false"),
        ("MUSTER_MAX_MEMORY_PER_CHILD", "much", "such as 300Mi"),
        ("MUSTER_DELIVERY_LIMITS", '{"mail": "5"}', "must be a JSON object of whole numbers by queue"),
        ("MUSTER_DEAD_LETTERS", '{"mail": {"nme": "x"}}', "must be a JSON object of places by queue"),
        ("MUSTER_QUEUE_LIMITS", "mail", "must be a JSON object of limits by queue"),
        ("MUSTER_METRICS_ADDRESS", "here", "must be HOST:PORT"),
        ("MUSTER_LOG_LEVEL", "LOUD", "must be one of DEBUG"),
    ],
)
def test_a_wrong_value_names_its_variable(name, text, words):
    """The error names the variable and the form that it should have."""
    with pytest.raises(ConfigurationError) as caught:
        from_environment({name: text})
    assert str(caught.value).startswith(f"environment: {name} ")
    assert words in str(caught.value)


def test_celerys_variables_are_read_where_ours_are_absent():
    """CELERY_BROKER_URL counts unless MUSTER_BROKER_URL is there."""
    celery = {"CELERY_BROKER_URL": "redis://celery", "CELERY_RESULT_BACKEND": "redis://results"}
    assert from_environment(celery).broker_url == "redis://celery"
    assert from_environment(celery).result_url == "redis://results"
    assert from_environment(celery | {"MUSTER_BROKER_URL": "redis://ours"}).broker_url == "redis://ours"
