"""The originals of what gevent and eventlet replace, for what must not wait as a greenlet does.

Imported by the pools' files before they patch. From modules that are compiled into the interpreter, which
import nothing: so nothing unpatched is left behind in anybody's hands.
"""

from _socket import socket
from _thread import allocate_lock, get_ident, start_new_thread
from time import sleep

__all__ = ["allocate_lock", "get_ident", "sleep", "socket", "start_new_thread"]
