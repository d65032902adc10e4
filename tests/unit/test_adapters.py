"""Adapters to the tensor face: the contract on each, what their libraries say at the end of an episode, actions."""

from __future__ import annotations

import builtins
import logging
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from foreign_envs import FakeManagerBasedEnv, FakeManiSkillVectorEnv, FakePool, ForeignContract
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import AWAITS_ACTION, INVALID_ROW
from sb3_ppo_plus.envs import (
    EnvPoolAdapter,
    GymnasiumVectorAdapter,
    IsaacLabAdapter,
    JaxAdapter,
    ManiSkillAdapter,
    MjlabAdapter,
)
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, TensorVecEnv
from sb3_ppo_plus.errors import InvalidArgument


class Pair(gym.Env):
    """CartPole whose observation is a mapping, with a wide Box for actions."""

    def __init__(self, max_episode_steps: int = 6, low: float = -3.0) -> None:
        self.inner = gym.make("CartPole-v1", max_episode_steps=max_episode_steps)
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict({"cart": box, "pole": box})
        self.action_space = spaces.Box(low, 5.0, (2,))
        self.actions: list[np.ndarray] = []

    def seen(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        return {"cart": obs[:2].astype(np.float64), "pole": obs[2:].astype(np.float64)}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        return self.seen(self.inner.reset(seed=seed)[0]), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert action in self.action_space
        self.actions.append(action.copy())
        obs, reward, terminated, truncated, _ = self.inner.step(int(action[0] > 1))
        return self.seen(obs), float(reward) + 0.1, terminated, truncated, {}


def sync(n_envs: int, mode: str, env_id: str = "CartPole-v1", **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * n_envs, autoreset_mode=AutoresetMode(mode))


# ------------------------------------------------ Gymnasium


class GymnasiumContract(ForeignContract):
    mode = "SameStep"

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        env = GymnasiumVectorAdapter(sync(n_envs, self.mode, max_episode_steps=15))
        env.seed(seed)
        return env


class TestSameStep(GymnasiumContract):
    pass


class TestDisabled(GymnasiumContract):
    mode = "Disabled"


class TestMapping(ForeignContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        envs = SyncVectorEnv([Pair] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        env = GymnasiumVectorAdapter(envs, rescale_actions=True)
        env.seed(seed)
        return env


@pytest.mark.parametrize("mode", ["SameStep", "Disabled", "NextStep"])
def test_every_way_of_resetting_gives_the_same_episodes(mode: str) -> None:
    """Each environment alone, action by action, is Gymnasium's own; only NextStep has rows in which nobody acts."""
    n_envs = 3
    env = GymnasiumVectorAdapter(sync(n_envs, mode, max_episode_steps=14))
    env.seed(3)
    obs = env.reset_tensors().clone()
    alone = [gym.make("CartPole-v1", max_episode_steps=14) for _ in range(n_envs)]
    for index, other in enumerate(alone):
        assert np.array_equal(other.reset(seed=3 + index)[0], obs[index])
    rng, ends, idle_rows, lengths = np.random.default_rng(0), 0, 0, [0] * n_envs
    ended_before = [False] * n_envs
    for _ in range(60):
        actions = rng.integers(0, 2, n_envs)
        step = env.step_tensors(th.from_numpy(actions))
        for index, other in enumerate(alone):
            idle = bool(step.stats[INVALID_ROW][index]) if mode == "NextStep" else False
            assert idle == (mode == "NextStep" and ended_before[index])
            if idle:
                idle_rows += 1
                assert step.rewards[index] == 0 and not step.terminated[index] and not step.truncated[index]
                assert step.stats[EPISODE_LENGTH][index] == 0
                assert np.array_equal(other.reset()[0], step.obs[index])
                ended_before[index] = False
                continue
            last, reward, terminated, truncated, _ = other.step(actions[index])
            lengths[index] += 1
            assert (reward, terminated, truncated) == (
                step.rewards[index],
                step.terminated[index],
                step.truncated[index],
            )
            assert np.array_equal(last, step.final_obs[index])
            assert step.stats[EPISODE_LENGTH][index] == lengths[index]
            ended_before[index] = terminated or truncated
            if mode == "NextStep":
                assert bool(step.stats[AWAITS_ACTION][index]) == (not ended_before[index])
            if ended_before[index]:
                ends, lengths[index] = ends + 1, 0
                first = step.final_obs[index].numpy() if mode == "NextStep" else other.reset()[0]
                assert np.array_equal(first, step.obs[index])
    assert ends >= 9 and (idle_rows > 0) == (mode == "NextStep")


def test_rows_spent_on_a_reset_are_not_learned_from() -> None:
    env = GymnasiumVectorAdapter(sync(2, "NextStep", max_episode_steps=5))
    model = PPOPlus("MlpPolicy", env, n_steps=24, batch_size=48, n_epochs=1, seed=0, device="cpu").learn(48)
    idle = ~model.rollout_buffer.valid
    # After every fifth row, at the latest, one is spent.
    assert idle.sum() >= 8 and (model.rollout_buffer.rewards[idle] == 0).all()
    starts = model.rollout_buffer.episode_starts.astype(bool)
    assert starts[idle].all()


def test_the_kind_of_reset_has_to_be_known() -> None:
    envs = sync(1, "SameStep")
    envs.metadata = {key: value for key, value in envs.metadata.items() if key != "autoreset_mode"}
    with pytest.raises(InvalidArgument, match=r"autoreset=None .* give SameStep, NextStep or Disabled"):
        GymnasiumVectorAdapter(envs)
    assert GymnasiumVectorAdapter(envs, autoreset="SameStep").autoreset == "SameStep"


def test_a_same_step_reset_without_the_final_observation_is_told() -> None:
    env = GymnasiumVectorAdapter(sync(1, "NextStep", max_episode_steps=2), autoreset="SameStep")
    env.reset()
    env.step(np.array([0]))
    with pytest.raises(InvalidArgument, match=r"gives no infos\['final_obs'\] .* give autoreset=NextStep"):
        env.step(np.array([0]))


def test_options_go_to_the_environments_once() -> None:
    env = GymnasiumVectorAdapter(sync(2, "SameStep"))
    env.seed(0)
    env.set_options({"low": 1.0, "high": 1.5})
    assert (env.reset() >= 1).all() and (env.reset() < 1).all()


def test_pictures_come_from_the_environments() -> None:
    env = GymnasiumVectorAdapter(SyncVectorEnv([Drawn] * 2))
    env.reset()
    assert [image.shape for image in env.get_images()] == [(4, 5, 3)] * 2
    assert list(GymnasiumVectorAdapter(sync(2, "SameStep")).get_images()) == [None, None]


class Drawn(Pair):
    render_mode = "rgb_array"

    def render(self) -> np.ndarray:
        return np.zeros((4, 5, 3), np.uint8)


# ------------------------------------------------ actions


def test_actions_are_stretched_and_clipped_to_the_bounds() -> None:
    envs = SyncVectorEnv([Pair] * 1, autoreset_mode=AutoresetMode.SAME_STEP)
    plain, scaled = GymnasiumVectorAdapter(envs), GymnasiumVectorAdapter(envs, rescale_actions=True)
    assert plain.action_space == envs.single_action_space
    assert scaled.action_space == spaces.Box(-1.0, 1.0, (2,))
    plain.reset()
    scaled.reset()
    for env, given in ((plain, [[4.0, -9.0]]), (scaled, [[0.25, -0.5]]), (scaled, [[2.0, -2.0]])):
        env.step_tensors(th.tensor(given))
    taken = np.array(envs.envs[0].actions)
    # The bounds are -3 and 5: their middle is 1, half of their range 4.
    assert np.allclose(taken, [[4.0, -3.0], [2.0, -1.0], [5.0, -3.0]])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ManiSkillAdapter(FakeManiSkillVectorEnv(1, low=-np.inf), True), "rescale_actions of .*action_bound"),
        (lambda: IsaacLabAdapter(FakeManagerBasedEnv(1), action_bound=0.0), "action_bound=0.0"),
        (lambda: IsaacLabAdapter(FakeManagerBasedEnv(1), rescale_actions=True), "rescale_actions of"),
        (
            lambda: IsaacLabAdapter(FakeManagerBasedEnv(1), group="vision"),
            "'vision' does not exist; there is critic, policy",
        ),
        (lambda: MjlabAdapter(FakeManagerBasedEnv(1, groups=["a", "b"])), "no policy and no actor in"),
        (lambda: EnvPoolAdapter("CartPole-v1", 4, batch_size=2, make=FakePool), "batch_size=2 makes an asynchronous"),
        (lambda: GymnasiumVectorAdapter(SyncVectorEnv([Nested])), "observations are .*flatten them"),
    ],
)
def test_what_cannot_work_is_told(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make()


class Nested(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({"all": self.observation_space})


def test_actions_of_another_shape_are_refused_and_a_reset_comes_first() -> None:
    env = GymnasiumVectorAdapter(sync(2, "SameStep"))
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(2, np.int64))
    env.reset()
    with pytest.raises(InvalidArgument, match=r"shape \[1\]; give \[2\]"):
        env.step(np.zeros(1, np.int64))


# ------------------------------------------------ EnvPool, on a fake of its interface


class TestEnvPoolInterface(ForeignContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return EnvPoolAdapter("CartPole-v1", n_envs, seed, make=FakePool, max_episode_steps=15)


def test_a_new_seed_makes_a_new_pool_and_closes_the_old_one() -> None:
    env = EnvPoolAdapter("CartPole-v1", 2, make=FakePool)
    first = env.pool
    env.reset()
    assert env.pool is first
    env.seed(4)
    obs = env.reset()
    assert first.closed == 1 and np.array_equal(obs[1], gym.make("CartPole-v1").reset(seed=5)[0])


# ------------------------------------------------ Isaac Lab and mjlab, on a fake of their interface


class TestIsaacLabInterface(ForeignContract):
    independent_envs = False

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        env = IsaacLabAdapter(FakeManagerBasedEnv(n_envs, compute_final_obs=True), action_bound=2.0)
        env.seed(seed)
        return env


class TestIsaacLabGroups(TestIsaacLabInterface):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        fake = FakeManagerBasedEnv(n_envs, compute_final_obs=True)
        env = IsaacLabAdapter(fake, ["policy", "critic"], action_bound=2.0, rescale_actions=True)
        env.seed(seed)
        return env


class TestMjlabInterface(ForeignContract):
    independent_envs = False

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        fake = FakeManagerBasedEnv(n_envs, auto_reset=False, groups=["actor", "critic"])
        env = MjlabAdapter(fake, action_bound=2.0)
        env.seed(seed)
        return env


@pytest.mark.parametrize("adapter", [IsaacLabAdapter, MjlabAdapter])
def test_without_final_observations_that_of_the_step_before_takes_their_place(
    adapter: type[IsaacLabAdapter | MjlabAdapter], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        env = adapter(FakeManagerBasedEnv(3, limit=4), action_bound=2.0)
        before, ends = env.reset_tensors().clone(), 0
        for _ in range(10):
            step = env.step_tensors(th.full((3, 1), 0.1))
            done = step.terminated | step.truncated
            ends += int(done.sum())
            assert th.equal(step.final_obs[done], before[done])
            assert th.equal(step.final_obs[~done], step.obs[~done])
            assert (step.obs[done][:, 1] == 0).all() and (step.rewards < 10).all()
            before = step.obs.clone()
    assert ends >= 6 and not env.final_obs_is_exact
    assert [record.message.count("no final observations") for record in caplog.records] == [1]


def test_only_what_ended_is_reset_by_hand() -> None:
    fake = FakeManagerBasedEnv(3, limit=100, auto_reset=False)
    env = MjlabAdapter(fake, action_bound=5.0)
    env.seed(2)
    env.reset_tensors()
    step = env.step_tensors(th.tensor([[0.0], [5.0], [0.0]]))
    assert env.final_obs_is_exact and fake.resets == [[0, 1, 2], [1]] and fake.seeds == [2]
    assert step.terminated.tolist() == [False, True, False]
    assert step.final_obs[1, 0] > 1 > step.obs[1, 0] and step.rewards[1] == -step.final_obs[1, 0]


def test_the_librarys_log_is_averaged_between_two_looks() -> None:
    env = IsaacLabAdapter(FakeManagerBasedEnv(1, limit=2, compute_final_obs=True), action_bound=0.1)
    env.reset_tensors()
    assert env.take_log() == {"Episode_Reward/alive": 0.0}
    for _ in range(5):
        env.step_tensors(th.zeros(1, 1))
    assert env.take_log() == {"Episode_Reward/alive": 2.0} and env.take_log() == {}


@pytest.mark.parametrize("adapter", [IsaacLabAdapter, MjlabAdapter])
def test_actions_without_a_bound_stay_without_one(adapter: type[IsaacLabAdapter | MjlabAdapter]) -> None:
    fake = FakeManagerBasedEnv(1)
    env = adapter(fake)
    assert env.action_space == fake.single_action_space
    env.close()
    env.close()
    assert fake.closed == 1


# ------------------------------------------------ ManiSkill, on a fake of its interface


class TestManiSkillInterface(ForeignContract):
    independent_envs = False
    auto_reset = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        env = ManiSkillAdapter(FakeManiSkillVectorEnv(n_envs, auto_reset=self.auto_reset))
        env.seed(seed)
        return env


class TestManiSkillResetByHand(TestManiSkillInterface):
    auto_reset = False


# ------------------------------------------------ what is not installed


@pytest.mark.parametrize(
    "make, library, message",
    [
        (lambda: EnvPoolAdapter("CartPole-v1"), "envpool", "pip install envpool"),
        (lambda: JaxAdapter(None), "jax", r'pip install "jax\[cpu\]"'),
    ],
)
def test_a_missing_library_is_named(make: Any, library: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=message):
        make()


@pytest.mark.parametrize(
    "env",
    [
        lambda: GymnasiumVectorAdapter(sync(4, "SameStep")),
        lambda: IsaacLabAdapter(FakeManagerBasedEnv(4, compute_final_obs=True), action_bound=1.0),
    ],
)
def test_ppo_plus_trains_on_an_adapter(env: Any) -> None:
    model = PPOPlus("MlpPolicy", env(), n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(256)
    assert len(model.ep_info_buffer) > 0 and model.num_timesteps == 256
