"""
Which of PPO's implementation details a model uses: the 37 of Huang et al. 2022, read off the model itself.

"The 37 Implementation Details of Proximal Policy Optimization", ICLR Blog Track 2022,
https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/. "On" means as in OpenAI baselines' PPO2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common import atari_wrappers
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_plus import explain_checks as check
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.explain_checks import Finding, Status, View


@dataclass(frozen=True)
class Detail:
    """
    One implementation detail and what the model does about it.

    :param number: 1 to 37, in the order of the post
    :param group: ``core``, ``atari``, ``continuous``, ``lstm`` or ``multidiscrete``
    :param name: short name of the detail
    :param status: ``on`` as in PPO2, ``off``, ``different`` (done another way), ``not applicable`` (other kind of task
        or policy), ``unknown`` (the model has no environment, or it cannot be asked)
    :param value: what was found
    :param argument: the constructor argument or wrapper that changes it
    """

    number: int
    group: str
    name: str
    status: Status
    value: str
    argument: str


@dataclass(frozen=True)
class Explanation:
    """
    The details of one model; ``print(explanation)`` shows them as a table, iterating gives the rows.

    :param details: all 37, in order
    """

    details: tuple[Detail, ...]

    def __iter__(self) -> Iterator[Detail]:
        return iter(self.details)

    def __len__(self) -> int:
        return len(self.details)

    def __getitem__(self, number: int) -> Detail:
        """
        :param number: 1 to 37, as in the post
        :return: that detail
        :raises InvalidArgument: for another number
        """
        if not 1 <= number <= len(self.details):
            raise InvalidArgument(f"there is no detail {number!r}; they are numbered 1 to {len(self.details)}")
        return self.details[number - 1]

    def counts(self) -> dict[Status, int]:
        """:return: how many details have each status that occurs"""
        return dict(Counter(detail.status for detail in self.details))

    def __str__(self) -> str:
        head = ("#", "detail", "status", "value", "changed by")
        rows = [(str(d.number), d.name, d.status, d.value, d.argument) for d in self.details]
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = [_line(head, widths), _line(tuple("-" * width for width in widths), widths)]
        group = ""
        for detail, row in zip(self.details, rows, strict=True):
            if detail.group != group:
                group = detail.group
                lines.append(f"[{group}]")
            lines.append(_line(row, widths))
        summary = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        return "\n".join([*lines, f"{len(self.details)} details: {summary}"])


def _why_not_atari(view: View) -> str | None:
    return None if view.images else "no image observations"


def _why_not_continuous(view: View) -> str | None:
    return None if isinstance(view.model.action_space, spaces.Box) else "no continuous actions"


def _why_not_lstm(view: View) -> str | None:
    return None if isinstance(getattr(view.policy, "lstm_actor", None), th.nn.LSTM) else "feed-forward policy"


def _why_not_multidiscrete(view: View) -> str | None:
    return None if isinstance(view.model.action_space, spaces.MultiDiscrete) else "no MultiDiscrete actions"


class Group(NamedTuple):
    """
    Rows that apply together.

    :param name: name of the group
    :param why_not: None when the rows apply to a model, else the reason why they do not
    :param rows: name of the detail, the argument or wrapper that changes it, and its check
    """

    name: str
    why_not: Callable[[View], str | None]
    rows: tuple[tuple[str, str, Callable[[View], Finding]], ...]


_OBSERVATION = check.normalization("norm_obs", "clip_obs", gym.wrappers.NormalizeObservation)
_REWARD = check.normalization("norm_reward", "clip_reward", gym.wrappers.NormalizeReward)
_PREPROCESSING = gym.wrappers.AtariPreprocessing

_GROUPS: tuple[Group, ...] = (
    Group(
        "core",
        lambda view: None,
        (
            ("vectorized environments", "env, n_steps", check.vectorized),
            ("orthogonal initialization", "policy_kwargs: ortho_init", check.orthogonal),
            ("Adam epsilon 1e-5", "policy_kwargs: optimizer_kwargs", check.adam_epsilon),
            ("learning rate annealing", "learning_rate", check.annealing),
            ("generalized advantage estimation", "gae_lambda, recompute_advantages", check.gae),
            ("minibatch updates", "batch_size, n_epochs", check.minibatches),
            ("advantage normalization", "normalize_advantage, advantage_scope", check.advantage_scope),
            ("clipped surrogate objective", "clip_range, dual_clip", check.clipped_surrogate),
            ("value loss clipping", "clip_range_vf, vf_loss", check.value_clipping),
            ("overall loss and entropy bonus", "vf_coef, ent_coef, kl_coef", check.overall_loss),
            ("global gradient clipping 0.5", "max_grad_norm", check.gradient_clipping),
            ("debug variables", "log_diagnostics", check.debug_variables),
            ("shared or separate networks", "policy_kwargs: share_features_extractor", check.networks),
        ),
    ),
    Group(
        "atari",
        _why_not_atari,
        (
            ("no-ops at reset", "NoopResetEnv", check.wrapper(atari_wrappers.NoopResetEnv, _PREPROCESSING)),
            ("frame skip and maximum", "MaxAndSkipEnv", check.wrapper(atari_wrappers.MaxAndSkipEnv, _PREPROCESSING)),
            ("episode ends with a life", "EpisodicLifeEnv", check.wrapper(atari_wrappers.EpisodicLifeEnv)),
            ("fire at reset", "FireResetEnv", check.wrapper(atari_wrappers.FireResetEnv)),
            ("warped grayscale frame", "WarpFrame", check.wrapper(atari_wrappers.WarpFrame, _PREPROCESSING)),
            ("reward sign", "ClipRewardEnv", check.wrapper(atari_wrappers.ClipRewardEnv)),
            ("4 stacked frames", "VecFrameStack", check.frame_stack),
            ("shared Nature CNN", "policy, policy_kwargs: features_extractor_class", check.nature_cnn),
            ("images scaled to [0, 1]", "policy_kwargs: normalize_images", check.image_scaling),
        ),
    ),
    Group(
        "continuous",
        _why_not_continuous,
        (
            ("normal distribution", "use_sde", check.normal),
            ("state-independent log std", "use_sde, policy_kwargs: log_std_init", check.log_std),
            ("independent components", "use_sde", check.independent_components),
            ("separate policy and value networks", "policy_kwargs: share_features_extractor", check.separate_networks),
            ("actions clipped, stored raw", "policy_kwargs: squash_output", check.action_clipping),
            ("observation normalization", "VecNormalize(norm_obs)", _OBSERVATION[0]),
            ("observation clipping at 10", "VecNormalize(clip_obs)", _OBSERVATION[1]),
            ("reward scaling", "VecNormalize(norm_reward, gamma)", _REWARD[0]),
            ("reward clipping at 10", "VecNormalize(clip_reward)", _REWARD[1]),
        ),
    ),
    Group(
        "lstm",
        _why_not_lstm,
        (
            ("orthogonal LSTM layers", "policy", check.found("torch's default initialization", "off")),
            ("zero initial states", "policy", check.found("zeros")),
            ("state reset at episode end", "policy", check.found("by episode_starts")),
            ("sequential minibatches", "batch_size", check.found("padded sequences")),
            ("states rebuilt in training", "policy", check.found("from the stored first state")),
        ),
    ),
    Group(
        "multidiscrete",
        _why_not_multidiscrete,
        (("independent action components", "env", check.multi_categorical),),
    ),
)


def explain_config(model: OnPolicyAlgorithm) -> Explanation:
    """
    Look at a model and say which of the 37 details it has.

    :param model: PPOPlus, SB3's PPO, or a relative such as sb3-contrib's RecurrentPPO; trained or not. Without an
        environment the rows about it are ``unknown``
    :return: the rows; nothing is printed
    :raises InvalidArgument: for a model that is not a PPO, or whose networks were not built
    """
    if not hasattr(model, "clip_range"):
        raise InvalidArgument(f"{type(model).__name__} is no PPO; explain_config needs a PPOPlus or SB3 PPO model")
    if getattr(model, "policy", None) is None:
        raise InvalidArgument(
            f"{type(model).__name__} has no networks yet (_init_setup_model=False); call model._setup_model() first"
        )
    view = View(model)
    details: list[Detail] = []
    for group in _GROUPS:
        reason = group.why_not(view)
        for name, argument, look in group.rows:
            status, value = look(view) if reason is None else ("not applicable", reason)
            details.append(Detail(len(details) + 1, group.name, name, status, value, argument))
    return Explanation(tuple(details))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
