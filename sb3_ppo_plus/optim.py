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
from stable_baselines3.common.utils import update_learning_rate

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.policies import critic_parameters


def split_critic(policy: ActorCriticPolicy) -> None:
    """
    Give the critic's own parameters the second parameter group of ``policy.optimizer``.

    :param policy: policy whose optimizer has one group
    :raises InvalidArgument: when a policy of the user's own has made several groups, which would be lost
    """
    if len(policy.optimizer.param_groups) != 1:
        raise InvalidArgument(
            f"critic_learning_rate splits the optimizer's one parameter group, but {type(policy).__name__} made "
            f"{len(policy.optimizer.param_groups)}; set the rates in the policy or drop the argument"
        )
    critic = {id(parameter) for parameter in critic_parameters(policy)}
    (group,) = policy.optimizer.param_groups
    options = {key: value for key, value in group.items() if key != "params"}
    actor_group = {"params": [p for p in group["params"] if id(p) not in critic], **options}
    critic_group = {"params": [p for p in group["params"] if id(p) in critic], **options}
    policy.optimizer.param_groups[:] = [actor_group, critic_group]


@contextmanager
def one_group(policy: ActorCriticPolicy, split: bool) -> Iterator[None]:
    """
    Show an optimizer that was split with SB3's single group for a while; its state is keyed by parameter and stays.

    :param policy: policy, after :func:`split_critic` or not
    :param split: whether it was split
    """
    if not split:
        yield
        return
    groups = list(policy.optimizer.param_groups)
    options = {key: value for key, value in groups[0].items() if key != "params"}
    policy.optimizer.param_groups[:] = [{"params": list(policy.parameters()), **options}]
    try:
        yield
    finally:
        split_critic(policy)
        for group, before in zip(policy.optimizer.param_groups, groups, strict=True):
            group["lr"] = before["lr"]


def set_learning_rates(optimizer: th.optim.Optimizer, learning_rate: float, critic_learning_rate: float | None) -> None:
    """
    Set the rate of the next gradient steps.

    :param optimizer: the policy's optimizer, split when there is a rate for the critic
    :param learning_rate: rate of the actor and of what it shares with the critic
    :param critic_learning_rate: rate of the critic's own parameters, None for the same rate
    """
    update_learning_rate(optimizer, learning_rate)
    if critic_learning_rate is not None:
        optimizer.param_groups[1]["lr"] = critic_learning_rate
