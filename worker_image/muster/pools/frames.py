"""Messages between the parent, the template and the children: packets on Unix sockets.

A packet is read by exactly one process, whole. That is what lets the parent take back a job that a child
has not read yet: it reads the child's end itself. What does not fit into a packet travels as a file.
"""

import array
import os
import socket
import tempfile
from collections.abc import Sequence
from typing import Final

LARGE_BYTES: Final = 64 * 1024
"""Above this a frame goes through a file: the socket's buffer must hold several packets."""
# macOS has no packets in order on Unix sockets; its datagrams are that in practice
KIND: Final = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM) if os.name == "posix" else None
_MAX_FDS: Final = 3
_ANCILLARY: Final = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_IN_LINE, _IN_FILE = b"=", b"@"


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    assert KIND is not None
    return socket.socketpair(socket.AF_UNIX, KIND)


def send(end: socket.SocketType, frame: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one frame. Raises BlockingIOError (when the end does not block) or ConnectionError."""
    if len(frame) <= LARGE_BYTES:
        if descriptors:
            _send_with(end, _IN_LINE + frame, descriptors)
        else:
            end.send(_IN_LINE + frame)
        return
    with tempfile.TemporaryFile() as file:
        file.write(frame)
        file.flush()
        _send_with(end, _IN_FILE, [file.fileno(), *descriptors])


def _send_with(end: socket.SocketType, packet: bytes, descriptors: Sequence[int]) -> None:
    """Send descriptors along. As `socket.send_fds`, on any socket: one that was never patched, too."""
    end.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


class Reader:
    """Reads frames from one end."""

    def __init__(self, end: socket.SocketType) -> None:
        self._end = end
        self._buffer = bytearray(LARGE_BYTES + 16)
        self._view = memoryview(self._buffer)

    def receive(self, flags: int = 0) -> tuple[bytes, list[int]] | None:
        """Return (frame, descriptors), or None at the other's end. Raises BlockingIOError."""
        size, ancillary, _, _ = self._end.recvmsg_into([self._buffer], _ANCILLARY, flags | _CLOSE_ON_EXEC)
        if not size:
            return None
        if not ancillary:
            return bytes(self._view[1:size]), []
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if self._buffer[:1] == _IN_LINE:
            return bytes(self._view[1:size]), list(descriptors)
        with open(descriptors[0], "rb") as file:  # noqa: PTH123 - os.fdopen would wait as a greenlet
            file.seek(0)
            return file.read(), list(descriptors[1:])
