"""Relays the connection between JAX's client in this process and process 0.

JAX aborts a process, with messages that help nobody, once its connection to process 0
ends. The relay keeps JAX's connection open and calls a function of ours instead.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

CONNECT_WITHIN = 5.0  # seconds; JAX's client tries again
PIECE_BYTES = 2**16


class Relay:
    """Passes bytes, in threads, between a port of this host and another address."""

    def __init__(self, host: str, port: int, *, when_gone: Callable[[], None]):
        """Opens the port and starts to listen.

        Args:
          host, port: of process 0.
          when_gone: called if process 0 ends a connection after `keep`.
        """
        self._far, self._when_gone = (host, port), when_gone
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._kept = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def keep(self) -> None:
        """Hides from JAX, from now on, that a connection has ended."""
        self._kept.set()

    def let_go(self) -> None:
        """Undoes `keep`, because this process ends, and process 0 may end before it."""
        self._kept.clear()

    def _listen(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(self._far, timeout=CONNECT_WITHIN)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for work in (self._send, self._receive):
                threading.Thread(target=work, args=(near, far), daemon=True).start()

    def _send(self, near: socket.socket, far: socket.socket) -> None:
        _pass_on(near, far)
        _end(far)

    def _receive(self, near: socket.socket, far: socket.socket) -> None:
        _pass_on(far, near)
        if self._kept.is_set():
            self._when_gone()
        else:
            _end(near)


def _end(connection: socket.socket) -> None:
    """Ends a connection, also for a thread that reads from it; `close` would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until the source ends or the target takes no more."""
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
