"""The adapter of JAX environments; ``tests/suites/run_suites.py --suite jax`` installs JAX, MJX and Brax."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

pytest.importorskip("jax")

import jax

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import JaxAdapter
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.errors import InvalidArgument

jnp = jax.numpy


class State(NamedTuple):
    position: Any
    key: Any
    obs: Any
    reward: Any
    done: Any
    info: dict[str, Any]


class Walk:
    """A number is moved by the action and by chance; beyond 1 the episode is over. The state has a random key."""

    action_size = 1

    def __init__(self, mapping: bool = False, typed_key: bool = False, cut: bool = False) -> None:
        self.mapping, self.typed_key, self.cut = mapping, typed_key, cut

    def seen(self, position: Any) -> Any:
        obs = jnp.stack([position, position**2])
        return {"state": obs, "privileged_state": 2 * obs} if self.mapping else obs

    def reset(self, key: Any) -> State:
        start, key = jax.random.split(jax.random.key(jax.random.bits(key)) if self.typed_key else key)
        position = jax.random.uniform(start, minval=-0.5, maxval=0.5)
        zero = jnp.zeros(())
        info = {"truncation": zero} if self.cut else {}
        return State(position, key, self.seen(position), zero, zero, info)

    def step(self, state: State, action: Any) -> State:
        draw, key = jax.random.split(state.key)
        position = state.position + 0.3 * action[0] + 0.05 * jax.random.normal(draw)
        done = (jnp.abs(position) > 1).astype(jnp.float32)
        info = {"truncation": done * (position < 0)} if self.cut else {}
        return State(position, key, self.seen(position), -jnp.abs(position), done, info)


class JaxContract(TensorVecEnvContract):
    options: dict[str, Any] = {}
    kind: dict[str, bool] = {}

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return JaxAdapter(Walk(**self.kind), n_envs, seed, max_episode_steps=9, **self.options)


class TestNewStarts(JaxContract):
    pass


class TestFirstStarts(JaxContract):
    options = {"resets": "first"}


class TestMappingAndTypedKeys(JaxContract):
    kind = {"mapping": True, "typed_key": True}


class TestStretchedActions(JaxContract):
    options = {"action_space": spaces.Box(-2.0, 4.0, (1,)), "rescale_actions": True}


def test_a_step_is_that_of_the_environment_itself() -> None:
    """Lock-step with the bare functions, one environment at a time, through ends and new beginnings."""
    env, bare = JaxAdapter(Walk(cut=True), 3, seed=5, max_episode_steps=20), Walk(cut=True)
    obs = env.reset_tensors()
    reset, advance = jax.jit(bare.reset), jax.jit(bare.step)
    states, keys = [], []
    for index in range(3):
        key, begin = jax.random.split(jax.random.PRNGKey(5 + index))
        states.append(reset(begin))
        keys.append(key)
        assert np.allclose(states[index].obs, obs[index], atol=1e-6)
    rng, counts, lengths = np.random.default_rng(0), np.zeros(3, int), [0] * 3
    for _ in range(150):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        step = env.step_tensors(th.from_numpy(actions))
        for index in range(3):
            state = states[index] = advance(states[index], actions[index])
            lengths[index] += 1
            over, cut = bool(state.done), bool(state.info["truncation"])
            late = lengths[index] == 20
            assert bool(step.terminated[index]) == (over and not cut)
            assert bool(step.truncated[index]) == (cut or late)
            assert np.allclose(state.obs, step.final_obs[index], atol=1e-6)
            assert np.isclose(state.reward, step.rewards[index], atol=1e-6)
            if over or late:
                counts += [over and not cut, cut, late]
                lengths[index] = 0
                keys[index], begin = jax.random.split(keys[index])
                states[index] = reset(begin)
            assert np.allclose(states[index].obs, step.obs[index], atol=1e-6)
    assert (counts >= 2).all()


def test_first_starts_come_again() -> None:
    env = JaxAdapter(Walk(), 2, seed=0, max_episode_steps=3, resets="first")
    first = env.reset_tensors().clone()
    for position in range(6):
        step = env.step_tensors(th.zeros(2, 1))
        assert th.equal(step.obs, first) == (position % 3 == 2)


def test_memory_is_shared_and_never_written() -> None:
    """What JAX gave stays as it was, and actions may be overwritten as soon as a step returns."""
    env = JaxAdapter(Walk(), 64, seed=0)
    obs = env.reset_tensors()
    assert obs.data_ptr() == th.from_dlpack(env.state.obs).data_ptr()
    kept, actions, taken = [obs], th.empty(64, 1), []
    copies = [obs.clone()]
    for number in range(20):
        actions.fill_(0.01 * number)
        step = env.step_tensors(actions)
        actions.fill_(1e6)
        kept.append(step.final_obs)
        copies.append(step.final_obs.clone())
        taken.append(step.obs.abs().max())
    assert all(th.equal(a, b) for a, b in zip(kept, copies, strict=True)) and max(taken) < 3


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"resets": "cached"}, "resets='cached'; there is new and first"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
    ],
)
def test_what_cannot_work_is_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        JaxAdapter(Walk(), 2, **kwargs)


def test_the_state_of_another_kind_of_environment_is_refused() -> None:
    first, other = JaxAdapter(Walk(), 2, seed=0), JaxAdapter(Walk(mapping=True), 2, seed=0)
    first.reset()
    other.reset()
    with pytest.raises(InvalidArgument, match="other arrays"):
        first.load_state_dict(other.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["spring", "mjx"])
def test_brax_and_mjx(backend: str) -> None:
    """Brax's inverted pendulum on its own physics, and on MuJoCo's in JAX: as without the adapter."""
    brax = pytest.importorskip("brax.envs")
    if backend == "mjx":
        pytest.importorskip("mujoco.mjx")
    bare = brax.get_environment("inverted_pendulum", backend=backend)
    env = JaxAdapter(bare, 2, seed=3, max_episode_steps=6)
    obs = env.reset_tensors()
    states = [jax.jit(bare.reset)(jax.random.split(jax.random.PRNGKey(3 + index))[1]) for index in range(2)]
    assert all(np.allclose(state.obs, row, atol=1e-5) for state, row in zip(states, obs, strict=True))
    advance = jax.jit(bare.step)
    for number in range(6):
        actions = np.full((2, 1), 0.1 * number, np.float32)
        step = env.step_tensors(th.from_numpy(actions))
        states = [advance(state, row) for state, row in zip(states, actions, strict=True)]
        assert all(np.allclose(state.obs, row, atol=1e-4) for state, row in zip(states, step.final_obs, strict=True))
    assert step.truncated.all() and not np.allclose(step.obs, step.final_obs)
    model = PPOPlus("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    assert model.num_timesteps == 64
    saved = env.state_dict()
    after = env.step_tensors(th.zeros(2, 1)).final_obs.clone()
    env.load_state_dict(saved)
    assert th.equal(env.step_tensors(th.zeros(2, 1)).final_obs, after)
