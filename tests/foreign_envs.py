"""Fakes of other libraries' interfaces, and what the contract asks of environments that give nobody their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.errors import InvalidArgument


class ForeignContract(TensorVecEnvContract):
    """The contract without its rules about a state, which is refused instead."""

    test_the_same_environment_goes_on_from_a_state = None
    test_a_new_environment_goes_on_from_a_saved_state = None
    test_a_state_is_made_of_plain_values_and_tensors = None
    test_a_state_is_a_copy = None
    test_a_state_of_another_number_of_environments_is_refused = None

    def test_a_state_is_refused_in_words(self) -> None:
        with self._env() as env:
            for call in (env.state_dict, lambda: env.load_state_dict({})):
                try:
                    call()
                except InvalidArgument as refused:
                    assert "new episodes instead" in str(refused)
                else:
                    raise AssertionError("a library that keeps its state to itself cannot give one")


class Walk:
    """Positions on a line, moved by actions, over beyond 1 or after ``limit`` steps; buffers are overwritten."""

    def __init__(self, num_envs: int, limit: int) -> None:
        self.num_envs, self.limit, self.device = num_envs, limit, th.device("cpu")
        self.generator = th.Generator()
        self.x, self.lengths = th.zeros(num_envs), th.zeros(num_envs, dtype=th.int64)
        self.rewards = th.zeros(num_envs)
        self.terminated, self.truncated = (th.zeros(num_envs, dtype=th.bool) for _ in range(2))
        self.waiting = th.zeros(num_envs, dtype=th.bool)

    def begin(self, mask: th.Tensor) -> None:
        self.x[mask] = th.rand(self.num_envs, generator=self.generator)[mask] - 0.5
        self.lengths[mask] = 0
        self.waiting[mask] = False

    def move(self, actions: th.Tensor) -> th.Tensor:
        assert actions.shape == (self.num_envs, 1) and actions.dtype == th.float32
        assert not self.waiting.any(), "an episode that ended has to be reset first"
        self.x += 0.3 * actions[:, 0]
        self.lengths += 1
        self.rewards[:] = -self.x.abs()
        self.terminated[:] = self.x.abs() > 1
        self.truncated[:] = self.lengths >= self.limit
        return self.terminated | self.truncated

    def observation(self) -> th.Tensor:
        return th.stack((self.x, self.lengths.float()), dim=1)


class FakeManagerBasedEnv(Walk):
    """
    The interface of Isaac Lab's and mjlab's environments, as their source has it: groups of observations, a reset
    within the step, ``extras`` with a log that is replaced when an episode ends.
    """

    def __init__(
        self,
        num_envs: int,
        limit: int = 9,
        auto_reset: bool = True,
        compute_final_obs: bool = False,
        groups: Sequence[str] = ("policy", "critic"),
        bound: float = np.inf,
    ) -> None:
        super().__init__(num_envs, limit)
        self.cfg = SimpleNamespace(auto_reset=auto_reset, compute_final_obs=compute_final_obs)
        self.single_observation_space = spaces.Dict({name: spaces.Box(-np.inf, np.inf, (2,)) for name in groups})
        self.single_action_space = spaces.Box(-bound, bound, (1,))
        self.groups, self.extras, self.closed, self.seeds = groups, {}, 0, []
        self.resets: list[list[int]] = []

    @property
    def unwrapped(self) -> FakeManagerBasedEnv:
        return self

    def observations(self) -> dict[str, th.Tensor]:
        return {name: self.observation() + number for number, name in enumerate(self.groups)}

    def reset(
        self, *, seed: int | None = None, env_ids: th.Tensor | None = None, options: Any = None
    ) -> tuple[dict[str, th.Tensor], dict[str, Any]]:
        assert options is None
        if seed is not None:
            self.seeds.append(seed)
            self.generator.manual_seed(seed)
        mask = th.zeros(self.num_envs, dtype=th.bool)
        mask[th.arange(self.num_envs) if env_ids is None else env_ids] = True
        self.resets.append(mask.nonzero()[:, 0].tolist())
        self.restart(mask)
        return self.observations(), self.extras

    def restart(self, mask: th.Tensor) -> None:
        self.extras["log"] = {"Episode_Reward/alive": self.lengths[mask].float().mean()}
        self.begin(mask)
        self.rewards[mask] = 1e9  # buffers that nobody may read after a reset

    def step(self, actions: th.Tensor) -> tuple[Any, ...]:
        done = self.move(actions)
        self.extras.pop("final_obs", None)
        rewards, terminated, truncated = self.rewards, self.terminated, self.truncated
        if self.cfg.auto_reset and done.any():
            if self.cfg.compute_final_obs:
                self.extras["final_obs"] = self.observations()
            rewards = rewards.clone()
            self.restart(done)
        elif done.any():
            self.waiting |= done
        return self.observations(), rewards, terminated, truncated, self.extras

    def close(self) -> None:
        self.closed += 1


class FakeManiSkillVectorEnv(Walk):
    """The interface of ``ManiSkillVectorEnv``, as its source has it."""

    def __init__(self, num_envs: int, limit: int = 9, auto_reset: bool = True, low: float = -1.0) -> None:
        super().__init__(num_envs, limit)
        self.auto_reset, self.spec, self.closed = auto_reset, None, 0
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.single_action_space = spaces.Box(low, 1.0, (1,))

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[th.Tensor, dict[str, Any]]:
        if seed is not None:
            self.generator.manual_seed(seed[0])
        mask = th.zeros(self.num_envs, dtype=th.bool)
        mask[(options or {}).get("env_idx", slice(None))] = True
        self.begin(mask)
        return self.observation(), {}

    def step(self, actions: th.Tensor) -> tuple[Any, ...]:
        done = self.move(actions)
        obs, infos = self.observation(), {"success": self.terminated.clone()}
        if done.any() and self.auto_reset:
            final_obs = obs.clone()
            obs, _ = self.reset(options={"env_idx": th.arange(self.num_envs)[done]})
            infos = {"final_observation": final_obs, "_final_observation": done, "final_info": infos}
        elif done.any():
            self.waiting |= done
        return obs, self.rewards, self.terminated, self.truncated, infos

    def close(self) -> None:
        self.closed += 1


class FakePool:
    """The interface of a synchronous EnvPool: seeds when made, resets by numbers, answers in any order."""

    def __init__(self, task_id: str, env_type: str, num_envs: int, seed: list[int], **kwargs: Any) -> None:
        assert env_type == "gymnasium" and len(seed) == num_envs
        self.envs = [gym.make(task_id, **kwargs) for _ in seed]
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.seeds: list[int | None] = list(seed)
        self.order = np.random.default_rng(0)
        self.ended = [False] * num_envs
        self.closed = 0

    def reset(self, env_id: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        ids = self.order.permutation(np.arange(len(self.envs)) if env_id is None else env_id)
        obs = []
        for index in ids:
            obs.append(self.envs[index].reset(seed=self.seeds[index])[0])
            self.seeds[index], self.ended[index] = None, False
        return np.array(obs), {"env_id": ids}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        ids = self.order.permutation(len(self.envs))
        rows = []
        for index in ids:
            assert not self.ended[index], "this pool would lose the action of an environment that ended"
            rows.append(self.envs[index].step(actions[index])[:4])
            self.ended[index] = rows[-1][2] or rows[-1][3]
        obs, rewards, terminated, truncated = (np.array(column) for column in zip(*rows, strict=True))
        return obs, rewards.astype(np.float32), terminated, truncated, {"env_id": ids}

    def close(self) -> None:
        self.closed += 1
