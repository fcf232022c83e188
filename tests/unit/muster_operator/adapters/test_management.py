"""What the client of RabbitMQ's management API says of answers that a RabbitMQ does not give."""

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
