"""
How fast rollouts can be at most: PPOPlus's tensor loop and SB3's loop on environments that cost nothing, on the CPU.

    python benchmarks/tensor_ceiling.py     # prints the tables and writes benchmarks/results/tensor_ceiling.md
    python benchmarks/tensor_ceiling.py --envs 1024 --cases free

A free environment hands out rows that were drawn beforehand. SB3 gets it as a ``VecEnv`` whose infos are one empty
dictionary, many times, and whose finished episodes have what SB3 reads: less work than any real ``VecEnv`` does. Both
algorithms have the same policy, seed and rollout; only ``collect_rollouts`` is timed, update and construction are not.
The loops take turns, in the opposite order every other round; a ratio is the median over rounds of the ratios of one.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from common import commit, machine, median_and_spread, results_file, silenced
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import TensorVecEnv, TorchVecEnv
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.types import TensorStep

PACKAGES = ("torch", "numpy", "stable-baselines3", "gymnasium")
ENVS = (1024, 4096)
# A HalfCheetah's shape.
OBSERVATIONS, ACTIONS = spaces.Box(-np.inf, np.inf, (17,)), spaces.Box(-1.0, 1.0, (6,))
# Rows that are handed out again and again.
BANK = 16
SEED = 0


class Rows(NamedTuple):
    """
    What a free environment hands out.

    :param obs: observations [BANK, N, O]
    :param final_obs: last observations of episodes, equal to the next ``obs`` where none ended [BANK, N, O]
    :param rewards: rewards [BANK, N]
    :param truncated: which episodes are cut off [BANK, N]
    """

    obs: np.ndarray
    final_obs: np.ndarray
    rewards: np.ndarray
    truncated: np.ndarray


def draw_rows(n_envs: int, share: float) -> Rows:
    """
    :param n_envs: N
    :param share: share of environments whose episode is cut off in a step; 0.001 for episodes of 1000 steps
    :return: rows, the same at every call
    """
    rng = np.random.default_rng(SEED)
    size = (BANK, n_envs)
    obs = rng.standard_normal((*size, 17)).astype(np.float32)
    truncated = rng.random(size) < share
    last = rng.standard_normal((*size, 17)).astype(np.float32)
    final_obs = np.where(truncated[..., None], last, obs)
    return Rows(obs, final_obs, rng.standard_normal(size).astype(np.float32), truncated)


class FreeTensorEnv(TensorVecEnv):
    """
    Rows that were drawn beforehand, on the tensor face.

    :param rows: what is handed out
    """

    def __init__(self, rows: Rows) -> None:
        self.rows, self.t, self.render_mode = rows, 0, None
        n_envs = rows.obs.shape[1]
        never = th.zeros(n_envs, dtype=th.bool)
        stats = {EPISODE_RETURN: th.ones(n_envs), EPISODE_LENGTH: th.ones(n_envs, dtype=th.int64)}
        tensors = [th.from_numpy(value) for value in rows]
        self.steps = [
            TensorStep(obs, rewards, never, truncated, final_obs, stats)
            for obs, final_obs, rewards, truncated in zip(*tensors, strict=True)
        ]
        super().__init__(n_envs, OBSERVATIONS, ACTIONS)

    @property
    def provides_episodes(self) -> bool:
        """:return: True"""
        return True

    def reset_tensors(self) -> th.Tensor:
        """:return: the last row of the bank [N, O]"""
        self.take_seeds()
        self.t = 0
        return self.steps[-1].obs

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: not looked at [N, A]
        :return: the next row of the bank
        """
        step = self.steps[self.t % BANK]
        self.t += 1
        return step

    def state_dict(self) -> dict[str, Any]:
        """:return: which row comes next"""
        return {"t": self.t}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:param state: what :meth:`state_dict` gave"""
        self.t = state["t"]


class FreeVecEnv(VecEnv):
    """
    The same rows as a ``VecEnv`` of SB3.

    :param rows: what is handed out
    """

    def __init__(self, rows: Rows) -> None:
        self.rows, self.t, self.render_mode = rows, 0, None
        super().__init__(rows.obs.shape[1], OBSERVATIONS, ACTIONS)

    def reset(self) -> VecEnvObs:
        """:return: the last row of the bank [N, O]"""
        self.t = 0
        return self.rows.obs[-1].copy()

    def step_async(self, actions: np.ndarray) -> None:
        """:param actions: not looked at [N, A]"""

    def step_wait(self) -> VecEnvStepReturn:
        """:return: the next row of the bank"""
        obs, final_obs, rewards, truncated = (value[self.t % BANK] for value in self.rows)
        self.t += 1
        infos: list[dict[str, Any]] = [_NOTHING] * self.num_envs
        for index in truncated.nonzero()[0].tolist():
            infos[index] = {
                "TimeLimit.truncated": True,
                "terminal_observation": final_obs[index],
                "episode": {"r": 1.0, "l": 1, "t": 0.0},
            }
        # Copies, as a VecEnv gives them: SB3 adds to rewards.
        return obs.copy(), rewards.copy(), truncated.copy(), infos

    def close(self) -> None:
        """Nothing to free."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """:return: the same for each"""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set it for all."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """:return: nothing for each"""
        return [None for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """:return: False for each"""
        return [False for _ in self._get_indices(indices)]


_NOTHING: dict[str, Any] = {}

Made = tuple[OnPolicyAlgorithm, OnPolicyAlgorithm]


def free(share: float) -> Callable[[int, int], Made]:
    """
    :param share: share of environments whose episode is cut off in a step
    :return: what makes the two algorithms
    """

    def make(n_envs: int, n_steps: int) -> Made:
        rows = draw_rows(n_envs, share)
        return plus(FreeTensorEnv(rows), n_steps), sb3(FreeVecEnv(rows), n_steps)

    return make


def torch_task(env_id: str) -> Callable[[int, int], Made]:
    """
    :param env_id: one of the tasks in torch
    :return: what makes the two algorithms, SB3's on the NumPy face of the same environments
    """

    def make(n_envs: int, n_steps: int) -> Made:
        return plus(TorchVecEnv(env_id, n_envs, SEED), n_steps), sb3(TorchVecEnv(env_id, n_envs, SEED), n_steps)

    return make


def plus(env: VecEnv, n_steps: int) -> PPOPlus:
    """
    :param env: environments
    :param n_steps: T
    :return: PPOPlus on them
    """
    batch = n_steps * env.num_envs
    return PPOPlus("MlpPolicy", env, n_steps=n_steps, batch_size=batch, seed=SEED, device="cpu")


def sb3(env: VecEnv, n_steps: int) -> PPO:
    """
    :param env: environments
    :param n_steps: T
    :return: SB3's PPO on them
    """
    return PPO("MlpPolicy", env, n_steps=n_steps, batch_size=n_steps * env.num_envs, seed=SEED, device="cpu")


CASES: dict[str, tuple[str, Callable[[int, int], Made]]] = {
    "free": ("free, no episode ends", free(0.0)),
    "free, ends": ("free, 0.1 % are cut off in a step", free(0.001)),
    "CartPole-v1": ("CartPole-v1 in torch", torch_task("CartPole-v1")),
    "Pendulum-v1": ("Pendulum-v1 in torch", torch_task("Pendulum-v1")),
}


class Loop:
    """
    An algorithm that collects rollouts and never learns.

    :param model: the algorithm
    :param n_steps: T
    """

    def __init__(self, model: OnPolicyAlgorithm, n_steps: int) -> None:
        self.model, self.n_steps = silenced(model), n_steps
        self.callback = model._setup_learn(10**9, None)[1]
        self.callback.on_training_start({}, {})

    def seconds(self, rollouts: int) -> float:
        """
        :param rollouts: how many to collect
        :return: the time of them
        """
        model: Any = self.model
        gc.collect()
        started = time.perf_counter()
        for _ in range(rollouts):
            model.collect_rollouts(model.env, self.callback, model.rollout_buffer, self.n_steps)
        return time.perf_counter() - started

    def policy_seconds(self, rollouts: int) -> float:
        """
        :param rollouts: of how many
        :return: the time that SB3's policy alone takes for their steps
        """
        obs = th.as_tensor(self.model._last_obs)
        started = time.perf_counter()
        with th.no_grad():
            for _ in range(rollouts * self.n_steps):
                self.model.policy(obs)
        return time.perf_counter() - started


def measure(case: str, n_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """
    Time the two loops in turns.

    :param case: a key of CASES
    :param n_envs: N
    :param args: options
    :return: rates of each round in env steps per second, by loop, and what the policy alone would give
    """
    loops = [Loop(model, args.steps) for model in CASES[case][1](n_envs, args.steps)]
    for loop in loops:
        loop.seconds(1)
    counts = [max(1, round(args.seconds / loop.seconds(1))) for loop in loops]
    size = args.steps * n_envs
    rates: list[list[float]] = [[], []]
    alone = []
    for number in range(args.rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            rates[index].append(size * counts[index] / loops[index].seconds(counts[index]))
        alone.append(size / loops[1].policy_seconds(1))
    for loop in loops:
        loop.model.env.close()
    return {"case": case, "n_envs": n_envs, "plus": rates[0], "sb3": rates[1], "policy": alone}


def report(records: Sequence[Mapping[str, Any]], words: str) -> str:
    """
    :param records: what was measured
    :param words: command, commit and machine
    :return: Markdown
    """
    lines = [
        "Env steps per second of `collect_rollouts` on the CPU: medians over rounds, half of their range in percent,",
        "and the median of the rounds' ratios [lowest, highest]. `policy alone`: SB3's policy asked for the same",
        "batches, and nothing else, which is a ceiling for SB3's loop, not for ours, whose actors are NumPy.",
        "",
        "| environments | N | PPOPlus, tensor loop | SB3, its loop | times SB3 | policy alone |",
        "|---|---|---|---|---|---|",
    ]
    for record in records:
        ratios = np.array(record["plus"]) / np.array(record["sb3"])
        cells = ["{:,.0f} ±{:.0f}%".format(*median_and_spread(record[name])) for name in ("plus", "sb3")]
        ratio = f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"
        title, policy = CASES[record["case"]][0], f"{np.median(record['policy']):,.0f}"
        lines.append(f"| {title} | {record['n_envs']:,} | {' | '.join(cells)} | {ratio} | {policy} |")
    return "\n".join([*lines, "", words, ""])


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--envs", nargs="+", type=int, default=list(ENVS), metavar="N", help="numbers of environments")
    add("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="what to measure (all)")
    add("--steps", type=int, default=32, help="T, steps of a rollout (32)")
    add("--rounds", type=int, default=9, help="times that each loop has its turn (9)")
    add("--seconds", type=float, default=0.7, help="length of a turn, about (0.7)")
    add("--threads", type=int, default=1, help="threads of torch and of NumPy's BLAS, for both loops (1)")
    add("--note", default="", help="added to the results, such as what else was running")
    add("--quick", action="store_true", help="tiny sizes that measure nothing")
    add("--output", type=Path, help="where the table goes")
    args = parser.parse_args(given)
    if args.quick:
        args.envs, args.steps, args.rounds, args.seconds = [8], 4, 2, 0.0
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Measure everything, write the table."""
    args = arguments(given)
    th.set_num_threads(args.threads)
    records = []
    for case in args.cases:
        for n_envs in args.envs:
            records.append(measure(case, n_envs, args))
            print(report(records[-1:], "").splitlines()[6], flush=True)
    words = (
        f"`python benchmarks/tensor_ceiling.py`, commit {commit()}; {machine(PACKAGES)}; rollouts of {args.steps} "
        f"steps, {args.rounds} rounds, {args.threads} thread of torch. {args.note}"
    )
    text = report(records, words.strip())
    print(text)
    with results_file(args.output, "tensor_ceiling.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    main()
