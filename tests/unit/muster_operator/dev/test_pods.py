"""Facts about pods as processes: which one goes, when one is started again, what is left of a group."""

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.manifests import encode_object
from muster_operator.api.names import LABEL_POOL, LABEL_ROLE
from muster_operator.dev.pods import FIRST_RESTART, LAST_RESTART, Pods, restart_delay, surplus
from muster_operator.dev.processes import Keeper, ended_how, last_line
from muster_operator.loop.keys import Key
from muster_operator.loop.observe import Memory, Observer
from muster_operator.loop.store import Store
from muster_operator.ports import BrokerView
from waiting import wait_for
from worlds import pending, pod, pool_of, unknown

SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]


@given(st.integers(1, 10_000))
def test_each_failure_waits_longer_within_bounds(failures):
    """Restarts come ever more seldom, down to one in half a minute."""
    assert FIRST_RESTART <= restart_delay(failures) <= restart_delay(failures + 1) <= LAST_RESTART


@given(st.integers(0, 6), st.integers(0, 6))
def test_as_many_go_as_are_too_many(pods, replicas):
    """Never more, whatever there is."""
    views = [pod(f"p{number}") for number in range(pods)]
    assert len(surplus(views, replicas)) == max(0, pods - replicas)


def test_the_marked_one_goes_first():
    """A deletion cost decides among ready pods; one without a process goes before all."""
    views = [pod("a"), pod("b", deletion_cost=-1000), pending("c")]
    assert surplus(views, 1) == ["c", "b"]
    assert surplus([*views, pod("d", terminating=True)], 3) == []


def manifest(*command, replicas=1, grace=10):
    """A Deployment of a pool `mail` whose container runs a command."""
    return {
        "kind": "Deployment",
        "metadata": {
            "name": "mail-1",
            "namespace": "shop",
            "labels": {LABEL_POOL: "mail", LABEL_ROLE: "worker"},
        },
        "spec": {
            "replicas": replicas,
            "template": {
                "spec": {
                    "terminationGracePeriodSeconds": grace,
                    "containers": [{"name": "worker", "command": list(command)}],
                }
            },
        },
    }


class Silence:
    """Brokers that have said nothing yet."""

    def view(self, namespace, secret):
        return BrokerView(facts=unknown())

    def secret(self, namespace, name):
        return unknown()


class Computer:
    """Pods on this computer with a clock that the test turns."""

    def __init__(self, folder):
        self.now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
        self.keeper = Keeper()
        self.pods = Pods(
            self.keeper,
            logs=folder,
            base_environment=dict(os.environ),
            secrets=lambda _: {},
            secret_folders=lambda _: {},
        )

    def pass_(self, seconds=0.0):
        """Let time go by and look once."""
        self.now += timedelta(seconds=seconds)
        self.pods.sync(self.now)
        return self.seen()

    def seen(self):
        """The pods as the operator's observer sees them."""
        objects = Store()
        for kind, bodies in self.pods.objects().items():
            for body in bodies:
                objects.put(kind, body)
        objects.put("WorkerPool", encode_object(pool_of()))
        observer = Observer(objects, Silence(), image="muster")
        return observer.worker_pool(Key("WorkerPool", "shop", "mail"), self.now, Memory()).pods

    def pids(self):
        return [pod.process.pid for pod in self.pods._pods.values() if pod.process is not None]

    def until(self, condition, what):
        """Look again and again, the clock standing still, until the condition holds."""
        return wait_for(self.pass_, until=lambda _: condition(), what=what)

    def wait_up(self):
        """Wait until every process has said that it is up: its handlers stand."""
        logs = [pod.log for pod in self.pods._pods.values()]
        wait_for(lambda: all("up" in log.read_text() for log in logs), what="the processes are up")


@pytest.fixture
def computer(tmp_path):
    made = Computer(tmp_path)
    yield made
    made.pods.end_all()
    made.keeper.close()


def test_replicas_become_processes_and_go_again(computer):
    """Up and down follows the Deployment; what goes is told by SIGTERM and leaves nothing."""
    computer.pods.apply(manifest(*SLEEPER, replicas=3), computer.now)
    assert len(computer.pass_()) == 3
    assert computer.pods.running() == 3
    computer.wait_up()
    computer.pods.scale(("shop", "mail-1"), 1)
    computer.pass_()
    assert sum(pod.terminating for pod in computer.seen()) == 2
    computer.until(lambda: computer.pods.running() == 1, "two have left")
    assert len(computer.seen()) == 1


def test_a_process_that_ends_is_started_again_later_each_time(computer):
    """The pod stays the same one, its trouble names the exit code and the last words, the event the log."""
    computer.pods.apply(manifest(sys.executable, "-c", "import sys; sys.exit('no luck')"), computer.now)
    computer.pass_()
    uid = computer.seen()[0].uid
    computer.until(lambda: computer.seen()[0].trouble, "it has ended")
    seen = computer.seen()[0]
    assert "exit code 1" in seen.trouble
    assert "no luck" in seen.trouble
    assert not seen.process
    (event,) = computer.pods.take_events()
    assert str(computer.pods._pods["shop", seen.name].log) in event
    assert computer.pods.running() == 0
    computer.pass_(FIRST_RESTART.total_seconds())
    assert computer.pods.running() == 1
    computer.until(lambda: computer.pods.running() == 0, "it has ended again")
    computer.pass_(FIRST_RESTART.total_seconds())
    assert computer.pods.running() == 0
    assert computer.seen()[0].uid == uid
    assert computer.pods.take_events() == []


def test_one_that_does_not_leave_is_killed_when_its_grace_period_is_over(computer):
    """Not before."""
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
    computer.pods.apply(manifest(sys.executable, "-c", f"{stubborn}\nwhile 1: signal.pause()"), computer.now)
    computer.pass_()
    computer.wait_up()
    computer.pods.delete_deployment(("shop", "mail-1"), computer.now)
    computer.pass_(9.9)
    assert computer.pods.running() == 1
    computer.pass_(0.2)
    computer.pass_()
    assert computer.pods.running() == 0
    assert any("grace period" in event for event in computer.pods.take_events())


def test_what_a_worker_leaves_behind_ends_with_it(computer):
    """Its group is its container: a child that outlives it is killed, as by the kubelet."""
    parent = (
        "import os, signal, time\n"
        "if not os.fork(): print('child', os.getpid(), flush=True); signal.pause()\n"
        "print('up', flush=True); signal.pause()"
    )
    computer.pods.apply(manifest(sys.executable, "-c", parent), computer.now)
    computer.pass_()
    computer.wait_up()
    log = next(iter(computer.pods._pods.values())).log
    wait_for(lambda: "child" in log.read_text(), what="the child is there")
    child = int(log.read_text().split("child ")[1].split()[0])
    os.kill(computer.pids()[0], signal.SIGKILL)
    computer.until(lambda: computer.seen()[0].trouble, "the death is seen")
    wait_for(lambda: not is_alive(child), what="the child is gone")


def test_a_pod_is_marked_and_deleted_by_its_uid(computer):
    """Another pod of the same name, long gone, is nobody to be touched."""
    computer.pods.apply(manifest(*SLEEPER), computer.now)
    (seen,) = computer.pass_()
    computer.wait_up()
    note = {"muster.dev/draining-since": "2026-11-20T12:00:00Z"}
    computer.pods.mark(("shop", seen.name), "another", note)
    computer.pods.delete_pod(("shop", seen.name), "another", computer.now)
    assert computer.seen()[0].draining_since is None
    assert not computer.seen()[0].terminating
    computer.pods.mark(("shop", seen.name), seen.uid, note)
    computer.pods.delete_pod(("shop", seen.name), seen.uid, computer.now)
    assert computer.seen()[0].draining_since == computer.now
    assert computer.seen()[0].terminating


def test_the_observer_sees_deployments_with_their_counts(computer):
    """Replicas asked for, pods that are there, and what was applied."""
    computer.pods.apply(manifest(*SLEEPER, replicas=2), computer.now)
    computer.pass_()
    computer.pods.scale(("shop", "mail-1"), 1)
    (body,) = computer.pods.objects()["Deployment"]
    assert (body["spec"]["replicas"], body["status"]["replicas"]) == (1, 2)
    assert body["spec"]["template"] == manifest(*SLEEPER)["spec"]["template"]


def test_a_container_that_cannot_run_here_is_a_trouble_of_its_pod(computer):
    """It says what is missing, and is tried again."""
    wanted = manifest(*SLEEPER)
    wanted["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}
    ]
    computer.pods.apply(wanted, computer.now)
    computer.pass_()
    assert "configMapKeyRef" in computer.seen()[0].trouble
    (event,) = computer.pods.take_events()
    assert "configMapKeyRef" in event


def test_exit_codes_in_words():
    """Signals have names."""
    assert ended_how(3) == "ended with exit code 3"
    assert ended_how(-9) == "was ended by SIGKILL"
    assert ended_how(-77) == "was ended by signal 77"


def test_the_last_line_that_says_something(tmp_path):
    """Empty lines say nothing; nor does a log that is not there."""
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\nlast words\n\n  \n")
    assert last_line(log) == "last words"


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
