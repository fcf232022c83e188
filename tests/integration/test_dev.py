"""`muster dev` as users run it: real manifests, real worker processes, real files, nothing left behind."""

import contextlib
import hashlib
import json
import keyword
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import uuid
from collections import Counter
from pathlib import Path

import pytest

from ledger import Ledger
from muster import Muster
from waiting import wait_for

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
MARK = "MARK_OF_THIS_TEST"

MANIFESTS = """\
apiVersion: muster.dev/v1beta1
kind: TaskQueue
metadata: {name: celery}
spec: {broker: {secretRef: {name: broker}}}
---
apiVersion: muster.dev/v1beta1
kind: WorkerPool
metadata: {name: ledger}
spec:
  image: none
  app: ledger_app
  queues: [celery]
  results: {secretRef: {name: results}}
  pool: {type: POOL_TYPE, concurrency: 1}
  delivery: {lease: 2s}
  scaling: {maxReplicas: 2, behavior: {scaleDown: {stabilizationSeconds: 1}}}
"""


class Dev:
    """`muster dev` as a process, its output in a file. Killed with all that it started at the end."""

    def __init__(self, folder, *arguments, terminal=False, **environment):
        self.mark = str(uuid.uuid4())
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._output = folder / "output"
        self.terminal = None
        with contextlib.ExitStack() as files:
            if terminal:
                self.terminal, inside = pty.openpty()
                files.callback(os.close, inside)
                output = inside
            else:
                output = files.enter_context(self._output.open("wb"))
            self.process = subprocess.Popen(
                [sys.executable, "-m", "muster", "dev", *map(str, arguments)],
                env={
                    **os.environ,
                    "PYTHONPATH": f"{ROOT / 'tests' / 'apps'}",
                    "TMPDIR": str(self.temporary),
                    "TERM": "xterm-256color",
                    "COLUMNS": "100",
                    MARK: self.mark,
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self):
        return self._output.read_text()

    def wait_line(self, pattern, timeout_seconds=30):
        """Wait until a line of the output matches, and return the match."""
        what = f"a line like {pattern}"
        found = wait_for(lambda: self._search(pattern), what=what, timeout_seconds=timeout_seconds)
        assert not isinstance(found, str), found
        return found

    def _search(self, pattern):
        found = re.search(pattern, self.output)
        if found is None and self.process.poll() is not None:
            return f"it ended with {self.process.returncode}:\n{self.output}"
        return found

    def wait(self, timeout=60):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end within {timeout} s:\n{self.output}") from None

    def left(self):
        """Return the command lines of all that it started and that still runs; itself is not among them."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            pid = int(place.name)
            try:
                if f"{MARK}={self.mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                    found[pid] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
        found.pop(self.process.pid, None)
        return found

    def workers(self):
        """Return the ids of the worker processes themselves, without their children."""
        found = []
        for pid, line in self.left().items():
            with contextlib.suppress(ProcessLookupError):  # it may have ended since
                if line.rstrip().endswith("-m muster worker") and os.getsid(pid) == pid:
                    found.append(pid)
        return found

    def assert_nothing_left(self):
        wait_for(lambda: not self.left(), what="no process is left", timeout_seconds=10)
        wait_for(lambda: not list(self.temporary.iterdir()), what="no file is left", timeout_seconds=5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.terminal is not None:
            os.close(self.terminal)
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Place:
    """A folder with manifests for the ledger's application, and a client of its embedded broker."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data"
        self.ledger = Ledger(folder / "ledger")
        self.url = f"sqlite:///{self.data / 'muster.db'}"
        self.environment = {"LEDGER": str(self.ledger.path), "BROKER": self.url}

    def manifests(self, pool_type="prefork", **replaced):
        text = MANIFESTS.replace("POOL_TYPE", pool_type)
        for old, new in replaced.items():
            text = text.replace(f"{old}: ", f"{new}: ")
        file = self.folder / "ledger.yaml"
        file.write_text(text)
        return file

    def send(self, count=1, **kwargs):
        self.data.mkdir(exist_ok=True)
        app = Muster("client", broker=self.url, backend=self.url, set_as_current=False)
        try:
            return [app.send_task("ledger.work", kwargs=kwargs).id for _ in range(count)]
        finally:
            app.close()

    def dev(self, *arguments, **options):
        return Dev(self.folder, *arguments, "--data", self.data, **options, **self.environment)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def plainly_counted(paths):
    """Count what the quickstart counts, in this process and without Muster."""
    lines = words = 0
    names = Counter()
    together = hashlib.sha256()
    for path in sorted(paths):
        content = Path(path).read_bytes()
        text = content.decode(errors="replace")
        lines += text.count("\n")
        words += len(text.split())
        names.update(word for word in re.findall(r"[^\W\d]\w*", text) if not keyword.iskeyword(word))
        together.update(hashlib.sha256(content).hexdigest().encode())
    most = sorted(names.items(), key=lambda item: (-item[1], item[0]))[:5]
    return {
        "files": len(paths),
        "lines": lines,
        "words": words,
        "names": [list(item) for item in most],
        "sha256": together.hexdigest(),
    }


def library():
    """Return the running Python's library sources."""
    folder = Path(sysconfig.get_path("stdlib"))
    aside = {"site-packages", "dist-packages"}
    return [str(path) for path in folder.rglob("*.py") if not aside & set(path.parts)]


def assert_same(totals, paths):
    expected = plainly_counted(paths)
    assert {name: totals[name] for name in expected} == expected


@pytest.mark.slow
def test_the_demo_counts_every_file_once_and_goes_back_to_zero(tmp_path):
    """What `make demo` runs: exit code 0 within 60 s, totals as of a plain program, nothing left."""
    totals = tmp_path / "totals.json"
    client = f"python {QUICKSTART / 'submit.py'} --json {totals}"
    with Dev(tmp_path, QUICKSTART, "--run", client) as dev:
        assert dev.wait(60) == 0, dev.output
        dev.assert_nothing_left()
        output = dev.output
    found = json.loads(totals.read_text())
    paths = library()
    if len(paths) < 1000:  # a Python whose library is packaged in parts
        paths += [str(path) for path in Path(sysconfig.get_path("purelib")).rglob("*.py")]
    assert_same(found, paths)
    assert found["files"] >= 1000
    assert found["runs"] == found["files"]
    assert found["summaries"][-1] == [found["files"], found["lines"], found["words"]]
    assert re.search(r"pool files: 0 → \d workers, .* slots needed", output)
    assert re.search(r"pool files: \d → 4 workers, to the maximum: ", output)
    assert "pool files: 4 of 4 workers ready" in output
    assert re.search(r"pool files: \d → 0 workers", output)
    assert re.findall(r"pool files: .* workers ready.*", output)[-1] == "pool files: 0 of 0 workers ready"
    assert re.search(r"schedule summary \(every 2s\): ran for", output)


@pytest.mark.slow
def test_a_pool_follows_its_load_and_comes_back_to_zero(place):
    """Zero without load, two for ten tasks, zero when they are done, by the mailbox; then once more."""
    with place.dev(place.manifests()) as dev:
        dev.wait_line("pool ledger: 0 of 0 workers ready")
        assert dev.workers() == []
        for turn in (1, 2):
            sent = place.send(10, seconds=0.2)
            wait_for(lambda: len(dev.workers()) == 2, what="two workers")
            wait_for(lambda: not dev.workers(), what="none is left")
            assert not place.ledger.check(sent).lost
            assert len(re.findall("2 → 0 workers, load fell|1 → 0 workers, load fell", dev.output)) == turn
        logs = "".join(log.read_text() for log in (place.data / "logs").iterdir())
        assert logs.count("draining: 0 tasks run") >= 2
        dev.process.send_signal(signal.SIGINT)
        assert dev.wait() == 0
        assert dev.left() == {}


@pytest.mark.parametrize("pool_type", ["prefork", "threads", "solo"])
def test_ctrl_c_lets_running_tasks_finish(place, pool_type):
    """What runs ends and is acknowledged, what has not started stays, and no process is left."""
    sent = place.send(20, until=str(place.folder / "go"))
    with place.dev(place.manifests(pool_type)) as dev:
        wait_for(lambda: len(place.ledger.starts) == 2, what="two tasks run")
        dev.process.send_signal(signal.SIGINT)
        logs = [*(place.data / "logs").iterdir()]
        wait_for(lambda: all("draining: " in log.read_text() for log in logs), what="both drain")
        (place.folder / "go").touch()
        assert dev.wait() == 0, dev.output
        assert dev.left() == {}
        assert "gone" not in dev.output
    verdict = place.ledger.check(sent)
    assert not verdict.unfinished
    assert not verdict.extra_runs
    assert len(place.ledger.ends) == 2


def test_a_second_ctrl_c_ends_at_once(place):
    """The task that runs is given up; it comes back when it is run again."""
    sent = place.send(1, until=str(place.folder / "go"))
    with place.dev(place.manifests()) as dev:
        wait_for(lambda: place.ledger.starts, what="the task runs")
        dev.process.send_signal(signal.SIGINT)
        dev.wait_line("draining: ")
        dev.process.send_signal(signal.SIGINT)
        assert dev.wait(10) == 130
        wait_for(lambda: not dev.left(), what="no process is left", timeout_seconds=5)
    (place.folder / "go").touch()
    shutil.rmtree(place.folder / "temporary")
    with place.dev(place.manifests(), "--until-idle") as dev:
        assert dev.wait() == 0, dev.output
    verdict = place.ledger.check(sent)
    assert not verdict.lost
    assert verdict.extra_runs == 1


def test_what_was_left_is_worked_off_until_idle(place):
    """With `--data` a backlog waits for the next run, which ends by itself when nothing is left."""
    sent = place.send(30)
    with place.dev(place.manifests(), "--until-idle") as dev:
        assert dev.wait() == 0, dev.output
        assert dev.left() == {}
    verdict = place.ledger.check(sent)
    assert not verdict.lost
    assert not verdict.extra_runs


@pytest.mark.soak("No process outlives a killed parent", repeat=True)
def test_a_killed_dev_leaves_no_process(tmp_path, account):
    """SIGKILL in the middle: workers, their children, beat, the client and the folder are gone soon."""
    client = f"python {QUICKSTART / 'submit.py'}"
    with Dev(tmp_path, QUICKSTART, "--run", client) as dev:
        dev.wait_line("4 of 4 workers ready")
        assert len(dev.left()) > 8
        dev.process.kill()
        dev.process.wait()
        dev.assert_nothing_left()
    account(parents_killed=1)


@pytest.mark.slow
@pytest.mark.soak("Processes killed on the embedded broker lose and damage nothing", repeat=0.3)
def test_a_killed_worker_loses_nothing(tmp_path, account):
    """Its tasks run again when their lease is over, another worker takes its place, totals are right."""
    folder, totals = tmp_path / "quickstart", tmp_path / "totals.json"
    shutil.copytree(QUICKSTART, folder)
    pool = folder / "workerpool.yaml"
    pool.write_text(pool.read_text().replace("  scaling:", "  delivery: {lease: 2s}\n  scaling:"))
    client = f"python {folder / 'submit.py'} --json {totals}"
    database = tmp_path / "quickstart.db"
    with Dev(tmp_path, folder, "--run", client, QUICKSTART_DATABASE=str(database)) as dev:
        dev.wait_line("4 of 4 workers ready")
        # by what tasks have written: a line tells it every two seconds only, when most may be done
        wait_for(lambda: files_looked_at(database) > 0, what="tasks run")
        os.kill(dev.workers()[0], signal.SIGKILL)
        event = dev.wait_line(r"(files-\S+): was ended by SIGKILL; it is started again; log: (\S+)")
        assert dev.wait(60) == 0, dev.output
        assert dev.left() == {}
        kept = re.search(r"logs are kept in (\S+)", dev.output)[1]
        assert Path(event[2]).parent == Path(kept)
        assert Path(event[2]).is_file()
    found = json.loads(totals.read_text())
    account(kills=1)
    assert_same(found, library() if len(library()) >= 1000 else quickstart_sources())
    assert found["runs"] >= found["files"]


def files_looked_at(database):
    """Return how many runs of the quickstart's tasks have ended so far."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as found:
        return found.execute("SELECT count(*) FROM runs").fetchone()[0]


def quickstart_sources():
    """Return what the client takes, for a Python whose library is packaged in parts."""
    purelib = Path(sysconfig.get_path("purelib"))
    return library() + [str(path) for path in purelib.rglob("*.py")]


def test_a_worker_that_cannot_start_says_why_and_where(tmp_path):
    """The line names the worker, its exit code, its last words and its log, which is kept."""
    file = tmp_path / "pool.yaml"
    text = MANIFESTS.replace("POOL_TYPE", "prefork").replace("ledger_app", "no_such_module")
    file.write_text(text.replace("maxReplicas: 2", "maxReplicas: 2, minReplicas: 1"))
    with Dev(tmp_path, file, "--for", "3s") as dev:
        line = dev.wait_line(r"ledger-\S+: ended with exit code 2 \((.*)\); it is started again; log: (\S+)")
        assert dev.wait() == 0, dev.output
        assert "no_such_module" in line[1]
        assert line[1] in Path(line[2]).read_text()
        assert "logs are kept in" in dev.output
        assert dev.left() == {}


def test_tasks_that_are_left_in_a_temporary_broker_are_told(tmp_path):
    """Ctrl-C before all have run: how many are gone, and how to keep them."""
    file = tmp_path / "queue.yaml"
    file.write_text(MANIFESTS.partition("---")[0])
    code = "import muster; app = muster.Muster(); [app.send_task('none') for _ in range(3)]"
    with Dev(tmp_path, file, "--run", f'python -c "{code}"') as dev:
        assert dev.wait() == 0, dev.output
    assert "3 tasks have not run and are gone with the temporary broker; --data DIR keeps them" in dev.output


def test_the_commands_exit_code_is_devs(tmp_path):
    """A client that fails makes the whole fail, after all has been drained."""
    with Dev(tmp_path, QUICKSTART, "--run", "python -c 'print(\"no luck\"); exit(7)'") as dev:
        assert dev.wait() == 7
        assert "no luck" in dev.output
        assert dev.left() == {}


def test_the_client_finds_broker_and_results(tmp_path):
    """Under Muster's and under Celery's names, and the embedded file is the default for both."""
    shown = "import os; print({k: v for k, v in os.environ.items() if k.startswith(('MUSTER_', 'CELERY_'))})"
    with Dev(tmp_path, QUICKSTART, "--run", f'python -c "{shown}"') as dev:
        assert dev.wait() == 0
        found = eval(re.search(r"\{'.*\}", dev.output)[0])
    assert set(found) == {
        "MUSTER_BROKER_URL",
        "MUSTER_RESULT_URL",
        "CELERY_BROKER_URL",
        "CELERY_RESULT_BACKEND",
    }
    assert len(set(found.values())) == 1
    assert next(iter(found.values())).startswith(f"sqlite:///{dev.temporary}")


def test_on_a_terminal_it_draws(tmp_path):
    """A live view in place of lines, with the client's lines above it; nothing is left there either."""
    client = f"python {QUICKSTART / 'submit.py'} {Path(sysconfig.get_path('stdlib')) / 'asyncio'}"
    seen = b""
    with Dev(tmp_path, QUICKSTART, "--run", client, terminal=True) as dev:
        with contextlib.suppress(OSError):  # the other end is closed when all have ended
            while chunk := os.read(dev.terminal, 65536):
                seen += chunk
        assert dev.wait() == 0
        dev.assert_nothing_left()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    for words in ("QUEUE", "POOL", "SCHEDULE", "every 2s", "files submitted", "slots needed", "ended"):
        assert words in text
    assert "\x1b[" in seen.decode()


def test_a_secret_in_the_folder_names_the_broker(redis_server, tmp_path):
    """Its url is used for tasks, results and ticks."""
    url = redis_server.url
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder)
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {{name: {0}}}\nstringData: {{url: '{1}'}}\n"
    (folder / "secrets.yaml").write_text(
        secret.format("broker", url) + "---\n" + secret.format("results", url)
    )
    small = Path(sysconfig.get_path("stdlib")) / "asyncio"
    totals = tmp_path / "totals.json"
    client = f"python {folder / 'submit.py'} {small} --json {totals}"
    with Dev(tmp_path, folder, "--run", client) as dev:
        assert dev.wait() == 0, dev.output
        dev.assert_nothing_left()
    found = json.loads(totals.read_text())
    assert_same(found, [str(path) for path in small.rglob("*.py")])
    assert found["summaries"]


def test_on_rabbitmq_queues_are_made_as_declared_before_the_command_begins(rabbitmq, tmp_path):
    """By the operator's own code: their type and policies are there, and the client finds them."""
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder)
    queues = folder / "taskqueue.yaml"
    queues.write_text(queues.read_text().replace("spec:\n", "spec:\n  type: Quorum\n  maxLength: 100000\n"))
    management = rabbitmq.server.management_url
    (folder / "secret.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: broker}\n"
        f"stringData: {{url: '{rabbitmq.url}', managementUrl: '{management}'}}\n"
    )
    small = Path(sysconfig.get_path("stdlib")) / "asyncio"
    totals = tmp_path / "totals.json"
    client = f"python {folder / 'submit.py'} {small} --json {totals}"
    with Dev(tmp_path, folder, "--run", client) as dev:
        assert dev.wait() == 0, dev.output
        dev.assert_nothing_left()
    assert_same(json.loads(totals.read_text()), [str(path) for path in small.rglob("*.py")])
    assert [rabbitmq.queue(queue)["type"] for queue in ("files", "summaries")] == ["quorum", "quorum"]
    policies = rabbitmq.server.api("GET", f"policies/{rabbitmq.name}")
    bounds = {each["pattern"]: each["definition"].get("max-length") for each in policies}
    assert bounds["^(?:files|summaries)$"] == 100_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("maxReplicas: 2", "maxReplicas: 0"),
            "ledger.yaml, document 2 (WorkerPool ledger): spec.scaling.max",
        ),
        (
            ("queues: [celery]", "queues: [none]"),
            "WorkerPool ledger: spec.queues names TaskQueue none, which ",
        ),
        (
            ("type: prefork", "type: asyncio"),
            "WorkerPool ledger: spec.pool.type: the pool asyncio comes in a later version; use gevent or",
        ),
        (("image: none", "image: [none"), "document 2, line "),
        (("name: celery", "name: muster.celery"), "must not begin with muster."),
    ],
)
def test_bad_manifests_are_refused_in_one_line(place, change, said):
    """Exit code 2, no traceback, no process."""
    file = place.manifests()
    file.write_text(file.read_text().replace(*change))
    done = subprocess.run(
        [sys.executable, "-m", "muster", "dev", str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("muster: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: cannot be read"),
        ([str(QUICKSTART), "--run", "no-such-program"], "there is no program no-such-program"),
        ([str(QUICKSTART), "--run", "'open"], "No closing quotation"),
        ([str(QUICKSTART), "--for", "soon"], "--for: "),
        ([], "FILE_OR_DIR"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(tmp_path, arguments, said):
    """Exit code 2, no traceback, no process, no file."""
    with Dev(tmp_path, *arguments) as dev:
        assert dev.wait() == 2, dev.output
        assert len(dev.output.splitlines()) == 1
        assert said in dev.output
        dev.assert_nothing_left()
