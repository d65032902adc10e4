"""How exactly a run computes: float32 products by torch's setting, and networks in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

_DTYPES = {"bfloat16": th.bfloat16}


def use_matmul_precision(precision: str | None) -> Callable[[], None]:
    """
    Set how float32 matrix products are computed, in the whole process: torch has no narrower setting.

    :param precision: ``highest``, ``high`` or ``medium``; None changes nothing
    :return: puts back what was there
    """
    before = th.get_float32_matmul_precision()
    if precision is None or precision == before:
        return lambda: None
    th.set_float32_matmul_precision(precision)
    return lambda: th.set_float32_matmul_precision(before)


@contextmanager
def autocast(policy: ActorCriticPolicy, dtype: str | None) -> Iterator[None]:
    """
    Inside, the networks of a policy compute in another type; what they give is float32 again.

    Means, logits and values are rounded once, on their way out of the networks; log-probabilities, ratios and losses
    are not computed in few digits.

    :param policy: actor-critic policy
    :param dtype: ``bfloat16``, None to change nothing
    """
    if dtype is None:
        yield
        return
    heads = (policy.action_net, policy.value_net)
    hooks = [head.register_forward_hook(lambda module, inputs, output: output.float()) for head in heads]
    try:
        # The cache would keep weights of before a gradient step.
        with th.autocast(policy.device.type, _DTYPES[dtype], cache_enabled=False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Inside, torch's distributions do not look at their parameters, for which the host would have to wait."""
    checks = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(checks)
