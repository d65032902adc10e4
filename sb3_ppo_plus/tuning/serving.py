"""A gRPC proxy in front of a database, so that hundreds of workers share one connection to it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from optuna.exceptions import ExperimentalWarning

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.storage import hidden, open_storage, quiet_optuna

# Calls at a time; a call is short, and a database allows a limited number of connections.
_THREADS = 16


def start_proxy(url: str, host: str, port: int) -> Any:
    """
    Start to answer.

    :param url: the database
    :param host: address to listen on; there is no password, so 127.0.0.1 unless the network is trusted
    :param port: port to listen on
    :return: the server, which has started
    :raises InvalidArgument: for a storage that a proxy cannot stand in front of, or a port that is taken
    """
    quiet_optuna()
    if url.partition("://")[0].partition("+")[0] not in ("sqlite", "postgresql", "mysql"):
        # https://github.com/optuna/optuna/issues/6084: a journal tells its writers apart by process.
        raise InvalidArgument(
            f"storage is {hidden(url)!r}; a proxy stands in front of sqlite, postgresql or mysql. Workers of one file "
            "system open a journal by themselves"
        )
    if find_spec("grpc") is None:
        raise InvalidArgument("serve needs grpcio; pip install grpcio 'protobuf>=5.28.1'")
    storage = open_storage(url, create=True)
    from optuna.storages._grpc.server import make_server

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            server = make_server(storage, host, port, ThreadPoolExecutor(max_workers=_THREADS))
            server.start()
        except (RuntimeError, OSError) as error:
            raise InvalidArgument(f"cannot listen at {host}:{port}: {error}; give another --port") from error
    return server
