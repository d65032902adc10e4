"""``ppo-plus run``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

HELP = "Play an ONNX file in an environment with onnxruntime alone: neither torch nor Stable-Baselines3 is imported."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="ONNX file that `ppo-plus export` wrote")
    add("--env", default=None, metavar="ID", help="Gymnasium id, or module:EnvId; what the file names, if it does")
    add("--episodes", type=int, default=5, metavar="N", help="number of episodes (5)")
    add("--seed", type=int, default=2_000_000, metavar="N", help="seed of the first episode, the others count up")
    add("--stochastic", action="store_true", help="draw actions, for files exported with --stochastic")
    add("--render", action="store_true", help="show the episodes in a window")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    import numpy as np

    from sb3_ppo_plus.cli import EXIT_OK
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.export.runner import OnnxPolicy

    if args.episodes < 1 or args.seed < 0:
        raise InvalidArgument(
            f"--episodes {args.episodes} --seed {args.seed}: give at least 1 episode and a seed from 0"
        )
    policy = OnnxPolicy(args.file, seed=args.seed)
    env = _make(policy.spec.get("training", {}), args.env, args.render)
    returns, lengths = [], []
    try:
        for episode in range(args.episodes):
            total, length = _play(policy, env, args.seed + episode, not args.stochastic)
            returns.append(total)
            lengths.append(length)
    finally:
        env.close()
    print(f"{env.spec.id if env.spec else args.env}: {args.file} on onnxruntime")
    print(f"  return           {np.mean(returns):,.1f} ± {np.std(returns):,.1f} ({len(returns)} episodes)")
    print(f"  episode length   {np.mean(lengths):,.1f} ± {np.std(lengths):,.1f}")
    return EXIT_OK


def _make(training: dict[str, Any], env_id: str | None, render: bool) -> Any:
    """The environment of the file, or another one without the arguments that were chosen for that."""
    import gymnasium as gym

    from sb3_ppo_plus.errors import InvalidArgument

    named = training.get("env_id")
    if env_id is None and named is None:
        raise InvalidArgument("the file does not say which environment it is for; give --env")
    chosen = env_id or named
    kwargs = dict(training.get("env_kwargs") or {}) if chosen == named else {}
    if chosen == named and training.get("env_wrapper"):
        raise InvalidArgument(
            f"the model was trained with env_wrapper {training['env_wrapper']}, which is not part of the file; "
            "`ppo-plus verify` plays it with that, or register an environment that has it and give its id with --env"
        )
    module, _, name = str(chosen).rpartition(":")
    try:
        if module and _is_task(module, name):
            raise InvalidArgument(
                f"{chosen} is a MujocoTask, which steps in batches; `ppo-plus verify` plays the file in it"
            )
        if render:
            kwargs["render_mode"] = "human"
        return gym.make(str(chosen), **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise InvalidArgument(f"{chosen} cannot be built: {' '.join(str(error).split())}") from error


def _is_task(module: str, name: str) -> bool:
    """Whether a name stands for a class, where Gymnasium wants a registered id."""
    return isinstance(getattr(importlib.import_module(module), name, None), type)


def _play(policy: Any, env: Any, seed: int, deterministic: bool) -> tuple[float, int]:
    """One episode."""
    import numpy as np

    obs, _ = env.reset(seed=seed)
    policy.reset()
    total, length, ended = 0.0, 0, False
    while not ended:
        masks = env.get_wrapper_attr("action_masks")() if policy.masks is not None else None
        action = policy.act(obs, deterministic, masks)
        space = env.action_space
        command = int(action) if np.ndim(action) == 0 else np.asarray(action, space.dtype)
        obs, reward, terminated, truncated, _ = env.step(command)
        total += float(reward)
        length += 1
        ended = bool(terminated or truncated)
    return total, length
