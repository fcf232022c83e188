"""An unmodified Celery producer: sends tasks by name and reads results with Celery's own AsyncResult."""

import json
import os
import sys

from celery import Celery

TIMEOUT_SECONDS = 300

BROKER_URL = os.environ["BROKER_URL"]
QUEUES = os.environ.get("QUEUES", "orders").split(",")

app = Celery("client", broker=BROKER_URL, backend=os.environ.get("RESULT_URL", BROKER_URL))
app.conf.task_create_missing_queue_type = os.environ.get("QUEUE_TYPE", "classic")  # of RabbitMQ alone


def main():
    """Send COUNT orders, wait for their confirmations, print what came of it; return the exit code."""
    count = int(os.environ.get("COUNT", "10"))
    items = [{"name": "tea", "quantity": 2, "cents": 450}, {"name": "sugar", "quantity": 1, "cents": 199}]
    with app.producer_pool.acquire(block=True) as producer:
        sent = {
            f"order {number}": app.send_task(
                "shop.tasks.confirm",
                (f"order {number}", items),
                queue=QUEUES[number % len(QUEUES)],
                producer=producer,
            )
            for number in range(count)
        }
    print(json.dumps({"sent": [result.id for result in sent.values()]}))
    wrong = 0
    for order, result in sent.items():
        confirmation = result.get(timeout=TIMEOUT_SECONDS)
        wrong += confirmation["order"] != order or confirmation["cents"] != 1099
    print(json.dumps({"confirmed": count - wrong, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
