"""What `helm test` runs: a task, and as a program the client that sends it and waits for the answer."""

import os
import platform
import sys
import time

from muster import Muster
from muster.errors import BrokerUnavailable

url = os.environ.get("BROKER_URL")  # of the client; a worker is told its own
app = Muster("check", broker=url, backend=url)


@app.task(name="muster_check.add")
def add(one, other):
    """Return the sum and who has made it."""
    return {"sum": one + other, "worker": platform.node()}


def main():
    """Send the task and wait; return the exit code."""
    queue, timeout_seconds = os.environ["QUEUE"], float(os.environ["TIMEOUT_SECONDS"])
    started = time.monotonic()
    while True:
        try:
            sent = add.apply_async((19, 23), queue=queue)
            break
        except BrokerUnavailable as error:
            if time.monotonic() - started > timeout_seconds:
                print(f"the broker could not be reached: {error}")
                return 1
            time.sleep(1)
    print(f"task {sent.id} was sent to the queue {queue}")
    try:
        answer = sent.get(timeout=timeout_seconds)
    except TimeoutError:
        print(
            f"no worker has run it within {timeout_seconds:g} s: see the operator's log and "
            f"`kubectl describe taskqueue,workerpool {queue}`"
        )
        return 1
    print(f"worker {answer['worker']} answered {answer['sum']} after {time.monotonic() - started:.1f} s")
    return 0 if answer["sum"] == 42 else 1


if __name__ == "__main__":
    sys.exit(main())
