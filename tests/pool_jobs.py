"""An executor for tests of pools: a job's message is JSON that says what to do; no application is needed."""

import json
import os
import time
from pathlib import Path

from muster.exceptions import SoftTimeLimitExceeded
from muster.pools.base import Job, Loaded, Outcome


def job(number, do="nothing", *, soft_limit=0.0, hard_limit=0.0, alone=False, **fields):
    """Return a job that does one of the things below."""
    raw = json.dumps({"do": do, **fields}).encode()
    return Job(number, "q", raw, soft_limit, hard_limit, alone)


class Executor:
    """Does what the message says."""

    def __init__(self):
        self.publish = None

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
                case "append":  # a start that the test can see, then a wait for the test's word
                    with Path(fields["file"]).open("a") as file:
                        file.write(f"{job.number} {os.getpid()}\n")
                    while not Path(fields["until"]).exists():
                        time.sleep(0.005)
                case "echo":
                    text = fields["text"]
                case "eat":
                    text = str(len(bytearray(fields["bytes"])))
                case "publish":  # at the test's word, where it has one
                    while "until" in fields and not Path(fields["until"]).exists():
                        time.sleep(0.005)
                    self.publish([])
                    text = "published"
        except SoftTimeLimitExceeded:
            return Outcome(job.number, "FAILURE", b"", (), time.perf_counter() - started, "soft")
        except MemoryError as error:
            return Outcome(job.number, "FAILURE", b"", (), time.perf_counter() - started, repr(error))
        return Outcome(job.number, "SUCCESS", b"", (), time.perf_counter() - started, text)

    def interrupted(self, job, error):
        return Outcome(job.number, "FAILURE", b"", (), 0.0, "soft")


def load():
    """Load it, as a pool does."""
    executor = Executor()

    def enter(publish):
        executor.publish = publish

    return Loaded(executor, b"hello", enter)
