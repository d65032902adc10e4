"""
A gradient step as one graph: forward pass, loss, gradient, clipping, Adam and what the log wants, compiled together.

The functions that are traced are the ones of the eager update (``ppo_loss``, ``value_loss_of``); only the policy is
called through :class:`~sb3_ppo_plus.plain_policy.PlainPolicy`. Every number that may move between two steps comes in a
tensor, so that a schedule never makes the graph anew.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch as th
from torch.func import functional_call, grad

from sb3_ppo_plus.flat_adam import RATES, FlatAdam, adam_step
from sb3_ppo_plus.plain_policy import PlainPolicy
from sb3_ppo_plus.types import Coefficients, LossOptions, LossTerms, Minibatch
from sb3_ppo_plus.update import ppo_loss, value_loss_of, without_invalid_rows

# Rows of 64 bytes: the compiler copies inputs that are not aligned.
ALIGNMENT = 16

#: figures of a step, in the order of their row
FIGURES = (
    "loss",
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "approx_kl",
    "clip_fraction",
    "kl",
    "ratio_min",
    "ratio_max",
    "grad_norm",
)
APPROX_KL, GRAD_NORM = FIGURES.index("approx_kl"), FIGURES.index("grad_norm")
#: numbers of a step, in the order of their row; the rates of the segments follow
NUMBERS = (*Coefficients._fields, "max_grad_norm", "kl_limit")


class StepKind(NamedTuple):
    """
    What a graph is made for; one that differs in any of this is another graph.

    :param options: the shape of the loss
    :param symmetric_clip: whether the clip range is the same below and above 1
    :param clips_values: whether value predictions are clipped
    :param row_kl: whether the KL of the minibatch is measured
    :param stops: whether a KL beyond the limit leaves the parameters as they are
    :param takes_step: whether Adam is part of the graph; else it only gives the gradient
    """

    options: LossOptions
    symmetric_clip: bool
    clips_values: bool
    row_kl: bool
    stops: bool
    takes_step: bool


Step = Callable[..., None]
#: from a step's numbers and its figures to the numbers that Adam takes, and whether nothing moves (None: it does)
Steer = Callable[[th.Tensor, th.Tensor], tuple[th.Tensor, th.Tensor | None]]


def make_policy_step(plain: PlainPolicy, flat: FlatAdam, kind: StepKind, steer: Steer | None = None) -> Step:
    """
    Write the gradient step of the whole loss for one policy.

    :param plain: the policy as a module
    :param flat: where its parameters stand
    :param kind: what the step is made of
    :param steer: decides on the device what follows from the figures, None for nothing but the limit of the KL
    :return: step(parameters, exp_avg, exp_avg_sq, gradient, numbers, batch, figures); all but numbers and batch are
        written in place
    """

    def loss_of(parameters: th.Tensor, numbers: th.Tensor, batch: Minibatch) -> tuple[th.Tensor, th.Tensor]:
        inputs = (batch.observations, batch.actions, batch.action_masks)
        outputs = functional_call(plain, _prefixed(flat, parameters), inputs, tie_weights=False)
        terms = ppo_loss(outputs, batch, _coefficients(numbers, kind), kind.options)
        return terms.loss, _figures(terms, kind)

    segments = list(enumerate(flat.segments))

    def step(
        parameters: th.Tensor,
        exp_avg: th.Tensor,
        exp_avg_sq: th.Tensor,
        gradient: th.Tensor,
        numbers: th.Tensor,
        batch: Minibatch,
        figures: th.Tensor,
    ) -> None:
        slopes, measured = grad(loss_of, has_aux=True)(parameters, numbers, batch)
        norm = slopes.square().sum().sqrt()
        slopes = slopes * _clip_factor(norm, numbers)
        if kind.takes_step:
            stays = measured[APPROX_KL] > numbers[NUMBERS.index("kl_limit")] if kind.stops else None
            if steer is not None:
                numbers, stays = steer(numbers, measured)
            _take_step((parameters, exp_avg, exp_avg_sq), slopes, numbers, segments, stays)
        else:
            gradient.copy_(slopes)
        figures.copy_(_padded(th.cat([measured, norm[None]]), len(figures)))

    return step


def make_critic_step(plain: PlainPolicy, flat: FlatAdam, kind: StepKind) -> Step:
    """
    Write the gradient step of the value loss alone, for the parameters that stand apart.

    :param plain: the policy as a module
    :param flat: where its parameters stand, those of the critic apart
    :param kind: what the step is made of
    :return: a step with the arguments of :func:`make_policy_step`
    """

    def loss_of(parameters: th.Tensor, numbers: th.Tensor, batch: Minibatch) -> th.Tensor:
        batch = without_invalid_rows(batch)
        values = functional_call(plain, _prefixed(flat, parameters), (batch.observations,), tie_weights=False)
        coefs = _coefficients(numbers, kind)
        return coefs.vf_coef * value_loss_of(values, batch, coefs, kind.options)

    apart = [(i, segment) for i, segment in enumerate(flat.segments) if flat.is_apart[i]]

    def step(
        parameters: th.Tensor,
        exp_avg: th.Tensor,
        exp_avg_sq: th.Tensor,
        gradient: th.Tensor,
        numbers: th.Tensor,
        batch: Minibatch,
        figures: th.Tensor,
    ) -> None:
        slopes = grad(loss_of)(parameters, numbers, batch)
        norm = th.cat([slopes[s.start : s.stop] for _, s in apart]).square().sum().sqrt()
        slopes = slopes * _clip_factor(norm, numbers)
        _take_step((parameters, exp_avg, exp_avg_sq), slopes, numbers, apart, None)
        figures.copy_(_padded(th.cat([norm.new_zeros(GRAD_NORM), norm[None]]), len(figures)))

    return step


def compile_step(step: Step, device: th.device, backend: str = "inductor") -> Step:
    """
    Hand a step to torch.compile.

    :param step: function that was made above
    :param device: where it will run
    :param backend: torch.compile's backend
    :return: the same, compiled at its first call; what cannot be compiled raises there
    """
    # Dynamo keeps what it compiled with the code object and gives up after eight versions of it. With code of its own,
    # each model of a study is the first, and its graph goes when the model goes.
    own: Any = types.FunctionType(
        step.__code__.replace(), step.__globals__, step.__name__, step.__defaults__, step.__closure__
    )
    options: dict[str, Any] = {}
    if backend == "inductor":
        # On the CPU the calls between kernels in C++ as well: in Python they are a good part of a small step.
        # Networks that draw numbers in training draw those of the eager update.
        own_options = {"size_asserts": False, "fallback_random": True, "cpp_wrapper": device.type == "cpu"}
        options = {"options": own_options}
    compiled: Step = th.compile(own, backend=backend, fullgraph=True, dynamic=False, **options)
    return compiled


@contextmanager
def compiling() -> Iterator[None]:
    """
    For compilation, which leaves traces in the process.

    It switches off the checks of all distributions; afterwards they are as before, so that SB3's policies still raise
    their error when a parameter has become NaN. And it logs the whole way to an error, of which one warning tells.
    """
    checks = th.distributions.Distribution._validate_args
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._subclasses", "torch._inductor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(checks)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def without_compiling() -> AbstractContextManager[Any]:
    """
    Inside, a compiled function raises where what it was compiled for has changed, instead of compiling once more.

    :return: context
    """
    stance: AbstractContextManager[Any] = th.compiler.set_stance("fail_on_recompile")
    return stance


def without_guards() -> AbstractContextManager[Any]:
    """
    Inside, compiled functions do not look again whether what they were compiled for has changed.

    Only for the steps of one epoch after the first: nothing of the user's runs between them but the networks.

    :return: context
    """
    stance: AbstractContextManager[Any] = th.compiler.set_stance(skip_guard_eval_unsafe=True)
    return stance


def padded_width(n: int) -> int:
    """
    :param n: numbers in a row
    :return: numbers of a row that keeps the next one aligned
    """
    return -(-n // ALIGNMENT) * ALIGNMENT


def _prefixed(flat: FlatAdam, parameters: th.Tensor) -> dict[str, th.Tensor]:
    return {f"policy.{name}": value for name, value in flat.named(parameters).items()}


def _coefficients(numbers: th.Tensor, kind: StepKind) -> Coefficients:
    values: dict[str, Any] = {name: numbers[i] for i, name in enumerate(Coefficients._fields)}
    if kind.symmetric_clip:
        values["clip_low"] = values["clip_high"]
    if not kind.clips_values:
        values["clip_range_vf"] = None
    return Coefficients(**values)


def _figures(terms: LossTerms, kind: StepKind) -> th.Tensor:
    """What the log wants of a step, all but the norm of the gradient [len(FIGURES) - 1]."""
    kl = terms.approx_kl if terms.kl is None or not kind.row_kl else terms.kl
    ratio = terms.ratio.detach()
    return th.stack(
        [
            terms.loss.detach(),
            terms.policy_loss.detach(),
            terms.value_loss.detach(),
            terms.entropy_loss.detach(),
            terms.approx_kl,
            terms.clip_fraction,
            kl.detach(),
            ratio.min(),
            ratio.max(),
        ]
    )


def _clip_factor(norm: th.Tensor, numbers: th.Tensor) -> th.Tensor:
    """min(1, max_grad_norm / (norm + 1e-6)), as torch's clip_grad_norm_ has it."""
    return (numbers[NUMBERS.index("max_grad_norm")] / (norm + 1e-6)).clamp(max=1.0)


def _take_step(
    vectors: tuple[th.Tensor, th.Tensor, th.Tensor],
    slopes: th.Tensor,
    numbers: th.Tensor,
    segments: Sequence[tuple[int, Any]],
    stays: th.Tensor | None,
) -> None:
    """Adam on some segments of the vectors, in place; nothing moves where ``stays`` is True."""
    for index, segment in segments:
        at = len(NUMBERS) + RATES * index
        here = slice(segment.start, segment.stop)
        parts = (vectors[0][here], vectors[1][here], vectors[2][here])
        moved = adam_step(*parts, slopes[here], numbers[at : at + RATES], segment)
        for part, new in zip(parts, moved, strict=True):
            part.copy_(new if stays is None else th.where(stays, part, new))


def _padded(row: th.Tensor, width: int) -> th.Tensor:
    return th.cat([row, row.new_zeros(width - len(row))])
