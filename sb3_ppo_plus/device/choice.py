"""Whether a run's rollouts stay on the device of its environments, and what begins with that."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.buffers import with_rows
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.options import read_options
from sb3_ppo_plus.device.precision import use_matmul_precision
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.resumable import Learning

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

logger = logging.getLogger(__name__)


def begin_on_device(model: PPOPlus, learning: Learning) -> None:
    """
    Choose the rollout buffer of a training that begins, which decides where its rollouts live.

    :param model: the model
    :param learning: the training
    """
    options = read_options(model.device_options)
    learning.at_exit.append(use_matmul_precision(options.matmul_precision))
    wanted = options.rollout is True or (options.rollout == "auto" and lives_on_accelerator(model.env, model.device))
    reason = why_not_on_device(model) if wanted else None
    if reason is not None:
        say = f"rollouts go through the host, because {reason}"
        if options.rollout is True:
            warnings.warn(f"device_options: {say}; leave 'rollout' out to silence this")
        else:
            logger.warning("%s; that is slower, device_options={'rollout': False} silences this", say)
    on_device = wanted and reason is None
    if on_device != isinstance(getattr(model, "rollout_buffer", None), DeviceBuffer):
        model.rollout_buffer = _make_buffer(model, on_device)


def _make_buffer(model: PPOPlus, on_device: bool) -> RolloutBuffer:
    default = DictRolloutBuffer if isinstance(model.observation_space, spaces.Dict) else RolloutBuffer
    made = DeviceBuffer if on_device else with_rows(model.rollout_buffer_class or default)
    return made(
        model.n_steps,
        model.observation_space,
        model.action_space,
        device=model.device,
        gamma=model.gamma,
        gae_lambda=model.gae_lambda,
        n_envs=model.n_envs,
        **({} if on_device else model.rollout_buffer_kwargs),
    )


def why_not_on_device(model: PPOPlus) -> str | None:
    """
    Look whether a model's rollouts can stay on the device of its environments.

    :param model: the model
    :return: what is in the way, None when nothing is
    """
    env = model.env
    if model._ranks is not None:
        return "several ranks learn together"
    if not isinstance(env, TensorVecEnv):
        return f"{type(env).__name__} has no tensor face"
    if not same_device(env.device, model.device):
        return f"the environments live on {env.device} and the policy on {model.device}"
    if isinstance(model.observation_space, spaces.Dict):
        return "observations are a Dict"
    if model.use_sde:
        return "gSDE draws its noise on the host"
    if model.mask_source(env) is not None:
        return "action masks come from the host"
    if model.recompute_advantages:
        return "recompute_advantages reads the rollout on the host"
    if model.rollout_buffer_class not in (None, RolloutBuffer) or model.rollout_buffer_kwargs:
        return "it has a rollout buffer of its own"
    return None


def same_device(one: th.device, other: th.device) -> bool:
    """
    :param one: a device
    :param other: a device
    :return: whether both are the same; ``cuda`` without a number is the current one
    """
    if one.type != other.type:
        return False
    current = th.cuda.current_device() if one.type == "cuda" else 0
    return (one.index if one.index is not None else current) == (other.index if other.index is not None else current)


def lives_on_accelerator(env: VecEnv | None, device: th.device) -> bool:
    """
    :param env: environments of a model
    :param device: where its policy lives
    :return: whether the environments live there as well, and it is not the processor
    """
    return isinstance(env, TensorVecEnv) and env.device.type != "cpu" and same_device(env.device, device)
