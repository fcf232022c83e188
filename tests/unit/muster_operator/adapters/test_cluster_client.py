"""What the client asks of an API server and what it makes of the answers, on a server of one process."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from aiohttp import web

from muster_operator.adapters.cluster import ClusterClient
from muster_operator.adapters.connection import Connection
from muster_operator.adapters.lease import DURATION, LeaseLeadership
from muster_operator.api.workerpool import WorkerPoolStatus
from muster_operator.errors import ClusterUnavailable, Conflicted, Forbidden, NotLeading, Refused
from muster_operator.model.actions import (
    Apply,
    Delete,
    Emit,
    EventType,
    MarkPod,
    Scale,
    SetFinalizer,
    SetStatus,
)
from servers import free_port
from worlds import NOW, pool_of

POOL = pool_of()
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "mail-1", "namespace": "shop"},
    "spec": {"replicas": 1},
}
RBAC = (
    'deployments.apps "mail-1" is forbidden: User "system:serviceaccount:muster:muster" cannot patch '
    'resource "deployments" in API group "apps" in the namespace "shop"'
)
QUOTA = 'deployments.apps "mail-1" is forbidden: exceeded quota: few, requested: count/deployments.apps=1'
LEAVING = "unable to create new content in namespace shop because it is being terminated"


@dataclass
class Asked:
    verb: str
    path: str
    query: dict
    headers: dict
    body: dict | None


@dataclass
class Server:
    """Answers each request by `answer(asked)`: (status, object). Keeps what it was asked."""

    answer: object = None
    asked: list = field(default_factory=list)

    async def handle(self, request):
        text = await request.text()
        asked = Asked(
            request.method, request.path, dict(request.query), request.headers, json.loads(text or "null")
        )
        self.asked.append(asked)
        status, document = self.answer(asked) if self.answer else (200, asked.body)
        return web.json_response(document, status=status)


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += timedelta(seconds=seconds)


def talk(coroutine_of, answer=None, *, leads=True, clock=None, connection=None):
    """Run `coroutine_of(client, server)` with a client of a server that answers so."""

    async def main():
        server = Server(answer)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        written = []
        try:
            async with ClusterClient(
                connection(port) if connection else Connection(server=f"http://127.0.0.1:{port}"),
                may_write=lambda: leads,
                clock=clock or Clock(),
                written=lambda kind, body: written.append((kind, body)),
            ) as client:
                return await coroutine_of(client, server), server.asked, written
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def carry_out(action, answer=None, **options):
    return talk(lambda client, _: client.carry_out(action), answer, **options)


def failing(status, text, **details):
    return lambda _: (status, {"kind": "Status", "message": text, "details": details})


@pytest.mark.parametrize(
    ("action", "path", "manager", "body"),
    [
        (
            Apply(manifest=DEPLOYMENT),
            "/apis/apps/v1/namespaces/shop/deployments/mail-1",
            "muster",
            DEPLOYMENT,
        ),
        (
            Scale(namespace="shop", deployment="mail-1", replicas=4, down=False),
            "/apis/apps/v1/namespaces/shop/deployments/mail-1",
            "muster-scaler",
            {**DEPLOYMENT, "spec": {"replicas": 4}},
        ),
        (
            MarkPod(namespace="shop", pod="a", uid="u", annotations={"muster.dev/draining-since": "now"}),
            "/api/v1/namespaces/shop/pods/a",
            "muster-drain",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "a",
                    "namespace": "shop",
                    "uid": "u",
                    "annotations": {"muster.dev/draining-since": "now"},
                },
            },
        ),
        (
            SetStatus(kind="WorkerPool", metadata=POOL.metadata, status=WorkerPoolStatus(desired=3)),
            "/apis/muster.dev/v1beta1/namespaces/shop/workerpools/mail/status",
            "muster-status",
            {
                "apiVersion": "muster.dev/v1beta1",
                "kind": "WorkerPool",
                "metadata": {"name": "mail", "namespace": "shop", "uid": POOL.metadata.uid},
                "status": {"desired": 3},
            },
        ),
        (
            SetFinalizer(
                kind="WorkerPool", metadata=POOL.metadata, finalizer="muster.dev/queue", present=True
            ),
            "/apis/muster.dev/v1beta1/namespaces/shop/workerpools/mail",
            "muster",
            {
                "apiVersion": "muster.dev/v1beta1",
                "kind": "WorkerPool",
                "metadata": {
                    "name": "mail",
                    "namespace": "shop",
                    "uid": POOL.metadata.uid,
                    "finalizers": ["muster.dev/queue"],
                },
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | dict) else "",
)
def test_each_concern_is_applied_under_its_own_manager(action, path, manager, body):
    """One server-side apply with nothing but what that manager owns; what comes back is handed on."""
    _, [asked], [(kind, returned)] = carry_out(action)
    assert (asked.verb, asked.path) == ("PATCH", path)
    assert asked.query == {"fieldManager": manager, "force": "true"}
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    assert asked.body == returned == body
    assert kind == body["kind"]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (failing(422, 'spec.x: Invalid value: "y"'), Refused, 'spec.x: Invalid value: "y"'),
        (failing(400, "strict decoding error"), Refused, "strict decoding error"),
        (failing(413, "Request entity too large"), Refused, "too large"),
        (failing(403, QUOTA), Refused, "exceeded quota: few"),
        (failing(403, 'admission webhook "w" denied the request: no'), Refused, "denied the request"),
        (failing(403, RBAC), Forbidden, 'cannot patch resource "deployments"'),
        (failing(401, "Unauthorized"), Forbidden, "Unauthorized"),
        (failing(403, LEAVING, causes=[{"reason": "NamespaceTerminating"}]), Conflicted, "being terminated"),
        (failing(409, "the object has been modified"), Conflicted, "modified"),
        (failing(404, "not found"), Conflicted, "Deployment mail-1 is gone"),
        (failing(429, "too many requests"), ClusterUnavailable, "429"),
        (failing(500, "etcdserver: leader changed"), ClusterUnavailable, "leader changed"),
        (failing(503, "apiserver is shutting down"), ClusterUnavailable, "503"),
    ],
)
def test_errors_are_told_apart_by_who_must_act(answer, error, says):
    """With the API server's own words; what our rights do not reach names verb and resource."""
    with pytest.raises(error, match=says):
        carry_out(Apply(manifest=DEPLOYMENT), answer)


def test_nobody_at_the_address_is_an_outage():
    """Not a crash: it is tried again."""
    with pytest.raises(ClusterUnavailable, match="PATCH /apis/apps"):
        carry_out(
            Apply(manifest=DEPLOYMENT),
            connection=lambda _: Connection(server=f"http://127.0.0.1:{free_port()}"),
        )


def test_only_the_leader_writes():
    """Without the lease no request that changes anything is sent; reading is free."""

    async def all_of_it(client, _):
        for action in (
            Apply(manifest=DEPLOYMENT),
            Scale(namespace="shop", deployment="mail-1", replicas=0, down=True),
            Delete(api_version="v1", kind="Pod", namespace="shop", name="a", uid="u"),
            Emit(kind="WorkerPool", metadata=POOL.metadata, type=EventType.NORMAL, reason="R", message="m"),
        ):
            with pytest.raises(NotLeading):
                await client.carry_out(action)
        await client.secret("shop", "broker")

    _, asked, _ = talk(all_of_it, leads=False)
    assert [each.verb for each in asked] == ["GET"]


def test_a_deletion_names_the_very_object():
    """By UID, so that another one of the same name stays; one that is gone is fine."""
    action = Delete(api_version="apps/v1", kind="Deployment", namespace="shop", name="mail-1", uid="u-1")
    _, [asked], _ = carry_out(action, failing(404, "not found"))
    assert (asked.verb, asked.path) == ("DELETE", "/apis/apps/v1/namespaces/shop/deployments/mail-1")
    assert asked.body["preconditions"] == {"uid": "u-1"}
    assert asked.body["propagationPolicy"] == "Background"


def test_an_event_that_repeats_is_counted_on_the_first():
    """Within ten minutes a series grows, later or with other words there is another event."""
    event = Emit(
        kind="WorkerPool", metadata=POOL.metadata, type=EventType.WARNING, reason="AuthFailed", message="no"
    )
    other = Emit(
        kind="WorkerPool", metadata=POOL.metadata, type=EventType.WARNING, reason="AuthFailed", message="so"
    )
    clock = Clock()

    async def emit(client, _):
        await client.carry_out(event)
        clock.pass_by(60)
        await client.carry_out(event)
        await client.carry_out(other)
        clock.pass_by(700)
        await client.carry_out(event)

    _, asked, _ = talk(emit, clock=clock)
    assert [each.verb for each in asked] == ["POST", "PATCH", "POST", "POST"]
    first, again, *_ = asked
    assert first.path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert (first.body["reason"], first.body["note"], first.body["type"]) == ("AuthFailed", "no", "Warning")
    assert first.body["regarding"]["uid"] == POOL.metadata.uid
    assert again.path == f"{first.path}/{first.body['metadata']['name']}"
    assert again.body["series"]["count"] == 2


def test_an_event_whose_first_was_deleted_is_recorded_anew():
    """Events go after an hour, or when somebody clears them away."""
    event = Emit(
        kind="WorkerPool", metadata=POOL.metadata, type=EventType.WARNING, reason="AuthFailed", message="no"
    )

    async def emit(client, _):
        await client.carry_out(event)
        await client.carry_out(event)

    def answer(asked):
        return (404, {}) if asked.verb == "PATCH" else (201, asked.body)

    _, asked, _ = talk(emit, answer)
    assert [each.verb for each in asked] == ["POST", "PATCH", "POST"]


def test_names_are_listed_from_the_cache_and_without_the_objects():
    """A roll call asks for metadata only, and takes what the API server has at hand."""
    found = {
        "metadata": {"resourceVersion": "77"},
        "items": [{"metadata": {"namespace": "shop", "name": "a", "uid": "u-a"}}],
    }
    result, [asked], _ = talk(
        lambda client, _: client.listed("v1", "Pod", namespace="shop", selector="muster.dev/role"),
        lambda _: (200, found),
    )
    assert result == (77, {("shop", "a"): "u-a"})
    assert asked.path == "/api/v1/namespaces/shop/pods"
    assert asked.query == {"resourceVersion": "0", "labelSelector": "muster.dev/role"}
    assert "PartialObjectMetadataList" in asked.headers["Accept"]


@pytest.mark.parametrize(
    ("answer", "terminating"),
    [
        ((200, {"metadata": {"name": "shop"}}), False),
        ((200, {"metadata": {"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}}), True),
        ((404, {}), True),
        ((403, {"message": 'User "x" cannot get resource "namespaces" in API group ""'}), False),
    ],
)
def test_a_namespace_on_its_way_out_is_seen(answer, terminating):
    """One that is gone counts too; where we may not look it is taken to stay."""
    result, _, _ = talk(lambda client, _: client.is_terminating("shop"), lambda _: answer)
    assert result is terminating


def test_a_service_accounts_token_is_read_again_for_each_request(tmp_path):
    """The kubelet replaces it while we run."""
    token = tmp_path / "token"

    async def twice(client, _):
        for text in ("first", "second"):
            token.write_text(text + "\n")
            await client.secret("shop", "broker")

    _, asked, _ = talk(
        twice, connection=lambda port: Connection(server=f"http://127.0.0.1:{port}", token_file=token)
    )
    assert [each.headers["Authorization"] for each in asked] == ["Bearer first", "Bearer second"]


class Leases:
    """An API server's one Lease, with optimistic locking, and an outage on demand."""

    def __init__(self):
        self.held = None
        self.version = 0
        self.away = False

    def __call__(self, asked):
        if self.away:
            return 503, {"message": "away"}
        if asked.verb == "GET":
            return (404, {}) if self.held is None else (200, self.held)
        stale = asked.verb == "PUT" and asked.body["metadata"]["resourceVersion"] != str(self.version)
        if stale or (asked.verb == "POST" and self.held is not None):
            return 409, {"message": "the object has been modified"}
        self.version += 1
        body = asked.body
        self.held = body | {"metadata": body["metadata"] | {"resourceVersion": str(self.version)}}
        return 200, self.held


def electing(story):
    """Run the story of two candidates; its `turn(lease)` is one try to lead, and says whether it leads."""
    clock, leases = Clock(), Leases()
    one, two = (LeaseLeadership(namespace="muster", identity=name, clock=clock) for name in ("one", "two"))

    async def tell(client, _):
        async def turn(lease):
            with contextlib.suppress(Conflicted, ClusterUnavailable):
                await lease._turn(client)
            return lease.leads(clock.now)

        await story(turn, clock, leases, one, two, client)

    _, asked, _ = talk(tell, leases, clock=clock)
    return asked


def test_of_two_candidates_one_leads_and_its_renewals_are_one_write_each():
    """The other one waits as long as the first renews."""

    async def story(turn, clock, leases, one, two, _):
        assert await turn(one)
        assert not await turn(two)
        for _ in range(10):
            clock.pass_by(3)
            assert await turn(one)
            assert not await turn(two)

    asked = electing(story)
    assert [each.verb for each in asked].count("PUT") == 10


def test_a_silent_leader_stops_before_another_may_begin():
    """It gives up writing 6 s after its last renewal; the other one waits for the whole 9 s."""

    async def story(turn, clock, leases, one, two, _):
        assert await turn(one)
        assert not await turn(two)
        clock.pass_by(5.9)
        assert one.leads(clock.now)
        clock.pass_by(0.2)
        assert not one.leads(clock.now)
        assert not await turn(two)
        clock.pass_by(DURATION.total_seconds() - 6.1)
        assert await turn(two)
        assert leases.held["spec"]["leaseTransitions"] == 1
        assert not await turn(one)

    electing(story)


def test_a_leader_that_cannot_renew_stops():
    """While the API server is away nobody leads for longer than the term."""

    async def story(turn, clock, leases, one, two, _):
        assert await turn(one)
        leases.away = True
        clock.pass_by(3)
        assert await turn(one)
        clock.pass_by(3)
        assert not await turn(one)
        leases.away = False
        assert await turn(one)

    electing(story)


def test_a_released_lease_is_free_at_once():
    """A graceful end costs the next one no waiting."""

    async def story(turn, clock, leases, one, two, client):
        assert await turn(one)
        await one.release(client)
        assert not one.leads(clock.now)
        assert await turn(two)
        await one.release(client)
        assert leases.held["spec"]["holderIdentity"] == "two"

    electing(story)


def test_two_that_come_at_once_do_not_both_lead():
    """The API server takes the first one's write; the second one's is a conflict."""

    async def story(turn, clock, leases, one, two, client):
        await asyncio.gather(turn(one), turn(two))
        assert [one.leads(clock.now), two.leads(clock.now)].count(True) == 1

    electing(story)
