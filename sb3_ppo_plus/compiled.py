"""The passes of an update with each gradient step as one compiled graph; see :mod:`sb3_ppo_plus.graphs`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus import graphs
from sb3_ppo_plus.eager import EagerUpdate, UpdateRun, train_minibatch
from sb3_ppo_plus.flat_adam import RATES, FlatAdam, is_plain_adam, why_not_flat
from sb3_ppo_plus.gathering import why_not_gathered
from sb3_ppo_plus.graphs import APPROX_KL, FIGURES, GRAD_NORM, NUMBERS, Step, StepKind, padded_width
from sb3_ppo_plus.machine import torch_threads, update_threads
from sb3_ppo_plus.plain_policy import PlainPolicy, has_image, why_not_plain
from sb3_ppo_plus.policies import critic_parameters, evaluate
from sb3_ppo_plus.types import Minibatch
from sb3_ppo_plus.update import Snapshot, critic_step, ppo_loss

T = TypeVar("T")

# How far the values, log-probabilities and entropies of the policy as a function may be from the policy's own.
_TOLERANCE = 1e-3


class CannotCompile(Exception):
    """Says why a model's update cannot be compiled."""


class _NotFinite(Exception):
    """A step of this pass was not finite."""


def warn_of_fallback(reason: CannotCompile) -> None:
    """
    Tell that the update is not compiled, once for a model.

    :param reason: why
    """
    warnings.warn(
        f"compile_update: the update cannot be compiled ({reason}); training goes on with the eager update, which "
        "learns the same and is slower. Pass compile_update=False to silence this"
    )


class CompiledUpdate(EagerUpdate):
    """
    Passes over the rollout on a compiled step. The policy and its optimizer are up to date whenever a pass has ended.

    :param policy: policy with its optimizer
    :param critic_apart: whether the critic also learns alone
    :raises CannotCompile: when the policy is not what the graphs are written for
    """

    def __init__(self, policy: ActorCriticPolicy, critic_apart: bool) -> None:
        super().__init__(final=True)
        reason = why_not_plain(policy, values_alone=critic_apart) or why_not_flat(policy)
        if reason is not None:
            raise CannotCompile(reason)
        self.failed = False
        self.plain = PlainPolicy(policy)
        self._critic_apart = critic_apart
        self._apart = {id(p) for p in critic_parameters(policy)} if critic_apart else set()
        self._optimizer = policy.optimizer
        self._made_for = _identity(policy)
        self._steps: dict[Any, Step] = {}
        self._use(FlatAdam(policy, self._apart))

    def _use(self, flat: FlatAdam) -> None:
        self.flat = flat
        self._vectors = (flat.parameters, flat.exp_avg, flat.exp_avg_sq, th.zeros_like(flat.parameters))

    def fits(self, policy: ActorCriticPolicy, critic_apart: bool) -> bool:
        """
        :param policy: the model's policy of now
        :param critic_apart: whether the critic also learns alone
        :return: whether parameters and optimizer are still what this was made for
        """
        same = self.plain.policy is policy and self._optimizer is policy.optimizer
        return (
            same
            and self._critic_apart == critic_apart
            and self._made_for == _identity(policy)
            and self.flat.counts_agree()
        )

    # ------------------------------------------------ compilation

    def prepare(self, run: UpdateRun) -> None:
        """
        Compile what this update needs and is not there yet, on copies: nothing of the model moves.

        :param run: what the update works with
        :raises CannotCompile: when the compiler refuses, or the policy computes something else than its function
        """
        reason = why_not_gathered(run.data.buffer)
        if run.batch_size > run.data.n_rows:
            reason = f"a rollout of {run.data.n_rows} rows has no minibatch of batch_size={run.batch_size}"
        if reason is not None:
            raise CannotCompile(reason)
        kind = self._kind(run)
        names = ["policy", "critic"] if self._critic_apart and is_plain_adam(run.policy.optimizer) else ["policy"]
        example = run.data.epoch_rows.example(run.batch_size)
        for name in names:
            with self._threads(run):
                missing = _key(name, kind, example) not in self._steps
            if missing:
                with run.profile.section("compile"), graphs.compiling():
                    self._compile(name, kind, run, example)

    def _compile(self, name: str, kind: StepKind, run: UpdateRun, example: Minibatch) -> None:
        devices = [run.policy.device] if run.policy.device.type == "cuda" else []
        buffers = [(buffer, buffer.clone()) for buffer in run.policy.buffers()]
        try:
            with th.random.fork_rng(devices):
                if not self._steps:
                    self._check(run, example)
                with self._threads(run):  # of the parameters that the check has left
                    step = self._build(name, kind, run.policy.device)
                    self.flat.gather(moments=is_plain_adam(run.policy.optimizer))
                    numbers, lines = self._numbers(run, 1), _table(1, run.policy.device)
                    _call(step, *(vector.clone() for vector in self._vectors), numbers[0], example, lines[0])
                    key = _key(name, kind, example)
        finally:
            with th.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        self._steps[key] = step

    def _check(self, run: UpdateRun, example: Minibatch) -> None:
        """Refuse a policy whose own evaluation differs from its function; leave out parameters without a gradient."""
        policy, training = run.policy, run.policy.training
        policy.set_training_mode(False)
        try:
            own = evaluate(policy, example, run.with_distribution)
            plain = self.plain(example.observations, example.actions, example.action_masks)
            for name in ("values", "log_prob", "entropy"):
                a, b = getattr(own, name), getattr(plain, name)
                if (a is None) != (b is None) or (a is not None and not th.allclose(a, b, _TOLERANCE, _TOLERANCE)):
                    raise CannotCompile(f"{type(policy).__name__} evaluates {name} in a way of its own")
            loss = ppo_loss(own, example, run.coefs, run.options).loss
            slopes = th.autograd.grad(loss, self.flat.owners, allow_unused=True)
        finally:
            policy.set_training_mode(training)
        unused = {id(p) for p, slope in zip(self.flat.owners, slopes, strict=True) if slope is None}
        if unused:
            # torch's Adam passes over them; a gradient of zero would let weight decay move them
            self._use(FlatAdam(policy, self._apart, without=unused))

    # ------------------------------------------------ passes

    def train_epoch(self, run: UpdateRun) -> bool:
        """
        One pass over the rollout.

        :param run: what the update works with
        :return: whether the KL of a minibatch ended it early
        """
        return self._or_eagerly(run, self._train_epoch, super().train_epoch)

    def train_critic(self, run: UpdateRun) -> None:
        """
        One pass over the rollout in which only the critic learns.

        :param run: what the update works with
        """
        compiled = self._train_critic if is_plain_adam(run.policy.optimizer) else super().train_critic
        self._or_eagerly(run, compiled, super().train_critic)

    def _or_eagerly(self, run: UpdateRun, compiled: Callable[[UpdateRun], T], eagerly: Callable[[UpdateRun], T]) -> T:
        """
        Make a pass on graphs. Should one of them not fit any more, the pass is made again from where it began, eagerly,
        and so are all that follow. Should a step not be finite, this pass alone is.
        """
        if self.failed:
            return eagerly(run)
        draws = np.random.get_state(), th.get_rng_state()  # noqa: NPY002
        device = run.policy.device
        drawn_there = th.cuda.get_rng_state(device) if device.type == "cuda" else None
        before = None if self._kind(run).takes_step else Snapshot(run.policy)
        try:
            return compiled(run)
        except _NotFinite:
            pass  # one by one, it is found which of them it was
        except CannotCompile as reason:
            warn_of_fallback(reason)
            self.failed = True
        np.random.set_state(draws[0])  # noqa: NPY002
        th.set_rng_state(draws[1])
        if drawn_there is not None:
            th.cuda.set_rng_state(drawn_there, device)
        if before is not None:
            before.restore(run.policy)
        run.metrics.forget_epoch()
        return eagerly(run)

    def _train_epoch(self, run: UpdateRun) -> bool:
        with run.profile.section("minibatches"), self._threads(run):
            kind = self._kind(run)
            stopped, last = (self._take_steps if kind.takes_step else self._take_gradients)(run, kind)
            if stopped or last is None:
                return stopped
            # one truncated minibatch an epoch is not worth a graph of its own
            run.profile.switch("gradient")
            return train_minibatch(run, last)

    def _take_steps(self, run: UpdateRun, kind: StepKind) -> tuple[bool, Minibatch | None]:
        """Each full minibatch as one graph that measures and steps."""
        self.flat.gather()
        count = run.data.n_rows // run.batch_size
        numbers, lines = self._numbers(run, count), _table(count, run.policy.device)
        measured, stopped, last = 0, False, None
        step: Step | None = None
        self._begin(run)
        with ExitStack() as stance:
            stance.enter_context(graphs.without_compiling())
            for batch in run.data.epoch_rows.minibatches(run.batch_size):
                if len(batch.returns) < run.batch_size:
                    last = batch
                    break
                run.profile.switch("gradient")
                if step is None:
                    step = self._steps[_key("policy", kind, batch)]
                    _call(step, *self._vectors, numbers[measured], batch, lines[measured])
                    stance.enter_context(graphs.without_guards())
                else:
                    _call(step, *self._vectors, numbers[measured], batch, lines[measured])
                measured += 1
                if kind.stops and self._stops_at(run, lines[measured - 1]):
                    stopped = True
                    break
                run.profile.switch("minibatches")
        measured, stopped = self._settle(measured, stopped)
        taken = measured - stopped
        _check_steps(run, lines[:taken])
        self.flat.scatter(taken)
        _note(run, kind, lines[:measured], taken)
        self._passed(run)
        return stopped, last

    def _take_gradients(self, run: UpdateRun, kind: StepKind) -> tuple[bool, Minibatch | None]:
        """
        Each full minibatch as one graph that measures and gives the gradient; the optimizer steps by itself.

        For optimizers other than Adam, and for a learning rate that moves with the KL of the very minibatch.
        """
        numbers = self._numbers(run, 1)[0]
        for batch in run.data.epoch_rows.minibatches(run.batch_size):
            if len(batch.returns) < run.batch_size:
                return False, batch
            run.profile.switch("gradient")
            self.flat.gather(moments=False)
            line = _table(1, run.policy.device)[0]
            with graphs.without_compiling():
                _call(self._steps[_key("policy", kind, batch)], *self._vectors, numbers, batch, line)
            stopped = kind.stops and run.stop.exceeded(float(line[APPROX_KL]))
            if run.guard is not None and line.is_cpu and not math.isfinite(line[GRAD_NORM]):
                raise _NotFinite
            _note(run, kind, [line], 0 if stopped else 1)
            if stopped:
                return True, None
            if run.rate_moves:
                run.move_rate()
            self.flat.set_gradients(self._vectors[-1])
            run.policy.optimizer.step()
            run.profile.switch("minibatches")
        return False, None

    def _train_critic(self, run: UpdateRun) -> None:
        kind = self._kind(run)
        last, taken = None, 0
        with run.profile.section("minibatches"), self._threads(run), graphs.without_compiling():
            self.flat.gather()
            count = run.data.n_rows // run.batch_size
            numbers, lines = self._numbers(run, count), _table(count, run.policy.device)
            for batch in run.data.epoch_rows.minibatches(run.batch_size):
                if len(batch.returns) < run.batch_size:
                    last = batch
                    break
                run.profile.switch("gradient")
                _call(self._steps[_key("critic", kind, batch)], *self._vectors, numbers[taken], batch, lines[taken])
                taken += 1
                run.profile.switch("minibatches")
            _check_steps(run, lines[:taken])
            self.flat.scatter(taken, moved=[index for index, apart in enumerate(self.flat.is_apart) if apart])
            if last is not None:
                critic_step(run.policy, last, run.coefs, run.options, run.max_grad_norm, run.guard)

    def _numbers(self, run: UpdateRun, n_steps: int) -> list[th.Tensor]:
        """What may differ from step to step, one row each."""
        coefs = [0.0 if value is None else float(value) for value in run.coefs]
        fixed = [*coefs, run.max_grad_norm, run.stop.limit]
        table = np.zeros((n_steps, padded_width(len(NUMBERS) + RATES * len(self.flat.segments))), dtype=np.float32)
        table[:, : len(NUMBERS)] = fixed
        if is_plain_adam(run.policy.optimizer):
            rates = self.flat.rates(n_steps)
            table[:, len(NUMBERS) : len(NUMBERS) + rates.shape[1]] = rates
        return list(th.tensor(table, device=run.policy.device).unbind(0))

    # ------------------------------------------------ what a subclass does in another way

    def _kind(self, run: UpdateRun) -> StepKind:
        return StepKind(
            options=run.options,
            symmetric_clip=run.coefs.clip_low is run.coefs.clip_high,
            clips_values=run.coefs.clip_range_vf is not None,
            row_kl=run.data.needs.row_kl,
            stops=run.stop.checks_minibatches,
            takes_step=is_plain_adam(run.policy.optimizer) and not run.rate_moves,
        )

    def _build(self, name: str, kind: StepKind, device: th.device) -> Step:
        make = graphs.make_policy_step if name == "policy" else graphs.make_critic_step
        return graphs.compile_step(make(self.plain, self.flat, kind), device)

    def _begin(self, run: UpdateRun) -> None:
        """The steps of an epoch begin."""

    def _stops_at(self, run: UpdateRun, line: th.Tensor) -> bool:
        """Whether the minibatch whose figures these are ends the update."""
        return run.stop.exceeded(float(line[APPROX_KL]))

    def _settle(self, measured: int, stopped: bool) -> tuple[int, bool]:
        """How many minibatches were measured in the end, and whether the last of them ended the update."""
        return measured, stopped

    def _passed(self, run: UpdateRun) -> None:
        """The steps of an epoch have reached the policy."""

    def _threads(self, run: UpdateRun) -> AbstractContextManager[None]:
        rows, weights = run.batch_size, len(self.flat.parameters)
        return torch_threads(update_threads(rows, weights, has_image(run.policy.observation_space)))


def _key(name: str, kind: StepKind, batch: Minibatch) -> Any:
    """What decides whether a graph fits: its kind, which columns the minibatches have, and torch's threads of now."""
    return name, kind, tuple(column is not None for column in batch), len(batch.returns), th.get_num_threads()


def _identity(policy: ActorCriticPolicy) -> Any:
    """What a graph was written for: these very parameters, trained or not, and what the optimizer does with them."""
    parameters = [
        (id(p), p.requires_grad, p.dtype, p.device, bool(p._backward_hooks or p._post_accumulate_grad_hooks))
        for p in policy.parameters()
    ]
    options = ("betas", "eps", "weight_decay", "decoupled_weight_decay")
    groups = [
        ([id(p) for p in group["params"]], [group.get(option) for option in options])
        for group in policy.optimizer.param_groups
    ]
    return parameters, groups


def _call(step: Step, *arguments: Any) -> None:
    """Run a graph, and say in one line what is wrong with it."""
    try:
        step(*arguments)
    except Exception as error:
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        said = [line.strip() for line in str(innermost).splitlines() if line.strip()]
        raise CannotCompile(f"{type(innermost).__name__}: {said[0] if said else 'no message'}") from error


def _table(n_steps: int, device: th.device) -> list[th.Tensor]:
    """Rows for the figures of the steps, each aligned."""
    return list(th.zeros(n_steps, padded_width(len(FIGURES)), device=device).unbind(0))


def _check_steps(run: UpdateRun, lines: list[th.Tensor]) -> None:
    """Before the steps that were taken on copies reach the policy."""
    if run.guard is not None and lines and not run.guard.all_pass(th.stack(lines)[:, GRAD_NORM]):
        raise _NotFinite


def _note(run: UpdateRun, kind: StepKind, lines: list[th.Tensor], taken: int) -> None:
    """Hand the figures of some steps to the metrics; the last of them may not have become a step."""
    if not lines:
        return
    columns = dict(zip(FIGURES, th.stack(lines)[:, : len(FIGURES)].unbind(1), strict=True))
    columns["grad_norm"] = columns["grad_norm"][:taken]
    unwanted = [] if run.ratios else ["ratio_min", "ratio_max"]
    for name in unwanted if kind.row_kl else [*unwanted, "kl"]:
        del columns[name]
    run.metrics.add_columns(columns, taken)
