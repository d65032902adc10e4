"""
What safety costs: the looks for NaN and infinity, and checkpoints, beside the time of the training itself.

    python benchmarks/safety_cost.py      # prints the tables and writes benchmarks/results/safety_cost.md

The looks take microseconds, less than two trainings of the same kind differ by. So each is timed alone, many times in
turns with the same calls without it, and set in relation to the training's own time per vector step, which is measured
in the same run. Saving is timed in turns with SB3's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import commit, machine, median_and_spread, results_file, set_warnings, silenced
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.checkpoint import SaveCheckpoints, save_checkpoint
from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.nonfinite.env_guard import EnvGuard
from sb3_ppo_plus.nonfinite.update_guard import UpdateGuard
from sb3_ppo_plus.types import ArrayStep

CASES: dict[str, tuple[Callable[[], VecEnv], dict[str, Any]]] = {
    "CartPole-v1, 1 environment": (lambda: make_vec_env("CartPole-v1", 1), {}),
    "CartPole-v1, 8 environments": (lambda: make_vec_env("CartPole-v1", 8), {"n_steps": 256}),
    "HalfCheetah-v5, 8 in SB3's way": (lambda: make_vec_env("HalfCheetah-v5", 8), {"n_steps": 256}),
    "HalfCheetah-v5, 8 in MujocoVecEnv, compiled": (
        lambda: MujocoVecEnv("HalfCheetah-v5", n_envs=8, seed=0),
        {"n_steps": 256, "compile_update": True},
    ),
}


class Still(DummyVecEnv):
    """Gives the same step again and again, which costs nothing."""

    def __init__(self, env: DummyVecEnv, step: VecEnvStepReturn) -> None:
        self.__dict__.update(vars(env))
        self.always = step

    def step_async(self, actions: np.ndarray) -> None:
        """:param actions: nobody looks at them"""

    def step_wait(self) -> VecEnvStepReturn:
        """:return: always the same"""
        return self.always


class StillTensors(MujocoVecEnv):
    """Gives the same step again and again, which costs nothing."""

    always: ArrayStep

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        :param actions: nobody looks at them
        :return: always the same
        """
        return self.always


def microseconds(calls: int, *functions: Callable[[], Any], repeats: int = 15) -> list[float]:
    """
    Time functions in turns.

    :param calls: calls of each in one turn
    :param functions: what is called
    :param repeats: turns
    :return: median time of one call of each, in microseconds
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, own in zip(functions, times, strict=True):
            started = time.perf_counter()
            for _ in range(calls):
                function()
            own.append((time.perf_counter() - started) / calls * 1e6)
    return [float(np.median(own)) for own in times]


def look_at_a_step(env: VecEnv, calls: int) -> float:
    """
    :param env: environments that stand in an episode
    :param calls: calls in one turn
    :return: microseconds that the looks at one vector step take
    """
    space = env.action_space
    actions = np.stack([space.sample() for _ in range(env.num_envs)])
    guard_arguments = (False, lambda: 0, {})
    if isinstance(env, MujocoVecEnv):
        still: VecEnv = StillTensors("HalfCheetah-v5", n_envs=env.num_envs, seed=0)
        still.always = env.step_arrays(actions)  # type: ignore[attr-defined]
        guard = EnvGuard(still, *guard_arguments)
        plain, guarded = still.step_arrays, guard._step_arrays  # type: ignore[attr-defined]
        guard.install()
        without, with_looks = microseconds(calls, lambda: plain(actions), lambda: guarded(actions))
        still.close()
        return with_looks - without
    assert isinstance(env, DummyVecEnv)
    still = Still(env, env.step(actions))
    unguarded = Still(env, still.always)
    EnvGuard(still, *guard_arguments).install()
    without, with_looks = microseconds(calls, lambda: unguarded.step(actions), lambda: still.step(actions))
    return with_looks - without


def look_at_an_update(model: PPOPlus, calls: int) -> tuple[float, float]:
    """
    :param model: model that has learned
    :param calls: calls in one turn
    :return: microseconds that the looks at one gradient step take, and those at one update besides
    """
    guard = UpdateGuard(model.policy, lambda: False, lambda: 0, lambda factor: "", {})
    loss, norm = th.tensor(0.5), th.tensor(0.3)

    def whole_update() -> None:
        guard.begin_update()
        guard.end_update()

    (step,) = microseconds(calls, lambda: guard.lets_pass(loss, norm))
    (update,) = microseconds(max(1, calls // 20), whole_update)
    return step, update


def cost_of_looks(name: str, steps: int, calls: int) -> dict[str, float]:
    """
    :param name: one of ``CASES``
    :param steps: environment steps of the training that is timed
    :param calls: calls in one turn
    :return: times in microseconds, and the share of the training's time
    """
    make, settings = CASES[name]
    env = make()
    model = PPOPlus("MlpPolicy", env, seed=0, device="cpu", nan_policy="ignore", **settings)
    silenced(model)
    model.learn(model.n_steps * env.num_envs)  # compiles, warms up
    model.num_gradient_steps = 0
    started = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - started
    vector_steps = model.num_timesteps / env.num_envs
    updates = vector_steps / model.n_steps
    of_step = look_at_a_step(env, calls)
    of_gradient, of_update = look_at_an_update(model, calls)
    if settings.get("compile_update"):
        of_gradient = 0.0  # one look at the norms of an epoch, told with the update
        norms = th.rand(model.n_steps * env.num_envs // model.batch_size)
        guard = UpdateGuard(model.policy, lambda: False, lambda: 0, lambda factor: "", {})
        (epoch,) = microseconds(max(1, calls // 20), lambda: guard.all_pass(norms))
        of_update += model.n_epochs * epoch
    looks = vector_steps * of_step + model.num_gradient_steps * of_gradient + updates * of_update
    env.close()
    return {
        "step": of_step,
        "gradient": of_gradient,
        "update": of_update,
        "training": seconds / vector_steps * 1e6,
        "share": looks / seconds / 1e6,
    }


def cost_of_saving(net: list[int], repeats: int) -> dict[str, Any]:
    """
    :param net: sizes of the hidden layers
    :param repeats: turns
    :return: seconds of each way to save and how many of them the disk took, one number per turn, and the files' sizes
    """
    kwargs: dict[str, Any] = {"seed": 0, "device": "cpu", "n_steps": 64, "policy_kwargs": {"net_arch": net}}
    models = [kind("MlpPolicy", make_vec_env("Pendulum-v1", 4), **kwargs).learn(256) for kind in (PPO, PPOPlus)]
    sb3, plus = models
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{name}.zip") for name in ("sb3", "plus", "checkpoint")]
        ways: list[Callable[[], Any]] = [
            lambda: sb3.save(paths[0]),
            lambda: plus.save(paths[1]),
            lambda: save_checkpoint(plus, paths[2]),  # type: ignore[arg-type]
        ]
        times: list[list[float]] = [[] for _ in ways]
        waits: list[list[float]] = [[] for _ in ways]
        with disk_time() as waited:
            for turn in range(repeats + 1):
                for way, own, disk in zip(ways, times, waits, strict=True):
                    waited[0], started = 0.0, time.perf_counter()
                    way()
                    if turn:
                        own.append(time.perf_counter() - started)
                        disk.append(waited[0])
        sizes = [os.path.getsize(path) for path in paths]
    return {"times": times, "waits": waits, "sizes": sizes}


@contextmanager
def disk_time() -> Iterator[list[float]]:
    """:return: context with a list of one number, to which the seconds of waiting for the disk are added"""
    seconds, originals = [0.0], {name: getattr(os, name) for name in ("fsync", "replace")}

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> None:
            started = time.perf_counter()
            original(*args)
            seconds[0] += time.perf_counter() - started

        return call

    try:
        for name, original in originals.items():
            setattr(os, name, timed(original))
        yield seconds
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def share_of_checkpoints(steps: int) -> tuple[float, int]:
    """
    :param steps: environment steps of a training with the callback as ``ppo-plus train`` has it
    :return: share of the time that it spent on checkpoints, and how many it wrote
    """
    model = PPOPlus("MlpPolicy", make_vec_env("Pendulum-v1", 4), seed=0, device="cpu", n_steps=256)
    silenced(model)
    with tempfile.TemporaryDirectory() as folder:
        callback = SaveCheckpoints(folder, keep=10_000, signals=False)
        started = time.perf_counter()
        model.learn(steps, callback=callback)
        return callback.seconds / (time.perf_counter() - started), len(list(Path(folder).glob("*.zip")))


def report(looks: dict[str, dict[str, float]], saves: dict[str, dict[str, Any]], kept: tuple[float, int]) -> str:
    """
    :param looks: what :func:`cost_of_looks` gave, by case
    :param saves: what :func:`cost_of_saving` gave, by network
    :param kept: what :func:`share_of_checkpoints` gave
    :return: the page
    """
    lines = [
        "# What safety costs",
        "",
        f"`python benchmarks/safety_cost.py`, commit {commit()}.",
        "",
        f"Machine: {machine()}.",
        "",
        '## Looking for NaN and infinity (`nan_policy="raise"`)',
        "",
        "| training | a vector step, rollout and update | look at a step | at a gradient step | at an update | share |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost in looks.items():
        gradient = f"{cost['gradient']:.2f} µs" if cost["gradient"] else "in the update"
        lines.append(
            f"| {name} | {cost['training']:,.0f} µs | {cost['step']:.2f} µs | {gradient} | {cost['update']:.0f} µs "
            f"| {100 * cost['share']:.2f}% |"
        )
    lines += [
        "",
        "## Saving",
        "",
        "Median of the turns, half of their range in percent; the ratio is the median over turns.",
        "",
        "| hidden layers | way | time | times SB3's | of it waiting for the disk | without: times SB3's | bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, saved in saves.items():
        base = np.array(saved["times"][0])
        for index, way in enumerate(("SB3's `PPO.save`", "`PPOPlus.save`", "`save_checkpoint`")):
            own, waits = np.array(saved["times"][index]), np.array(saved["waits"][index])
            size = saved["sizes"][index]
            middle, spread = median_and_spread(own.tolist())
            lines.append(
                f"| {name} | {way} | {1e3 * middle:.1f} ms ± {spread:.0f}% | {np.median(own / base):.2f} "
                f"| {1e3 * np.median(waits):.1f} ms | {np.median((own - waits) / base):.2f} | {size:,} |"
            )
    share, written = kept
    lines += [
        "",
        "PPOPlus writes to a temporary file, waits until the disk has it, and renames; SB3 does none of this. A "
        "checkpoint holds the model, the environments, all generators and callbacks.",
        "",
        f"`SaveCheckpoints` as `ppo-plus train` uses it, Pendulum-v1 with 4 environments: {written} checkpoints, "
        f"{100 * share:.2f}% of the training's time.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works; writes nothing")
    parser.add_argument("--results", type=Path, default=None)
    args = parser.parse_args()
    set_warnings()
    steps, calls, repeats, total = (2048, 20, 2, 4096) if args.quick else (40_960, 4000, 31, 102_400)
    cases = list(CASES)[:2] if args.quick else list(CASES)
    looks = {name: cost_of_looks(name, steps, calls) for name in cases}
    nets = {"64, 64": [64, 64], "256, 256": [256, 256]}
    saves = {name: cost_of_saving(net, repeats) for name, net in nets.items()}
    page = report(looks, saves, share_of_checkpoints(total))
    print(page)
    with results_file(args.results, "safety_cost.md", args.quick) as path:
        atomic_write(path, page)


if __name__ == "__main__":
    main()
