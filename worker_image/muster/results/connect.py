"""From a URL to a result store. Callers: the application; the worker, when its broker is elsewhere.

The scheme chooses the implementation, which is imported only then.
"""

from collections.abc import Mapping
from typing import Any

from muster.results.base import ResultStore
from muster.settings.urls import parse_result_url


def connect_results(url: str, options: Mapping[str, Any] | None = None) -> ResultStore:
    """Return the store at `url`; nothing is connected before it is used.

    `options` are Celery's `result_backend_transport_options`; `global_keyprefix` is honoured. Raises
    ConfigurationError for a URL that cannot be used. `rpc://` is no store: see `muster.app.results`.
    """
    place = parse_result_url(url)
    prefix = str((options or {}).get("global_keyprefix", ""))
    if place.scheme == "sqlite":
        from muster.results.sqlite import SQLiteResults

        return SQLiteResults(url)
    from muster.results.redis import RedisResults

    return RedisResults(url, prefix=prefix)
