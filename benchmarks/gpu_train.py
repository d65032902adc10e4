"""
Transitions per second of whole trainings with environments on a GPU: PPOPlus in several ways, SB3's PPO and rsl_rl.

    python benchmarks/gpu_train.py                     # on a GPU; writes benchmarks/results/gpu_train.md
    python benchmarks/gpu_train.py --cases free --envs 4096 --ways plus sb3
    python benchmarks/gpu_train.py --device cpu --quick    # tries everything on the processor, and measures nothing

An iteration is a rollout of T steps and its update; its rate is T N transitions over the time of both, waited for at
its end. All have the same environments, networks (256, 128, 64, ELU), rows of a minibatch and epochs. PPOPlus and
rsl_rl move their learning rate by the KL of each minibatch, SB3 has a fixed one. What is done once (making it, kernels,
graphs, compilation) has been done two iterations before and stands in a column of its own. Ways take turns, in the
opposite order every other round. See benchmarks/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import commit, machine, median_and_spread, results_file, set_warnings, silenced
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tensor_ceiling import FreeTensorEnv, draw_rows

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.passes import DeviceUpdate, GraphedStep
from sb3_ppo_plus.envs import TensorVecEnv, TorchVecEnv
from sb3_ppo_plus.types import TensorStep

PACKAGES = ("torch", "numpy", "stable-baselines3", "rsl-rl-lib", "mujoco", "mujoco-warp", "warp-lang")
ENVS = (1024, 4096, 16384)
LAYERS = [256, 128, 64]
EPOCHS, MINIBATCHES, SEED = 4, 4, 0


class FreeDeviceEnv(FreeTensorEnv):
    """
    Rows that were drawn beforehand and lie on a device; 0.1 % of the episodes are cut off in a step.

    :param n_envs: N
    :param device: where they lie
    """

    def __init__(self, n_envs: int, device: str) -> None:
        super().__init__(draw_rows(n_envs, 0.001))
        self.device = th.device(device)
        self.steps = [
            TensorStep(*(part.to(device) for part in step[:5]), {name: v.to(device) for name, v in step.stats.items()})
            for step in self.steps
        ]


def mujoco(task: str, engine: str) -> Callable[[int, str], TensorVecEnv]:
    """
    :param task: Gymnasium's id
    :param engine: ``cpu`` or ``warp``
    :return: what makes the environments
    """

    def make(n_envs: int, device: str) -> TensorVecEnv:
        from sb3_ppo_plus.envs import MujocoVecEnv

        options = {"engine": "warp", "device": device} if engine == "warp" else {}
        return MujocoVecEnv(task, n_envs, SEED, **options)

    return make


def torch_task(task: str) -> Callable[[int, str], TensorVecEnv]:
    """
    :param task: one of the tasks in torch
    :return: what makes the environments
    """
    return lambda n_envs, device: TorchVecEnv(task, n_envs, SEED, device, "float32")


# Title, what makes the environments, and what has to be installed for it.
CASES: dict[str, tuple[str, Callable[[int, str], TensorVecEnv], tuple[str, ...]]] = {
    "free": ("free", FreeDeviceEnv, ()),
    "cartpole": ("CartPole-v1 in torch", torch_task("CartPole-v1"), ()),
    "pendulum": ("Pendulum-v1 in torch", torch_task("Pendulum-v1"), ()),
    "cheetah": ("HalfCheetah-v5, physics on the processor", mujoco("HalfCheetah-v5", "cpu"), ("mujoco",)),
    "cheetah-warp": ("HalfCheetah-v5 on Warp", mujoco("HalfCheetah-v5", "warp"), ("mujoco", "mujoco_warp")),
    "ant-warp": ("Ant-v5 on Warp", mujoco("Ant-v5", "warp"), ("mujoco", "mujoco_warp")),
}


# ------------------------------------------------ who takes part


class SB3Way:
    """
    An algorithm of SB3's kind.

    :param kind: its class
    :param env: environments
    :param args: options
    :param extras: arguments that only this way has
    """

    def __init__(
        self, kind: type[OnPolicyAlgorithm], env: TensorVecEnv, args: argparse.Namespace, **extras: Any
    ) -> None:
        self.rows = args.steps * env.num_envs
        networks = {"net_arch": LAYERS, "activation_fn": th.nn.ELU, "ortho_init": False}
        arguments: dict[str, Any] = {"n_steps": args.steps, "n_epochs": EPOCHS, "batch_size": self.rows // MINIBATCHES}
        arguments |= {"policy_kwargs": networks, "max_grad_norm": 1.0, "vf_coef": 1.0, "ent_coef": 0.01}
        self.model: Any = silenced(kind("MlpPolicy", env, seed=SEED, device=args.device, **arguments, **extras))

    def iterate(self, count: int) -> None:
        """:param count: iterations to make"""
        self.model.learn(count * self.rows, reset_num_timesteps=False)

    def what(self) -> str:
        """:return: how it ran, where that is not said by its name"""
        if not isinstance(self.model, PPOPlus):
            return ""
        if not isinstance(self.model.rollout_buffer, DeviceBuffer):
            return "rollout on the host"
        passes = self.model._update_passes
        steps = list(passes._steps.values()) if isinstance(passes, DeviceUpdate) else []
        graphs = [isinstance(step, GraphedStep) and step._replay is not None for step in steps]
        acting = self.model.rollout_buffer.actor
        return (
            f"graphs: acting {acting is not None and acting._act._replay is not None}, steps {all(graphs or [False])}"
        )


class RslWay:
    """
    rsl_rl's runner, with its PPO as it comes.

    :param env: environments with continuous actions
    :param args: options
    """

    def __init__(self, env: TensorVecEnv, args: argparse.Namespace) -> None:
        from rsl_rl.runners import OnPolicyRunner

        network = {"class_name": "rsl_rl.models.MLPModel", "hidden_dims": LAYERS, "activation": "elu"}
        gaussian = {"class_name": "rsl_rl.modules.distribution.GaussianDistribution", "init_std": 1.0}
        config = {
            "num_steps_per_env": args.steps,
            "save_interval": 10**9,
            "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
            "actor": {**network, "distribution_cfg": gaussian},
            "critic": dict(network),
            "algorithm": {
                "class_name": "rsl_rl.algorithms.PPO",
                "num_learning_epochs": EPOCHS,
                "num_mini_batches": MINIBATCHES,
            },
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner = OnPolicyRunner(rsl_face(env), config, log_dir=None, device=args.device)

    def iterate(self, count: int) -> None:
        """:param count: iterations to make"""
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner.learn(count)

    def what(self) -> str:
        """:return: nothing more"""
        return ""


def rsl_face(env: TensorVecEnv) -> Any:
    """
    :param env: environments with a tensor face
    :return: the same as rsl_rl wants them: observations in a TensorDict, time-outs among the extras
    """
    from rsl_rl.env import VecEnv
    from tensordict import TensorDict

    def packed(obs: th.Tensor) -> Any:
        return TensorDict({"policy": obs}, batch_size=[env.num_envs], device=env.device)

    class Face(VecEnv):
        num_envs = env.num_envs
        num_actions = int(np.prod(env.action_space.shape or ()))
        max_episode_length = 1000
        device = env.device

        def __init__(self) -> None:
            self.cfg: dict[str, Any] = {}
            self.episode_length_buf = th.zeros(env.num_envs, dtype=th.long, device=env.device)
            self.obs = packed(env.reset_tensors())

        def get_observations(self) -> Any:
            return self.obs

        def step(self, actions: th.Tensor) -> tuple[Any, th.Tensor, th.Tensor, dict[str, Any]]:
            step = env.step_tensors(actions.clamp(low, high))
            self.obs = packed(step.obs)
            done = (step.terminated | step.truncated).long()
            return self.obs, step.rewards, done, {"time_outs": step.truncated & ~step.terminated}

    low, high = (th.as_tensor(side, device=env.device) for side in (env.action_space.low, env.action_space.high))
    return Face()


RATE = {"controllers": {"learning_rate": {"type": "kl_band", "target": 0.01, "every": "minibatch"}}}


def plus(options: dict[str, Any], **extras: Any) -> Callable[[TensorVecEnv, argparse.Namespace], SB3Way]:
    """
    :param options: ``device_options``
    :param extras: further arguments
    :return: what makes PPOPlus on environments
    """

    def make(env: TensorVecEnv, args: argparse.Namespace) -> SB3Way:
        chosen = {"rollout": True, **options} if args.device == "cpu" else options
        shared = {**RATE, "learning_rate": 1e-3, "advantage_scope": "batch", "log_diagnostics": False}
        return SB3Way(PPOPlus, env, args, device_options=chosen, **shared, **extras)

    return make


WAYS: dict[str, tuple[str, Callable[[Any, argparse.Namespace], Any]]] = {
    "plus": ("PPOPlus", plus({"matmul_precision": "high"})),
    "compiled": ("PPOPlus, compiled steps", plus({"matmul_precision": "high"}, compile_update=True)),
    "bfloat16": ("PPOPlus, networks in bfloat16", plus({"autocast": "bfloat16"})),
    "nographs": ("PPOPlus without CUDA graphs", plus({"matmul_precision": "high", "cuda_graphs": False})),
    "host": ("PPOPlus, rollout on the host", plus({"rollout": False})),
    "sb3": ("SB3's PPO", lambda env, args: SB3Way(PPO, env, args)),
    "rsl_rl": ("rsl_rl", RslWay),
}


def why_not(case: str, way: str) -> str | None:
    """
    :param case: a key of CASES
    :param way: a key of WAYS
    :return: why they do not go together here, None when they do
    """
    missing = [name for name in CASES[case][2] if find_spec(name) is None]
    if way == "rsl_rl":
        missing += [name for name in ("rsl_rl", "tensordict") if find_spec(name) is None]
        if case == "cartpole":
            return "rsl_rl has no discrete actions"
    if case == "cheetah" and way not in ("host", "sb3"):
        return "the environments are on the processor"
    return f"not installed: {', '.join(missing)}" if missing else None


# ------------------------------------------------ measuring


class Runner:
    """
    One way on environments of its own.

    :param case: a key of CASES
    :param way: a key of WAYS
    :param n_envs: N
    :param args: options
    """

    def __init__(self, case: str, way: str, n_envs: int, args: argparse.Namespace) -> None:
        self.title, self.device = WAYS[way][0], args.device
        self.env = CASES[case][1](n_envs, args.device)
        if not isinstance(self.env.action_space, (spaces.Box, spaces.Discrete)):
            raise TypeError(f"{case} has actions {self.env.action_space}")
        started = time.perf_counter()
        self.way = WAYS[way][1](self.env, args)
        #: seconds until the second iteration is over
        self.began_in = time.perf_counter() - started + self.seconds(2)

    def seconds(self, iterations: int) -> float:
        """
        :param iterations: how many to make
        :return: the time of them, waited for
        """
        gc.collect()
        self._wait()
        started = time.perf_counter()
        self.way.iterate(iterations)
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            th.cuda.synchronize()


def measure(case: str, n_envs: int, args: argparse.Namespace) -> list[str]:
    """
    Time all ways in turns.

    :param case: a key of CASES
    :param n_envs: N
    :param args: options
    :return: rows of the table
    """
    chosen = [way for way in args.ways if why_not(case, way) is None]
    runners = [Runner(case, way, n_envs, args) for way in chosen]
    counts = [max(1, round(args.seconds / runner.seconds(1))) for runner in runners]
    rates: list[list[float]] = [[] for _ in runners]
    for number in range(args.rounds):
        order = range(len(runners)) if number % 2 == 0 else reversed(range(len(runners)))
        for index in order:
            rates[index].append(args.steps * n_envs * counts[index] / runners[index].seconds(counts[index]))
    rows = []
    for way, runner, measured in zip(chosen, runners, rates, strict=True):
        ratio = ""
        if "sb3" in chosen and way != "sb3":
            ratios = np.array(measured) / np.array(rates[chosen.index("sb3")])
            ratio = f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"
        rate = "{:,.0f} ±{:.0f}%".format(*median_and_spread(measured))
        cells = [CASES[case][0], f"{n_envs:,}", runner.title, rate, ratio, f"{runner.began_in:.1f}", runner.way.what()]
        rows.append(f"| {' | '.join(cells)} |")
        runner.env.close()
    return rows


def left_out(args: argparse.Namespace) -> list[str]:
    """
    :param args: options
    :return: what is not in the table, and why
    """
    found = [(case, way, why_not(case, way)) for case in args.cases for way in args.ways]
    return [f"- {CASES[case][0]}, {WAYS[way][0]}: {reason}" for case, way, reason in found if reason is not None]


def device_name(device: str) -> str:
    """
    :param device: torch's name
    :return: the name of the thing
    """
    if not device.startswith("cuda"):
        return "on the processor, which measures nothing that this is for"
    return f"on one {th.cuda.get_device_name(device)} (CUDA {th.version.cuda})"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda", help="where environments and policies live (cuda)")
    add("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="what to train on (all)")
    add("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="who trains (all)")
    add("--envs", nargs="+", type=int, default=list(ENVS), metavar="N", help="numbers of environments")
    add("--steps", type=int, default=32, help="T, steps of a rollout (32)")
    add("--rounds", type=int, default=5, help="times that each way has its turn (5)")
    add("--seconds", type=float, default=3.0, help="length of a turn, about (3)")
    add("--note", default="", help="added to the results, such as what else was running")
    add("--quick", action="store_true", help="tiny sizes that measure nothing")
    add("--output", type=Path, help="where the table goes")
    args = parser.parse_args(given)
    if args.quick:
        args.envs, args.steps, args.rounds, args.seconds = [8], 4, 2, 0.0
        args.ways = [way for way in args.ways if way != "compiled"]
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Measure everything, write the table."""
    args = arguments(given)
    set_warnings()
    lines = [
        f"Transitions per second of rollout and update together, {device_name(args.device)}: medians over rounds, half",
        "of their range in percent, and the median of the rounds' ratios to SB3 [lowest, highest]. `began in`: seconds",
        "from making the algorithm to the end of its second iteration.",
        "",
        "| environments | N | who | transitions/s | times SB3 | began in | how |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for case in args.cases:
        for n_envs in args.envs:
            rows = measure(case, n_envs, args)
            lines += rows
            print("\n".join(rows), flush=True)
    words = (
        f"`python benchmarks/gpu_train.py`, commit {commit()}; {machine(PACKAGES)}; rollouts of {args.steps} steps, "
        f"{EPOCHS} epochs of {MINIBATCHES} minibatches, {args.rounds} rounds. {args.note}"
    )
    text = "\n".join([*lines, "", *left_out(args), "", words.strip(), ""])
    print("\n".join(left_out(args)), words, sep="\n\n")
    with results_file(args.output, "gpu_train.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    main()
