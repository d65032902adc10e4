"""
One rollout whose rows never leave the device: the twin of :mod:`sb3_ppo_plus.rollout` without a word to the host.

Nothing between two steps asks a value of the device, so the host only launches work and runs ahead. What SB3 keeps on
the host (last observations, the episodes that ended) is brought there once, when the rollout is over; callbacks get
what they read of the local variables when they read it, and then wait for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus.buffers import AWAITS_ACTION, INVALID_ROW, LOST_ROW
from sb3_ppo_plus.callback_locals import locals_of
from sb3_ppo_plus.device.acting import DeviceActor
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.episodes import SUCCESS, EpisodeRows
from sb3_ppo_plus.device.options import read_options
from sb3_ppo_plus.device.precision import unchecked_distributions
from sb3_ppo_plus.envs.arrays import to_numpy
from sb3_ppo_plus.envs.base import EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.nonfinite.env_guard import EnvGuard
from sb3_ppo_plus.types import ArrayStep, TensorStep

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

_POLICY, _ENV, _CALLBACKS, _BUFFER, _ADVANTAGES = "policy", "env", "callbacks", "buffer", "advantages"
# What is said of agents with a rhythm of their own, whose advantages are computed on the host.
_RHYTHM = frozenset({INVALID_ROW, AWAITS_ACTION, LOST_ROW})


class DeviceRollout:
    """
    What one rollout needs, and its state at the current step.

    :param model: the algorithm, on the device of its environments
    :param env: environments
    :param callback: called at every step, and at the end
    :param buffer: rollout buffer to fill
    :param n_steps: T
    """

    def __init__(
        self, model: PPOPlus, env: TensorVecEnv, callback: BaseCallback, buffer: DeviceBuffer, n_steps: int
    ) -> None:
        self.model, self.env, self.callback, self.buffer, self.n_steps = model, env, callback, buffer, n_steps
        self.actor = _actor_of(model, buffer)
        self.guard: EnvGuard | None = None if model._learning is None else model._learning.env_guard
        self.episodes = EpisodeRows(n_steps, env.num_envs, model._stats_window_size, buffer.device)
        self.locals = locals_of(callback)
        self.locals.setdefault("callback", callback)
        plain = {"self": model, "env": env, "rollout_buffer": buffer, "n_rollout_steps": n_steps}
        self.locals.provide(plain, {name: getattr(self, f"_{name}") for name in _MADE})
        # Of the current step: its number, what was done in it, and what came of it.
        self.t = 0
        self.commands: th.Tensor
        self.step: TensorStep
        self.done: th.Tensor
        self.last_values: th.Tensor | None = None

    def run(self) -> bool:
        """:return: False when the callback ended the training"""
        model, env, buffer, actor, shown = self.model, self.env, self.buffer, self.actor, self.locals
        renew, update_locals, on_step = shown.renew, self.callback.update_locals, self.callback.on_step
        switch, put, n_envs = model.profile.switch, buffer.put, env.num_envs
        # SB3 keeps them on the host between two rollouts, where callbacks and checkpoints find them.
        obs: Any = th.as_tensor(model._last_obs, device=buffer.device)
        starts = th.as_tensor(model._last_episode_starts, device=buffer.device)
        if self.guard is not None:
            self.guard.defer()
        with unchecked_distributions():
            for t in range(self.n_steps):
                switch(_POLICY)
                self.t = t
                row = put("observations", t, obs)
                self.commands, actions, values, log_probs = actor.act(row.reshape(obs.shape))
                put("actions", t, actions)
                put("values", t, values)
                put("log_probs", t, log_probs)
                put("episode_starts", t, starts)
                switch(_ENV)
                self.step = step = env.step_tensors(self.commands)
                self.done = done = step.terminated | step.truncated
                model.num_timesteps += n_envs
                switch(_BUFFER)
                put("rewards", t, step.rewards)
                self._keep_ends(t, step)
                buffer.close(t)
                switch(_CALLBACKS)
                renew()
                update_locals(shown)
                if not on_step():
                    return False
                obs, starts = step.obs, done
            self._finish()
        return True

    def _keep_ends(self, t: int, step: TensorStep) -> None:
        if step.final_obs is not step.obs:  # one object for both says that nothing ended
            self.buffer.put("final_observations", t, step.final_obs)  # type: ignore[arg-type]
            th.gt(step.truncated, step.terminated, out=self.buffer.tensors["cut"][t])
        self.episodes.note(t, step.stats, self.done)
        if not _RHYTHM.isdisjoint(step.stats):
            raise InvalidArgument(
                f"{type(self.env).__name__} has agents with a rhythm of their own, which rollouts on the device do "
                "not know; pass device_options={'rollout': False}"
            )

    def _finish(self) -> None:
        """Ask the critic what lies beyond the rollout, compute the advantages, and tell the host what it keeps."""
        model, buffer = self.model, self.buffer
        model.profile.switch(_ADVANTAGES)
        if "final_observations" in buffer.tensors:
            add_final_values(buffer, self.actor, looks=buffer.device.type == "cpu")
        self.last_values = self.actor.values(self.step.obs)  # type: ignore[arg-type]
        buffer.compute_returns_and_advantage(self.last_values, self.done)
        self._tell_host()
        model.profile.switch(_CALLBACKS)
        self.locals.renew()
        self.callback.update_locals(self.locals)
        self.callback.on_rollout_end()

    def _tell_host(self) -> None:
        """The only words of the rollout: one vector, and the last observations."""
        model, episodes = self.model, self.episodes
        noted = self.done.new_zeros(1).double() if self.guard is None else self.guard.noted().double().reshape(1)
        told = th.cat((noted, self.done.double(), episodes.last())).cpu().numpy()
        if self.guard is not None and np.isnan(told[0]):
            self.guard.refuse_noted()
        n = self.env.num_envs
        count, figures = int(told[n + 1]), told[n + 2 :].reshape(len(episodes.names), episodes.kept)
        ended = dict(zip(episodes.names, figures[:, :count].tolist(), strict=True))
        model._last_obs, model._last_episode_starts = to_numpy(self.step.obs), told[1 : n + 1] != 0.0
        seconds = round(time.time() - self.env._start_time, 6)
        if EPISODE_RETURN in ended and model.ep_info_buffer is not None:
            returns, lengths, *_ = ended.values()
            for value, length in zip(returns, lengths, strict=True):
                model.ep_info_buffer.append({"r": round(value, 6), "l": int(length), "t": seconds})
        if model.ep_success_buffer is not None:
            model.ep_success_buffer.extend(bool(success) for success in ended.get(SUCCESS, ()))

    # ------------------------------------------------ SB3's local variables, made when a callback reads them

    def _n_steps(self) -> int:
        return self.t if self.last_values is None else self.n_steps

    def _obs_tensor(self) -> Any:
        return self.buffer.tensors["observations"][self.t]

    def _actions(self) -> np.ndarray:
        actions = self.buffer.tensors["actions"][self.t]
        return actions.cpu().numpy().reshape(self.env.num_envs, *(self.model.action_space.shape or ()))

    def _clipped_actions(self) -> np.ndarray:
        return self.commands.cpu().numpy()

    def _values(self) -> th.Tensor:
        values = self.buffer.tensors["values"][self.t] if self.last_values is None else self.last_values
        return values.reshape(-1, 1)

    def _log_probs(self) -> th.Tensor:
        return self.buffer.tensors["log_probs"][self.t]

    def _new_obs(self) -> Any:
        return to_numpy(self.step.obs)

    def _rewards(self) -> np.ndarray:
        return self.step.rewards.cpu().numpy()

    def _dones(self) -> np.ndarray:
        return self.done.cpu().numpy()

    def _infos(self) -> list[dict[str, Any]]:
        step, dones = self.step, self._dones()
        arrays = ArrayStep(
            to_numpy(step.obs),
            to_numpy(step.rewards),
            step.terminated.cpu().numpy(),
            step.truncated.cpu().numpy(),
            to_numpy(step.final_obs),
            {name: value.cpu().numpy() for name, value in step.stats.items()},
        )
        return self.env.make_infos(arrays, dones.nonzero()[0].tolist())


# Names of the methods above, without their underscore.
_MADE = tuple("n_steps obs_tensor actions clipped_actions values log_probs new_obs rewards dones infos".split())


def add_final_values(buffer: DeviceBuffer, actor: DeviceActor, looks: bool) -> None:
    """
    Add what the critic expects after episodes that were cut off to their last rewards, as SB3 does (its issue 633).

    :param buffer: rollout with its final observations
    :param actor: what asks the critic
    :param looks: whether to look which episodes were cut off and ask about these alone, which is cheap on the
        processor; an accelerator asks about all rows, a pass of the critic without gradients, rather than let the host
        wait for the answer
    """
    cut, rewards = buffer.flat("cut"), buffer.flat("rewards")
    observations = buffer.flat("final_observations")
    if looks:
        at = cut.nonzero()[:, 0]
        if len(at):
            rewards[at] += buffer.gamma * actor.values(_as_seen(observations[at], buffer))
        return
    rewards += th.where(cut, buffer.gamma * actor.values(_as_seen(observations, buffer)), 0.0)


def _as_seen(observations: th.Tensor, buffer: DeviceBuffer) -> th.Tensor:
    """Rows in the shape of the space: whole numbers are kept as [B, 1] and seen as [B]."""
    return observations.reshape(len(observations), *(buffer.observation_space.shape or ()))


def _actor_of(model: PPOPlus, buffer: DeviceBuffer) -> DeviceActor:
    """The actor of the last rollout, so that its graph is recorded once, while the policy is still the same."""
    options = read_options(model.device_options)
    actor: DeviceActor | None = buffer.actor
    if actor is None or not actor.fits(model.policy, options):
        actor = buffer.actor = DeviceActor(model.policy, options)
    return actor
