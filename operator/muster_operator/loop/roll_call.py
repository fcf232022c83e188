"""Roll calls: what the API server has, by name, against what the watches have shown.

kopf says neither when its first lists are complete nor which objects went while a watch was broken; a roll
call finds out both. `run` holds one until everything is here before the first pass, and one whenever a watch
has listed anew or a write has met an object that is gone. It reads names from the API server's cache and
writes nothing; in quiet times it asks nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .keys import Key
from .store import Store


class Lister(Protocol):
    """Lists the names of objects."""

    async def listed(
        self, api_version: str, kind: str, *, namespace: str, selector: str
    ) -> tuple[int, Mapping[tuple[str, str], str]] | None:
        """Return a resource version and, as of then, UIDs by (namespace, name).

        It may be as old as the API server's cache; None when no such kind is served.
        """


@dataclass(frozen=True, kw_only=True)
class Called:
    """A kind to call, and the label by which its objects are ours (empty: all are)."""

    api_version: str
    kind: str
    selector: str = ""


async def roll_call(
    lister: Lister,
    store: Store,
    kinds: Sequence[Called],
    *,
    namespaces: Sequence[str],
    changed: Callable[[Key], None],
) -> int:
    """Forget what is gone, with `changed` told whom that concerns; return how many objects are not here yet.

    `namespaces` empty: the whole cluster. Raises what the lister raises.
    """
    missing = 0
    for each in kinds:
        for namespace in namespaces or ("",):
            found = await lister.listed(
                each.api_version, each.kind, namespace=namespace, selector=each.selector
            )
            if found is None:
                continue
            version, uids = found
            missing += len(store.unseen(each.kind, version, uids))
            for body in store.forget_absent(each.kind, namespace, version, uids):
                for key in store.concerned(each.kind, body):
                    changed(key)
    return missing
