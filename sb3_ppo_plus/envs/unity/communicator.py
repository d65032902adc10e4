"""
The socket between Python and one game: Python is the gRPC server, the game its client.

Written anew beside the one of ``mlagents_envs``, whose message size is fixed, which listens on all interfaces, sees a
crash seconds late, waits for ever for a game that dies in the handshake, and keeps the interpreter from exiting.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.messages import message_class

_METHOD = "/communicator_objects.UnityToExternalProto/Exchange"
_ANSWERED = 200
_ENDED = 400


class Communicator:
    """
    Listens on a port for one game.

    What the game sends is put into a queue, which several communicators may share, as (key, message); the message is
    None when the game hung up.

    :param port: TCP port
    :param inbox: where messages are put
    :param key: what marks this game's messages
    :param host: name or address to listen on; ``localhost`` for games on this machine, ``0.0.0.0`` for an editor on
        another one: nobody is asked who they are, so only in a network that is trusted
    :param max_message_size: largest message, in bytes
    :raises UnityError: when the port is taken
    """

    def __init__(
        self,
        port: int,
        inbox: queue.SimpleQueue[tuple[Any, Any]],
        key: Any,
        host: str = "localhost",
        max_message_size: int = 2**30,
    ) -> None:
        import grpc

        self.port = port
        self._inbox, self._key = inbox, key
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._message = message_class("unity_message_pb2", "UnityMessageProto")
        self._closed = False
        size = max_message_size
        self._threads = _DaemonThreads()
        self._server = grpc.server(
            self._threads,  # type: ignore[arg-type]
            # Without the last one a second trainer would silently share the port, and each get half of the messages.
            options=(
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
                ("grpc.so_reuseport", 0),
            ),
        )
        self._server.add_generic_rpc_handlers((_Handler(self._exchange, self._message),))
        # A game looks up "localhost" itself and may find either address.
        self._bind([f"127.0.0.1:{port}", f"[::1]:{port}"] if host == "localhost" else [f"{host}:{port}"])
        self._server.start()

    def _bind(self, addresses: list[str]) -> None:
        if not port_is_free(self.port):
            raise UnityError(_taken(self.port))
        bound = 0
        for address in addresses:
            try:
                bound += bool(self._server.add_insecure_port(address))
            except RuntimeError:
                continue
        if not bound:
            raise UnityError(_taken(self.port))

    def _exchange(self, request: Any, context: Any) -> Any:
        """Run by gRPC when the game sends: hand the message over, and wait for what is answered."""
        answered = threading.Event()
        if request.header.status != _ANSWERED or not context.add_callback(lambda: self._over(answered)):
            self._inbox.put((self._key, None))
            return self._message()
        self._inbox.put((self._key, request.unity_output))
        answer = self._outbox.get()
        answered.set()
        return answer

    def _over(self, answered: threading.Event) -> None:
        """Run by gRPC at the end of each exchange: what was not answered by now never will be, the game hung up."""
        if not answered.is_set() and not self._closed:
            self._inbox.put((self._key, None))

    def send(self, unity_input: Any) -> None:
        """
        Answer the game, which waits for it.

        :param unity_input: a ``UnityInputProto``
        """
        message = self._message()
        message.header.status = _ANSWERED
        message.unity_input.CopyFrom(unity_input)
        self._outbox.put(message)

    def close(self) -> None:
        """Tell the game that it is over, and free the port."""
        if self._closed:
            return
        self._closed = True
        message = self._message()
        message.header.status = _ENDED
        self._outbox.put(message)
        # An exchange that is under way gets its answer; new ones are refused at once.
        self._server.stop(0.5).wait()
        self._threads.shutdown()


class _Handler:
    """The one method of the service, without the generated code that would import the old message modules by name."""

    def __init__(self, exchange: Callable[[Any, Any], Any], message: Any) -> None:
        import grpc

        self._method = grpc.unary_unary_rpc_method_handler(
            exchange, request_deserializer=message.FromString, response_serializer=message.SerializeToString
        )

    def service(self, call: Any) -> Any:
        """
        :param call: details of the call
        :return: what handles it, None for a method that does not exist
        """
        return self._method if call.method == _METHOD else None


class _DaemonThreads(Executor):
    """
    Threads for gRPC that never keep the interpreter alive.

    Those of ``ThreadPoolExecutor`` are joined when Python exits, before anybody can close a game, and a thread that
    waits for an answer which nobody will give is then waited for without end.
    """

    def __init__(self, n_threads: int = 4) -> None:
        self._n_threads, self._work = n_threads, queue.SimpleQueue[Any]()
        for _ in range(n_threads):
            threading.Thread(target=self._run, daemon=True, name="unity-socket").start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See :meth:`concurrent.futures.Executor.submit`."""
        future: Future[Any] = Future()
        self._work.put((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """See :meth:`concurrent.futures.Executor.shutdown`; nobody is waited for."""
        for _ in range(self._n_threads):
            self._work.put(None)

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            future, function, args, kwargs = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)


def port_is_free(port: int) -> bool:
    """
    :param port: TCP port
    :return: whether nobody on this machine listens on it
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Otherwise a port counts as taken for a minute after its last user.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _taken(port: int) -> str:
    return (
        f"port {port} is taken by another process, perhaps another training; close that one, or give another base_port "
        "(each worker takes base_port + its number; base_port=None looks for free ones)"
    )
