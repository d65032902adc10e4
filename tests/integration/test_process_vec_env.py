"""Workers that die, raise and hang, and parents that leave in every way: training goes on, and nothing stays behind."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers import assert_same_tensors, learn_and_record
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.envs.processes import ProcessVecEnv, WorkerLost
from sb3_ppo_plus.envs.processes.errors import WorkerTraceback
from sb3_ppo_plus.errors import InvalidArgument

# Classes of this file travel whole: workers need not find it, nor import what it imports.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie whose parent has not looked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


FAULTS: dict[str, Callable[[], Any]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "exits": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(4),
    "raises": lambda: {}["the ball"],
    "hangs": lambda: time.sleep(1000),
    # C code that holds Python's lock: no other thread of the worker gets a turn
    "hangs in C": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
}


class Counting(gym.Env):
    """
    Counts its steps. The observation is (seed of the last reset, steps since then), the reward the steps, and an
    episode is cut off after ``limit``. A fault comes in a given method at a given call of it; only in the first
    process if there is a marker file, which that one leaves.
    """

    observation_space = spaces.Box(-1, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, fault: str = "", where: str = "step", at: int = 5, marker: Any = None, limit: int = 10) -> None:
        self.fault, self.where, self.at, self.marker, self.limit = fault, where, at, marker, limit
        self.difficulty, self.calls = 0, 0
        self.last_seed, self.t = -1, 0
        self.fail("make")

    def fail(self, where: str) -> None:
        if not self.fault or where != self.where:
            return
        self.calls += 1
        if self.calls == self.at:
            if self.marker is not None:
                if Path(self.marker).exists():
                    return
                Path(self.marker).touch()
            FAULTS[self.fault]()

    def look(self) -> np.ndarray:
        return np.array([self.last_seed, self.t], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.fail("reset")
        self.last_seed = seed if seed is not None else self.last_seed
        self.t = 0
        return self.look(), {"options": options} if options else {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        self.fail("step")
        return self.look(), float(self.t), False, self.t >= self.limit, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.t, np.uint8)

    def square(self, x: int, plus: int = 0) -> int:
        return x * x + plus

    def pieces(self) -> Any:
        return (x for x in range(3))

    def odd(self) -> None:
        raise Odd(1, 2)

    def fault_now(self, name: str) -> None:
        FAULTS[name]()


class Odd(Exception):
    """An error that pickle can write and not read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


@pytest.fixture
def made() -> Iterator[Callable[..., ProcessVecEnv]]:
    """Make environments that are closed after the test, and leave no process."""
    envs: list[ProcessVecEnv] = []

    def make(*functions: Any, n: int = 2, **arguments: Any) -> ProcessVecEnv:
        envs.append(ProcessVecEnv(list(functions) or [Counting] * n, **arguments))
        return envs[-1]

    yield make
    for env in envs:
        pids = env.pids
        before = time.monotonic()
        env.close()
        assert time.monotonic() - before < 15.0
        assert not any(alive(pid) for pid in pids if pid > 0)


def zeros(env: VecEnv) -> np.ndarray:
    return np.zeros(env.num_envs, np.int64)


def steps(env: VecEnv, n: int) -> Any:
    for _ in range(n):
        result = env.step(zeros(env))
    return result


# ------------------------------------------------ the same numbers as with SB3's


class Observing(gym.Env):
    """Random observations of any space; ends at random, in both ways, and tells much in its infos."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        # Spaces of its own: they draw.
        self.observation_space, self.action_space = deepcopy((observation_space, action_space))
        self.render_mode = None
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {"start": self.np_random.random(), "options": options}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self.actions.append(action)  # kept: nobody is to write on it again
        draw = self.np_random.random()
        info = {"draw": draw, "text": "x", "array": np.arange(3)} if draw < 0.6 else {}
        reward = np.float32(draw) if draw < 0.5 else draw
        reward = reward + np.sum(self.actions[0])
        return self.observation_space.sample(), reward, draw < 0.1, np.bool_(draw > 0.85), info


BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES: dict[str, tuple[spaces.Space, spaces.Space]] = {
    "image": (spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(4)),
    "dict": (spaces.Dict(a=BOX, b=spaces.Discrete(5), c=spaces.MultiBinary(3)), BOX),
    "tuple": (spaces.Tuple((BOX, spaces.Discrete(5))), spaces.MultiDiscrete([3, 4])),
    "discrete": (spaces.Discrete(7, start=2), spaces.MultiBinary(4)),
    "multi-discrete": (spaces.MultiDiscrete([3, 4]), spaces.Box(-1, 1, (2, 2), np.float64)),
    "multi-binary": (spaces.MultiBinary(3), spaces.Discrete(3, start=-1)),
}


def same(one: Any, other: Any) -> bool:
    """Equal down to the type and the bit."""
    if isinstance(one, (dict, list, tuple)) and isinstance(other, (dict, list, tuple)):
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        keys_match = not isinstance(one, dict) or one.keys() == other.keys()
        return keys_match and len(one) == len(other) and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def assert_same_numbers(ours: VecEnv, theirs: VecEnv, n_steps: int, float32: bool = False) -> int:
    """Step both with the same actions; gives the number of episodes that ended."""
    generator = np.random.default_rng(0)
    ours.action_space.seed(1)
    ended = 0
    for env in (ours, theirs):
        env.seed(5)
        env.set_options({"level": 3})
    assert same(ours.reset(), theirs.reset())
    assert same(ours.reset_infos, list(theirs.reset_infos))
    for step in range(n_steps):
        actions = np.array([ours.action_space.sample() for _ in range(ours.num_envs)])
        if step == n_steps // 2:
            assert same(ours.reset(), theirs.reset())
        if generator.random() < 0.1 and actions.dtype == np.int64:
            actions = actions.astype(np.int32)  # not what the space says: these take another way
        obs, rewards, dones, infos = ours.step(actions)
        their_obs, their_rewards, their_dones, their_infos = theirs.step(actions)
        if float32:
            their_rewards = their_rewards.astype(np.float32)
        assert same(obs, their_obs) and same(rewards, their_rewards) and same(dones, their_dones)
        assert same(infos, list(their_infos)) and same(ours.reset_infos, list(theirs.reset_infos))
        ended += int(dones.sum())
    return ended


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("n_workers", [2])
def test_numbers_are_those_of_the_dummy_env(kind: str, n_workers: int, made: Callable[..., ProcessVecEnv]) -> None:
    functions = [partial(Observing, *SPACES[kind])] * 3
    theirs = DummyVecEnv(functions)
    assert assert_same_numbers(made(*functions, n_workers=n_workers), theirs, 60) > 20


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_numbers_of_gymnasiums_environments(env_id: str, made: Callable[..., ProcessVecEnv]) -> None:
    functions = [lambda: TimeLimit(gym.make(env_id).unwrapped, 30)] * 2
    assert assert_same_numbers(made(*functions), DummyVecEnv(functions), 150) >= 8


@pytest.mark.slow
def test_numbers_are_those_of_the_subproc_env(made: Callable[..., ProcessVecEnv]) -> None:
    functions = [lambda: gym.make("CartPole-v1")] * 2
    theirs = SubprocVecEnv(functions)
    assert assert_same_numbers(made(*functions, start_method="spawn"), theirs, 150, float32=True) > 8
    theirs.close()


def test_a_training_is_the_same_as_with_the_dummy_env(made: Callable[..., ProcessVecEnv]) -> None:
    functions = [lambda: gym.make("CartPole-v1")] * 4
    models = [
        PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, device="cpu", seed=3).learn(1024)
        for env in (made(*functions, n_workers=2), DummyVecEnv(functions))
    ]
    assert_same_tensors(*models)


def test_what_was_returned_is_not_touched_again(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    first = env.reset()
    kept = first.copy()
    obs, rewards, dones, _ = env.step(zeros(env))
    copies = obs.copy(), rewards.copy(), dones.copy()
    steps(env, 12)
    assert np.array_equal(first, kept)
    assert all(np.array_equal(now, then) for now, then in zip((obs, rewards, dones), copies, strict=True))


# ------------------------------------------------ faults


def assert_dropped(result: Any, row: int, words: str) -> None:
    """Only this row lost its episode, and nothing can be learned from it."""
    obs, rewards, dones, infos = result
    assert [info.get("lost_row", False) for info in infos] == [index == row for index in range(len(infos))]
    assert dones[row] and rewards[row] == 0.0 and obs[row][1] == 0.0  # the first observation of a new episode
    info = infos[row]
    assert info.keys() == {"TimeLimit.truncated", "lost_row", "dropped"} and info["TimeLimit.truncated"] is True
    assert re.search(rf"environment {row} {words}", info["dropped"]), info["dropped"]


def patience(fault: str) -> float:
    """Short only where something hangs: machines that run tests may be busy."""
    return 1.0 if "hangs" in fault else 60.0


HOW = {
    "killed": "was killed by SIGKILL",
    "segfault": "was killed by SIGSEGV",
    "exits": "ended its process with exit code 3",
    "sys.exit": "raised in .*SystemExit: 4",
    "raises": "raised in .*KeyError: 'the ball'",
    "hangs": "did not answer in .* within 1 seconds",
    "hangs in C": "did not answer in .* within 1 seconds",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_lost_in_a_step_is_started_again(
    fault: str, made: Callable[..., ProcessVecEnv], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = partial(Counting, fault, at=5, marker=tmp_path / "was")
    env = made(Counting, faulty, timeout=patience(fault))
    env.seed(20)
    env.reset()
    steps(env, 4)
    with caplog.at_level(logging.WARNING):
        result = steps(env, 1)
    assert_dropped(result, 1, HOW[fault])
    assert result[0][0].tolist() == [20, 5] and result[1][0] == 5.0  # the other one has not noticed
    seed = result[0][1][0]
    assert seed != 21 and seed >= 0
    assert env.n_restarts == [0, 1] and env.num_lost_episodes == 1
    kind = {"raises": "raised", "sys.exit": "raised", "hangs": "hung", "hangs in C": "hung"}.get(fault, "died")
    log = {"env/restarts": 1.0, "env/restarts_of_worst": 1.0, "env/lost_episodes": 1.0, f"env/workers_{kind}": 1.0}
    assert env.take_log() == log
    assert re.search(rf"environment 1 {HOW[fault]}.*started again \(restart 1\)", caplog.text)
    obs, rewards, dones, infos = steps(env, 1)
    assert obs.tolist() == [[20, 6], [seed, 1]] and not dones.any() and rewards.tolist() == [6.0, 1.0]
    assert infos == [{"TimeLimit.truncated": False}] * 2


@pytest.mark.parametrize("fault", ["killed", "raises", "hangs"])
@pytest.mark.parametrize("at", [1, 2], ids=["the first reset", "after an episode"])
def test_a_worker_lost_in_a_reset_is_started_again(
    fault: str, at: int, made: Callable[..., ProcessVecEnv], tmp_path: Path
) -> None:
    faulty = partial(Counting, fault, where="reset", at=at, marker=tmp_path / "was", limit=3)
    env = made(faulty, Counting, timeout=patience(fault))
    env.seed(20)
    env.set_options({"x": 1})
    obs = env.reset()
    assert obs[:, 1].tolist() == [0, 0] and obs[1, 0] == 21
    assert env.n_restarts[0] == (at == 1) and env.reset_infos == [{"options": {"x": 1}}] * 2
    if at == 1:
        assert env.num_lost_episodes == 0 and steps(env, 1)[0][:, 1].tolist() == [1, 1]
        return
    steps(env, 2)
    assert_dropped(steps(env, 1), 0, HOW[fault])
    assert env.reset_infos[0] == {}
    assert env.n_restarts == [1, 0] and not steps(env, 1)[2].any()


def test_a_worker_killed_between_two_steps(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    steps(env, 2)
    os.kill(env.pids[0], signal.SIGKILL)
    time.sleep(0.1)
    assert_dropped(steps(env, 1), 0, "was killed by SIGKILL")
    os.kill(env.pids[1], signal.SIGKILL)
    env.reset()
    assert env.n_restarts == [1, 1] and env.num_lost_episodes == 1
    assert steps(env, 3)[0][:, 1].tolist() == [3, 3]


def test_a_worker_killed_before_the_first_reset_lost_no_episode(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    os.kill(env.pids[0], signal.SIGKILL)
    assert env.get_attr("t") == [0, 0]
    env.reset()
    assert not steps(env, 1)[2].any() and env.n_restarts == [1, 0] and env.num_lost_episodes == 0


def test_a_worker_killed_before_an_attribute_is_asked_for(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    steps(env, 2)
    os.kill(env.pids[0], signal.SIGKILL)
    assert env.get_attr("t") == [0, 2]
    # the action that comes now was chosen for the old episode
    result = steps(env, 1)
    assert_dropped(result, 0, r"was killed by SIGKILL in get_attr\(t\)")
    assert result[0][:, 1].tolist() == [0, 3]


def test_all_workers_at_once(made: Callable[..., ProcessVecEnv]) -> None:
    env = made(n=4, n_workers=2)
    env.reset()
    steps(env, 3)
    for pid in set(env.pids):
        os.kill(pid, signal.SIGKILL)
    obs, _, dones, infos = steps(env, 1)
    assert dones.all() and all(info["lost_row"] for info in infos) and not obs[:, 1].any()
    assert env.n_restarts == [1] * 4 and env.take_log()["env/restarts"] == 2.0


def test_neighbours_lose_their_episodes_too(made: Callable[..., ProcessVecEnv], tmp_path: Path) -> None:
    faulty = partial(Counting, "raises", marker=tmp_path / "was")
    env = made(Counting, faulty, Counting, Counting, n_workers=2)
    env.reset()
    _, _, dones, infos = steps(env, 5)
    assert dones.tolist() == [True, True, False, False]
    assert all("environment 1 raised" in info["dropped"] for info in infos[:2])


def test_two_that_hang_are_noticed_together(made: Callable[..., ProcessVecEnv], tmp_path: Path) -> None:
    env = made(*[partial(Counting, "hangs", marker=tmp_path / str(index)) for index in range(3)], timeout=4.0)
    env.reset()
    steps(env, 4)
    before = time.monotonic()
    assert steps(env, 1)[2].all()
    # one after the other would be twelve seconds
    assert time.monotonic() - before < 11.9


def test_restarted_environments_are_seeded_anew_each_time_and_the_same_in_every_run(
    made: Callable[..., ProcessVecEnv],
) -> None:
    def seeds() -> list[float]:
        env = made(restarts_per_interval=-1)
        env.seed(1)
        env.reset()
        found = []
        for _ in range(3):
            os.kill(env.pids[0], signal.SIGKILL)
            found.append(steps(env, 1)[0][0][0])
        return found

    found = seeds()
    assert len({*found, 1.0}) == 4 and found == seeds()


def test_unseeded_environments_stay_unseeded(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    os.kill(env.pids[0], signal.SIGKILL)
    assert steps(env, 1)[0][0].tolist() == [-1, 0]


# ------------------------------------------------ the budget is spent


@pytest.mark.parametrize(
    "fault, words, traceback, code",
    [
        ("raises", "environment 1 raised in step: KeyError: 'the ball'", "in <lambda>\n", None),
        ("killed", "environment 1 was killed by SIGKILL in step .*memory", "", -signal.SIGKILL),
        ("segfault", "environment 1 was killed by SIGSEGV in step", "Segmentation fault.*string_at", -signal.SIGSEGV),
        ("exits", "environment 1 ended its process with exit code 3 in step", "", 3),
        ("hangs", r"environment 1 did not answer in step within 1 seconds \(timeout\)", "in step", None),
    ],
)
def test_a_worker_lost_too_often_is_a_clear_error(
    fault: str, words: str, traceback: str, code: int | None, made: Callable[..., ProcessVecEnv]
) -> None:
    env = made(
        Counting,
        partial(Counting, fault, at=2),
        timeout=patience(fault),
        restarts=1,
        restarts_per_interval=-1,
    )
    env.reset()
    pids = env.pids
    with pytest.raises(WorkerLost) as caught:
        steps(env, 10)
    error = caught.value
    assert re.search(words + r".*; its worker was started again 1 times, and restarts=1", str(error), re.DOTALL), error
    assert (error.env_index, error.restarts) == (1, 1) and (code is None or error.exit_code == code)
    assert re.search(traceback, error.traceback, re.DOTALL), error.traceback
    assert error.traceback.rstrip() in str(error)
    assert env.closed and not any(alive(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="was closed; make a new one"):
        env.reset()


def test_no_more_than_one_restart_a_minute_by_default(made: Callable[..., ProcessVecEnv]) -> None:
    env = made(partial(Counting, "raises", at=2))
    env.reset()
    with pytest.raises(WorkerLost, match=r"1 of them within 60 seconds, and restarts_per_interval=1"):
        steps(env, 10)


def test_a_restart_that_fails_is_one_more(made: Callable[..., ProcessVecEnv], tmp_path: Path) -> None:
    def make() -> gym.Env:
        made_before = (tmp_path / "was").exists()
        (tmp_path / "was").touch()
        return Counting("raises", where="make", at=1) if made_before else Counting("killed", at=2)

    env = made(make, restarts=3, restarts_per_interval=-1)
    env.reset()
    with pytest.raises(WorkerLost, match=r"environment 0 raised in start: KeyError: 'the ball'; .* 3 times"):
        steps(env, 2)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("raises", r"environment 2 raised in start: KeyError: 'the ball'; nothing was started.*self.fail\(\"make\"\)"),
        ("exits", "environment 2 ended its process with exit code 3 in start"),
        ("segfault", "environment 2 was killed by SIGSEGV in start.*string_at"),
        ("hangs", r"environment 2 did not answer in start within 8 seconds \(start_timeout\)"),
    ],
)
def test_an_environment_that_cannot_be_made_is_told_at_once(fault: str, words: str) -> None:
    before = children()
    functions = [Counting, Counting, partial(Counting, fault, where="make", at=1)]
    with pytest.raises(WorkerLost) as caught:
        ProcessVecEnv(functions, start_timeout=8.0 if fault == "hangs" else 60.0)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value
    assert caught.value.env_index == 2 and caught.value.restarts == 0
    assert children() <= before


def children() -> set[str]:
    """Worker processes that multiprocessing knows of."""
    return {process.name for process in multiprocessing.active_children()}


def test_different_spaces_are_told() -> None:
    wide = partial(Observing, spaces.Box(0, 1, (4,)), spaces.Discrete(2))
    narrow = partial(Observing, spaces.Box(0, 1, (3,)), spaces.Discrete(2))
    with pytest.raises(InvalidArgument, match=r"environment 1 has spaces of another size than environment 0.*\(3,\)"):
        ProcessVecEnv([wide, narrow])
    assert not children()


def test_one_environment_given_twice_is_told() -> None:
    functions = [lambda shared=[]: shared.append(Counting()) or shared[0]] * 2
    with pytest.raises(WorkerLost, match="two functions gave the same environment"):
        ProcessVecEnv(functions, n_workers=1)


def test_functions_that_plain_pickle_does_not_take(made: Callable[..., ProcessVecEnv]) -> None:
    limit = 2
    env = made(lambda: Counting(limit=limit), *(lambda index=index: Counting(limit=index) for index in (3, 4)))
    env.reset()
    assert env.get_attr("limit") == [2, 3, 4]


# ------------------------------------------------ single environments


def test_attributes_and_methods(made: Callable[..., ProcessVecEnv]) -> None:
    env = made(*[lambda: TimeLimit(Counting(), 5)] * 3, n_workers=2)
    env.reset()
    assert env.num_envs == 3 and env.render_mode == "rgb_array"
    assert env.env_method("square", 3, plus=1) == [10, 10, 10]
    assert env.env_method("square", 2, indices=[2, 0]) == [4, 4]
    env.set_attr("difficulty", 7, indices=-1)
    assert env.get_attr("difficulty", indices=[2]) == [7] and env.get_attr("difficulty", indices=0) == [0]
    assert env.env_is_wrapped(TimeLimit) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.RecordEpisodeStatistics, indices=1) == [False]
    assert env.has_attr("difficulty") and not env.has_attr("no_such_name")
    steps(env, 1)
    assert env.get_images()[2].tolist() == np.ones((2, 2, 3)).tolist()
    assert env.render().shape == (4, 4, 3)
    with pytest.raises(InvalidArgument, match="environment 3 does not exist; there are 3"):
        env.get_attr("t", indices=3)
    assert env.take_log() == {}


def test_errors_of_methods_come_back_and_end_nothing(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    steps(env, 1)
    with pytest.raises(AttributeError, match="no_such_name"):
        env.get_attr("no_such_name")
    with pytest.raises(KeyError, match="the ball") as caught:
        env.env_method("fault_now", "raises", indices=1)
    cause = caught.value.__cause__
    assert isinstance(cause, WorkerTraceback) and "in the worker of environment 1, fault_now()" in str(cause)
    assert "in <lambda>" in str(cause)
    with pytest.raises(TypeError, match=r"pickle.*generator"):
        env.set_attr("steps", (x for x in ()))
    with pytest.raises(TypeError, match=r"pickle.*generator"):
        env.env_method("pieces")
    with pytest.raises(RuntimeError, match=r"environment 0 raised in odd\(\): .*Odd: odd"):
        env.env_method("odd")
    assert env.n_restarts == [0, 0] and steps(env, 1)[0][:, 1].tolist() == [2, 2]


def test_a_method_that_costs_the_worker_is_asked_again_within_the_budget(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    words = r"environment 1 was killed by SIGKILL in fault_now\(\).*restarts_per_interval"
    with pytest.raises(WorkerLost, match=words):
        env.env_method("fault_now", "killed", indices=1)


def test_attributes_that_were_set_survive_the_worker(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.set_attr("difficulty", 3, indices=1)
    env.set_attr("limit", 4)
    env.reset()
    os.kill(env.pids[1], signal.SIGKILL)
    steps(env, 1)
    assert env.get_attr("difficulty") == [0, 3] and env.get_attr("limit") == [4, 4]


def test_asking_in_the_middle_of_a_step_waits_for_it(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    env.step_async(zeros(env))
    assert env.get_attr("t") == [1, 1]
    assert env.step_wait()[0][:, 1].tolist() == [1, 1]
    env.step_async(zeros(env))
    assert env.reset()[:, 1].tolist() == [0, 0]


# ------------------------------------------------ training


def test_training_goes_on_through_faults_and_learns_nothing_from_them(
    made: Callable[..., ProcessVecEnv], tmp_path: Path
) -> None:
    faults = ["killed", "raises", "hangs"]
    functions = [
        partial(Counting, fault, at=20 + 15 * index, marker=tmp_path / fault) for index, fault in enumerate(faults)
    ]
    env = made(Counting, *functions, timeout=5.0)
    model = PPOPlus("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
    lost: list[tuple[int, int]] = []

    def watch(shown: dict[str, Any], _: Any) -> bool:
        lost.extend((model.num_timesteps // 4 - 1, row) for row, info in enumerate(shown["infos"]) if "dropped" in info)
        return True

    model.learn(32 * 4 * 2, callback=watch)
    assert lost == [(19, 1), (34, 2), (49, 3)]
    buffer = model.rollout_buffer
    assert isinstance(buffer, RowsMixin)
    # The second rollout is still there: its rows 2 and 17 were lost, and only they do not count.
    assert np.argwhere(~buffer.valid).tolist() == [[2, 2], [17, 3]]
    assert env.take_log()["env/restarts"] == 3.0 and env.take_log()["env/lost_episodes"] == 3.0
    assert all(th.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


def test_the_log_of_a_training_shows_restarts(made: Callable[..., ProcessVecEnv], tmp_path: Path) -> None:
    env = made(partial(Counting, "raises", at=20, marker=tmp_path / "was"), Counting)
    model = PPOPlus("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
    logs = learn_and_record(model, 32 * 2 * 2)
    assert logs[0]["env/restarts"] == logs[1]["env/restarts"] == 1.0 and logs[0]["env/lost_episodes"] == 1.0


# ------------------------------------------------ closing


@pytest.mark.parametrize("fault", ["hangs", "hangs in C"])
def test_closing_in_the_middle_of_a_step_that_never_ends(fault: str) -> None:
    env = ProcessVecEnv([Counting, partial(Counting, fault, at=1)])
    env.reset()
    pids = env.pids
    env.step_async(zeros(env))
    before = time.monotonic()
    env.close()
    assert time.monotonic() - before < 15.0 and not any(alive(pid) for pid in pids)
    env.close()


def test_closing_is_quick_and_closes_the_environments(tmp_path: Path) -> None:
    class Closing(Counting):
        def close(self) -> None:
            (tmp_path / f"closed {os.getpid()}").touch()

    env = ProcessVecEnv([Closing, Closing])
    env.reset()
    pids = env.pids
    env.step_async(zeros(env))
    before = time.monotonic()
    env.close()
    assert time.monotonic() - before < 10.0
    assert {file.name for file in tmp_path.iterdir()} == {f"closed {pid}" for pid in pids}


def test_closing_with_dead_and_stopped_workers() -> None:
    env = ProcessVecEnv([Counting] * 3)
    env.reset()
    pids = env.pids
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGSTOP)
    before = time.monotonic()
    env.close()
    assert time.monotonic() - before < 15.0 and not any(alive(pid) for pid in pids)


def test_an_environment_that_nobody_holds_is_closed() -> None:
    env = ProcessVecEnv([Counting])
    pids = env.pids
    del env
    gc.collect()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 15.0)


def test_nothing_is_left_open_after_restarts() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        env = ProcessVecEnv([Counting], restarts_per_interval=-1)
        env.reset()
        for _ in range(2):
            os.kill(env.pids[0], signal.SIGKILL)
            steps(env, 1)
        env.close()

    use()
    before, segments = descriptors(), set(os.listdir("/dev/shm"))
    use()
    assert descriptors() <= before and set(os.listdir("/dev/shm")) <= segments


def test_what_an_environment_started_is_ended_with_a_lost_worker(
    made: Callable[..., ProcessVecEnv], tmp_path: Path
) -> None:
    class Game(Counting):
        def __init__(self) -> None:
            super().__init__("killed", at=1, marker=tmp_path / "was")
            self.game = subprocess.Popen(["sleep", "1000"])

        def game_pid(self) -> int:
            return self.game.pid

    env = made(Game)
    env.reset()
    (game,) = env.env_method("game_pid")
    assert alive(game)
    steps(env, 1)
    assert env.n_restarts == [1] and wait_for(lambda: not alive(game), 15.0)
    assert alive(env.env_method("game_pid")[0])
    os.kill(env.env_method("game_pid")[0], signal.SIGKILL)


def test_an_interrupted_step_does_not_spoil_the_next_ones(
    made: Callable[..., ProcessVecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = made()
    env.reset()
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(env.crew.workers[1], "answer", raising(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                env.step(zeros(env))
        assert env.reset()[:, 1].tolist() == [0, 0]
        assert steps(env, 3)[0][:, 1].tolist() == [3, 3]
    assert env.n_restarts == [0, 0]


def raising(error: type[BaseException]) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_workers_leave_ctrl_c_to_the_parent(made: Callable[..., ProcessVecEnv]) -> None:
    env = made()
    env.reset()
    for pid in env.pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert not steps(env, 1)[2].any() and env.n_restarts == [0, 0]


# ------------------------------------------------ how the parent leaves

# One process imports everything, which takes long, and forks parents; each makes its workers and leaves in its way.
PARENTS = """
import os, re, signal, sys, time
import gymnasium as gym, numpy as np
from gymnasium import spaces
from sb3_ppo_plus.envs.processes import ProcessVecEnv

def make(busy):
    class Env(gym.Env):
        observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)
        render_mode = None
        def reset(self, *, seed=None, options=None):
            return 0, {}
        def step(self, action):
            if busy == "python":
                time.sleep(1000)
            if busy == "C":
                re.match(r"(a+)+$", "a" * 60 + "b")
            return 0, 0.0, False, False, {}
    return Env

def leave(way):
    if way == "SIGKILL": os.kill(os.getpid(), signal.SIGKILL)
    if way == "SIGTERM": os.kill(os.getpid(), signal.SIGTERM)
    if way == "SIGINT": os.kill(os.getpid(), signal.SIGINT)
    if way == "_exit": os._exit(4)
    if way == "exit": sys.exit(3)
    if way == "raise": raise ValueError("no")

for line in sys.stdin:
    way, busy, method = line.split()
    if os.fork() == 0:
        break
else:
    while True:
        try: os.wait()
        except ChildProcessError: os._exit(0)
env = ProcessVecEnv([make(busy)] * 2, method)
env.reset()
os.write(1, (" ".join(map(str, [way, busy, method, os.getpid(), *env.pids])) + chr(10)).encode())
env.step_async(np.zeros(2, np.int64))
if busy == "no": env.step_wait()
else: time.sleep(0.3)
leave(way)
"""
WAYS = ["SIGKILL", "SIGTERM", "SIGINT", "_exit", "exit", "raise", "return"]
CASES = [(way, "no", "forkserver") for way in WAYS]
CASES += [(way, busy, "forkserver") for way in ("SIGKILL", "SIGTERM", "_exit", "exit") for busy in ("python", "C")]
CASES += [("SIGKILL", busy, "spawn") for busy in ("no", "python", "C")]


def test_nothing_stays_behind_however_the_parent_leaves() -> None:
    segments = set(os.listdir("/dev/shm"))
    lines = "".join(" ".join(case) + "\n" for case in CASES)
    result = subprocess.run(
        [sys.executable, "-c", PARENTS], input=lines, capture_output=True, text=True, timeout=100, cwd=os.getcwd()
    )
    ended = time.monotonic()
    seen = [line.split() for line in result.stdout.splitlines()]
    assert sorted(tuple(words[:3]) for words in seen) == sorted(CASES), result.stderr
    workers = {" ".join(words[:3]): [int(pid) for pid in words[4:]] for words in seen}
    wait_for(lambda: not any(alive(pid) for pids in workers.values() for pid in pids), 15.0)
    left = {case: pids for case, pids in workers.items() if any(alive(pid) for pid in pids)}
    assert not left and time.monotonic() - ended < 16.0
    assert set(os.listdir("/dev/shm")) <= segments
    assert "resource_tracker" not in result.stderr and "leaked" not in result.stderr
