"""Whether the ranks train the same thing: what differs is told before they wait for each other in vain."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.distributed.trees import gather_trees
from sb3_ppo_plus.errors import InvalidArgument

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

# What decides how many gradient steps there are, what they minimize, and where they end.
_SETTINGS = (
    *("n_steps", "n_envs", "batch_size", "n_epochs", "gamma", "gae_lambda", "normalize_advantage", "max_grad_norm"),
    *("target_kl", "kl_stop", "vf_loss", "dual_clip", "advantage_scope", "recompute_advantages", "critic_epochs"),
    *("log_diagnostics", "compile_update", "nan_policy", "num_timesteps", "num_gradient_steps"),
)


def check_alike(model: PPOPlus, ranks: Ranks, total_timesteps: int) -> None:
    """
    Compare the models of all ranks.

    :param model: this rank's
    :param ranks: the processes
    :param total_timesteps: what ``learn()`` was called with
    :raises InvalidArgument: on every rank, naming what differs
    """
    own: dict[str, Any] = {name: repr(getattr(model, name)) for name in _SETTINGS}
    own |= {
        "total_timesteps": repr(total_timesteps),
        "observation space": repr(model.observation_space),
        "action space": repr(model.action_space),
        "policy": repr([tuple(parameter.shape) for parameter in model.policy.parameters()]),
        "controllers": repr({name: controller.state_dict() for name, controller in model._controllers.items()}),
        "state of the optimizer": _digest(model.policy.optimizer),
        "device": model.device.type,
    }
    everyone = gather_trees(ranks, {"settings": own, "gpu": _gpu(model.device)})
    for rank, other in enumerate(everyone):
        for name, value in everyone[0]["settings"].items():
            if other["settings"][name] != value:
                raise InvalidArgument(
                    f"{name} is {value} on rank 0 and {other['settings'][name]} on rank {rank}; all ranks have to "
                    "train the same model in equal shares"
                )
    gpus = [each["gpu"] for each in everyone if each["gpu"]]
    if len(set(gpus)) < len(gpus):
        shared = next(gpu for gpu in gpus if gpus.count(gpu) > 1)
        raise InvalidArgument(
            f"{gpus.count(shared)} ranks have the GPU {shared}; start as many processes as there are GPUs "
            "(--nproc-per-node), or train on the processor (device='cpu')"
        )


def check_callbacks(callback: BaseCallback, ranks: Ranks) -> None:
    """
    Compare the callbacks that meet the other ranks, those with an attribute ``on_every_rank``.

    :param callback: this rank's outermost callback
    :param ranks: the processes
    :raises InvalidArgument: on every rank, when some lack one
    """
    everyone = gather_trees(ranks, sorted(_meeting(callback)))
    for rank, names in enumerate(everyone):
        if names != everyone[0]:
            raise InvalidArgument(
                f"rank 0 has the callbacks {everyone[0]} and rank {rank} has {names}: give learn() these on every "
                "rank; only rank 0 writes"
            )


def _meeting(callback: BaseCallback) -> list[str]:
    names = [type(callback).__name__] if getattr(callback, "on_every_rank", False) else []
    inner = callback.callbacks if isinstance(callback, CallbackList) else []
    return names + [name for child in inner for name in _meeting(child)]


def _gpu(device: th.device) -> str:
    if device.type != "cuda":
        return ""
    return f"{socket.gethostname()}:{th.cuda.current_device() if device.index is None else device.index}"


def _digest(optimizer: th.optim.Optimizer) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            if isinstance(value, th.Tensor):
                digest.update(value.detach().cpu().reshape(-1).view(th.uint8).numpy().tobytes())
    return digest.hexdigest()
