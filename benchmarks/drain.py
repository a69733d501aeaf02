"""The cheapest other end of a tap's socket."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path


class Drain(threading.Thread):
    """Listens on a Unix seqpacket socket and throws everything away."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._over = False

    def run(self) -> None:
        sockets = [self._listener]
        while not self._over:
            for each in select.select(sockets, [], [], 0.2)[0]:
                if each is self._listener:
                    sockets.append(each.accept()[0])
                elif not each.recv(1 << 17):
                    sockets.remove(each)

    def __enter__(self) -> Drain:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self.join()
