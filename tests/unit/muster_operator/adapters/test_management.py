"""What the client of RabbitMQ's management API says of answers that the tests' RabbitMQ does not give."""

import http.server
import json
import socket
import threading

import pytest

from muster_operator.adapters.rabbitmq.management import ManagementClient, ManagementError
from muster_operator.api.conditions import Reason


def test_a_management_api_that_is_something_else():
    """An answer that is no HTTP, such as another port of RabbitMQ may give it, says which port is meant."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            caller, _ = listener.accept()
            with caller:
                caller.recv(65536)
                caller.sendall(b"AMQP\x00\x00\x09\x01")

        thread = threading.Thread(target=answer)
        thread.start()
        client = ManagementClient(f"http://127.0.0.1:{port}", "amqp://localhost")
        with pytest.raises(ManagementError, match=r"no HTTP there.* by default 15672") as raised:
            client.read(["mail"])
        thread.join()
    assert raised.value.reason == Reason.MANAGEMENT_UNREACHABLE


@pytest.mark.parametrize(
    "url", ["ftp://broker", "http://[rabbit]:15672", "http://rabbit:port", "rabbit:15672"]
)
def test_a_url_that_names_no_management_api(url):
    """Whatever cannot be told apart is a wrong Secret, and its password stays in there."""
    with pytest.raises(ManagementError, match="managementUrl is not written http://host:15672") as raised:
        ManagementClient(url, "amqp://localhost")
    assert raised.value.reason == Reason.SECRET_INVALID


@pytest.mark.parametrize(
    "content", ["no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None]
)
def test_certificates_that_cannot_be_read(tmp_path, content):
    """They are needed for https only; there the Secret is wrong, and nothing else ends."""
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    ManagementClient("http://localhost:1", "amqp://localhost", str(file))
    with pytest.raises(ManagementError, match=r"ca\.crt is no file of certificates") as raised:
        ManagementClient("https://localhost:1", "amqp://localhost", str(file))
    assert raised.value.reason == Reason.SECRET_INVALID


class Handler(http.server.BaseHTTPRequestHandler):
    """One virtual host, whose description and tags are what a PUT says of them, as on RabbitMQ."""

    def do_GET(self):
        self._answer(json.dumps(self.server.virtual_host).encode())

    def do_PUT(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.virtual_host = {"name": "shop", "description": "", "tags": []} | said
        self._answer(b"")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


@pytest.mark.parametrize("said", [{"description": "the shop's", "tags": ["production", "eu"]}, {}])
def test_the_default_type_is_all_that_changes_of_a_virtual_host(said):
    """What people have written of it stays."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.virtual_host = {"name": "shop", "default_queue_type": "undefined"} | said
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            client = ManagementClient(f"http://127.0.0.1:{server.server_port}", "amqp://localhost/shop")
            client.set_default_type("quorum")
        finally:
            server.shutdown()
            thread.join()
    now = {"name": "shop", "description": "", "tags": [], "default_queue_type": "quorum"}
    assert server.virtual_host == now | said
    assert not client.may_set_default_type
