"""From observations to actions without a word to the host."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.device.cuda_graph import Captured
from sb3_ppo_plus.device.options import DeviceOptions
from sb3_ppo_plus.device.precision import autocast

# Observations in one pass of the critic: bounds the memory of its layers.
_CHUNK = 2**16

Acted = tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]


class DeviceActor:
    """
    Asks a policy for actions, as one CUDA graph where there are such.

    A graph works on the very parameters of the policy, which gradient steps and ``load_state_dict`` change in place.

    :param policy: actor-critic policy
    :param options: what was chosen about the device
    """

    def __init__(self, policy: ActorCriticPolicy, options: DeviceOptions) -> None:
        self.policy, self.options = policy, options
        space = policy.action_space
        self._bounds: tuple[th.Tensor, th.Tensor] | None = None
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            self._bounds = th.as_tensor(low, device=policy.device), th.as_tensor(high, device=policy.device)
        self._own_forward = type(policy).forward is not ActorCriticPolicy.forward or "forward" in vars(policy)
        self._act = Captured(self._act_eagerly, policy.device, options.cuda_graphs, "acting")
        self._made_for = _places(policy)

    def fits(self, policy: ActorCriticPolicy, options: DeviceOptions) -> bool:
        """
        :param policy: the model's policy of now
        :param options: what is chosen now
        :return: whether it is still made of the tensors that this actor knows
        """
        return policy is self.policy and options == self.options and _places(policy) == self._made_for

    def act(self, obs: th.Tensor) -> Acted:
        """
        Choose actions, and say what is thought of them.

        :param obs: observations [N, O]
        :return: actions as the environment takes them, actions as they were drawn, value estimates [N] and
            log-probabilities [N]; all valid until the next call
        """
        acted: Acted = self._act(obs)
        return acted

    def values(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: many observations [B, O]
        :return: value estimates, asked for in bounded pieces [B]
        """
        with th.no_grad(), autocast(self.policy, self.options.autocast):
            pieces = [self.policy.predict_values(piece).flatten() for piece in obs.split(_CHUNK)]
        return pieces[0] if len(pieces) == 1 else th.cat(pieces)

    def _act_eagerly(self, obs: th.Tensor) -> Acted:
        with th.no_grad(), autocast(self.policy, self.options.autocast):
            actions, values, log_probs = self.policy(obs) if self._own_forward else self._forward(obs)
            commands = actions if self._bounds is None else actions.clamp(*self._bounds)
        return commands, actions, values.flatten(), log_probs.flatten()

    def _forward(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """What SB3's ``forward()`` does, but for how actions are drawn."""
        policy, features = self.policy, self.policy.extract_features(obs)
        if policy.share_features_extractor:
            latent_pi, latent_vf = policy.mlp_extractor(features)
        else:
            latent_pi = policy.mlp_extractor.forward_actor(features[0])
            latent_vf = policy.mlp_extractor.forward_critic(features[1])
        distribution = policy._get_action_dist_from_latent(latent_pi)
        actions = draw_actions(distribution)
        log_probs = distribution.log_prob(actions)
        return actions.reshape(-1, *(policy.action_space.shape or ())), policy.value_net(latent_vf), log_probs


def draw_actions(distribution: Distribution) -> th.Tensor:
    """
    Draw what SB3's ``get_actions()`` draws, from probabilities that need not be numbers.

    torch refuses to draw from NaN, which on a GPU ends the process's use of it. Here anything is drawn then, and the
    guard of the environments says at the end of the rollout where the NaN came from.

    :param distribution: distribution whose ``proba_distribution`` was called
    :return: actions [N, A], [N] for one choice
    """
    if isinstance(distribution, CategoricalDistribution):
        return _choose(distribution.distribution.probs)
    if isinstance(distribution, MultiCategoricalDistribution):
        return th.stack([_choose(part.probs) for part in distribution.distribution], dim=1)
    if isinstance(distribution, BernoulliDistribution):
        return th.bernoulli(distribution.distribution.probs.nan_to_num(0.0))
    return distribution.get_actions()


def _choose(probs: th.Tensor) -> th.Tensor:
    return th.multinomial(probs.nan_to_num(1.0), 1, replacement=True)[:, 0]


def _places(policy: ActorCriticPolicy) -> list[int]:
    """Where its parameters and buffers lie in memory."""
    return [tensor.data_ptr() for tensor in (*policy.parameters(), *policy.buffers())]
