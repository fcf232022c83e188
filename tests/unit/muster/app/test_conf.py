"""app.conf: Celery's ways to configure an application."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from muster import Muster
from muster.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)


@pytest.fixture
def app():
    return Muster("shop", set_as_current=False)


def test_settings_are_attributes_and_items(app):
    """Reading and writing, by new name and old."""
    app.conf.task_default_queue = "mail"
    app.conf["result_expires"] = 60
    app.conf.update(task_track_started=True, CELERY_TASK_SERIALIZER="json")
    assert (app.conf.task_default_queue, app.conf["task_default_queue"]) == ("mail", "mail")
    assert (app.conf.CELERY_DEFAULT_QUEUE, app.conf.result_expires) == ("mail", 60)
    assert (app.conf.task_track_started, app.conf.task_always_eager) == (True, False)
    assert app.conf.get("no_such_thing", 5) == 5
    assert "task_default_queue" in app.conf
    del app.conf["task_default_queue"]
    assert app.conf.task_default_queue == "celery"


def test_the_constructor_sets_the_urls():
    """broker, backend and include are settings."""
    app = Muster(broker="redis://b/1", backend="redis://r/2", include=["a"], set_as_current=False)
    assert (app.conf.broker_url, app.conf.result_backend, tuple(app.conf.include)) == (
        "redis://b/1",
        "redis://r/2",
        ("a",),
    )


def test_names_of_the_users_own_are_kept_and_misspelt_ones_told(app):
    """What looks like a setting and is none is an error; anything else is the user's own."""
    app.conf.shop_currency = "EUR"
    assert (app.conf.shop_currency, app.conf["shop_currency"], app.conf.task_default_queue) == (
        "EUR",
        "EUR",
        "celery",
    )
    with pytest.raises(AttributeError):
        _ = app.conf.shop_language
    app.conf.task_acks_lat = True
    with pytest.raises(ConfigurationError, match="task_acks_late"):
        _ = app.conf.task_acks_late


def test_a_change_is_seen_by_the_next_call(make_app):
    """What publishing has prepared is prepared anew."""
    app = make_app()
    app.send_task("x")
    assert app.sent().delivery_info["routing_key"] == "celery"
    app.conf.task_default_queue = "mail"
    app.send_task("x")
    assert app.sent().delivery_info["routing_key"] == "mail"


class Settings:
    task_default_queue = "mail"
    shop_currency = "EUR"
    _private = 1

    def helper(self):
        """Not a setting."""


@pytest.mark.parametrize("form", ["class", "object", "mapping", "module", "name", "attribute"])
def test_settings_come_from_anything(app, form, monkeypatch):
    """A class, an object, a mapping, a module, its name, or the name of something in it."""
    module = ModuleType("shop_settings")
    module.task_default_queue = "mail"
    module.inner = Settings
    monkeypatch.setitem(sys.modules, "shop_settings", module)
    app.config_from_object(
        {
            "class": Settings,
            "object": Settings(),
            "mapping": {"task_default_queue": "mail"},
            "module": module,
            "name": "shop_settings",
            "attribute": "shop_settings:inner",
        }[form]
    )
    assert app.conf.task_default_queue == "mail"


def test_a_namespace_is_stripped(app):
    """Django's way: CELERY_… names in its settings."""
    django = SimpleNamespace(CELERY_TASK_DEFAULT_QUEUE="mail", CELERY_BROKER_URL="redis://b/1", DEBUG=True)
    app.config_from_object(django, namespace="CELERY")
    assert (app.conf.task_default_queue, app.conf.broker_url) == ("mail", "redis://b/1")


def test_a_source_is_read_when_it_is_needed(app):
    """So a settings module may import the application; what cannot be read is told then, or with force."""
    app.config_from_object("no_such_module")
    app.conf.task_default_queue = "mail"
    with pytest.raises(ConfigurationError, match="no_such_module"):
        _ = app.conf.task_default_queue
    other = Muster(set_as_current=False)
    with pytest.raises(ConfigurationError, match="no_such_module"):
        other.config_from_object("no_such_module", force=True)


def test_what_is_set_by_hand_stays(app):
    """A source that is read later does not undo it."""
    app.config_from_object(Settings)
    app.conf.task_default_queue = "own"
    assert app.conf.task_default_queue == "own"
    app.add_defaults({"task_default_queue": "no", "task_default_priority": 3})
    assert (app.conf.task_default_queue, app.conf.task_default_priority) == ("own", 3)


def test_precedence(app, monkeypatch):
    """The command line goes before the environment, this before the application, and each names itself."""
    app.conf.broker_url = "redis://app/0"
    app.conf.result_backend = "redis://app/1"
    assert app.conf.settings.origin("broker_url") == "application"
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://env/1")
    app.conf.override({"broker_url": "redis://told/0"})
    assert (app.conf.broker_url, app.conf.result_backend) == ("redis://told/0", "redis://env/1")
    assert app.conf.settings.origin("result_backend") == "environment"
    assert app.conf.settings.origin("broker_url") == "command line"


def test_a_configuration_shows_names_only(app):
    """A printed configuration has no password in it."""
    app.conf.broker_url = "redis://user:secret@b/0"
    assert "secret" not in repr(app.conf)
    assert "broker_url" in repr(app.conf)
