"""Small environments with a tensor face whose right answers are plain to see: point masses on a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.envs.draws import Generators
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import Observations, TensorStep


class PointMass(TensorVecEnv):
    """
    Point masses that are pushed along a line. They start at random within half a metre of the middle; an episode is
    over beyond one metre, and cut off after ``limit`` steps. The reward is minus the distance from the middle.
    """

    def __init__(self, n_envs: int, seed: int | None = None, limit: int = 12) -> None:
        self.limit = limit
        self.generators = Generators(n_envs)
        self.x, self.v = th.zeros(n_envs, dtype=th.float64), th.zeros(n_envs, dtype=th.float64)
        self.lengths = th.zeros(n_envs, dtype=th.int64)
        self.returns = th.zeros(n_envs, dtype=th.float64)
        self.render_mode = None
        super().__init__(n_envs, self.make_observation_space(), self.make_action_space())
        self.seed(seed)

    def make_observation_space(self) -> spaces.Space:
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def make_action_space(self) -> spaces.Space:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def provides_episodes(self) -> bool:
        return True

    def force(self, actions: th.Tensor) -> th.Tensor:
        return actions[:, 0].double()

    def observe(self) -> Observations:
        return th.stack((self.x, self.v), dim=1).float()

    def begin(self, ended: th.Tensor) -> None:
        """New episodes where they ended; in place, which state_dict() has to survive."""
        ids = ended.nonzero()[:, 0]
        self.x[ids] = self.generators.draw(ids.numpy()).uniform(-0.5, 0.5, 1)[:, 0]
        self.v[ids] = 0.0
        self.lengths[ids] = 0
        self.returns[ids] = 0.0
        self.reset_stats = {"start": self.x.clone()}

    def reset_tensors(self) -> Observations:
        self.generators.seed(self.take_seeds())
        self.begin(th.ones(self.num_envs, dtype=th.bool))
        return self.observe()

    def move(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Rewards, and where the task says that the episode is over."""
        self.v += 0.1 * self.force(actions)
        self.x += self.v
        return -self.x.abs(), self.x.abs() > 1.0

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        rewards, terminated = self.move(actions)
        self.lengths += 1
        self.returns += rewards
        truncated = self.lengths >= self.limit
        stats = {
            "speed": self.v.abs(),
            "state": th.stack((self.x, self.v), dim=1),
            EPISODE_RETURN: self.returns.clone(),
            EPISODE_LENGTH: self.lengths.clone(),
        }
        final_obs = self.observe()
        self.begin(terminated | truncated)
        return TensorStep(self.observe(), rewards.float(), terminated, truncated, final_obs, stats)

    def state_dict(self) -> dict[str, Any]:
        return {
            "x": self.x.clone(),
            "v": self.v.clone(),
            "lengths": self.lengths.clone(),
            "returns": self.returns.clone(),
            "generators": self.generators.state_dict(),
            "seeds": list(self._seeds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["x"]) != self.num_envs:
            raise InvalidArgument(f"the state is of {len(state['x'])} point masses and these are {self.num_envs}")
        self.x, self.v = state["x"].clone(), state["v"].clone()
        self.lengths, self.returns = state["lengths"].clone(), state["returns"].clone()
        self.generators.load_state_dict(state["generators"])
        self._seeds = list(state["seeds"])


class DictPointMass(PointMass):
    """The same, with position and velocity as separate entries of a Dict."""

    def make_observation_space(self) -> spaces.Space:
        part = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        return spaces.Dict({"position": part, "velocity": part})

    def observe(self) -> Observations:
        return {"position": self.x[:, None].float(), "velocity": self.v[:, None].float()}


class DiscretePointMass(PointMass):
    """The same, pushed to the left, not at all, or to the right; it counts no episodes."""

    def make_action_space(self) -> spaces.Space:
        return spaces.Discrete(3)

    def force(self, actions: th.Tensor) -> th.Tensor:
        return actions.double() - 1.0

    @property
    def provides_episodes(self) -> bool:
        return False

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        return step._replace(stats={"speed": step.stats["speed"]})


class StillPointMass(PointMass):
    """The same, always starting in the middle: it draws nothing."""

    def begin(self, ended: th.Tensor) -> None:
        super().begin(ended)
        self.x[ended] = 0.0
        self.reset_stats = {}


class RecyclingPointMass(PointMass):
    """The same, overwriting at each call the tensors that the last one returned, as it is allowed to."""

    _memory: dict[str, th.Tensor] | None = None

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        flat = {**step._asdict(), **step.stats}
        flat.pop("stats")
        if self._memory is None:
            self._memory = {name: value.clone() for name, value in flat.items()}
        for name, value in flat.items():
            self._memory[name].copy_(value)
        stats = {name: self._memory[name] for name in step.stats}
        return TensorStep(**{name: self._memory[name] for name in step._fields if name != "stats"}, stats=stats)
