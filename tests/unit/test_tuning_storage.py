"""Where studies are kept: what cannot be opened says so, what was torn is mended, what passes is waited for."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from tuning_studies import free_port, make

from sb3_ppo_plus import InvalidArgument
from sb3_ppo_plus.tuning.patience import PatientStorage, passes
from sb3_ppo_plus.tuning.serving import start_proxy
from sb3_ppo_plus.tuning.storage import hidden, open_storage
from sb3_ppo_plus.tuning.study import create_study, exists, open_study, prolong


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    prolong(create_study(f"journal:{path}", make()), 2)
    return path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("journal:{}/none.log", "there is no study in"),
        ("sqlite:///{}/none.db", "there is no study in"),
        ("sqlite:///:memory:", "a study needs a file"),
        ("redis://localhost", "give journal:PATH"),
        ("grpc://localhost", "write grpc://HOST:PORT"),
        ("postgresql+nothing://localhost/x", "cannot open"),
    ],
)
def test_what_cannot_be_opened_says_why(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        open_storage(url.format(tmp_path))
    assert list(tmp_path.iterdir()) == [], "looking makes no file"


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    from optuna.storages import GrpcStorageProxy

    waits = GrpcStorageProxy.wait_server_ready
    monkeypatch.setattr(GrpcStorageProxy, "wait_server_ready", lambda self, timeout: waits(self, 0.2))
    with pytest.raises(InvalidArgument, match="nobody answers"):
        open_storage(f"grpc://127.0.0.1:{free_port()}")


def test_a_password_is_never_shown() -> None:
    url = "postgresql+psycopg://me:se:cret@host/db"
    assert hidden(url) == "postgresql+psycopg://me:***@host/db"
    with pytest.raises(InvalidArgument) as error:
        open_storage("postgresql+nothing://me:secret@localhost/x")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"trial,value\n1,2\n", b'{"a": 1}\n', b"\x00\xff\x80\n", b"[1, 2]\n", b'{"op_code": 99, "worker_id": "w"}\n'],
)
def test_a_foreign_file_is_no_journal(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match="journal"):
        open_storage(f"journal:{path}")
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], lines[2][:10] + b"\n", *lines[3:]]))
    with pytest.raises(InvalidArgument, match=r"journal\.log, line 3, is not readable"):
        open_study(f"journal:{journal}")


def test_half_a_line_at_the_end_is_cut_off(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":8,"trial_')
    opened = open_study(f"journal:{journal}")
    assert opened.count() == 2
    prolong(opened, 3)
    assert "half a line" in caplog.text
    assert open_study(f"journal:{journal}").count() == 3
    assert journal.read_bytes().startswith(whole) and b"trial_{" not in journal.read_bytes()


def test_the_lock_of_a_dead_writer_is_taken_from_it(
    journal: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sb3_ppo_plus.tuning.storage._LOCK_GRACE", 3)
    lock = journal.with_name("journal.log.lock")
    opened = open_study("journal:journal.log")  # a relative path
    lock.symlink_to(journal)
    started = time.monotonic()
    prolong(opened, 3)
    assert 2 < time.monotonic() - started < 20
    assert not lock.exists()


def test_foreign_databases_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to look at" * 10)
    with pytest.raises(InvalidArgument, match="no SQLite database"):
        open_storage(f"sqlite:///{tmp_path}/text.db", create=True)
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table orders (id integer)")
    before = (tmp_path / "shop.db").read_bytes()
    with pytest.raises(InvalidArgument, match="something else"):
        open_storage(f"sqlite:///{tmp_path}/shop.db", create=True)
    assert (tmp_path / "shop.db").read_bytes() == before


def test_names_of_studies(journal: Path) -> None:
    url = f"journal:{journal}"
    assert exists(url, "study") and not exists(url, "other")
    with pytest.raises(InvalidArgument, match="did you mean study"):
        open_study(url, "studi")
    with pytest.raises(InvalidArgument, match="there is a study 'study'"):
        create_study(url, make())
    create_study(url, make(name="second"))
    with pytest.raises(InvalidArgument, match="holds study, second; name one"):
        open_study(url)


def test_a_study_of_somebody_else(tmp_path: Path) -> None:
    import optuna

    storage = open_storage(f"journal:{tmp_path}/journal.log", create=True)
    optuna.create_study(study_name="theirs", storage=storage)
    with pytest.raises(InvalidArgument, match="was not created by"):
        open_study(f"journal:{tmp_path}/journal.log", "theirs")


class Flaky(InMemoryStorage):
    """Fails some times before it answers."""

    failures = 0

    def get_all_studies(self):
        if self.failures:
            self.failures -= 1
            raise StorageInternalError("the database restarts")
        return super().get_all_studies()


def test_a_storage_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_ppo_plus.tuning.patience._FIRST_PAUSE", 0.01)
    inner = Flaky()
    storage = PatientStorage(inner, patience=2.0)
    storage.create_new_study([StudyDirection.MAXIMIZE], "one")
    inner.failures = 3
    assert [study.study_name for study in storage.get_all_studies()] == ["one"]
    inner.failures = 10**6
    with pytest.raises(StorageInternalError):
        PatientStorage(inner, patience=0.05).get_all_studies()
    assert not passes(ValueError("wrong")) and not passes(KeyError("no such study"))


def test_a_proxy_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="in front of sqlite"):
        start_proxy(f"journal:{tmp_path}/journal.log", "127.0.0.1", free_port())


def test_a_proxy_on_a_port_that_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    server = start_proxy(f"sqlite:///{tmp_path}/a.db", "127.0.0.1", port := free_port())
    try:
        code = (
            "from sb3_ppo_plus.tuning.serving import start_proxy\n"
            f"start_proxy('sqlite:///{tmp_path}/b.db', '127.0.0.1', {port})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        # Some systems let two processes share a port; where not, the error names it.
        assert done.returncode == 0 or f"cannot listen at 127.0.0.1:{port}" in done.stderr
    finally:
        server.stop(0).wait()


def test_the_dashboard_opens_a_study(journal: Path) -> None:
    """optuna-dashboard, as its users start it: on the journal's path."""
    import json
    import shutil
    from urllib.error import URLError
    from urllib.request import urlopen

    program = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("optuna-dashboard is not installed")
    port = free_port()
    process = subprocess.Popen(
        [program, str(journal), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as answer:
                    studies = json.load(answer)["study_summaries"]
                break
            except (URLError, ConnectionError):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.2)
        assert [study["study_name"] for study in studies] == ["study"]
        with urlopen(f"http://127.0.0.1:{port}/api/studies/{studies[0]['study_id']}", timeout=5) as answer:
            assert len(json.load(answer)["trials"]) == 2
    finally:
        process.terminate()
        process.wait(20)
