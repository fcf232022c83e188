"""An executor for tests of pools: a job's message is JSON that says what to do; no application is needed."""

import ctypes
import json
import os
import threading
import time
from pathlib import Path

from muster.errors import BrokerUnavailable, ConfigurationError
from muster.exceptions import SoftTimeLimitExceeded
from muster.pools.base import Job, Loaded, Outcome, Started
from muster.pools.green import natives


def job(number, do="nothing", *, soft_limit=0.0, hard_limit=0.0, alone=False, **fields):
    """Return a job that does one of the things below."""
    raw = json.dumps({"do": do, **fields}).encode()
    return Job(number, "q", raw, soft_limit, hard_limit, alone)


def wait_and_tell(job, fields):
    """Make a start that the test can see, then wait for the test's word."""
    with Path(fields["file"]).open("a") as file:
        file.write(f"{job.number} {os.getpid()}\n")
    while not Path(fields["until"]).exists():
        time.sleep(0.005)


class Executor:
    """Does what the message says."""

    def __init__(self):
        self.publish = self.started = None

    def __call__(self, job):
        fields = json.loads(job.raw)
        started = time.perf_counter()
        text = ""
        try:
            match fields["do"]:
                case "nothing":
                    pass
                case "pid":
                    text = str(os.getpid())
                case "sleep":
                    time.sleep(fields["seconds"])
                case "spin":
                    until = time.monotonic() + fields["seconds"]
                    while time.monotonic() < until:
                        pass
                case "exit":
                    os._exit(fields["code"])
                case "append":
                    wait_and_tell(job, fields)
                case "echo":
                    text = fields["text"]
                case "eat":
                    text = str(len(bytearray(fields["bytes"])))
                case "begin":  # says so, then runs until the test's word
                    self.started(Started(job.number, str(os.getpid()).encode()))
                    while not Path(fields["until"]).exists():
                        time.sleep(0.005)
                case "publish":  # at the test's word, where it has one
                    while "until" in fields and not Path(fields["until"]).exists():
                        time.sleep(0.005)
                    self.publish([])
                    text = "published"
                case "resist":  # its end, once
                    try:
                        time.sleep(60)
                    except BaseException:  # noqa: BLE001 - so do tasks
                        text = self._again(fields)
                case "keep":  # whatever others wait for
                    natives.sleep(fields["seconds"])
                case "seize":  # the interpreter itself
                    ctypes.PyDLL(None).usleep(int(fields["seconds"] * 1e6))
                case "publish natively":
                    done = []
                    natives.start_new_thread(lambda: done.append(self.publish([])), ())
                    while not done:
                        time.sleep(0.005)
                    text = "published"
                case "publish behind":  # from a thread that outlives the job, again and again
                    threading.Thread(target=self._publish_until, args=(fields["until"],), daemon=True).start()
                case "wait and publish":
                    wait_and_tell(job, fields)
                    self.publish([])
                    text = "published"
        except SoftTimeLimitExceeded:
            return Outcome(job.number, "FAILURE", b"", (), time.perf_counter() - started, "soft")
        except BrokerUnavailable as error:
            text = str(error)
        except MemoryError as error:
            return Outcome(job.number, "FAILURE", b"", (), time.perf_counter() - started, repr(error))
        return Outcome(job.number, "SUCCESS", b"", (), time.perf_counter() - started, text)

    def _again(self, fields):
        with Path(fields["file"]).open("a") as file:
            file.write("resisted\n")
        time.sleep(60)
        return "never"

    def _publish_until(self, path):
        while not Path(path).exists():
            self.publish([])

    def name(self, job):
        return f"job {job.number}"

    def interrupted(self, job, error):
        return Outcome(job.number, "FAILURE", b"", (), 0.0, "soft")


def load():
    """Load it, as a pool does."""
    executor = Executor()

    def enter(publish, started):
        executor.publish = publish
        executor.started = started

    return Loaded(executor, b"hello", enter)


def load_nothing():
    """Fail to."""
    raise ConfigurationError("there is no module shop")
