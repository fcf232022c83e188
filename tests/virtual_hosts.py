"""The operator without a cluster: everything from TaskQueues to a real RabbitMQ and back to their status.

`Keeper` is what stands in for the operator's process: objects in memory, the real broker adapter, plans and
their execution. Tests change objects and the server, and wait for what comes of it.
"""

import asyncio
import base64
import contextlib
import time
from datetime import UTC, datetime

from muster_operator.adapters.brokers import BrokerAdapter
from muster_operator.api.codec import encode
from muster_operator.api.conditions import find_condition
from muster_operator.decide.plan import plan_task_queue, plan_virtual_host
from muster_operator.loop.execute import execute
from muster_operator.loop.keys import Key
from muster_operator.loop.observe import Memory, Observer
from muster_operator.loop.store import Store
from muster_operator.model.actions import Emit, SetFinalizer, SetStatus

OWNER = "test"


def now():
    return datetime.now(UTC)


class Secrets:
    """Secrets by (namespace, name), as the API server holds them."""

    def __init__(self):
        self.held = {}

    def put(self, namespace="shop", name="broker", **data):
        self.held[namespace, name] = data

    async def secret(self, namespace, name):
        if (namespace, name) not in self.held:
            return None
        data = self.held[namespace, name]
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


class Keeper:
    """See the module. Made inside a running event loop; `keep` runs until it is cancelled."""

    def __init__(self):
        self.secrets = Secrets()
        self.store = Store()
        self.events = []
        self.confirmed = []
        self.leads = True
        self._memories = {}
        self._version = 0
        self.brokers = BrokerAdapter(
            self.secrets, clock=now, changed=lambda _key: None, may_write=lambda: self.leads
        )
        self.observer = Observer(self.store, self.brokers, image="muster-worker", owner=OWNER)

    # what a person does

    def put(self, manifest, namespace="shop"):
        """Apply a manifest."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        before = self.store.get(kind, namespace, name) or {}
        own = {
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "creationTimestamp": now().isoformat(),
            "generation": 1,
        } | before.get("metadata", {})
        own["generation"] += 1 if before else 0
        self._write(
            kind, manifest | {"metadata": own | manifest["metadata"], "status": before.get("status", {})}
        )

    def reread(self):
        """Have all Secrets read anew, as happens every few minutes."""
        self.brokers._secrets.clear()

    def delete(self, kind, name, namespace="shop"):
        """Ask for an object to go; it goes at once unless a finalizer holds it."""
        body = self.store.get(kind, namespace, name)
        if body["metadata"].get("finalizers"):
            stamp = {"deletionTimestamp": now().isoformat()}
            self._write(kind, body | {"metadata": body["metadata"] | stamp})
        else:
            self.store.drop(kind, body)

    def _write(self, kind, body):
        self._version += 1
        metadata = body["metadata"] | {"resourceVersion": str(self._version)}
        self.store.put(kind, body | {"kind": kind, "metadata": metadata})

    # what stands in for the API server

    async def carry_out(self, action):
        match action:
            case SetStatus(kind=kind, metadata=metadata, status=status):
                body = self.store.get(kind, metadata.namespace, metadata.name)
                self._write(kind, dict(body) | {"status": encode(status)})
            case Emit():
                self.events.append((action.metadata.name, action.reason, action.message))
            case SetFinalizer(kind=kind, metadata=metadata, finalizer=finalizer, present=present):
                body = self.store.get(kind, metadata.namespace, metadata.name)
                held = set(body["metadata"].get("finalizers", ())) - {finalizer}
                held |= {finalizer} if present else set()
                if "deletionTimestamp" in body["metadata"] and not held:
                    self.store.drop(kind, body)
                else:
                    self._write(
                        kind, dict(body) | {"metadata": body["metadata"] | {"finalizers": sorted(held)}}
                    )
            case _:
                raise AssertionError(action)

    # the operator

    async def keep(self):
        """Look at everything, again and again."""
        while True:
            await self.brokers.refresh(self.observer.secrets())
            self.brokers.ask(self.observer.demands())
            for key in [k for k in dict.fromkeys(self.store.everything()) if k.kind != "Beat"]:
                await self._pass(key)
            await asyncio.sleep(0.1)

    async def _pass(self, key):
        memory = self._memories.setdefault(key, Memory())
        plan = self._plan(key, memory)
        if plan is not None:
            outcome = await execute(plan, cluster=self, brokers=self.brokers, memory=memory, now=now())
            self.confirmed += [each for each in outcome.confirmed if not isinstance(each, SetStatus)]

    def _plan(self, key, memory):
        if key.kind == "VirtualHost":
            seen = self.observer.virtual_host(key, now())
            return None if seen is None else plan_virtual_host(seen)
        if key.kind == "TaskQueue":
            seen = self.observer.task_queue(key, now(), memory)
            return None if seen is None else plan_task_queue(seen)
        return None

    # what is seen of it

    def condition(self, name, type_, namespace="shop"):
        """Return (status, reason, message) of a condition; None when there is none."""
        seen = self.observer.task_queue(Key("TaskQueue", namespace, name), now(), Memory())
        found = seen and find_condition(seen.task_queue.status.conditions, type_)
        return found and (found.status.value, found.reason, found.message)

    async def until(self, probe, what, timeout_seconds=60):
        """Wait until `probe()` is true; return it."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                found = probe()
            except AssertionError as error:
                found, last = None, error
            else:
                last = found
            if found:
                return found
            assert time.monotonic() < deadline, f"still waiting for {what}; last seen: {last}"
            await asyncio.sleep(0.05)

    async def until_condition(self, name, type_, status, reason, timeout_seconds=60):
        """Wait for a condition; return its message."""
        what = f"{type_}={status} ({reason}) of {name}"

        def probe():
            found = self.condition(name, type_)
            assert found, "no such condition"
            assert found[:2] == (status, reason), found
            return found

        return (await self.until(probe, what, timeout_seconds))[2]


def story(told):
    """Run `told(keeper)` beside the keeper's work."""

    async def run():
        keeper = Keeper()
        work = asyncio.create_task(keeper.keep())
        telling = asyncio.create_task(told(keeper))
        try:
            done, _ = await asyncio.wait({work, telling}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (work, telling):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(work, telling, return_exceptions=True)
            keeper.brokers.close()

    asyncio.run(run())
