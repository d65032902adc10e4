"""
PPO in one file, in the style of CleanRL's ppo_continuous_action.py, ppo.py and ppo_atari.py; written for comparison.

    python benchmarks/cleanrl_style.py --env HalfCheetah-v5 --steps 100000

Hyperparameters are SB3's defaults. As in CleanRL, an episode that was cut off counts as one that ended, and the
diagnostics of every minibatch are computed. SB3's DummyVecEnv stands for Gymnasium's SyncVectorEnv, which is as fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.distributions import Categorical, Normal


class Hyperparameters(NamedTuple):
    """SB3's names and defaults."""

    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    learning_rate: float = 3e-4


class Rollout(NamedTuple):
    """Rows of one rollout, all steps of all environments in one dimension [T * N, ...]."""

    observations: th.Tensor
    actions: th.Tensor
    log_probs: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor


def layer_init(layer: nn.Module, std: float = 2**0.5) -> nn.Module:
    """Orthogonal weights and zero biases."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


def mlp(n_inputs: int, n_outputs: int, std: float) -> nn.Sequential:
    """Two hidden layers of 64."""
    first, second = layer_init(nn.Linear(n_inputs, 64)), layer_init(nn.Linear(64, 64))
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), layer_init(nn.Linear(64, n_outputs), std))


class Agent(nn.Module):
    """Actor and critic: two tanh networks, or heads on one convolutional network where observations are images."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__()
        shape, action_space = env.observation_space.shape, env.action_space
        assert shape is not None
        self.images, self.discrete = len(shape) == 3, isinstance(action_space, spaces.Discrete)
        n_actions = int(getattr(action_space, "n", 0)) or int(np.prod(action_space.shape or ()))
        if self.images:
            sizes = ((shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
            convolutions = [layer_init(nn.Conv2d(*each)) for each in sizes]
            layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())] + [nn.Flatten()]
            n_flat = nn.Sequential(*layers)(th.zeros(1, *shape)).shape[1]
            self.network = nn.Sequential(*layers, layer_init(nn.Linear(n_flat, 512)), nn.ReLU())
            self.actor, self.critic = layer_init(nn.Linear(512, n_actions), 0.01), layer_init(nn.Linear(512, 1), 1.0)
        else:
            self.network = nn.Sequential(nn.Flatten())
            n_inputs = int(np.prod(shape))
            self.actor, self.critic = mlp(n_inputs, n_actions, 0.01), mlp(n_inputs, 1, 1.0)
        self.log_std = None if self.discrete else nn.Parameter(th.zeros(1, n_actions))

    def features(self, x: th.Tensor) -> th.Tensor:
        return self.network(x / 255.0 if self.images else x)

    def get_value(self, x: th.Tensor) -> th.Tensor:
        return self.critic(self.features(x)).flatten()

    def get_action_and_value(
        self, x: th.Tensor, action: th.Tensor | None = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Action, its log-probability, entropy and value, [B] each but the first."""
        features = self.features(x)
        outputs, value = self.actor(features), self.critic(features).flatten()
        if self.log_std is None:
            choice = Categorical(logits=outputs)
            action = choice.sample() if action is None else action
            return action, choice.log_prob(action), choice.entropy(), value
        normal = Normal(outputs, th.exp(self.log_std.expand_as(outputs)))
        action = normal.sample() if action is None else action
        return action, normal.log_prob(action).sum(1), normal.entropy().sum(1), value


def to_tensor(observations: Any) -> th.Tensor:
    """Observations as float32 [N, ...]."""
    return th.as_tensor(observations, dtype=th.float32)


def collect(
    env: VecEnv, agent: Agent, next_obs: th.Tensor, next_done: th.Tensor, hyper: Hyperparameters
) -> tuple[Rollout, th.Tensor, th.Tensor]:
    """One rollout and its advantages; where the next one goes on."""
    size, action_space = (hyper.n_steps, env.num_envs), env.action_space
    obs = th.zeros(*size, *next_obs.shape[1:])
    actions = th.zeros(size, dtype=th.int64) if agent.discrete else th.zeros(*size, *(action_space.shape or ()))
    log_probs, rewards, dones, values = th.zeros(size), th.zeros(size), th.zeros(size), th.zeros(size)
    for step in range(hyper.n_steps):
        obs[step], dones[step] = next_obs, next_done
        with th.no_grad():
            action, log_prob, _, value = agent.get_action_and_value(next_obs)
        actions[step], log_probs[step], values[step] = action, log_prob, value
        chosen = action.numpy()
        if isinstance(action_space, spaces.Box):
            chosen = np.clip(chosen, action_space.low, action_space.high)
        new_obs, reward, done, _ = env.step(chosen)
        rewards[step] = th.as_tensor(reward)
        next_obs, next_done = to_tensor(new_obs), th.as_tensor(done, dtype=th.float32)
    with th.no_grad():
        next_value = agent.get_value(next_obs)
        advantages = th.zeros_like(rewards)
        last = th.zeros(env.num_envs)
        for t in reversed(range(hyper.n_steps)):
            going_on = 1.0 - (next_done if t == hyper.n_steps - 1 else dones[t + 1])
            following = next_value if t == hyper.n_steps - 1 else values[t + 1]
            delta = rewards[t] + hyper.gamma * following * going_on - values[t]
            advantages[t] = last = delta + hyper.gamma * hyper.gae_lambda * going_on * last
    rows = (obs, actions, log_probs, advantages, advantages + values)
    return Rollout(*(x.flatten(0, 1) for x in rows)), next_obs, next_done


def update(
    agent: Agent, optimizer: th.optim.Optimizer, rollout: Rollout, hyper: Hyperparameters
) -> tuple[float, float]:
    """Epochs of minibatches; the last KL estimate and the mean clip fraction, which CleanRL logs."""
    indices = np.arange(len(rollout.returns))
    approx_kl, clip_fractions = th.zeros(()), []
    for _ in range(hyper.n_epochs):
        np.random.shuffle(indices)  # noqa: NPY002  as CleanRL does
        for start in range(0, len(indices), hyper.batch_size):
            rows = indices[start : start + hyper.batch_size]
            _, log_prob, entropy, value = agent.get_action_and_value(rollout.observations[rows], rollout.actions[rows])
            log_ratio = log_prob - rollout.log_probs[rows]
            ratio = log_ratio.exp()
            with th.no_grad():
                approx_kl = ((ratio - 1) - log_ratio).mean()
                clip_fractions.append(((ratio - 1.0).abs() > hyper.clip_range).float().mean().item())
            advantages = rollout.advantages[rows]
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            clipped = th.clamp(ratio, 1 - hyper.clip_range, 1 + hyper.clip_range)
            policy_loss = th.max(-advantages * ratio, -advantages * clipped).mean()
            value_loss = ((value - rollout.returns[rows]) ** 2).mean()
            loss = policy_loss - hyper.ent_coef * entropy.mean() + hyper.vf_coef * value_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), hyper.max_grad_norm)
            optimizer.step()
    return approx_kl.item(), float(np.mean(clip_fractions))


def train_iterations(env: VecEnv, hyper: Hyperparameters, seed: int = 0) -> Iterator[int]:
    """Train forever; after each iteration, the environment steps so far."""
    np.random.seed(seed)  # noqa: NPY002  as CleanRL does
    th.manual_seed(seed)
    agent = Agent(env)
    optimizer = th.optim.Adam(agent.parameters(), lr=hyper.learning_rate, eps=1e-5)
    next_obs, next_done = to_tensor(env.reset()), th.zeros(env.num_envs)
    num_timesteps = 0
    while True:
        rollout, next_obs, next_done = collect(env, agent, next_obs, next_done, hyper)
        update(agent, optimizer, rollout, hyper)
        num_timesteps += len(rollout.returns)
        yield num_timesteps


def main() -> None:
    """Train on one environment, and print the mean return of its last episodes after every iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5", help="Gymnasium id (HalfCheetah-v5)")
    parser.add_argument("--n-envs", type=int, default=8, help="environments (8)")
    parser.add_argument("--n-steps", type=int, default=2048, help="steps of each in a rollout (2048)")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps (100000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    env = make_vec_env(args.env, args.n_envs, seed=args.seed)
    for num_timesteps in train_iterations(env, Hyperparameters(n_steps=args.n_steps), args.seed):
        returns = [episode for each in env.env_method("get_episode_rewards") for episode in each[-10:]]
        print(f"{num_timesteps:>10,} steps: {np.mean(returns) if returns else float('nan'):.1f}", flush=True)
        if num_timesteps >= args.steps:
            return


if __name__ == "__main__":
    main()
