"""One small function per implementation detail: a model in, its status and what was found out. Used by ``explain``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ppo_plus.schedules import is_constant

Status = Literal["on", "off", "different", "not applicable", "unknown"]
Finding = tuple[Status, str]
_NO_ENV: Finding = ("unknown", "the model has no environment")


class View:
    """
    A model, with what several checks ask of it looked up once. Extras that SB3's PPO lacks read as switched off.

    :param model: model whose networks exist
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model: Any = model
        self.policy: Any = model.policy
        self.env: VecEnv | None = model.get_env()
        self.images = [space for space in _leaves(model.observation_space) if len(space.shape or ()) == 3]
        self.layers = _layers(self.env)

    def get(self, name: str, default: Any = None) -> Any:
        """
        :param name: attribute of the model
        :param default: what an older or plainer model counts as having
        :return: the attribute
        """
        return getattr(self.model, name, default)

    def normalizer(self) -> Any:
        """:return: the outermost VecNormalize, or its tensor twin (known by what it offers); None without one"""
        # Not hasattr(layer, ...): SB3's wrappers forward attributes, so every layer outside of it would answer yes.
        return next((it for it in self.layers if "norm_reward" in vars(it) or hasattr(type(it), "norm_reward")), None)

    def wrapped_in(self, *wrappers: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool | None:
        """
        :param wrappers: wrapper classes of which one is enough
        :return: whether every single environment has one; None when they cannot be asked
        """
        if self.env is None:
            return None
        try:
            answers = [self.env.env_is_wrapped(wrapper) for wrapper in wrappers]
        except (AttributeError, NotImplementedError):
            # An engine that steps all environments at once has no single ones to ask.
            return None
        return all(any(of_one_env) for of_one_env in zip(*answers, strict=True))

    def shares_parameters(self) -> bool:
        """:return: whether the actor and the critic have trainable layers in common"""
        extractor = getattr(self.policy, "features_extractor", None)
        shared = getattr(self.policy, "share_features_extractor", False)
        return bool(shared and extractor is not None and any(True for _ in extractor.parameters()))


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    return list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]


def _layers(env: Any) -> list[Any]:
    """The vectorized wrappers from the outside in, and the environment inside them."""
    layers = []
    while env is not None:
        layers.append(env)
        env = getattr(env, "venv", None)
    return layers


def _constant(value: Any) -> float | None:
    """The number behind a coefficient that never changes, else None."""
    if not is_constant(value):
        return None
    return float(value(1.0)) if callable(value) else float(value)


def _text(value: Any) -> str:
    number = _constant(value)
    return f"{number:g}" if number is not None else repr(getattr(value, "value_schedule", value))


# ---------------------------------------------------------------------- core


def vectorized(view: View) -> Finding:
    if view.get("n_envs") is None:
        return _NO_ENV
    return "on", f"{view.model.n_envs} environment(s) x {view.model.n_steps} steps"


def orthogonal(view: View) -> Finding:
    if getattr(view.policy, "ortho_init", False):
        return "on", "gains sqrt(2), policy head 0.01, value head 1"
    return "off", "torch's default initialization"


def adam_epsilon(view: View) -> Finding:
    optimizer = view.policy.optimizer
    epsilon = optimizer.param_groups[0].get("eps")
    value = f"{type(optimizer).__name__}, eps {epsilon}"
    return ("on" if type(optimizer) is th.optim.Adam and epsilon == 1e-5 else "different"), value


def annealing(view: View) -> Finding:
    if "learning_rate" in (view.get("controllers") or {}):
        return "different", f"from {_text(view.model.learning_rate)}, moved by a controller"
    rate = getattr(view.model.learning_rate, "value_schedule", view.model.learning_rate)
    if is_constant(rate):
        return "off", f"constant {_text(rate)}"
    if getattr(rate, "unit", "progress") == "steps":
        return "different", _text(rate)
    first, middle, last = (float(rate(progress)) for progress in (1.0, 0.5, 0.0))
    linear_to_zero = last == 0.0 and math.isclose(middle, first / 2)
    return ("on" if linear_to_zero else "different"), f"{first:g} -> {middle:g} -> {last:g}"


def gae(view: View) -> Finding:
    value = f"gamma {view.model.gamma:g}, lambda {view.model.gae_lambda:g}"
    if view.get("recompute_advantages", False):
        return "different", f"{value}, recomputed before each epoch"
    if view.model.gae_lambda in (0.0, 1.0):
        return "different", f"{value}: {'returns' if view.model.gae_lambda else 'one-step errors'}, no trade-off"
    return "on", value


def minibatches(view: View) -> Finding:
    epochs, batch = view.model.n_epochs, view.model.batch_size
    rollout = view.model.n_steps * (view.get("n_envs") or 1)
    if batch >= rollout:
        return "off", f"{epochs} epochs x the whole rollout of {rollout}"
    return "on", f"{epochs} epochs x {math.ceil(rollout / batch)} minibatches of {batch}"


def advantage_scope(view: View) -> Finding:
    scope = view.get("advantage_scope", "minibatch") if view.model.normalize_advantage else "none"
    status: Status = "on" if scope == "minibatch" else "off" if scope == "none" else "different"
    return status, f"over: {scope}"


def clipped_surrogate(view: View) -> Finding:
    high, low, dual = view.model.clip_range, view.get("clip_range_low"), view.get("dual_clip")
    if _constant(high) == math.inf:
        return "off", "no clipping"
    if low is not None or dual is not None:
        parts = [f"low {_text(low)}, high {_text(high)}" if low is not None else _text(high)]
        return "different", ", ".join(parts + ([f"dual clip {dual:g}"] if dual is not None else []))
    return "on", _text(high)


def value_clipping(view: View) -> Finding:
    clip, form = view.get("clip_range_vf"), view.get("vf_loss", "sb3")
    if form == "error_cap":
        return "different", f"squared error capped at {view.model.vf_error_cap:g}"
    if clip is None:
        return "off", "huber loss" if form == "huber" else "plain squared error"
    if form == "max":
        return "on", f"{_text(clip)}, the larger of both errors"
    return "different", f"{_text(clip)}, {form} form: the clipped error alone"


def overall_loss(view: View) -> Finding:
    weight, entropy = view.model.vf_coef, view.model.ent_coef
    value = f"value {_text(weight)}, entropy {_text(entropy)}"
    if "ent_coef" in (view.get("controllers") or {}):
        value += " (controlled)"
    extras = [name for name in ("kl_coef", "reference_kl_coef") if _constant(view.get(name, 0.0)) != 0.0]
    if view.get("critic_learning_rate") is not None:
        extras.append("critic_learning_rate")
    if extras:
        return "different", f"{value}, plus {', '.join(extras)}"
    if _constant(weight) == 0.25:
        return "on", value
    return "different", f"{value}; PPO2's value weight is 0.25 of the squared error"


def gradient_clipping(view: View) -> Finding:
    limit = view.model.max_grad_norm
    if limit is None or math.isinf(limit):
        return "off", "none"
    return ("on" if limit == 0.5 else "different"), f"global norm {limit:g}"


def debug_variables(view: View) -> Finding:
    return "on", "losses, KL (k3)" + (", exact KL, ratios, norms" if view.get("log_diagnostics", False) else "")


def networks(view: View) -> Finding:
    return "on", "shared features extractor" if view.shares_parameters() else "separate networks"


# ---------------------------------------------------------------------- Atari


def wrapper(own: type[Any], *equals: type[Any]) -> Callable[[View], Finding]:
    def check(view: View) -> Finding:
        found = view.wrapped_in(own, *equals)
        if view.env is None:
            return _NO_ENV
        if found is None:
            return "unknown", "the environment cannot be asked for its wrappers"
        return ("on", "wrapped") if found else ("off", "not wrapped")

    return check


def frame_stack(view: View) -> Finding:
    if view.env is None:
        return _NO_ENV
    stack = next((layer for layer in view.layers if isinstance(layer, VecFrameStack)), None)
    if stack is None:
        return ("on", "wrapped") if view.wrapped_in(gym.wrappers.FrameStackObservation) else ("off", "one frame")
    count = stack.stacked_obs.n_stack
    return ("on" if count == 4 else "different"), f"{count} frames"


def nature_cnn(view: View) -> Finding:
    extractor = view.policy.features_extractor
    if not isinstance(extractor, NatureCNN):
        return "off", type(extractor).__name__
    return ("on", "NatureCNN, shared") if view.shares_parameters() else ("different", "NatureCNN, one for each")


def image_scaling(view: View) -> Finding:
    if view.policy.normalize_images and all(is_image_space(space) for space in view.images):
        return "on", "divided by 255"
    return "off", "as the environment gives them"


# ---------------------------------------------------------------------- continuous actions


def normal(view: View) -> Finding:
    distribution = view.policy.action_dist
    if isinstance(distribution, SquashedDiagGaussianDistribution):
        return "different", "Gaussian squashed by tanh"
    if isinstance(distribution, DiagGaussianDistribution):
        return "on", "diagonal Gaussian"
    if isinstance(distribution, StateDependentNoiseDistribution):
        return "different", "gSDE"
    return "different", type(distribution).__name__


def log_std(view: View) -> Finding:
    if isinstance(view.policy.action_dist, StateDependentNoiseDistribution):
        return "different", "gSDE: depends on the state"
    log_std = getattr(view.policy, "log_std", None)
    if not isinstance(log_std, th.nn.Parameter):
        return "different", "no log_std parameter"
    mean = float(log_std.detach().mean())
    return (
        "on" if log_std.requires_grad else "different"
    ), f"mean {mean:.3g}{'' if log_std.requires_grad else ', fixed'}"


def independent_components(view: View) -> Finding:
    if isinstance(view.policy.action_dist, DiagGaussianDistribution | StateDependentNoiseDistribution):
        return "on", "diagonal covariance"
    return "unknown", type(view.policy.action_dist).__name__


def separate_networks(view: View) -> Finding:
    return ("off", "shared features extractor") if view.shares_parameters() else ("on", "separate networks")


def action_clipping(view: View) -> Finding:
    if getattr(view.policy, "squash_output", False):
        return "different", "squashed by tanh and rescaled"
    return "on", "clipped for the environment, stored as sampled"


def normalization(switch: str, clip: str, wrapper: type[Any]) -> tuple[Callable[[View], Finding], ...]:
    """Two checks: whether running statistics are used, and where the result is clipped."""

    def scaled(view: View) -> Finding:
        if view.env is None:
            return _NO_ENV
        normalizer = view.normalizer()
        if normalizer is None or not getattr(normalizer, switch):
            if view.wrapped_in(wrapper):
                return "different", f"{wrapper.__name__}: statistics for each environment, not saved with VecNormalize"
            return "off", "not normalized"
        if switch == "norm_reward" and normalizer.gamma != view.model.gamma:
            return "different", f"gamma {normalizer.gamma:g} of the wrapper is not the model's {view.model.gamma:g}"
        return "on", type(normalizer).__name__

    def clipped(view: View) -> Finding:
        if view.env is None:
            return _NO_ENV
        normalizer = view.normalizer()
        if normalizer is None or not getattr(normalizer, switch) or math.isinf(getattr(normalizer, clip)):
            return "off", "not clipped"
        bound = float(getattr(normalizer, clip))
        return ("on" if bound == 10.0 else "different"), f"[-{bound:g}, {bound:g}]"

    return scaled, clipped


# ---------------------------------------------------------------------- LSTM and MultiDiscrete


def found(value: str, status: Status = "on") -> Callable[[View], Finding]:
    """A row that follows from the class of the policy alone."""
    return lambda view: (status, value)


def multi_categorical(view: View) -> Finding:
    if isinstance(view.policy.action_dist, MultiCategoricalDistribution):
        return "on", f"{len(view.model.action_space.nvec)} independent categoricals"
    return "different", type(view.policy.action_dist).__name__
