"""Redis and RabbitMQ behind TLS, with certificates of an authority that only this test trusts.

The servers' certificates are for `localhost`. Whoever does not trust the authority gets one sentence.
"""

import contextlib

import pytest
import trustme

from brokers import OnRedis, claim, message, raws
from ledger import Ledger
from muster import Muster
from muster.core.effects import Publication
from muster.errors import BrokerUnavailable
from muster.settings.urls import with_ca_file
from muster.transports.amqp.publisher import AmqpPublisher
from muster.transports.base import Tick
from muster.transports.connect import connect_observer
from rabbitmq import RabbitMQServer
from resources import task_queue
from servers import RedisServer, free_port
from virtual_hosts import story
from waiting import wait_for
from workers import Worker

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder: an authority's certificate, another authority's, and the servers' certificate and key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    trustme.CA().cert_pem.write_to_path(folder / "other.crt")
    server = authority.issue_cert("localhost")
    server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    client = authority.issue_cert("client", common_name="client")
    client.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    return folder


@pytest.fixture(scope="module")
def redis_url(certificates):
    """A `rediss://` URL that trusts nobody yet."""
    port = free_port()
    pem = str(certificates / "server.pem")
    options = [
        *["--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem],
        *["--tls-ca-cert-file", str(certificates / "ca.crt"), "--tls-auth-clients", "no"],
    ]
    with RedisServer(options=options):
        yield f"rediss://localhost:{port}/0"


def tls(certificates, port):
    """Return what RabbitMQ's configuration says of its port for AMQP."""
    return (
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {certificates}/ca.crt\n"
        f"ssl_options.certfile = {certificates}/server.pem\n"
        f"ssl_options.keyfile = {certificates}/server.pem\n"
    )


@pytest.fixture(scope="module")
def https_port():
    """Where the same RabbitMQ has its management API behind TLS."""
    return free_port()


@pytest.fixture(scope="module")
def rabbitmq_url(certificates, https_port):
    """An `amqps://` URL that trusts nobody yet."""
    port = free_port()
    configuration = tls(certificates, port) + (
        f"management.ssl.port = {https_port}\n"
        "management.ssl.ip = 127.0.0.1\n"
        f"management.ssl.cacertfile = {certificates}/ca.crt\n"
        f"management.ssl.certfile = {certificates}/server.pem\n"
        f"management.ssl.keyfile = {certificates}/server.pem\n"
        "ssl_options.verify = verify_none\n"
    )
    with RabbitMQServer(configuration) as server:
        yield f"amqps://guest:guest@localhost:{port}//", server


def trusting(url, certificates, name="ca.crt"):
    return with_ca_file(url, str(certificates / name))


def test_an_idle_worker_gets_its_message_over_tls(redis_url, certificates):
    """The wait and the claim behind it come in one record: none of the two answers is overlooked."""
    broker = OnRedis(trusting(redis_url, certificates))
    transport = broker.transport()
    watch = transport.watch(print)
    for number in range(20):
        watch.arm(2)
        transport.tick(Tick())
        broker.publish(message(str(number)))
        seen = wait_for(
            watch.look, until=lambda seen: seen.deliveries, what="the message", every_seconds=0.005
        )
        assert raws(seen.deliveries) == [message(str(number))]
    assert claim(transport) == []
    broker.close()


def test_a_worker_and_its_client_on_tls(redis_url, certificates):
    """From the call to the result, with broker and results behind TLS."""
    url = trusting(redis_url, certificates)
    with (
        Worker("behaviour_app", "prefork", BROKER=url) as worker,
        Muster("client", broker=url, backend=url) as client,
    ):
        worker.wait_ready()
        assert client.send_task("b.add", (2, 3)).get(timeout=20) == 5


@pytest.mark.parametrize("name", [None, "other.crt"])
def test_a_redis_that_is_not_trusted(redis_url, certificates, name):
    """Neither by the system, nor by an authority of somebody else's: one sentence."""
    broker = OnRedis(trusting(redis_url, certificates, name) if name else redis_url)
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        broker.publish(message())
    broker.close()


def test_rabbitmq_over_tls(rabbitmq_url, certificates):
    """Confirmed as without it, many messages at once too."""
    url, server = rabbitmq_url
    publisher = AmqpPublisher(trusting(url, certificates))
    publisher.publish([Publication("mail", message(str(number))) for number in range(1200)])
    publisher.close()
    assert len(server.api("POST", "queues/%2F/mail/get", count=5000, ackmode="ack_requeue_false",
                          encoding="auto")) == 1200  # fmt: skip


def test_a_worker_and_an_observer_of_rabbitmq_over_tls(rabbitmq_url, certificates, tmp_path):
    """Of two servers in the URL the first is away: client, worker and observer take the other."""
    away = f"amqps://guest:guest@localhost:{free_port()}//"
    url = ";".join(trusting(each, certificates) for each in (away, rabbitmq_url[0]))
    ledger = Ledger(tmp_path / "ledger")
    told = {"BROKER": url, "RESULTS": f"sqlite:///{tmp_path}/results.db", "LEDGER": str(ledger.path)}
    with (
        Worker("ledger_app", "prefork", **told) as worker,
        Muster("client", broker=url, backend=told["RESULTS"]) as client,
        contextlib.closing(connect_observer(url, {}, {})) as observer,
    ):
        worker.wait_ready()
        results = [client.send_task("ledger.work") for _ in range(20)]
        assert [each.get(timeout=20) for each in results] == [each.id for each in results]
        assert observer.depths(["celery"], horizon_seconds=0)["celery"].ready == 0


@pytest.mark.parametrize("name", [None, "other.crt"])
def test_a_rabbitmq_that_is_not_trusted(rabbitmq_url, certificates, name):
    """The same sentence."""
    url, _ = rabbitmq_url
    publisher = AmqpPublisher(trusting(url, certificates, name) if name else url)
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        publisher.publish([Publication("mail", message())])


def test_a_rabbitmq_with_somebody_elses_name(rabbitmq_url, certificates):
    """Its certificate is for localhost, and is not taken for another name's."""
    url, _ = rabbitmq_url
    publisher = AmqpPublisher(trusting(url, certificates).replace("localhost", "127.0.0.1"))
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        publisher.publish([Publication("mail", message())])


def test_a_rabbitmq_that_asks_for_the_clients_certificate(certificates):
    """The URL names its file, as kombu's do; who has none gets a sentence."""
    port = free_port()
    asks = "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
    with RabbitMQServer(tls(certificates, port) + asks):
        url = trusting(f"amqps://guest:guest@localhost:{port}//", certificates)
        own = f"{certificates}/client.pem"
        with contextlib.closing(AmqpPublisher(f"{url}&certfile={own}&keyfile={own}")) as publisher:
            publisher.publish([Publication("mail", message())])
        with pytest.raises(BrokerUnavailable, match=f"RabbitMQ at localhost:{port} cannot be reached"):
            AmqpPublisher(url).publish([Publication("mail", message())])


def test_a_task_queue_by_amqps_and_https(rabbitmq_url, https_port, certificates):
    """The Secret's `ca.crt` is for both; without it, or with somebody else's, the condition says so."""
    urls = {"url": rabbitmq_url[0], "managementUrl": f"https://localhost:{https_port}"}

    async def told(keeper):
        keeper.secrets.put(**urls)
        keeper.put(task_queue("letters"))
        await keeper.until_condition("letters", "BrokerReachable", "False", "BrokerUnreachable")
        keeper.secrets.put(**urls, **{"ca.crt": (certificates / "other.crt").read_text()})
        keeper.reread()
        said = await keeper.until_condition("letters", "BrokerReachable", "False", "BrokerUnreachable")
        assert "certificate verify failed" in said
        keeper.secrets.put(**urls, **{"ca.crt": (certificates / "ca.crt").read_text()})
        keeper.reread()
        await keeper.until_condition("letters", "Ready", "True", "AsDeclared")
        await keeper.until_condition("letters", "PolicyInSync", "True", "AsDeclared")

    story(told)


@pytest.mark.parametrize(("scheme", "words"), [("https", "certificate verify failed"), ("http", "")])
def test_a_management_api_that_cannot_be_read(rabbitmq_url, https_port, scheme, words):
    """It is not trusted, or asked without TLS: AMQP goes on, and the condition says where nobody answers."""
    _, server = rabbitmq_url

    async def told(keeper):
        keeper.secrets.put(url=server.url(), managementUrl=f"{scheme}://localhost:{https_port}")
        keeper.put(task_queue("cards"))
        await keeper.until_condition("cards", "Ready", "True", "AsDeclared")
        said = await keeper.until_condition("cards", "PolicyInSync", "Unknown", "ManagementUnreachable")
        assert f"RabbitMQ's management API at localhost:{https_port}: " in said
        assert words in said

    story(told)
