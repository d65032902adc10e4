"""Where a study is kept: a journal file, a database, or a proxy in front of one, all opened by one text."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.patience import PatientStorage

logger = logging.getLogger(__name__)

FORMS = (
    "journal:PATH (nothing to install), sqlite:///PATH, postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, "
    "grpc://HOST:PORT (what `ppo-plus tune serve` opens)"
)
# Seconds after which the lock of a writer that died is taken from it.
_LOCK_GRACE = 10
# Scheme to the module that its driver is, and what to install.
_DRIVERS = {"postgresql": ("psycopg", "psycopg[binary]"), "mysql": ("pymysql", "pymysql")}


class Journal(JournalFileBackend):
    """
    Optuna's journal file, which also goes on after a line that a power cut left half written.

    :param path: the file
    """

    def __init__(self, path: Path) -> None:
        # Absolute: Optuna's lock is a symbolic link, and one that leads nowhere is never taken from a dead writer.
        self.path = path.resolve()
        lock = (JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock)(str(self.path), _LOCK_GRACE)
        super().__init__(str(self.path), lock_obj=lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """
        :param logs: operations to add, one line each
        """
        if _ends_half(self.path):
            self._mend()
        super().append_logs(logs)

    def _mend(self) -> None:
        self._lock.acquire()
        try:
            if _ends_half(self.path):  # nobody else mended it meanwhile
                content = self.path.read_bytes()
                whole = content[: content.rfind(b"\n") + 1]
                logger.warning("%s ended in half a line, which was never valid: cut off", self.path)
                with open(self.path, "r+b") as file:
                    file.truncate(len(whole))
                    os.fsync(file.fileno())
        finally:
            self._lock.release()


def journal_url(folder: Path) -> str:
    """
    :param folder: folder of a study
    :return: where its journal is
    """
    return f"journal:{folder / 'journal.log'}"


def open_storage(url: str, create: bool = False) -> BaseStorage:
    """
    Open a storage.

    :param url: one of the forms in ``FORMS``, or the path of a journal
    :param create: make a file that is missing; else its absence is an error
    :return: Optuna's storage; calls that fail because of the network or a lock are repeated for a while
    :raises InvalidArgument: for another form, a missing file or driver, a file of something else, or no answer
    """
    scheme, _, rest = url.partition(":")
    if "://" not in url and scheme not in ("journal", "grpc"):
        scheme, rest = "journal", url
    kind = scheme.partition("+")[0]
    if kind == "journal":
        return _open_journal(Path(rest.removeprefix("//")), create)
    if kind == "grpc":
        return _open_proxy(url)
    if kind not in ("sqlite", *_DRIVERS):
        raise InvalidArgument(f"storage is {hidden(url)!r}; give {FORMS}")
    return _open_database(url, kind, create)


def hidden(url: str) -> str:
    """
    :param url: where a study is
    :return: the same without a password
    """
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def _open_journal(path: Path, create: bool) -> BaseStorage:
    if path.is_dir():
        path = path / "journal.log"
    if not path.is_file() and not create:
        raise InvalidArgument(f"there is no study in {path}; make one with `ppo-plus tune create` or `tune run`")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_journal(path)
        return PatientStorage(JournalStorage(Journal(path)))
    except InvalidArgument:
        raise
    except OSError as error:
        raise InvalidArgument(f"cannot use {path} as a journal: {error.strerror}; give another --storage") from error
    except Exception as error:  # replaying what somebody else wrote may fail in any way
        raise InvalidArgument(
            f"{path} is no journal of a study: {type(error).__name__}: {' '.join(str(error).split())}; restore it from "
            "a copy, or begin anew with another --storage"
        ) from error


def _check_journal(path: Path) -> None:
    """Name the line that makes a file unreadable; the last one may be half written, it is cut off later."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry.get("op_code"), int):
                    raise ValueError("it is no operation of Optuna")
            except ValueError as error:
                raise InvalidArgument(
                    f"{path}, line {number}, is not readable ({error}); it is damaged, or no journal of Optuna: "
                    "restore it from a copy, or begin anew with another --storage"
                ) from error


def _open_proxy(url: str) -> BaseStorage:
    found = re.fullmatch(r"grpc://([^:/]+):(\d+)/?", url)
    if found is None:
        raise InvalidArgument(f"storage is {url!r}; write grpc://HOST:PORT, for example grpc://localhost:13000")
    if find_spec("grpc") is None:
        raise InvalidArgument(f"storage is {url!r}, which needs grpcio; pip install grpcio 'protobuf>=5.28.1'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=found[1], port=int(found[2]))
    try:
        proxy.wait_server_ready(timeout=10)
    except Exception as error:
        proxy.close()
        raise InvalidArgument(f"nobody answers at {url}; start `ppo-plus tune serve` there first") from error
    return PatientStorage(proxy)


def _open_database(url: str, kind: str, create: bool) -> BaseStorage:
    if kind in _DRIVERS and "+" not in url.partition(":")[0]:
        module, package = _DRIVERS[kind]
        if find_spec(module) is None:
            raise InvalidArgument(f"storage is {hidden(url)!r}, which needs a driver; pip install '{package}'")
        url = url.replace(f"{kind}:", f"{kind}+{module}:", 1)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        _check_sqlite(url, create)
        options = {"connect_args": {"timeout": 60}}
    try:
        database = RDBStorage(url, engine_kwargs=options)
    except Exception as error:
        raise InvalidArgument(
            f"cannot open {hidden(url)}: {type(error).__name__}: {' '.join(str(error).split())[:300]}; give {FORMS}"
        ) from error
    if kind == "sqlite":
        _one_writer_at_a_time(database)
    return PatientStorage(get_storage(database))


def _check_sqlite(url: str, create: bool) -> None:
    """Refuse a file that is missing or of somebody else, in which Optuna would put its tables."""
    path = Path(url.partition(":///")[2].partition("?")[0])
    if not path.name or str(path) == ":memory:":
        raise InvalidArgument(f"storage is {url!r}; a study needs a file: sqlite:///PATH")
    if not path.is_file():
        if not create:
            raise InvalidArgument(f"there is no study in {path}; make one with `ppo-plus tune create` or `tune run`")
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    try:
        with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise InvalidArgument(f"{path} is no SQLite database ({error}); give another --storage") from error
    if tables and "studies" not in tables:
        raise InvalidArgument(f"{path} is the database of something else ({', '.join(sorted(tables))[:100]})")


def _one_writer_at_a_time(database: RDBStorage) -> None:
    """
    Begin each transaction of SQLite as a writer.

    Python's driver begins one at the first write only, so two workers could read the same waiting trial and both take
    it. SQLAlchemy's documentation, "Serializable isolation / Savepoints / Transactional DDL", has this remedy.
    """
    from sqlalchemy import event

    def by_hand(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(database.engine, "connect", by_hand)
    event.listen(database.engine, "begin", begin)
    database.engine.dispose()  # connections that were opened before do not know


def _ends_half(path: Path) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"


def quiet_optuna() -> None:
    """Leave to this package what is told about a study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
