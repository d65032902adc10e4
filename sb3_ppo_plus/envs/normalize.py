"""Observations and rewards scaled by running statistics: SB3's ``VecNormalize`` on tensors."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_plus.buffers import AWAITS_ACTION
from sb3_ppo_plus.envs.arrays import map_observations, to_numpy
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.normalizer import read_normalizer, write_normalizer
from sb3_ppo_plus.normalization import RunningMoments
from sb3_ppo_plus.types import Observations, TensorStep

_WHOLE = ""  # stands for the whole observation where SB3 uses a key of a Dict
# What only this class keeps; the rest of its attributes are SB3's.
_NOT_IN_SB3 = frozenset(
    {"device", "venv", "class_attributes", "_actions", "_start_time"}
    | {"_obs_moments", "_return_moments", "_returns", "_old_obs", "_old_rewards"}
)
_ABSENT = {
    "obs_rms": "observations are not normalized (norm_obs=False), so there are no statistics of them",
    "old_obs": "there is no observation before the first reset",
}


class TensorVecNormalize(TensorVecEnvWrapper, VecNormalize):  # type: ignore[misc]  # reset() is the first one's
    """
    Normalize observations, and scale rewards by the deviation of the discounted return: SB3's ``VecNormalize`` on
    tensors, with its arguments and its numbers.

    On the host everything equals ``VecNormalize`` bit for bit; on a device it does so to rounding, and no step waits
    for the device. It is a ``VecNormalize`` by name, so that SB3 finds it: ``model.get_vec_normalize_env()``,
    ``EvalCallback`` and ``CheckpointCallback(save_vecnormalize=True)`` work. Statistics move in :meth:`step_tensors`
    and :meth:`reset_tensors` only, and only while ``training`` is True: never during an update.

    ``obs_rms``, ``ret_rms``, ``returns``, ``old_obs`` and ``old_reward`` give copies in SB3's form: assign to them to
    change the statistics; writing into what they gave changes nothing.

    :param venv: environments with a tensor face
    :param training: whether statistics move; False for evaluation
    :param norm_obs: whether observations are normalized
    :param norm_reward: whether rewards are scaled
    :param clip_obs: largest magnitude of a normalized observation, typically 5 to 10; smaller hides outliers
    :param clip_reward: largest magnitude of a scaled reward, typically 10; smaller hides rare, large rewards
    :param gamma: discount of the return that scales the rewards, typically 0.99; give it the algorithm's
    :param epsilon: added to variances, typically 1e-8; larger flattens what hardly varies
    :param norm_obs_keys: keys of a Dict observation to normalize, None for all
    :raises InvalidArgument: when the environments have no tensor face, when observations to normalize are no Box, or
        when ``norm_obs_keys`` does not fit them
    """

    def __init__(
        self,
        venv: VecEnv,
        training: bool = True,
        norm_obs: bool = True,
        norm_reward: bool = True,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
        norm_obs_keys: list[str] | None = None,
    ) -> None:
        # Without VecNormalize.__init__, which replaces image spaces inside the wrapped environments' own Dict space.
        TensorVecEnvWrapper.__init__(self, venv)
        self.training = training
        self.norm_obs = norm_obs
        self.norm_reward = norm_reward
        self.clip_obs = clip_obs
        self.clip_reward = clip_reward
        self.gamma = gamma
        self.epsilon = epsilon
        self.norm_obs_keys = norm_obs_keys
        self._obs_moments: dict[str, RunningMoments] = {}
        if norm_obs:
            self._check_observations()
            shapes = {key: self._space_of(key).shape or () for key in self.norm_obs_keys or [_WHOLE]}
            self._obs_moments = {key: RunningMoments(shape, self.device) for key, shape in shapes.items()}
            self._replace_image_spaces()
        self._return_moments = RunningMoments((), self.device)
        self._returns = th.zeros(self.num_envs, dtype=th.float64, device=self.device)
        self._old_obs: Observations | None = None
        self._old_rewards = self._returns[:0]  # nothing yet, of SB3's type

    def _check_observations(self) -> None:
        try:
            self._sanity_checks()  # SB3's; it makes norm_obs_keys=None all keys
            if self.norm_obs_keys == []:
                raise ValueError("it is empty; norm_obs=False normalizes none")
        except (ValueError, KeyError) as error:
            found = f"norm_obs=True, norm_obs_keys={self.norm_obs_keys!r} and {self.observation_space}"
            raise InvalidArgument(f"{found} do not fit: {error}") from error

    def _space_of(self, key: str) -> spaces.Space:
        if isinstance(self.observation_space, spaces.Dict) and key in self.observation_space.spaces:
            return self.observation_space[key]
        return self.observation_space

    def _replace_image_spaces(self) -> None:
        """Normalized images are no longer images: SB3 must not divide them by 255 (its issue 1214)."""
        changed = {
            key: spaces.Box(-self.clip_obs, self.clip_obs, moments.shape, np.float32)
            for key, moments in self._obs_moments.items()
            if is_image_space(self._space_of(key))
        }
        self.observation_space = changed.get(_WHOLE, self.observation_space)
        if isinstance(self.observation_space, spaces.Dict):
            # A copy that keeps the order of the keys, which the constructor of Dict may change.
            space = copy.copy(self.observation_space)
            space.spaces = self.obs_spaces = {**space.spaces, **changed}
            self.observation_space = space

    # ------------------------------------------------ the tensor face

    def reset_tensors(self) -> Observations:
        """
        :return: first observations, normalized; they count in the statistics while ``training``
        """
        obs = self.venv.reset_tensors()
        self._old_obs = obs
        self._returns = th.zeros_like(self._returns)
        self._take_in(obs)
        return self._normalized(obs)

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment [N, A]
        :return: the step with ``obs``, ``final_obs`` and ``rewards`` normalized by statistics that include it
        """
        step = self.venv.step_tensors(actions)
        self._old_obs, self._old_rewards = step.obs, step.rewards
        asks = step.stats.get(AWAITS_ACTION)
        self._take_in(step.obs, asks)
        obs = self._normalized(step.obs)
        # Most environments give one object for both in a step where nothing ended.
        final_obs = obs if step.final_obs is step.obs else self._normalized(step.final_obs)
        if self.training:
            returns = self._returns * self.gamma + step.rewards
            # Time passes over agents that are still busy with their last decision.
            closed = None if asks is None else asks | step.terminated | step.truncated
            self._returns = returns if closed is None else th.where(closed, returns, self._returns)
            self._return_moments.update(self._returns if closed is None else self._returns[closed])
        rewards = step.rewards.float()
        if self.norm_reward:
            rewards = self._return_moments.rescale(step.rewards, self.epsilon, self.clip_reward)
        self._returns = self._returns.masked_fill(step.terminated | step.truncated, 0.0)
        return step._replace(obs=obs, rewards=rewards, final_obs=final_obs)

    def _take_in(self, obs: Observations, rows: th.Tensor | None = None) -> None:
        if self.training and self.norm_obs:
            for key, moments in self._obs_moments.items():
                part = obs[key] if isinstance(obs, Mapping) else obs
                moments.update(part if rows is None else part[rows])

    def _normalized(self, obs: Observations) -> Observations:
        if not self.norm_obs:
            return obs
        epsilon, clip = self.epsilon, self.clip_obs
        if isinstance(obs, Mapping):
            changed = {key: moments.normalize(obs[key], epsilon, clip) for key, moments in self._obs_moments.items()}
            return {key: changed.get(key, value) for key, value in obs.items()}
        return self._obs_moments[_WHOLE].normalize(obs, epsilon, clip)

    def get_original_obs_tensors(self) -> Observations:
        """
        :return: observations of the last step or reset as the environments gave them, valid until the next [N, O]
        """
        if self._old_obs is None:
            raise AttributeError(_ABSENT["old_obs"])
        return self._old_obs

    def get_original_reward_tensors(self) -> th.Tensor:
        """
        :return: rewards of the last step as the environments gave them, valid until the next; empty at first [N]
        """
        return self._old_rewards

    def _to_moments(self, rms: RunningMeanStd, shape: tuple[int, ...] | None) -> RunningMoments:
        moments = RunningMoments(shape or (), self.device)
        moments.load_state_dict(vars(rms))
        return moments

    def own_state(self) -> dict[str, Any]:
        """:return: statistics and discounted returns, on the host"""
        return {
            "obs": {key: moments.state_dict() for key, moments in self._obs_moments.items()},
            "ret": self._return_moments.state_dict(),
            "returns": self._returns.to("cpu", copy=True),
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`own_state` gave
        :raises InvalidArgument: when other observations are normalized, or another number of environments
        """
        if set(state["obs"]) != set(self._obs_moments):
            raise InvalidArgument(
                f"the state has statistics of {sorted(state['obs'])} and this wrapper normalizes "
                f"{sorted(self._obs_moments)} ('' is a whole observation); make it with the same norm_obs_keys"
            )
        self.returns = state["returns"]
        for key, moments in self._obs_moments.items():
            moments.load_state_dict(state["obs"][key])
        self._return_moments.load_state_dict(state["ret"])

    # ------------------------------------------------ what SB3 reads and writes

    @property
    def obs_rms(self) -> Any:
        """
        :return: statistics of the observations, a copy: ``RunningMeanStd``, or a mapping of them for Dict observations
        """
        if not self._obs_moments:
            raise AttributeError(_ABSENT["obs_rms"])
        rms = {key: _to_rms(moments) for key, moments in self._obs_moments.items()}
        return rms.get(_WHOLE, rms)

    @obs_rms.setter
    def obs_rms(self, value: Any) -> None:
        given = value if isinstance(value, Mapping) else {_WHOLE: value}
        expected = self._obs_moments or given
        if set(given) != set(expected):
            raise InvalidArgument(
                f"obs_rms has statistics of {sorted(given)} and {sorted(expected)} are normalized ('' is all of it)"
            )
        self._obs_moments = {key: self._to_moments(rms, self._space_of(key).shape) for key, rms in given.items()}

    @property
    def ret_rms(self) -> Any:
        """:return: statistics of the discounted returns, a copy"""
        return _to_rms(self._return_moments)

    @ret_rms.setter
    def ret_rms(self, value: Any) -> None:
        self._return_moments = self._to_moments(value, ())

    @property
    def returns(self) -> Any:
        """:return: discounted return of each environment's episode so far, a copy [N]"""
        return to_numpy(self._returns)

    @returns.setter
    def returns(self, value: Any) -> None:
        returns = th.tensor(np.asarray(value), dtype=th.float64, device=self.device)
        if returns.shape != (self.num_envs,):
            raise InvalidArgument(f"returns has shape {tuple(returns.shape)}; there are {self.num_envs} environments")
        self._returns = returns

    @property
    def old_obs(self) -> Any:
        """
        :return: observations of the last step or reset as the environments gave them, a copy [N, O]
        """
        return to_numpy(self.get_original_obs_tensors())

    @old_obs.setter
    def old_obs(self, value: Any) -> None:
        self._old_obs = map_observations(lambda array: th.tensor(array, device=self.device), value)

    @property
    def old_reward(self) -> Any:
        """
        :return: rewards of the last step as the environments gave them, a copy; empty before the first [N]
        """
        return to_numpy(self.get_original_reward_tensors())

    @old_reward.setter
    def old_reward(self, value: Any) -> None:
        self._old_rewards = th.tensor(value, device=self.device)

    def __getattr__(self, name: str) -> Any:
        # A property that has nothing to give ends up here. SB3's search through the wrappers would ask that property
        # again, without end; so it would for anything that is missing while there is no venv.
        if name in _ABSENT:
            raise AttributeError(_ABSENT[name])
        if vars(self).get("venv") is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; after unpickling, call set_venv(venv) first")
        return super().__getattr__(name)

    # ------------------------------------------------ files, and SB3's own wrapper

    def save(self, save_path: str | os.PathLike[str]) -> None:
        """
        Write settings and statistics to a file that SB3's own ``VecNormalize.load`` opens, without this package.

        The file is replaced in one step. It is a pickle, as SB3's is, with its digest behind it.

        :param save_path: path of the file, usually ``*.pkl``
        """
        write_normalizer(save_path, self._as_sb3())

    @staticmethod
    def load(load_path: str | os.PathLike[str], venv: VecEnv, *, trust: bool = False) -> TensorVecNormalize:
        """
        Open a file that :meth:`save` or SB3's ``VecNormalize.save`` wrote; nothing in it is run.

        :param load_path: path of the file
        :param venv: environments with a tensor face
        :param trust: unpickle it as SB3 does, whatever code is in it
        :return: these environments, wrapped
        :raises DamagedFile: when the file is not whole (``UntrustedFile``: asks for unknown classes)
        :raises InvalidArgument: when it holds statistics of other observations
        """
        return TensorVecNormalize.from_vec_normalize(read_normalizer(load_path, trust), venv)

    @classmethod
    def from_vec_normalize(cls, vec_normalize: VecNormalize, venv: VecEnv) -> TensorVecNormalize:
        """
        Go on with the settings and statistics of SB3's wrapper.

        :param vec_normalize: SB3's wrapper, with or without its environments; it is not changed
        :param venv: environments with a tensor face
        :return: these environments, wrapped
        :raises InvalidArgument: when the statistics are of other observations
        """
        plain = vec_normalize._as_sb3() if isinstance(vec_normalize, TensorVecNormalize) else vec_normalize
        state = vars(plain)  # SB3's getattr never ends where a wrapper without environments lacks something
        names = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
        made = cls(venv, **{name: state[name] for name in names}, norm_obs_keys=copy.copy(state.get("norm_obs_keys")))
        for name in {"obs_rms", "ret_rms"} & set(state):
            setattr(made, name, state[name])
        if len(state.get("returns", ())) == made.num_envs:
            made.returns = state["returns"]
        return made

    def to_vec_normalize(self, venv: VecEnv) -> VecNormalize:
        """
        Give SB3's wrapper the settings and statistics of this one.

        :param venv: any environments with these observations
        :return: SB3's wrapper around them, with statistics of its own
        :raises InvalidArgument: when the observations differ
        """
        plain = self._as_sb3()
        _set_venv(plain, venv)
        if plain.num_envs == self.num_envs:
            plain.returns = self.returns
        return plain

    def _as_sb3(self) -> VecNormalize:
        """SB3's object with what this one holds, ready for its own ``__getstate__``."""
        plain = VecNormalize.__new__(VecNormalize)
        vars(plain).update({name: value for name, value in vars(self).items() if name not in _NOT_IN_SB3})
        names = ("returns", "ret_rms", "obs_rms", "old_reward", "old_obs")
        vars(plain).update({name: getattr(self, name) for name in names if hasattr(self, name)})
        vars(plain).update(venv=None, class_attributes={}, reset_infos=[{} for _ in range(self.num_envs)])
        return plain

    def set_venv(self, venv: VecEnv) -> None:
        """
        Give environments to a wrapper that was unpickled or copied.

        :param venv: environments with a tensor face
        :raises InvalidArgument: when it has environments already, or these have no tensor face or other observations
        """
        if not isinstance(venv, TensorVecEnv):
            raise InvalidArgument(f"set_venv() needs environments with a tensor face; {type(venv).__name__} has none")
        if vars(self)["venv"] is not None:
            raise InvalidArgument("set_venv() is for a wrapper that was unpickled or copied; this one has environments")
        self.device = venv.device
        self._obs_moments = {key: moments.to(venv.device) for key, moments in self._obs_moments.items()}
        self._return_moments = self._return_moments.to(venv.device)
        self._init_numpy_face()
        _set_venv(self, venv)
        self.metadata = venv.metadata

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("venv", "class_attributes")}


def _to_rms(moments: RunningMoments) -> RunningMeanStd:
    rms = RunningMeanStd(shape=moments.shape)
    rms.mean, rms.var = moments.mean.cpu().numpy(), moments.var.cpu().numpy()
    rms.count = float(moments.count)
    return rms


def _set_venv(wrapper: VecNormalize, venv: VecEnv) -> None:
    try:
        VecNormalize.set_venv(wrapper, venv)
    except AssertionError as error:
        wrapper.venv = None  # type: ignore[assignment]
        raise InvalidArgument(f"the statistics are of other observations: {error}") from error
