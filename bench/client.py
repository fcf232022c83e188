"""What a producer does, run in the environment of its engine: `client.py MODULE WHAT COUNT`.

Prints one JSON document. The module is tasks_celery or tasks_muster; both have the same tasks.
"""

import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def latency(module, count):
    """Seconds from just before the call to the task's start, one task at a time on an idle worker."""
    for _ in range(20):
        module.clock.delay().get(timeout=30)
    waits = []
    for _ in range(count):
        time.sleep(0.01)
        before = time.time()
        waits.append(module.clock.delay().get(timeout=30) - before)
    return sorted(waits)


def publish(module, count):
    """Seconds for so many calls of delay()."""
    before = time.perf_counter()
    for _ in range(count):
        module.quiet.delay()
    return time.perf_counter() - before


if __name__ == "__main__":
    tasks = importlib.import_module(sys.argv[1])
    print(json.dumps({"latency": latency, "publish": publish}[sys.argv[2]](tasks, int(sys.argv[3]))))
