"""The pools that this version has: how a worker runs several tasks at once. The one list of them.

The worker makes them by it, and the operator and `muster dev` tell by it what no worker could be started
with. Pure.
"""

from enum import StrEnum
from typing import Final

from muster.errors import ConfigurationError


class PoolType(StrEnum):
    """How a worker runs several tasks at once."""

    PREFORK = "prefork"
    THREADS = "threads"
    SOLO = "solo"
    GEVENT = "gevent"
    EVENTLET = "eventlet"


GREEN: Final = frozenset({PoolType.GEVENT, PoolType.EVENTLET})
"""Those whose tasks are greenlets."""
CHILDREN: Final = frozenset({PoolType.PREFORK})
"""Those that replace the processes of their tasks."""
LIMITS: Final = GREEN | {PoolType.PREFORK}
"""Those in which time limits hold."""
_ALIASES: Final = {"processes": PoolType.PREFORK}
_LATER: Final = ("asyncio",)


def pool_type(name: str) -> PoolType:
    """Return the pool of that name. Raises ConfigurationError, which says what to use instead."""
    if name in _LATER:
        raise ConfigurationError(
            f"the pool {name} comes in a later version; use gevent or threads for I/O-bound tasks"
        )
    try:
        return _ALIASES.get(name) or PoolType(name)
    except ValueError:
        what = (
            f"the pool {name} is one of your own, which comes in a later version"
            if ":" in name
            else f"there is no pool {name!r}"
        )
        raise ConfigurationError(f"{what}; use prefork, threads, gevent, eventlet or solo") from None
