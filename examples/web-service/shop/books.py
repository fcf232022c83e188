"""The shop's own books in its own Redis: when each task began and ended, by task id.

They are kept without Muster, so that they can be held against it: a task that was lost has no end, one that
ran twice began twice.
"""

import os
import time
from functools import cache

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

BEGUN, ENDED = "books:begun", "books:ended"


class Books:
    """Two lists: `task id, time, worker` of each begin and each end."""

    def __init__(self, redis):
        self.redis = redis

    def begin(self, task_id):
        """Write down that a task begins."""
        self._write(BEGUN, task_id)

    def end(self, task_id):
        """Write down that it has ended."""
        self._write(ENDED, task_id)

    def confirmed(self):
        """Return how many have ended."""
        return self.redis.llen(ENDED)

    def _write(self, where, task_id):
        worker = f"{os.environ.get('HOSTNAME', '-')}/{os.getpid()}"
        self.redis.rpush(where, f"{task_id} {time.time():.3f} {worker}")


@cache
def books():
    """Return the books; one connection a process."""
    again = Retry(ExponentialBackoff(cap=1, base=0.05), retries=30)
    failures = [RedisConnectionError, RedisTimeoutError]
    return Books(
        Redis.from_url(os.environ["BOOKS_URL"], retry=again, retry_on_error=failures, socket_timeout=10)
    )
