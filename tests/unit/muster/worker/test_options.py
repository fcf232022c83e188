"""Which of a command line, an environment and an application holds, for each option of a worker."""

import pickle
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.autoscale import Bounds
from muster.core.policy import TaskPolicy
from muster.errors import ConfigurationError
from muster.settings import resolve as settings
from muster.settings.environment import DeadLetter, WorkerEnvironment
from muster.settings.pools import PoolType
from muster.settings.table import BY_NAME
from muster.worker.machine import Machine
from muster.worker.options import (
    APPLICATION_SETTINGS,
    CommandLine,
    Told,
    WorkerOptions,
    node_name,
    resolve,
    told_by,
    without_effect,
)

MACHINE = Machine(cpus=3, host="web1.example.org", unique="9f0c")
URL = "redis://broker/0"


def options(command_line=None, environment=None, application=None):
    """The options of a worker of `shop` on a Redis broker, with what a test says over that."""
    told = Told(
        command_line=CommandLine(**({"app": "shop", "broker_url": URL} | (command_line or {}))),
        environment=WorkerEnvironment(**(environment or {})),
        machine=MACHINE,
    )
    return resolve(told, settings(application or {}))


def test_the_defaults():
    """What holds when nothing was said: late acks, five lost workers, leases of 30 s, a .dead queue each."""
    found = options()
    assert (found.pool, found.concurrency, found.queues) == (PoolType.PREFORK, 3, ("celery",))
    assert (found.acks_late, found.reject_on_worker_lost, found.delivery_limit) == (True, True, 5)
    assert (found.lease_seconds, found.drain_timeout_seconds) == (30.0, 600.0)
    assert found.dead_letters == {"celery": DeadLetter(name="celery.dead")}
    assert (found.prefetch, found.max_depth) == ("Auto", 0)
    assert (found.result_backend, found.result_expires_seconds) == ("", 86_400)
    assert (found.soft_time_limit_seconds, found.time_limit_seconds) == (0.0, 0.0)
    assert found.hostname == found.pool_name == "muster@web1.example.org"
    assert found.worker_id == "9f0c"
    assert found.metrics_address == ""


@pytest.mark.parametrize(
    ("pool", "concurrency"),
    [("prefork", 3), ("processes", 3), ("threads", 10), ("solo", 1), ("gevent", 100), ("eventlet", 100)],
)
def test_concurrency_by_pool(pool, concurrency):
    """As many slots as processors for processes, ten for threads, a hundred for greenlets, one for solo."""
    assert options({"pool": pool}).concurrency == concurrency


def test_solo_has_one_slot_whatever_is_said():
    """The one thread of solo runs one task."""
    assert options({"pool": "solo", "concurrency": 8}).concurrency == 1


def test_autoscale_begins_with_the_fewest():
    """The application's worker_concurrency does not count then; -c says how many in the beginning."""
    assert options().bounds is None
    found = options(
        {"autoscale": (8, 2)}, application={"worker_concurrency": 5, "muster_autoscale_keepalive": 9}
    )
    assert (found.concurrency, found.bounds) == (2, Bounds(2, 8, 9.0))
    found = options({"concurrency": 3}, {"autoscale": (8, 2), "autoscale_keepalive_seconds": 5.0})
    assert (found.concurrency, found.bounds) == (3, Bounds(2, 8, 5.0))
    assert found.effective()["autoscale"] == "8,2"


CASES = [
    ("concurrency", "concurrency", "worker_concurrency", (5, 6, 7)),
    ("lease_seconds", "lease_seconds", "muster_lease", (5.0, 6.0, 7.0)),
    ("drain_timeout_seconds", "drain_timeout_seconds", "muster_drain_timeout", (5.0, 6.0, 7.0)),
    ("time_limit_seconds", "time_limit_seconds", "task_time_limit", (5.0, 6.0, 7.0)),
    ("soft_time_limit_seconds", "soft_time_limit_seconds", "task_soft_time_limit", (5.0, 6.0, 7.0)),
    ("max_tasks_per_child", "max_tasks_per_child", "worker_max_tasks_per_child", (5, 6, 7)),
    ("max_age_seconds", "max_age_seconds", "muster_max_age_per_child", (5.0, 6.0, 7.0)),
    ("metrics_address", "metrics_address", "muster_metrics_address", (":5", ":6", ":7")),
    ("broker_url", "broker_url", "broker_url", ("redis://a", "redis://b", "redis://c")),
    ("result_backend", "result_url", "result_backend", ("redis://a", "redis://b", "redis://c")),
    ("pool", "pool", "worker_pool", ("solo", "threads", "prefork")),
]


@pytest.mark.parametrize(("name", "told", "setting", "values"), CASES)
@given(said=st.sets(st.sampled_from(["command line", "environment", "application"])))
def test_the_order_of_sources(name, told, setting, values, said):
    """The command line goes before the environment, that before the application, that before the default."""
    on_line, in_environment, in_application = values
    sources = {
        "command line": ({told: on_line}, None, None),
        "environment": (None, {told: in_environment}, None),
        "application": (None, None, {setting: in_application}),
    }
    needed = {"broker_url": None} if name == "broker_url" else {}
    if name == "broker_url" and not said:
        return  # a worker needs one
    parts = [sources[source] for source in sources if source in said]
    command_line, environment, application = (
        {key: value for part in parts for key, value in (part[place] or {}).items()} for place in range(3)
    )
    found = options(needed | command_line, environment, application)
    first = next((source for source in sources if source in said), "default")
    assert found.origins[name] == first
    if first != "default":
        assert getattr(found, name) == dict(zip(sources, values, strict=True))[first]


def test_every_option_has_an_origin():
    """Of each option it is known where its value came from."""
    found = options()
    assert set(found.origins) >= {field.name for field in fields(WorkerOptions)} - {"origins", "told"}


def test_queues_of_the_application():
    """Without -Q a worker consumes the application's task_queues, without these its default queue."""
    assert options(application={"task_queues": {"mail": {}, "web": {}}}).queues == ("mail", "web")
    assert options(application={"task_default_queue": "main"}).queues == ("main",)
    assert options({"queues": ("b", "a", "b")}, application={"task_queues": ["mail"]}).queues == ("b", "a")
    excluded = options({"exclude_queues": ("web",)}, application={"task_queues": ["mail", "web"]})
    assert excluded.queues == ("mail",)


def test_dead_letters_for_every_queue():
    """What the manifest says of a queue's dead letters holds; the others have the default."""
    place = DeadLetter(name="lost", max_age=60.0, max_length=10)
    found = options({"queues": ("mail", "web")}, {"dead_letters": {"mail": place}})
    assert found.dead_letters == {"mail": place, "web": DeadLetter(name="web.dead")}


def test_memory_of_a_child():
    """Celery's setting counts KiB, the environment and the command line bytes."""
    assert options(application={"worker_max_memory_per_child": 2}).max_memory_per_child_bytes == 2048
    assert options({"max_memory_per_child_bytes": 5}).max_memory_per_child_bytes == 5


def test_prefetch():
    """A slot holds the running message and so many ahead; 0 is none, Auto by runtime."""
    assert options({"prefetch": 0}).max_depth == 1
    assert options({"prefetch": 4}).max_depth == 5
    assert options(application={"worker_disable_prefetch": True}).max_depth == 1
    assert options({"prefetch": "Auto"}, application={"worker_disable_prefetch": True}).max_depth == 0


@pytest.mark.parametrize(
    ("command_line", "environment", "application", "words"),
    [
        ({"app": None}, {}, {}, "no application: say which with -A"),
        ({"broker_url": None}, {}, {}, "no broker: say which with -b"),
        ({"broker_url": "amqp://u:hidden@h:0"}, {}, {}, "no usable host and port"),
        ({"result_url": "rpc://host"}, {}, {}, "the result backend URL"),
        ({"pool": "asyncio"}, {}, {}, "comes in a later version; use gevent or threads"),
        (
            {"pool": "shop:Pool"},
            {},
            {},
            "the pool shop:Pool is one of your own, which comes in a later version; use prefork",
        ),
        ({}, {}, {"worker_concurrency": 0}, "concurrency is 0"),
        ({"pool": "solo"}, {"autoscale": (8, 2)}, {}, "a solo worker runs one task at a time: leave"),
        ({"concurrency": 9}, {"autoscale": (8, 2)}, {}, "concurrency is where autoscale begins"),
        ({"exclude_queues": ("celery",)}, {}, {}, "no queue is left to consume: celery are excluded"),
        ({"queues": ("muster.claimed.x",)}, {}, {}, "is reserved"),
        ({"lease_seconds": 0.5}, {}, {}, "the lease is 0.5 s: it must be 1 s or more"),
        ({"queues": ("mail", "mail.dead")}, {}, {}, "name another place"),
        ({}, {"rate_limits": {"shop.send": "fast"}}, {}, "the rate limit of shop.send is 'fast'"),
        ({}, {"global_rate_limits": {"shop.send": "1/d"}}, {}, "the global rate limit of shop.send is '1/d'"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(command_line, environment, application, words):
    """One sentence says what is wrong and what to do; a password is not in it."""
    with pytest.raises(ConfigurationError) as caught:
        options(command_line, environment, application)
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_without_the_application_no_broker_is_asked_for():
    """The command line resolves before the application is imported; joining it then asks."""
    told = Told(
        command_line=CommandLine(app="shop", concurrency=2), environment=WorkerEnvironment(), machine=MACHINE
    )
    early = resolve(told)
    assert early.broker_url == ""
    late = early.with_application(settings({"broker_url": URL, "worker_concurrency": 7}))
    assert (late.broker_url, late.concurrency) == (URL, 2)
    with pytest.raises(ConfigurationError, match="no broker"):
        early.with_application(settings({}))


def test_what_the_application_tells_is_enough():
    """The plain values of `told_by` lead to the same options as the application's settings."""
    from kombu import Queue

    quorum = {"x-queue-type": "quorum"}
    queues = [Queue("mail", queue_arguments=quorum)]
    application = settings(
        {"broker_url": URL, "task_queues": queues, "task_routes": len, "task_time_limit": 5}
    )
    told = Told(command_line=CommandLine(app="shop"), environment=WorkerEnvironment(), machine=MACHINE)
    plain = told_by(application)
    named = {"mail": {"queue_arguments": quorum}}
    assert plain == {"broker_url": URL, "task_queues": named, "task_time_limit": 5.0}
    assert resolve(told, settings(plain)) == resolve(told, application)


def test_the_settings_that_travel_exist():
    """Each name in APPLICATION_SETTINGS is a setting."""
    assert set(APPLICATION_SETTINGS) <= set(BY_NAME)


def test_what_the_application_must_be_told():
    """What the command line and the environment say goes to the application, what it said itself does not."""
    found = options(
        {"broker_url": None, "result_url": "redis://r"}, {"result_expires_seconds": 5.0}, {"broker_url": URL}
    )
    assert found.overrides() == {"result_backend": "redis://r", "result_expires": 5}
    assert options().overrides() == {"broker_url": URL}


def test_what_a_worker_may_not_declare_its_tasks_may_not_either():
    """Both what it sends for them and what they send themselves, whatever the application says."""
    found = options({}, {"create_missing_queues": False}, {"task_create_missing_queues": True})
    assert found.create_missing_queues is False
    assert found.overrides()["task_create_missing_queues"] is False
    assert options({}, {}, {"task_create_missing_queues": False}).create_missing_queues is False
    assert options().create_missing_queues is True


def test_a_private_authority_joins_the_urls():
    """The certificates' file of the environment is part of a rediss:// URL."""
    found = options(
        {"broker_url": "rediss://h/0", "result_url": "rediss://r/0"},
        {"broker_ca_file": "/ca/broker.crt", "result_ca_file": "/ca/results.crt"},
    )
    assert found.broker_url == "rediss://h/0?ssl_ca_certs=/ca/broker.crt"
    assert found.result_backend == "rediss://r/0?ssl_ca_certs=/ca/results.crt"


def test_what_is_effective_can_be_shown():
    """Every option has a text, and no password is in one."""
    found = options(
        {"broker_url": "redis://u:hidden@h", "result_url": "redis://:hidden@h"},
        application={"broker_transport_options": {"password": "hidden", "global_keyprefix": "x"}},
    )
    texts = found.effective()
    assert all(isinstance(text, str) for text in texts.values())
    assert "hidden" not in " ".join(texts.values())
    assert texts["broker_url"] == "redis://u:***@h"
    assert texts["hostname"] == "muster@web1.example.org"
    assert "hidden" not in found.effective()["broker_transport_options"]


def test_options_travel_between_processes():
    """Pickled options are equal."""
    assert pickle.loads(pickle.dumps(options())) == options()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "muster@web1.example.org"),
        ("w1@%h", "w1@web1.example.org"),
        ("w1@%n", "w1@web1"),
        ("w%i@%d", "w0@example.org"),
        ("w1", "muster@w1"),
        ("w1@", "w1@web1.example.org"),
        ("a%%b@c%I", "a%b@c"),
        ("a%z@c", "a%z@c"),
    ],
)
def test_the_workers_name(text, name):
    """Celery's -n: % letters are expanded, and what is left out is filled in."""
    assert node_name(text, MACHINE.host) == name


@pytest.mark.parametrize("hard", [5.0, 4.0])
def test_a_soft_limit_that_is_not_below_the_hard_one_is_refused(hard):
    """As in the API: wherever either was said."""
    for command_line, application in (
        ({"soft_time_limit_seconds": 5.0, "time_limit_seconds": hard}, {}),
        ({"soft_time_limit_seconds": 5.0}, {"task_time_limit": hard}),
        ({}, {"task_soft_time_limit": 5, "task_time_limit": hard}),
    ):
        with pytest.raises(
            ConfigurationError, match=r"soft time limit, 5 s, must be shorter than the time limit"
        ):
            options(command_line, application=application)
    assert options({"soft_time_limit_seconds": 5.0}).soft_time_limit_seconds == 5.0


def test_a_task_that_is_killed_before_it_is_told_to_stop_is_named():
    """Where its own soft limit is not below the hard one, its own or the worker's."""
    tasks = {
        "shop.both": TaskPolicy(soft_limit=5.0, hard_limit=5.0),
        "shop.soft": TaskPolicy(soft_limit=20.0),
        "shop.hard": TaskPolicy(hard_limit=3.0),
        "shop.fine": TaskPolicy(soft_limit=1.0),
        "shop.none": TaskPolicy(hard_limit=0.0),
    }
    [sentence] = without_effect(options(LIMITS), tasks)
    assert sentence.startswith("the soft time limit of shop.both, shop.soft has no effect: ")


LIMITS = {"time_limit_seconds": 10.0, "soft_time_limit_seconds": 5.0}


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_time_limits_of_a_pool_that_cannot_interrupt_are_told(pool):
    """The worker's own and those of its tasks, wherever they were said, with what to use instead."""
    why = f"the {pool} pool cannot interrupt a task; use prefork"
    said = [
        "the time limit of 10 s has no effect: " + why,
        "the soft time limit of 5 s has no effect: " + why,
    ]
    assert without_effect(options({"pool": pool, **LIMITS}), {}) == said
    assert without_effect(options({"pool": pool}, LIMITS), {}) == said
    application = {"worker_pool": pool, "task_time_limit": 10, "task_soft_time_limit": 5}
    assert without_effect(options(application=application), {}) == said
    tasks = {f"shop.t{n}": TaskPolicy(soft_limit=1.0) for n in range(7)} | {"shop.free": TaskPolicy()}
    [sentence] = without_effect(options({"pool": pool}), tasks)
    assert sentence.startswith(
        "the time limits that tasks have themselves, shop.t0, shop.t1, shop.t2, shop.t3, shop.t4 and 2 more, "
    )


def test_what_has_its_effect_is_not_told():
    """Limits with prefork, and a pool without any."""
    tasks = {"shop.send": TaskPolicy(hard_limit=1.0)}
    assert without_effect(options(LIMITS), tasks) == []
    assert without_effect(options({"pool": "threads"}), {"shop.send": TaskPolicy()}) == []


CHILDREN = {"max_tasks_per_child": 5, "max_memory_per_child_bytes": 2**20, "max_age_seconds": 60.0}


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_limits_hold_for_greenlets(pool):
    """Nothing is to be said of them."""
    assert without_effect(options({"pool": pool, **LIMITS}), {}) == []


@pytest.mark.parametrize(
    ("pool", "has"),
    [
        *((pool, "has no child processes") for pool in ("threads", "solo")),
        *((pool, "keeps its process") for pool in ("gevent", "eventlet")),
    ],
)
def test_bounds_of_children_are_told_where_there_are_none(pool, has):
    """A line each."""
    why = f"has no effect: the {pool} pool {has}; use prefork"
    bounds = [f"max-{what}-per-child {why}" for what in ("tasks", "memory", "age")]
    assert without_effect(options({"pool": pool, **CHILDREN}), {}) == bounds
    assert without_effect(options(CHILDREN), {}) == []


def test_more_than_one_task_at_once_is_told_of_a_solo_worker():
    """Wherever it was said; one is what there is."""
    sentence = "concurrency has no effect: a solo worker runs one task at a time; use prefork or threads"
    assert without_effect(options({"pool": "solo", "concurrency": 4}), {}) == [sentence]
    assert without_effect(options({"pool": "solo"}, {"concurrency": 4}), {}) == [sentence]
    assert without_effect(options({"pool": "solo"}, application={"worker_concurrency": 4}), {}) == [sentence]
    for said in ({}, {"concurrency": 1}):
        assert without_effect(options({"pool": "solo", **said}), {}) == []
