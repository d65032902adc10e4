"""
The batched tasks against Gymnasium's own v5 environments, in lock-step: observations bit for bit, rewards and infos.

The reference is Stable-Baselines3's ``DummyVecEnv`` around ``gymnasium.make``: flags, terminal observations and reset
infos are compared in the form that it gives them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.vec_env import DummyVecEnv

pytest.importorskip("mujoco")

from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv
from sb3_ppo_plus.envs.tasks.base import Fields, MujocoTask
from sb3_ppo_plus.envs.tasks.registry import TASKS, task_class
from sb3_ppo_plus.errors import InvalidArgument

IDS = sorted(TASKS)
N = 3
NO_CINERT = {"include_cinert_in_observation": False, "include_cvel_in_observation": False}
NO_FORCES = {"include_qfrc_actuator_in_observation": False, "include_cfrc_ext_in_observation": False}
WEIGHTS = {"forward_reward_weight": 2.5, "ctrl_cost_weight": 0.7}
RUNNER = {**WEIGHTS, "reset_noise_scale": 0.02, "exclude_current_positions_from_observation": False}
HEALTHY = {"healthy_reward": 0.3, "terminate_when_unhealthy": False}
# Every argument at another value than its default, booleans flipped; for some tasks a second choice.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (
        "Ant-v5",
        {
            **RUNNER,
            **HEALTHY,
            "frame_skip": 3,
            "contact_cost_weight": 0.01,
            "main_body": "aux_1",
            "healthy_z_range": (0.5, 0.8),
            "contact_force_range": (0.25, 2.0),
            "include_cfrc_ext_in_observation": False,
        },
    ),
    ("Ant-v5", {"main_body": 3, "healthy_z_range": (0.55, 0.8), "contact_force_range": (-0.1, 0.2)}),
    ("Ant-v5", {"contact_cost_weight": 0, "include_cfrc_ext_in_observation": False, "healthy_z_range": (0.4, 0.9)}),
    ("HalfCheetah-v5", {**RUNNER, "frame_skip": 3}),
    (
        "Hopper-v5",
        {
            **RUNNER,
            **HEALTHY,
            "frame_skip": 3,
            "healthy_state_range": (-3.0, 2.0),
            "healthy_z_range": (1.1, 1.3),
            "healthy_angle_range": (-0.05, 0.1),
        },
    ),
    (
        "Hopper-v5",
        {"healthy_state_range": (-0.15, 1.5), "healthy_z_range": (-1.0, 2.0), "healthy_angle_range": (-9, 9)},
    ),
    (
        "Humanoid-v5",
        {
            **RUNNER,
            **HEALTHY,
            **NO_CINERT,
            **NO_FORCES,
            "frame_skip": 3,
            "contact_cost_weight": 1e-4,
            "contact_cost_range": (0.05, 3.0),
            "healthy_z_range": (1.2, 1.35),
        },
    ),
    ("Humanoid-v5", {**NO_FORCES, "contact_cost_weight": 0, "healthy_z_range": (1.2, 1.5)}),
    (
        "HumanoidStandup-v5",
        {
            **NO_CINERT,
            **NO_FORCES,
            "frame_skip": 3,
            "uph_cost_weight": 2.0,
            "ctrl_cost_weight": 0.7,
            "impact_cost_weight": 1e-4,
            "impact_cost_range": (0.05, 3.0),
            "reset_noise_scale": 0.02,
            "exclude_current_positions_from_observation": False,
        },
    ),
    ("HumanoidStandup-v5", {**NO_FORCES, "impact_cost_weight": 0, "impact_cost_range": (0.5, 1.0)}),
    ("InvertedDoublePendulum-v5", {"frame_skip": 2, "healthy_reward": 0.3, "reset_noise_scale": 0.02}),
    ("InvertedPendulum-v5", {"frame_skip": 1, "reset_noise_scale": 0.05}),
    (
        "Pusher-v5",
        {"frame_skip": 2, "reward_near_weight": 1.5, "reward_dist_weight": 0.3, "reward_control_weight": 0.7},
    ),
    ("Reacher-v5", {"frame_skip": 3, "reward_dist_weight": 0.3, "reward_control_weight": 0.7}),
    ("Swimmer-v5", {**RUNNER, "frame_skip": 2}),
    (
        "Walker2d-v5",
        {
            **RUNNER,
            **HEALTHY,
            "xml_file": "walker2d.xml",
            "frame_skip": 3,
            "healthy_z_range": (1.1, 1.3),
            "healthy_angle_range": (-0.05, 0.1),
        },
    ),
    ("Walker2d-v5", {"healthy_angle_range": (-0.1, 0.05)}),
]


class ExactReward(gym.Wrapper):
    """Remembers the reward before SB3 rounds it to float32."""

    reward = 0.0

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self.reward = float(result[1])
        return result


def tolerance(value: Any) -> float:
    return 1e-7 * max(1.0, float(np.abs(value).max(initial=0.0)))


def assert_infos_agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Same keys, same shapes, same values; how long an episode took only ours says (SB3's Monitor would)."""
    assert set(ours) - {"episode"} == set(theirs)
    for name, value in theirs.items():
        assert np.shape(ours[name]) == np.shape(value), name
        if name in ("terminal_observation", "TimeLimit.truncated"):
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=tolerance(value), err_msg=name)


def sum_of_terms(name: str, info: dict[str, Any]) -> float:
    terms = [float(value) for key, value in info.items() if key.startswith("reward_") or key.endswith("_penalty")]
    return sum(terms) + (1.0 if name == "HumanoidStandup-v5" else 0.0)


def assert_rewards_agree(name: str, ours: np.float32, info: dict[str, Any], exact: float) -> None:
    rounded = np.float32(exact)
    assert ours.dtype == np.float32
    assert abs(float(ours) - float(rounded)) <= max(1e-7, float(np.spacing(abs(rounded))))
    assert sum_of_terms(name, info) == pytest.approx(exact, rel=0, abs=tolerance(exact))


def random_actions(space: gym.Space, steps: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield rng.uniform(space.low, space.high, (N, *space.shape)).astype(np.float32)


def assert_lock_step(name: str, seed: int, steps: int, limit: int | None, **arguments: Any) -> dict[str, int]:
    """Run both side by side; return how many episodes ended by termination and by the time limit."""
    ours = MujocoVecEnv(name, n_envs=N, seed=seed, max_episode_steps=limit, **arguments)
    single = [
        ExactReward(gym.make(name, max_episode_steps=limit, disable_env_checker=True, **arguments)) for _ in range(N)
    ]
    theirs = DummyVecEnv([lambda env=env: env for env in single])
    theirs.seed(seed)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    first = ours.reset()
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, theirs.reset())
    ends = {"terminated": 0, "truncated": 0}
    for row, actions in enumerate(random_actions(ours.action_space, steps, seed)):
        for got, expected in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            assert_infos_agree(got, expected)
        obs, rewards, dones, infos = ours.step(actions)
        their_obs, _, their_dones, their_infos = theirs.step(actions)
        np.testing.assert_array_equal(dones, their_dones, err_msg=f"step {row}")
        np.testing.assert_array_equal(obs, their_obs, err_msg=f"step {row}")
        for index in range(N):
            assert_infos_agree(infos[index], their_infos[index])
            assert_rewards_agree(name, rewards[index], infos[index], single[index].reward)
            if dones[index]:
                ends["truncated" if infos[index]["TimeLimit.truncated"] else "terminated"] += 1
    ours.close()
    theirs.close()
    return ends


@pytest.mark.parametrize("seed", [7, 100])
@pytest.mark.parametrize("name", IDS)
def test_default_arguments_follow_gymnasium_through_resets(name: str, seed: int) -> None:
    ends = assert_lock_step(name, seed, steps=150, limit=45)
    assert ends["terminated"] + ends["truncated"] >= 3 * N


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=[name for name, _ in VARIANTS])
def test_other_arguments_follow_gymnasium_through_resets(name: str, arguments: dict[str, Any]) -> None:
    ends = assert_lock_step(name, seed=3, steps=90, limit=25, **arguments)
    assert ends["terminated"] + ends["truncated"] >= 3 * N
    if not arguments.get("terminate_when_unhealthy", True):
        assert not ends["terminated"]
    elif "healthy_z_range" in arguments or "healthy_angle_range" in arguments:
        assert ends["terminated"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", IDS)
def test_default_arguments_follow_gymnasium_for_a_thousand_steps(name: str, seed: int) -> None:
    ends = assert_lock_step(name, 1000 * seed, steps=1010, limit=None)
    assert ends["terminated"] + ends["truncated"] >= N


def test_the_variants_change_every_argument_of_every_task() -> None:
    for name in IDS:
        accepted = set(inspect.signature(task_class(name)).parameters) - {"xml_file"}
        assert accepted == accepted & {key for other, arguments in VARIANTS if other == name for key in arguments}, name


@pytest.mark.parametrize("name", IDS)
def test_arguments_defaults_camera_and_time_limit_are_gymnasiums(name: str) -> None:
    spec = gym.spec(name)
    theirs = dict(inspect.signature(load_env_creator(spec.entry_point)).parameters)
    camera = theirs.pop("default_camera_config").default or {}
    theirs.pop("kwargs")
    ours = inspect.signature(task_class(name)).parameters
    assert {key: value.default for key, value in ours.items()} == {key: value.default for key, value in theirs.items()}
    task = task_class(name)()
    np.testing.assert_equal(dict(task.camera), camera)
    assert task.max_episode_steps == spec.max_episode_steps


@pytest.mark.parametrize("name", IDS)
def test_tensors_and_arrays_tell_the_same(name: str) -> None:
    arrays = MujocoVecEnv(name, n_envs=N, seed=5, max_episode_steps=8)
    tensors = MujocoVecEnv(name, n_envs=N, seed=5, max_episode_steps=8)
    np.testing.assert_array_equal(arrays.reset(), tensors.reset_tensors().numpy())
    for actions in random_actions(arrays.action_space, 20, seed=5):
        obs, rewards, dones, infos = arrays.step(actions)
        step = tensors.step_tensors(th.from_numpy(actions))
        np.testing.assert_array_equal(rewards, step.rewards.numpy())
        np.testing.assert_array_equal(obs, step.obs.numpy())
        np.testing.assert_array_equal(dones, (step.terminated | step.truncated).numpy())
        for index, info in enumerate(infos):
            for key in set(info) & set(step.stats):
                np.testing.assert_array_equal(info[key], step.stats[key][index].numpy(), err_msg=key)


# ---------------------------------------------------------------- the same formulas, on states no simulation reaches


# What a task may compute in: arrays on the CPU engine, tensors on others.
KINDS = {"arrays": (None, np.asarray), "tensors": (th.device("cpu"), th.as_tensor)}


def set_up(name: str, kind: str, model: Any, **arguments: Any) -> MujocoTask:
    task = task_class(name)(**arguments)
    task.device = KINDS[kind][0]
    task.setup(model)
    return task


def fields_of(env: Any, task: MujocoTask, kind: str) -> Fields:
    """What the task reads of a single simulation of Gymnasium, as a batch of one."""
    names, made = ("qpos", "qvel", "ctrl", *task.needs), KINDS[kind][1]
    values = {name: made(np.array(getattr(env.data, name)))[None] for name in names}
    return SimpleNamespace(**values, **{name: made(np.array(getattr(env.model, name))) for name in task.model_needs})


def still_env(name: str, **arguments: Any) -> Any:
    """Gymnasium's environment whose step evaluates the state as it is, without a simulation."""
    env = gym.make(name, disable_env_checker=True, **arguments).unwrapped
    env.reset(seed=0)
    env.do_simulation = lambda ctrl, n_frames: None
    return env


LIMITS = (-100.0, -10.0, -1.0, -0.2, 0.0, 0.2, 0.7, 0.8, 1.0, 2.0, 10.0, 100.0)
EDGES = (*(edge for limit in LIMITS for edge in np.nextafter(limit, (-np.inf, limit, np.inf))), np.nan, np.inf, -np.inf)


# The state's limits lie inside those of the angle here, and outside them by default.
STATE_DECIDES = {
    "healthy_state_range": (-0.2, 0.2),
    "healthy_z_range": (-1.0, 2.0),
    "healthy_angle_range": (-10.0, 10.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "arguments"), [*((name, {}) for name in IDS), ("Hopper-v5", STATE_DECIDES)])
def test_limits_and_broken_states_are_judged_as_gymnasium_judges_them(
    name: str, arguments: dict[str, Any], kind: str
) -> None:
    env = still_env(name, **arguments)
    task = set_up(name, kind, env.model, **arguments)
    action = np.zeros(env.action_space.shape, np.float32)
    slots = [(env.data.qpos, 0), (env.data.qpos, 1), (env.data.qpos, 2), (env.data.qpos, -1), (env.data.qvel, 0)]
    slots += [(env.data.qvel, -1), *((getattr(env.data, field).reshape(-1), k) for field in task.needs for k in (0, 2))]
    outcomes = set()
    for array, index in slots:
        if not -len(array) <= index < len(array):
            continue
        before = array[index]
        for edge in EDGES:
            array[index] = edge
            with np.errstate(all="ignore"):
                obs, reward, terminated, _, info = env.step(action)
                data = fields_of(env, task, kind)
                tracked = task.track(data)
                outcome = task.evaluate(data, KINDS[kind][1](action)[None], tracked, tracked)
                # Only NumPy's sines and cosines are those of Gymnasium to the last bit.
                seen = np.asarray(task.observe(data)[0])
                np.testing.assert_allclose(seen, obs, rtol=0 if kind == "arrays" else 1e-14)
            ends = False if outcome.terminated is None else bool(outcome.terminated[0])
            assert ends == bool(terminated), (index, edge)
            np.testing.assert_allclose(
                float(outcome.reward[0]), reward, rtol=1e-7, atol=1e-7, err_msg=f"{index}: {edge}"
            )
            assert set(outcome.stats) == set(info)
            outcomes.add(ends)
        array[index] = before
    never_ends = {"HalfCheetah-v5", "HumanoidStandup-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5"}
    assert outcomes == ({False} if name in never_ends else {False, True})


@pytest.mark.parametrize("name", IDS)
def test_no_figure_shares_memory_with_the_simulation(name: str) -> None:
    env = still_env(name)
    task = set_up(name, "arrays", env.model)
    data = fields_of(env, task, "arrays")
    tracked = task.track(data)
    copied = None if tracked is None else tracked.copy()
    action = np.zeros((1, *env.action_space.shape), np.float32)
    figures = {**task.evaluate(data, action, copied, copied).stats, **task.reset_stats(data)}
    for key, value in figures.items():
        assert not any(np.shares_memory(value, field) for field in vars(data).values()), key


@pytest.mark.parametrize("kind", KINDS)
def test_the_mass_centre_follows_masses_that_differ_between_robots(kind: str) -> None:
    env = still_env("Humanoid-v5")
    task, made = set_up("Humanoid-v5", kind, env.model), KINDS[kind][1]
    rng = np.random.default_rng(0)
    mass, places = rng.uniform(0.1, 9.0, (4, env.model.nbody)), rng.normal(size=(4, env.model.nbody, 3))
    expected = np.einsum("nb,nbj->nj", mass, places)[:, :2] / mass.sum(1, keepdims=True)
    data = SimpleNamespace(xipos=made(places), body_mass=made(mass))
    np.testing.assert_allclose(np.asarray(task.track(data)), expected, rtol=1e-12)
    data.body_mass = made(mass[0])
    np.testing.assert_allclose(np.asarray(task.track(data)[0]), expected[0], rtol=1e-12)


# ---------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Hopper-v5", {"healthy_z_range": (1.0, 0.7)}, "healthy_z_range"),
        ("Hopper-v5", {"healthy_state_range": (5.0, 5.0)}, "healthy_state_range"),
        ("Hopper-v5", {"healthy_angle_range": 0.2}, "healthy_angle_range"),
        ("Walker2d-v5", {"healthy_angle_range": (float("nan"), 1.0)}, "healthy_angle_range"),
        ("Ant-v5", {"healthy_z_range": (1.0, 0.2)}, "healthy_z_range"),
        ("Ant-v5", {"contact_force_range": (1.0, -1.0)}, "contact_force_range"),
        ("Ant-v5", {"main_body": "head"}, "main_body='head'.* torso, "),
        ("Ant-v5", {"main_body": 14}, "main_body=14"),
        ("Ant-v5", {"main_body": -1}, "main_body=-1"),
        ("Humanoid-v5", {"contact_cost_range": (10.0, 0.0)}, "contact_cost_range"),
        ("Humanoid-v5", {"healthy_z_range": (1.0, 2.0, 3.0)}, "healthy_z_range"),
        ("HumanoidStandup-v5", {"impact_cost_range": (10.0, 0.0)}, "impact_cost_range"),
        ("Reacher-v5", {"xml_file": "ant.xml"}, "no body 'fingertip'"),
        ("Pusher-v5", {"xml_file": "ant.xml"}, "no body 'tips_arm'"),
        ("InvertedDoublePendulum-v5", {"xml_file": "ant.xml"}, "has no site"),
    ],
)
def test_a_wrong_argument_is_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        MujocoVecEnv(name, **arguments)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name in IDS if name not in ("Pusher-v5", "Reacher-v5")])
def test_noise_that_is_no_size_is_refused(name: str, scale: float) -> None:
    with pytest.raises(InvalidArgument, match="reset_noise_scale"):
        task_class(name)(reset_noise_scale=scale)
