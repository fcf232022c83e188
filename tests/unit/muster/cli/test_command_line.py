"""The real `muster` executable: what it says when something is wrong, and how it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.cli.main import run

MUSTER = Path(sys.executable).parent / "muster"

SHOP = """
from muster import Muster

app = Muster("shop", broker="redis://user:hidden@127.0.0.1:1/0", backend="redis://:hidden@127.0.0.1:1/0")
app.conf.update(worker_prefetch_multiplier=1, task_time_limit=60)


@app.task
def add(a, b):
    return a + b
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with an application, a module without one, and one that cannot be imported."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("import shopping_basket\n")
    (tmp_path / "leaves.py").write_text("import sys\n\nsys.exit(3)\n")
    (tmp_path / "leads_there.py").write_text("from shop import app\napp.conf.imports = ['leaves']\n")
    (tmp_path / "wrong.py").write_text("from shop import app\napp.conf.task_acks_lates = True\n")
    (tmp_path / "every.py").write_text(
        "from shop import app\napp.conf.beat_schedule = {'x': {'task': 'shop.add', 'schedule': 'daily'}}\n"
    )
    return tmp_path


@pytest.fixture
def muster(folder):
    """Runs the executable in that folder; returns (exit code, standard output, standard error)."""

    def run(*arguments, **environment):
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "CELERY_"))
        }
        done = subprocess.run(  # noqa: PLW1510 - the exit code is what is looked at
            [MUSTER, *arguments],
            cwd=folder,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


LEAVES = "importing leaves raises SystemExit: 3 ("
LEAVES_LATER = "importing one of its modules raises SystemExit: 3 ("
WRONG = [
    ("-A leaves worker -P prefork", LEAVES),
    ("-A leaves worker -P solo", LEAVES),
    ("-A leaves beat", LEAVES),
    ("-A leaves call shop.add", LEAVES),
    ("-A leads_there worker -P prefork", LEAVES_LATER),
    ("-A leads_there worker -P threads", LEAVES_LATER),
    ("-A leads_there beat", LEAVES_LATER),
    ("-A shop worker -P solo -I leaves", LEAVES_LATER),
    ("worker", "no application: say which with -A MODULE"),
    ("-A nowhere worker", "there is no module 'nowhere' here"),
    ("worker -A empty", "holds no Muster application"),
    ("worker -A shop:nothing", "has no 'nothing'"),
    ("worker -A broken", "ModuleNotFoundError: No module named 'shopping_basket'"),
    ("worker -A wrong", "did you mean task_acks_late?"),
    ("-A shop worker -b localhost", "does not begin with amqp://"),
    ("-A shop worker -b redis://:hidden@host:99999/0", "its port is a number below 65536"),
    ("-A shop worker -c none", "must be a whole number"),
    ("-A shop worker -B", "run `muster beat` beside the workers"),
    ("-A shop wurker", "No such command 'wurker'"),
    ("beat", "nothing to tick"),
    ("beat --scope shop -b redis://:hidden@127.0.0.1:1/x", "where the number of a database stands"),
    ("-A every beat", "beat_schedule['x']['schedule'] must be seconds"),
    ("call shop.add", "neither an application nor a broker"),
]

WRONG_ON_THE_LINE = [
    ("-A nowhere worker -P threads", "there is no module 'nowhere' here"),
    ("-A nowhere worker -P solo", "there is no module 'nowhere' here"),
    ("-A shop -b amqp://guest:hidden@host:0// worker", "no usable host and port"),
    ("-A shop worker --result-backend rpc://host", "results over the broker are written rpc://"),
    ("-A shop worker -P asyncio", "use gevent or threads"),
    ("-A nowhere worker -P gevent", "there is no module 'nowhere' here"),
    ("-A shop worker -P fast", "use prefork, threads, gevent, eventlet or solo"),
    ("-A shop worker -c", "requires an argument"),
    ("-A shop worker --time-limit 5 --soft-time-limit 10", "the soft time limit, 10 s, must be shorter than"),
    ("-A shop worker --time-limit soon", "such as 90s, 5m, 1h30m"),
    ("-A shop worker --max-memory-per-child much", "such as 300Mi"),
    ("-A shop worker --autoscale 2,8", "MOST,FEWEST such as 8,2"),
    ("-A shop worker --metrics-address here", "must be HOST:PORT"),
    ("-A shop worker -l LOUD", "is not one of"),
    ("-A shop worker --lease 0", "must be 1 s or more"),
    ("-A shop worker --detach", "stays in the foreground"),
    ("-A shop worker --purge", "no message is thrown away"),
    ("-A shop worker --logfile x.log", "logs go to standard error"),
    ("-A shop worker --pidfile x.pid", "its id is known to whoever started it"),
    ("-A shop worker --workdir nowhere", "does not exist"),
    ("-A shop worker --concurency 3", "No such option"),
    ("beat --scope shop", "no broker: say which with -b URL"),
    ("-A shop beat --scope shop", "name one of them"),
    ("-A nowhere beat", "there is no module 'nowhere' here"),
    ("-A shop beat -S django_celery_beat.schedulers:DatabaseScheduler", "ticks come from beat_schedule"),
    ("-A shop beat --detach", "stays in the foreground"),
    ("-A shop beat --pidfile x.pid", "its id is known to whoever started it"),
    ("-A shop beat -l LOUD", "is not one of"),
    ("-A shop worker extra", "unexpected extra argument"),
    ("-A shop inspect active", "there is no command inspect here: workers report"),
    ("-A shop purge", "there is no command purge here: use the broker's own tools"),
    ("--loader x -A shop worker", "name the application with -A"),
    ("--config x -A shop worker", "app.config_from_object"),
    ("-A shop call", "Missing argument 'NAME'"),
    ("-A shop call shop.add -a nope", "must be a JSON array"),
    ('-A shop call shop.add -k ["a"]', "must be a JSON object"),
    ("-A shop call shop.add --eta tomorrow", "must be a time in ISO 8601"),
    ("-A shop call shop.add --serializer pickle", "'pickle' is not 'json'"),
]


def is_one_line_with(words, code, out, error):
    """What every refusal has in common."""
    assert (code, out) == (2, "")
    assert error.startswith("muster: ")
    assert error.count("\n") == 1
    assert words in error
    assert "Traceback" not in error
    assert "hidden" not in error


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_what_the_user_must_change_is_one_line(muster, line, words):
    """Exit code 2 and one line on standard error that says what to do; no traceback, no password."""
    is_one_line_with(words, *muster(*line.split()))


@pytest.mark.parametrize(("line", "words"), WRONG_ON_THE_LINE, ids=[line for line, _ in WRONG_ON_THE_LINE])
def test_a_wrong_option_is_one_line(capsys, monkeypatch, line, words):
    """The same without a process of its own: these are found before anything is imported or changed."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # a command adds the folder that it is called in
    code = run(line.split())
    is_one_line_with(words, code, *capsys.readouterr())


def test_a_wrong_variable_is_one_line_too(muster):
    """The environment's errors name the variable."""
    code, _, error = muster("worker", MUSTER_APP="shop", MUSTER_CONCURRENCY="many")
    assert code == 2
    assert error == "muster: environment: MUSTER_CONCURRENCY must be a whole number, 1 or more, not 'many'\n"


def test_an_application_that_raises_is_named_with_its_place(muster, folder):
    """The line that raised is told, since the traceback is not."""
    code, _, error = muster("-A", "broken", "worker")
    assert code == 2
    assert f"{folder / 'broken.py'}, line 1" in error


def test_the_version(muster):
    """`--version` needs no application."""
    code, out, error = muster("--version")
    assert (code, error) == (0, "")
    assert out.startswith("muster ")


@pytest.mark.parametrize("arguments", [["--help"], ["worker", "--help"], ["call", "-h"], ["result", "-h"]])
def test_help(muster, arguments):
    """Help goes to standard output and is no error."""
    code, out, error = muster(*arguments)
    assert (code, error) == (0, "")
    assert out.startswith("Usage: muster")


def test_without_a_command_the_help_is_shown(muster):
    """A bare `muster` is a usage error that shows the commands."""
    code, out, error = muster()
    assert (code, out) == (2, "")
    assert "worker" in error


def test_settings_say_what_has_no_effect(muster):
    """`muster settings` shows what was set, from where, and what does nothing; passwords are masked."""
    code, out, _ = muster("-A", "shop", "settings")
    assert code == 0
    assert 'broker_url = "redis://user:***@127.0.0.1:1/0"  (application)' in out
    assert "worker_prefetch_multiplier = 1  (application)  # Accepted: " in out
    assert "hidden" not in out


def test_settings_as_json_with_the_command_line_first(muster):
    """What the command line says goes before the application, and JSON says so."""
    code, out, _ = muster(
        "-A", "shop", "settings", "-b", "redis://:hidden@elsewhere/1", "-o", "json", "--all"
    )
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["broker_url"]["value"] == "redis://:***@elsewhere/1"
    assert rows["broker_url"]["origin"] == "command line"
    assert rows["task_acks_late"] == {
        "name": "task_acks_late", "value": True, "origin": "default", "standing": "Honoured", "note": ""
    }  # fmt: skip


def test_the_report_shows_the_options_of_a_worker(muster):
    """`muster report` has versions and effective options with their origins."""
    code, out, _ = muster("-A", "shop", "report", MUSTER_QUEUES="mail,web", MUSTER_LEASE="45s")
    assert code == 0
    assert "queues = mail,web  (environment)" in out
    assert "lease_seconds = 45  (environment)" in out
    assert "time_limit_seconds = 60  (application)" in out
    assert "broker_url = redis://user:***@127.0.0.1:1/0  (application)" in out
    assert "hidden" not in out


def test_a_report_without_an_application_has_the_versions(muster):
    """The versions are there for a report of an error, whatever else is wrong."""
    code, out, _ = muster("report")
    assert code == 0
    assert "muster-tasks " in out


def test_commands_of_other_packages_are_found(muster, folder):
    """A package that names a command under the entry point `muster.commands` adds it to `muster`."""
    (folder / "greeting.py").write_text(
        "import click\n\n\n@click.command()\ndef greet():\n    \"Greet.\"\n    click.echo('good morning')\n"
    )
    information = folder / "greeting-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[muster.commands]\ngreet = greeting:greet\n")
    assert muster("greet", PYTHONPATH=str(folder)) == (0, "good morning\n", "")
    assert "greet     Greet." in muster("--help", PYTHONPATH=str(folder))[1]


def test_a_broker_that_is_away_is_no_usage_error(muster):
    """`call` to a closed port: exit code 1 and one line."""
    code, out, error = muster("-A", "shop", "call", "shop.add", "-a", "[1, 2]")
    assert (code, out) == (1, "")
    assert error.startswith("muster: ")
    assert error.count("\n") == 1
    assert "hidden" not in error


def test_call_and_result_on_the_embedded_broker(muster):
    """A task that was called has an id; before a worker has run it there is no result: exit code 3."""
    shop = ["-A", "shop", "-b", "sqlite:///shop.db", "--result-backend", "sqlite:///shop.db"]
    code, out, error = muster(*shop, "call", "shop.add", "-a", "[1, 2]")
    assert (code, error) == (0, "")
    code, out, error = muster(*shop, "result", out.strip())
    assert (code, out) == (3, "")
    assert "no result" in error
    assert "PENDING" in error
