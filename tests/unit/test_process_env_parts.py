"""Parts of ProcessVecEnv that need no process: budget, messages, shared memory, errors, arguments."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ppo_plus.envs import processes
from sb3_ppo_plus.envs.processes import wire
from sb3_ppo_plus.envs.processes.budget import Budget, RestartLimits
from sb3_ppo_plus.envs.processes.crew import _parts, _shares
from sb3_ppo_plus.envs.processes.errors import Lost, WorkerLost
from sb3_ppo_plus.envs.processes.memory import Layout, Memory, Part
from sb3_ppo_plus.envs.processes.vec_env import ProcessVecEnv
from sb3_ppo_plus.errors import InvalidArgument

# ------------------------------------------------ budget


def test_restarts_are_limited_in_all() -> None:
    budget = Budget(RestartLimits(restarts=2, per_interval=-1))
    assert budget.spend(0.0) is None and budget.spend(0.0) is None
    assert budget.spend(1e9) == "its worker was started again 2 times, and restarts=2"
    assert budget.spent == 2


def test_restarts_are_limited_per_interval() -> None:
    budget = Budget(RestartLimits(restarts=-1, per_interval=2, interval=10.0))
    assert budget.spend(0.0) is None and budget.spend(6.0) is None
    why = budget.spend(9.0)
    assert why is not None and "2 of them within 10 seconds, and restarts_per_interval=2" in why
    assert budget.spend(11.0) is None  # the first one is 11 seconds ago
    assert budget.spend(12.0) is not None
    assert budget.spent == 3


def test_no_limits_and_no_restarts() -> None:
    endless = Budget(RestartLimits(-1, -1))
    assert all(endless.spend(0.0) is None for _ in range(1000))
    assert Budget(RestartLimits(0)).spend(0.0) is not None
    assert Budget(RestartLimits(10, 0)).spend(0.0) is not None


# ------------------------------------------------ messages


@pytest.fixture
def wires() -> Iterator[tuple[wire.Wire, wire.Wire]]:
    one, other = (wire.Wire(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_messages_arrive_whole_and_in_order(wires: tuple[wire.Wire, wire.Wire]) -> None:
    one, other = wires
    large = np.arange(1_000_000)
    sender = threading.Thread(target=lambda: [one.send(wire.DONE), one.send(wire.TOLD, large), one.send(wire.DONE)])
    sender.start()
    assert other.receive() == (wire.DONE, None)
    kind, content = other.receive()
    assert kind == wire.TOLD and np.array_equal(content, large)
    assert other.receive() == (wire.DONE, None)
    sender.join()


def test_plain_messages_are_one_byte(wires: tuple[wire.Wire, wire.Wire]) -> None:
    wires[0].send(wire.STEP)
    assert wires[1].sock.recv(100) == wire.STEP


def test_who_is_late_and_who_is_gone(wires: tuple[wire.Wire, wire.Wire]) -> None:
    one, other = wires
    one.wait_at_most(0.02)
    with pytest.raises(wire.Late):
        one.receive()
    other.send(wire.DONE)
    assert one.receive() == (wire.DONE, None)  # it was late, and nothing is out of order
    with pytest.raises(wire.Late):
        one.send(wire.TOLD, bytes(50_000_000))
    other.close()
    with pytest.raises(wire.Gone):
        one.receive()
    with pytest.raises(wire.Gone):
        one.send(wire.STEP)
    one.close()
    with pytest.raises(wire.Gone):
        one.receive()


def test_half_a_message_is_never_taken_for_the_next(wires: tuple[wire.Wire, wire.Wire]) -> None:
    one, other = wires
    one.wait_at_most(0.02)
    other.sock.sendall(wire.TOLD + b"\0\0\0\0\0\0\0\5ab")
    with pytest.raises(wire.Late):
        one.receive()
    with pytest.raises(wire.Gone):
        one.receive()


def test_half_a_message_of_somebody_who_died(wires: tuple[wire.Wire, wire.Wire]) -> None:
    wires[1].sock.sendall(wire.TOLD + b"\0\0")
    wires[1].close()
    with pytest.raises(wire.Gone):
        wires[0].receive()


# ------------------------------------------------ memory


def make_layout(**overrides: Any) -> Layout:
    fields: dict[str, Any] = {
        "n_envs": 3,
        "n_workers": 2,
        "observations": (Part("a", (2, 3), np.dtype(np.uint8)), Part("b", (), np.dtype(np.int64))),
        "action": Part(None, (4,), np.dtype(np.float32)),
    }
    return Layout(**{**fields, **overrides})


def test_two_views_of_one_memory() -> None:
    layout = make_layout()
    one = Memory(layout)
    other = Memory(pickle.loads(pickle.dumps(layout)), os.dup(one.fd))
    assert one.observations["a"].shape == (3, 2, 3) and one.observations["a"].dtype == np.uint8
    assert one.observations["b"].shape == (3,) and one.actions is not None and one.actions.shape == (3, 4)
    arrays = [one.observations["a"], one.observations["b"], one.rewards, one.dones, one.serving, one.actions]
    others = [other.observations["a"], other.observations["b"], other.rewards, other.dones, other.serving]
    for number, array in enumerate(arrays):
        array[...] = number + 1
    for number, array in enumerate(others):
        assert (array == array.dtype.type(number + 1)).all(), number
    one.close()
    one.close()
    assert (other.actions == 6).all()  # type: ignore[union-attr]
    other.close()


def test_memory_without_actions_and_of_size_zero() -> None:
    memory = Memory(make_layout(action=None, observations=(Part(None, (0,), np.dtype(np.float64)),)))
    assert memory.actions is None and memory.observations[None].shape == (3, 0)
    memory.close()


def test_memory_has_no_name() -> None:
    before = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    memory = Memory(make_layout())
    after = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    memory.close()
    assert set(after) <= set(before)


@pytest.mark.parametrize(
    "n, n_workers, shares",
    [(4, 4, [[0], [1], [2], [3]]), (5, 2, [[0, 1, 2], [3, 4]]), (3, 1, [[0, 1, 2]])],
)
def test_environments_are_shared_out(n: int, n_workers: int, shares: list[list[int]]) -> None:
    assert _shares(n, n_workers) == shares


@pytest.mark.parametrize(
    "space, keys",
    [
        (spaces.Box(0, 1, (2,)), [None]),
        (spaces.Discrete(3), [None]),
        (spaces.MultiBinary(3), [None]),
        (spaces.MultiDiscrete([2, 3]), [None]),
        (spaces.Dict(x=spaces.Box(0, 1, (2,)), n=spaces.Discrete(3)), ["n", "x"]),
        (spaces.Tuple((spaces.Box(0, 1, (2,)), spaces.Discrete(3))), [0, 1]),
    ],
    ids=str,
)
def test_observations_of_a_fixed_size_are_shared(space: spaces.Space, keys: list[Any]) -> None:
    parts, action = _parts(0, space, spaces.Discrete(2))
    assert sorted((part.key for part in parts), key=str) == sorted(keys, key=str)
    assert action == Part(None, (), np.dtype(np.int64))


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2))], ids=str)
def test_other_observations_are_refused(space: spaces.Space) -> None:
    with pytest.raises(InvalidArgument, match=r"environment 7 observes .* no numbers of a fixed size"):
        _parts(7, space, spaces.Discrete(2))


def test_actions_of_other_spaces_go_through_the_pipe() -> None:
    assert _parts(0, spaces.Discrete(2), spaces.Dict(x=spaces.Discrete(2)))[1] is None


# ------------------------------------------------ errors and arguments


def test_the_last_error_tells_everything() -> None:
    lost = Lost(None, "raised", 3, "raised in step: ValueError: no", 1, "Traceback ...\nValueError: no\n")
    error = lost.final("restarts=2", 2)
    assert str(error) == (
        "environment 3 raised in step: ValueError: no; restarts=2\n\nIn the worker:\nTraceback ...\nValueError: no"
    )
    assert (error.env_index, error.exit_code, error.restarts) == (3, 1, 2)
    assert isinstance(error, RuntimeError) and not isinstance(error, EOFError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def make() -> gym.Env:
    raise AssertionError("no environment is made for a wrong argument")


@pytest.mark.parametrize(
    "functions, arguments, words",
    [
        ([], {}, "env_fns is empty"),
        ([make], {"start_method": "fork"}, "start_method='fork' cannot be used; give 'forkserver' or 'spawn'"),
        ([make], {"n_workers": 2}, "n_workers=2 has to be between 1 and the number of environments, 1"),
        ([make], {"n_workers": 0}, "n_workers=0"),
        ([make], {"timeout": 0.0}, "timeout of 0.0 seconds"),
        ([make], {"start_timeout": -1}, "timeout of -1 seconds"),
    ],
)
def test_wrong_arguments_are_told(functions: list[Callable[[], gym.Env]], arguments: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        ProcessVecEnv(functions, **arguments)


def test_names_are_resolved_on_first_use() -> None:
    assert dir(processes) == ["ProcessVecEnv", "WorkerLost"]
    assert processes.ProcessVecEnv is ProcessVecEnv and processes.WorkerLost is WorkerLost
    with pytest.raises(AttributeError, match="no_such_name"):
        processes.no_such_name  # noqa: B018


def test_a_worker_imports_no_torch() -> None:
    heavy = ("torch", "stable_baselines3")
    code = f"import sys, sb3_ppo_plus.envs.processes.worker; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
