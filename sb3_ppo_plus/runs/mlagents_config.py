"""From the trainer configuration of ``mlagents-learn`` to that of a run here, with what has no equivalent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.naming import did_you_mean

# ML-Agents' own defaults for PPO (mlagents 1.1.0, settings.py): a file that leaves something out means these.
_TRAINER = {"trainer_type": "ppo", "max_steps": 500_000, "time_horizon": 64}
_HYPERPARAMETERS = {
    "batch_size": 1024,
    "buffer_size": 10_240,
    "learning_rate": 3e-4,
    "learning_rate_schedule": "linear",
    "beta": 5e-3,
    "epsilon": 0.2,
    "lambd": 0.95,
    "num_epoch": 3,
}
_NETWORK = {"hidden_units": 128, "num_layers": 2, "normalize": False}
_EXTRINSIC = {"gamma": 0.99, "strength": 1.0}
# Where ML-Agents' linear schedules end.
_ENDS = {"learning_rate": 1e-10, "beta": 1e-5, "epsilon": 0.1}
_ENCODERS = ("simple", "nature_cnn", "match3")
_ENGINE = ("width", "height", "quality_level", "target_frame_rate", "capture_frame_rate")
# Keys without an equivalent, and what to do about each.
_WITHOUT = {
    "time_horizon": "trajectories are cut where a rollout ends (n_steps), not after a number of steps of each agent",
    "summary_freq": "every rollout is logged; --eval-freq says how often the model is evaluated",
    "checkpoint_interval": "the best and the newest model are kept, each written whole or not at all",
    "keep_checkpoints": "the best and the newest model are kept",
    "even_checkpoints": "the best and the newest model are kept",
    "threaded": "the game waits while the model learns",
    "init_path": "load the old model in Python and go on with learn()",
    "behavioral_cloning": "there is no imitation; the package `imitation` trains SB3's policies",
    "self_play": "there is none; play others with a model that you saved (env_kwargs.others), or train all teams with "
    "one policy by naming the behavior without its team",
}
_SIGNALS = {
    "curiosity": "there is no intrinsic reward; give the game denser rewards, or raise ent_coef",
    "rnd": "there is no intrinsic reward; give the game denser rewards, or raise ent_coef",
    "gail": "there is no imitation; the package `imitation` trains SB3's policies",
}


@dataclass
class Conversion:
    """
    What a file of ML-Agents comes to.

    :param behavior: the behavior that was converted
    :param config: configuration of a run, as ``ppo-plus train --config`` reads it
    :param notes: what has no equivalent or another meaning, and what to do, a line each
    """

    behavior: str
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert(document: Mapping[str, Any], behavior: str | None = None, n_agents: int | None = None) -> Conversion:
    """
    Convert one behavior of a trainer configuration.

    :param document: content of the YAML file
    :param behavior: its name; may be left out when there is one
    :param n_agents: agents of the behavior in one game, which decides how long a rollout is; None for one
    :return: configuration and notes
    :raises InvalidArgument: for a file of another kind, an unknown behavior, or a trainer that is not PPO
    """
    name, settings = _select(document, behavior)
    settings = _merged(document.get("default_settings") or {}, settings)
    kind = settings.get("trainer_type", "ppo")
    if kind != "ppo":
        remedy = {"poca": "group rewards are added to each agent's own here", "sac": "SB3 has SAC"}.get(kind, "")
        raise InvalidArgument(f"behavior {name!r} has trainer_type={kind!r} and this is PPO; {remedy or 'change it'}")
    result = Conversion(name)
    settings = {**_TRAINER, **settings}
    result.config = {"n_timesteps": int(settings["max_steps"])}
    _convert_environment(document, name, result)
    _convert_hyperparameters(settings, n_agents, result)
    _convert_network(settings.get("network_settings") or {}, result)
    _convert_rewards(settings.get("reward_signals") or {}, result)
    _note_the_rest(document, settings, result)
    return result


def _select(document: Mapping[str, Any], behavior: str | None) -> tuple[str, Mapping[str, Any]]:
    behaviors = document.get("behaviors")
    if not isinstance(behaviors, Mapping) or not behaviors:
        raise InvalidArgument("the file has no behaviors; give a trainer configuration of mlagents-learn")
    if behavior is None and len(behaviors) > 1:
        raise InvalidArgument(f"the file has the behaviors {', '.join(behaviors)}; choose one with --behavior")
    name = next(iter(behaviors)) if behavior is None else behavior
    if name not in behaviors:
        hint = did_you_mean(name, list(behaviors)) or f"there is {', '.join(behaviors)}"
        raise InvalidArgument(f"the file has no behavior {name!r}; {hint}")
    return name, behaviors[name] or {}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _convert_hyperparameters(settings: Mapping[str, Any], n_agents: int | None, result: Conversion) -> None:
    given = {**_HYPERPARAMETERS, **(settings.get("hyperparameters") or {})}
    schedule = given["learning_rate_schedule"]
    clip_schedule = given.get("epsilon_schedule", schedule)
    rows = (n_agents or 1) * result.config.get("n_envs", 1)
    n_steps = max(1, round(given["buffer_size"] / rows))
    result.config |= {
        "n_steps": n_steps,
        "batch_size": min(int(given["batch_size"]), n_steps * rows),
        "n_epochs": int(given["num_epoch"]),
        "learning_rate": _scheduled(given, "learning_rate", schedule),
        "ent_coef": _scheduled(given, "beta", given.get("beta_schedule", schedule)),
        "clip_range": _scheduled(given, "epsilon", clip_schedule),
        # ML-Agents always clips the change of a value, by the same epsilon.
        "clip_range_vf": _scheduled(given, "epsilon", clip_schedule),
        "vf_loss": "max",
        "gae_lambda": float(given["lambd"]),
        "advantage_scope": "batch",
        "max_grad_norm": 1e9,
    }
    if n_agents is None:
        result.notes.append(
            f"n_steps: {n_steps} for one agent in each game; give --n-agents (see `ppo-plus unity info`), or a rollout "
            f"holds buffer_size={given['buffer_size']} steps of each agent"
        )
    result.notes.append("max_grad_norm: ML-Agents clips no gradients, so it is out of reach; SB3's 0.5 is safer")
    result.notes.append("clip_range: ML-Agents clips the ratio of each action dimension, this that of the whole action")
    known = {*_HYPERPARAMETERS, "beta_schedule", "epsilon_schedule"}
    result.notes += [f"hyperparameters.{key}: not known here" for key in given if key not in known]


def _scheduled(given: Mapping[str, Any], key: str, kind: str) -> Any:
    if kind == "constant":
        return float(given[key])
    if kind != "linear":
        raise InvalidArgument(f"{key}_schedule is {kind!r}; ML-Agents knows linear and constant")
    return {"type": "linear", "start": float(given[key]), "end": _ENDS[key]}


def _convert_network(given: Mapping[str, Any], result: Conversion) -> None:
    network = {**_NETWORK, **given}
    result.config["normalize"] = (
        {"norm_obs": True, "norm_reward": False, "clip_obs": 5.0} if network["normalize"] else False
    )
    kwargs: dict[str, Any] = {
        "net_arch": [int(network["hidden_units"])] * int(network["num_layers"]),
        "activation_fn": "silu",
        # Samples are divided by 3 there before the game gets them: the deviation in the game begins at 1/3.
        "log_std_init": round(math.log(1.0 / 3.0), 4),
        "optimizer_kwargs": {"eps": 1e-8},
    }
    encoder = given.get("vis_encode_type")
    if encoder in _ENCODERS:
        kwargs["features_extractor_class"] = "visual"
        kwargs["features_extractor_kwargs"] = {"encoder": encoder, "cnn_output_dim": int(network["hidden_units"])}
    elif encoder is not None:
        result.notes.append(f"network_settings.vis_encode_type: {encoder} is not offered; the networks of SB3 are used")
    result.config["policy_kwargs"] = kwargs
    if network.get("memory"):
        result.notes.append("network_settings.memory: no recurrent policies; stack observations in the sensor instead")
    if network.get("goal_conditioning_type", "none") != "none":
        result.notes.append("network_settings.goal_conditioning_type: a goal is an observation like any other here")
    known = {*_NETWORK, "vis_encode_type", "memory", "goal_conditioning_type"}
    result.notes += [f"network_settings.{key}: not known here" for key in given if key not in known]


def _convert_rewards(signals: Mapping[str, Any], result: Conversion) -> None:
    extrinsic = {**_EXTRINSIC, **(signals.get("extrinsic") or {})}
    result.config["gamma"] = float(extrinsic["gamma"])
    if extrinsic["strength"] != 1.0:
        result.notes.append(f"reward_signals.extrinsic.strength={extrinsic['strength']}: scale the rewards in the game")
    result.notes += [f"reward_signals.{name}: {_SIGNALS[name]}" for name in signals if name in _SIGNALS]


def _convert_environment(document: Mapping[str, Any], name: str, result: Conversion) -> None:
    settings, engine = document.get("env_settings") or {}, document.get("engine_settings") or {}
    if settings.get("env_path"):
        result.config["env"] = f"unity:{settings['env_path']}"
    result.config["n_envs"] = int(settings.get("num_envs", 1))
    if settings.get("seed", -1) != -1:
        result.config["seed"] = int(settings["seed"])
    kwargs: dict[str, Any] = {"behavior": name}
    for theirs, ours in (
        ("base_port", "base_port"),
        ("num_areas", "num_areas"),
        ("timeout_wait", "timeout"),
        ("max_lifetime_restarts", "max_restarts"),
    ):
        if theirs in settings:
            kwargs[ours] = settings[theirs]
    if "restarts_rate_limit_n" in settings or "restarts_rate_limit_period_s" in settings:
        kwargs["restart_rate"] = [
            settings.get("restarts_rate_limit_n", 1),
            settings.get("restarts_rate_limit_period_s", 60),
        ]
    if "time_scale" in engine:
        kwargs["time_scale"] = engine["time_scale"]
    if engine.get("no_graphics"):
        kwargs["graphics"] = False
    others = {key: engine[key] for key in _ENGINE if key in engine}
    if others:
        kwargs["engine"] = others
    if document.get("environment_parameters"):
        kwargs["environment_parameters"] = dict(document["environment_parameters"])
    result.config["env_kwargs"] = kwargs


def _note_the_rest(document: Mapping[str, Any], settings: Mapping[str, Any], result: Conversion) -> None:
    known = {"trainer_type", "max_steps", "hyperparameters", "network_settings", "reward_signals"}
    for key, value in settings.items():
        if key in _WITHOUT and value not in (None, _TRAINER.get(key)):
            result.notes.append(f"{key}: {_WITHOUT[key]}")
        elif key not in known and key not in _WITHOUT:
            result.notes.append(f"{key}: not known here")
    sections = ("behaviors", "default_settings", "env_settings", "engine_settings", "environment_parameters")
    for key in document:
        if key not in sections:
            result.notes.append(f"{key}: has no equivalent; see `ppo-plus train --help`")
    if len(document["behaviors"]) > 1:
        rest = ", ".join(other for other in document["behaviors"] if other != result.behavior)
        result.notes.append(
            f"behaviors: {rest} can be played by 'random', 'zeros' or a model (env_kwargs.others), or learn at the "
            "same time in Python (UnityVecEnv.for_behaviors, learn_together)"
        )
