"""The watches: what kopf calls changes the store in the loop's own thread."""

from inspect import iscoroutinefunction

from muster_operator.loop.store import Store
from muster_operator.loop.watch import RESOURCES, _registry


def test_no_handler_runs_beside_the_loop():
    """Kopf runs plain functions in threads; the store has no lock, so its writers are coroutines."""
    registry = _registry(None, Store(), changed=None, listed=None)
    handlers = [
        handler
        for each in (registry._activities, registry._indexing, registry._watching)
        for handler in each.get_all_handlers()
    ]
    assert len(handlers) == 1 + 2 * len(RESOURCES)
    assert all(iscoroutinefunction(handler.fn) for handler in handlers)
