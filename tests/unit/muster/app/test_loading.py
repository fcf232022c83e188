"""What -A names: the application is found, or one line says what is wrong and what to do."""

import sys
import textwrap

import pytest

from muster.app.loading import load, load_executor
from muster.core.policy import TaskPolicy
from muster.errors import ConfigurationError
from muster.pools.base import Job
from muster.wire.message import pack


@pytest.fixture
def folder(tmp_path, monkeypatch, make_app):
    """Return what writes modules into the current folder; they are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


APP = "from muster import Muster\n{name} = Muster('shop')\n"


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({"shop.py": APP.format(name="app")}, "shop"),
        ({"shop.py": APP.format(name="celery")}, "shop"),
        ({"shop.py": APP.format(name="queue_of_work")}, "shop"),
        ({"shop.py": APP.format(name="other")}, "shop:other"),
        ({"shop.py": APP.format(name="other")}, "shop.other"),
        ({"shop.py": "class Things:\n    pass\n" + APP.format(name="Things.app")}, "shop:Things.app"),
        ({"store/__init__.py": "", "store/celery.py": APP.format(name="app")}, "store"),
        ({"store/__init__.py": "", "store/tasks.py": APP.format(name="app")}, "store"),
        ({"store/deep/__init__.py": "", "store/deep/app.py": APP.format(name="app")}, "store.deep"),
        (
            {"store/__init__.py": "from store import work", "store/work.py": APP.format(name="app")},
            "store:work",
        ),
    ],
)
def test_an_application_is_found(folder, files, path):
    """A module, one of its variables, or a package with a module of a usual name."""
    folder(files)
    assert load(path).main == "shop"


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({}, "nowhere", ["no module 'nowhere'", "PYTHONPATH"]),
        ({}, "nowhere.at.all", ["no module"]),
        ({}, ":app", ["names no module"]),
        ({}, "", ["names no module"]),
        ({"shop.py": "import missing_thing"}, "shop", ["importing shop", "missing_thing", "shop.py, line 1"]),
        ({"shop.py": "x = 1\ny = x / 0"}, "shop", ["ZeroDivisionError", "shop.py, line 2"]),
        ({"shop.py": "def broken(:"}, "shop", ["SyntaxError"]),
        ({"shop.py": "x = 1"}, "shop", ["shop holds no Muster application", "app = Muster(...)"]),
        ({"shop.py": "x = 1"}, "shop:x", ["an int, not a Muster application"]),
        ({"shop.py": "x = 1"}, "shop:y", ["shop has no 'y'"]),
        ({"shop.py": APP.format(name="one") + APP.format(name="two")}, "shop", ["name its variable"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, files, path, words):
    """The error names what was asked for, the module and the cause, and what to do."""
    folder(files)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert repr(path) in text
    for word in words:
        assert word in text


SHOP = """
    from muster import Muster, shared_task

    app = Muster("shop", include=["shop_tasks"], changes={"task_time_limit": 60})
    app.autodiscover_tasks(["store"])

    limits = {"time_limit": 9, "soft_time_limit": 8}

    @app.task(acks_late=True, reject_on_worker_lost=False, track_started=True, **limits)
    def add(x, y):
        return x + y
"""
TASKS = """
    from muster import shared_task

    @shared_task(ignore_result=True, store_errors_even_if_ignored=True)
    def note():
        pass
"""
FILES = {"shop.py": SHOP, "shop_tasks.py": TASKS, "store/__init__.py": "", "store/tasks.py": TASKS}


def test_an_executor_comes_with_its_tasks(folder):
    """All modules that the application asks for are imported; each task says what it asks for, no more."""
    folder(FILES)
    executor, table, app = load_executor("shop", overrides={"task_time_limit": 5}, hostname="me@here")
    assert table == {
        "shop.add": TaskPolicy(
            acks_late=True, hard_limit=9, soft_limit=8, reject_on_worker_lost=False, track_started=True
        ),
        "shop_tasks.note": TaskPolicy(ignore_result=True, store_errors_even_if_ignored=True),
        "store.tasks.note": TaskPolicy(ignore_result=True, store_errors_even_if_ignored=True),
    }
    assert app.conf.task_time_limit == 5
    raw = pack(
        headers={"task": "shop.add", "id": "1", "retries": 0},
        body="[[1, 2], {}, {}]",
        queue="q",
        task_id="1",
        delivery_tag="t",
    )
    assert (executor(Job(1, "q", raw)).text, executor.hostname) == ("3", "me@here")


@pytest.mark.parametrize("module", ["shop_tasks.py", "store/tasks.py"])
def test_a_module_that_cannot_be_imported_is_named(folder, module):
    """Whether included or discovered: one line with the cause."""
    folder(FILES | {module: "import missing_thing"})
    with pytest.raises(ConfigurationError, match="missing_thing"):
        load_executor("shop")
