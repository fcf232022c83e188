"""The objects that watches have seen, whom an event concerns, and roll calls."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.loop.keys import Key
from muster_operator.loop.roll_call import Called, roll_call
from muster_operator.loop.store import Store, stripped
from resources import schedule, task_queue, worker_pool


def held(manifest, *, version=1, uid="", namespace="shop", **metadata):
    name = manifest["metadata"]["name"]
    more = {"namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return manifest | {"metadata": manifest["metadata"] | more | metadata}


def pod(name="a", *, version=1, uid="", pool="mail", **status):
    labels = {"muster.dev/role": "worker", "muster.dev/pool": pool}
    body = {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"containers": [{}]}}
    return held(body | {"status": status}, version=version, uid=uid)


def store_of(*bodies):
    store = Store()
    for body in bodies:
        store.put(body["kind"], body)
    return store


def keys(store, body):
    return set(store.concerned(body["kind"], body))


@given(st.permutations([1, 2, 3]))
def test_the_latest_state_stays_whatever_comes_first(order):
    """The answer to a write may overtake the watch: an older state never replaces a newer one."""
    store = Store()
    for version in order:
        store.put("Pod", pod(version=version, phase=f"phase {version}"))
    assert store.get("Pod", "shop", "a")["status"]["phase"] == "phase 3"


def test_task_queues_are_found_by_the_queue_that_they_name():
    """Also after another name was written, and not when they are gone; the second may be in any namespace."""
    first, second = held(task_queue("a", queueName="mail")), held(task_queue("mail"), namespace="other")
    store = store_of(first, second)
    names = {body["metadata"]["name"] for body in store.namesakes("mail")}
    assert names == {"a", "mail"}
    assert keys(store, second) >= {Key("TaskQueue", "shop", "a"), Key("TaskQueue", "other", "mail")}
    renamed = held(task_queue("a", queueName="post"), version=2)
    store.put("TaskQueue", renamed)
    assert list(store.namesakes("post")) == [store.get("TaskQueue", "shop", "a")]
    assert [body["metadata"]["namespace"] for body in store.namesakes("mail")] == ["other"]
    store.drop("TaskQueue", renamed)
    assert list(store.namesakes("post")) == []


def test_an_object_of_the_same_name_is_another_object():
    """A lower version of a new UID replaces the old object, and the old one's end does not take it away."""
    store = store_of(pod(version=9, uid="old"), pod(version=5, uid="new"))
    assert store.get("Pod", "shop", "a")["metadata"]["uid"] == "new"
    store.drop("Pod", pod(version=10, uid="old"))
    assert store.get("Pod", "shop", "a")["metadata"]["uid"] == "new"
    store.drop("Pod", pod(version=11, uid="new"))
    assert store.get("Pod", "shop", "a") is None


def test_most_of_a_pod_is_not_kept():
    """Neither its containers nor managed fields: what no pass looks at costs no memory."""
    body = pod(phase="Running", podIPs=["10.0.0.1"])
    body["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    kept = stripped("Pod", body)
    assert kept["status"] == {"phase": "Running"}
    assert "containers" not in kept["spec"]
    assert "managedFields" not in kept["metadata"]


def test_a_pod_concerns_its_pool_and_a_queue_all_who_use_it():
    """Pools and schedules on a queue are looked at when it changes, and the beat of its broker."""
    queue = held(task_queue("mail"))
    store = store_of(
        queue,
        held(task_queue("other")),
        held(task_queue("twin", queueName="mail"), namespace="elsewhere"),
        held(worker_pool("mail", queues=["mail"])),
        held(worker_pool("idle", queues=["other"])),
        held(schedule("report", every="1m", queue="mail")),
    )
    assert keys(store, pod()) == {Key("WorkerPool", "shop", "mail")}
    assert keys(store, queue) == {
        Key("TaskQueue", "shop", "mail"),
        Key("TaskQueue", "elsewhere", "twin"),
        Key("WorkerPool", "shop", "mail"),
        Key("Schedule", "shop", "report"),
        Key("Beat", "shop", "broker"),
        Key("VirtualHost", "shop", "broker"),
    }


def test_a_reading_concerns_all_that_is_on_its_broker():
    """And what keeps its results there; nothing of another namespace or broker."""
    store = store_of(
        held(task_queue("mail")),
        held(task_queue("far", broker={"secretRef": {"name": "far"}})),
        held(worker_pool("mail", queues=["mail"])),
        held(worker_pool("far", queues=["far"])),
        held(worker_pool("results", queues=["far"], results={"secretRef": {"name": "broker"}})),
        held(worker_pool("mail", queues=["mail"]), namespace="elsewhere"),
    )
    assert set(store.on_broker("shop", "broker")) == {
        Key("TaskQueue", "shop", "mail"),
        Key("WorkerPool", "shop", "mail"),
        Key("WorkerPool", "shop", "results"),
        Key("Beat", "shop", "broker"),
        Key("VirtualHost", "shop", "broker"),
    }


@dataclass
class Server:
    """The API server's names. `version` None: it does not know the kind."""

    version: int | None = 10
    uids: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    async def listed(self, api_version, kind, *, namespace, selector):
        self.asked.append((api_version, kind, namespace, selector))
        if self.version is None:
            return None
        return self.version, {place: uid for place, uid in self.uids.items() if namespace in ("", place[0])}


PODS = [Called(api_version="v1", kind="Pod", selector="muster.dev/role")]


def call(server, store, *namespaces):
    changed = []
    missing = asyncio.run(roll_call(server, store, PODS, namespaces=namespaces, changed=changed.append))
    return missing, changed


def test_a_roll_call_counts_what_has_not_come_yet():
    """So that the first pass waits for it; another object of the same name does not stand for it."""
    store = store_of(pod("a"), pod("b", uid="before"))
    server = Server(uids={("shop", "a"): "uid-a", ("shop", "b"): "uid-b", ("shop", "c"): "uid-c"})
    assert call(server, store)[0] == 2
    store.put("Pod", pod("b", version=12))
    store.put("Pod", pod("c"))
    assert call(server, store)[0] == 0


def test_a_roll_call_forgets_what_is_gone_and_says_whom_that_concerns():
    """What went while a watch was broken is not taken for a worker any longer."""
    store = store_of(pod("a"), pod("gone", pool="idle"))
    missing, changed = call(Server(uids={("shop", "a"): "uid-a"}), store)
    assert (missing, changed) == (0, [Key("WorkerPool", "shop", "idle")])
    assert [body["metadata"]["name"] for body in store.of("Pod")] == ["a"]


@pytest.mark.parametrize("version", [10, 11, 99])
def test_what_is_newer_than_the_list_stays(version):
    """The list may come from a cache: an object that it does not have yet is not gone."""
    store = store_of(pod("new", version=version))
    call(Server(version=9), store)
    assert store.of("Pod")


def test_a_kind_that_is_not_served_is_passed_over():
    """A CRD that was deleted takes its objects along by their own events."""
    store = store_of(pod())
    assert call(Server(version=None), store) == (0, [])
    assert store.of("Pod")


def test_only_the_namespaces_that_are_watched_are_called():
    """One list for each, and objects of others are left alone."""
    store = store_of(pod("a"))
    server = Server()
    call(server, store, "blue", "green")
    assert server.asked == [
        ("v1", "Pod", "blue", "muster.dev/role"),
        ("v1", "Pod", "green", "muster.dev/role"),
    ]
    assert store.of("Pod")
