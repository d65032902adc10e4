"""sb3_ppo_plus.callbacks: evaluation and progress of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus.callbacks import EvaluateAndSave, Progress, ProgressCallback


def make_model(normalize: bool = False) -> PPO:
    """Rollouts of 2 x 16 = 32 steps."""
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    wrapped = VecNormalize(env) if normalize else env
    policy_kwargs = {"net_arch": [4]}
    return PPO("MlpPolicy", wrapped, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs=policy_kwargs)


def test_evaluations_stand_at_the_start_at_every_multiple_and_at_the_end(tmp_path: Path) -> None:
    saved: list[bool] = []
    path = tmp_path / "evaluations.npz"
    callback = EvaluateAndSave(make_vec_env("CartPole-v1", 2, seed=1), saved.append, path, 3, eval_freq=25)
    make_model().learn(100, callback=callback)  # 4 rollouts: 128 steps
    # Two environments: the first even step at or after 25, 50, 75; what is due from 100 on is done at the end.
    assert callback.evaluations_timesteps == [0, 26, 50, 76, 128]
    with np.load(path) as arrays:
        assert arrays["timesteps"].tolist() == [0, 26, 50, 76, 128]
        assert arrays["results"].shape == arrays["ep_lengths"].shape == (5, 3)
        np.testing.assert_array_equal(arrays["results"], arrays["ep_lengths"])  # CartPole pays 1 a step
        means = arrays["results"].mean(axis=1)
    records = [index for index, mean in enumerate(means) if mean > max(means[:index], default=-np.inf)]
    assert saved.count(False) == 5
    assert saved.count(True) == len(records)
    assert saved[:2] == [False, True]
    assert callback.best_mean_reward == means.max()
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluations.npz"]


def test_without_a_frequency_only_the_start_and_the_end_are_evaluated() -> None:
    callback = EvaluateAndSave(make_vec_env("CartPole-v1", 1), n_eval_episodes=1, eval_freq=0)
    make_model().learn(64, callback=callback)
    assert callback.evaluations_timesteps == [0, 64]


def test_statistics_are_copied_to_the_evaluation_and_not_changed_by_it() -> None:
    model = make_model(normalize=True)
    eval_env = VecNormalize(make_vec_env("CartPole-v1", 1, seed=1), training=False, norm_reward=False)
    callback = EvaluateAndSave(eval_env, n_eval_episodes=2, eval_freq=0)
    model.learn(64, callback=callback)
    trained = model.get_vec_normalize_env()
    assert trained is not None
    np.testing.assert_array_equal(eval_env.obs_rms.mean, trained.obs_rms.mean)  # type: ignore[union-attr]
    assert eval_env.obs_rms is not trained.obs_rms
    assert trained.obs_rms.count == pytest.approx(64 + 2 + 1e-4)  # type: ignore[union-attr]


def test_it_serves_sb3s_reward_threshold() -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
    callback = EvaluateAndSave(make_vec_env("CartPole-v1", 1), n_eval_episodes=1, eval_freq=10)
    callback.callback_on_new_best, stop.parent = stop, callback
    callback.best_mean_reward = 0.5
    model = make_model()
    callback.init_callback(model)
    assert callback.callback_on_new_best.model is model


def test_the_threshold_ends_training_early() -> None:
    eval_env = make_vec_env("CartPole-v1", 1)
    stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
    callback = EvaluateAndSave(eval_env, n_eval_episodes=1, eval_freq=10)
    callback.callback = stop  # asked after every evaluation
    stop.parent = callback
    model = make_model().learn(320, callback=callback)
    assert model.num_timesteps == 10


def test_progress_numbers() -> None:
    seen: list[Progress] = []
    evaluation = EvaluateAndSave(make_vec_env("CartPole-v1", 1), n_eval_episodes=1, eval_freq=0)
    model = make_model()
    model.learn(100, callback=CallbackList([evaluation, ProgressCallback(seen.append, evaluation, interval=0.0)]))
    assert [progress.num_timesteps for progress in seen] == [*range(2, 129, 2), 128]
    assert all(progress.total_timesteps == 100 and progress.steps_per_second > 0 for progress in seen)
    assert seen[0].fraction == 0.02
    assert seen[-1].fraction == 1.0
    assert seen[-1].seconds_left == 0.0
    assert seen[0].seconds_left > 0.0
    assert seen[0].mean_return is None
    finished = [episode["r"] for episode in model.ep_info_buffer or ()]
    assert seen[-1].mean_return == pytest.approx(np.mean(finished))
    assert seen[0].evaluation == evaluation.evaluations_results[0][0]


def test_reports_keep_their_distance() -> None:
    seen: list[Progress] = []
    make_model().learn(100, callback=ProgressCallback(seen.append, interval=3600.0))
    assert len(seen) == 2  # the first step and the end


def test_the_time_of_evaluations_is_no_part_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = EvaluateAndSave(make_vec_env("CartPole-v1", 1), n_eval_episodes=1, eval_freq=0)
    progress = ProgressCallback(lambda _: None, evaluation)
    progress.model = make_model()
    progress.model._total_timesteps, progress.num_timesteps = 1000, 0
    monkeypatch.setattr("sb3_ppo_plus.callbacks.time.perf_counter", lambda: 0.0)
    progress._on_training_start()
    progress.num_timesteps, evaluation.seconds = 100, 6.0
    monkeypatch.setattr("sb3_ppo_plus.callbacks.time.perf_counter", lambda: 10.0)
    numbers = progress.measure()
    assert numbers.steps_per_second == 100 / (10.0 - 6.0)
    assert numbers.seconds_left == 900 * 10.0 / 100
