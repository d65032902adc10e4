"""
One rollout from an environment with a tensor face: SB3's ``collect_rollouts`` without what it does N times a step.

Nothing here loops over environments, save over those whose episode ended. Callbacks see SB3's local variables, made
when they are read (:mod:`sb3_ppo_plus.callback_locals`); actions are computed by :mod:`sb3_ppo_plus.actors`; the critic
is asked about all truncated episodes at once, at the end of the rollout. On the host everything between two steps of
the environment is NumPy on memory that torch shares: right after the physics a call of torch costs several times as
much as later.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ppo_plus.actors import make_actor
from sb3_ppo_plus.buffers import LOST_ROW, RowsMixin
from sb3_ppo_plus.callback_locals import locals_of
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.rollout import DeviceRollout
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.rollout_ends import Truncations, compute_advantages, fill_gaps, has_own
from sb3_ppo_plus.types import ArrayStep

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

# Sections of the profile.
_POLICY, _ENV, _CALLBACKS, _BUFFER, _ADVANTAGES = "policy", "env", "callbacks", "buffer", "advantages"
_SB3_ADDS = (RolloutBuffer.add, DictRolloutBuffer.add)
# SB3's wrappers and what takes their place on the tensor face.
_TWINS = {
    "VecNormalize": "use TensorVecNormalize",
    "VecMonitor": "use TensorVecMonitor",
    "VecFrameStack": "use TensorVecFrameStack",
    "VecTransposeImage": "let the environment give its images channel-first",
}


def collect(
    model: PPOPlus, env: TensorVecEnv, callback: BaseCallback, buffer: RolloutBuffer, n_rollout_steps: int
) -> bool:
    """
    Fill the rollout buffer with T steps of N environments.

    What SB3's ``collect_rollouts`` leaves behind, this leaves behind, to float32 rounding: rows, advantages, statistics
    of episodes, ``model._last_obs``. While the rollout is under way ``buffer.rewards`` lacks the value of what
    truncated episodes would still have brought, which SB3 adds at once.

    :param model: the algorithm
    :param env: its environments
    :param callback: called at every step, and at the beginning and the end
    :param buffer: rollout buffer to fill
    :param n_rollout_steps: T, steps of each environment
    :return: False when the callback ended the training
    """
    before = model.profile.switch(_CALLBACKS)
    try:
        # SB3's order: evaluation mode, an empty buffer, noise, the callback
        model.policy.set_training_mode(False)
        buffer.reset()
        if model.use_sde:
            model.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        model.profile.switch(_POLICY)
        if isinstance(buffer, DeviceBuffer):
            return DeviceRollout(model, env, callback, buffer, n_rollout_steps).run()
        return _Rollout(model, env, callback, buffer, n_rollout_steps).run()
    finally:
        model.profile.switch(before)


class _Rollout:
    """What one rollout needs besides the arguments of :func:`collect`, and its state at the current step."""

    def __init__(
        self, model: PPOPlus, env: TensorVecEnv, callback: BaseCallback, buffer: RolloutBuffer, n_steps: int
    ) -> None:
        self.marks = buffer if isinstance(buffer, RowsMixin) else None
        self.model, self.env, self.callback, self.buffer, self.n_steps = model, env, callback, buffer, n_steps
        self.actor = make_actor(model.policy, env.num_envs)
        self.rows = _AddedRows(buffer, model.device) if has_own(buffer, "add", _SB3_ADDS) else _Rows(buffer)
        self.truncations = Truncations(model.policy, model.gamma)
        self.locals = locals_of(callback)
        self.locals.setdefault("callback", callback)
        plain = {"self": model, "env": env, "rollout_buffer": buffer, "n_rollout_steps": n_steps}
        self.locals.provide(plain, {name: getattr(self, f"_{name}") for name in _MADE})
        # Of the current step: its number, what was done in it, and what came of it.
        self.t = 0
        self.obs: Any = None
        self.commands: np.ndarray
        self.step: ArrayStep
        self.dones: np.ndarray
        self.last_values: th.Tensor | None = None

    def run(self) -> bool:
        """:return: False when the callback ended the training"""
        model, env, rows, shown = self.model, self.env, self.rows, self.locals
        renew, update_locals, on_step = shown.renew, self.callback.update_locals, self.callback.on_step
        switch, act, step_arrays, n_envs = model.profile.switch, self.actor.act, env.step_arrays, env.num_envs
        mask_source = model.mask_source(env)
        masks = None
        noise_every = model.sde_sample_freq if model.use_sde else 0
        for t in range(self.n_steps):
            switch(_POLICY)
            if noise_every > 0 and t % noise_every == 0:
                model.policy.reset_noise(n_envs)
            self.t, self.obs = t, model._last_obs
            if mask_source is not None:
                masks = mask_source()
                if self.marks is not None:
                    self.marks.note_masks(t, masks)
            self.commands = act(self.obs, *rows.open(t), masks)
            switch(_ENV)
            self.step = step = step_arrays(self.commands)
            self.dones = dones = step.terminated | step.truncated
            model.num_timesteps += n_envs
            switch(_CALLBACKS)
            renew()
            update_locals(shown)
            if not on_step():
                return False
            switch(_BUFFER)
            finished = dones.nonzero()[0]
            if finished.size:
                self._end_episodes(finished)
            if self.marks is not None:
                self.marks.note_stats(t, step.stats)
            rows.close(t, self.obs, step.rewards, model._last_episode_starts)
            model._last_obs, model._last_episode_starts = step.obs, dones
        self._finish()
        return True

    def _end_episodes(self, finished: np.ndarray) -> None:
        """Count the episodes that ended, and keep the final observations of those that were cut off."""
        model, step = self.model, self.step
        indices = finished.tolist()
        # A callback may have added to the infos that it has seen.
        seen = dict.get(self.locals, "infos")
        infos = self.env.make_final_infos(step, indices) if seen is None else [seen[index] for index in indices]
        BaseAlgorithm._update_info_buffer(model, infos, np.ones(len(infos), bool))
        cut = step.truncated & ~step.terminated
        if LOST_ROW in step.stats:
            cut &= np.equal(step.stats[LOST_ROW], 0)  # what was seen last is not what came of it
        cut_off = finished[cut[finished]]
        if not cut_off.size:
            return
        if model.recompute_advantages and self.marks is not None:
            self.marks.note_truncations(self.t, cut_off, step.final_obs)
        if not self.rows.final:
            self.truncations.note(self.t, cut_off, step.final_obs)
            return
        self.truncations.note(0, cut_off, step.final_obs)
        self.truncations.add_values_to(step.rewards[None])

    def _finish(self) -> None:
        """Ask the critic what lies beyond the rollout, and compute the advantages."""
        model, buffer, step, rows = self.model, self.buffer, self.step, self.rows
        model.profile.switch(_ADVANTAGES)
        if not rows.final:
            self.truncations.add_values_to(buffer.rewards)
            step.rewards[...] = buffer.rewards[self.t]
        with th.no_grad():
            self.last_values = model.policy.predict_values(obs_as_tensor(step.obs, model.device))
        if has_own(buffer, "compute_returns_and_advantage", (RolloutBuffer.compute_returns_and_advantage,)):
            buffer.compute_returns_and_advantage(last_values=self.last_values, dones=self.dones)
        else:
            compute_advantages(buffer, self.last_values.flatten().cpu().numpy(), self.dones)
        fill_gaps(model, buffer, self.last_values)
        model.profile.switch(_CALLBACKS)
        self.locals.renew()
        self.callback.update_locals(self.locals)
        self.callback.on_rollout_end()

    # ------------------------------------------------ SB3's local variables, made when a callback reads them

    def _n_steps(self) -> int:
        return self.t if self.last_values is None else self.n_steps

    def _obs_tensor(self) -> Any:
        return obs_as_tensor(self.obs, self.model.device)

    def _actions(self) -> np.ndarray:
        return self.rows.opened[0].reshape(self.env.num_envs, *(self.model.action_space.shape or ()))

    def _clipped_actions(self) -> np.ndarray:
        return self.commands

    def _values(self) -> th.Tensor:
        if self.last_values is not None:
            return self.last_values
        return th.from_numpy(self.rows.opened[1]).reshape(-1, 1).to(self.model.device)

    def _log_probs(self) -> th.Tensor:
        return th.from_numpy(self.rows.opened[2]).to(self.model.device)

    def _new_obs(self) -> Any:
        return self.step.obs

    def _rewards(self) -> np.ndarray:
        return self.step.rewards

    def _dones(self) -> np.ndarray:
        return self.dones

    def _infos(self) -> list[dict[str, Any]]:
        return self.env.make_infos(self.step, self.dones.nonzero()[0].tolist())


# Names of the methods above, without their underscore.
_MADE = tuple("n_steps obs_tensor actions clipped_actions values log_probs new_obs rewards dones infos".split())


# ------------------------------------------------ rows of the buffer

_Opened = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Rows:
    """Writes into the buffer's arrays what SB3's ``add()`` would copy there."""

    #: whether a row's rewards are final once it is closed
    final = False
    #: actions [N, A], values [N] and log-probabilities [N] of the current step
    opened: _Opened

    def __init__(self, buffer: RolloutBuffer) -> None:
        self.buffer = buffer
        self.write_obs = _make_obs_writer(buffer)

    def open(self, t: int) -> _Opened:
        """
        :param t: step of the rollout
        :return: where its actions, values and log-probabilities belong
        """
        buffer = self.buffer
        self.opened = opened = (buffer.actions[t], buffer.values[t], buffer.log_probs[t])
        return opened

    def close(self, t: int, obs: Any, rewards: np.ndarray, starts: Any) -> None:
        """
        :param t: step of the rollout
        :param obs: observations that were acted on [N, O]
        :param rewards: what it brought [N]
        :param starts: whether an episode began with it [N]
        """
        buffer = self.buffer
        self.write_obs(t, obs)
        buffer.rewards[t] = rewards
        buffer.episode_starts[t] = starts
        buffer.pos = t + 1
        buffer.full = t + 1 == buffer.buffer_size


class _AddedRows(_Rows):
    """Hands rows to the ``add()`` of a user's buffer, in SB3's types."""

    final = True

    def __init__(self, buffer: RolloutBuffer, device: th.device) -> None:
        self.buffer, self.device = buffer, device
        whole = isinstance(buffer.action_space, (spaces.Discrete, spaces.MultiDiscrete))
        self.dtype: type[np.generic] = np.int64 if whole else np.float32
        # SB3 gives the actions of a Discrete space as [N, 1], all others in the shape of the space.
        self.shape = (buffer.n_envs, *(buffer.action_space.shape or (1,)))

    def open(self, t: int) -> _Opened:
        n_envs = self.buffer.n_envs
        actions = np.empty((n_envs, self.buffer.action_dim), self.dtype)
        self.opened = opened = (actions, np.empty(n_envs, np.float32), np.empty(n_envs, np.float32))
        return opened

    def close(self, t: int, obs: Any, rewards: np.ndarray, starts: Any) -> None:
        actions, *others = self.opened
        values, log_probs = (th.from_numpy(array).to(self.device) for array in others)
        self.buffer.add(obs, actions.reshape(self.shape), rewards, starts, values.reshape(-1, 1), log_probs)


def _make_obs_writer(buffer: RolloutBuffer) -> Callable[[int, Any], None]:
    observations: Any = buffer.observations
    if isinstance(buffer, DictRolloutBuffer):
        parts = list(observations.items())

        def write_parts(t: int, obs: Any) -> None:
            for name, array in parts:
                array[t] = obs[name].reshape(array.shape[1:])

        return write_parts
    shape = observations.shape[1:]

    def write(t: int, obs: Any) -> None:
        observations[t] = obs.reshape(shape)  # Discrete observations come as [N]

    return write


# ------------------------------------------------ what keeps a run from this rollout


def tensor_env(env: VecEnv | None) -> TensorVecEnv | None:
    """
    :param env: environments of a model
    :return: the outermost part of them that has a tensor face, None when there is none
    """
    while isinstance(env, VecEnvWrapper) and not isinstance(env, TensorVecEnv):
        env = env.venv
    return env if isinstance(env, TensorVecEnv) else None


def tell_progress(model: PPOPlus) -> None:
    """
    Tell the environments how far the training is.

    :param model: the algorithm
    """
    if (env := tensor_env(model.env)) is not None:
        env.note_progress(1.0 - model._current_progress_remaining)


def log_environment(model: PPOPlus) -> None:
    """
    Record what the environments would have logged.

    :param model: the algorithm
    """
    # SB3's wrappers pass on what they do not have themselves.
    take_log = getattr(model.env, "take_log", None)
    if take_log is not None:
        for name, value in take_log().items():
            model.logger.record(name, value)


def warn_about_numpy_wrapper(env: VecEnv) -> None:
    """
    Warn when one of SB3's wrappers hides the tensor face of the environments inside, which makes rollouts slower.

    :param env: environments of a model
    """
    hiding: list[str] = []
    inner = env
    while isinstance(inner, VecEnvWrapper) and not isinstance(inner, TensorVecEnv):
        names = [kind.__name__ for kind in type(inner).__mro__]
        advice = next((_TWINS[name] for name in names if name in _TWINS), "drop it, or do what it does in the task")
        hiding.append(f"{names[0]} ({advice})")
        inner = inner.venv
    if hiding and isinstance(inner, TensorVecEnv):
        warnings.warn(
            f"rollouts of {type(inner).__name__} take SB3's slower way because of {', '.join(hiding)}: such a wrapper "
            "hides the tensor face of what is inside"
        )
