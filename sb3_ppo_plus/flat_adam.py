"""
A policy's parameters and Adam's moments side by side in three vectors, the form in which a compiled step changes them.

The policy and its optimizer stay the owners: an epoch begins with :meth:`FlatAdam.gather` and ends with
:meth:`FlatAdam.scatter`, so that checkpoints, callbacks and the eager update never see the difference.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

#: numbers of each segment that change from step to step: step size, square root of Adam's second bias correction, rate
RATES = 3


class Segment(NamedTuple):
    """
    Consecutive parameters that take their steps together.

    :param start: index of the first number
    :param stop: index after the last one
    :param group: which of the optimizer's parameter groups they are in
    :param beta1: decay of the first moment
    :param beta2: decay of the second moment
    :param eps: Adam's epsilon
    :param weight_decay: weight decay
    :param decoupled: whether it is AdamW's
    """

    start: int
    stop: int
    group: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool

    @property
    def size(self) -> int:
        """:return: how many numbers"""
        return self.stop - self.start


def why_not_flat(policy: ActorCriticPolicy) -> str | None:
    """
    Look whether parameters can stand side by side.

    :param policy: policy with its optimizer
    :return: what is in the way, None when nothing is
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in trained):
        return "its parameters have hooks on their gradients"
    kinds = {(p.dtype, p.device) for p in trained}
    if kinds != {(th.float32, policy.device)}:
        return f"its parameters are not all float32 on one device: {sorted(map(str, kinds))}"
    known = {id(p) for group in policy.optimizer.param_groups for p in group["params"] if p.requires_grad}
    if known != {id(p) for p in trained}:
        return "its optimizer has other parameters than the policy"
    return None


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: a policy's optimizer
    :return: whether its step can be part of the graph: Adam or AdamW without variants or hooks
    """
    if type(optimizer) not in (th.optim.Adam, th.optim.AdamW):
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer):
        return False
    variants = ("amsgrad", "maximize", "capturable", "differentiable")
    return not any(group.get(name) for group in optimizer.param_groups for name in variants)


class FlatAdam:
    """
    The three vectors, and where each parameter stands in them.

    :param policy: policy whose parameters are float32 on one device
    :param apart: parameters that also take steps without the others, by identity, such as the critic's; they get
        segments of their own, because Adam counts steps by parameter
    :param without: parameters that stay out, by identity
    """

    def __init__(self, policy: ActorCriticPolicy, apart: Collection[int] = (), without: Collection[int] = ()) -> None:
        self.policy = policy
        # One name for each place that holds a parameter: a shared features extractor hangs on the policy three times,
        # and functional_call would put a tensor of its own back at the second time.
        names: dict[int, list[str]] = {}
        for prefix, module in policy.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
                names.setdefault(id(parameter), []).append(name)
        groups = policy.optimizer.param_groups
        # Adam counts steps by parameter: those that were frozen for a while are behind the others.
        parts: dict[tuple[int, bool, float], list[th.nn.Parameter]] = {}
        for index, group in enumerate(groups):
            for p in group["params"]:
                if p.requires_grad and id(p) not in without:
                    parts.setdefault((index, id(p) in apart, _steps_of(policy, p)), []).append(p)
        #: parameters in the order of the vectors
        self.owners: list[th.nn.Parameter] = [p for part in parts.values() for p in part]
        self.names = [names[id(p)] for p in self.owners]
        self.shapes = [tuple(p.shape) for p in self.owners]
        self.sizes = [p.numel() for p in self.owners]
        self.segments: list[Segment] = []
        #: whether the parameters of a segment are among those apart
        self.is_apart: list[bool] = []
        self._of_segment: list[list[th.nn.Parameter]] = []
        start = 0
        for (index, is_apart, _), part in parts.items():
            size = sum(p.numel() for p in part)
            self.segments.append(_segment(start, size, index, policy.optimizer))
            self.is_apart.append(is_apart)
            self._of_segment.append(part)
            start += size
        self.parameters, self.exp_avg, self.exp_avg_sq = (th.zeros(start, device=policy.device) for _ in range(3))
        pieces = [vector.split(self.sizes) for vector in (self.parameters, self.exp_avg, self.exp_avg_sq)]
        self._views = list(zip(*pieces, strict=True))
        self._steps = [0.0] * len(self.segments)

    def gather(self, moments: bool = True) -> None:
        """
        Copy parameters and moments from the policy and its optimizer.

        :param moments: whether Adam's moments and its count of steps are wanted
        """
        state = self.policy.optimizer.state
        with th.no_grad():
            for owner, (parameter, exp_avg, exp_avg_sq) in zip(self.owners, self._views, strict=True):
                parameter.copy_(owner.reshape(-1))
                if not moments:
                    continue
                known = state.get(owner)
                if known:
                    exp_avg.copy_(known["exp_avg"].reshape(-1))
                    exp_avg_sq.copy_(known["exp_avg_sq"].reshape(-1))
                else:
                    exp_avg.zero_()
                    exp_avg_sq.zero_()
        if moments:
            self._steps = [_steps_of(self.policy, part[0]) for part in self._of_segment]

    def counts_agree(self) -> bool:
        """:return: whether Adam has still counted the same steps for all parameters of a segment"""
        return all(len({_steps_of(self.policy, p) for p in part}) == 1 for part in self._of_segment)

    def set_gradients(self, gradient: th.Tensor) -> None:
        """
        Give each parameter its piece of a gradient, for an optimizer that steps by itself.

        :param gradient: gradient in the order of the vectors [P]
        """
        for owner, piece in zip(self.owners, gradient.split(self.sizes), strict=True):
            owner.grad = piece.view_as(owner)

    def scatter(self, steps_taken: int, moved: Collection[int] | None = None) -> None:
        """
        Copy them back, with the number of steps that Adam counts.

        :param steps_taken: gradient steps since :meth:`gather`
        :param moved: the segments that took them, None for all
        """
        if not steps_taken:
            return
        state = self.policy.optimizer.state
        views = iter(self._views)
        with th.no_grad():
            for index, part in enumerate(self._of_segment):
                here = [next(views) for _ in part]
                if moved is not None and index not in moved:
                    continue
                self._steps[index] += steps_taken
                for owner, (parameter, exp_avg, exp_avg_sq) in zip(part, here, strict=True):
                    owner.copy_(parameter.view_as(owner))
                    known = state[owner]
                    if not known:
                        fused = self.policy.optimizer.param_groups[self.segments[index].group].get("fused")
                        known["step"] = th.zeros((), device=owner.device if fused else None)
                        known["exp_avg"], known["exp_avg_sq"] = th.zeros_like(owner), th.zeros_like(owner)
                    known["step"].fill_(self._steps[index])
                    known["exp_avg"].copy_(exp_avg.view_as(owner))
                    known["exp_avg_sq"].copy_(exp_avg_sq.view_as(owner))

    def rates(self, n_steps: int) -> np.ndarray:
        """
        What Adam multiplies by in the next steps, in double precision as Adam computes it.

        :param n_steps: number of steps ahead
        :return: of each step and segment: rate / (1 - beta1^t), sqrt(1 - beta2^t), rate [n_steps, 3 * segments]
        """
        columns = []
        for segment, done in zip(self.segments, self._steps, strict=True):
            rate = float(self.policy.optimizer.param_groups[segment.group]["lr"])
            count = done + 1.0 + np.arange(n_steps)
            columns += [
                rate / (1.0 - segment.beta1**count),
                np.sqrt(1.0 - segment.beta2**count),
                np.full(n_steps, rate),
            ]
        return np.stack(columns, axis=1)

    def named(self, parameters: th.Tensor) -> dict[str, th.Tensor]:
        """
        Cut a vector into parameters.

        :param parameters: a vector in the order of this one [P]
        :return: its pieces in their shapes, under the name of every place that holds them
        """
        pieces = parameters.split(self.sizes)
        found = {}
        for names, piece, shape in zip(self.names, pieces, self.shapes, strict=True):
            value = piece.view(shape)
            found.update(dict.fromkeys(names, value))
        return found


def adam_step(
    parameters: th.Tensor,
    exp_avg: th.Tensor,
    exp_avg_sq: th.Tensor,
    gradient: th.Tensor,
    rates: th.Tensor,
    segment: Segment,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    p <- p - rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps), after m and v have taken in the gradient.

    Kingma and Ba 2015, algorithm 1, in the order of torch's ``Adam``; Loshchilov and Hutter 2019 for AdamW.

    :param parameters: parameters of the segment [P]
    :param exp_avg: first moment m [P]
    :param exp_avg_sq: second moment v [P]
    :param gradient: clipped gradient [P]
    :param rates: step size, square root of the second bias correction, rate [3]
    :param segment: what does not change
    :return: all three after the step
    """
    if segment.weight_decay and segment.decoupled:
        parameters = parameters * (1.0 - rates[2] * segment.weight_decay)
    elif segment.weight_decay:
        gradient = gradient + segment.weight_decay * parameters
    exp_avg = th.lerp(exp_avg, gradient, 1.0 - segment.beta1)
    exp_avg_sq = exp_avg_sq * segment.beta2 + (1.0 - segment.beta2) * gradient * gradient
    denominator = exp_avg_sq.sqrt() / rates[1] + segment.eps
    return parameters - rates[0] * (exp_avg / denominator), exp_avg, exp_avg_sq


def _steps_of(policy: ActorCriticPolicy, parameter: th.nn.Parameter) -> float:
    """How many steps the optimizer has counted for a parameter; 0 where it does not count."""
    state = policy.optimizer.state.get(parameter) or {}
    return float(state.get("step", 0.0))


def _segment(start: int, size: int, group: int, optimizer: th.optim.Optimizer) -> Segment:
    options = optimizer.param_groups[group]
    beta1, beta2 = options.get("betas", (0.0, 0.0))
    decoupled = bool(options.get("decoupled_weight_decay", isinstance(optimizer, th.optim.AdamW)))
    decay = float(options.get("weight_decay", 0.0))
    return Segment(
        start, start + size, group, float(beta1), float(beta2), float(options.get("eps", 0.0)), decay, decoupled
    )
