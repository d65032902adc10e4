"""
Two learning rates in one optimizer.

The critic gets a parameter group of its own while training. State dicts keep SB3's single group, so that zips open both
ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.policies import critic_parameters


def split_critic(policy: ActorCriticPolicy) -> None:
    """
    Give the critic's own parameters the second parameter group of ``policy.optimizer``.

    :param policy: policy whose optimizer has one group
    """
    critic = {id(parameter) for parameter in critic_parameters(policy)}
    (group,) = policy.optimizer.param_groups
    options = {key: value for key, value in group.items() if key != "params"}
    actor_group = {"params": [p for p in group["params"] if id(p) not in critic], **options}
    critic_group = {"params": [p for p in group["params"] if id(p) in critic], **options}
    policy.optimizer.param_groups[:] = [actor_group, critic_group]


@contextmanager
def one_group(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Show ``policy.optimizer`` with SB3's single group for a while; its state is keyed by parameter and stays.

    :param policy: policy whose optimizer may have been split
    """
    split = len(policy.optimizer.param_groups) > 1
    if split:
        options = {key: value for key, value in policy.optimizer.param_groups[0].items() if key != "params"}
        policy.optimizer.param_groups[:] = [{"params": list(policy.parameters()), **options}]
    try:
        yield
    finally:
        if split:
            split_critic(policy)


def set_learning_rates(optimizer: th.optim.Optimizer, learning_rate: float, critic_learning_rate: float | None) -> None:
    """
    Set the rate of the next gradient steps.

    :param optimizer: the policy's optimizer
    :param learning_rate: rate of the actor and of what it shares with the critic
    :param critic_learning_rate: rate of the critic's own parameters, None for the same rate
    """
    rates = [learning_rate, learning_rate if critic_learning_rate is None else critic_learning_rate]
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate
