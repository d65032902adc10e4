"""Tiny studies for tests: CartPole for some hundred steps, in any storage."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from sb3_ppo_plus.runs.layers import assemble  # noqa: E402
from sb3_ppo_plus.tuning.space import load_space, space_from_mapping  # noqa: E402
from sb3_ppo_plus.tuning.spec import StudySpec, make_spec  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"n_timesteps": 512, "n_envs": 2, "eval_episodes": 1}
SETTINGS = ["n_steps=32", "batch_size=32", "n_epochs=1", "compile_update=false", "policy_kwargs={net_arch: [8]}"]
EPOCHS = {"n_epochs": {"type": "int", "low": 1, "high": 3}, "clip_range": {"type": "float", "low": 0.1, "high": 0.3}}


def make(
    name: str = "study", env: str = "CartPole-v1", space: Any = None, settings: list[str] | None = None, **options: Any
) -> StudySpec:
    """Give the specification of a tiny study."""
    flags = {**SMALL, **{key: options.pop(key) for key in list(options) if key in SMALL}}
    config = assemble(env, settings=[*SETTINGS, *(settings or [])], flags=flags)
    searched = load_space(space) if isinstance(space, str) else space_from_mapping("test", space or EPOCHS)
    return make_spec(config, searched, name=name, **{"n_evals": 2, "n_startup_trials": 4, **options})


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a server of PostgreSQL, and give the URL of an empty database; skip the test where there is none."""
    pytest.importorskip("psycopg")
    programs = next((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    initdb = shutil.which("initdb") or (programs and str(programs / "initdb"))
    server = shutil.which("postgres") or (programs and str(programs / "postgres"))
    if not initdb or not server:
        pytest.skip("there is no PostgreSQL on this machine")
    user = _unprivileged()
    data, port = folder / "postgres", free_port()
    data.mkdir()
    if user is not None:
        shutil.chown(data, user)
        for parent in (data, *data.parents):
            if parent.stat().st_uid == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    run = {"user": user} if user else {}
    subprocess.run(
        [initdb, "-D", data, "-U", "tuner", "--auth=trust", "-N"], check=True, capture_output=True, cwd="/", **run
    )
    command = [server, "-D", data, "-p", str(port), "-k", data, "-h", "127.0.0.1", "-F"]
    with open(folder / "postgres.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd="/", **run)
    try:
        _wait_for(port, process)
        yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # SIGTERM waits for its clients
        process.wait(30)


@contextmanager
def proxy(url: str, folder: Path) -> Iterator[str]:
    """Run `ppo-plus tune serve` in front of a database, and give its URL."""
    pytest.importorskip("grpc")
    port = free_port()
    command = [sys.executable, "-m", "sb3_ppo_plus", "tune", "serve", "--storage", url, "--port", str(port)]
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root."""
    import os
    import pwd

    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user")
