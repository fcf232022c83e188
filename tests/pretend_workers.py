"""Reports for the running pods of a pool, as their workers would send them over Redis.

The pods run nothing of Muster's, so that a test decides how busy a worker is. Reports and mailboxes are the
engine's own.
"""

import contextlib
import threading
from typing import Self

from kube import Cluster
from muster.errors import BrokerUnavailable
from muster.transports.base import Tick, Transport
from muster.transports.connect import connect_transport
from muster.wire import control
from muster.wire.report import WorkerReport, encode


class PretendWorkers:
    """A worker that was told to drain is drained once it is not busy. Usable as a context manager."""

    def __init__(self, cluster: Cluster, namespace: str, pool: str, *, url: str, queue: str) -> None:
        self._cluster, self._namespace, self._pool = cluster, namespace, pool
        self._url, self._queue = url, queue
        self.busy: set[str] = set()
        """Names of pods whose one slot runs a task."""
        self.draining: set[str] = set()
        """Names of pods in whose mailbox the control message `drain` has arrived."""
        self._transports: dict[str, Transport] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
        for transport in self._transports.values():
            transport.close()

    def pods(self) -> dict[str, str]:
        """Return the names of the pool's running pods by UID."""
        found = self._cluster.core.list_namespaced_pod(
            self._namespace, label_selector=f"muster.dev/pool={self._pool}"
        )
        return {
            pod.metadata.uid: pod.metadata.name
            for pod in found.items
            if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None
        }

    def _run(self) -> None:
        while not self._ended.wait(0.3):
            for uid, name in self.pods().items():
                with contextlib.suppress(BrokerUnavailable):
                    answer = self._transport(uid).tick(Tick(report=self._report(uid, name)))
                    if any(control.decode(each).method == "drain" for each in answer.commands):
                        self.draining.add(name)

    def _transport(self, uid: str) -> Transport:
        if uid not in self._transports:
            self._transports[uid] = connect_transport(
                self._url,
                queues=[self._queue],
                worker=uid,
                pool=f"{self._namespace}/{self._pool}",
                lease_seconds=30,
                dead_letters={},
                options={},
                results_prefix=None,
            )
        return self._transports[uid]

    def _report(self, uid: str, name: str) -> bytes:
        busy = name in self.busy
        return encode(
            WorkerReport(
                worker=uid,
                pool=f"{self._namespace}/{self._pool}",
                hostname=name,
                pid=1,
                pool_type="prefork",
                queues=[self._queue],
                slots=1,
                busy=int(busy),
                claimed=0,
                oldest_start_age_seconds=5.0 if busy else None,
                draining=name in self.draining,
                drained=name in self.draining and not busy,
            )
        )
