"""MuJoCo tasks on MuJoCo-Warp: physics, task and clocks on one device, and no step that makes the host wait for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.building import check_needs, whole
from sb3_ppo_plus.envs.mujoco.device_draws import DeviceDraws
from sb3_ppo_plus.envs.mujoco.face import MujocoFace, options_of
from sb3_ppo_plus.envs.mujoco.probing import action_space, check_answers, check_start
from sb3_ppo_plus.envs.mujoco.rendering import View
from sb3_ppo_plus.envs.mujoco.warp_bindings import find_device
from sb3_ppo_plus.envs.mujoco.warp_packing import as_arrays
from sb3_ppo_plus.envs.mujoco.warp_physics import WarpPhysics
from sb3_ppo_plus.envs.mujoco.warp_randomization import DeviceRandomizer
from sb3_ppo_plus.envs.mujoco.warp_sizes import find_sizes
from sb3_ppo_plus.envs.mujoco.warp_tally import Tally
from sb3_ppo_plus.envs.signals import Signals
from sb3_ppo_plus.envs.tasks.base import MujocoTask
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import ArrayStep, TensorStep

logger = logging.getLogger(__name__)

_RANDOMIZATION_STREAM = 1
_ENGINE_OPTIONS = {"nconmax": None, "njmax": None, "record": True, "deterministic": False}


class WarpVecEnv(MujocoFace):
    """
    n robots in MuJoCo-Warp: what ``MujocoVecEnv(..., engine="warp")`` gives.

    It has the tasks, arguments, autoreset and infos of the CPU engine, in float32 and on a device. A step copies the
    actions in, replays a graph of physics, asks the task, and starts anew by masks those whose episode ended; the host
    looks at nothing of it. Starts and randomization are drawn on the device, from a sequence per robot.

    :param task: Gymnasium's id, or a :class:`~sb3_ppo_plus.envs.MujocoTask` of your own
    :param n_envs: N, number of robots; 1,024 to 16,384 for a GPU. One robot takes as long as a thousand
    :param seed: seed of the first robot, the others count up; None for a different run each time
    :param n_threads: not of this engine; leave it at None
    :param max_episode_steps: time limit in environment steps; None for the task's own, -1 for no limit
    :param randomization: domain randomization, as on the CPU engine
    :param observation_noise: standard deviation of noise on observations, one number or one per dimension
    :param action_delay: environment steps until a command takes effect, or (low, high) to draw from at each reset
    :param action_filter: cutoff frequency in Hz of a low-pass filter on commands, None for none
    :param render_mode: as on the CPU engine; a picture brings the state of one robot to the host
    :param width: width of pictures, in pixels
    :param height: height of pictures, in pixels
    :param camera_id: camera of the model, by number
    :param camera_name: camera of the model, by name
    :param default_camera_config: free camera: distance, elevation, azimuth, lookat, trackbodyid
    :param max_geom: most geoms that are drawn
    :param visual_options: flags of MuJoCo's visualizer
    :param device: ``cuda``, ``cuda:1``, or ``cpu``, which computes the same slowly
    :param engine_options: ``nconmax`` and ``njmax``, room for contacts and rows of constraints of each robot, instead
        of what a probe finds; ``record`` False launches each kernel anew; ``deterministic`` True sums in the same order
        every time, so that a GPU repeats itself, and takes longer
    :param task_kwargs: arguments of a task given by id
    :raises InvalidArgument: for anything that cannot work, before the first step
    """

    physics: WarpPhysics

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
        device: th.device | str = "cpu",
        engine_options: Mapping[str, Any] | None = None,
        **task_kwargs: Any,
    ) -> None:
        n = whole("n_envs", n_envs)
        options = _checked(engine_options, n_threads)
        where = find_device(device)
        view = View(
            render_mode, width, height, camera_id, camera_name, default_camera_config, max_geom, visual_options or {}
        )
        model = self._set_task(task, task_kwargs, max_episode_steps, view, where)
        actions = action_space(model)
        self.randomizer = None
        if randomization is not None:
            self.randomizer = DeviceRandomizer(randomization, model, n, where)
        self.draws = DeviceDraws(n, where)
        self._make_physics(model, n, where, options)
        self.signals = Signals(
            n, self._size, model.nu, self.task.dt, observation_noise, action_delay, action_filter, where
        )
        observations = spaces.Box(-np.inf, np.inf, (self._size,), np.float32)
        super().__init__(n, observations, actions, where)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.task.dt)}
        if seed is not None:
            self.seed(whole("seed", seed, low=0))

    def _make_physics(self, model: mujoco.MjModel, n: int, device: th.device, options: dict[str, Any]) -> None:
        """Make the simulations, and ask the task for everything once."""
        task = self.task
        self.draws.seed([0] * n)
        check_start(task, self.draws.start(), model, n)
        starts = tuple(values.cpu().numpy() for values in task.initial_state(self.draws.start()))
        self.draws = DeviceDraws(n, device)
        sizes = find_sizes(model, starts, options)
        check_needs(task.needs, task.model_needs)
        varied = () if self.randomizer is None else self.randomizer.fields
        self.physics = WarpPhysics(
            model,
            n,
            device,
            sizes,
            task.frame_skip,
            task.needs,
            task.model_needs,
            varied,
            options["record"],
            options["deterministic"],
        )
        self.data = self.physics.data
        everything = th.ones(n, dtype=th.bool, device=device)
        qpos = th.tensor(model.qpos0, device=device).expand(n, -1)
        self.physics.begin(everything, qpos, th.zeros(n, model.nv, device=device))
        seen = check_answers(task, self.data, th.zeros(n, model.nu, device=device))
        self._size = int(seen.shape[1])
        self._action_shape = (n, int(model.nu))
        #: simulations whose numbers stopped to be numbers
        self._divergences = Tally({"diverged": "%d simulations diverged; their episodes end"}, device)
        # The true observation, before noise: what a diverged robot is said to have seen last.
        self._observations = seen.float()
        self._before: th.Tensor | None = None
        self._reset_stats: dict[str, th.Tensor] = {}
        self._lengths = th.zeros(n, dtype=th.int64, device=device)
        self._returns = th.zeros(n, dtype=th.float64, device=device)
        self._everything, self._nothing = everything, ~everything
        self._began = False

    # ------------------------------------------------ reset

    @property
    def reset_stats(self) -> Mapping[str, th.Tensor]:  # type: ignore[override]
        """
        :return: figures of each robot's last start, [N] or [N, ...]
        """
        return self._reset_stats

    def reset_tensors(self) -> th.Tensor:
        """
        :return: first observations [N, O]
        """
        seeds = self.take_seeds()
        self.draws.seed(seeds)
        if self.randomizer is not None:
            self.randomizer.draws.seed(seeds, _RANDOMIZATION_STREAM)
        self.signals.seed(seeds[0])
        self._observations = self._begin(self._everything)
        self._before = self._track()
        self._began = True
        return self.signals.sense(self._observations)

    def start_late(self, shares: th.Tensor) -> None:
        """
        :param shares: share of the time limit that has passed, in [0, 1) [N]
        :raises InvalidArgument: where there is no time limit
        """
        if self.max_episode_steps <= 0:
            super().start_late(shares)
        self._lengths = (shares * self.max_episode_steps).to(self._lengths)

    def _begin(self, mask: th.Tensor) -> th.Tensor:
        """Start the episodes of some robots, and see."""
        if self.signals.acts:
            self.signals.reset(mask)
        if self.randomizer is not None:
            self.randomizer.begin(mask, self.physics)
        draw = self.draws.start()
        qpos, qvel = self.task.initial_state(draw)
        self.draws.finish(draw, mask)
        self.physics.begin(mask, qpos, qvel)
        self._lengths = self._lengths.masked_fill(mask, 0)
        self._returns = self._returns.masked_fill(mask, 0.0)
        fresh = self.task.reset_stats(self.data)
        if self.randomizer is not None:
            fresh = {**fresh, **self.randomizer.stats()}
        known = self._reset_stats or fresh
        self._reset_stats = {name: _choose(mask, value, known[name]) for name, value in fresh.items()}
        return self.task.observe(self.data).to(th.float32, copy=True)

    def _track(self) -> th.Tensor | None:
        tracked = self.task.track(self.data)
        # A copy: it is compared with what the same memory holds after the next step.
        return None if tracked is None else tracked.clone()

    # ------------------------------------------------ step

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: actions, not clipped: MuJoCo clamps the controls of limited actuators, the reward sees what was
            asked for [N, A]
        :return: observations, rewards, flags and figures, on the device
        :raises InvalidArgument: for actions of another shape
        """
        if tuple(actions.shape) != self._action_shape:
            raise InvalidArgument(f"actions have the shape {list(actions.shape)}; give {list(self._action_shape)}")
        if not self._began:
            raise RuntimeError("step before the first reset(): call reset(); later episodes begin by themselves")
        actions = actions.detach().to(self.device, th.float32)
        self.physics.step(self.signals.act(actions) if self.signals.acts else actions)
        rewards, terminated, stats, seen = self._evaluate(actions)
        self._lengths, self._returns = self._lengths + 1, self._returns + rewards
        limit = self.max_episode_steps
        truncated = self._lengths >= limit if limit > 0 else self._nothing
        stats |= {EPISODE_RETURN: self._returns, EPISODE_LENGTH: self._lengths}
        if self.randomizer is not None:
            self.randomizer.num_steps += self.num_envs
            stats |= self.randomizer.stats()
        self._observations = seen
        obs = final_obs = self.signals.sense(seen)
        done = terminated | truncated
        if self._must_look_after(done):
            obs = self._restart(done, final_obs)
        if self.render_mode == "human":
            self.render_env(0)
        return TensorStep(obs, rewards.float(), terminated, truncated, final_obs, stats)

    def _evaluate(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor], th.Tensor]:
        """Ask the task, and take simulations that diverged out of its answers."""
        after = self._track()
        reward, terminated, stats = self.task.evaluate(self.data, actions, self._before, after)
        seen = self.task.observe(self.data).float()
        bad = self.physics.diverged() | ~seen.isfinite().all(1) | ~reward.isfinite()
        self._divergences.add(bad.sum(0, keepdim=True))
        terminated = bad if terminated is None else terminated | bad
        # None of these is a view of what the reset in this step is going to change.
        stats = {name: _choose(bad, th.zeros_like(value), value) for name, value in stats.items()}
        if after is not None and self._before is not None:
            after = _choose(bad, self._before, after)
        self._before = after
        return (
            reward.masked_fill(bad, 0.0),
            terminated,
            {**stats, "diverged": bad},
            _choose(bad, self._observations, seen),
        )

    def _must_look_after(self, done: th.Tensor) -> bool:
        """On the processor, where looking costs nothing, steps without an end need no reset; else nobody looks."""
        return self.device.type != "cpu" or bool(done.any())

    def _restart(self, done: th.Tensor, final_obs: th.Tensor) -> th.Tensor:
        """Reset the robots whose episode ended, and give what all of them see now."""
        first = self._begin(done)
        fresh = self._track()
        if fresh is not None and self._before is not None:
            self._before = _choose(done, fresh, self._before)
        self._observations = _choose(done, first, self._observations)
        return _choose(done, self.signals.sense(first), final_obs)

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        :param actions: one action per robot [N, A]
        :return: what came of it, brought to the host in one copy
        """
        return as_arrays(self.step_tensors(th.as_tensor(actions, device=self.device)))

    @property
    def num_diverged(self) -> int:
        """
        :return: simulations that diverged so far; waits for the device
        """
        return self._divergences.read()["diverged"]

    @property
    def overflows(self) -> dict[str, int]:
        """
        :return: by kind, how often a simulation ran out of room in a step so far; waits for the device
        """
        return self.physics.tally.read()

    def take_log(self) -> dict[str, float]:
        """
        :return: simulations that diverged or ran out of room since the last call, where there are any; some steps late
        """
        new = {**self._divergences.take_new(), **self.physics.tally.take_new()}
        return {f"env/{name}": float(count) for name, count in new.items()}

    # ------------------------------------------------ state

    @property
    def _kind(self) -> list[Any]:
        return ["MujocoVecEnv of engine warp", type(self.task).__name__, self.num_envs, self._size]

    def state_dict(self) -> dict[str, Any]:
        """
        :return: physics, clocks, where the random sequences stand, and the state of randomization and signals
        """
        return {
            "kind": self._kind,
            "physics": self.physics.get_state(),
            "lengths": self._lengths.cpu().clone(),
            "returns": self._returns.cpu().clone(),
            "before": None if self._before is None else self._before.cpu().clone(),
            "observations": self._observations.cpu().clone(),
            "reset_stats": {name: value.cpu().clone() for name, value in self._reset_stats.items()},
            "counts": {**self._divergences.read(), **self.physics.tally.read()},
            "seeds": [None if seed is None else int(seed) for seed in self._seeds],
            "began": self._began,
            "draws": self.draws.state_dict(),
            "signals": self.signals.state_dict(),
            "randomizer": None if self.randomizer is None else self.randomizer.state_dict(self.physics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state; it may come from another device.

        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when engine, task, number of robots or options differ
        """
        given = state.get("kind", ["something else"])
        if list(given) != self._kind:
            raise InvalidArgument(
                f"the state is of {' '.join(map(str, given))} and this is {' '.join(map(str, self._kind))}; make the "
                "environment with the same arguments"
            )
        if (self.randomizer is None) != (state["randomizer"] is None):
            raise InvalidArgument("the state was taken with another randomization; make the environment with the same")
        self.signals.load_state_dict(state["signals"])
        if self.randomizer is not None:
            self.randomizer.load_state_dict(state["randomizer"], self.physics)
        self.physics.set_state(state["physics"])
        self._lengths, self._returns, self._observations = (
            state[name].to(self.device, copy=True) for name in ("lengths", "returns", "observations")
        )
        self._before = None if state["before"] is None else state["before"].to(self.device, copy=True)
        self._reset_stats = {name: value.to(self.device, copy=True) for name, value in state["reset_stats"].items()}
        self._divergences.restore(state["counts"])
        self.physics.tally.restore(state["counts"])
        self._seeds = list(state["seeds"])
        self.draws.load_state_dict(state["draws"])
        self._began = bool(state["began"])


def _choose(mask: th.Tensor, yes: th.Tensor, no: th.Tensor) -> th.Tensor:
    """Choose row by row; a new tensor [N, ...]."""
    return th.where(mask.view(-1, *[1] * (yes.ndim - 1)), yes, no)


def _checked(given: Mapping[str, Any] | None, n_threads: int | None) -> dict[str, Any]:
    """The engine's options, complete."""
    if n_threads is not None:
        raise InvalidArgument(f"n_threads={n_threads!r} goes with engine='cpu'; engine='warp' has a device instead")
    options = {} if given is None else given
    if not isinstance(options, Mapping):
        raise InvalidArgument(f"engine_options={given!r}; give a mapping such as {{'nconmax': 64}}")
    for name, value in options.items():
        if name not in _ENGINE_OPTIONS:
            raise InvalidArgument(f"engine_options has {name!r}; there is {', '.join(_ENGINE_OPTIONS)}")
        if name in ("record", "deterministic"):
            if not isinstance(value, bool):
                raise InvalidArgument(f"engine_options[{name!r}] is {value!r}; give true or false")
        elif value is not None:
            whole(f"engine_options[{name!r}]", value)
    return {**_ENGINE_OPTIONS, **options}


WarpVecEnv.options = ("engine", *options_of(WarpVecEnv))
