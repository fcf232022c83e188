"""A proxy in front of a server on loopback that passes on everything, until an answer is to get lost.

It knows no protocol: a request is lost sight of by what its bytes contain.
"""

import contextlib
import socket
import threading
from typing import Self

from servers import free_port


class LossyProxy:
    """Usable as a context manager: at its end every connection is closed."""

    def __init__(self, port: int) -> None:
        """`port` is the server's."""
        self._upstream = ("127.0.0.1", port)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.lost = 0
        """How many answers got lost so far."""
        self._marker: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []

    def lose_answer_to(self, marker: bytes) -> None:
        """Let the next request with `marker` in it through, and break its connection when it is answered."""
        self._marker = marker

    def cut(self) -> None:
        """End all connections of this moment, as a middlebox would that has forgotten them."""
        _end(*self._sockets)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._sockets += [client, server]
                doomed = threading.Event()
                for pump in (self._requests, self._answers):
                    self._threads.append(threading.Thread(target=pump, args=(client, server, doomed)))
                    self._threads[-1].start()

    def _requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._marker is not None and self._marker in data:
                    self._marker = None
                    doomed.set()
                server.sendall(data)
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():
                    self.lost += 1
                    break
                client.sendall(data)
        _end(client, server)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listener)
        self._threads[0].join()
        _end(*self._sockets)
        for thread in self._threads:
            thread.join()
        for one in [self._listener, *self._sockets]:
            one.close()


def _end(*sockets: socket.socket) -> None:
    """Wake whoever waits on them: their connections are over."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
