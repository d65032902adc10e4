"""
Messages between the parent and a worker: one byte that says what it is, and often nothing more.

What is large or comes every step lies in shared memory; a step of environments that say nothing in their infos takes
one byte each way. Kinds in capitals carry a pickled object.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

# To the worker.
STEP, STEP_WITH, RESET, CALL, MEMORY = b"s", b"S", b"R", b"C", b"M"
# To the parent: made, done, done with something to tell, results of a call, an environment raised.
READY, DONE, TOLD, RESULTS, RAISED = b"Y", b"d", b"T", b"V", b"E"

_LENGTH = struct.Struct("!Q")


class Gone(Exception):
    """The other side has closed the connection, in whatever way."""


class Late(Exception):
    """The other side has not answered in time."""


class Wire:
    """
    One end of a connection.

    :param sock: stream socket
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._patience: float | None = None
        self._torn = False
        sock.settimeout(None)

    def wait_at_most(self, seconds: float | None) -> None:
        """:param seconds: how long one message may take, None for as long as it likes"""
        if seconds != self._patience:
            self._patience = seconds
            self.sock.settimeout(seconds)

    def send(self, kind: bytes, content: Any = None) -> None:
        """
        :param kind: what it is
        :param content: any object that can be pickled, for kinds in capitals
        :raises Gone: when nobody is there
        :raises Late: when nobody takes it
        """
        message = kind
        if kind.isupper():
            payload = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
            message = b"".join((kind, _LENGTH.pack(len(payload)), payload))
        try:
            self.sock.sendall(message)
        except TimeoutError as late:
            self._torn = True
            raise Late from late
        except OSError as gone:
            raise Gone from gone

    def receive(self) -> tuple[bytes, Any]:
        """
        :return: what it is, and the object where there is one
        :raises Gone: when nobody is there
        :raises Late: when nothing comes
        """
        if self._torn:
            raise Gone
        kind = self._read(1)
        if not kind.isupper():
            return kind, None
        # A Ctrl-C from here on would leave a part of the message behind, to be taken for the next one.
        self._torn = True
        payload = self._read(_LENGTH.unpack(self._read(_LENGTH.size))[0])
        self._torn = False
        return kind, pickle.loads(payload)

    def _read(self, size: int) -> bytes:
        try:
            data = self.sock.recv(size)
            if len(data) == size:
                return data
            parts = [data]
            missing = size - len(data)
            while data:
                data = self.sock.recv(min(missing, 1 << 20))
                parts.append(data)
                missing -= len(data)
                if not missing:
                    return b"".join(parts)
        except TimeoutError as late:
            raise Late from late
        except OSError as gone:
            raise Gone from gone
        raise Gone

    def close(self) -> None:
        """Hang up; doing it twice is fine."""
        self.sock.close()
