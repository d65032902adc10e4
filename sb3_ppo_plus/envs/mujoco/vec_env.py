"""MuJoCo tasks as vectorized environments: physics, task, clocks and what a real robot adds, put together."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.arrays import to_tensors, where_rows
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.draws import Generators
from sb3_ppo_plus.envs.mujoco.building import check_engine, check_same_kind, make_physics, whole
from sb3_ppo_plus.envs.mujoco.clock import EpisodeClock
from sb3_ppo_plus.envs.mujoco.divergence import end_rows, find_diverged, keep_rows
from sb3_ppo_plus.envs.mujoco.face import MujocoFace, options_of
from sb3_ppo_plus.envs.mujoco.physics import Physics
from sb3_ppo_plus.envs.mujoco.probing import probe_spaces
from sb3_ppo_plus.envs.mujoco.randomization import Randomizer
from sb3_ppo_plus.envs.mujoco.rendering import View
from sb3_ppo_plus.envs.mujoco.tensor_task import TensorTask
from sb3_ppo_plus.envs.signals import Signals
from sb3_ppo_plus.envs.tasks.base import MujocoTask
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import processors
from sb3_ppo_plus.types import ArrayStep, TensorStep

logger = logging.getLogger(__name__)

# How often a start is drawn again that MuJoCo cannot compute.
_START_ATTEMPTS = 10
# Divergences that are told; all are counted.
_MAX_WARNINGS = 10
# The stream of random numbers beside Gymnasium's own.
_RANDOMIZATION_STREAM = 1


class MujocoVecEnv(MujocoFace):
    """
    n robots on native threads, with a tensor face, and a ``VecEnv`` of SB3 to everybody else.

    For Gymnasium's eleven v5 ids it gives the numbers of ``gym.make(id)``: the same observations bit for bit, the same
    draws from the same seeds (environment i has ``seed + i``, as in SB3), the same ``infos``. Finished episodes come
    with ``info["episode"]``, so no Monitor is needed. Two differences are meant: rewards are float32, as SB3 keeps
    them, and a simulation that diverges ends its episode (``info["diverged"]``) instead of going on from a state that
    MuJoCo made up.

    :param task: Gymnasium's id, such as ``"HalfCheetah-v5"``, or a :class:`~sb3_ppo_plus.envs.MujocoTask` of your own
    :param n_envs: N, number of robots; 8 to 64 for a laptop. More give larger batches per policy call, and rollouts of
        fewer, longer steps per robot
    :param seed: seed of the first robot, the others count up; None for a different run each time
    :param n_threads: threads that step the physics, the calling one included; None for one per processor available
    :param max_episode_steps: time limit in environment steps; None for the task's own, -1 for no limit
    :param randomization: domain randomization, see ``docs/envs.md`` and
        :mod:`~sb3_ppo_plus.envs.mujoco.randomization`; drawn for each robot when its episode begins
    :param observation_noise: standard deviation of noise on observations, one number or one per dimension
    :param action_delay: environment steps until a command takes effect, or (low, high) to draw from at each reset
    :param action_filter: cutoff frequency in Hz of a low-pass filter on commands, None for none
    :param render_mode: rgb_array or depth_array for ``get_images()`` and ``render()``, human for a window that shows
        the first robot
    :param width: width of pictures, in pixels
    :param height: height of pictures, in pixels
    :param camera_id: camera of the model, by number
    :param camera_name: camera of the model, by name
    :param default_camera_config: free camera: distance, elevation, azimuth, lookat, trackbodyid
    :param max_geom: most geoms that are drawn
    :param visual_options: flags of MuJoCo's visualizer
    :param engine: ``cpu`` for MuJoCo itself; ``warp`` for MuJoCo-Warp, which gives a
        :class:`~sb3_ppo_plus.envs.mujoco.warp_vec_env.WarpVecEnv`, see ``docs/warp.md``
    :param device: of the ``warp`` engine: ``cuda``, or ``cpu`` for trying it out
    :param engine_options: of the ``warp`` engine: nconmax, njmax, record, deterministic
    :param task_kwargs: arguments of a task given by id, the same as Gymnasium's: ``ctrl_cost_weight=0.05``
    :raises InvalidArgument: for anything that cannot work, before the first step
    """

    physics: Physics

    def __new__(cls, *args: Any, engine: str = "cpu", **kwargs: Any) -> Any:
        if cls is MujocoVecEnv and engine == "warp":
            return _warp_class()(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        task: str | MujocoTask,
        n_envs: int = 1,
        seed: int | None = None,
        n_threads: int | None = None,
        max_episode_steps: int | None = None,
        randomization: Mapping[str, Any] | None = None,
        observation_noise: float | Sequence[float] = 0.0,
        action_delay: int | Sequence[int] = 0,
        action_filter: float | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | None = None,
        camera_name: str | None = None,
        default_camera_config: Mapping[str, Any] | None = None,
        max_geom: int = 1000,
        visual_options: Mapping[int, bool] | None = None,
        *,
        engine: str = "cpu",
        device: th.device | str = "cpu",
        engine_options: Mapping[str, Any] | None = None,
        **task_kwargs: Any,
    ) -> None:
        check_engine(engine, device, engine_options)
        n_envs = whole("n_envs", n_envs)
        threads = min(n_envs, processors() if n_threads is None else whole("n_threads", n_threads))
        view = View(
            render_mode, width, height, camera_id, camera_name, default_camera_config, max_geom, visual_options or {}
        )
        model = self._set_task(task, task_kwargs, max_episode_steps, view, None)
        self.physics = make_physics(model, n_envs, threads, self.task.needs, self.task.model_needs)
        self.data = self.physics.data
        self.generators = Generators(n_envs)
        self.randomizer = Randomizer(randomization, self.physics, n_envs) if randomization is not None else None
        #: simulations that diverged so far
        self.num_diverged = 0
        observation_space, action_space = probe_spaces(self.task, self.physics)
        self._rules = self.task if self.task.arrays else TensorTask(self.task, self.data)
        # A task may simply return data.sensordata; the engine writes into that.
        observation = self._rules.observe(self.data)
        self._observes_views = any(np.shares_memory(observation, field) for field in vars(self.data).values())
        size = int(observation_space.shape[0])
        self.signals = Signals(n_envs, size, model.nu, self.task.dt, observation_noise, action_delay, action_filter)
        self.clock = EpisodeClock(n_envs, self.max_episode_steps)
        self._before: np.ndarray | None = None
        # The true observation, before noise: what a diverged robot is said to have seen last.
        self._observations: np.ndarray = observation
        self._reset_stats: dict[str, np.ndarray] = {}
        self._shape = (n_envs, int(model.nu))
        self._began = False
        super().__init__(n_envs, observation_space, action_space)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.task.dt)}
        if seed is not None:
            self.seed(whole("seed", seed, low=0))

    # ------------------------------------------------ reset

    def reset_tensors(self) -> th.Tensor:
        """
        :return: first observations [N, O]
        """
        self._seed_all(self.take_seeds())
        everything = np.ones(self.num_envs, bool)
        self._observations = self._begin(everything)
        self.clock.restart(everything)
        self._before = self._track()
        self._remember_reset(everything)
        self._began = True
        return th.from_numpy(self._sense(self._observations))

    def start_late(self, shares: th.Tensor) -> None:
        """
        :param shares: share of the time limit that has passed, in [0, 1) [N]
        :raises InvalidArgument: where there is no time limit
        """
        if self.max_episode_steps <= 0:
            super().start_late(shares)
        self.clock.start_late(shares.cpu().numpy())

    def reset_arrays(self) -> Mapping[str, np.ndarray]:
        """
        :return: figures of each robot's last start, [N] or [N, ...]
        """
        return self._reset_stats

    @property
    def reset_stats(self) -> Mapping[str, th.Tensor]:  # type: ignore[override]
        """
        :return: figures of each robot's last start, [N] or [N, ...]
        """
        return to_tensors(self._reset_stats)

    def _seed_all(self, seeds: list[int | None]) -> None:
        self.generators.seed(seeds)
        if self.randomizer is not None:
            self.randomizer.generators.seed(seeds, _RANDOMIZATION_STREAM)
        self.signals.seed(seeds[0])

    def _begin(self, mask: np.ndarray) -> np.ndarray:
        """Start the episodes of some robots, and see; a start that cannot be computed is drawn again."""
        waiting = mask.nonzero()[0]
        if self.signals.acts:
            self.signals.reset(th.from_numpy(mask))
        for _ in range(_START_ATTEMPTS):
            if self.randomizer is not None:
                self.randomizer.begin(waiting)
            qpos, qvel = self._rules.initial_state(self.generators.draw_arrays(waiting))
            failed = self.physics.begin(waiting, qpos, qvel)
            seen = self._observe()
            if failed is None and math.isfinite(qpos.sum() + qvel.sum() + seen.sum()):
                return seen
            # MuJoCo replaces a state that is not finite by the default pose, and says nothing here.
            bad = ~(np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1) & np.isfinite(seen).all(1)[waiting])
            waiting = waiting[bad if failed is None else bad | np.isin(waiting, failed)]
            if not len(waiting):
                return seen
        raise RuntimeError(
            f"{type(self.task).__name__}: {_START_ATTEMPTS} starts gave no finite state and observation; look at "
            "initial_state(), observe() and the randomization"
        )

    # ------------------------------------------------ step

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: actions, not clipped: MuJoCo clamps the controls of limited actuators, the reward sees what
            was asked for [N, A]
        :return: observations, rewards, flags and figures
        """
        step = self.step_arrays(actions.detach().numpy())
        obs = th.from_numpy(step.obs)
        return TensorStep(
            obs,
            th.from_numpy(step.rewards),
            th.from_numpy(step.terminated),
            th.from_numpy(step.truncated),
            obs if step.final_obs is step.obs else th.from_numpy(step.final_obs),
            to_tensors(step.stats),
        )

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        :param actions: as :meth:`step_tensors` takes them [N, A]
        :return: observations, rewards, flags and figures
        """
        if actions.shape != self._shape:
            raise InvalidArgument(f"actions have the shape {list(actions.shape)}; give {list(self._shape)}")
        if not self._began:
            raise RuntimeError("step before the first reset(): call reset(); later episodes begin by themselves")
        commands = actions
        if self.signals.acts:
            commands = self.signals.act(th.from_numpy(actions)).numpy()
        failed = self.physics.step(commands, self.task.frame_skip)
        after = self._track()
        outcome = self._rules.evaluate(self.data, actions, self._before, after)
        final_obs = self._observe()
        # One number tells whether all are finite: NaN and infinity survive a sum.
        if failed is not None or not math.isfinite(final_obs.sum() + outcome.reward.sum()):
            bad = find_diverged(failed, outcome, final_obs)
            self._count_diverged(bad)
            outcome, after = end_rows(outcome, bad), keep_rows(bad, self._before, after)
            final_obs = where_rows(bad, self._observations, final_obs)
        self._before, self._observations = after, final_obs
        terminated, truncated, done = self.clock.tick(outcome.reward, outcome.terminated)
        rewards = outcome.reward.astype(np.float32)
        stats = {**outcome.stats, EPISODE_RETURN: self.clock.returns, EPISODE_LENGTH: self.clock.lengths}
        if self.randomizer is not None:
            self.randomizer.num_steps += self.num_envs
            stats |= self.randomizer.stats()
        sensed = final_obs = self._sense(final_obs)
        if done is not None:
            # What is about to be reset is told as it was.
            stats = {name: value.copy() for name, value in stats.items()}
            sensed = self._restart(done, final_obs)
        if self.render_mode == "human":
            self.render_env(0)
        return ArrayStep(sensed, rewards, terminated, truncated, final_obs, stats)

    def _restart(self, done: np.ndarray, final_obs: np.ndarray) -> np.ndarray:
        """Reset the robots whose episode ended, and give what all of them see now."""
        first = self._begin(done)
        self.clock.restart(done)
        fresh = self._track()
        if fresh is not None and self._before is not None:
            self._before = where_rows(done, fresh, self._before)
        self._remember_reset(done)
        clean = self._observations is final_obs
        self._observations = where_rows(done, first, self._observations)
        return self._observations if clean else where_rows(done, self._sense(first), final_obs)

    def _count_diverged(self, bad: np.ndarray) -> None:
        count = int(bad.sum())
        if count:
            # A policy that has learned to break the physics does it at every step; the count goes on without the words.
            level = logging.WARNING if self.num_diverged < _MAX_WARNINGS else logging.DEBUG
            self.num_diverged += count
            logger.log(level, "%d simulations diverged, %d so far; their episodes end", count, self.num_diverged)

    def _observe(self) -> np.ndarray:
        observations = self._rules.observe(self.data)
        return observations.copy() if self._observes_views else observations

    def _sense(self, observations: np.ndarray) -> np.ndarray:
        return self.signals.sense(th.from_numpy(observations)).numpy() if self.signals.noise else observations

    def _track(self) -> np.ndarray | None:
        tracked = self._rules.track(self.data)
        # A copy: it is compared with what the same memory holds after the next step.
        return None if tracked is None else tracked.copy()

    def _remember_reset(self, mask: np.ndarray) -> None:
        fresh = self._rules.reset_stats(self.data)
        if self.randomizer is not None:
            fresh |= self.randomizer.stats()
        known = self._reset_stats or fresh
        self._reset_stats = {name: where_rows(mask, value, known[name]) for name, value in fresh.items()}

    # ------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """
        :return: physics, clocks, generators, and the state of randomization and signals
        """
        return {
            "task": type(self.task).__name__,
            "physics": th.from_numpy(self.physics.get_state()),
            "clock": self.clock.state_dict(),
            "before": None if self._before is None else th.tensor(self._before),
            "observations": th.tensor(self._observations),
            "reset_stats": {name: th.tensor(value) for name, value in self._reset_stats.items()},
            "num_diverged": self.num_diverged,
            "seeds": [None if seed is None else int(seed) for seed in self._seeds],
            "began": self._began,
            "generators": self.generators.state_dict(),
            "signals": self.signals.state_dict(),
            "randomizer": None if self.randomizer is None else self.randomizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when task, number of robots or options differ
        """
        check_same_kind(state, self.state_dict())
        if self.randomizer is not None:
            self.randomizer.load_state_dict(state["randomizer"])
        self.signals.load_state_dict(state["signals"])
        self.physics.set_state(state["physics"].numpy())
        self.clock.load_state_dict(state["clock"])
        self._observations = state["observations"].numpy().copy()
        self._before = None if state["before"] is None else state["before"].numpy().copy()
        self._reset_stats = {name: value.numpy().copy() for name, value in state["reset_stats"].items()}
        self.num_diverged = int(state["num_diverged"])
        self._seeds = list(state["seeds"])
        self.generators.load_state_dict(state["generators"])
        self._began = bool(state["began"])


def _warp_class() -> Any:
    try:
        from sb3_ppo_plus.envs.mujoco.warp_vec_env import WarpVecEnv
    except ImportError as missing:
        raise InvalidArgument(str(missing)) from missing
    # It steps in tensors where this class steps in arrays, and shares the rest with it.
    MujocoVecEnv.register(WarpVecEnv)
    return WarpVecEnv


MujocoVecEnv.__new__.__signature__ = inspect.signature(MujocoVecEnv.__init__)  # type: ignore[attr-defined]
MujocoVecEnv.options = options_of(MujocoVecEnv)
