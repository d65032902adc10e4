"""The passes of an update with each gradient step as one compiled graph; see :mod:`sb3_ppo_plus.graphs`."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ppo_plus import graphs
from sb3_ppo_plus.eager import EagerUpdate, UpdateRun, train_minibatch
from sb3_ppo_plus.flat_adam import RATES, FlatAdam, is_plain_adam, why_not_flat
from sb3_ppo_plus.graphs import APPROX_KL, FIGURES, NUMBERS, Step, StepKind, padded_width
from sb3_ppo_plus.machine import torch_threads, update_threads
from sb3_ppo_plus.plain_policy import PlainPolicy, why_not_plain
from sb3_ppo_plus.policies import critic_parameters, evaluate
from sb3_ppo_plus.types import Minibatch
from sb3_ppo_plus.update import critic_step, ppo_loss

# How far the values, log-probabilities and entropies of the policy as a function may be from the policy's own.
_TOLERANCE = 1e-3


class CannotCompile(Exception):
    """Says why a model's update cannot be compiled."""


class CompiledUpdate(EagerUpdate):
    """
    Passes over the rollout on a compiled step. The policy and its optimizer are up to date whenever a pass has ended.

    :param policy: policy with its optimizer
    :param critic_apart: whether the critic also learns alone
    :raises CannotCompile: when the policy is not what the graphs are written for
    """

    def __init__(self, policy: ActorCriticPolicy, critic_apart: bool) -> None:
        super().__init__(final=True)
        reason = why_not_plain(policy) or why_not_flat(policy)
        if reason is not None:
            raise CannotCompile(reason)
        self.plain = PlainPolicy(policy)
        self._apart = {id(p) for p in critic_parameters(policy)} if critic_apart else set()
        self._made_for = _identity(policy)
        self._steps: dict[Any, Step] = {}
        self._use(FlatAdam(policy, self._apart))

    def _use(self, flat: FlatAdam) -> None:
        self.flat = flat
        self._vectors = (flat.parameters, flat.exp_avg, flat.exp_avg_sq, th.zeros_like(flat.parameters))

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """
        :param policy: the model's policy of now
        :return: whether its parameters and its optimizer are those that this was made for
        """
        return _identity(policy) == self._made_for

    # ------------------------------------------------ compilation

    def prepare(self, run: UpdateRun, critic: bool) -> None:
        """
        Compile what this update needs and is not there yet, on copies: nothing of the model moves.

        :param run: what the update works with
        :param critic: whether the critic will learn alone
        :raises CannotCompile: when the compiler refuses, or the policy computes something else than its function
        """
        if run.batch_size > run.data.n_rows:
            raise CannotCompile(f"a rollout of {run.data.n_rows} rows has no minibatch of batch_size={run.batch_size}")
        kind = _kind(run)
        names = ["policy", "critic"] if critic and is_plain_adam(run.policy.optimizer) else ["policy"]
        example = run.data.epoch_rows.example(run.batch_size)
        for name in names:
            if _key(name, kind, example) not in self._steps:
                with run.profile.section("compile"), graphs.checks_kept():
                    self._compile(name, kind, run, example)

    def _compile(self, name: str, kind: StepKind, run: UpdateRun, example: Minibatch) -> None:
        devices = [run.policy.device] if run.policy.device.type == "cuda" else []
        try:
            if not self._steps:
                self._check(run, example)
            make = graphs.make_policy_step if name == "policy" else graphs.make_critic_step
            step = graphs.compile_step(make(self.plain, self.flat, kind), run.policy.device)
            numbers, lines = self._numbers(run, 1), _table(1, run.policy.device)
            copies = [vector.clone() for vector in self._vectors]
            with th.random.fork_rng(devices), self._threads(run):
                step(*copies, numbers[0], example, lines[0])
        except CannotCompile:
            raise
        except Exception as error:
            said = str(error).strip().splitlines()
            raise CannotCompile(f"{type(error).__name__}: {said[0] if said else 'no message'}") from error
        self._steps[_key(name, kind, example)] = step

    def _check(self, run: UpdateRun, example: Minibatch) -> None:
        """Refuse a policy whose own evaluation differs from its function; leave out parameters without a gradient."""
        policy, training = run.policy, run.policy.training
        policy.set_training_mode(False)
        try:
            own = evaluate(policy, example, run.with_distribution)
            plain = self.plain(example.observations, example.actions)
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
        with run.profile.section("minibatches"), self._threads(run):
            kind = _kind(run)
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
        measured = taken = 0
        stopped, last = False, None
        step: Step | None = None
        with ExitStack() as guards:
            for batch in run.data.epoch_rows.minibatches(run.batch_size):
                if len(batch.returns) < run.batch_size:
                    last = batch
                    break
                run.profile.switch("gradient")
                if step is None:
                    step = self._steps[_key("policy", kind, batch)]
                    step(*self._vectors, numbers[taken], batch, lines[measured])
                    guards.enter_context(graphs.without_guards())
                else:
                    step(*self._vectors, numbers[taken], batch, lines[measured])
                measured += 1
                if kind.stops and run.stop.exceeded(float(lines[measured - 1][APPROX_KL])):
                    stopped = True
                    break
                taken += 1
                run.profile.switch("minibatches")
        self.flat.scatter(taken)
        _note(run, kind, lines[:measured], taken)
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
            self._steps[_key("policy", kind, batch)](*self._vectors, numbers, batch, line)
            stopped = kind.stops and run.stop.exceeded(float(line[APPROX_KL]))
            _note(run, kind, [line], 0 if stopped else 1)
            if stopped:
                return True, None
            if run.rate_moves:
                run.move_rate()
            self.flat.set_gradients(self._vectors[-1])
            run.policy.optimizer.step()
            run.profile.switch("minibatches")
        return False, None

    def train_critic(self, run: UpdateRun) -> None:
        """
        One pass over the rollout in which only the critic learns.

        :param run: what the update works with
        """
        if not is_plain_adam(run.policy.optimizer):
            super().train_critic(run)
            return
        kind = _kind(run)
        last, taken = None, 0
        with run.profile.section("minibatches"), self._threads(run):
            self.flat.gather()
            numbers = self._numbers(run, run.data.n_rows // run.batch_size)
            line = _table(1, run.policy.device)[0]
            for batch in run.data.epoch_rows.minibatches(run.batch_size):
                if len(batch.returns) < run.batch_size:
                    last = batch
                    break
                run.profile.switch("gradient")
                self._steps[_key("critic", kind, batch)](*self._vectors, numbers[taken], batch, line)
                taken += 1
                run.profile.switch("minibatches")
            self.flat.scatter(taken, moved=[index for index, apart in enumerate(self.flat.is_apart) if apart])
            if last is not None:
                critic_step(run.policy, last, run.coefs, run.options, run.max_grad_norm)

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

    def _threads(self, run: UpdateRun) -> AbstractContextManager[None]:
        space = run.policy.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        has_image = any(is_image_space(part) for part in parts)
        return torch_threads(update_threads(run.batch_size, len(self.flat.parameters), has_image))


def _kind(run: UpdateRun) -> StepKind:
    return StepKind(
        options=run.options,
        symmetric_clip=run.coefs.clip_low is run.coefs.clip_high,
        clips_values=run.coefs.clip_range_vf is not None,
        row_kl=run.data.needs.row_kl,
        stops=run.stop.checks_minibatches,
        takes_step=is_plain_adam(run.policy.optimizer) and not run.rate_moves,
    )


def _key(name: str, kind: StepKind, batch: Minibatch) -> Any:
    """What decides whether a graph fits: its kind, and which columns the minibatches have."""
    return name, kind, tuple(column is not None for column in batch), len(batch.returns)


def _identity(policy: ActorCriticPolicy) -> Any:
    """What a graph was written for: these very parameters, trained or not, and this optimizer."""
    return id(policy), id(policy.optimizer), tuple((id(p), p.requires_grad) for p in policy.parameters())


def _table(n_steps: int, device: th.device) -> list[th.Tensor]:
    """Rows for the figures of the steps, each aligned."""
    return list(th.zeros(n_steps, padded_width(len(FIGURES)), device=device).unbind(0))


def _note(run: UpdateRun, kind: StepKind, lines: list[th.Tensor], taken: int) -> None:
    """Hand the figures of some steps to the metrics; the last of them may not have become a step."""
    if not lines:
        return
    columns = dict(zip(FIGURES, th.stack(lines)[:, : len(FIGURES)].unbind(1), strict=True))
    columns["grad_norm"] = columns["grad_norm"][:taken]
    low, high = columns.pop("ratio_min"), columns.pop("ratio_max")
    if run.ratios:
        run.metrics.add_ratios(th.cat([low, high]))
    if not kind.row_kl:
        del columns["kl"]
    run.metrics.add_columns(columns, taken)
