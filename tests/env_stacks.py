"""
Environments of many kinds for tests of their state, and what steps them side by side.

``python tests/env_stacks.py NAME STATE STEPS`` goes on from a state in a program of its own, and writes what it sees.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import (
    ClipAction,
    DelayObservation,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RescaleAction,
    StickyAction,
    TimeLimit,
    TransformReward,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ppo_plus.envs import HybridSpace, MujocoVecEnv, ProcessVecEnv, TensorVecMonitor, TensorVecNormalize
from sb3_ppo_plus.envs.state import capture_env, restore_env
from sb3_ppo_plus.files.tree import dump_tree, load_tree


class Phase(Enum):
    WALK = 1
    REST = 2


@dataclass
class Parcel:
    weight: float
    path: list[int]


class Courier:
    """A helper object that shares the environment's generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.place = np.zeros(2)

    def move(self) -> None:
        self.place += self.rng.normal(size=2)


class Errands(gym.Env):
    """Everything that plain Python may hold: enumerations, objects, shared arrays, containers, several generators."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-np.inf, np.inf, (6,)), "eye": spaces.Box(0, 255, (8, 8, 3), np.uint8)}
    )

    def __init__(self) -> None:
        self.action_space = HybridSpace(spaces.Box(-1.0, 1.0, (1,)), [3])
        self.draws = np.random.RandomState(3)
        self.clock = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.phase = Phase.WALK
        self.courier = Courier(self.np_random)
        self.step_courier = self.courier.move
        self.seen: deque[np.ndarray] = deque([self.courier.place], maxlen=3)
        self.parcels = [Parcel(float(self.np_random.random()), [1]) for _ in range(1 + self.clock % 3)]
        self.visits: dict[tuple[int, int], int] = {}
        self.jitter = np.random.Generator(np.random.MT19937(self.clock))
        return self._look(), {"left": len(self.parcels)}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        self.step_courier()
        self.courier.place += float(action[0]) + self.draws.uniform() + self.jitter.normal()
        if self.phase is Phase.WALK and self.np_random.random() < 0.3:
            self.phase = Phase.REST
        elif self.phase is Phase.REST:
            self.phase = Phase.WALK
        cell = (int(self.courier.place[0]) % 5, int(self.courier.place[1]) % 5)
        self.visits[cell] = self.visits.get(cell, 0) + 1
        for parcel in self.parcels:
            parcel.weight *= 0.99
            parcel.path.append(cell[0])
        if self.np_random.random() < 0.1:
            self.parcels.append(Parcel(1.0, []))
        done = self.np_random.random() < 0.05
        return self._look(), sum(parcel.weight for parcel in self.parcels), done, False, {"phase": self.phase.name}

    def _look(self) -> Any:
        tail = sum(float(place[0]) for place in self.seen)
        numbers = [*self.courier.place, tail, len(self.parcels), len(self.visits), self.phase.value]
        return {"place": np.array(numbers, np.float32), "eye": np.full((8, 8, 3), self.clock % 256, np.uint8)}


class Sealed(gym.Env):
    """Knows its own state, part of which nobody else could read."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)
        self._numbers = iter(range(10**9))
        self._next = next(self._numbers)

    def get_state(self) -> dict[str, Any]:
        return {"next": self._next, "generator": self.np_random}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next = state["next"]
        self._numbers = iter(range(self._next + 1, 10**9))
        self.np_random = state["generator"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.array([self._next], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._next = next(self._numbers)
        chance = float(self.np_random.random())
        return np.array([self._next + chance], np.float32), chance, chance < 0.05, False, {}


class GlobalDraws(gym.Env):
    """Draws from the generators of its process, as many environments do and none should."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.array([np.random.random(), random.random()], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _ = self.reset()
        return observation, 1.0, bool(observation[0] < 0.05), False, {}


def limited(env_id: str, steps: int = 60) -> gym.Env:
    return Monitor(TimeLimit(gym.make(env_id), steps))


def _wrapped_pendulum() -> gym.Env:
    env: gym.Env = TimeLimit(gym.make("Pendulum-v1"), 30)
    env = StickyAction(ClipAction(RescaleAction(env, -1.0, 1.0)), 0.3)
    env = NormalizeReward(NormalizeObservation(RecordEpisodeStatistics(env)))
    env = FrameStackObservation(DelayObservation(env, 2), 3)
    return Monitor(gym.wrappers.FlattenObservation(TransformReward(env, lambda reward: 0.5 * reward)))


def dummy(env_id: str, n: int = 2) -> VecEnv:
    return DummyVecEnv([lambda: limited(env_id) for _ in range(n)])


def processes(env_id: str) -> VecEnv:
    return ProcessVecEnv([lambda: limited(env_id) for _ in range(3)], n_workers=2)


def _errands() -> VecEnv:
    venv: VecEnv = VecMonitor(DummyVecEnv([lambda: TimeLimit(Errands(), 50) for _ in range(2)]))
    return VecNormalize(VecFrameStack(VecTransposeImage(venv), 2), norm_obs_keys=["place"])


STACKS: dict[str, Callable[[], VecEnv]] = {
    "gymnasium wrappers": lambda: DummyVecEnv([_wrapped_pendulum for _ in range(2)]),
    "sb3 wrappers": lambda: VecCheckNan(
        VecNormalize(VecMonitor(VecFrameStack(make_vec_env("CartPole-v1", 2), 3)), gamma=0.9), raise_exception=True
    ),
    "own robot, objects and pictures": _errands,
    "one key": lambda: VecExtractDictObs(DummyVecEnv([Errands for _ in range(2)]), "place"),
    "own state": lambda: DummyVecEnv([Sealed for _ in range(2)]),
    "processes": lambda: VecNormalize(VecFrameStack(VecMonitor(processes("Hopper-v5")), 2)),
    "processes of a classic": lambda: processes("CartPole-v1"),
    "processes with global draws": lambda: ProcessVecEnv([GlobalDraws for _ in range(3)], n_workers=2),
    "processes of errands": lambda: ProcessVecEnv([Errands for _ in range(2)], n_workers=1),
    "native robots": lambda: TensorVecNormalize(TensorVecMonitor(MujocoVecEnv("Hopper-v5", 3))),
    "native robots, one data each": lambda: MujocoVecEnv("Ant-v5", 2),
}


def make(name: str) -> VecEnv:
    """:param name: of a stack, or of an environment of Gymnasium"""
    return STACKS[name]() if name in STACKS else dummy(name)


def wander(env: VecEnv, steps: int) -> list[Any]:
    """Step with the environment's own random actions, and keep all that is seen."""
    seen = []
    for _ in range(steps):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        seen.append((actions, *env.step(actions), [dict(info) for info in env.reset_infos]))
    return seen


def begun(name: str, seed: int = 3, steps: int = 37) -> VecEnv:
    """An environment in the middle of its episodes."""
    env = make(name)
    env.seed(seed)
    env.action_space.seed(seed)
    env.reset()
    wander(env, steps)
    return env


def save(env: VecEnv, path: Path) -> list[str]:
    """Write the state as a checkpoint would; gives what could not be copied."""
    state = capture_env(env)
    text, block = dump_tree(state.tree)
    path.with_suffix(".json").write_bytes(text)
    path.with_suffix(".bin").write_bytes(block)
    return state.inexact


def load(env: VecEnv, path: Path) -> None:
    restore_env(env, load_tree(path.with_suffix(".json").read_bytes(), path.with_suffix(".bin").read_bytes()))


def difference(one: Any, other: Any, place: str = "") -> str:
    """Say where two nests of values differ in a bit; seconds on a clock (``t``) do not count."""
    if type(one) is not type(other):
        return f"{place}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{place}: {list(one)} and {list(other)}"
        pairs = [(f"{place}.{key}", one[key], other[key]) for key in one if key != "t"]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} items"
        pairs = [(f"{place}[{index}]", *both) for index, both in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, th.Tensor):
        return "" if one.dtype == other.dtype and th.equal(one, other) else f"{place}: {one} and {other}"
    elif isinstance(one, np.ndarray) and one.dtype == object:
        return difference([one.shape, one.tolist()], [other.shape, other.tolist()], place)
    elif isinstance(one, (np.ndarray, np.generic)):
        left, right = np.asarray(one), np.asarray(other)
        same = left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        return "" if same else f"{place}: {one} and {other}"
    else:
        return "" if one == other or (one != one and other != other) else f"{place}: {one} and {other}"
    return next(filter(None, (difference(left, right, where) for where, left, right in pairs)), "")


def episode_ends(seen: list[Any]) -> int:
    """:param seen: what :func:`wander` gave"""
    return sum(int(np.sum(entry[3])) for entry in seen)


def strangers(tree: Any) -> set[type]:
    """:return: types in a state that do not belong there"""
    kind = type(tree)
    if kind is dict:
        return {type(key) for key in tree if type(key) is not str}.union(*map(strangers, tree.values()))
    if kind in (list, tuple):
        return set().union(*map(strangers, tree))
    return set() if kind in (type(None), bool, int, float, str, bytes, np.ndarray, th.Tensor) else {kind}


if __name__ == "__main__":
    env = make(sys.argv[1])
    load(env, Path(sys.argv[2]))
    Path(sys.argv[2]).with_suffix(".seen").write_bytes(pickle.dumps(wander(env, int(sys.argv[3]))))
    env.close()
