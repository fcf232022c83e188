"""The settings' table against the real Celery's, and how a configuration is resolved."""

import math
import pickle
from datetime import timedelta
from types import SimpleNamespace

import pytest
from celery.app.defaults import _TO_NEW_KEY, NAMESPACES, flatten
from hypothesis import example, given
from hypothesis import strategies as st

from muster.errors import ConfigurationError
from muster.settings import from_object, known, resolve
from muster.settings.table import TABLE, Standing

CELERY = dict(flatten(NAMESPACES))
ROWS = {row.name: row for row in TABLE if not row.own}


def plain(value):
    """Celery's default in the form in which ours stands: seconds for a timedelta, tuples for lists."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return tuple(value) if isinstance(value, list) else value


def test_every_setting_of_celery_is_in_the_table():
    """No setting of the installed Celery is missing, and none is made up."""
    assert set(ROWS) == set(CELERY)


def test_every_old_name_is_celerys():
    """The upper-case names lead where Celery's own table says."""
    assert {row.old: row.name for row in ROWS.values()} == _TO_NEW_KEY


@pytest.mark.parametrize("name", sorted(CELERY))
def test_a_default_is_celerys_or_says_so(name):
    """A default is Celery's; where it is another, the row shows Celery's beside it."""
    row = ROWS[name]
    celerys = plain(CELERY[name].default)
    if row.celery:
        assert row.celery == repr(celerys)
        assert row.default != celerys
    else:
        assert row.default == celerys


def test_every_row_says_what_becomes_of_it():
    """Each note is a sentence, and each note that refers to another row names one that exists."""
    for row in TABLE:
        assert row.note.endswith("."), row.name
        if row.note.startswith("As "):
            assert known(row.note[3:-1].split()[0].rstrip(",")), row.name


@pytest.mark.parametrize("name", sorted(ROWS))
def test_celerys_own_default_is_never_refused(name):
    """A configuration that spells out Celery's defaults can be ported as it is."""
    assert resolve({name: CELERY[name].default}, source="a test").origin(name) in {"a test", "default"}


def test_a_value_is_found_under_both_names():
    """What is set by an old name is read by the new one and the other way round."""
    found = resolve({"CELERY_ACKS_LATE": False, "task_default_queue": "mail"})
    assert found.task_acks_late is False
    assert found.CELERY_DEFAULT_QUEUE == "mail"


def test_a_setting_knows_its_origin():
    """The origin is the source that said it last, or the default."""
    base = resolve({"task_default_queue": "mail", "timezone": "UTC"}, source="module settings")
    found = resolve({"timezone": "Europe/Berlin"}, source="command line", base=base)
    assert found.origin("task_default_queue") == "module settings"
    assert found.origin("timezone") == "command line"
    assert found.origin("imports") == "default"


def test_none_asks_for_the_default():
    """None takes back what was set, but where None is a value of its own it is kept."""
    base = resolve({"task_acks_late": False, "result_expires": 60})
    found = resolve({"task_acks_late": None, "result_expires": None}, base=base)
    assert found.task_acks_late is True
    assert found.result_expires is None


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"task_acks_lates": True}, "did you mean task_acks_late?"),
        ({"CELERY_ACK_LATE": True}, "did you mean CELERY_ACKS_LATE?"),
        ({"colour_of_the_sky": 1}, "docs/reference/settings.md"),
        ({3: 4}, "a setting's name is a text"),
        (
            {"CELERY_ACKS_LATE": True, "task_acks_late": False},
            "are one setting and differ; keep task_acks_late",
        ),
        ({"task_acks_late": "perhaps"}, "task_acks_late must be true or false"),
        ({"worker_concurrency": 2.5}, "worker_concurrency must be a whole number"),
        ({"worker_concurrency": True}, "worker_concurrency must be a whole number"),
        ({"task_time_limit": "soon"}, "task_time_limit must be a number of seconds"),
        ({"task_time_limit": -1}, "task_time_limit must be a number of seconds"),
        ({"imports": 5}, "imports must be a list of texts"),
        ({"beat_schedule": []}, "beat_schedule must be a mapping"),
        ({"task_default_queue": 5}, "task_default_queue must be a text"),
        ({"task_serializer": "pickle"}, "Muster reads and writes JSON only"),
        ({"accept_content": ["json", "yaml"]}, "'yaml'"),
        ({"task_protocol": 1}, "writes protocol 2"),
        ({"task_default_exchange_type": "topic"}, "name queues in task_routes"),
        ({"broker_transport_options": {"priority_steps": [0, 1]}}, "keeps to [0, 3, 6, 9]"),
        ({"broker_transport_options": {"master_name": "main"}}, "Sentinel"),
        ({"broker_url": "amqp://guest:hidden@host:0//"}, "no usable host and port"),
        ({"broker_native_delayed_delivery_queue_type": "stream"}, "must be 'quorum' or 'classic'"),
        ({"result_backend": "rpc://host"}, "are written rpc://"),
        ({"broker_host": "example.org"}, "Write it into broker_url"),
        ({"worker_direct": True}, "cannot be honoured. Name the worker's own queue"),
        ({"task_queues": 5}, "must be a mapping by queue name"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(mapping, words):
    """The error names the source and the setting, and says what to do."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(mapping, source="shop.settings")
    assert str(caught.value).startswith("shop.settings: ")
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_queues_may_be_kombu_objects():
    """`task_queues` takes kombu's queues by their names, and refuses an exchange that copies."""
    from kombu import Exchange, Queue

    assert resolve({"task_queues": [Queue("mail"), Queue("web", Exchange("web"))]}).task_queues
    with pytest.raises(ConfigurationError, match="binds news to a fanout exchange"):
        resolve({"task_queues": [Queue("news", Exchange("news", type="fanout"))]})


def test_text_forms_are_read():
    """Values from an environment variable or Django's settings, where all is text, are read too."""
    found = resolve(
        {"task_acks_late": "false", "worker_concurrency": "4", "imports": "a, b", "task_time_limit": "1.5"}
    )
    assert found.task_acks_late is False
    assert (found.worker_concurrency, found.imports, found.task_time_limit) == (4, ("a", "b"), 1.5)


def test_settings_are_frozen():
    """No attribute can be set, and an unknown one is named."""
    found = resolve({})
    with pytest.raises(AttributeError, match="frozen"):
        found.timezone = "UTC"
    with pytest.raises(AttributeError, match="did you mean task_acks_late"):
        _ = found.task_ack_late


def test_settings_travel_between_processes():
    """Pickled settings are equal, with their origins."""
    found = resolve({"timezone": "Europe/Berlin"}, source="a module")
    back = pickle.loads(pickle.dumps(found))
    assert back == found
    assert back.origin("timezone") == "a module"


def test_the_text_of_settings_has_no_values():
    """Values may be secret: `repr` shows names only."""
    assert "hidden" not in repr(resolve({"broker_url": "redis://u:hidden@h"}))


def test_what_has_no_effect_is_known():
    """Accepted settings that were set are listed with their reason; honoured ones are not."""
    found = resolve({"worker_prefetch_multiplier": 1, "timezone": "UTC"})
    assert [row.name for row in found.without_effect()] == ["worker_prefetch_multiplier"]
    assert all(row.standing is Standing.ACCEPTED for row in found.without_effect())


def test_a_module_gives_its_settings_and_what_looks_like_one():
    """Helpers of the user's own stay out; a misspelt setting comes along, so that it is found."""
    module = SimpleNamespace(
        broker_url="redis://h", CELERY_TIMEZONE="UTC", BASE=1, helper=len, task_acks_lat=True, task_kinds=list
    )
    assert from_object(module) == {
        "broker_url": "redis://h",
        "CELERY_TIMEZONE": "UTC",
        "task_acks_lat": True,
    }


def test_a_namespace_takes_its_own_names_only():
    """Django's `CELERY_…`: new names with the prefix, and old names that begin with it."""
    django = SimpleNamespace(
        CELERY_BROKER_URL="redis://h", CELERY_TASK_ACKS_LATE=False, CELERY_DEFAULT_QUEUE="mail", DEBUG=True
    )
    found = resolve(from_object(django, namespace="CELERY"))
    assert (found.broker_url, found.task_acks_late, found.task_default_queue) == ("redis://h", False, "mail")


def test_a_misspelling_in_a_namespace_is_found():
    """Under a prefix of its own nothing can be a helper."""
    with pytest.raises(ConfigurationError, match="did you mean broker_url"):
        resolve(from_object({"CELERY_BROKER_URLS": "redis://h"}, namespace="CELERY"))


@given(st.dictionaries(st.sampled_from([row.name for row in TABLE]), st.none()))
def test_nothing_set_is_the_defaults(mapping):
    """Any settings of None are the same as none at all, but for those that None means something to."""
    found = resolve(mapping)
    for row in TABLE:
        expected = None if row.none and row.name in mapping else row.default
        assert getattr(found, row.name) == expected


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.text(), max_size=3)
)


@example({"worker_concurrency": math.inf})
@example({"result_expires": 10**400})
@given(st.dictionaries(st.sampled_from([row.name for row in TABLE]), values, max_size=4))
def test_any_value_is_read_or_refused(mapping):
    """Whatever a setting is set to, it is read, and again the same, or refused naming the source."""
    try:
        found = resolve(mapping)
    except ConfigurationError as error:
        refusal = str(error)
    else:
        assert resolve(found.given()) == found
        return
    assert refusal.startswith("application: ")
