"""
Named sets of PPOPlus arguments: what another implementation or paper does, as plain data.

``PPOPlus("MlpPolicy", env, preset="baselines_ppo2")`` fills in every argument that the caller left at its default.
What a constructor cannot do (wrap the environment, count its copies) stands in the preset's note.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument


@dataclass(frozen=True)
class Preset:
    """
    One named set of arguments.

    :param name: key in ``PRESETS``
    :param arguments: PPOPlus arguments, plain values only: schedules and controllers as mappings, a network's
        activation by its name in ``torch.nn``, so that it can be written to YAML
    :param note: what the arguments cannot express and the caller has to do, or what stays different
    :param source: where the numbers were read
    """

    name: str
    arguments: Mapping[str, Any]
    note: str
    source: str


_BASELINES_PPO2 = Preset(
    name="baselines_ppo2",
    arguments={
        "learning_rate": {"type": "linear", "start": 3e-4, "end": 0.0},
        "n_steps": 2048,
        "batch_size": 64,
        "n_epochs": 10,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "clip_range_vf": 0.2,
        "vf_loss": "max",
        # PPO2 weighs its value loss by 0.5 and has another 0.5 inside it.
        "vf_coef": 0.25,
        "ent_coef": 0.0,
        "max_grad_norm": 0.5,
        "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}},
    },
    note=(
        "One environment: PPO2 cuts a rollout into 32 minibatches, so with N environments pass batch_size = 64 * N. "
        "Wrap the environment in VecNormalize(env, clip_obs=10, clip_reward=10, gamma=0.99), the other half of PPO2's "
        "MuJoCo results. Truncated episodes are bootstrapped here; PPO2 takes them for terminations."
    ),
    source="openai/baselines ea25b9e: ppo2/defaults.py (mujoco), ppo2/model.py, ppo2/ppo2.py, run.py",
)

_PAPER_PENALTY = Preset(
    name="paper_penalty",
    arguments={
        "learning_rate": 3e-4,
        "n_steps": 2048,
        "batch_size": 64,
        "n_epochs": 10,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": None,
        "kl_coef": 1.0,
        "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01, "band": 1.5, "factor": 2.0, "every": "rollout"}},
        "ent_coef": 0.0,
    },
    note=(
        "The paper tried targets of 0.003, 0.01 and 0.03; 0.01 was the best of them and still behind clipping (0.74 "
        "against 0.82, its normalized score over seven MuJoCo tasks). For clipping and the penalty at once leave the "
        "preset out and pass kl_coef and controllers. SB3's advantage normalization and gradient clipping stay on; the "
        "paper mentions neither."
    ),
    source="Schulman et al. 2017, https://arxiv.org/abs/1707.06347, sections 4 and 6.1, table 3",
)

_RSL_RL = Preset(
    name="rsl_rl",
    arguments={
        "learning_rate": 1e-3,
        "n_steps": 24,
        "n_epochs": 5,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "clip_range_vf": 0.2,
        "vf_loss": "max",
        "vf_coef": 1.0,
        "ent_coef": 0.01,
        "max_grad_norm": 1.0,
        "advantage_scope": "batch",
        "controllers": {
            "learning_rate": {
                "type": "kl_band",
                "target": 0.01,
                "band": 2.0,
                "factor": 1.5,
                "min_value": 1e-5,
                "max_value": 1e-2,
                "every": "minibatch",
            }
        },
        "policy_kwargs": {
            "net_arch": {"pi": [256, 256, 256], "vf": [256, 256, 256]},
            "activation_fn": "ELU",
            "ortho_init": False,
            "log_std_init": 0.0,
            "optimizer_kwargs": {"eps": 1e-8},
        },
    },
    note=(
        "For thousands of environments. rsl_rl cuts a rollout into 4 minibatches: with N environments pass "
        "batch_size = 24 * N / 4 = 6 * N (24576 for 4096), which no preset can know. Three things stay different: the "
        "gradient norm is clipped over both networks together, not over each; the policy learns log std, not std; a "
        "truncated episode is bootstrapped with the value of its last observation, not of the one before."
    ),
    source="leggedrobotics/rsl_rl c281c32 (5.4.2): algorithms/ppo.py, models/mlp_model.py, docs/guide",
)

_MASSIVELY_PARALLEL = Preset(
    name="massively_parallel",
    arguments={
        "learning_rate": 3e-4,
        "n_steps": 32,
        "batch_size": 16384,
        "n_epochs": 4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "vf_coef": 1.0,
        "ent_coef": 0.0,
        "max_grad_norm": 1.0,
        "advantage_scope": "batch",
        "controllers": {
            "learning_rate": {
                "type": "kl_band",
                "target": 0.01,
                "band": 2.0,
                "factor": 1.5,
                "min_value": 1e-5,
                "max_value": 1e-2,
                "every": "epoch",
            }
        },
        "policy_kwargs": {
            "net_arch": {"pi": [256, 128, 64], "vf": [256, 128, 64]},
            "activation_fn": "ELU",
            "ortho_init": False,
            "log_std_init": 0.0,
        },
        "device_options": {"matmul_precision": "high"},
    },
    note=(
        "For 1,024 environments and more: a rollout is 32 steps, so 1,024 environments give 2 minibatches an epoch, "
        "4,096 give 8; for other numbers pass a batch_size that divides 32 * N. Put the environments in a "
        "TensorVecNormalize(gamma=0.99), as both sources scale what the networks see, and in a StaggeredStart where "
        "episodes are much longer than 32 steps. Tasks that look far ahead want more steps and a larger gamma. Two "
        "things differ from both sources on purpose: value predictions are not clipped, and the rate moves once an "
        "epoch, for which nobody has to wait at every minibatch."
    ),
    source=(
        "IsaacGymEnvs a7f7714: cfg/train/AntPPO.yaml (rate, epochs, rows of a minibatch, entropy, gradient norm, "
        "network; 16 steps there); leggedrobotics/rsl_rl c281c32 (5.4.2), see rsl_rl (KL of 0.01 and its rule, value "
        "weight, standardization over the batch; 24 steps there)"
    ),
)

_CONTINUOUS_CONTROL = Preset(
    name="continuous_control",
    arguments={
        "learning_rate": {"type": "linear", "start": 1e-3, "end": 0.0},
        "n_steps": 64,
        "batch_size": 256,
        "n_epochs": 5,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "policy_kwargs": {"log_std_init": -1.0},
    },
    note=(
        "For a million steps or so of a robot in 16 environments: a rollout of 1,024 rows, 20 gradient steps after it. "
        "For other numbers choose n_steps so that a rollout stays near that. Put the environments in a "
        "TensorVecNormalize(gamma=0.99) or SB3's VecNormalize, as `ppo-plus train` does."
    ),
    source=(
        "this package, benchmark_suites/mujoco_1m.yml: measured on Gymnasium's eleven MuJoCo tasks; the same is the "
        "default block of zoo_configs/ppo_plus.yml"
    ),
)

_ALL = (_CONTINUOUS_CONTROL, _BASELINES_PPO2, _PAPER_PENALTY, _RSL_RL, _MASSIVELY_PARALLEL)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def apply_preset(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """
    Fill in a preset where the caller left the default.

    An argument that differs from its default wins over the preset. One that was spelled out and equals its default
    cannot be told from one that was left out, so the preset fills it. ``policy_kwargs`` are merged by key, and there
    the caller's always win.

    :param name: key of ``PRESETS``
    :param given: all arguments as the constructor received them
    :param defaults: the constructor's defaults; an argument without one is taken as given
    :return: a new mapping with every key of ``given``; nothing in it is shared with the preset
    :raises InvalidArgument: for a name that is not in ``PRESETS``
    """
    if name not in PRESETS:
        near = get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? Valid: " if near else "valid: "
        raise InvalidArgument(f"preset={name!r} is unknown; {hint}{', '.join(PRESETS)}")
    settings = dict(given)
    for argument, value in PRESETS[name].arguments.items():
        if argument == "policy_kwargs":
            settings[argument] = {**_built(value), **(given.get(argument) or {})}
        elif argument not in given or (argument in defaults and _same(given[argument], defaults[argument])):
            settings[argument] = copy.deepcopy(value)
    return settings


def _same(value: Any, default: Any) -> bool:
    try:
        return value is default or bool(value == default)
    except (TypeError, ValueError, RuntimeError):
        # Arrays and tensors do not compare to one bool; whoever passes one did not leave the default.
        return False


def _built(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's network arguments with the class where the data names it."""
    import torch as th  # here, so that the presets can be listed without loading torch

    built = copy.deepcopy(dict(policy_kwargs))
    if "activation_fn" in built:
        built["activation_fn"] = getattr(th.nn, built["activation_fn"])
    return built
