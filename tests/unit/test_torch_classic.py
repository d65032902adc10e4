"""Tasks in torch: Gymnasium's numbers state by state, starts drawn on the device, the contract, no waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_ppo_plus.envs import TorchTask, TorchVecEnv
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.classic.draws import CounterDraws, mix
from sb3_ppo_plus.envs.classic.task import Moved
from sb3_ppo_plus.envs.classic.vec_env import TORCH_TASKS
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.envs import make_env, probe_spaces
from sb3_ppo_plus.runs.native import choose_vec_env

IDS = sorted(TORCH_TASKS)
# Largest differences of one step: in states, absolute, and in rewards. A cosine of torch and one of NumPy differ in the
# last bit here and there, which Acrobot's four evaluations at up to 28 rad/s enlarge.
STATE_TOLERANCE = {"CartPole-v1": 2e-15, "Pendulum-v1": 1e-14, "Acrobot-v1": 1e-12, "MountainCarContinuous-v0": 0.0}
REWARD_TOLERANCE = {"CartPole-v1": 0.0, "Pendulum-v1": 2e-9, "Acrobot-v1": 0.0, "MountainCarContinuous-v0": 0.0}
# Far beyond what episodes visit: fallen poles, many turns, both ends of the valley.
LIMITS = {
    "CartPole-v1": [2.6, 4.0, 0.25, 4.0],
    "Pendulum-v1": [30.0, 8.0],
    "Acrobot-v1": [np.pi, np.pi, 4 * np.pi, 9 * np.pi],
    "MountainCarContinuous-v0": [1.2, 0.07],
}


def random_states(env_id: str, n: int, rng: np.random.Generator) -> np.ndarray:
    limits = np.array(LIMITS[env_id])
    states = rng.uniform(-limits, limits, (n, len(limits)))
    return states.astype(np.float32) if env_id.startswith("Mountain") else states


def random_actions(env_id: str, n: int, rng: np.random.Generator) -> np.ndarray:
    space = TORCH_TASKS[env_id]().action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=n)
    # Some beyond the bounds, which the tasks clip themselves.
    return rng.uniform(1.5 * space.low, 1.5 * space.high, (n, 1)).astype(np.float32)


def step_of_gymnasium(env_id: str, states: np.ndarray, actions: np.ndarray, **kwargs: Any) -> tuple[np.ndarray, ...]:
    env: Any = gym.make(env_id, **kwargs).unwrapped
    env.reset(seed=0)
    after, observations, rewards, ended = [], [], [], []
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = state.copy(), None
        observation, reward, terminated, _, _ = env.step(action)
        after.append(np.array(env.state, np.float64))
        observations.append(observation)
        rewards.append(float(reward))
        ended.append(terminated)
    return np.array(after), np.array(observations), np.array(rewards), np.array(ended)


def step_of_ours(
    env_id: str, states: np.ndarray, actions: np.ndarray, first: bool = False, dtype: th.dtype = th.float64, **kw: Any
) -> tuple[np.ndarray, ...]:
    task = TORCH_TASKS[env_id](**kw)
    state = th.from_numpy(states.T.astype(np.float64)).to(dtype, memory_format=th.contiguous_format)
    moved = task.step(state, th.from_numpy(actions), th.full((len(states),), first))
    return (
        moved.state.T.double().numpy(),
        task.observe(moved.state).numpy(),
        moved.rewards.double().numpy(),
        moved.terminated.numpy(),
    )


# ------------------------------------------------ Gymnasium's numbers


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        *[(env_id, {}) for env_id in IDS],
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Pendulum-v1", {"g": 3.7}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.02}),
    ],
)
def test_a_step_from_any_state_is_gymnasiums(env_id: str, kwargs: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    states, actions = random_states(env_id, 3000, rng), random_actions(env_id, 3000, rng)
    theirs = step_of_gymnasium(env_id, states, actions, **kwargs)
    ours = step_of_ours(env_id, states, actions, **kwargs)
    tolerances = (STATE_TOLERANCE[env_id], 1e-6, REWARD_TOLERANCE[env_id], 0.0)
    for name, expected, given, tolerance in zip(
        ("state", "obs", "reward", "end"), theirs, ours, tolerances, strict=True
    ):
        difference = np.abs(expected.astype(np.float64) - given.astype(np.float64)).max()
        assert difference <= tolerance, f"{name} differs by {difference}"
    # The states reach to where episodes end, except where they never do.
    assert theirs[3].any() == (env_id != "Pendulum-v1") and not theirs[3].all()


def test_acrobot_of_the_paper_is_gymnasiums() -> None:
    rng = np.random.default_rng(4)
    states, actions = random_states("Acrobot-v1", 300, rng), random_actions("Acrobot-v1", 300, rng)
    env: Any = gym.make("Acrobot-v1").unwrapped
    env.book_or_nips = "nips"
    expected = []
    for state, action in zip(states, actions, strict=True):
        env.state = state.copy()
        env.step(action)
        expected.append(env.state)
    ours = step_of_ours("Acrobot-v1", states, actions, book_or_nips="nips")[0]
    assert np.abs(ours - np.array(expected)).max() < 1e-12
    assert np.abs(ours - step_of_ours("Acrobot-v1", states, actions)[0]).max() > 0.1


def test_the_mountain_car_rounds_where_gymnasium_does() -> None:
    """Its first step is taken in float64, from a start that was not rounded; goal and walls are hit exactly."""
    rng = np.random.default_rng(5)
    goal, wall = np.float32(0.45), np.float32(-1.2)
    edges = [
        [goal, 0.0],
        [np.nextafter(goal, np.float32(0)), 0.0],
        [wall, -0.07],
        [np.nextafter(wall, np.float32(0)), -0.0001],
        [0.6, 0.07],
        [0.39, 0.07],
    ]
    states = np.concatenate([random_states("MountainCarContinuous-v0", 1000, rng), np.array(edges, np.float32)])
    forces = [0.0, 1.0, -1.0, 1.0000001, -1.5]
    env_id = "MountainCarContinuous-v0"
    for force in forces:
        actions = np.full((len(states), 1), force, np.float32)
        for first in (False, True):
            given = states + rng.uniform(0, 1e-9, states.shape) if first else states
            for expected, ours in zip(
                step_of_gymnasium(env_id, given, actions), step_of_ours(env_id, given, actions, first), strict=True
            ):
                assert np.array_equal(expected, ours)


def test_episodes_end_exactly_beyond_the_limits_of_the_cart() -> None:
    angle, position = 12 * 2 * np.pi / 360, 2.4
    values = [position, np.nextafter(position, 3), -position, np.nextafter(-position, -3)]
    states = [[value, 0.0, 0.0, 0.0] for value in values]
    states += [[0.0, 0.0, sign * np.nextafter(angle, bound), 0.0] for sign in (1, -1) for bound in (0, 1)]
    states += [[0.0, 0.0, sign * angle, 0.0] for sign in (1, -1)]
    actions = np.ones(len(states), np.int64)
    ended = step_of_ours("CartPole-v1", np.array(states), actions)[3]
    assert ended.tolist() == [False, True, False, True, False, True, False, True, False, False]
    assert np.array_equal(ended, step_of_gymnasium("CartPole-v1", np.array(states), actions)[3])


@pytest.mark.parametrize("env_id", IDS)
def test_episodes_from_a_seed_are_gymnasiums(env_id: str) -> None:
    """Starts, observations, time limits and starts of later episodes, over some hundred free-running steps."""
    rng, n_envs, limit = np.random.default_rng(6), 3, 60
    env = TorchVecEnv(env_id, n_envs, seed=11, draws="gymnasium", max_episode_steps=limit)
    theirs = [gym.make(env_id, max_episode_steps=limit) for _ in range(n_envs)]
    obs = env.reset()
    assert np.array_equal(obs, [other.reset(seed=11 + i)[0] for i, other in enumerate(theirs)])
    # Acrobot is chaotic: a difference in the last bit grows tenfold within some steps.
    tolerance = 1e-3 if env_id == "Acrobot-v1" else 1e-6
    ends = 0
    for _ in range(200):
        actions = random_actions(env_id, n_envs, rng)
        obs, rewards, dones, infos = env.step(actions)
        for index, (other, info) in enumerate(zip(theirs, infos, strict=True)):
            expected, reward, terminated, truncated, _ = other.step(actions[index])
            assert np.isclose(reward, rewards[index], rtol=1e-5, atol=1e-5)
            assert dones[index] == (terminated or truncated)
            if dones[index]:
                ends += 1
                assert np.allclose(expected, info["terminal_observation"], atol=tolerance)
                assert info["TimeLimit.truncated"] == (truncated and not terminated)
                expected, _ = other.reset()
                assert np.array_equal(expected, obs[index])
            assert np.allclose(expected, obs[index], atol=tolerance)
    assert ends >= 9


@pytest.mark.parametrize("env_id", IDS)
def test_spaces_and_time_limits_are_gymnasiums(env_id: str) -> None:
    env, other = TorchVecEnv(env_id), gym.make(env_id)
    assert env.observation_space == other.observation_space and env.action_space == other.action_space
    assert other.spec is not None and env.max_episode_steps == other.spec.max_episode_steps


@pytest.mark.parametrize("env_id", IDS)
def test_float32_states_stay_close(env_id: str) -> None:
    rng = np.random.default_rng(8)
    states = random_states(env_id, 500, rng).astype(np.float32).astype(np.float64)
    actions = random_actions(env_id, 500, rng)
    double, single = (step_of_ours(env_id, states, actions, dtype=dtype) for dtype in (th.float64, th.float32))
    assert 0 < np.abs(double[1] - single[1]).max() < 2e-3 or np.array_equal(double[1], single[1])
    assert np.abs(double[2] - single[2]).max() < 1e-3 and (double[3] != single[3]).mean() < 0.005


@pytest.mark.parametrize(
    "env_id, options",
    [
        ("CartPole-v1", {"low": -0.2, "high": 0.1}),
        ("Acrobot-v1", {"low": 0.05}),
        ("Pendulum-v1", {"x_init": 0.5, "y_init": 0.0}),
        ("MountainCarContinuous-v0", {"low": -0.7, "high": -0.5}),
    ],
)
def test_options_of_a_reset_are_gymnasiums_and_hold_once(env_id: str, options: dict[str, float]) -> None:
    env = TorchVecEnv(env_id, 2, draws="gymnasium")
    env.seed(5)
    env.set_options([options, {}])
    obs = env.reset()
    other = gym.make(env_id)
    assert np.array_equal(obs[0], other.reset(seed=5, options=options)[0])
    assert np.array_equal(env.reset()[0], other.reset()[0])
    assert np.array_equal(obs[1], gym.make(env_id).reset(seed=6)[0])


# ------------------------------------------------ draws


def split_mix(state: int) -> tuple[int, int]:
    """SplitMix64 in Python's integers."""
    bits = (1 << 64) - 1
    state = (state + 0x9E3779B97F4A7C15) & bits
    value = state
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & bits
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & bits
    return state, value ^ (value >> 31)


def test_numbers_are_those_of_split_mix() -> None:
    # The first outputs for the state 1234567, as published with the generator.
    state, published = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for expected in published:
        state, value = split_mix(state)
        assert value == expected
    draws = CounterDraws(2, 3, th.device("cpu"), th.float64)
    draws.seed([5, 2**63 + 9])
    for seed, row in ((5, 0), (2**63 + 9, 1)):
        state = split_mix(seed)[1]
        expected = []
        for _ in range(3):
            state, value = split_mix(state)
            expected.append((value >> 11) / 2**53)
        assert draws.uniform(th.zeros(2, dtype=th.bool))[:, row].tolist() == expected


def test_only_environments_that_use_their_numbers_go_on() -> None:
    draws = CounterDraws(3, 2, th.device("cpu"), th.float64)
    draws.seed([0, 1, 2])
    first = draws.uniform(th.tensor([True, False, True]))
    second = draws.uniform(th.tensor([True, True, True]))
    assert (first == second).all(0).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [th.float64, th.float32])
def test_numbers_are_uniform_and_unrelated(dtype: th.dtype) -> None:
    draws = CounterDraws(2000, 4, th.device("cpu"), dtype)
    draws.seed(list(range(2000)))
    everything = th.ones(2000, dtype=th.bool)
    numbers = th.stack([draws.uniform(everything) for _ in range(50)]).double().flatten(0, 1)
    assert numbers.dtype == th.float64 and 0 <= numbers.min() and numbers.max() < 1
    # 400,000 numbers: standard errors are 0.00046 of the mean, 0.0005 of a correlation, 63 of a count.
    assert abs(float(numbers.mean()) - 0.5) < 0.002 and abs(float(numbers.var()) - 1 / 12) < 0.001
    assert (th.histc(numbers, 100, 0, 1) - 4000).abs().max() < 320
    centred = numbers - numbers.mean()
    neighbours = ((centred[:, 1:] * centred[:, :-1]).mean(), (centred[1:] * centred[:-1]).mean())
    assert all(abs(float(value)) * 12 < 0.008 for value in neighbours)


def test_scrambling_loses_nothing() -> None:
    assert len(set(mix(th.arange(100_000)).tolist())) == 100_000


def test_without_a_seed_each_run_is_different() -> None:
    first, second = (TorchVecEnv("CartPole-v1", 2).reset() for _ in range(2))
    assert not np.array_equal(first, second)


# ------------------------------------------------ the contract


class TorchContract(TensorVecEnvContract):
    task: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {"max_episode_steps": 11}

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TorchVecEnv(self.task, n_envs, seed, **self.options)


class TestCartPole(TorchContract):
    task = "CartPole-v1"
    options = {"max_episode_steps": 25}


class TestCartPoleOfGymnasium(TorchContract):
    task = "CartPole-v1"
    options = {"draws": "gymnasium", "dtype": "float32"}


class TestPendulum(TorchContract):
    task = "Pendulum-v1"


class TestAcrobot(TorchContract):
    task = "Acrobot-v1"


class TestMountainCarContinuous(TorchContract):
    task = "MountainCarContinuous-v0"


class Drift(TorchTask):
    """A task as a user writes it: a number is moved, and should come to 1."""

    n_draws = 1
    max_episode_steps = 9
    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.MultiDiscrete([3, 2])

    def start(self, numbers: th.Tensor) -> th.Tensor:
        return numbers

    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        after = state + 0.1 * (actions[:, 0] - 1) * (1 + actions[:, 1])
        return Moved(after, -(after[0] - 1).abs(), after[0] > 1.2)

    def observe(self, state: th.Tensor) -> th.Tensor:
        return state.T.float()


class TestOwnTask(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TorchVecEnv(Drift(), n_envs, seed)


# ------------------------------------------------ nothing waits for the device


class NoWaiting(TorchDispatchMode):
    """Fails at the operations that bring a number, or a shape that depends on one, to the host."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        assert name not in self.waiting, f"{name} makes the host wait for the device"
        if name == "index" and any(getattr(index, "dtype", None) == th.bool for index in args[1]):
            raise AssertionError("an index of flags makes the host wait for the device")
        return func(*args, **(kwargs or {}))


class Pretending(TorchVecEnv):
    """On the processor, taking the way of an accelerator."""

    def step_as_on_a_device(self, actions: th.Tensor) -> None:
        real, self.device = self.device, th.device("meta")
        try:
            self.step_tensors(actions)
        finally:
            self.device = real


@pytest.mark.parametrize("env_id", IDS)
def test_a_step_on_a_device_asks_nothing_of_it(env_id: str) -> None:
    env, twin = Pretending(env_id, 4, seed=0, max_episode_steps=3), TorchVecEnv(env_id, 4, seed=0, max_episode_steps=3)
    env.reset_tensors()
    twin.reset_tensors()
    rng = np.random.default_rng(0)
    for _ in range(8):
        actions = th.from_numpy(random_actions(env_id, 4, rng))
        with NoWaiting():
            env.step_as_on_a_device(actions)
        twin.step_tensors(actions)
        assert th.equal(env.state, twin.state)


def test_waiting_is_noticed() -> None:
    for wait in (lambda x: bool(x.any()), lambda x: x.nonzero(), lambda x: x[x > 0]):
        with pytest.raises(AssertionError, match="wait"), NoWaiting():
            wait(th.ones(3))


@pytest.mark.gpu
@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("env_id", IDS)
def test_a_cuda_device_gives_the_same_episodes_without_a_wait(env_id: str) -> None:
    env, twin = (
        TorchVecEnv(env_id, 64, seed=0, device="cuda", max_episode_steps=40),
        TorchVecEnv(env_id, 64, seed=0, max_episode_steps=40),
    )
    first, other = env.reset_tensors(), twin.reset_tensors()
    assert th.equal(first.cpu(), other) or (first.cpu() - other).abs().max() < 1e-6
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions = th.from_numpy(random_actions(env_id, 64, rng))
        moved = actions.to(env.device)
        th.cuda.set_sync_debug_mode("error")
        try:
            step = env.step_tensors(moved)
        finally:
            th.cuda.set_sync_debug_mode("default")
        assert (step.obs.cpu() - twin.step_tensors(actions).obs).abs().max() < 1e-5


# ------------------------------------------------ errors


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"task": "Hopper-v5"}, r"task='Hopper-v5'; there is Acrobot-v1, CartPole-v1"),
        ({"n_envs": 0}, "n_envs=0; give a whole number"),
        ({"n_envs": True}, "n_envs=True"),
        ({"seed": -1}, "seed=-1"),
        ({"dtype": "float16"}, "dtype='float16'; there is float32 and float64"),
        ({"draws": "torch"}, "draws='torch'; there is counter, gymnasium"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"length": 2.0}, "CartPole-v1 with .*length.*leave away"),
        ({"task": Drift(), "g": 1.0}, r"g belongs to the task; give it to Drift\(...\)"),
        ({"task": "Acrobot-v1", "book_or_nips": "both"}, "book_or_nips='both'"),
    ],
)
def test_a_wrong_argument_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        TorchVecEnv(**{"task": "CartPole-v1", **kwargs})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lo": 0.0}, "'lo' is unknown; there is low, high"),
        ({"low": 1.0}, "low=1.0 is above high=0.05"),
        ({"low": "a"}, "no number"),
    ],
)
def test_wrong_options_are_named(options: Mapping[str, Any], message: str) -> None:
    env = TorchVecEnv("CartPole-v1", 2)
    env.set_options(dict(options))
    with pytest.raises(InvalidArgument, match=message):
        env.reset()


def test_actions_of_another_shape_are_refused() -> None:
    env = TorchVecEnv("Pendulum-v1", 2)
    env.reset()
    with pytest.raises(InvalidArgument, match=r"shape \[2\]; give \[2, 1\]"):
        env.step(np.zeros(2, np.float32))


def test_a_step_comes_after_a_reset() -> None:
    with pytest.raises(RuntimeError, match="call reset"):
        TorchVecEnv("Pendulum-v1", 2).step(np.zeros((2, 1), np.float32))


def test_the_state_of_another_task_is_refused() -> None:
    env, other = TorchVecEnv("Pendulum-v1", 2), TorchVecEnv("CartPole-v1", 2)
    with pytest.raises(InvalidArgument, match=r"the state is of CartPole 2 .* and this is Pendulum 2"):
        env.load_state_dict(other.state_dict())


# ------------------------------------------------ runs


def test_a_run_steps_in_torch_where_that_is_asked_for() -> None:
    config = RunConfig("Pendulum-v1", vec_env="torch", env_kwargs={"g": 9.81, "dtype": "float32"})
    assert choose_vec_env(config) == "torch"
    observation_space, action_space = probe_spaces(config)
    other = gym.make("Pendulum-v1")
    assert (observation_space, action_space) == (other.observation_space, other.action_space)
    env = make_env(config, 3, 5, config.env_kwargs)
    assert isinstance(env, TorchVecEnv) and env.num_envs == 3 and env.dtype == th.float32
    # Pictures are Gymnasium's, which knows nothing of dtypes.
    drawn = make_env(config, 1, 5, {**config.env_kwargs, "render_mode": "rgb_array"})
    assert drawn.get_attr("g") == [9.81] and drawn.render_mode == "rgb_array"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"env": "LunarLander-v3"}, "vec_env is 'torch', but LunarLander-v3 is none of Acrobot-v1"),
        ({"env": "CartPole-v1", "env_wrapper": "gymnasium.wrappers.FlattenObservation"}, "take no Gymnasium wrappers"),
        ({"env": "CartPole-v1", "env_kwargs": {"seed": 1}}, "env_kwargs.seed is 1, but seed belongs to the run"),
        ({"env": "CartPole-v1", "env_kwargs": {"gravity": 1}}, "CartPole-v1 with .*gravity"),
    ],
)
def test_a_run_that_cannot_step_in_torch_says_why(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        probe_spaces(RunConfig(vec_env="torch", **kwargs))
