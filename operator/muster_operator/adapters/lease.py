"""Leadership by a Lease of coordination.k8s.io: of several operators one writes.

The leader's term lasts `DURATION` from its last renewal, by its own clock from before the request was sent;
it stops writing `MARGIN` before that, so that a slow request cannot outlive the term. Released on a graceful
end. The renewals are all that a steady cluster costs the API server.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from muster_operator.api.names import LEASE
from muster_operator.errors import Conflicted, OperatorError

from .cluster import ClusterClient, path_of

logger = logging.getLogger(__name__)

RIGHTS: Final = tuple(("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update"))
"""(group, resource, verb) of what this module asks for, in the operator's own namespace."""
DURATION: Final = timedelta(seconds=9)
MARGIN: Final = timedelta(seconds=3)
RETRY: Final = timedelta(seconds=3)


class LeaseLeadership:
    """See `ports.Leadership`. `identity` is unlike any other operator's, such as the pod's name."""

    def __init__(self, *, namespace: str, identity: str, clock: Callable[[], datetime]) -> None:
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._until: datetime | None = None
        self._mine: dict[str, Any] | None = None
        """The Lease as our last renewal left it."""
        self._seen: tuple[str, int] | None = None
        self._seen_at = clock()
        self.changed = asyncio.Event()
        """Set whenever leadership begins."""

    def leads(self, now: datetime) -> bool:
        """Return whether we may write at `now`."""
        return self._until is not None and now < self._until

    async def keep(self, client: ClusterClient) -> None:
        """Acquire and renew until cancelled."""
        while True:
            try:
                await self._turn(client)
            except Conflicted:
                logger.debug("the lease was taken at the same moment; looking again")
            except OperatorError as error:
                logger.warning("the lease cannot be read or renewed: %s", error)
            await asyncio.sleep(RETRY.total_seconds())

    async def _turn(self, client: ClusterClient) -> None:
        path = path_of("coordination.k8s.io/v1", "Lease", self._namespace, LEASE)
        asked = self._clock()
        lease = self._mine if self.leads(asked) else None
        self._mine = None
        if lease is None:  # while we lead, one write is all that a renewal costs
            lease = await client.request("GET", path)
        if lease is None:
            body = self._lease(None, asked)
            self._mine = await client.request("POST", path.rpartition("/")[0], body=body)
        else:
            spec = lease.get("spec") or {}
            holder = spec.get("holderIdentity") or ""
            if holder not in ("", self._identity) and not self._expired(spec, asked):
                self._until = None
                return
            self._mine = await client.request("PUT", path, body=self._lease(lease, asked))
        began = not self.leads(asked)
        self._until = asked + DURATION - MARGIN
        if began:
            logger.info("leading as %s", self._identity)
            self.changed.set()

    def _expired(self, spec: dict[str, Any], now: datetime) -> bool:
        """Whether the holder has been silent for its whole term, by our own clock since we saw it change."""
        seen = (str(spec.get("renewTime")), int(spec.get("leaseTransitions") or 0))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at >= timedelta(seconds=int(spec.get("leaseDurationSeconds") or 9))

    def _lease(self, old: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
        moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((old or {}).get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (old is not None)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION.total_seconds()),
            "renewTime": moment,
        }
        metadata = {"name": LEASE, "namespace": self._namespace}
        if old is not None:
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }

    async def release(self, client: ClusterClient) -> None:
        """Give the lease up, so that another operator need not wait for its end."""
        if self._until is None:
            return
        self._until = None
        path = path_of("coordination.k8s.io/v1", "Lease", self._namespace, LEASE)
        try:
            lease = await client.request("GET", path)
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                lease["spec"]["leaseDurationSeconds"] = 1
                await client.request("PUT", path, body=lease)
        except OperatorError as error:
            logger.warning("the lease could not be released and ends by itself: %s", error)
