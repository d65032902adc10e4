"""First episodes that begin at different times: only the clock is moved, and only once."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from toy_envs import PointMass

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import StaggeredStart, TensorVecEnv, TensorVecNormalize, TorchVecEnv
from sb3_ppo_plus.envs.base import EPISODE_LENGTH
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.errors import InvalidArgument

N, LIMIT = 200, 50


class TestStaggered(TensorVecEnvContract):
    test_episode_statistics_begin_anew_with_each_episode = None  # the first length is told with its beginning
    test_infos_sum_up_finished_episodes = None

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return StaggeredStart(TorchVecEnv("Pendulum-v1", n_envs, seed, max_episode_steps=12))


def ends(env: TensorVecEnv, n_steps: int) -> np.ndarray:
    env.reset_tensors()
    actions = th.zeros(env.num_envs, 1)
    return np.array([env.step_tensors(actions).truncated.numpy() for _ in range(n_steps)])


def test_first_episodes_end_all_over_the_time_limit_and_later_ones_after_it() -> None:
    ended = ends(StaggeredStart(TorchVecEnv("Pendulum-v1", N, seed=0, max_episode_steps=LIMIT)), 2 * LIMIT)
    first = ended.argmax(0)
    assert (ended.sum(0) == 2).all() and first.min() <= 1 and first.max() >= LIMIT - 2
    assert np.histogram(first, 5, (0, LIMIT))[0].min() > N / 5 / 2
    assert all((np.diff(np.flatnonzero(column)) == LIMIT).all() for column in ended.T)
    together = ends(TorchVecEnv("Pendulum-v1", N, seed=0, max_episode_steps=LIMIT), LIMIT)
    assert together[-1].all() and not together[:-1].any()


def test_states_are_those_of_any_reset() -> None:
    plain, staggered = (TorchVecEnv("Pendulum-v1", 8, seed=3) for _ in range(2))
    assert th.equal(plain.reset_tensors(), StaggeredStart(staggered).reset_tensors())


def test_the_points_follow_from_the_seed_and_from_nothing_else() -> None:
    one, other, third = (
        ends(StaggeredStart(TorchVecEnv("Pendulum-v1", 20, seed, max_episode_steps=LIMIT)), LIMIT) for seed in (1, 1, 2)
    )
    assert (one == other).all() and (one != third).any()
    env = StaggeredStart(TorchVecEnv("Pendulum-v1", 20, 5, max_episode_steps=LIMIT))
    ends(env, LIMIT)
    env.seed(1)
    assert (ends(env, LIMIT) == one).all()


def test_it_may_stand_around_other_wrappers_and_a_run_learns_with_it() -> None:
    env = StaggeredStart(TensorVecNormalize(TorchVecEnv("Pendulum-v1", 32, max_episode_steps=LIMIT)))
    model = PPOPlus("MlpPolicy", env, n_steps=16, batch_size=256, n_epochs=1, seed=0, device="cpu").learn(16 * 32)
    lengths = {episode["l"] for episode in model.ep_info_buffer}
    assert lengths == {LIMIT} and 5 < len(model.ep_info_buffer) < 20


def test_robots_are_staggered_too() -> None:
    pytest.importorskip("mujoco.batch")
    from sb3_ppo_plus.envs import MujocoVecEnv

    env = StaggeredStart(MujocoVecEnv("Swimmer-v5", 16, seed=0, max_episode_steps=20))
    env.reset()
    actions = np.zeros((16, 2), np.float32)
    ended = np.array([env.step_arrays(actions).truncated for _ in range(20)])
    assert (ended.sum(0) >= 1).all() and len(set(ended.argmax(0))) > 5


def test_an_evaluation_is_wrapped_alike_and_not_staggered() -> None:
    def wrapped(n_envs: int, active: bool) -> TensorVecEnv:
        env = TorchVecEnv("Pendulum-v1", n_envs, seed=0, max_episode_steps=LIMIT)
        return TensorVecNormalize(StaggeredStart(env, active), training=active)

    evaluating = EvalCallback(wrapped(4, False), n_eval_episodes=4, eval_freq=16, verbose=0)
    PPOPlus("MlpPolicy", wrapped(8, True), n_steps=16, batch_size=64, device="cpu").learn(16 * 8, evaluating)
    assert evaluating.n_calls == 16 and np.isfinite(evaluating.last_mean_reward)
    assert not ends(wrapped(4, False), LIMIT - 1).any()


@pytest.mark.parametrize("env", [PointMass(3), TorchVecEnv("Pendulum-v1", 3, max_episode_steps=-1)])
def test_without_a_time_limit_it_is_refused(env: TensorVecEnv) -> None:
    with pytest.raises(InvalidArgument, match="no time limit whose clock could be moved"):
        StaggeredStart(env).reset_tensors()


def test_lengths_are_told_with_what_the_clock_began_at() -> None:
    env = StaggeredStart(TorchVecEnv("Pendulum-v1", 50, seed=0, max_episode_steps=LIMIT))
    env.reset_tensors()
    lengths = env.step_tensors(th.zeros(50, 1)).stats[EPISODE_LENGTH]
    assert lengths.min() >= 1 and lengths.max() <= LIMIT and len(lengths.unique()) > 20
