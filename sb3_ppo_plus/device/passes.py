"""The passes of an update whose rows and decisions stay on the device; each gradient step a CUDA graph where it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus import graphs
from sb3_ppo_plus.compiled import CompiledUpdate
from sb3_ppo_plus.controllers import Controller, KLBand
from sb3_ppo_plus.device.cuda_graph import can_capture, capture, warn_of_eager
from sb3_ppo_plus.device.options import DeviceOptions
from sb3_ppo_plus.device.steering import Steering, can_steer
from sb3_ppo_plus.eager import UpdateRun
from sb3_ppo_plus.flat_adam import is_plain_adam
from sb3_ppo_plus.gathering import map_tensors
from sb3_ppo_plus.graphs import Step, StepKind
from sb3_ppo_plus.types import Minibatch


class DeviceUpdate(CompiledUpdate):
    """
    :class:`~sb3_ppo_plus.compiled.CompiledUpdate` that asks nothing of the device between two minibatches.

    Its steps are those of the compiled update, compiled or not: parameters and moments in three vectors, gradient,
    clipping and Adam as functions of tensors. ``target_kl`` and a ``kl_band`` that moves the learning rate at every
    minibatch are decided on the device.

    :param policy: policy with its optimizer
    :param critic_apart: whether the critic also learns alone
    :param compiles: whether steps are handed to torch.compile
    :param options: what was chosen about the device
    :raises CannotCompile: when the policy is not what the steps are written for
    """

    def __init__(self, policy: ActorCriticPolicy, critic_apart: bool, compiles: bool, options: DeviceOptions) -> None:
        super().__init__(policy, critic_apart)
        self.compiles, self.options = compiles, options
        self.steering = Steering(policy.device)
        self._controller: Controller | None = None
        self._set_rates: Callable[[], None] = lambda: None
        self._one_rate = True

    def steer(self, controller: Controller | None, set_rates: Callable[[], None], one_rate: bool) -> None:
        """
        Say what moves the learning rate in the update that begins.

        :param controller: what moves it from minibatch to minibatch, None for nobody
        :param set_rates: gives the optimizer the rates that follow from the controller's value
        :param one_rate: whether all parameters have this rate, or some one of their own
        """
        rule = controller if type(controller) is KLBand else None
        if rule is not self.steering.rule:
            self.steering.rule = rule
            self._steps = {}  # the rule's numbers are part of the step
        self._controller, self._set_rates, self._one_rate = controller, set_rates, one_rate

    # ------------------------------------------------ steps

    def _kind(self, run: UpdateRun) -> StepKind:
        moves = run.rate_moves and not can_steer(self._controller)
        return super()._kind(run)._replace(takes_step=is_plain_adam(run.policy.optimizer) and not moves)

    def _build(self, name: str, kind: StepKind, device: th.device) -> Step:
        if name == "policy":
            steers = kind.takes_step and (kind.stops or self.steering.rule is not None)
            steer = self.steering.make(kind, self.flat, self._one_rate) if steers else None
            step = graphs.make_policy_step(self.plain, self.flat, kind, steer)
        else:
            step = graphs.make_critic_step(self.plain, self.flat, kind)
        if self.compiles:
            step = graphs.compile_step(step, device)
        if self.options.cuda_graphs and can_capture(device):
            return GraphedStep(step, self._vectors, self.steering.state, device)
        return step

    def _begin(self, run: UpdateRun) -> None:
        rate = run.policy.optimizer.param_groups[0]["lr"] if self._controller is None else self._controller.value
        self._reads = run.stop.checks_minibatches or self.steering.rule is not None
        if self._reads:
            self.steering.begin(float(rate), run.metrics.in_first_epoch)

    def _stops_at(self, run: UpdateRun, line: th.Tensor) -> bool:
        return False  # the device knows, and nothing moves any more

    def _settle(self, measured: int, stopped: bool) -> tuple[int, bool]:
        if not self._reads or not measured:
            return measured, stopped
        self._rate, stopped, measured = self.steering.end()
        return measured, stopped

    def _passed(self, run: UpdateRun) -> None:
        if self._reads and self.steering.rule is not None and self._controller is not None:
            self._controller.start_at(self._rate)
            self._set_rates()


class GraphedStep:
    """
    A gradient step as a CUDA graph on the very vectors that hold the parameters; where that fails, the step itself.

    :param step: function that takes the step
    :param vectors: parameters, moments and gradient
    :param state: what else the step changes
    :param device: where all of it lives
    """

    def __init__(self, step: Step, vectors: tuple[th.Tensor, ...], state: th.Tensor, device: th.device) -> None:
        self.step, self.vectors, self.state, self.device = step, vectors, state, device
        self.wanted = True
        self._replay: Callable[[], None] | None = None
        self._inputs: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any) -> None:
        """
        :param arguments: vectors, numbers, minibatch and figures, see :func:`~sb3_ppo_plus.graphs.make_policy_step`
        """
        *vectors, numbers, batch, figures = arguments
        in_place = all(one is other for one, other in zip(vectors, self.vectors, strict=True))
        # Copies of the vectors come from those who only want to see whether it works.
        if not (self.wanted and in_place) or (self._replay is None and not self._record(numbers, batch, figures)):
            self.step(*arguments)
            return
        assert self._replay is not None
        own_numbers, own_batch, own_figures = self._inputs
        th._foreach_copy_([own_numbers, *_tensors(own_batch)], [numbers, *_tensors(batch)])
        self._replay()
        figures.copy_(own_figures)

    def _record(self, numbers: th.Tensor, batch: Minibatch, figures: th.Tensor) -> bool:
        own = (numbers.clone(), map_tensors(th.Tensor.clone, batch), figures.clone())
        before = self.state.clone()

        def warm_up() -> None:
            self.step(*(vector.clone() for vector in self.vectors), *own)
            self.state.copy_(before)

        try:
            self._replay, _ = capture(lambda: self.step(*self.vectors, *own), warm_up, self.device)
        except Exception as error:
            self.wanted = False
            warn_of_eager("a gradient step", error)
            return False
        self._inputs = own
        return True


def _tensors(batch: Minibatch) -> list[th.Tensor]:
    found: list[th.Tensor] = []
    map_tensors(found.append, batch)
    return found
